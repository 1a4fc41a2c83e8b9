//! How a group ends on this node.

use crate::group::Inner;

/// Marks the group failed; its callers see it from now on.
pub(crate) fn failed(group: &Inner, cause: String) {
    if !group.flags.is_stopping() {
        let mut failure = group.failure.lock().expect("never poisoned");
        if failure.is_none() {
            tracing::error!(group = %group.id, cause, "group failed on this node and stays stopped until a restart");
            *failure = Some(cause);
        }
    }
    ended(group);
}

/// Marks the group stopped.
pub(crate) fn ended(group: &Inner) {
    group.leader.send_replace(None);
    group.stop.send_replace(true);
}
