//! A CurveFS in one process: one metadata partition over a store in memory, for any number of mounts. What runs is the
//! partition of the metaservers, without Raft and network: for tests of what stands on [`Metadata`].

mod recall;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use curve_io::sim::{SimDisk, SimDiskConfig};
use curve_kv::{KvError, MemStore};
use curve_types::{Epoch, Sequence, Term};
use curvefs_meta::{Birth, Entry, Partition, server_request};
use curvefs_types::{
    Answer, Ask, DataBackend, FsError, FsFuture, FsId, InodeId, Metadata, MountId, Op, PartitionId, Query,
    Reply, Request, SliceRef, TimeNs, Usage,
};

use recall::Recalls;

/// Rows or extents that one step of the servers' work takes.
const STEP: u32 = 256;
/// Slices that one deletion takes.
const SLICES: u32 = 512;

/// A file system: its one partition.
pub struct LocalFs {
    partition: Mutex<Partition>,
    mounts: Mutex<u64>,
    recalls: Recalls,
}

/// A mount of a [`LocalFs`].
pub struct LocalMount {
    fs: Arc<LocalFs>,
    mount: MountId,
    sequence: Mutex<u64>,
}

fn now_ns() -> TimeNs {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as TimeNs)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LocalFs {
    /// An empty one, whose root everybody may write.
    pub async fn new() -> Result<Arc<Self>, KvError> {
        let disk = SimDisk::new(SimDiskConfig::default());
        let store = Arc::new(MemStore::open(disk.mount(), "kv").await?);
        let birth =
            Birth { now_ns: now_ns(), root: (0, 0, 0o755), ..Birth::of_slot(FsId(1), PartitionId(1), 0) };
        let partition = Partition::open(store, &birth)?;
        Ok(Arc::new(Self {
            partition: Mutex::new(partition),
            mounts: Mutex::new(0),
            recalls: Recalls::default(),
        }))
    }

    /// Another mount.
    pub fn mount(self: &Arc<Self>) -> Arc<LocalMount> {
        let mut mounts = locked(&self.mounts);
        *mounts += 1;
        Arc::new(LocalMount { fs: self.clone(), mount: MountId(*mounts), sequence: Mutex::new(0) })
    }

    /// Ends a mount as the MDS does when its lease ends: it is fenced, and gives up what it holds.
    pub fn expire(&self, mount: MountId) -> Result<(), FsError> {
        self.serve(Op::Fence { mount, epoch: Epoch(2) })?;
        while self.serve(Op::ReleaseMount { mount, limit: STEP })? == (Reply::Progress { more: true }) {}
        self.recalls.ring();
        Ok(())
    }

    /// Takes a directory away from a mount, as a leader does when it does not give it back.
    pub fn revoke(&self, dir: InodeId, mount: MountId) -> Result<(), FsError> {
        self.serve(Op::Revoke { dir, mount })?;
        self.recalls.done(dir);
        Ok(())
    }

    /// Does what servers do by themselves: counters, ends of inodes.
    pub fn settle(&self) -> Result<(), FsError> {
        for op in [Op::Drain { limit: STEP }, Op::Settle { limit: STEP }] {
            while self.serve(op.clone())? == (Reply::Progress { more: true }) {}
        }
        Ok(())
    }

    /// Deletes the slices that are in no file. Gives how many.
    pub async fn collect(&self, data: &dyn DataBackend) -> Result<usize, FsError> {
        let mut collected = 0;
        loop {
            self.settle()?;
            let query = Query::Garbage { before_ns: TimeNs::MAX, limit: SLICES };
            let Answer::Garbage { slices } = self.ask(MountId::SERVERS, query)? else {
                return Err(FsError::Corrupt);
            };
            if slices.is_empty() {
                return Ok(collected);
            }
            let refs: Vec<SliceRef> = slices.iter().map(|freed| freed.slice).collect();
            collected += refs.len();
            data.delete(refs).await?;
            self.serve(Op::Reclaimed { slices })?;
        }
    }

    /// Puts into the store what waits for it. Gives how many slices.
    pub async fn store_staged(&self, data: &dyn DataBackend) -> Result<usize, FsError> {
        let mut stored = 0;
        loop {
            let query = Query::StagedSlices { before_ns: TimeNs::MAX, limit: SLICES };
            let Answer::StagedSlices { slices, .. } = self.ask(MountId::SERVERS, query)? else {
                return Err(FsError::Corrupt);
            };
            if slices.is_empty() {
                return Ok(stored);
            }
            stored += slices.len();
            for staged in &slices {
                data.put(staged.slice, staged.content.clone()).await?;
            }
            self.serve(Op::Stored { slices: slices.into_iter().map(|staged| staged.slice).collect() })?;
        }
    }

    fn serve(&self, op: Op) -> Result<Reply, FsError> {
        apply(&locked(&self.partition), server_request(now_ns(), op))
    }

    fn ask(&self, mount: MountId, query: Query) -> Result<Answer, FsError> {
        let ask = Ask { mount, epoch: Epoch(1), query };
        locked(&self.partition).query(&ask).unwrap_or(Err(FsError::Stopped))
    }

    /// Whether something is in the way, after which it may be tried again: the holder was asked for the directory, and has
    /// given it back or lost it.
    async fn is_delegated(&self, error: Option<FsError>) -> bool {
        let Some(FsError::Delegated { dir }) = error else { return false };
        // First, so that a directory that is given back meanwhile is not waited for.
        let news = self.recalls.follow();
        let holder = locked(&self.partition).holder_of(dir).ok().flatten();
        match holder {
            Some(mount) if self.recalls.wait_for(dir, mount, news).await => {
                // A directory that is not taken away now is waited for again.
                let _ = self.serve(Op::Revoke { dir, mount });
                self.recalls.done(dir);
            }
            Some(_) => {}
            None => self.recalls.done(dir),
        }
        true
    }
}

