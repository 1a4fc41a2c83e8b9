//! The log of one disk.

use std::io;
use std::path::Path;
use std::sync::Arc;

use curve_io::{BoxFuture, Disk};
use curve_types::GroupId;

use crate::config::{LogConfig, LogStats, Recovery};
use crate::error::LogError;
use crate::group::GroupLog;

/// The log of one disk. Clones are handles of the same log.
#[derive(Clone)]
pub struct Log {}

impl Log {
    /// Opens the log in `dir`, making it when there is none, and starts its writer task.
    pub async fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        config: LogConfig,
    ) -> Result<(Self, Recovery), LogError> {
        let _ = (disk, dir, config);
        unimplemented!()
    }

    /// A group's part of the log; a group that is not known yet is made in memory.
    pub fn group(&self, id: GroupId) -> GroupLog {
        let _ = id;
        unimplemented!()
    }

    /// The groups that are known now, sorted.
    pub fn groups(&self) -> Vec<GroupId> {
        unimplemented!()
    }

    /// Forgets all of a group; resolves when that is durable. Its handles refuse everything from now on.
    pub fn remove_group(&self, id: GroupId) -> BoxFuture<'static, io::Result<()>> {
        let _ = id;
        unimplemented!()
    }

    /// Counters and sizes.
    pub fn stats(&self) -> LogStats {
        unimplemented!()
    }

    /// Whether a write or sync failed. That is final: the log takes nothing any more.
    pub fn failed(&self) -> bool {
        unimplemented!()
    }

    /// Whether the disk is so full that no spare segment could be made. One segment is still in hand, so that what has
    /// been accepted can be finished; new work should be refused and entries be purged. Cheap.
    pub fn space_low(&self) -> bool {
        unimplemented!()
    }

    /// Writes what is queued, marks the end as clean, and ends the writer task. Handles refuse everything afterwards.
    pub async fn close(&self) {
        unimplemented!()
    }
}
