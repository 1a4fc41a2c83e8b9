//! What a mount knows of one inode, and how what it was told is merged with what it has not published yet.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use curvefs_types::limits::CHUNK_BYTES;
use curvefs_types::{
    Attr, Extent, FsError, InodeId, LockOwner, MODE_BITS, Place, SetAttr, SetTime, TimeNs, without_privileges,
};
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use crate::dirty::{Dirty, Frozen, bytes_of, end_of, overlay, overlay_one, runs};
use crate::extents::Window;
use crate::handover::KnownInode;

/// One inode as the mount sees it.
///
/// `state` is held for moments, never across an await. `publish` makes changes of the bytes one after the other, so that
/// the mount can tell its own changes of the generation from those of others. `order` keeps writes out while a change of
/// the whole file (truncate, punch) is under way. Order of taking: `order`, `publish`, `state`.
#[derive(Debug)]
pub(crate) struct Inode {
    pub id: InodeId,
    pub order: tokio::sync::RwLock<()>,
    publish: Arc<tokio::sync::Mutex<()>>,
    /// Who waits for `publish`.
    wanting: AtomicUsize,
    state: Mutex<State>,
}

impl Inode {
    pub fn new(id: InodeId) -> Self {
        let state = Mutex::new(State::default());
        Self {
            id,
            order: Default::default(),
            publish: Default::default(),
            wanting: AtomicUsize::new(0),
            state,
        }
    }

    /// Takes `publish`.
    pub async fn publishing(&self) -> tokio::sync::MutexGuard<'_, ()> {
        let _wanting = Wanting::new(&self.wanting);
        self.publish.lock().await
    }

    /// The same, if it is free.
    pub fn try_publishing(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        self.publish.try_lock().ok()
    }

    /// The same, for whoever cannot borrow the inode.
    pub fn try_publishing_owned(&self) -> Option<OwnedMutexGuard<()>> {
        self.publish.clone().try_lock_owned().ok()
    }

    /// Whether somebody waits for `publish`.
    pub fn is_wanted(&self) -> bool {
        self.wanting.load(Ordering::Relaxed) > 0
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who waits.
struct Wanting<'a>(&'a AtomicUsize);

impl<'a> Wanting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Wanting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Appended bytes: where they go is known when they are published; until then the mount shows them behind everything
/// it knows of.
#[derive(Default, Debug)]
struct Tail {
    base: u64,
    flushing: Bytes,
    pending: Vec<u8>,
}

impl Tail {
    fn len(&self) -> u64 {
        (self.flushing.len() + self.pending.len()) as u64
    }
}

/// What goes to the store in one step.
#[derive(Clone, Debug)]
pub(crate) enum Batch {
    /// To their offsets.
    At(Frozen),
    /// To the end.
    End(Bytes),
}

impl Batch {
    /// Where its extents count from.
    pub fn place(&self) -> Place {
        match self {
            Self::At(_) => Place::AtOffsets,
            Self::End(_) => Place::AtEnd,
        }
    }

    /// How many bytes it has.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::At(pieces) => bytes_of(pieces),
            Self::End(tail) => tail.len() as u64,
        }
    }

    /// Its bytes in runs, each inside one chunk. Appended ones count from the end.
    pub fn runs(&self) -> Vec<(u64, Vec<Bytes>)> {
        match self {
            Self::At(pieces) => runs(pieces, CHUNK_BYTES),
            Self::End(tail) => runs(&Frozen::from([(0, tail.clone())]), CHUNK_BYTES),
        }
    }
}

/// A batch with what is published beside the extents.
#[derive(Clone, Debug)]
pub(crate) struct Flushing {
    pub batch: Batch,
    pub mtime: TimeNs,
    pub kill_priv: bool,
    /// Attributes that go with the last of the bytes.
    pub set: SetAttr,
}

impl Flushing {
    /// Takes another in that follows behind in the file. False: it does not.
    pub fn join(&mut self, next: &Self) -> bool {
        let (Batch::At(pieces), Batch::At(later)) = (&mut self.batch, &next.batch) else { return false };
        if later.first_key_value().is_none_or(|(offset, _)| *offset < end_of(pieces)) {
            return false;
        }
        pieces.extend(later.iter().map(|(offset, piece)| (*offset, piece.clone())));
        self.mtime = next.mtime;
        self.kill_priv |= next.kill_priv;
        self.set = self.set.then(next.set);
        true
    }
}

