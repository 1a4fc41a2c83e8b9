//! What a server says of its disk, whichever role it has.

use curve_log::Log;
use curve_multiraft::MultiRaft;
use curve_telemetry::{HealthItem, HealthLevel};

/// What is wrong with the disk below the log and the replicas; `role` is what the server is called.
pub fn disk_items(raft: &MultiRaft, log: &Log, role: &str) -> Vec<HealthItem> {
    let mut items = Vec::new();
    if raft.disk_hangs() {
        items.push(HealthItem {
            level: HealthLevel::Err,
            code: "DISK_HANGS".into(),
            summary: "the disk does not answer".into(),
            cause: "Something that was asked of the disk has had no answer for `disk_timeout`. Until it has, other \
                    servers lead, and the MDSs hear nothing of this one."
                .into(),
            remedy: "Check the disk and what it hangs on (dmesg, smartctl, iostat). If it stays like this, stop this \
                     server: what it held is rebuilt on others."
                .into(),
        });
    }
    if log.failed() {
        items.push(HealthItem {
            level: HealthLevel::Err,
            code: "LOG_FAILED".into(),
            summary: "the shared log has stopped".into(),
            cause: "The disk failed a write or a sync of the log.".into(),
            remedy: format!(
                "Check the disk (dmesg, smartctl). Restart the {role}, or replace the disk and rebuild it."
            ),
        });
    }
    items
}
