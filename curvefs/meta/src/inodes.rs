//! What happens to an inode when names come and go: in its own partition, whoever decides it.

use bytes::Bytes;
use curve_kv::KeyRange;
use curvefs_types::keys::{Key, tag};
use curvefs_types::limits::{LINKS_MAX, TARGET_BYTES_MAX, XATTR_VALUE_BYTES_MAX};
use curvefs_types::{
    Attr, DIRECTORY_BYTES, Dentry, DirUsage, FsError, InodeId, Kind, MODE_BITS, MODE_SETGID, Name, NewInode,
    Wire,
};

use crate::doom::REAPED_AT_ONCE;
use crate::fail::Step;
use crate::rows::UsageRow;
use crate::step::Change;
use crate::view::View;

/// What a new inode gets from its parent.
pub(crate) fn inherit(parent: &Attr, new: &NewInode) -> NewInode {
    let mut new = new.clone();
    if parent.mode & MODE_SETGID != 0 {
        new.gid = parent.gid;
        if new.kind == Kind::Directory {
            new.mode |= MODE_SETGID;
        }
    }
    new
}

fn check_new(new: &NewInode) -> Result<(), FsError> {
    let is_link = new.kind == Kind::Symlink;
    if new.target.len() > TARGET_BYTES_MAX {
        return Err(FsError::NameTooLong);
    }
    if is_link == new.target.is_empty() || new.target.contains(&0) {
        return Err(if is_link && new.target.is_empty() { FsError::NotFound } else { FsError::Invalid });
    }
    if new.xattrs.iter().any(|xattr| xattr.value.len() > XATTR_VALUE_BYTES_MAX) {
        return Err(FsError::AttributeTooBig);
    }
    Ok(())
}

impl Change<'_, '_> {
    /// The next number of the partition's slot.
    fn next_inode(&mut self) -> Step<InodeId> {
        let serial = self.header.next_serial;
        self.header.next_serial = serial + 1;
        Ok(InodeId::in_slot(self.header.slot, serial).ok_or(FsError::NoSpace)?)
    }

    /// Makes an inode with one name in a directory, which may be elsewhere.
    pub fn make_inode(&mut self, parent: InodeId, new: &NewInode) -> Step<Attr> {
        check_new(new)?;
        let inode = self.next_inode()?;
        self.make_inode_as(inode, parent, new)
    }

    /// The same under a number that was given before.
    pub fn make_inode_as(&mut self, inode: InodeId, parent: InodeId, new: &NewInode) -> Step<Attr> {
        let is_dir = new.kind == Kind::Directory;
        let attr = Attr {
            inode,
            kind: new.kind,
            mode: new.mode & MODE_BITS,
            uid: new.uid,
            gid: new.gid,
            nlink: if is_dir { 2 } else { 1 },
            rdev: if matches!(new.kind, Kind::CharDevice | Kind::BlockDevice) { new.rdev } else { 0 },
            flags: 0,
            length: if is_dir { DIRECTORY_BYTES } else { new.target.len() as u64 },
            allocated: 0,
            atime: self.now,
            mtime: self.now,
            ctime: self.now,
            parent,
            version: 1,
            generation: 1,
        };
        self.put(&Key::Inode { inode }, &attr);
        if new.kind == Kind::Symlink {
            self.put_bytes(&Key::Target { inode }, new.target.clone());
        }
        for xattr in &new.xattrs {
            self.put_bytes(&Key::Xattr { inode, name: xattr.name.clone() }, xattr.value.clone());
        }
        self.count(None, Some(&attr));
        if is_dir {
            self.put(&Key::Usage { dir: inode }, &UsageRow { usage: DirUsage::default(), version: 1 });
        } else {
            self.account(None, Some(&attr))?;
        }
        Ok(attr)
    }

    /// Takes the name of an empty directory away.
    pub fn remove_dir(&mut self, inode: InodeId) -> Step<Attr> {
        let mut attr = self.free_inode(inode)?;
        if !attr.is_dir() {
            return Err(FsError::NotDir.into());
        }
        if self.holder_of(inode)?.is_some() {
            // Whoever has it may have made and removed names and not told yet, be it the one who asks.
            return Err(FsError::Delegated { dir: inode }.into());
        }
        if self.has_entries(inode)? {
            return Err(FsError::NotEmpty.into());
        }
        attr.nlink = 0;
        self.touch(&mut attr);
        self.delete(&Key::Dirty { inode });
        self.doom(&attr)?;
        Ok(attr)
    }

    /// Counts a name more of what is no directory.
    pub fn add_link(&mut self, inode: InodeId, dir: InodeId) -> Step<Attr> {
        let mut attr = self.free_inode(inode)?;
        if attr.is_dir() {
            return Err(FsError::NotPermitted.into());
        }
        if attr.nlink == 0 {
            return Err(FsError::NotFound.into());
        }
        if attr.nlink >= LINKS_MAX {
            return Err(FsError::TooManyLinks.into());
        }
        let first = Key::Link { inode, dir: attr.parent };
        if !self.has(&first)? {
            self.put(&first, &1u32);
        }
        self.add_names(inode, dir, 1)?;
        attr.nlink += 1;
        self.touch(&mut attr);
        Ok(attr)
    }