/// Written bytes on their way, with the attributes that go with them.
#[derive(Debug)]
struct UnderWay {
    pieces: Frozen,
    set: SetAttr,
}

/// A consistent look at a file, for reading.
pub(crate) struct Look {
    /// Bytes of the file.
    pub length: u64,
    /// Written extents in the range, in order.
    pub extents: Vec<Extent>,
    /// Everything that is not published, in order of covering.
    pub over: Vec<(u64, Vec<u8>)>,
}

/// The state of an inode.
#[derive(Default, Debug)]
pub(crate) struct State {
    known: Option<(Attr, Instant)>,
    is_stale: bool,
    /// Data changes of this mount whose answers are not here yet.
    changing: u32,
    dirty: Dirty,
    /// In the order in which they are published; appended bytes are on their way alone.
    under_way: VecDeque<UnderWay>,
    tail: Tail,
    wrote_ns: TimeNs,
    kill_priv: bool,
    /// Attributes that were set after bytes that are not published, and go with them; those under way with appended bytes; and all that
    /// were set since something is dirty, which programs see over what the partition has told.
    setting: SetAttr,
    setting_tail: SetAttr,
    shown: SetAttr,
    /// Since when there is something to publish.
    pub dirty_since: Option<Instant>,
    /// Do not try again before this.
    pub retry_at: Option<Instant>,
    /// The background is about to flush it.
    pub queued: bool,
    /// The last failure of publishing, and how many there were.
    pub failure: Option<FsError>,
    pub failures: u64,
    /// References of the kernel.
    pub lookups: u64,
    /// Open handles.
    pub opens: u32,
    /// The partition knows that this mount holds it open.
    pub held: bool,
    /// When the last handle was closed.
    pub idle_since: Option<Instant>,
    pub lock_owners: HashSet<LockOwner>,
    window: Option<Window>,
    /// Changes of the bytes by others; how many of them the kernel has been told of, and has seen by an open.
    pub foreign: u64,
    pub foreign_told: u64,
    foreign_opened: u64,
    /// Own changes of a directory's names.
    pub renamed: u64,
    /// The directory's default ACL, as read at this time.
    pub default_acl: Option<(Option<Bytes>, Instant)>,
}

impl State {
    /// For the process that takes the mount over; `None` for what nobody counts on.
    pub fn told(&self, inode: InodeId) -> Option<KnownInode> {
        let owned = !self.lock_owners.is_empty();
        if self.lookups == 0 && self.opens == 0 && !self.held && !owned && self.failure.is_none() {
            return None;
        }
        let mut lock_owners: Vec<_> = self.lock_owners.iter().copied().collect();
        lock_owners.sort_unstable();
        Some(KnownInode {
            inode,
            lookups: self.lookups,
            attr: self.attr().map(|(attr, _)| attr),
            held: self.held,
            told: self.foreign_told == self.foreign,
            seen: self.foreign_opened == self.foreign,
            failure: self.failure,
            failures: self.failures,
            lock_owners,
        })
    }

    /// As another process has left it.
    pub fn from_told(known: KnownInode, opens: u32) -> Self {
        let now = Instant::now();
        Self {
            known: known.attr.map(|attr| (attr, now)),
            is_stale: true,
            failure: known.failure,
            failures: known.failures,
            lookups: known.lookups,
            opens,
            held: known.held,
            idle_since: (opens == 0).then_some(now),
            lock_owners: known.lock_owners.into_iter().collect(),
            foreign: 1,
            foreign_told: u64::from(known.told),
            foreign_opened: u64::from(known.seen),
            ..Self::default()
        }
    }

    /// Bytes that are in memory because the store has not got them.
    pub fn unpublished(&self) -> u64 {
        let under_way = self.under_way.iter().map(|batch| bytes_of(&batch.pieces)).sum::<u64>();
        self.dirty.bytes() + under_way + self.tail.len()
    }

    /// Of those, bytes that are not on their way.
    pub fn pending(&self) -> u64 {
        self.dirty.bytes() + self.tail.pending.len() as u64
    }

    /// Whether something is to be published or being published.
    pub fn is_dirty(&self) -> bool {
        self.unpublished() > 0
    }

    /// The length as programs see it.
    pub fn length(&self) -> u64 {
        let known = self.known.map_or(0, |(attr, _)| attr.length);
        let tail = if self.tail.len() > 0 { self.tail.base + self.tail.len() } else { 0 };
        let under_way = self.under_way.iter().map(|batch| end_of(&batch.pieces)).max().unwrap_or(0);
        known.max(end_of(self.dirty.pieces())).max(under_way).max(tail)
    }

