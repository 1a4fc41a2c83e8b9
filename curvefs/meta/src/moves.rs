//! Published names that a mount has moved or removed in its directories (see `curvefs_types`, `delegation.rs`).

use std::collections::BTreeSet;

use curvefs_types::keys::Key;
use curvefs_types::{Attr, InodeId, Kind, Moved, Name, NameAt, Published};

use crate::fail::Step;
use crate::step::Change;
use crate::view::View;

/// One of them, and whether it can be.
struct Move<'a> {
    dir: InodeId,
    moved: &'a Moved,
    /// Something has its new place before all this.
    is_taken: bool,
    can_be: bool,
}

impl<'a> Move<'a> {
    fn from(&self) -> (InodeId, &'a Name) {
        (self.dir, &self.moved.name)
    }

    fn to(&self) -> Option<(InodeId, &'a Name)> {
        self.moved.to.as_ref().map(|to| (to.dir, &to.name))
    }
}

impl Change<'_, '_> {
    /// Moves and removes names in directories that are the mount's. Gives those that are what they were.
    pub fn publish_moves(&mut self, dirs: &[&Published]) -> Step<Vec<NameAt>> {
        let mut moves = Vec::new();
        let mut seen = BTreeSet::new();
        for published in dirs.iter().filter(|published| !published.moved.is_empty()) {
            let dir = published.dir;
            self.free_dir(dir)?;
            for moved in &published.moved {
                let first = seen.insert((dir, &moved.name));
                let is_taken = match &moved.to {
                    Some(to) => self.free_dentry(to.dir, &to.name)?.is_some(),
                    None => false,
                };
                let can_be = first && self.can_move(dir, moved)?;
                moves.push(Move { dir, moved, is_taken, can_be });
            }
        }
        settle(&mut moves);
        let (done, left): (Vec<_>, Vec<_>) = moves.into_iter().partition(|one| one.can_be);
        for one in &done {
            let Moved { name, dentry, .. } = one.moved;
            self.delete(&Key::Dentry { dir: one.dir, name: name.clone() });
            let mut dir = self.inode(one.dir)?;
            self.lose_name(&mut dir, *dentry)?;
        }
        for one in &done {
            self.put_moved(one.dir, one.moved)?;
        }
        Ok(left.into_iter().map(|one| NameAt { dir: one.dir, name: one.moved.name.clone() }).collect())
    }

    /// Whether a name is what the mount says, and where it is to be may be changed by the mount.
    fn can_move(&self, dir: InodeId, moved: &Moved) -> Step<bool> {
        let Moved { name, dentry, to, .. } = moved;
        if dentry.kind == Kind::Directory
            || !self.is_here(dentry.inode)
            || self.free_dentry(dir, name)? != Some(*dentry)
        {
            return Ok(false);
        }
        self.check_inode_free(dentry.inode)?;
        let attr = self.row::<Attr>(&Key::Inode { inode: dentry.inode })?;
        if attr.is_none_or(|attr| attr.is_dir() || attr.nlink == 0) {
            return Ok(false);
        }
        let Some(to) = to else { return Ok(true) };
        if !self.is_here(to.dir) || self.holder_of(to.dir)? != Some(self.mount) {
            return Ok(false);
        }
        self.free_dir(to.dir)?;
        Ok(true)
    }

    /// Its old name is gone already. Times are those of the mount's.
    fn put_moved(&mut self, dir: InodeId, moved: &Moved) -> Step<()> {
        let Moved { dentry, to, at, .. } = moved;
        let before = self.inode(dentry.inode)?.ctime;
        let mut attr = match to {
            Some(to) => {
                self.put_dentry(to.dir, &to.name, *dentry);
                let mut target = self.inode(to.dir)?;
                self.gain_name(&mut target, *dentry)?;
                self.move_inode(dentry.inode, dir, to.dir)?
            }
            None => self.drop_link(dentry.inode, dir)?,
        };
        if attr.nlink > 0 {
            attr.ctime = before.max(*at);
            self.put(&Key::Inode { inode: attr.inode }, &attr);
        }
        Ok(())
    }
}

/// Finds what cannot be, since something is in the way that stays. What was to be replaced by such a name stays, too.
fn settle(moves: &mut [Move<'_>]) {
    loop {
        let unplaced: BTreeSet<_> = moves.iter().filter(|one| !one.can_be).filter_map(Move::to).collect();
        let going: BTreeSet<_> = moves.iter().filter(|one| one.can_be).map(Move::from).collect();
        let mut placed = BTreeSet::new();
        let mut is_settled = true;
        for one in moves.iter_mut().filter(|one| one.can_be) {
            one.can_be = match one.to() {
                Some(to) => (!one.is_taken || going.contains(&to)) && placed.insert(to),
                None => !unplaced.contains(&one.from()),
            };
            is_settled &= one.can_be;
        }
        if is_settled {
            return;
        }
    }
}
