//! What a mount knows of directories that are delegated to it, and what it has made there. Pure: the rule of what is done here
//! is in `way`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use curvefs_types::limits::{
    BORN_PER_REQUEST_MAX, DELEGATIONS_PER_MOUNT_MAX, KNOWN_NAMES_MAX, NAME_BYTES_MAX,
};
use curvefs_types::{
    Attr, Born, Dentry, FsError, InodeId, Name, NameAt, Op, Published, Reply, Reserved, SetAttr, SetTime,
    TimeNs,
};
use tokio::time::Instant;

use super::birth::{Birth, Written};
use super::dir::{Dir, Fresh, Own, hash};
use super::moves::MOVES_MANY;
use super::wish::Wish;

/// Directories of its own that a mount remembers as new.
const FRESH_MAX: usize = 1024;
/// Lost files that are remembered.
const LOST_MAX: usize = 64 << 10;
/// Bytes of one batch, of the 1 MiB that a request may have.
const BATCH_BYTES_MAX: usize = 512 << 10;
/// The same of one file whose bytes are stored together with others'.
const PACKED_BYTES_MAX: usize = BATCH_BYTES_MAX / BORN_PER_REQUEST_MAX;
/// The same of one name that was moved.
const MOVED_BYTES_MAX: usize = 2 * NAME_BYTES_MAX + 64;
/// All directories of a slot are in a batch if they have to be.
const _: () = assert!(DELEGATIONS_PER_MOUNT_MAX <= BORN_PER_REQUEST_MAX);
/// Published names of delegated directories that are remembered; with more, directories are given back.
const NAMES_MAX: usize = 1 << 20;
/// New files that are published before their time, since they are many.
const MANY: usize = 256;
/// After a batch that was refused.
const RETRY: Duration = Duration::from_secs(1);
/// Fewer numbers than these are left: more are asked for.
const NUMBERS_LOW: u64 = 2048;
/// How many are asked for.
const NUMBERS: u32 = 4096;

/// Numbers for new files of one slot.
#[derive(Default, Debug)]
struct Numbers {
    ranges: VecDeque<(u64, u64)>,
    /// All smaller ones are used.
    beyond: u64,
}

impl Numbers {
    fn add(&mut self, reserved: Reserved) {
        if let Some(last) = reserved.last() {
            self.ranges.push_back((reserved.first.0, last.0));
        }
    }

    fn next(&mut self) -> Option<InodeId> {
        let (next, last) = self.ranges.front_mut()?;
        let number = *next;
        *next += 1;
        if number == *last {
            self.ranges.pop_front();
        }
        self.beyond = number + 1;
        Some(InodeId(number))
    }

    fn left(&self) -> u64 {
        self.ranges.iter().map(|(next, last)| last - next + 1).sum()
    }
}

/// What of a directory is in a batch.
#[derive(Debug)]
struct Part {
    dir: InodeId,
    born: Vec<InodeId>,
    moved: Vec<Name>,
    give_back: bool,
}

/// What a batch may have more.
struct Room {
    births: usize,
    bytes: usize,
}

impl Room {
    fn take(&mut self, bytes: usize) -> bool {
        let fits = self.births > 0 && self.bytes <= BATCH_BYTES_MAX;
        if fits {
            self.births -= 1;
            self.bytes += bytes;
        }
        fits
    }
}

/// A batch under way.
#[derive(Debug)]
pub(super) struct Batch {
    dirs: Vec<Part>,
    /// Files whose bytes were stored together and are named with this batch.
    pub wrote: HashMap<InodeId, Wrote>,
}

/// Bytes that are named with a batch, and the file without them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wrote {
    pub attr: Attr,
    /// Where appended bytes begin.
    pub base: u64,
    before: Attr,
    lazy: u64,
}