    /// The attributes as programs see them, and how old they are.
    pub fn attr(&self) -> Option<(Attr, Instant)> {
        let (mut attr, at) = self.known?;
        if self.is_dirty() {
            attr.length = self.length();
            attr.allocated = attr.allocated.saturating_add(self.unpublished());
            attr.mtime = self.wrote_ns;
            attr.ctime = attr.ctime.max(self.wrote_ns);
            let to = |set: Option<SetTime>, or| if let Some(SetTime::To { ns }) = set { ns } else { or };
            attr.mtime = to(self.shown.mtime, attr.mtime);
            attr.atime = to(self.shown.atime, attr.atime);
            attr.mode = self.shown.mode.unwrap_or(attr.mode);
            attr.uid = self.shown.uid.unwrap_or(attr.uid);
            attr.gid = self.shown.gid.unwrap_or(attr.gid);
        }
        Some((attr, at))
    }

    /// The attributes if they may still be believed.
    pub fn fresh(&self, files: Duration, dirs: Duration) -> Option<(Attr, Duration)> {
        let (attr, at) = self.attr()?;
        let limit = if attr.is_dir() { dirs } else { files };
        if self.is_stale {
            return None;
        }
        limit.checked_sub(at.elapsed()).filter(|left| !left.is_zero()).map(|left| (attr, left))
    }

    /// Believes nothing any more.
    pub fn stale(&mut self) {
        self.is_stale = true;
    }

    /// It has a name less, and perhaps none: it is not held longer than it is open.
    pub fn unlinked(&mut self, held_idle: Duration) {
        self.stale();
        self.idle_since = self.idle_since.map(|since| Instant::now().checked_sub(held_idle).unwrap_or(since));
    }

    /// It has another name, in a directory.
    pub fn renamed(&mut self, at: TimeNs, dir: InodeId) {
        if let Some((known, _)) = &mut self.known {
            known.ctime = known.ctime.max(at);
            if known.nlink == 1 {
                known.parent = dir;
            }
        }
    }

    /// Takes attributes that were asked for.
    pub fn heard(&mut self, attr: Attr) {
        if let Some((known, _)) = self.known {
            // While an own change is under way nobody can say whose a new generation is: its answer will tell.
            if attr.version < known.version || (self.changing > 0 && attr.generation != known.generation) {
                return;
            }
            if attr.generation != known.generation {
                self.changed_by_others();
            }
        }
        self.is_stale = false;
        self.known = Some((attr, Instant::now()));
    }

    /// Whether an own change of the bytes is under way.
    pub fn is_changing(&self) -> bool {
        self.changing > 0
    }

    /// An own change of the bytes begins.
    pub fn change(&mut self) {
        self.changing += 1;
    }

    /// An own change of the bytes is answered: with the attributes, unless it failed.
    pub fn changed(&mut self, attr: Option<Attr>, added: Option<&[Extent]>) {
        self.changing -= 1;
        let (Some(attr), Some((known, _))) = (attr, self.known) else {
            if attr.is_none() {
                self.window = None;
            }
            self.known = attr.map(|attr| (attr, Instant::now())).or(self.known);
            return;
        };
        if attr.generation == known.generation {
            // Nothing to do, as a copy of no bytes.
        } else if attr.generation != known.generation + 1 {
            self.changed_by_others();
        } else if !added
            .is_some_and(|added| self.window.as_mut().is_some_and(|w| w.add(attr.generation, added)))
        {
            self.window = None;
        }
        if attr.version >= known.version {
            self.known = Some((attr, Instant::now()));
        }
    }

    fn changed_by_others(&mut self) {
        self.foreign += 1;
        self.window = None;
    }

    /// The kernel's pages are not what the file is.
    pub fn mistrust(&mut self) {
        self.foreign += 1;
    }

    /// Whether the kernel may keep its pages, if the file is opened now.
    pub fn keep_cache(&mut self) -> bool {
        let keep = self.foreign == self.foreign_opened;
        self.foreign_told = self.foreign;
        self.foreign_opened = self.foreign;
        keep
    }

    fn wrote(&mut self, now_ns: TimeNs, kill_priv: bool) {
        self.wrote_ns = now_ns;
        self.kill_priv |= kill_priv;
        // The later of the two counts.
        for set in [&mut self.setting, &mut self.shown] {
            set.mtime = None;
            if kill_priv {
                set.mode = set.mode.map(without_privileges);
            }
        }
        self.dirty_since.get_or_insert_with(Instant::now);
    }

