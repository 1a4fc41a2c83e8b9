//! Extended attributes, and the virtual ones that tell what is below a directory.

use bytes::Bytes;
use curvefs_types::{Answer, DirUsage, FsError, InodeId, Op, Query, Xattr, XattrName};

use crate::acl;
use crate::vfs::Vfs;

/// Prefix of virtual attributes: read only, and not listed, so that copies do not carry them.
const VIRTUAL: &[u8] = b"curve.dir.";

/// Whether an attribute has to be there or must not be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetMode {
    /// Either.
    Any,
    /// `XATTR_CREATE`
    Create,
    /// `XATTR_REPLACE`
    Replace,
}

fn is_virtual(name: &XattrName) -> bool {
    name.as_bytes().starts_with(VIRTUAL)
}

/// What a virtual attribute says.
fn virtual_value(name: &XattrName, usage: &DirUsage) -> Option<i64> {
    let (direct, all) = (usage.direct, usage.recursive);
    Some(match name.as_bytes().strip_prefix(VIRTUAL)? {
        b"files" => direct.files,
        b"subdirs" => direct.dirs,
        b"entries" => direct.files + direct.dirs,
        b"fbytes" => direct.bytes,
        b"rfiles" => all.files,
        b"rsubdirs" => all.dirs,
        b"rentries" => all.files + all.dirs,
        b"rfbytes" => all.bytes,
        _ => return None,
    })
}

impl Vfs {
    /// An attribute's value.
    pub async fn get_xattr(&self, inode: InodeId, name: XattrName) -> Result<Bytes, FsError> {
        if is_virtual(&name) {
            return match self.core.query(Query::DirUsage { inode }).await {
                Ok(Answer::DirUsage { usage }) => {
                    let value = virtual_value(&name, &usage).ok_or(FsError::NoAttribute)?;
                    Ok(value.to_string().into())
                }
                Ok(_) => Err(FsError::Corrupt),
                Err(FsError::NotDir) => Err(FsError::NoAttribute),
                Err(error) => Err(error),
            };
        }
        self.published(inode).await?;
        match self.core.query(Query::GetXattr { inode, name }).await? {
            Answer::Value { value } => Ok(value),
            _ => Err(FsError::Corrupt),
        }
    }

    /// Names of all attributes that are stored.
    pub async fn list_xattrs(&self, inode: InodeId) -> Result<Vec<XattrName>, FsError> {
        match self.core.query(Query::ListXattr { inode }).await? {
            Answer::Names { names } => Ok(names),
            _ => Err(FsError::Corrupt),
        }
    }

    /// Sets an attribute.
    pub async fn set_xattr(
        &self,
        id: InodeId,
        name: XattrName,
        value: Bytes,
        mode: SetMode,
    ) -> Result<(), FsError> {
        self.core.writable()?;
        if is_virtual(&name) {
            return Err(FsError::NotPermitted);
        }
        let (create, replace) = (mode == SetMode::Create, mode == SetMode::Replace);
        let is_default = name.as_bytes() == acl::DEFAULT;
        self.published(id).await?;
        let op = Op::SetXattr { inode: id, xattr: Xattr { name, value }, create, replace };
        self.xattr_changed(id, is_default, self.core.change(op).await.map(drop))
    }

    /// Removes an attribute.
    pub async fn remove_xattr(&self, id: InodeId, name: XattrName) -> Result<(), FsError> {
        self.core.writable()?;
        if is_virtual(&name) {
            return Err(FsError::NotPermitted);
        }
        let is_default = name.as_bytes() == acl::DEFAULT;
        self.published(id).await?;
        let op = Op::RemoveXattr { inode: id, name };
        self.xattr_changed(id, is_default, self.core.change(op).await.map(drop))
    }

    /// A mode that waits for bytes is a part of the access ACL: it comes first.
    async fn published(&self, id: InodeId) -> Result<(), FsError> {
        match self.core.known(id) {
            Some(inode) if inode.state().has_deferred() => self.core.flush(&inode).await,
            _ => Ok(()),
        }
    }

    fn xattr_changed(&self, id: InodeId, is_default: bool, done: Result<(), FsError>) -> Result<(), FsError> {
        if let Some(inode) = self.core.known(id) {
            let mut state = inode.state();
            // An access ACL changes the mode.
            state.stale();
            if is_default {
                state.default_acl = None;
            }
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use curvefs_types::Usage;

    use super::*;

    #[test]
    fn virtual_attributes_tell_the_counters() {
        let usage = DirUsage {
            direct: Usage { files: 1, dirs: 2, bytes: 3 },
            recursive: Usage { files: 10, dirs: 20, bytes: 30 },
        };
        for (name, value) in [
            ("curve.dir.files", Some(1)),
            ("curve.dir.entries", Some(3)),
            ("curve.dir.rsubdirs", Some(20)),
            ("curve.dir.rfbytes", Some(30)),
            ("curve.dir.other", None),
            ("user.files", None),
        ] {
            assert_eq!(virtual_value(&XattrName::try_from(name).unwrap(), &usage), value, "{name}");
        }
    }
}
