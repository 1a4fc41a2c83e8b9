//! What `/healthz` and `/metrics` say of a mount.

use curve_telemetry::{HealthItem, HealthLevel, HealthReport, HealthSource};
use curvefs_client::{Mount, MountState};
use curvefs_vfs::Vfs;
use std::sync::Arc;

use crate::inspect::Inspector;

/// Whether the mount works. What is wrong with the cluster, the cluster says itself.
pub struct MountHealth {
    /// The mount.
    pub mount: Arc<Mount>,
    /// Its file system.
    pub vfs: Vfs,
    /// Where it is mounted.
    pub dir: String,
    /// What is counted.
    pub inspector: Arc<Inspector>,
}

/// What is wrong.
fn items(dir: &str, state: MountState, reaches_mds: bool) -> Vec<HealthItem> {
    let mut items = Vec::new();
    if state == MountState::Fenced {
        items.push(HealthItem {
            code: "MOUNT_FENCED".to_owned(),
            level: HealthLevel::Err,
            summary: format!("{dir} was shut out; its programs get I/O errors"),
            cause: "the mount did not reach the MDS for longer than its lease, or an operator ended it"
                .to_owned(),
            remedy: format!(
                "stop the programs that use it, run `curve-fuse umount {dir}`, and mount it again"
            ),
        });
    }
    if !reaches_mds && state == MountState::Active {
        items.push(HealthItem {
            code: "MDS_UNREACHABLE".to_owned(),
            level: HealthLevel::Warn,
            summary: format!("{dir}: no MDS answers; the mount goes on without"),
            cause: "no majority of the MDSs runs, or the network is cut".to_owned(),
            remedy: "see `curve cluster status`".to_owned(),
        });
    }
    items
}

impl HealthSource for MountHealth {
    fn health(&self) -> HealthReport {
        HealthReport::new(items(&self.dir, *self.mount.state().borrow(), self.mount.reaches_mds()))
    }

    fn collect(&self) {
        for (name, value) in self.inspector.readings(&self.vfs) {
            let metric = format!("curve_fs_mount_{name}");
            if name.ends_with("_total") {
                metrics::counter!(metric).absolute(value);
            } else {
                metrics::gauge!(metric).set(value as f64);
            }
        }
        metrics::gauge!("curve_fs_mount_known_inodes").set(self.vfs.known_inodes() as f64);
        metrics::gauge!("curve_fs_mount_changes_under_way").set(self.mount.metadata().under_way() as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said_once() {
        for (state, reaches, codes) in [
            (MountState::Active, true, &[][..]),
            (MountState::Active, false, &["MDS_UNREACHABLE"]),
            (MountState::Fenced, false, &["MOUNT_FENCED"]),
            (MountState::Closed, false, &[]),
        ] {
            let items = items("/mnt", state, reaches);
            assert_eq!(items.iter().map(|item| item.code.as_str()).collect::<Vec<_>>(), codes, "{state:?}");
        }
    }
}
