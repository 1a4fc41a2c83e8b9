//! Names: finding, making, moving and removing them.

use bytes::Bytes;
use curvefs_types::{
    Answer, Attr, FsError, InodeId, Kind, Name, NameOp, NewInode, PartitionId, Query, RenameMode, Reply,
};

use crate::acl;
use crate::handle::OpenMode;
use crate::inode::Inode;
use crate::open::Opening;
use crate::vfs::{Caller, Entry, Opened, Vfs};

/// What `mknod`, `symlink` and `create` are to make.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Making {
    /// Anything but a directory.
    pub kind: Kind,
    /// Permissions, before the umask.
    pub mode: u32,
    /// Device number.
    pub rdev: u32,
    /// A symbolic link's target.
    pub target: Bytes,
}

impl Making {
    /// A file.
    pub fn file(mode: u32) -> Self {
        Self { kind: Kind::File, mode, rdev: 0, target: Bytes::new() }
    }
}

impl Vfs {
    /// Finds a name.
    pub async fn lookup(&self, parent: InodeId, name: Name) -> Result<Entry, FsError> {
        let answer = self.core.query(Query::Lookup { parent, name }).await?;
        let Answer::Entry { dentry, attr } = answer else { return Err(FsError::Corrupt) };
        match attr {
            Some(attr) => Ok(self.enter(attr).1),
            None => {
                let answer = self.core.query(Query::GetAttr { inode: dentry.inode }).await;
                // The name may have gone between the two questions.
                let Answer::Attrs { attrs } = answer.map_err(gone_is_not_found)? else {
                    return Err(FsError::Corrupt);
                };
                attrs.first().map(|attr| self.enter(*attr).1).ok_or(FsError::NotFound)
            }
        }
    }

    /// Makes anything but a directory.
    pub async fn make(
        &self,
        parent: InodeId,
        name: Name,
        making: Making,
        caller: Caller,
    ) -> Result<Entry, FsError> {
        self.core.writable()?;
        let new = self.new_inode(parent, making, caller).await?;
        let op = NameOp::Create { parent, name, new, open: false, or_open: false };
        let attr = self.core.change_attr(op).await;
        self.names_changed(parent);
        Ok(self.enter(attr?).1)
    }

    /// Makes a file, or without `exclusive` takes an existing one, and opens it.
    pub async fn create(
        &self,
        parent: InodeId,
        name: Name,
        permissions: u32,
        (mode, exclusive): (OpenMode, bool),
        caller: Caller,
    ) -> Result<(Entry, Opened), FsError> {
        self.core.writable()?;
        let new = self.new_inode(parent, Making::file(permissions), caller).await?;
        let op = NameOp::Create { parent, name: name.clone(), new, open: true, or_open: !exclusive };
        let reply = self.core.change(op).await;
        self.names_changed(parent);
        match reply {
            Ok(Reply::Attr { attr, created }) => {
                let (inode, entry) = self.enter(attr);
                inode.state().held = true;
                self.core.watch(inode.id);
                let opening = Opening::new(inode.clone());
                if !created && mode.truncate {
                    let opened = self.open(attr.inode, mode).await?;
                    return Ok((entry, opened));
                }
                opening.keep();
                Ok((entry, self.add_handle(inode, mode)))
            }
            Ok(_) => Err(FsError::Corrupt),
            // It is there, but in another partition.
            Err(FsError::Exists) if !exclusive => {
                let entry = self.lookup(parent, name).await?;
                let opened = self.open(entry.attr.inode, mode).await;
                opened.inspect_err(|_| self.forget(entry.attr.inode, 1)).map(|opened| (entry, opened))
            }
            Err(error) => Err(error),
        }
    }

    /// Makes a directory. `place`: the partition of its inode, beside its parent if none is given.
    pub async fn mkdir(
        &self,
        parent: InodeId,
        name: Name,
        mode: u32,
        caller: Caller,
        place: Option<PartitionId>,
    ) -> Result<Entry, FsError> {
        self.core.writable()?;
        let making = Making { kind: Kind::Directory, mode, rdev: 0, target: Bytes::new() };
        let new = self.new_inode(parent, making, caller).await?;
        let default = new.xattrs.iter().find(|xattr| xattr.name.as_bytes() == acl::DEFAULT);
        let default = default.map(|xattr| xattr.value.clone());
        let attr = self.core.change_attr(NameOp::Mkdir { parent, name, new, place }).await;
        self.names_changed(parent);
        let (inode, entry) = self.enter(attr?);
        inode.state().default_acl = Some((default, tokio::time::Instant::now()));
        Ok(entry)
    }

