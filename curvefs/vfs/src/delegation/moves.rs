//! Names that move and go, as far as that is done here. Pure.
//!
//! Of what is not published nothing is left but its new name, or nothing at all. A published name is noted as *gone* in its directory, and its new
//! place as *placed*: however often it moves, that is one line, and one move when it is published. So names can be exchanged, replaced, and
//! come back.
//!
//! **What must hold.** All lines of a slot are published in one change (`Table::take`), so that no crash comes between a name that goes and the
//! one that takes its place. A new file that replaces a published one is therefore published before: its bytes may have to wait for the store.

use curvefs_types::limits::MOVED_PER_REQUEST_MAX;
use curvefs_types::{Attr, Dentry, FsError, InodeId, Kind, Name, NameAt, NameOp, RenameMode, Reply, TimeNs};

use super::dir::{Dir, Gone};
use super::table::Table;
use super::way::{Way, changed};
use crate::shared::{Core, now_ns};

/// Published names of a slot that were moved or removed and are not sent; whoever changes more waits. As many again may come back from a change that
/// could not be made.
const MOVES_MAX: usize = MOVED_PER_REQUEST_MAX / 2;
/// So many are published before their time.
pub(super) const MOVES_MANY: usize = MOVES_MAX / 2;

/// What the mount does with files at the moment.
pub(crate) trait Uses {
    /// Whether a file that was never published can be forgotten, with what was written to it. From now on it is not held open.
    fn let_go(&self, inode: InodeId) -> bool;

    /// Whether a file is open, or has bytes that are not published.
    fn is_used(&self, inode: InodeId) -> bool;
}

impl Uses for Core {
    fn let_go(&self, inode: InodeId) -> bool {
        Core::let_go(self, inode)
    }

    fn is_used(&self, inode: InodeId) -> bool {
        Core::is_used(self, inode)
    }
}

/// What the mount has to know of a change that was made here.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Told {
    /// A file that lost a name.
    pub unlinked: Option<InodeId>,
    /// A file that has another name: when, and in which directory.
    pub renamed: Option<(InodeId, TimeNs, InodeId)>,
    /// Many are not published.
    pub is_many: bool,
}

/// A name in a directory.
type Place<'a> = (InodeId, &'a Name);

fn at((dir, name): Place<'_>) -> NameAt {
    NameAt { dir, name: name.clone() }
}

/// What a name is at the moment.
#[derive(Clone, Debug)]
enum Found {
    /// A file that is not published.
    Born(InodeId),
    /// A published file that has this name from now on, and the one under which it is published.
    Placed(NameAt, Dentry),
    /// What it is published to be.
    There(Dentry),
    Absent,
    /// It has to be asked for.
    Unknown,
    /// It is being published.
    Waits,
}

impl Found {
    fn published(&self) -> Option<Dentry> {
        match self {
            Self::Placed(_, dentry) | Self::There(dentry) => Some(*dentry),
            _ => None,
        }
    }

    /// Lines that it makes if it moves or goes.
    fn lines(&self) -> usize {
        usize::from(matches!(self, Self::There(_)))
    }
}

impl Table {
    /// How a change of names goes on that may be one of this mount's own; `None`: as one that is its partition's. `may_ask`: for what a name
    /// names.
    pub fn way_here(&mut self, op: &NameOp, uses: &dyn Uses, may_ask: bool) -> Option<Way> {
        match op {
            NameOp::Unlink { parent, name } => self.unlink_here((*parent, name), uses, may_ask),
            NameOp::Rename { parent, name, new_parent, new_name, mode } => {
                let (from, to) = ((*parent, name), (*new_parent, new_name));
                let is_here = *mode != RenameMode::Exchange && parent.slot() == new_parent.slot();
                if is_here { self.rename_here(from, to, *mode, uses, may_ask) } else { None }
            }
            _ => None,
        }
    }

    /// A directory in which names may be changed here.
    fn ours(&self, dir: InodeId) -> Option<&Dir> {
        self.dirs.get(&dir).filter(|dir| !dir.closing)
    }

    /// Whether published names of a directory may be changed here: not while the partition changes some, or refuses.
    fn may_move(&self, dir: InodeId) -> bool {
        self.ours(dir).is_some_and(|dir| dir.passing == 0 && dir.failing.is_none())
    }