/// Everything.
#[derive(Default, Debug)]
pub(super) struct Table {
    pub fresh: HashMap<InodeId, Fresh>,
    fresh_order: VecDeque<InodeId>,
    pub dirs: HashMap<InodeId, Dir>,
    pub births: HashMap<InodeId, Birth>,
    pub lost: HashMap<InodeId, FsError>,
    lost_order: VecDeque<InodeId>,
    /// Published files with names that were moved or removed, and these names.
    pub moving: HashMap<InodeId, Vec<NameAt>>,
    /// Files and directories of which such changes were lost, until somebody syncs them.
    pub undone: HashMap<InodeId, FsError>,
    /// Those that the kernel has not been told of.
    pub untold: BTreeSet<InodeId>,
    /// Names in `Dir::known` of all directories.
    pub remembered: usize,
    numbers: HashMap<u32, Numbers>,
    /// Whether directories are asked for that others made.
    pub adopts: bool,
    /// Directories that are not delegated and that this mount changes.
    pub wishes: HashMap<InodeId, Wish>,
    /// Changes of names of a directory that are under way to the partition.
    pub flying: HashMap<InodeId, u32>,
    /// Slots whose recalls are asked for.
    pub polling: HashSet<u32>,
    /// Slots that the background publishes now.
    pub busy: HashSet<u32>,
    /// Names that may be published, of all directories.
    pub known_names: usize,
    clock: u64,
}

impl Table {
    /// Of nothing; `adopts`: directories are asked for that others made.
    pub fn new(adopts: bool) -> Self {
        Self { adopts, ..Self::default() }
    }

    /// A directory was made here.
    pub fn made(&mut self, dir: InodeId, at: (InodeId, Name)) {
        self.fresh.insert(dir, Fresh { at: Some(at), names: Vec::new(), asked: false, recalled: false });
        self.fresh_order.push_back(dir);
        while self.fresh_order.len() > FRESH_MAX
            && let Some(oldest) = self.fresh_order.pop_front()
        {
            if self.fresh.get(&oldest).is_some_and(|fresh| !fresh.asked) {
                self.fresh.remove(&oldest);
            }
        }
    }

    /// A name may be there from now on.
    pub fn adds(&mut self, dir: InodeId, name: &Name) {
        if self.dirs.contains_key(&dir) {
            self.may_be_from_now(dir, name);
            self.changed(dir);
        } else if let Some(fresh) = self.fresh.get_mut(&dir)
            && !fresh.names.contains(name)
        {
            fresh.names.push(name.clone());
            if fresh.names.len() > KNOWN_NAMES_MAX && !fresh.asked {
                self.fresh.remove(&dir);
            }
        }
    }

    /// The partition has changed a directory.
    pub fn changed(&mut self, dir: InodeId) {
        if let Some(dir) = self.dirs.get_mut(&dir) {
            dir.stale = true;
        }
    }

    /// Whether a directory that may be delegated is to be asked for now: a second file is about to be made.
    pub fn wants(&self, dir: InodeId, name: &Name) -> bool {
        let wanted = |fresh: &Fresh| !fresh.asked && !fresh.names.is_empty() && !fresh.names.contains(name);
        self.fresh.get(&dir).is_some_and(wanted)
    }

    /// A directory is asked for: the names that may be there, and how many numbers are wanted. `None`: it is already, or not ours.
    pub fn ask(&mut self, dir: InodeId, numbers: u32) -> Option<(Option<Vec<Name>>, u32)> {
        let left = self.numbers.get(&dir.slot()).map_or(0, Numbers::left);
        if self.wishes(dir) {
            self.fresh.insert(dir, Fresh { at: None, names: Vec::new(), asked: false, recalled: false });
        }
        let fresh = self.fresh.get_mut(&dir).filter(|fresh| !fresh.asked)?;
        fresh.asked = true;
        let knows = fresh.at.as_ref().map(|_| fresh.names.clone());
        Some((knows, if left == 0 { numbers } else { 0 }))
    }

    /// What recalls of a slot are asked for: an inode there, and what is about to be given back. `None`: nothing is delegated there,
    /// and nobody asks any more.
    pub fn poll_for(&mut self, slot: u32) -> Option<(InodeId, Vec<InodeId>)> {
        let here = || self.dirs.iter().filter(|(id, _)| id.slot() == slot);
        let Some((inode, _)) = here().next() else {
            self.polling.remove(&slot);
            return None;
        };
        let known = here().filter(|(_, dir)| dir.closing).map(|(id, _)| *id).collect();
        Some((*inode, known))
    }

