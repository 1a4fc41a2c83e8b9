//! Names that move and go, as far as that is done here. Pure.

use curvefs_types::{Attr, FsError, InodeId, Name, NameOp, RenameMode, Reply, TimeNs};

use super::dir::Dir;
use super::table::Table;
use super::way::{Way, changed};
use crate::shared::{Core, now_ns};

/// What the mount does with files at the moment.
pub(crate) trait Uses {
    /// Whether a file that was never published can be forgotten, with what was written to it.
    fn let_go(&self, inode: InodeId) -> bool;
}

impl Uses for Core {
    fn let_go(&self, inode: InodeId) -> bool {
        Core::let_go(self, inode)
    }
}

/// A name in a directory.
type Place<'a> = (InodeId, &'a Name);

impl Table {
    /// How a change of names goes on that may be one of this mount's own; `None`: as one that is its partition's.
    pub fn way_here(&mut self, op: &NameOp, uses: &dyn Uses) -> Option<Way> {
        match op {
            NameOp::Unlink { parent, name } => self.unlink_here(*parent, name, uses),
            NameOp::Rename { parent, name, new_parent, new_name, mode } => {
                self.rename_here((*parent, name), (*new_parent, new_name), *mode, uses)
            }
            _ => None,
        }
    }

    /// A directory in which names may be changed here.
    fn ours(&self, dir: InodeId) -> Option<&Dir> {
        self.dirs.get(&dir).filter(|dir| !dir.closing)
    }

    fn unlink_here(&mut self, parent: InodeId, name: &Name, uses: &dyn Uses) -> Option<Way> {
        let inode = *self.ours(parent)?.born.get(name)?;
        if self.births.get(&inode)?.sent {
            return Some(Way::Wait(parent.slot()));
        }
        let now = now_ns();
        let attr = self.forget(inode, now, uses)?;
        self.touched(parent, now);
        Some(changed(Ok(Reply::Attr { attr, created: false })))
    }

    fn rename_here(
        &mut self,
        (parent, name): Place<'_>,
        (new_parent, new_name): Place<'_>,
        mode: RenameMode,
        uses: &dyn Uses,
    ) -> Option<Way> {
        if mode == RenameMode::Exchange || parent.slot() != new_parent.slot() {
            return None;
        }
        let source = *self.ours(parent)?.born.get(name)?;
        let target_dir = self.ours(new_parent)?;
        let target = target_dir.born.get(new_name).copied();
        if target.is_none() && target_dir.may_be(new_name) {
            return None;
        }
        if target.is_some() && mode == RenameMode::NoReplace {
            return Some(changed(Err(FsError::Exists)));
        }
        let is_sent = |inode: InodeId| self.births.get(&inode).is_some_and(|birth| birth.sent);
        if is_sent(source) || target.is_some_and(is_sent) {
            return Some(Way::Wait(parent.slot()));
        }
        if target == Some(source) {
            return Some(changed(Ok(Reply::Done)));
        }
        let now = now_ns();
        let other = match target {
            Some(target) => Some(self.forget(target, now, uses)?),
            None => None,
        };
        let moved = self.births.get_mut(&source)?.rename(new_parent, new_name, now);
        if let Some(dir) = self.touched(parent, now) {
            dir.born.remove(name);
        }
        if let Some(dir) = self.touched(new_parent, now) {
            dir.born.insert(new_name.clone(), source);
        }
        Some(changed(Ok(Reply::Renamed { moved, other })))
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
}
