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
//! | `known` | pure: what published names name |
//! | `wish` | pure: which directories are asked for that this mount did not make |
//! | `pack` | bytes of small files, many in one slice |
//! | `publish` | batches, the background, giving back |
//! | `recall` | asking for a directory, what is in it, and what others wait for |
//!
//! **What is done here**: finding names, making anything but directories, and of a file that is not published attributes, writing,
//! opening, closing, renaming, and forgetting it with its name if nobody has it open and the store has nothing of it. Of published names
//! moving and removing (`moves`), if they name what is no directory and lives in the same partition, and what loses a name is neither open nor being
//! written here: then nothing has to be known of it. All else goes to the partition, and what it meets that is not published is published before. So
//! a mistake in that list costs time, or is refused by the partition, which knows who has what.
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
mod known;
mod moves;
mod pack;
mod publish;
mod recall;
mod table;
mod way;
mod wish;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};

use curvefs_types::{
    Answer, FsError, FsFuture, InodeId, Kind, Metadata, MountOptions, NameAt, NameOp, Op, Query, Reply, Usage,
};
use tokio::sync::watch;

use crate::flush::HELD_IDLE;
use crate::shared::{Core, locked};
use known::Passing;
use moves::Told;
use table::Table;
use way::{Asked, Way};

/// What is delegated, and what is not published.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DelegationCounts {
    /// Directories.
    pub directories: usize,
    /// Files that were made and are not published.
    pub unpublished: usize,
    /// Published names that were moved or removed and are not published so.
    pub moved: usize,
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

/// For each slot something that one holds at a time.
#[derive(Default)]
struct Lanes(Mutex<HashMap<u32, Arc<tokio::sync::Mutex<()>>>>);

impl Lanes {
    fn of(&self, slot: u32) -> Arc<tokio::sync::Mutex<()>> {
        locked(&self.0).entry(slot).or_default().clone()
    }
}

/// Metadata with delegated directories. `table` is locked for moments, never while something is waited for, and before the state of
/// an inode. A slot's *lane* is held while a batch of it is under way.
pub(crate) struct Delegations {
    inner: Arc<dyn Metadata>,
    enabled: bool,
    table: Mutex<Table>,
    lanes: Lanes,
    /// Held while bytes of a slot's closed files are stored.
    storing: Lanes,
    /// Directories have gone: whoever asks for recalls looks whether to go on.
    gone: watch::Sender<()>,
    core: OnceLock<Weak<Core>>,
    totals: Totals,
}

