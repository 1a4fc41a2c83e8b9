//! Attributes, extended ones, and who holds an inode open.

use curve_kv::KeyRange;
use curvefs_types::keys::{Key, tag};
use curvefs_types::limits::{CLOSES_PER_REQUEST_MAX, XATTR_LIST_BYTES_MAX, XATTR_VALUE_BYTES_MAX};
use curvefs_types::{
    Attr, FsError, InodeId, Kind, MODE_BITS, Reply, SetAttr, Xattr, XattrName, without_privileges,
};

use crate::acl::{self, ACCESS_ACL};
use crate::doom::REAPED_AT_ONCE;
use crate::fail::Step;
use crate::step::Change;
use crate::view::View;

impl Change<'_, '_> {
    /// An inode of this partition that may be changed.
    pub fn own_inode(&self, inode: InodeId) -> Step<Attr> {
        self.check_here(inode)?;
        let attr = self.free_inode(inode)?;
        if attr.is_dir() {
            self.check_holder(inode)?;
        }
        Ok(attr)
    }

    /// Sets attributes.
    pub fn set_attrs(&mut self, inode: InodeId, set: &SetAttr) -> Step<Attr> {
        let mut attr = self.own_inode(inode)?;
        if set.kill_priv {
            attr.mode = without_privileges(attr.mode);
        }
        if let Some(mode) = set.mode {
            if attr.kind == Kind::Symlink {
                return Err(FsError::NotSupported.into());
            }
            attr.mode = mode & MODE_BITS;
            self.adapt_acl(&attr)?;
        }
        attr.uid = set.uid.unwrap_or(attr.uid);
        attr.gid = set.gid.unwrap_or(attr.gid);
        attr.atime = set.atime.map_or(attr.atime, |time| time.after(attr.atime, self.now));
        attr.mtime = set.mtime.map_or(attr.mtime, |time| time.after(attr.mtime, self.now));
        attr.flags = set.flags.unwrap_or(attr.flags);
        self.touch(&mut attr);
        Ok(attr)
    }

    /// `chmod` changes an access ACL too.
    fn adapt_acl(&mut self, attr: &Attr) -> Step<()> {
        let key = Key::Xattr { inode: attr.inode, name: acl::access_name() };
        if let Some(old) = self.rows().get_row(&key.encode())?
            && let Some(new) = acl::with_mode(&old, attr.mode)
        {
            self.put_bytes(&key, new.into());
        }
        Ok(())
    }

    /// Sets an extended attribute.
    pub fn set_xattr(&mut self, inode: InodeId, xattr: &Xattr, create: bool, replace: bool) -> Step<Reply> {
        let mut attr = self.own_inode(inode)?;
        if create && replace {
            return Err(FsError::Invalid.into());
        }
        if xattr.value.len() > XATTR_VALUE_BYTES_MAX {
            return Err(FsError::AttributeTooBig.into());
        }
        let key = Key::Xattr { inode, name: xattr.name.clone() };
        let there = self.has(&key)?;
        if there && create {
            return Err(FsError::Exists.into());
        }
        if !there && replace {
            return Err(FsError::NoAttribute.into());
        }
        if !there && names_bytes(self, inode)? + xattr.name.as_bytes().len() + 1 > XATTR_LIST_BYTES_MAX {
            return Err(FsError::NoSpace.into());
        }
        let mut keep = true;
        if xattr.name.as_bytes() == ACCESS_ACL {
            let acl = acl::mode_of(&xattr.value).ok_or(FsError::Invalid)?;
            attr.mode = attr.mode & !0o777 | acl.mode;
            keep = acl.says_more;
        }
        if keep {
            self.put_bytes(&key, xattr.value.clone());
        } else {
            self.delete(&key);
        }
        self.touch(&mut attr);
        Ok(Reply::Attr { attr, created: false })
    }

    /// Removes an extended attribute.
    pub fn remove_xattr(&mut self, inode: InodeId, name: &XattrName) -> Step<Reply> {
        let mut attr = self.own_inode(inode)?;
        let key = Key::Xattr { inode, name: name.clone() };
        if !self.has(&key)? {
            return Err(FsError::NoAttribute.into());
        }
        self.delete(&key);
        self.touch(&mut attr);
        Ok(Reply::Attr { attr, created: false })
    }

    /// The mount holds an inode from now on.
    pub fn hold(&mut self, inode: InodeId) {
        self.mark(&Key::Holder { inode, mount: self.mount });
        self.mark(&Key::Held { mount: self.mount, inode });
    }

    /// Opens.
    pub fn open(&mut self, inode: InodeId, truncate: bool) -> Step<Reply> {
        let mut attr = self.own_inode(inode)?;
        if attr.nlink == 0 && !self.has(&Key::Holder { inode, mount: self.mount })? {
            return Err(FsError::Stale.into());
        }
        if truncate {
            attr = self.truncate(inode, 0, true)?;
        }
        self.hold(inode);
        Ok(Reply::Attr { attr, created: false })
    }

    /// The mount holds these no longer.
    pub fn close(&mut self, inodes: &[InodeId]) -> Step<Reply> {
        if inodes.len() > CLOSES_PER_REQUEST_MAX {
            return Err(FsError::Invalid.into());
        }
        for inode in inodes {
            self.check_here(*inode)?;
            self.release(*inode)?;
        }
        Ok(Reply::Done)
    }

    /// Ends the mount's hold of an inode, but not its locks.
    pub fn release(&mut self, inode: InodeId) -> Step<()> {
        self.delete(&Key::Holder { inode, mount: self.mount });
        self.forget_held(inode)?;
        if self.has(&Key::Doomed { inode })? && !self.is_held(inode)? {
            self.reap(inode, REAPED_AT_ONCE)?;
        }
        Ok(())
    }

    /// Removes the mount's line of an inode unless it still holds or locks it.
    pub fn forget_held(&mut self, inode: InodeId) -> Step<()> {
        let mount = self.mount;
        let locks = self.locks(inode)?.locks.iter().any(|lock| lock.mount == mount);
        if !locks && !self.has(&Key::Holder { inode, mount })? {
            self.delete(&Key::Held { mount, inode });
        }
        Ok(())
    }
}

/// Bytes that `listxattr` returns.
fn names_bytes(view: &impl View, inode: InodeId) -> Step<usize> {
    Ok(xattr_names(view, inode)?.iter().map(|name| name.as_bytes().len() + 1).sum())
}

/// Names of an inode's extended attributes.
pub(crate) fn xattr_names(view: &impl View, inode: InodeId) -> Step<Vec<XattrName>> {
    let range = KeyRange::prefix(Key::prefix(tag::XATTR, inode.0));
    // As many as can be: the shortest name has one byte.
    let page = view.page(&range, XATTR_LIST_BYTES_MAX)?;
    Ok(page
        .into_iter()
        .filter_map(|(key, _)| match key {
            Key::Xattr { name, .. } => Some(name),
            _ => None,
        })
        .collect())
}
