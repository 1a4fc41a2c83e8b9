//! Directories that are delegated to this mount: a decorator of [`Metadata`] that changes names in them without asking (the protocol:
//! `curvefs_types`, `delegation.rs`).
//!
//! | file | what |
//! |---|---|
//! | `way` | **the rule: what is done here, and what is published before it goes to its partition** |
//! | `table` | pure: directories, files that are not published, batches |
//! | `dir` | pure: one such directory |
//! | `birth` | pure: one such file |
//! | `moves` | pure: names that move and go |
//! | `pack` | bytes of small files, many in one slice |
//! | `publish` | batches, the background, giving back |
//! | `recall` | asking for a directory, and what others wait for |
//!
//! **What is done here**: finding names, making anything but directories, and of a file that is not published attributes, writing, opening,
//! closing, renaming, and forgetting it with its name if nobody has it open and the store has nothing of it. All else goes to the partition, and what it meets that is not published is published before. So a mistake in
//! that list costs time, or is refused by the partition, which knows who has what.
//!
//! **Files that are closed with bytes in memory** stay so until they are published, since nobody else can find them: they are *lazy*,
//! and their bytes are stored before their names are published. So close-to-open holds: whoever sees the name sees
//! the bytes. Only a store that does not answer in a while, or refuses, does not keep names back.
//!
//! **When it is published**: with `fsync`, `fsyncdir`, `sync`, at the end, when others wait, when it is old, or much. A batch that could
//! not be made is kept and tried again, and until it is made files are made by the partition, which says why not; what was taken
//! away is lost, and `fsync` and `close` say so.

mod birth;
mod dir;
mod moves;
mod pack;
mod publish;
mod recall;
mod table;
mod way;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};

use curvefs_types::{
    Answer, Attr, FsError, FsFuture, InodeId, Kind, Metadata, NameOp, Op, Query, Reply, Usage,
};
use tokio::sync::watch;

use crate::shared::{Core, locked};
use table::Table;
use way::{Asked, Way};

/// What is delegated, and what is not published.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DelegationCounts {
    /// Directories.
    pub directories: usize,
    /// Files that were made and are not published.
    pub unpublished: usize,
    /// Files that were made here, since the mount began.
    pub made: u64,
    /// Batches that were published.
    pub batches: u64,
    /// Directories that others waited for.
    pub recalls: u64,
    /// Files that were lost with directories that were taken away.
    pub lost: u64,
}

#[derive(Default, Debug)]
struct Totals {
    made: AtomicU64,
    batches: AtomicU64,
    recalls: AtomicU64,
    lost: AtomicU64,
}

/// Metadata with delegated directories. `table` is locked for moments, never while something is waited for, and before the state of
/// an inode. A slot's *lane* is held while a batch of it is under way.
pub(crate) struct Delegations {
    inner: Arc<dyn Metadata>,
    enabled: bool,
    table: Mutex<Table>,
    lanes: Mutex<HashMap<u32, Arc<tokio::sync::Mutex<()>>>>,
    /// Held while bytes of a slot's closed files are stored.
    storing: Mutex<HashMap<u32, Arc<tokio::sync::Mutex<()>>>>,
    /// Directories have gone: whoever asks for recalls looks whether to go on.
    gone: watch::Sender<()>,
    core: OnceLock<Weak<Core>>,
    totals: Totals,
}

impl Delegations {
    /// Over the metadata of a mount.
    pub fn new(inner: Arc<dyn Metadata>, enabled: bool) -> Self {
        Self {
            inner,
            enabled,
            table: Mutex::default(),
            lanes: Mutex::default(),
            storing: Mutex::default(),
            gone: watch::Sender::new(()),
            core: OnceLock::new(),
            totals: Totals::default(),
        }
    }

    /// Whose bytes and tasks they are. Once.
    pub fn set_core(&self, core: &Arc<Core>) {
        assert!(self.core.set(Arc::downgrade(core)).is_ok(), "delegations belong to one mount");
    }

    fn core(&self) -> Result<Arc<Core>, FsError> {
        self.core.get().and_then(Weak::upgrade).ok_or(FsError::Stopped)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        locked(&self.table)
    }

    /// Makes a change, here or at its partition.
    pub async fn change(&self, mut op: Op) -> Result<Reply, FsError> {
        loop {
            let way = self.way_of_change(&mut op)?;
            match way {
                Way::Done(Asked::Change(outcome)) => return outcome,
                Way::Made(reply, is_many) => {
                    self.totals.made.fetch_add(1, Ordering::Relaxed);
                    if is_many {
                        self.core()?.work.notify_one();
                    }
                    return Ok(reply);
                }
                Way::Pass | Way::Done(_) => return self.pass(op).await,
                other => self.go(other).await?,
            }
        }
    }

    fn way_of_change(&self, op: &mut Op) -> Result<Way, FsError> {
        if !self.enabled {
            return Ok(Way::Pass);
        }
        let core = self.core()?;
        Ok(self.table().way_of_change(op, &*core))
    }

