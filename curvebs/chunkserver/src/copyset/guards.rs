//! Who may change which blocks at the same time, on the leader.
//!
//! Whole-block writes need no exclusion: they are ordered by the log. Two things do need it: a write of a part of a
//! block, which the leader merges with what it reads (nothing else may change that block in between), and the repair
//! of a chunk (nothing may change it while a healthy copy is fetched). Both are rare, so the price is on their side: a
//! plain write only counts itself, and the first exclusive operation waits until that count has drained; while any
//! exclusive operation is there, plain writes take range locks too.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use curve_types::ChunkKey;
use tokio::sync::Notify;

#[derive(Debug)]
struct Lock {
    id: u64,
    key: ChunkKey,
    bytes: Range<u32>,
}

#[derive(Debug, Default)]
struct Queue {
    next_id: u64,
    /// Held and waiting locks in order of arrival. One is held when no earlier one overlaps it, so nobody starves.
    locks: VecDeque<Lock>,
}

impl Queue {
    fn push(&mut self, key: ChunkKey, bytes: Range<u32>) -> u64 {
        self.next_id += 1;
        self.locks.push_back(Lock { id: self.next_id, key, bytes });
        self.next_id
    }

    fn is_held(&self, id: u64) -> bool {
        let at = self
            .locks
            .iter()
            .position(|lock| lock.id == id)
            .expect("a lock stays queued until it is released");
        let mine = &self.locks[at];
        !self.locks.range(..at).any(|lock| {
            lock.key == mine.key && lock.bytes.start < mine.bytes.end && mine.bytes.start < lock.bytes.end
        })
    }
}

/// The exclusion of one replica.
#[derive(Debug, Default)]
pub struct BlockGuards {
    /// Plain operations in flight that hold no lock.
    plain: AtomicUsize,
    /// Exclusive operations that are there or wait.
    exclusive: AtomicUsize,
    queue: Mutex<Queue>,
    changed: Notify,
}

/// The right to change a range; given back when dropped. It must be kept until the fate of the change is known.
#[derive(Debug)]
pub struct BlockPermit {
    guards: Arc<BlockGuards>,
    kind: PermitKind,
}

#[derive(Debug)]
enum PermitKind {
    Plain,
    Locked { id: u64 },
    Exclusive { id: u64 },
}

impl BlockGuards {
    /// The right to replace whole blocks, if nothing exclusive is going on; otherwise wait with `lock`.
    pub fn try_plain(self: &Arc<Self>) -> Option<BlockPermit> {
        // Counting first and looking second pairs with `exclusive`, which announces first and waits second.
        self.plain.fetch_add(1, Ordering::SeqCst);
        if self.exclusive.load(Ordering::SeqCst) == 0 {
            return Some(BlockPermit { guards: self.clone(), kind: PermitKind::Plain });
        }
        self.leave_plain();
        None
    }

    /// The right to replace the whole blocks of a range; waits for exclusive operations on them.
    pub async fn lock(self: &Arc<Self>, key: ChunkKey, bytes: Range<u32>) -> BlockPermit {
        if let Some(permit) = self.try_plain() {
            return permit;
        }
        let id = self.queue().push(key, bytes);
        let permit = BlockPermit { guards: self.clone(), kind: PermitKind::Locked { id } };
        self.wait_until(|| self.queue().is_held(id)).await;
        permit
    }

    /// The right to be the only one that changes the blocks of a range.
    pub async fn exclusive(self: &Arc<Self>, key: ChunkKey, bytes: Range<u32>) -> BlockPermit {
        self.exclusive.fetch_add(1, Ordering::SeqCst);
        let id = self.queue().push(key, bytes);
        let permit = BlockPermit { guards: self.clone(), kind: PermitKind::Exclusive { id } };
        self.wait_until(|| self.plain.load(Ordering::SeqCst) == 0 && self.queue().is_held(id)).await;
        permit
    }

    async fn wait_until(&self, ready: impl Fn() -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if ready() {
                return;
            }
            changed.await;
        }
    }

    fn leave_plain(&self) {
        let before = self.plain.fetch_sub(1, Ordering::SeqCst);
        if before == 1 && self.exclusive.load(Ordering::SeqCst) > 0 {
            self.changed.notify_waiters();
        }
    }

    fn release(&self, id: u64) {
        self.queue().locks.retain(|lock| lock.id != id);
        self.changed.notify_waiters();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for BlockPermit {
    fn drop(&mut self) {
        match self.kind {
            PermitKind::Plain => self.guards.leave_plain(),
            PermitKind::Locked { id } => self.guards.release(id),
            PermitKind::Exclusive { id } => {
                self.guards.exclusive.fetch_sub(1, Ordering::SeqCst);
                self.guards.release(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use curve_types::VolumeId;
    use futures::FutureExt;

    use super::*;

    fn key(index: u32) -> ChunkKey {
        ChunkKey { volume: VolumeId(1), index }
    }

    #[tokio::test]
    async fn plain_writes_do_not_wait_for_each_other() {
        let guards = Arc::new(BlockGuards::default());
        let _first = guards.try_plain().unwrap();
        let _second = guards.try_plain().unwrap();
        assert!(guards.lock(key(0), 0..4096).now_or_never().is_some());
    }

    #[tokio::test]
    async fn an_exclusive_operation_waits_for_plain_ones_and_holds_up_only_its_blocks() {
        let guards = Arc::new(BlockGuards::default());
        let plain = guards.try_plain().unwrap();
        let mut exclusive = Box::pin(guards.exclusive(key(0), 0..4096));
        assert!(exclusive.as_mut().now_or_never().is_none());
        assert!(guards.try_plain().is_none());
        drop(plain);
        let exclusive = exclusive.now_or_never().expect("the plain write is over");
        assert!(guards.lock(key(0), 4096..8192).now_or_never().is_some(), "another block");
        assert!(guards.lock(key(1), 0..4096).now_or_never().is_some(), "another chunk");
        let mut same = Box::pin(guards.lock(key(0), 0..8192));
        assert!(same.as_mut().now_or_never().is_none());
        drop(exclusive);
        assert!(same.now_or_never().is_some());
        assert!(guards.try_plain().is_some(), "back to the cheap way");
    }

    #[tokio::test]
    async fn exclusive_operations_on_one_block_queue_in_order_and_a_dropped_waiter_leaves() {
        let guards = Arc::new(BlockGuards::default());
        let first = guards.exclusive(key(0), 0..4096).await;
        let mut second = Box::pin(guards.exclusive(key(0), 0..4096));
        assert!(second.as_mut().now_or_never().is_none());
        let mut third = Box::pin(guards.lock(key(0), 0..4096));
        assert!(third.as_mut().now_or_never().is_none());
        drop(second);
        drop(first);
        assert!(third.now_or_never().is_some());
        assert_eq!(guards.exclusive.load(Ordering::SeqCst), 0);
        assert!(guards.queue().locks.is_empty());
    }
}
