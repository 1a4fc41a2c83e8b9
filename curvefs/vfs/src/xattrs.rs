//! Extended attributes, and virtual ones, which are read only and not listed, so that copies do not carry them:
//!
//! | name | says |
//! |---|---|
//! | `curve.dir.{files,subdirs,entries,fbytes}`, `curve.dir.{rfiles,…}` | one counter of a directory, its own or that of everything below it |
//! | `curve.dir.usage` | all of them at once: a line `NAME VALUE` each |
//! | `curve.…`, `system.curve.…` | what the mount says of a file and of itself: [`crate::VirtualAttributes`] |

use bytes::Bytes;
use curvefs_types::{Answer, DirUsage, FsError, InodeId, Op, Query, Xattr, XattrName};

use crate::acl;
use crate::vfs::Vfs;

/// Counters of directories.
const DIR: &[u8] = b"curve.dir.";
/// Prefixes of all virtual attributes. The kernel asks for no permission for what begins with `system.`, and so asks for no
/// attributes before: those can be read when no server answers.
const VIRTUAL: [&[u8]; 2] = [b"curve.", b"system.curve."];
/// Names of a directory's counters.
const COUNTERS: [&str; 8] =
    ["files", "subdirs", "entries", "fbytes", "rfiles", "rsubdirs", "rentries", "rfbytes"];

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
    VIRTUAL.iter().any(|prefix| name.as_bytes().starts_with(prefix))
}

/// What a virtual attribute of a directory says.
fn dir_value(name: &[u8], usage: &DirUsage) -> Option<String> {
    if name == b"usage" {
        let line = |name: &&str| Some(format!("{name} {}\n", counter(name.as_bytes(), usage)?));
        return COUNTERS.iter().map(line).collect();
    }
    counter(name, usage).map(|value| value.to_string())
}

fn counter(name: &[u8], usage: &DirUsage) -> Option<i64> {
    let (direct, all) = (usage.direct, usage.recursive);
    Some(match name {
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
        if let Some(counter) = name.as_bytes().strip_prefix(DIR) {
            return match self.core.query(Query::DirUsage { inode }).await {
                Ok(Answer::DirUsage { usage }) => {
                    dir_value(counter, &usage).map(Bytes::from).ok_or(FsError::NoAttribute)
                }
                Ok(_) => Err(FsError::Corrupt),
                Err(FsError::NotDir) => Err(FsError::NoAttribute),
                Err(error) => Err(error),
            };
        }
        if is_virtual(&name) {
            let Some(known) = self.core.attributes.get() else { return Err(FsError::NoAttribute) };
            return known.value(self, inode, &name).await?.ok_or(FsError::NoAttribute);
        }
        if name.as_bytes() == acl::ACCESS {
            self.published(inode).await?;
        }
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
        self.core.store_closed(id).await;
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
            ("files", Some("1")),
            ("entries", Some("3")),
            ("rsubdirs", Some("20")),
            ("rfbytes", Some("30")),
            (
                "usage",
                Some(
                    "files 1\nsubdirs 2\nentries 3\nfbytes 3\nrfiles 10\nrsubdirs 20\nrentries 30\nrfbytes 30\n",
                ),
            ),
            ("other", None),
        ] {
            assert_eq!(dir_value(name.as_bytes(), &usage).as_deref(), value, "{name}");
        }
        for (name, expected) in [
            ("curve.dir.x", true),
            ("system.curve.stats", true),
            ("user.curve.x", false),
            ("system.x", false),
        ] {
            assert_eq!(is_virtual(&XattrName::try_from(name).unwrap()), expected, "{name}");
        }
    }
}
