//! What all operations of a mount share: the table of inodes, limits of memory, and tasks in the background.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use curvefs_types::{
    Answer, Attr, DataBackend, FsError, InodeId, Metadata, MountOptions, Op, Query, Reply, TimeNs,
};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use crate::cache::BlockCache;
use crate::counters::{Counters, VirtualAttributes};
use crate::delegation::Delegations;
use crate::flush::FILES_AT_ONCE;
use crate::handle::{DirHandle, FileHandle};
use crate::inode::Inode;
use crate::staged::StagedData;

/// What the kernel may have to be told. Called at any moment: must not wait.
pub trait KernelCaches: Send + Sync + 'static {
    /// Pages and attributes of an inode are not to be believed.
    fn forget_inode(&self, inode: InodeId);
}

/// Bytes of written data in memory.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    used: AtomicU64,
    freed: Notify,
}

impl Budget {
    fn new(limit: u64) -> Self {
        Self { limit: limit.max(1 << 20), used: AtomicU64::new(0), freed: Notify::new() }
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    /// Whether it is time to make room.
    pub fn is_tight(&self) -> bool {
        self.used() > self.limit / 2
    }

    /// Takes bytes if they fit; one taker always fits.
    fn take(&self, bytes: u64) -> bool {
        let fits = |used: u64| (used == 0 || used + bytes <= self.limit).then_some(used + bytes);
        self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).is_ok()
    }

    /// Gives bytes back.
    pub fn free(&self, bytes: u64) {
        if bytes > 0 {
            self.used.fetch_sub(bytes, Ordering::AcqRel);
            self.freed.notify_waiters();
        }
    }
}

/// Shared by all handles of a mount.
pub(crate) struct Core {
    pub meta: Arc<Delegations>,
    pub data: StagedData,
    pub options: MountOptions,
    pub budget: Budget,
    pub cache: BlockCache,
    /// Something is to be flushed before its time.
    pub work: Notify,
    pub kernel: OnceLock<Arc<dyn KernelCaches>>,
    pub attributes: OnceLock<Arc<dyn VirtualAttributes>>,
    pub counters: Counters,
    inodes: Mutex<HashMap<InodeId, Arc<Inode>>>,
    /// Inodes that the background has to look at: those that are held or dirty, and some that were.
    watched: Mutex<HashSet<InodeId>>,
    due: Mutex<BTreeSet<InodeId>>,
    pub files: Mutex<HashMap<u64, Arc<FileHandle>>>,
    pub dirs: Mutex<HashMap<u64, Arc<DirHandle>>>,
    pub next_handle: AtomicU64,
    tasks: Mutex<JoinSet<()>>,
    /// Which background is to run: an older one ends.
    background: AtomicU64,
    pub flushers: Semaphore,
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The time.
pub(crate) fn now_ns() -> TimeNs {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as TimeNs)
}

impl Core {
    pub fn new(meta: Arc<dyn Metadata>, data: Arc<dyn DataBackend>, options: MountOptions) -> Arc<Self> {
        let meta = Arc::new(Delegations::new(meta, &options));
        let core = Arc::new(Self {
            budget: Budget::new(options.write_cache_bytes),
            cache: BlockCache::new(options.read_cache_bytes),
            data: StagedData::new(data, meta.clone()),
            meta,
            options,
            work: Notify::new(),
            kernel: OnceLock::new(),
            attributes: OnceLock::new(),
            counters: Counters::default(),
            inodes: Mutex::default(),
            watched: Mutex::default(),
            due: Mutex::default(),
            files: Mutex::default(),
            dirs: Mutex::default(),
            next_handle: AtomicU64::new(1),
            tasks: Mutex::default(),
            background: AtomicU64::new(0),
            flushers: Semaphore::new(FILES_AT_ONCE),
        });
        core.meta.set_core(&core);
        core
    }