    /// Removes a name of what is no directory.
    pub async fn unlink(&self, parent: InodeId, name: Name) -> Result<(), FsError> {
        self.core.writable()?;
        let reply = self.core.change(NameOp::Unlink { parent, name }).await;
        self.names_changed(parent);
        match reply? {
            Reply::Attr { attr, .. } => self.lost_name(attr).await,
            // Removed without asking, so its other names are not known. It was neither open nor dirty.
            Reply::Done => {}
            _ => return Err(FsError::Corrupt),
        }
        Ok(())
    }

    /// Removes an empty directory.
    pub async fn rmdir(&self, parent: InodeId, name: Name) -> Result<(), FsError> {
        self.core.writable()?;
        let removed = self.core.change(NameOp::Rmdir { parent, name }).await;
        self.names_changed(parent);
        if let Reply::Attr { attr, .. } = removed? {
            self.lost_name(attr).await;
        }
        Ok(())
    }

    /// Gives what is no directory another name.
    pub async fn link(&self, inode: InodeId, parent: InodeId, name: Name) -> Result<Entry, FsError> {
        self.core.writable()?;
        let attr = self.core.change_attr(NameOp::Link { inode, parent, name }).await;
        self.names_changed(parent);
        Ok(self.enter(attr?).1)
    }

    /// Moves a name.
    pub async fn rename(
        &self,
        (parent, name): (InodeId, Name),
        (new_parent, new_name): (InodeId, Name),
        mode: RenameMode,
    ) -> Result<(), FsError> {
        self.core.writable()?;
        let reply = self.core.change(NameOp::Rename { parent, name, new_parent, new_name, mode }).await;
        self.names_changed(parent);
        self.names_changed(new_parent);
        match reply? {
            Reply::Renamed { moved, other } => {
                self.remember(moved);
                if let Some(other) = other {
                    self.lost_name(other).await;
                }
                Ok(())
            }
            // Moved without asking over a new file.
            Reply::Attr { attr, .. } => {
                self.lost_name(attr).await;
                Ok(())
            }
            Reply::Done => Ok(()),
            _ => Err(FsError::Corrupt),
        }
    }

    /// A symbolic link's target.
    pub async fn read_link(&self, inode: InodeId) -> Result<Bytes, FsError> {
        match self.core.query(Query::ReadLink { inode }).await? {
            Answer::Value { value } => Ok(value),
            _ => Err(FsError::Corrupt),
        }
    }

    fn remember(&self, attr: Attr) {
        if let Some(inode) = self.core.known(attr.inode) {
            self.core.heard(&inode, attr);
        }
    }

    async fn lost_name(&self, attr: Attr) {
        self.remember(attr);
        if let Some(inode) = self.core.known(attr.inode) {
            self.drop_unnamed(&inode).await;
            drop(inode);
            self.core.release_inode(attr.inode);
        }
    }

    /// The directory's times and links are not what they were, whether the change was done or not.
    fn names_changed(&self, dir: InodeId) {
        if let Some(inode) = self.core.known(dir) {
            let mut state = inode.state();
            state.stale();
            state.renamed += 1;
        }
    }

    async fn new_inode(&self, parent: InodeId, making: Making, caller: Caller) -> Result<NewInode, FsError> {
        let Making { kind, mode, rdev, target } = making;
        let dir = self.core.inode(parent);
        let default = if kind == Kind::Symlink { None } else { self.default_acl(&dir).await? };
        let born = match default {
            Some(default) => acl::inherit(&default, mode, kind == Kind::Directory)?,
            None => acl::Born { mode: mode & !caller.umask, xattrs: Vec::new() },
        };
        Ok(NewInode {
            kind,
            mode: born.mode,
            uid: caller.uid,
            gid: caller.gid,
            rdev,
            target,
            xattrs: born.xattrs,
        })
    }

    /// The directory's default ACL.
    async fn default_acl(&self, dir: &Inode) -> Result<Option<Bytes>, FsError> {
        // Of a delegated directory nobody else can change it.
        let believed = if self.core.meta.has(dir.id) {
            std::time::Duration::MAX
        } else {
            self.core.options.dir_attr_timeout
        };
        let known = inode_default(dir, believed);
        if let Some(known) = known {
            return Ok(known);
        }
        let query = Query::GetXattr { inode: dir.id, name: acl::default_name() };
        let value = match self.core.query(query).await {
            Ok(Answer::Value { value }) => Some(value),
            Ok(_) => return Err(FsError::Corrupt),
            Err(FsError::NoAttribute) => None,
            Err(error) => return Err(error),
        };
        dir.state().default_acl = Some((value.clone(), tokio::time::Instant::now()));
        Ok(value)
    }
}

fn inode_default(dir: &Inode, believed: std::time::Duration) -> Option<Option<Bytes>> {
    let state = dir.state();
    let (value, at) = state.default_acl.as_ref()?;
    (at.elapsed() < believed).then(|| value.clone())
}

fn gone_is_not_found(error: FsError) -> FsError {
    if error == FsError::Stale { FsError::NotFound } else { error }
}
