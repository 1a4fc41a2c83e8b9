//! A file system of one partition in the same process: `Metadata` without a network, for tests of what stands on it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use curve_types::{Epoch, Sequence, Term};
use curvefs_types::{
    Answer, Ask, FsError, FsFuture, FsId, InodeId, Metadata, MountId, Op, Query, Reply, Request, TimeNs,
    Usage,
};

use crate::partition::{Entry, Partition, server_request};

/// Doomed inodes and dirty totals that are worked off after each change.
const WORK_AT_ONCE: u32 = 1024;

/// One mount of a file system that is one partition. Changes are applied at once, one after the other; what servers do in
/// the background is done with each. Several may stand on the same partition: mounts of one file system.
pub struct LocalMetadata {
    fs: FsId,
    mount: MountId,
    /// Held while a change is applied, as a store has one writer.
    partition: Arc<Mutex<Partition>>,
    clock: Box<dyn Fn() -> TimeNs + Send + Sync>,
    next: AtomicU64,
}

impl LocalMetadata {
    /// A mount. `clock` gives nanoseconds since 1970.
    pub fn new(
        fs: FsId,
        mount: MountId,
        partition: Arc<Mutex<Partition>>,
        clock: Box<dyn Fn() -> TimeNs + Send + Sync>,
    ) -> Self {
        Self { fs, mount, partition, clock, next: AtomicU64::new(1) }
    }

    fn partition(&self) -> MutexGuard<'_, Partition> {
        self.partition.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, op: Op) -> Result<Reply, FsError> {
        let partition = self.partition();
        let sequence = Sequence(self.next.fetch_add(1, Ordering::Relaxed));
        let now_ns = (self.clock)();
        let request =
            Request { mount: self.mount, epoch: Epoch(0), sequence, ack_below: sequence, now_ns, op };
        let work = [Op::Drain { limit: WORK_AT_ONCE }, Op::Settle { limit: WORK_AT_ONCE }];
        let mut requests = vec![request];
        requests.extend(work.map(|op| server_request(now_ns, op)));
        let entry = Entry { term: Term(1), requests };
        // One store, which its owner asks; a store that failed has nothing to say.
        let mut outcomes = partition.apply(&[entry], None).map_err(|_| FsError::Stopped)?;
        outcomes.swap_remove(0).swap_remove(0)
    }
}

impl Metadata for LocalMetadata {
    fn fs(&self) -> FsId {
        self.fs
    }

    fn change(&self, op: Op) -> FsFuture<'_, Reply> {
        let outcome = self.apply(op);
        Box::pin(std::future::ready(outcome))
    }

    fn query(&self, query: Query) -> FsFuture<'_, Answer> {
        let ask = Ask { mount: self.mount, epoch: Epoch(0), query };
        let answer = self.partition().query(&ask).unwrap_or(Err(FsError::Stopped));
        Box::pin(std::future::ready(answer))
    }

    fn stat_fs(&self) -> FsFuture<'_, Usage> {
        Box::pin(async {
            match self.query(Query::StatFs { inode: InodeId::ROOT }).await? {
                Answer::StatFs { usage } => Ok(usage),
                _ => Err(FsError::Corrupt),
            }
        })
    }
}

impl std::fmt::Debug for LocalMetadata {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalMetadata")
            .field("fs", &self.fs)
            .field("mount", &self.mount)
            .finish_non_exhaustive()
    }
}