    /// Takes attributes that are set on a file whose bytes wait to be published: they go with them, in one change. False: they do not
    /// wait, or the attributes are none that can.
    pub fn defer(&mut self, set: SetAttr, now_ns: TimeNs) -> bool {
        let waits = !self.dirty.is_empty() || !self.tail.pending.is_empty();
        let Some((attr, _)) = self.attr().filter(|_| waits && set.flags.is_none()) else { return false };
        let at = |time: Option<SetTime>| match time {
            Some(SetTime::Now) => Ok(Some(SetTime::To { ns: now_ns })),
            Some(SetTime::AtLeast { .. }) => Err(()),
            other => Ok(other),
        };
        let (Ok(atime), Ok(mtime)) = (at(set.atime), at(set.mtime)) else { return false };
        let set = SetAttr { atime, mtime, mode: set.mode.map(|mode| mode & MODE_BITS), ..set };
        self.setting = self.setting.then(set);
        let mode = set.mode.or(set.kill_priv.then(|| without_privileges(attr.mode)));
        self.shown = self.shown.then(SetAttr { mode, kill_priv: false, ..set });
        self.wrote_ns = self.wrote_ns.max(now_ns);
        true
    }

    /// Whether attributes wait for bytes.
    pub fn has_deferred(&self) -> bool {
        !self.setting.is_empty()
    }

    /// Whether bytes from `offset` on touch appended ones, which have to be published first.
    pub fn meets_tail(&self, end: u64) -> bool {
        self.tail.len() > 0 && end > self.tail.base
    }

    /// Takes written bytes. Gives how much memory more they need.
    pub fn write(&mut self, offset: u64, data: Vec<u8>, now_ns: TimeNs, kill_priv: bool) -> u64 {
        self.wrote(now_ns, kill_priv);
        self.dirty.write(offset, data)
    }

    /// Takes appended bytes. Gives where the mount shows them.
    pub fn append(&mut self, data: &[u8], now_ns: TimeNs, kill_priv: bool) -> u64 {
        let at = self.length();
        if self.tail.len() == 0 {
            self.tail.base = at;
        }
        self.wrote(now_ns, kill_priv);
        self.tail.pending.extend_from_slice(data);
        at
    }

    /// Drops what was written in a range. Gives how many bytes. Nothing may be on its way.
    pub fn cut(&mut self, from: u64, to: u64, now_ns: TimeNs) -> u64 {
        let cut = self.dirty.cut(from, to);
        self.wrote_ns = now_ns;
        self.settle();
        cut
    }

    /// Drops everything that is not published. Gives how many bytes.
    pub fn discard(&mut self) -> u64 {
        let bytes = self.unpublished();
        self.dirty = Dirty::default();
        self.under_way.clear();
        self.tail = Tail::default();
        self.settle();
        bytes
    }

    fn settle(&mut self) {
        if !self.is_dirty() {
            self.dirty_since = None;
            self.retry_at = None;
            self.kill_priv = false;
            self.setting = SetAttr::default();
            self.shown = SetAttr::default();
        }
    }

    /// Takes a batch that is to be published, after those that are under way; the bytes stay visible. Appended bytes wait until
    /// nothing is.
    pub fn begin(&mut self, limit: u64) -> Option<Flushing> {
        if !self.tail.flushing.is_empty() {
            return None;
        }
        let pieces = if !self.dirty.is_empty() {
            Some(self.dirty.take(limit))
        } else if !self.tail.pending.is_empty() && self.under_way.is_empty() {
            self.tail.flushing = std::mem::take(&mut self.tail.pending).into();
            None
        } else {
            return None;
        };
        self.change();
        let is_last = self.dirty.is_empty() && self.tail.pending.is_empty();
        let set = if is_last { std::mem::take(&mut self.setting) } else { SetAttr::default() };
        let batch = match pieces {
            Some(pieces) => {
                self.under_way.push_back(UnderWay { pieces: pieces.clone(), set });
                Batch::At(pieces)
            }
            None => {
                self.setting_tail = set;
                Batch::End(self.tail.flushing.clone())
            }
        };
        Some(Flushing { batch, mtime: self.wrote_ns, kill_priv: self.kill_priv, set })
    }

    /// Whether a batch is under way.
    pub fn is_under_way(&self) -> bool {
        !self.under_way.is_empty() || !self.tail.flushing.is_empty()
    }

