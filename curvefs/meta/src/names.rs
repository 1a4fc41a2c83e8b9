//! Names that come and go: create, mkdir, unlink, rmdir, link.

use curvefs_types::keys::Key;
use curvefs_types::limits::LINKS_MAX;
use curvefs_types::{Attr, Dentry, FsError, InodeId, Kind, Name, NameOp, NewInode, Part, PartitionId, Reply};

use crate::fail::Step;
use crate::inodes::inherit;
use crate::others::Others;
use crate::step::Change;
use crate::view::View;

/// An inode that something was done to: here, or by another partition. A dry run does not know the latter's.
type Touched = Option<Attr>;

impl Change<'_, '_> {
    /// Does a change of names whose home this partition is.
    pub fn name_op(&mut self, op: &NameOp) -> Step<Reply> {
        self.check_here(op.home())?;
        let reply = match op {
            NameOp::Create { parent, name, new, open, or_open } => {
                self.create(*parent, name, new, *open, *or_open)
            }
            NameOp::Mkdir { parent, name, new, place } => self.mkdir(*parent, name, new, *place),
            NameOp::Unlink { parent, name } => self.unlink(*parent, name),
            NameOp::Rmdir { parent, name } => self.rmdir(*parent, name),
            NameOp::Link { inode, parent, name } => self.link(*inode, *parent, name),
            NameOp::Rename { parent, name, new_parent, new_name, mode } => {
                self.rename(&crate::rename::Rename {
                    parent: *parent,
                    name,
                    new_parent: *new_parent,
                    new_name,
                    mode: *mode,
                })
            }
        }?;
        self.others.check_all_used()?;
        Ok(reply)
    }

    fn add_name(&mut self, dir: &mut Attr, name: &Name, dentry: Dentry) -> Step<()> {
        self.put_dentry(dir.inode, name, dentry);
        self.gain_name(dir, dentry)?;
        self.touch_dir(dir);
        Ok(())
    }

    fn take_name(&mut self, dir: &mut Attr, name: &Name, dentry: Dentry) -> Step<()> {
        self.delete(&Key::Dentry { dir: dir.inode, name: name.clone() });
        self.lose_name(dir, dentry)?;
        self.touch_dir(dir);
        Ok(())
    }

    fn create(
        &mut self,
        parent: InodeId,
        name: &Name,
        new: &NewInode,
        open: bool,
        or_open: bool,
    ) -> Step<Reply> {
        if new.kind == Kind::Directory {
            return Err(FsError::Invalid.into());
        }
        let mut dir = self.free_dir(parent)?;
        if let Some(found) = self.free_dentry(parent, name)? {
            if !or_open || found.kind != Kind::File || !self.is_here(found.inode) {
                return Err(FsError::Exists.into());
            }
            let attr = self.free_inode(found.inode)?;
            if open {
                self.hold(found.inode);
            }
            return Ok(Reply::Attr { attr, created: false });
        }
        let attr = self.make_inode(parent, &inherit(&dir, new))?;
        self.add_name(&mut dir, name, Dentry { inode: attr.inode, kind: attr.kind })?;
        if open {
            self.hold(attr.inode);
        }
        Ok(Reply::Attr { attr, created: true })
    }

    fn mkdir(
        &mut self,
        parent: InodeId,
        name: &Name,
        new: &NewInode,
        place: Option<PartitionId>,
    ) -> Step<Reply> {
        if new.kind != Kind::Directory {
            return Err(FsError::Invalid.into());
        }
        let mut dir = self.free_dir(parent)?;
        if self.free_dentry(parent, name)?.is_some() {
            return Err(FsError::Exists.into());
        }
        if dir.nlink >= LINKS_MAX {
            return Err(FsError::TooManyLinks.into());
        }
        let new = inherit(&dir, new);
        let made = match place.filter(|place| *place != self.header.partition) {
            Some(place) => {
                if let Others::Planning(planning) = &mut self.others {
                    planning.place = Some(place);
                }
                self.others.need(Part::MakeDir { parent, new })?
            }
            None => Some(self.make_inode(parent, &new)?),
        };
        let Some(attr) = made else { return Ok(Reply::Done) };
        self.add_name(&mut dir, name, Dentry { inode: attr.inode, kind: Kind::Directory })?;
        Ok(Reply::Attr { attr, created: true })
    }

    /// Takes a name from what is no directory.
    pub fn drop_link_anywhere(&mut self, inode: InodeId, dir: InodeId) -> Step<Touched> {
        if self.is_here(inode) {
            return Ok(Some(self.drop_link(inode, dir)?));
        }
        self.others.need(Part::DropLink { inode, dir })
    }

    /// Takes the name from an empty directory.
    pub fn remove_dir_anywhere(&mut self, inode: InodeId) -> Step<Touched> {
        if self.is_here(inode) {
            return Ok(Some(self.remove_dir(inode)?));
        }
        self.others.need(Part::RemoveDir { inode })
    }

    fn unlink(&mut self, parent: InodeId, name: &Name) -> Step<Reply> {
        let mut dir = self.free_dir(parent)?;
        let dentry = self.free_dentry(parent, name)?.ok_or(FsError::NotFound)?;
        if dentry.kind == Kind::Directory {
            return Err(FsError::IsDir.into());
        }
        let touched = self.drop_link_anywhere(dentry.inode, parent)?;
        self.take_name(&mut dir, name, dentry)?;
        Ok(touched.map_or(Reply::Done, |attr| Reply::Attr { attr, created: false }))
    }

    fn rmdir(&mut self, parent: InodeId, name: &Name) -> Step<Reply> {
        let mut dir = self.free_dir(parent)?;
        let dentry = self.free_dentry(parent, name)?.ok_or(FsError::NotFound)?;
        if dentry.kind != Kind::Directory {
            return Err(FsError::NotDir.into());
        }
        let touched = self.remove_dir_anywhere(dentry.inode)?;
        self.take_name(&mut dir, name, dentry)?;
        Ok(touched.map_or(Reply::Done, |attr| Reply::Attr { attr, created: false }))
    }

    fn link(&mut self, inode: InodeId, parent: InodeId, name: &Name) -> Step<Reply> {
        let mut dir = self.free_dir(parent)?;
        if self.free_dentry(parent, name)?.is_some() {
            return Err(FsError::Exists.into());
        }
        let touched = if self.is_here(inode) {
            Some(self.add_link(inode, parent)?)
        } else {
            self.others.need(Part::AddLink { inode, dir: parent })?
        };
        let Some(attr) = touched else { return Ok(Reply::Done) };
        self.add_name(&mut dir, name, Dentry { inode, kind: attr.kind })?;
        Ok(Reply::Attr { attr, created: false })
    }
}