    /// Counts a name less of what is no directory. The last one dooms it.
    pub fn drop_link(&mut self, inode: InodeId, dir: InodeId) -> Step<Attr> {
        let before = self.free_inode(inode)?;
        if before.is_dir() {
            return Err(FsError::IsDir.into());
        }
        let mut attr = before;
        attr.nlink = attr.nlink.saturating_sub(1);
        if self.has(&Key::Link { inode, dir })? {
            self.add_names(inode, dir, -1)?;
            if attr.nlink > 0 && attr.parent == dir && !self.has(&Key::Link { inode, dir })? {
                attr.parent = self.first_dir_of(inode)?.unwrap_or(dir);
            }
        }
        self.account(Some(&before), Some(&attr).filter(|attr| attr.nlink > 0))?;
        self.touch(&mut attr);
        if attr.nlink == 0 {
            self.delete(&Key::Dirty { inode });
            self.doom(&attr)?;
        }
        Ok(attr)
    }

    /// The inode's name has moved from one directory to another, or within one.
    pub fn move_inode(&mut self, inode: InodeId, from: InodeId, to: InodeId) -> Step<Attr> {
        let before = self.free_inode(inode)?;
        let mut attr = before;
        if attr.is_dir() {
            attr.parent = to;
            self.touch(&mut attr);
            self.retell(inode)?;
            return Ok(attr);
        }
        if from != to {
            self.move_file(&mut attr, from, to)?;
        }
        self.touch(&mut attr);
        self.account(Some(&before), Some(&attr))?;
        if !self.is_here(attr.parent) {
            self.mark_dirty(inode);
        }
        Ok(attr)
    }

    fn move_file(&mut self, attr: &mut Attr, from: InodeId, to: InodeId) -> Step<()> {
        let inode = attr.inode;
        if !self.has(&Key::Link { inode, dir: from })? {
            attr.parent = to;
            return Ok(());
        }
        self.add_names(inode, from, -1)?;
        self.add_names(inode, to, 1)?;
        if attr.parent == from && !self.has(&Key::Link { inode, dir: from })? {
            attr.parent = to;
        }
        Ok(())
    }

    fn add_names(&mut self, inode: InodeId, dir: InodeId, by: i64) -> Step<()> {
        let key = Key::Link { inode, dir };
        let names = i64::from(self.row::<u32>(&key)?.unwrap_or(0)) + by;
        match u32::try_from(names) {
            Ok(0) | Err(_) => self.delete(&key),
            Ok(names) => self.put(&key, &names),
        }
        Ok(())
    }

    fn first_dir_of(&self, inode: InodeId) -> Step<Option<InodeId>> {
        let page = self.page(&KeyRange::prefix(Key::prefix(tag::LINK, inode.0)), 1)?;
        Ok(page.first().and_then(|(key, _)| match key {
            Key::Link { dir, .. } => Some(*dir),
            _ => None,
        }))
    }

    /// Sets a name.
    pub fn put_dentry(&mut self, dir: InodeId, name: &Name, dentry: Dentry) {
        self.put_bytes(&Key::Dentry { dir, name: name.clone() }, Bytes::from(dentry.to_row()));
    }

    /// Removes a name that must name something, for a rename that is decided elsewhere.
    pub fn remove_name(&mut self, dir: InodeId, name: &Name, was: Dentry) -> Step<()> {
        let mut attr = self.free_dir(dir)?;
        self.check_names(dir, name, was)?;
        self.delete(&Key::Dentry { dir, name: name.clone() });
        self.lose_name(&mut attr, was)?;
        self.touch_dir(&mut attr);
        Ok(())
    }

    /// Lets a name that must name something name something else.
    pub fn replace_name(&mut self, dir: InodeId, name: &Name, was: Dentry, becomes: Dentry) -> Step<()> {
        let mut attr = self.free_dir(dir)?;
        self.check_names(dir, name, was)?;
        self.put_dentry(dir, name, becomes);
        self.lose_name(&mut attr, was)?;
        self.gain_name(&mut attr, becomes)?;
        self.touch_dir(&mut attr);
        Ok(())
    }

    fn check_names(&self, dir: InodeId, name: &Name, was: Dentry) -> Step<()> {
        match self.free_dentry(dir, name)? {
            Some(found) if found == was => Ok(()),
            // Somebody was faster: plan again.
            Some(_) => Err(FsError::Busy.into()),
            None => Err(FsError::NotFound.into()),
        }
    }

    /// An inode without a name: gone at once if nobody holds it and it is small.
    fn doom(&mut self, attr: &Attr) -> Step<()> {
        self.mark(&Key::Doomed { inode: attr.inode });
        if !self.is_held(attr.inode)? {
            self.reap(attr.inode, REAPED_AT_ONCE)?;
        }
        Ok(())
    }
}