    /// Whether a directory of a slot is delegated.
    pub fn has_slot(&self, slot: u32) -> bool {
        self.dirs.keys().any(|dir| dir.slot() == slot)
    }

    /// Directories of a slot that are to be given back.
    pub fn closing(&self, slot: u32) -> Vec<InodeId> {
        let closing = self.dirs.iter().filter(|(id, dir)| id.slot() == slot && dir.closing);
        closing.map(|(id, _)| *id).collect()
    }

    /// Whether there are numbers for new files beside a directory.
    pub fn has_numbers(&self, dir: InodeId) -> bool {
        self.numbers.get(&dir.slot()).is_some_and(|numbers| numbers.left() > 0)
    }

    /// It is delegated. Names that were made meanwhile are known. False: somebody waits for it already.
    pub fn granted(&mut self, dir: InodeId, attr: Attr, reserved: Reserved) -> bool {
        let Some(fresh) = self.fresh.remove(&dir) else { return false };
        self.clock += 1;
        self.numbers.entry(dir.slot()).or_default().add(reserved);
        let names: HashSet<u64> = fresh.names.iter().map(hash).collect();
        // What is under way there may change names that are asked for.
        let listed = fresh.at.is_some();
        let closing = fresh.recalled || !listed && self.flying.contains_key(&dir);
        self.known_names += names.len();
        if closing {
            self.shun(dir);
        }
        let new = Dir {
            at: fresh.at,
            attr,
            stale: false,
            since: self.clock,
            names,
            listed,
            known: HashMap::new(),
            passing: 0,
            passed: 0,
            gone: BTreeMap::new(),
            placed: BTreeMap::new(),
            born: BTreeMap::new(),
            own: Own::default(),
            sent: Own::default(),
            own_since: None,
            closing,
            failing: None,
            retry_at: None,
            used: self.clock,
        };
        self.dirs.insert(dir, new);
        !closing
    }

    /// A number for a new file beside a directory.
    pub fn number(&mut self, dir: InodeId) -> Option<InodeId> {
        self.numbers.get_mut(&dir.slot())?.next()
    }

    /// A file was made.
    pub fn add(&mut self, birth: Birth, now: TimeNs) -> bool {
        let Some(dir) = self.touched(birth.dir, now) else { return false };
        dir.born.insert(birth.name.clone(), birth.attr.inode);
        self.births.insert(birth.attr.inode, birth);
        self.births.len().is_multiple_of(MANY)
    }

    /// A name of a directory has changed here.
    pub fn touched(&mut self, dir: InodeId, now: TimeNs) -> Option<&mut Dir> {
        self.clock += 1;
        let dir = self.dirs.get_mut(&dir)?;
        dir.used = self.clock;
        dir.own = dir.own.then(Own { mtime: Some(now), set: SetAttr::default() });
        dir.own_since.get_or_insert_with(Instant::now);
        (dir.attr.mtime, dir.attr.ctime) = (now, dir.attr.ctime.max(now));
        Some(dir)
    }

    /// Sets attributes of a directory in which something is not published; they go with that. `None`: they cannot.
    pub fn set_dir(&mut self, id: InodeId, set: &SetAttr, now: TimeNs) -> Option<Attr> {
        let dir = self.dirs.get_mut(&id).filter(|dir| !dir.is_quiet() && !dir.closing)?;
        let at = |time: Option<SetTime>| match time {
            Some(SetTime::Now) => Some(SetTime::To { ns: now }),
            other => other,
        };
        if set.flags.is_some() || set.kill_priv || [set.atime, set.mtime].iter().any(is_at_least) {
            return None;
        }
        let set = SetAttr { atime: at(set.atime), mtime: at(set.mtime), ..*set };
        super::birth::with_set(&mut dir.attr, &set, now);
        dir.own = dir.own.then(Own { mtime: None, set });
        dir.own_since.get_or_insert_with(Instant::now);
        Some(dir.attr)
    }

    /// The slots of delegated directories.
    pub fn slots(&self) -> BTreeSet<u32> {
        self.dirs.keys().map(|dir| dir.slot()).collect()
    }