    /// `None`: it is not for this mount to say.
    fn found(&self, (id, name): Place<'_>) -> Option<Found> {
        let dir = self.ours(id)?;
        if let Some(inode) = dir.born.get(name) {
            let is_sent = self.births.get(inode)?.sent;
            return Some(if is_sent { Found::Waits } else { Found::Born(*inode) });
        }
        if let Some(origin) = dir.placed.get(name) {
            let gone = self.dirs.get(&origin.dir)?.gone.get(&origin.name)?;
            let placed = Found::Placed(origin.clone(), gone.dentry);
            return Some(if gone.sent { Found::Waits } else { placed });
        }
        if let Some(gone) = dir.gone.get(name) {
            return Some(if gone.sent { Found::Waits } else { Found::Absent });
        }
        Some(match dir.known.get(name) {
            Some(Some(dentry)) => Found::There(*dentry),
            None if dir.may_be(name) => Found::Unknown,
            Some(None) | None => Found::Absent,
        })
    }

    /// Names of a slot that were moved or removed and are not being published.
    pub fn unsent(&self, slot: u32) -> usize {
        self.dirs.iter().filter(|(id, _)| id.slot() == slot).map(|(_, dir)| dir.unsent()).sum()
    }

    fn is_movable(dentry: Dentry, slot: u32) -> bool {
        dentry.kind != Kind::Directory && dentry.inode.slot() == slot
    }

    fn unlink_here(&mut self, place: Place<'_>, uses: &dyn Uses, may_ask: bool) -> Option<Way> {
        let (slot, now) = (place.0.slot(), now_ns());
        let found = self.found(place)?;
        let before = self.unsent(slot);
        match &found {
            Found::Waits => return Some(Way::Wait(slot)),
            Found::Absent => return Some(changed(Err(FsError::NotFound))),
            Found::Unknown => return may_ask.then(|| Way::Find(at(place))),
            Found::Born(inode) => {
                let attr = self.forget(*inode, now, uses)?;
                self.touched(place.0, now);
                return Some(changed(Ok(Reply::Attr { attr, created: false })));
            }
            Found::Placed(..) | Found::There(_) => {}
        }
        let dentry = found.published()?;
        if !self.may_move(place.0) || !Self::is_movable(dentry, slot) || uses.is_used(dentry.inode) {
            return None;
        }
        if before + found.lines() > MOVES_MAX {
            return Some(Way::PublishMoves(slot));
        }
        self.remove_name(place, &found, now);
        self.touched(place.0, now);
        let told =
            Told { unlinked: Some(dentry.inode), renamed: None, is_many: self.grew_many(slot, before) };
        Some(Way::Moved(Reply::Done, told))
    }

    fn grew_many(&self, slot: u32, before: usize) -> bool {
        before < MOVES_MANY && self.unsent(slot) >= MOVES_MANY
    }

    fn rename_here(
        &mut self,
        from: Place<'_>,
        to: Place<'_>,
        mode: RenameMode,
        uses: &dyn Uses,
        may_ask: bool,
    ) -> Option<Way> {
        let slot = from.0.slot();
        let (source, target) = (self.found(from)?, self.found(to)?);
        if matches!(source, Found::Waits) || matches!(target, Found::Waits) {
            return Some(Way::Wait(slot));
        }
        for (found, place) in [(&source, from), (&target, to)] {
            if matches!(found, Found::Unknown) {
                return may_ask.then(|| Way::Find(at(place)));
            }
        }
        if matches!(source, Found::Absent) {
            return Some(changed(Err(FsError::NotFound)));
        }
        if mode == RenameMode::NoReplace && !matches!(target, Found::Absent) {
            return Some(changed(Err(FsError::Exists)));
        }
        if from == to {
            return (!matches!(source, Found::There(_))).then(|| changed(Ok(Reply::Done)));
        }
        if !self.can_rename((from, &source), (to, &target), uses) {
            return None;
        }
        let before = self.unsent(slot);
        let lines = source.lines() + target.lines();
        if lines > 0 && before + lines > MOVES_MAX {
            return Some(Way::PublishMoves(slot));
        }
        let now = now_ns();
        let mut other = None;
        match &target {
            Found::Born(inode) => other = Some(self.forget(*inode, now, uses)?),
            found => self.remove_name(to, found, now),
        }
        let moved = match &source {
            Found::Born(inode) => Some(self.rename_birth(*inode, from, to, now)?),
            found => {
                self.move_name(from, to, found, now);
                None
            }
        };
        self.touched(from.0, now);
        self.touched(to.0, now);
        let told = Told {
            unlinked: target.published().map(|dentry| dentry.inode),
            renamed: source.published().map(|dentry| (dentry.inode, now, to.0)),
            is_many: self.grew_many(slot, before),
        };
        let reply = match (moved, other) {
            (Some(moved), other) => Reply::Renamed { moved, other },
            (None, Some(attr)) => Reply::Attr { attr, created: false },
            (None, None) => Reply::Done,
        };
        Some(Way::Moved(reply, told))
    }

