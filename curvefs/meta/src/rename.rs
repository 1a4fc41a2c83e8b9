//! Rename. Its home is the partition of the target directory.

use curvefs_types::keys::Key;
use curvefs_types::limits::{DEPTH_MAX, LINKS_MAX};
use curvefs_types::{Attr, Dentry, FsError, InodeId, Kind, Name, Part, RenameMode, Reply};

use crate::fail::Step;
use crate::others::{Others, Walk};
use crate::step::Change;
use crate::view::View;

/// What is moved where.
pub(crate) struct Rename<'a> {
    pub parent: InodeId,
    pub name: &'a Name,
    pub new_parent: InodeId,
    pub new_name: &'a Name,
    pub mode: RenameMode,
}

/// What the two names name.
#[derive(Clone, Copy)]
struct Ends {
    source: Dentry,
    target: Option<Dentry>,
}

fn is_dir(dentry: Dentry) -> bool {
    dentry.kind == Kind::Directory
}

impl Change<'_, '_> {
    /// Moves a name.
    pub fn rename(&mut self, op: &Rename<'_>) -> Step<Reply> {
        let ends = self.ends(op)?;
        let same_name = op.parent == op.new_parent && op.name == op.new_name;
        if op.mode == RenameMode::NoReplace && ends.target.is_some() {
            return Err(FsError::Exists.into());
        }
        if op.mode == RenameMode::Exchange && ends.target.is_none() {
            return Err(FsError::NotFound.into());
        }
        if same_name || ends.target.is_some_and(|target| target.inode == ends.source.inode) {
            return self.nothing_to_do(op, ends);
        }
        self.check_kinds(op, ends)?;
        self.check_tree(op, ends)?;
        match (op.mode, ends.target) {
            (RenameMode::Exchange, Some(target)) => self.exchange(op, ends.source, target),
            (_, target) => self.replace(op, ends.source, target),
        }
    }

    fn ends(&mut self, op: &Rename<'_>) -> Step<Ends> {
        self.free_dir(op.new_parent)?;
        let source = if self.is_here(op.parent) {
            self.free_dir(op.parent)?;
            self.free_dentry(op.parent, op.name)?.ok_or(FsError::NotFound)?
        } else {
            self.others.source()?
        };
        Ok(Ends { source, target: self.free_dentry(op.new_parent, op.new_name)? })
    }

    /// Both names are the same file's: POSIX says that nothing happens. What was prepared for it is given back.
    fn nothing_to_do(&mut self, op: &Rename<'_>, ends: Ends) -> Step<Reply> {
        if !self.is_here(op.parent) && !self.others.is_planning() {
            // A dry run knows it too, so nothing should have been prepared.
            return Err(FsError::Busy.into());
        }
        if self.is_here(ends.source.inode) {
            self.free_inode(ends.source.inode)?;
        }
        Ok(Reply::Done)
    }

    fn check_kinds(&self, op: &Rename<'_>, ends: Ends) -> Step<()> {
        let Some(target) = ends.target.filter(|_| op.mode == RenameMode::Replace) else { return Ok(()) };
        match (is_dir(ends.source), is_dir(target)) {
            (true, false) => Err(FsError::NotDir.into()),
            (false, true) => Err(FsError::IsDir.into()),
            _ => Ok(()),
        }
    }

    /// Nothing may be moved below itself.
    fn check_tree(&mut self, op: &Rename<'_>, ends: Ends) -> Step<()> {
        if op.parent == op.new_parent {
            return Ok(());
        }
        let mut walks = Vec::new();
        if is_dir(ends.source) {
            walks.push(Walk { from: op.new_parent, avoid: ends.source.inode });
        }
        if let Some(target) = ends.target.filter(|target| is_dir(*target) && op.mode == RenameMode::Exchange)
        {
            walks.push(Walk { from: op.parent, avoid: target.inode });
        }
        if walks.is_empty() {
            return Ok(());
        }
        if !self.others.has_tree_lock() && self.is_here(InodeId::ROOT) && self.walk_here(&walks)? {
            return if self.has(&Key::TreeLock {})? { Err(FsError::Busy.into()) } else { Ok(()) };
        }
        if let Others::Planning(planning) = &mut self.others {
            planning.walks = walks;
        }
        self.others.need(Part::LockTree)?;
        Ok(())
    }

    /// Walks up in this partition; false if that is not possible.
    fn walk_here(&self, walks: &[Walk]) -> Step<bool> {
        for walk in walks {
            let mut at = walk.from;
            let mut steps = 0;
            while at != InodeId::ROOT && at != walk.avoid {
                if !self.is_here(at) || steps == DEPTH_MAX {
                    return Ok(false);
                }
                at = self.free_inode(at)?.parent;
                steps += 1;
            }
            if at == walk.avoid {
                return Err(FsError::Invalid.into());
            }
        }
        Ok(true)
    }

    /// Moves an inode from one directory to another, wherever it is.
    fn move_anywhere(&mut self, inode: InodeId, from: InodeId, to: InodeId) -> Step<Option<Attr>> {
        if self.is_here(inode) {
            return Ok(Some(self.move_inode(inode, from, to)?));
        }
        self.others.need(Part::Move { inode, from, to })
    }

    fn replace(&mut self, op: &Rename<'_>, source: Dentry, target: Option<Dentry>) -> Step<Reply> {
        let other = match target {
            Some(target) if is_dir(target) => self.remove_dir_anywhere(target.inode)?,
            Some(target) => self.drop_link_anywhere(target.inode, op.new_parent)?,
            None => None,
        };
        let moved = self.move_anywhere(source.inode, op.parent, op.new_parent)?;
        if !self.is_here(op.parent) {
            let part = Part::RemoveName { dir: op.parent, name: op.name.clone(), was: source };
            self.others.need(part)?;
        } else if op.parent != op.new_parent {
            self.remove_name(op.parent, op.name, source)?;
        }
        let mut dir = self.free_dir(op.new_parent)?;
        if op.parent == op.new_parent {
            self.delete(&Key::Dentry { dir: op.parent, name: op.name.clone() });
            self.lose_name(&mut dir, source)?;
        }
        if let Some(target) = target {
            self.lose_name(&mut dir, target)?;
        }
        if is_dir(source) && dir.nlink >= LINKS_MAX {
            return Err(FsError::TooManyLinks.into());
        }
        self.put_dentry(op.new_parent, op.new_name, source);
        self.gain_name(&mut dir, source)?;
        self.touch_dir(&mut dir);
        Ok(moved.map_or(Reply::Done, |moved| Reply::Renamed { moved, other }))
    }

    fn exchange(&mut self, op: &Rename<'_>, source: Dentry, target: Dentry) -> Step<Reply> {
        let moved = self.move_anywhere(source.inode, op.parent, op.new_parent)?;
        let other = self.move_anywhere(target.inode, op.new_parent, op.parent)?;
        if self.is_here(op.parent) {
            self.replace_name(op.parent, op.name, source, target)?;
        } else {
            let name = op.name.clone();
            self.others.need(Part::ReplaceName { dir: op.parent, name, was: source, becomes: target })?;
        }
        self.replace_name(op.new_parent, op.new_name, target, source)?;
        Ok(moved.map_or(Reply::Done, |moved| Reply::Renamed { moved, other }))
    }
}