    /// Slots with something to publish now.
    pub fn due(&self, age: Duration) -> BTreeSet<u32> {
        let now = Instant::now();
        let mut waiting: BTreeMap<u32, usize> = BTreeMap::new();
        let mut due = BTreeSet::new();
        for (id, dir) in &self.dirs {
            if dir.retry_at.is_some_and(|at| at > now) {
                continue;
            }
            *waiting.entry(id.slot()).or_default() += waiting_in(dir);
            let is_old = dir.own_since.is_some_and(|since| now - since >= age);
            if is_old || dir.closing {
                due.insert(id.slot());
            }
        }
        due.extend(waiting.iter().filter(|(_, many)| **many >= MANY).map(|(slot, _)| *slot));
        due.retain(|slot| !self.busy.contains(slot));
        due
    }

    /// The moment, as closes are counted.
    pub fn now(&self) -> u64 {
        self.clock
    }

    /// Files that were closed until a moment and whose bytes have to be stored before they are published, the oldest first.
    pub fn lazies(&self, slot: u32, only: Option<InodeId>, until: u64) -> Vec<(InodeId, u64)> {
        let wanted = |birth: &&Birth| only.map_or(birth.dir.slot() == slot, |dir| birth.dir == dir);
        let lazies = self.births.values().filter(wanted);
        let lazies = lazies.filter_map(|birth| Some((birth.attr.inode, birth.lazy?)));
        let mut lazies: Vec<_> = lazies.filter(|(_, lazy)| *lazy <= until).collect();
        lazies.sort_unstable_by_key(|(_, lazy)| *lazy);
        lazies
    }

    /// Whether a slot has much to publish.
    pub fn is_much(&self, slot: u32) -> bool {
        let waiting = self.dirs.iter().filter(|(id, _)| id.slot() == slot).map(|(_, dir)| waiting_in(dir));
        waiting.sum::<usize>() >= MANY
    }

    /// They are stored, or cannot be now.
    pub fn stored(&mut self, inode: InodeId, lazy: u64) {
        if let Some(birth) = self.births.get_mut(&inode).filter(|birth| birth.lazy == Some(lazy)) {
            birth.lazy = None;
        }
    }

    /// Whether a file may be closed with bytes that are not stored.
    pub fn may_wait(&mut self, inode: InodeId, has_bytes: bool) -> bool {
        self.clock += 1;
        let Some(birth) = self.births.get_mut(&inode).filter(|birth| !birth.sent) else { return false };
        let waits = self.dirs.get(&birth.dir).is_some_and(|dir| !dir.closing && dir.failing.is_none());
        if waits && has_bytes {
            birth.lazy = Some(self.clock);
        }
        waits
    }

    /// Directories of a slot that are used least and have nothing to publish, if there are many.
    pub fn too_many(&self, slot: u32, limit: usize, give: usize) -> Vec<InodeId> {
        let mut dirs: Vec<_> = self.dirs.iter().filter(|(id, _)| id.slot() == slot).collect();
        if dirs.len() < limit {
            return Vec::new();
        }
        dirs.retain(|(_, dir)| dir.is_quiet() && !dir.closing);
        dirs.sort_by_key(|(_, dir)| dir.used);
        dirs.into_iter().take(give).map(|(id, _)| *id).collect()
    }

    /// Whether bytes of a file may go into a slice with those of others: it has no other, and they take little of a batch.
    pub fn may_pack(&self, inode: InodeId) -> bool {
        let birth =
            self.births.get(&inode).filter(|birth| !birth.sent && !birth.alone && birth.extents.is_empty());
        birth.is_some_and(|birth| bytes_of(birth) <= PACKED_BYTES_MAX)
    }

