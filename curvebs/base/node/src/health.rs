//! What a server says of its disk, whichever role it has.

use curve_log::Log;
use curve_multiraft::{DiskState, MultiRaft};
use curve_telemetry::{HealthItem, HealthLevel};

/// What is wrong with the disk below the log and the replicas; `role` is what the server is called.
pub fn disk_items(raft: &MultiRaft, log: &Log, role: &str) -> Vec<HealthItem> {
    let mut items = Vec::new();
    match raft.disk() {
        DiskState::Fine => {}
        DiskState::Hangs => items.push(HealthItem {
            level: HealthLevel::Err,
            code: "DISK_HANGS".into(),
            summary: "the disk does not answer".into(),
            cause: "Something that was asked of the disk has had no answer for `disk_timeout`. Until it has, other \
                    servers lead, and the MDSs hear nothing of this one."
                .into(),
            remedy: "Check the disk and what it hangs on (dmesg, smartctl, iostat). If it stays like this, stop this \
                     server: what it held is rebuilt on others."
                .into(),
        }),
        DiskState::Full => items.push(HealthItem {
            level: HealthLevel::Err,
            code: "DISK_FULL".into(),
            summary: "the disk has no room for the log or for changes".into(),
            cause: "The reserve is used up, most likely by something else on the same file system. Other servers lead until there \
                    is room; what they have committed waits here."
                .into(),
            remedy: format!("Make room on the disk; the {role} goes on by itself."),
        }),
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