    /// A number for a new handle.
    pub fn next_handle(&self) -> u64 {
        self.next_handle.fetch_add(1, Ordering::Relaxed)
    }

    /// The inode, known from now on.
    pub fn inode(&self, id: InodeId) -> Arc<Inode> {
        locked(&self.inodes).entry(id).or_insert_with(|| Arc::new(Inode::new(id))).clone()
    }

    /// The inode if it is known.
    pub fn known(&self, id: InodeId) -> Option<Arc<Inode>> {
        locked(&self.inodes).get(&id).cloned()
    }

    /// All known inodes.
    pub fn all(&self) -> Vec<Arc<Inode>> {
        locked(&self.inodes).values().cloned().collect()
    }

    /// The background looks at an inode as long as it is held or dirty, which it is now.
    pub fn watch(&self, id: InodeId) {
        locked(&self.watched).insert(id);
    }

    /// Inodes that are held or dirty.
    pub fn watched(&self) -> Vec<Arc<Inode>> {
        let mut found = Vec::new();
        // Locked for the whole look: what becomes dirty meanwhile is added after it.
        locked(&self.watched).retain(|id| {
            let Some(inode) = self.known(*id) else { return false };
            let is_needed = {
                let state = inode.state();
                state.held || state.is_dirty()
            };
            if is_needed {
                found.push(inode);
            }
            is_needed
        });
        found
    }

    /// Forgets an inode unless somebody needs it.
    pub fn release_inode(&self, id: InodeId) {
        let mut inodes = locked(&self.inodes);
        let Some(inode) = inodes.get(&id) else { return };
        let unused = {
            let state = inode.state();
            state.lookups == 0 && state.opens == 0 && !state.held && !state.is_dirty()
        };
        // Nobody can get another reference while the table is locked.
        if unused && Arc::strong_count(inode) == 1 {
            inodes.remove(&id);
        }
    }

    /// Whether a file that was held open is to be held on: otherwise it is not from now on.
    pub fn still_held(&self, id: InodeId) -> bool {
        let Some(inode) = self.known(id) else { return false };
        let mut state = inode.state();
        // Whoever opens it has counted itself before it looks whether it is held.
        let holds = state.opens > 0 || state.is_dirty();
        if !holds {
            state.held = false;
            state.idle_since = None;
        }
        holds
    }

    /// Whether a file that was never published can be forgotten: it is not open, and nothing of it is on its way to the store. It is not
    /// held from now on: an open that comes later asks for it, and does not find it.
    pub fn let_go(&self, id: InodeId) -> bool {
        let Some(inode) = self.known(id) else { return true };
        let mut state = inode.state();
        let goes = state.opens == 0 && !state.is_changing();
        if goes {
            state.held = false;
            state.idle_since = None;
        }
        goes
    }

    /// Whether a file is open, or has bytes that are not published.
    pub fn is_used(&self, id: InodeId) -> bool {
        self.known(id).is_some_and(|inode| {
            let state = inode.state();
            state.opens > 0 || state.is_dirty() || state.is_changing()
        })
    }

    /// A file that was never published is gone.
    pub fn lose(&self, id: InodeId, error: FsError) {
        let Some(inode) = self.known(id) else { return };
        let lost = inode.state().lose(error);
        self.counters.lost(lost);
        self.budget.free(lost);
    }

    /// Asks for attributes, and remembers them.
    pub async fn fetch_attr(&self, inode: &Inode) -> Result<Attr, FsError> {
        let answer = self.query(Query::GetAttr { inode: inode.id }).await?;
        let Answer::Attrs { attrs } = answer else { return Err(FsError::Corrupt) };
        let attr = attrs.first().copied().ok_or(FsError::Stale)?;
        Ok(self.heard(inode, attr))
    }

    /// Remembers attributes that came from a partition. Gives them as programs see them.
    pub fn heard(&self, inode: &Inode, attr: Attr) -> Attr {
        let seen = {
            let mut state = inode.state();
            state.heard(attr);
            state.attr().map_or(attr, |(attr, _)| attr)
        };
        self.tell_kernel(inode);
        seen
    }