fn apply(partition: &Partition, request: Request) -> Result<Reply, FsError> {
    let entry = Entry { term: Term(1), requests: vec![request] };
    let outcomes = partition.apply(&[entry], None).map_err(|_| FsError::Stopped)?;
    outcomes.into_iter().flatten().next().unwrap_or(Err(FsError::Corrupt))
}

impl LocalMount {
    /// Which mount it is.
    pub fn id(&self) -> MountId {
        self.mount
    }

    fn apply(&self, op: Op) -> Result<Reply, FsError> {
        let mut sequence = locked(&self.sequence);
        *sequence += 1;
        let request = Request {
            mount: self.mount,
            epoch: Epoch(1),
            sequence: Sequence(*sequence),
            // Changes are made one after the other, so all earlier answers are known.
            ack_below: Sequence(*sequence),
            now_ns: now_ns(),
            op,
        };
        apply(&locked(&self.fs.partition), request)
    }
}

impl Metadata for LocalMount {
    fn fs(&self) -> FsId {
        FsId(1)
    }

    fn change(&self, op: Op) -> FsFuture<'_, Reply> {
        Box::pin(async move {
            loop {
                let outcome = self.apply(op.clone());
                if !self.fs.is_delegated(outcome.as_ref().err().copied()).await {
                    if let Op::Publish { dirs, .. } = &op {
                        let given = dirs.iter().filter(|published| published.give_back);
                        given.for_each(|published| self.fs.recalls.done(published.dir));
                    }
                    return outcome;
                }
            }
        })
    }

    fn query(&self, query: Query) -> FsFuture<'_, Answer> {
        Box::pin(async move {
            let query = match query {
                Query::GetLock { inode, mut lock } => {
                    lock.mount = self.mount;
                    Query::GetLock { inode, lock }
                }
                Query::DirUsage { inode } => {
                    self.fs.settle()?;
                    Query::DirUsage { inode }
                }
                other => other,
            };
            if let Query::Recalls { known, .. } = &query {
                self.fs.ask(self.mount, query.clone())?;
                return Ok(Answer::Recalls { dirs: self.fs.recalls.of(self.mount, known).await });
            }
            loop {
                let answer = self.fs.ask(self.mount, query.clone());
                if !self.fs.is_delegated(answer.as_ref().err().copied()).await {
                    return answer;
                }
            }
        })
    }

    fn stat_fs(&self) -> FsFuture<'_, Usage> {
        Box::pin(async move {
            match self.fs.ask(self.mount, Query::StatFs { inode: InodeId::ROOT })? {
                Answer::StatFs { usage } => Ok(usage),
                _ => Err(FsError::Corrupt),
            }
        })
    }
}