impl Delegations {
    /// Over the metadata of a mount.
    pub fn new(inner: Arc<dyn Metadata>, options: &MountOptions) -> Self {
        Self {
            inner,
            enabled: options.delegate && !options.read_only,
            table: Mutex::new(Table::new(options.adopt)),
            lanes: Lanes::default(),
            storing: Lanes::default(),
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
        // What both names of a rename name.
        let mut asks = 2;
        loop {
            let (way, passing) = self.way_of_change(&mut op, asks > 0)?;
            match way {
                Way::Done(Asked::Change(outcome)) => return outcome,
                Way::Made(reply, is_many) => {
                    self.totals.made.fetch_add(1, Ordering::Relaxed);
                    if is_many {
                        self.core()?.work.notify_one();
                    }
                    return Ok(reply);
                }
                Way::Moved(reply, told) => {
                    self.moved(told)?;
                    return Ok(reply);
                }
                Way::Pass | Way::Done(_) => return self.pass(op, passing).await,
                other => {
                    asks -= i32::from(matches!(other, Way::Find(_)));
                    self.go(other).await?;
                }
            }
        }
    }

    fn way_of_change(&self, op: &mut Op, may_ask: bool) -> Result<(Way, Passing), FsError> {
        if !self.enabled {
            return Ok((Way::Pass, Passing::new()));
        }
        let core = self.core()?;
        let mut table = self.table();
        let way = table.way_of_change(op, &*core, may_ask);
        let passing = if matches!(way, Way::Pass) { table.begin(op) } else { Passing::new() };
        Ok((way, passing))
    }

    /// Names were moved or removed here.
    fn moved(&self, told: Told) -> Result<(), FsError> {
        let core = self.core()?;
        if let Some(inode) = told.unlinked.and_then(|inode| core.known(inode)) {
            inode.state().unlinked(HELD_IDLE);
        }
        if let Some((inode, at, dir)) = told.renamed
            && let Some(inode) = core.known(inode)
        {
            inode.state().renamed(at, dir);
        }
        if told.is_many {
            core.work.notify_one();
        }
        Ok(())
    }

    /// Asks, here or at the partition.
    pub async fn query(&self, query: Query) -> Result<Answer, FsError> {
        loop {
            let way = if self.enabled { self.table().way_of_query(&query) } else { Way::Pass };
            match way {
                Way::Done(Asked::Query(answer)) => return answer,
                Way::Pass | Way::Done(_) | Way::Made(..) | Way::Moved(..) => return self.ask(query).await,
                other => self.go(other).await?,
            }
        }
    }

    /// Asks the partition, and learns from the answer.
    async fn ask(&self, query: Query) -> Result<Answer, FsError> {
        let moment = if self.enabled { self.table().moment(&query) } else { None };
        let answer = self.inner.query(query).await;
        if let Some(moment) = moment {
            self.table().learn(moment, &answer);
        }
        Ok(self.seen(answer?))
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
                drop(self.lanes.of(slot).lock_owned().await);
                Ok(())
            }
            Way::PublishOne(inode) => self.sync(inode).await,
            Way::PublishDir(dir) => self.publish_dir(dir).await,
            Way::PublishSlot(slot) => self.step(slot, None, u64::MAX).await.map(drop),
            Way::PublishMoves(slot) => self.publish_moves(slot).await,
            Way::Find(NameAt { dir: parent, name }) => match self.ask(Query::Lookup { parent, name }).await {
                Ok(_) | Err(FsError::NotFound) => Ok(()),
                Err(error) => Err(error),
            },
            Way::PublishAll => self.publish_all().await,
            Way::GiveBack(dir) => self.give_back(dir).await,
            Way::Ask(dir) => self.ask_for(dir).await,
            Way::Numbers(dir) => self.get_numbers(dir).await,
            Way::Refresh(dir) => self.ask(Query::GetAttr { inode: dir }).await.map(drop),
            Way::Done(_) | Way::Made(..) | Way::Moved(..) | Way::Pass => Ok(()),
        }
    }

    /// Has the partition do it, and learns from that.
    async fn pass(&self, op: Op, passing: Passing) -> Result<Reply, FsError> {
        let made = match &op {
            Op::Name { op: NameOp::Mkdir { parent, name, .. } } if self.enabled => {
                Some((*parent, name.clone()))
            }
            _ => None,
        };
        let is_rename = matches!(op, Op::Name { op: NameOp::Rename { .. } });
        let with_xattr = match &op {
            Op::SetXattr { inode, .. } | Op::RemoveXattr { inode, .. } => Some(*inode),
            _ => None,
        };
        let outcome = self.inner.change(op).await;
        // Only now: what was asked for meanwhile may have been answered before the change.
        let mut table = self.table();
        table.ended(passing);
        with_xattr.into_iter().for_each(|dir| table.changed(dir));
        let mut reply = outcome?;
        match (&mut reply, made) {
            (Reply::Attr { attr, .. }, Some(at)) if attr.kind == Kind::Directory => {
                table.made(attr.inode, at)
            }
            (Reply::Attr { attr, .. } | Reply::Written { attr, .. }, _) => table.see(attr),
            (Reply::Renamed { moved, other }, _) => {
                table.see(moved);
                other.iter_mut().for_each(|other| table.see(other));
            }
            // A directory that was moved by several partitions is not told.
            (Reply::Done, _) if is_rename => table.dirs.values_mut().for_each(|dir| dir.stale = true),
            _ => {}
        }
        drop(table);
        Ok(reply)
    }

    /// Attributes of delegated directories, and of files with other names, as they are here. How many names a file has whose removal the
    /// partition has not heard is not told: it is asked for again, and published before.
    fn seen(&self, mut answer: Answer) -> Answer {
        let mut table = self.table();
        if table.dirs.is_empty() {
            return answer;
        }
        match &mut answer {
            Answer::Entry { attr, .. } => {
                attr.take_if(|attr| table.is_unlinked(attr.inode));
                attr.iter_mut().for_each(|attr| table.see(attr));
            }
            Answer::Attrs { attrs } => attrs.iter_mut().for_each(|attr| table.see(attr)),
            Answer::Extents { attr, .. } => table.see(attr),
            Answer::Page { entries, .. } => {
                for entry in entries {
                    entry.attr.take_if(|attr| table.is_unlinked(attr.inode));
                    entry.attr.iter_mut().for_each(|attr| table.see(attr));
                }
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

    /// Whether a file was closed with bytes in memory and is not published.
    pub fn is_lazy(&self, inode: InodeId) -> bool {
        self.enabled && self.table().births.get(&inode).is_some_and(|birth| birth.lazy.is_some())
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
            moved: table.moving.values().map(Vec::len).sum(),
            made: read(&self.totals.made),
            batches: read(&self.totals.batches),
            recalls: read(&self.totals.recalls),
            lost: read(&self.totals.lost),
        }
    }
}