    fn can_rename(
        &self,
        (from, source): (Place<'_>, &Found),
        (to, target): (Place<'_>, &Found),
        uses: &dyn Uses,
    ) -> bool {
        let (source, target) = (source.published(), target.published());
        let slot = from.0.slot();
        if source.is_none() && target.is_none() {
            return true;
        }
        // Two names of one file are left as they are, and what replaces a published file is published.
        let fits = source.is_some() && source.map(|dentry| dentry.inode) != target.map(|dentry| dentry.inode);
        let movable = [source, target].into_iter().flatten().all(|dentry| Self::is_movable(dentry, slot));
        let may_move = self.may_move(from.0) && self.may_move(to.0);
        fits && movable && may_move && !target.is_some_and(|dentry| uses.is_used(dentry.inode))
    }

    fn rename_birth(&mut self, inode: InodeId, from: Place<'_>, to: Place<'_>, now: TimeNs) -> Option<Attr> {
        let moved = self.births.get_mut(&inode)?.rename(to.0, to.1, now);
        if let Some(dir) = self.dirs.get_mut(&from.0) {
            dir.born.remove(from.1);
        }
        if let Some(dir) = self.dirs.get_mut(&to.0) {
            dir.born.insert(to.1.clone(), inode);
        }
        Some(moved)
    }

    /// Forgets a file that was never published, with its name. `None`: it cannot be, since it is open, or the store has bytes of it, which
    /// its partition has to know to have them deleted.
    fn forget(&mut self, inode: InodeId, now: TimeNs, uses: &dyn Uses) -> Option<Attr> {
        let birth = self.births.get(&inode).filter(|birth| !birth.sent && birth.extents.is_empty())?;
        if !uses.let_go(inode) {
            return None;
        }
        if let Some(dir) = self.dirs.get_mut(&birth.dir) {
            dir.born.remove(&birth.name);
        }
        self.births.remove(&inode).map(|birth| birth.unlinked(now))
    }

    /// Whether a name is noted as gone.
    pub fn gone(&self, at: &NameAt) -> bool {
        self.dirs.get(&at.dir).is_some_and(|dir| dir.gone.contains_key(&at.name))
    }

    fn gone_mut(&mut self, at: &NameAt) -> Option<&mut Gone> {
        self.dirs.get_mut(&at.dir)?.gone.get_mut(&at.name)
    }

    fn add_line(&mut self, place: Place<'_>, dentry: Dentry, to: Option<NameAt>, now: TimeNs) {
        if let Some(dir) = self.dirs.get_mut(&place.0) {
            dir.gone.insert(place.1.clone(), Gone { dentry, to, at: now, sent: false });
            self.moving.entry(dentry.inode).or_default().push(at(place));
        }
    }

    fn set_placed(&mut self, place: Place<'_>, origin: NameAt) {
        if let Some(dir) = self.dirs.get_mut(&place.0) {
            dir.placed.insert(place.1.clone(), origin);
        }
    }

    fn unset_placed(&mut self, place: Place<'_>) {
        if let Some(dir) = self.dirs.get_mut(&place.0) {
            dir.placed.remove(place.1);
        }
    }

    /// A published file loses a name, if there is one.
    fn remove_name(&mut self, place: Place<'_>, found: &Found, now: TimeNs) {
        match found {
            Found::There(dentry) => self.add_line(place, *dentry, None, now),
            Found::Placed(origin, _) => {
                self.unset_placed(place);
                if let Some(gone) = self.gone_mut(origin) {
                    (gone.to, gone.at) = (None, now);
                }
            }
            _ => {}
        }
    }

    /// A published file gets a name that is free for another.
    fn move_name(&mut self, from: Place<'_>, to: Place<'_>, found: &Found, now: TimeNs) {
        match found {
            Found::There(dentry) => {
                self.add_line(from, *dentry, Some(at(to)), now);
                self.set_placed(to, at(from));
            }
            Found::Placed(origin, _) => {
                self.unset_placed(from);
                if *origin == at(to) {
                    // It is back.
                    self.end_line(origin);
                } else if let Some(gone) = self.gone_mut(origin) {
                    (gone.to, gone.at) = (Some(at(to)), now);
                    self.set_placed(to, origin.clone());
                }
            }
            _ => {}
        }
    }

    /// A line is no more. Its new place is the caller's to look after.
    fn end_line(&mut self, origin: &NameAt) -> Option<Gone> {
        let gone = self.dirs.get_mut(&origin.dir)?.gone.remove(&origin.name)?;
        if let Some(lines) = self.moving.get_mut(&gone.dentry.inode) {
            lines.retain(|line| line != origin);
            if lines.is_empty() {
                self.moving.remove(&gone.dentry.inode);
            }
        }
        Some(gone)
    }

    /// Names are published as they were moved or removed.
    pub fn end_moves(&mut self, origins: &[NameAt]) {
        let ended: Vec<_> = origins.iter().filter_map(|origin| self.end_line(origin)).collect();
        origins.iter().for_each(|origin| self.remember(origin, None));
        // Only now: some have taken the places of others.
        for gone in &ended {
            if let Some(to) = &gone.to {
                self.unset_placed((to.dir, &to.name));
                self.remember(to, Some(gone.dentry));
            }
        }
    }

    /// A name is what it was, since its move or removal was refused or lost; so is what it was to replace. What others have been moved to its place
    /// comes back to its own.
    pub fn undo_move(&mut self, origin: &NameAt, error: FsError) {
        let mut undone = vec![origin.clone()];
        while let Some(origin) = undone.pop() {
            let Some(gone) = self.end_line(&origin) else { continue };
            self.mistrust(&origin, error);
            self.undone(gone.dentry.inode, error);
            if let Some(to) = &gone.to {
                self.unset_placed((to.dir, &to.name));
                self.mistrust(to, error);
                let replaced = self.dirs.get(&to.dir).and_then(|dir| dir.gone.get(&to.name));
                undone.extend(replaced.filter(|gone| gone.to.is_none()).map(|_| to.clone()));
            }
            let placed = self.dirs.get(&origin.dir).and_then(|dir| dir.placed.get(&origin.name));
            undone.extend(placed.cloned());
        }
    }

    /// The moves of a directory that is somebody else's are lost.
    pub fn undo_moves_of(&mut self, dir: InodeId, error: FsError) {
        let Some(lost) = self.dirs.get(&dir) else { return };
        let gone = lost.gone.keys().map(|name| NameAt { dir, name: name.clone() });
        let origins: Vec<NameAt> = gone.chain(lost.placed.values().cloned()).collect();
        origins.iter().for_each(|origin| self.undo_move(origin, error));
    }

    /// A name may be something.
    fn mistrust(&mut self, at: &NameAt, error: FsError) {
        self.forget_known(at.dir, &at.name);
        self.may_be_from_now(at.dir, &at.name);
        self.undone(at.dir, error);
    }

    /// Whether a file has lost a name that it is published with.
    pub fn is_unlinked(&self, inode: InodeId) -> bool {
        self.lines_of(inode).any(|gone| gone.to.is_none())
    }

    fn lines_of(&self, inode: InodeId) -> impl Iterator<Item = &Gone> {
        let lines = self.moving.get(&inode).into_iter().flatten();
        lines.filter_map(|at| self.dirs.get(&at.dir)?.gone.get(&at.name))
    }

    /// Attributes that a partition told, with what it has not heard yet.
    pub fn see(&mut self, attr: &mut Attr) {
        if let Some(dir) = self.dirs.get_mut(&attr.inode) {
            *attr = dir.seen(*attr);
            return;
        }
        for gone in self.lines_of(attr.inode) {
            attr.ctime = attr.ctime.max(gone.at);
            if let (Some(to), 1) = (&gone.to, attr.nlink) {
                attr.parent = to.dir;
            }
        }
    }
}