    /// Takes a batch of a slot: as much as fits, of `first` before others. `packed` are closed files whose bytes were stored
    /// together: as far as they are as they were then, all come along. `give` is given back if nothing of it is left over.
    /// `holds` says whether a file that was open is so still. `None`: there is nothing.
    pub fn take(
        &mut self,
        slot: u32,
        first: Option<InodeId>,
        give: &[InodeId],
        packed: &HashMap<InodeId, (u64, Written<'_>)>,
        holds: impl Fn(InodeId) -> bool,
    ) -> Option<(Op, Batch)> {
        let (wrote, packed_in) = self.wrote(packed);
        let mut ids: Vec<InodeId> = self.dirs.keys().filter(|id| id.slot() == slot).copied().collect();
        ids.sort_by_key(|id| (!packed_in.contains(id), Some(*id) != first, !give.contains(id), *id));
        let moves = self.unsent(slot);
        // Where there is no room for new files names that go make some.
        let only_moves =
            wrote.is_empty() && moves > 0 && ids.iter().any(|id| self.dirs[id].failing.is_some());
        let births = if only_moves { 0 } else { BORN_PER_REQUEST_MAX.saturating_sub(wrote.len()) };
        let mut room = Room { births, bytes: wrote.len() * PACKED_BYTES_MAX + moves * MOVED_BYTES_MAX };
        let (mut dirs, mut batch) = (Vec::new(), Vec::new());
        for id in ids {
            let give = give.contains(&id);
            if let Some((published, part)) = self.take_dir(id, give, &wrote, &mut room, &holds) {
                dirs.push(published);
                batch.push(part);
            }
        }
        if dirs.is_empty() {
            return None;
        }
        let (lowest, reserve) = self.lowest(slot);
        Some((Op::Publish { dirs, lowest, reserve }, Batch { dirs: batch, wrote }))
    }

    /// Takes of a directory all names that were moved or removed, and the new files for which there is room.
    fn take_dir(
        &mut self,
        id: InodeId,
        give: bool,
        wrote: &HashMap<InodeId, Wrote>,
        room: &mut Room,
        holds: &impl Fn(InodeId) -> bool,
    ) -> Option<(Published, Part)> {
        let dir = self.dirs.get_mut(&id)?;
        let moved = dir.send_moves();
        let (mut born, mut inodes) = (Vec::new(), Vec::new());
        for inode in dir.born.values() {
            let Some(birth) = self.births.get_mut(inode).filter(|birth| birth.lazy.is_none()) else {
                continue;
            };
            if !wrote.contains_key(inode) && !room.take(bytes_of(birth)) {
                continue;
            }
            (birth.sent, birth.held) = (true, birth.held && holds(*inode));
            born.push(published(birth));
            inodes.push(*inode);
        }
        let whole = born.len() == dir.born.len();
        let give_back = whole && (give || dir.closing);
        if born.is_empty() && moved.is_empty() && !give_back && (!whole || dir.own.is_empty()) {
            return None;
        }
        // Nothing may be made in it any more.
        dir.closing |= give_back;
        // What was set after files that are left over goes with the last of them.
        let sets = if whole { dir.own.set } else { SetAttr::default() };
        dir.sent = Own { mtime: dir.own.mtime, set: sets };
        dir.own = Own { mtime: None, set: if whole { SetAttr::default() } else { dir.own.set } };
        dir.own_since = if whole { None } else { Some(Instant::now()) };
        let mtime = dir.sent.mtime.unwrap_or(TimeNs::MIN);
        let names = moved.iter().map(|moved| moved.name.clone()).collect();
        let part = Part { dir: id, born: inodes, moved: names, give_back };
        Some((Published { dir: id, moved, born, mtime, set: sets, give_back }, part))
    }

    /// Names stored bytes in closed files that are as they were then; they go with the next batch. And the directories of those files.
    fn wrote(
        &mut self,
        packed: &HashMap<InodeId, (u64, Written<'_>)>,
    ) -> (HashMap<InodeId, Wrote>, HashSet<InodeId>) {
        let (mut wrote, mut dirs) = (HashMap::new(), HashSet::new());
        for (inode, (lazy, written)) in packed {
            let as_then = self.may_pack(*inode);
            let Some(birth) = self.births.get_mut(inode).filter(|birth| as_then && birth.lazy == Some(*lazy))
            else {
                continue;
            };
            let before = birth.attr;
            let Some((attr, base)) = birth.write(written, crate::shared::now_ns()) else {
                birth.alone = true;
                continue;
            };
            birth.lazy = None;
            wrote.insert(*inode, Wrote { attr, base, before, lazy: *lazy });
            dirs.insert(birth.dir);
        }
        (wrote, dirs)
    }

    /// A batch that publishes nothing but gets numbers.
    pub fn numbers_only(&mut self, dir: InodeId) -> (Op, Batch) {
        let (lowest, _) = self.lowest(dir.slot());
        let part = Part { dir, born: Vec::new(), moved: Vec::new(), give_back: false };
        let dirs = vec![of_nothing(dir, TimeNs::MIN, false)];
        (Op::Publish { dirs, lowest, reserve: NUMBERS }, Batch { dirs: vec![part], wrote: HashMap::new() })
    }

    fn lowest(&mut self, slot: u32) -> (InodeId, u32) {
        let numbers = self.numbers.entry(slot).or_default();
        let free = numbers.ranges.front().map_or(numbers.beyond, |(next, _)| *next);
        let reserve = if numbers.left() < NUMBERS_LOW { NUMBERS } else { 0 };
        let used = self.births.keys().filter(|inode| inode.slot() == slot).map(|inode| inode.0).min();
        (InodeId(used.map_or(free, |used| used.min(free))), reserve)
    }

    /// How a batch ended. Gives what was lost.
    pub fn end(&mut self, batch: Batch, outcome: &Result<Reply, FsError>) -> Vec<(InodeId, FsError)> {
        let (refused, unmoved, reserved) = match outcome {
            Ok(Reply::Published { refused, unmoved, reserved }) => (refused, unmoved, *reserved),
            Ok(_) => return self.undo(batch, FsError::Corrupt),
            Err(FsError::Fenced) => return self.lose_all(FsError::Fenced),
            Err(error) => return self.undo(batch, *error),
        };
        let refused: HashSet<InodeId> = refused.iter().copied().collect();
        let mut lost = Vec::new();
        if let Some(first) = batch.dirs.first() {
            self.numbers.entry(first.dir.slot()).or_default().add(reserved);
        }
        let (others, ours): (Vec<_>, Vec<_>) =
            batch.dirs.into_iter().partition(|part| refused.contains(&part.dir));
        others.iter().for_each(|part| lost.extend(self.lose_dir(part.dir, FsError::Revoked)));
        unmoved.iter().for_each(|at| self.undo_move(at, FsError::Revoked));
        let moved = ours.iter().flat_map(|part| part.moved.iter().map(|name| (part.dir, name)));
        let moved = moved.map(|(dir, name)| NameAt { dir, name: name.clone() });
        let moved: Vec<_> = moved.filter(|at| self.gone(at)).collect();
        self.end_moves(&moved);
        for part in ours {
            lost.extend(self.end_births(&part, &refused));
            if part.give_back {
                self.remove(part.dir);
            } else if let Some(dir) = self.dirs.get_mut(&part.dir) {
                (dir.sent, dir.failing, dir.retry_at) = (Own::default(), None, None);
                // What was asked for before may be answered as it was before.
                dir.passed += 1;
                dir.stale |= !(part.born.is_empty() && part.moved.is_empty());
            }
        }
        lost
    }

    fn end_births(&mut self, part: &Part, refused: &HashSet<InodeId>) -> Vec<(InodeId, FsError)> {
        let mut lost = Vec::new();
        for inode in &part.born {
            let Some(birth) = self.births.remove(inode) else { continue };
            let at = NameAt { dir: part.dir, name: birth.name };
            if let Some(dir) = self.dirs.get_mut(&at.dir) {
                dir.born.remove(&at.name);
            }
            if refused.contains(inode) {
                self.forget_known(at.dir, &at.name);
                self.may_be_from_now(at.dir, &at.name);
                self.lose(*inode, FsError::Revoked);
                lost.push((*inode, FsError::Revoked));
            } else {
                self.remember(&at, Some(Dentry { inode: *inode, kind: birth.attr.kind }));
            }
        }
        if let Some(dir) = self.dirs.get_mut(&part.dir) {
            dir.closing |= self.known_names > NAMES_MAX;
        }
        lost
    }

    /// The batch was not made: it is kept.
    fn undo(&mut self, batch: Batch, error: FsError) -> Vec<(InodeId, FsError)> {
        for part in batch.dirs {
            for inode in part.born {
                let Some(birth) = self.births.get_mut(&inode) else { continue };
                birth.sent = false;
                if let Some(Wrote { before, lazy, .. }) = batch.wrote.get(&inode) {
                    // Files of one slice are published together or not at all.
                    (birth.attr, birth.lazy) = (*before, Some(*lazy));
                    birth.extents.clear();
                }
            }
            if let Some(dir) = self.dirs.get_mut(&part.dir) {
                dir.gone.values_mut().for_each(|gone| gone.sent = false);
                dir.own = std::mem::take(&mut dir.sent).then(dir.own);
                dir.own_since.get_or_insert_with(Instant::now);
                dir.failing = Some(error);
                dir.retry_at = Some(Instant::now() + RETRY);
            }
        }
        Vec::new()
    }

    fn remove(&mut self, id: InodeId) -> Option<Dir> {
        let dir = self.dirs.remove(&id)?;
        self.known_names = self.known_names.saturating_sub(dir.names.len());
        self.remembered = self.remembered.saturating_sub(dir.known.len());
        Some(dir)
    }

    /// A directory is somebody else's: what is not published is lost.
    fn lose_dir(&mut self, id: InodeId, error: FsError) -> Vec<(InodeId, FsError)> {
        self.undo_moves_of(id, error);
        let Some(dir) = self.remove(id) else { return Vec::new() };
        if !dir.is_quiet() {
            self.undone(id, error);
        }
        let lost: Vec<_> = dir.born.values().map(|inode| (*inode, error)).collect();
        for (inode, error) in &lost {
            self.births.remove(inode);
            self.lose(*inode, *error);
        }
        lost
    }

    /// The mount is at its end.
    pub fn lose_all(&mut self, error: FsError) -> Vec<(InodeId, FsError)> {
        let dirs: Vec<InodeId> = self.dirs.keys().copied().collect();
        self.fresh.clear();
        dirs.into_iter().flat_map(|dir| self.lose_dir(dir, error)).collect()
    }

    /// Changes of names were lost: whoever syncs the file or the directory next is told.
    pub fn undone(&mut self, inode: InodeId, error: FsError) {
        if self.undone.len() >= LOST_MAX
            && let Some(some) = self.undone.keys().next().copied()
        {
            self.undone.remove(&some);
        }
        self.undone.insert(inode, error);
        self.untold.insert(inode);
    }

    fn lose(&mut self, inode: InodeId, error: FsError) {
        self.lost.insert(inode, error);
        self.lost_order.push_back(inode);
        if self.lost_order.len() > LOST_MAX
            && let Some(oldest) = self.lost_order.pop_front()
        {
            self.lost.remove(&oldest);
        }
    }
}

/// What of a directory waits, as new files are counted.
fn waiting_in(dir: &Dir) -> usize {
    dir.born.len() + dir.unsent() * (MANY / MOVES_MANY)
}

/// Nothing of a directory.
pub(super) fn of_nothing(dir: InodeId, mtime: TimeNs, give_back: bool) -> Published {
    let (moved, born, set) = (Vec::new(), Vec::new(), SetAttr::default());
    Published { dir, moved, born, mtime, set, give_back }
}

fn is_at_least(time: &Option<SetTime>) -> bool {
    matches!(time, Some(SetTime::AtLeast { .. }))
}

fn published(birth: &Birth) -> Born {
    Born {
        name: birth.name.clone(),
        attr: birth.attr,
        target: birth.target.clone(),
        xattrs: birth.xattrs.clone(),
        extents: birth.extents.clone(),
        open: birth.held,
    }
}

/// About what it takes in a request.
fn bytes_of(birth: &Birth) -> usize {
    let xattrs: usize = birth.xattrs.iter().map(|xattr| xattr.value.len() + 64).sum();
    256 + birth.name.as_bytes().len() + birth.target.len() + birth.extents.len() * 64 + xattrs
}

#[cfg(test)]
mod tests;