    /// Asks, here or at the partition.
    pub async fn query(&self, query: Query) -> Result<Answer, FsError> {
        loop {
            let way = if self.enabled { self.table().way_of_query(&query) } else { Way::Pass };
            match way {
                Way::Done(Asked::Query(answer)) => return answer,
                Way::Pass | Way::Done(_) | Way::Made(..) => {
                    let answer = self.inner.query(query).await?;
                    return Ok(self.seen(answer));
                }
                other => self.go(other).await?,
            }
        }
    }

    /// Inodes and bytes of the file system, those that were made here among them.
    pub async fn stat_fs(&self) -> Result<Usage, FsError> {
        self.publish_all().await?;
        self.inner.stat_fs().await
    }

    /// What has to be done before it is looked at again.
    fn go(&self, way: Way) -> FsFuture<'_, ()> {
        // In a box, since publishing stores bytes, which makes changes.
        Box::pin(self.go_on(way))
    }

    async fn go_on(&self, way: Way) -> Result<(), FsError> {
        match way {
            Way::Wait(slot) => {
                drop(self.lane(slot).lock_owned().await);
                Ok(())
            }
            Way::PublishOne(inode) => self.sync(inode).await,
            Way::PublishDir(dir) => self.publish_dir(dir).await,
            Way::PublishSlot(slot) => self.step(slot, None, u64::MAX).await.map(drop),
            Way::PublishAll => self.publish_all().await,
            Way::GiveBack(dir) => self.give_back(dir).await,
            Way::Ask(dir) => self.ask_for(dir).await,
            Way::Numbers(dir) => self.get_numbers(dir).await,
            Way::Refresh(dir) => match self.inner.query(Query::GetAttr { inode: dir }).await {
                Ok(answer) => {
                    self.seen(answer);
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Way::Done(_) | Way::Made(..) | Way::Pass => Ok(()),
        }
    }

    /// Has the partition do it, and learns from that.
    async fn pass(&self, op: Op) -> Result<Reply, FsError> {
        let made = match &op {
            Op::Name { op: NameOp::Mkdir { parent, name, .. } } if self.enabled => {
                Some((*parent, name.clone()))
            }
            _ => None,
        };
        let changes = if self.enabled { way::dirs_of(&op) } else { [None; 2] };
        let outcome = self.inner.change(op).await;
        // Only now: what was asked for meanwhile may have been answered before the change.
        changes.into_iter().flatten().for_each(|dir| self.table().changed(dir));
        let reply = outcome?;
        if let Reply::Attr { attr, .. } = &reply
            && attr.kind == Kind::Directory
        {
            let mut table = self.table();
            if let Some(at) = made {
                table.made(attr.inode, at);
            } else if let Some(dir) = table.dirs.get_mut(&attr.inode) {
                return Ok(Reply::Attr { attr: dir.seen(*attr), created: false });
            }
        }
        Ok(reply)
    }

    /// Attributes of delegated directories as they are here.
    fn seen(&self, mut answer: Answer) -> Answer {
        let mut table = self.table();
        if table.dirs.is_empty() {
            return answer;
        }
        let mut see = |attr: &mut Attr| {
            if let Some(dir) = table.dirs.get_mut(&attr.inode) {
                *attr = dir.seen(*attr);
            }
        };
        match &mut answer {
            Answer::Entry { attr, .. } => attr.iter_mut().for_each(see),
            Answer::Attrs { attrs } => attrs.iter_mut().for_each(see),
            Answer::Page { entries, .. } => {
                entries.iter_mut().filter_map(|entry| entry.attr.as_mut()).for_each(&mut see);
            }
            _ => {}
        }
        answer
    }

    /// Whether nobody else can change a directory's attributes.
    pub fn has(&self, dir: InodeId) -> bool {
        self.enabled && self.table().dirs.get(&dir).is_some_and(|dir| !dir.closing)
    }

    /// Whether a file is not published.
    pub fn is_unpublished(&self, inode: InodeId) -> bool {
        self.enabled && self.table().births.contains_key(&inode)
    }

    /// Whether a file is not published and was not closed with bytes in memory.
    pub fn is_open_birth(&self, inode: InodeId) -> bool {
        self.enabled && self.table().births.get(&inode).is_some_and(|birth| birth.lazy.is_none())
    }

    /// Whether a file may be closed with bytes that are not stored: they are before others can see it.
    pub fn may_wait(&self, inode: InodeId, has_bytes: bool) -> bool {
        self.enabled && self.table().may_wait(inode, has_bytes)
    }

    /// What is counted.
    pub fn counts(&self) -> DelegationCounts {
        let read = |total: &AtomicU64| total.load(Ordering::Relaxed);
        let table = self.table();
        DelegationCounts {
            directories: table.dirs.len(),
            unpublished: table.births.len(),
            made: read(&self.totals.made),
            batches: read(&self.totals.batches),
            recalls: read(&self.totals.recalls),
            lost: read(&self.totals.lost),
        }
    }
}