    /// Whether there is more to publish than what is under way.
    pub fn has_more(&self) -> bool {
        self.pending() > 0
    }

    /// So many of the batches that are under way are published, the first of them, by one change. Gives how many bytes are free.
    pub fn end(&mut self, attr: Attr, base: u64, extents: &[Extent], batches: usize) -> u64 {
        self.changed(Some(attr), Some(extents));
        self.changing -= (batches - 1) as u32;
        let freed = if self.under_way.is_empty() {
            self.setting_tail = SetAttr::default();
            let len = std::mem::take(&mut self.tail.flushing).len() as u64;
            if base != self.tail.base {
                self.mistrust();
            }
            self.tail.base = base + len;
            len
        } else {
            self.under_way.drain(..batches).map(|batch| bytes_of(&batch.pieces)).sum()
        };
        self.settle();
        freed
    }

    /// What is under way could not be published: it will be tried again. Gives how many bytes were covered meanwhile.
    pub fn fail(&mut self, error: FsError) -> u64 {
        self.failure = Some(error);
        self.failures += 1;
        self.put_back()
    }

    /// What is under way is not published now. Gives how many bytes were covered meanwhile.
    pub fn put_back(&mut self) -> u64 {
        let mut covered = 0;
        // The oldest last, since it is below the others.
        while let Some(UnderWay { pieces, set }) = self.under_way.pop_back() {
            self.changed(None, None);
            self.setting = set.then(self.setting);
            covered += self.dirty.put_back(pieces);
        }
        if !self.tail.flushing.is_empty() {
            self.changed(None, None);
            self.setting = std::mem::take(&mut self.setting_tail).then(self.setting);
            let mut pending = Vec::from(std::mem::take(&mut self.tail.flushing));
            pending.append(&mut self.tail.pending);
            self.tail.pending = pending;
        }
        covered
    }

    /// The file is gone, with everything that was written to it. Gives how many bytes. What is on its way fails by itself.
    pub fn lose(&mut self, error: FsError) -> u64 {
        self.failure = Some(error);
        self.failures += 1;
        self.held = false;
        let lost = self.dirty.bytes() + self.tail.pending.len() as u64;
        self.dirty = Dirty::default();
        self.tail.pending = Vec::new();
        self.settle();
        lost
    }

    /// Keeps extents that a partition told, unless the mount knows later ones. False: ask again.
    pub fn learn(&mut self, attr: Attr, window: Window) -> bool {
        if self.changing > 0 || self.known.is_some_and(|(known, _)| attr.version < known.version) {
            return false;
        }
        self.heard(attr);
        self.window = Some(window);
        true
    }

    /// Forgets extents.
    pub fn forget_extents(&mut self) {
        self.window = None;
    }

    /// The file in a range as it is now; `None` while its extents are not known.
    pub fn look(&self, from: u64, len: u64) -> Option<Look> {
        let length = self.length();
        let to = from.saturating_add(len).min(length);
        if from >= to {
            return Some(Look { length, extents: Vec::new(), over: Vec::new() });
        }
        let gaps = crate::dirty::gaps(self.dirty.pieces(), from, to);
        let mut over = Vec::new();
        if gaps.is_empty() {
            let mut whole = vec![0; (to - from) as usize];
            overlay(self.dirty.pieces(), from, &mut whole);
            return Some(Look { length, extents: Vec::new(), over: vec![(from, whole)] });
        }
        let stored_to = self.known.map_or(0, |(attr, _)| attr.length).min(to);
        let extents = if from < stored_to {
            let window = self.window.as_ref().filter(|window| window.covers(from, stored_to))?;
            window.written(from, stored_to)
        } else {
            Vec::new()
        };
        self.under_way.iter().for_each(|batch| copy_range(&batch.pieces, from, to, &mut over));
        copy_range(self.dirty.pieces(), from, to, &mut over);
        self.copy_tail(from, to, &mut over);
        Some(Look { length, extents, over })
    }

    fn copy_tail(&self, from: u64, to: u64, over: &mut Vec<(u64, Vec<u8>)>) {
        let pending_at = self.tail.base + self.tail.flushing.len() as u64;
        let parts = [(self.tail.base, &self.tail.flushing[..]), (pending_at, &self.tail.pending[..])];
        for (at, bytes) in parts {
            let (start, end) = (at.max(from), (at + bytes.len() as u64).min(to));
            if start < end {
                let mut part = vec![0; (end - start) as usize];
                overlay_one(at, bytes, start, &mut part);
                over.push((start, part));
            }
        }
    }
}