    /// Tells the kernel if somebody else has changed a file that is open here.
    pub fn tell_kernel(&self, inode: &Inode) {
        let tell = {
            let mut state = inode.state();
            let tell = state.foreign != state.foreign_told && state.opens > 0;
            if tell {
                state.foreign_told = state.foreign;
            }
            tell
        };
        if let (true, Some(kernel)) = (tell, self.kernel.get()) {
            kernel.forget_inode(inode.id);
        }
    }

    /// Asks metadata.
    pub async fn query(&self, query: Query) -> Result<Answer, FsError> {
        self.in_time(self.meta.query(query)).await
    }

    /// Changes metadata.
    pub async fn change(&self, op: impl Into<Op>) -> Result<Reply, FsError> {
        self.in_time(self.meta.change(op.into())).await
    }

    /// Changes something that answers attributes.
    pub async fn change_attr(&self, op: impl Into<Op>) -> Result<Attr, FsError> {
        match self.change(op).await? {
            Reply::Attr { attr, .. } | Reply::Written { attr, .. } => Ok(attr),
            _ => Err(FsError::Corrupt),
        }
    }

    /// `soft`: an end for what takes too long.
    pub async fn in_time<T>(&self, work: impl Future<Output = Result<T, FsError>>) -> Result<T, FsError> {
        match self.options.soft_timeout {
            None => work.await,
            Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or(Err(FsError::TimedOut)),
        }
    }

    /// Refuses changes on a read-only mount.
    pub fn writable(&self) -> Result<(), FsError> {
        if self.options.read_only { Err(FsError::ReadOnly) } else { Ok(()) }
    }

    /// Waits until so many written bytes fit into memory.
    pub async fn take_budget(&self, bytes: u64) -> Result<(), FsError> {
        self.in_time(async {
            loop {
                let freed = self.budget.freed.notified();
                tokio::pin!(freed);
                freed.as_mut().enable();
                if self.budget.take(bytes) {
                    return Ok(());
                }
                self.work.notify_one();
                freed.await;
            }
        })
        .await
    }

    /// Lets the background flush an inode now.
    pub fn set_due(&self, id: InodeId) {
        locked(&self.due).insert(id);
        self.work.notify_one();
    }

    /// Takes what is to be flushed now.
    pub fn take_due(&self) -> BTreeSet<InodeId> {
        std::mem::take(&mut *locked(&self.due))
    }

    /// Runs something in the background; ends with the mount.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = locked(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(work);
    }

    /// Runs the background from now on.
    pub fn begin_background(core: &Arc<Self>) {
        let turn = core.background.fetch_add(1, Ordering::AcqRel) + 1;
        core.spawn(Self::run_background(Arc::downgrade(core), turn));
    }

    /// Whether a background is still the one that is to run.
    pub fn is_turn(&self, turn: u64) -> bool {
        self.background.load(Ordering::Acquire) == turn
    }

    /// Lets what is in the background end by itself, and starts nothing more.
    pub async fn rest(&self) {
        self.background.fetch_add(1, Ordering::AcqRel);
        self.work.notify_one();
        std::future::poll_fn(|context| {
            let mut tasks = locked(&self.tasks);
            loop {
                match tasks.poll_join_next(context) {
                    Poll::Ready(Some(_)) => {}
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
    }

    /// Ends everything in the background.
    pub async fn stop_tasks(&self) {
        let mut tasks = std::mem::take(&mut *locked(&self.tasks));
        tasks.shutdown().await;
    }

    /// How long attributes may be believed by the kernel.
    pub fn timeout_of(&self, attr: &Attr) -> Duration {
        if attr.is_dir() { self.options.dir_attr_timeout } else { self.options.attr_timeout }
    }
}