fn copy_range<V: AsRef<[u8]>>(
    pieces: &crate::dirty::Pieces<V>,
    from: u64,
    to: u64,
    over: &mut Vec<(u64, Vec<u8>)>,
) {
    let holes = crate::dirty::gaps(pieces, from, to);
    let mut at = from;
    for (start, end) in holes.into_iter().chain([(to, to)]) {
        if at < start {
            let mut part = vec![0; (start - at) as usize];
            overlay(pieces, at, &mut part);
            over.push((at, part));
        }
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use curvefs_types::Kind;
    use proptest::prelude::*;

    use super::*;

    const BYTES: usize = 120;

    fn file() -> Attr {
        let (inode, parent) = (InodeId(2), InodeId(1));
        let (uid, gid, nlink, rdev, flags, length, allocated) = (0, 0, 1, 0, 0, 0, 0);
        let (atime, mtime, ctime, version, generation, kind, mode) = (0, 0, 0, 1, 1, Kind::File, 0);
        Attr {
            inode,
            kind,
            mode,
            uid,
            gid,
            nlink,
            rdev,
            flags,
            length,
            allocated,
            atime,
            mtime,
            ctime,
            parent,
            version,
            generation,
        }
    }

    /// A state, what is under way as whoever publishes it has it, and what is published.
    struct Published {
        state: State,
        under_way: VecDeque<Flushing>,
        bytes: Vec<u8>,
        mode: Option<u32>,
    }

    impl Published {
        /// The first is published, with so many behind it as may go with it. Gives their bytes.
        fn end(&mut self, more_max: usize) -> u64 {
            let Some(mut flushing) = self.under_way.pop_front() else { return 0 };
            let mut count = 1;
            while count <= more_max && self.under_way.front().is_some_and(|next| flushing.join(next)) {
                self.under_way.pop_front();
                count += 1;
            }
            let Batch::At(pieces) = &flushing.batch else { panic!("nothing was appended") };
            overlay(pieces, 0, &mut self.bytes);
            self.mode = flushing.set.mode.or(self.mode);
            let freed = self.state.end(file(), 0, &[], count);
            assert_eq!(freed, flushing.batch.bytes());
            freed
        }

        /// As programs see it.
        fn seen(&self) -> Vec<u8> {
            let look = self.state.look(0, BYTES as u64).expect("no bytes of the file are in the store");
            let mut seen = self.bytes.clone();
            look.over.iter().for_each(|(at, bytes)| overlay_one(*at, bytes, 0, &mut seen));
            seen
        }
    }

    proptest! {
        /// Batches that are under way together, published in their order or put back, against a plain array.
        #[test]
        fn whatever_is_under_way_the_last_write_is_seen(
            steps in prop::collection::vec((0u8..8, 0..BYTES, 1..40usize, 1u8..=255), 1..80),
        ) {
            let mut state = State::default();
            state.heard(file());
            let mut published =
                Published { state, under_way: VecDeque::new(), bytes: vec![0; BYTES], mode: None };
            let (mut model, mut mode, mut held) = (vec![0; BYTES], None, 0);
            for (what, from, len, byte) in steps {
                let to = (from + len).min(BYTES);
                match what {
                    0..=2 => {
                        held += published.state.write(from as u64, vec![byte; to - from], 0, false);
                        model[from..to].fill(byte);
                    }
                    3 | 4 => published.under_way.extend(published.state.begin(len as u64)),
                    5 => {
                        let set = SetAttr { mode: Some(u32::from(byte)), ..SetAttr::default() };
                        if published.state.defer(set, 0) {
                            mode = set.mode;
                        }
                    }
                    6 => held -= published.end(usize::from(byte) % 4),
                    _ => {
                        held -= published.state.put_back();
                        published.under_way.clear();
                    }
                }
                prop_assert_eq!(published.seen(), &model[..]);
                prop_assert_eq!(published.state.unpublished(), held);
            }
            while published.state.has_more() {
                published.under_way.extend(published.state.begin(7));
                published.end(0);
            }
            while !published.under_way.is_empty() {
                published.end(0);
            }
            prop_assert_eq!(&published.bytes, &model);
            prop_assert_eq!(published.mode, mode);
            prop_assert!(!published.state.is_dirty() && !published.state.is_changing());
        }
    }
}
