//! Users and groups of this host and of the file system, where they differ.
//!
//! A file system's inodes name users by number. Two hosts may have given the same user different numbers; a mount can then say
//! which number here is which there (`-o uidmap=HOST:FS[:COUNT]`). Inodes' attributes and ACLs are shown with this host's numbers,
//! so the kernel, which checks permissions, compares like with like; callers' numbers, and those that `chown` and ACLs set,
//! are turned into the file system's.
//!
//! **A number that is not in the map stays as it is**, so that a map names only what differs: root is root, and users that agree
//! need no line. The exception keeps users apart: a number that the map has given to somebody else on the other side would make
//! two users one. Such a one is shown as `nobody`, and may neither make files nor be given any.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use curvefs_types::{Attr, FsError, InodeId, Name, PartitionId, SetAttr, XattrName};
use curvefs_vfs::{Caller, Entry, Line, Making, OpenMode, Opened, SetMode, Vfs};
use thiserror::Error;

/// Who is somebody else on this side (Linux's overflow id).
pub const NOBODY: u32 = 65534;
/// Lines of a map.
const LINES_MAX: usize = 64;

/// So many numbers in a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Range {
    host: u32,
    fs: u32,
    count: u32,
}

/// A map that cannot be.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum BadMap {
    /// A line is none.
    #[error("`{0}` is not HOST:FS or HOST:FS:COUNT, in numbers")]
    Line(String),
    /// A range ends beyond what numbers can be.
    #[error("`{0}` goes beyond 4294967294")]
    Beyond(String),
    /// The same number twice on one side.
    #[error("{side} {id} is in it twice")]
    Twice {
        /// `host` or `file system`.
        side: &'static str,
        /// A number.
        id: u32,
    },
    /// Too long.
    #[error("more than {LINES_MAX} ranges")]
    Long,
}

/// A map of users or of groups: `HOST:FS[:COUNT]`, several with `+` between them. Empty when nothing differs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct IdMap {
    ranges: Vec<Range>,
}

impl FromStr for IdMap {
    type Err = BadMap;

    fn from_str(text: &str) -> Result<Self, BadMap> {
        text.split('+').try_fold(Self::default(), |map, line| map.with(line))
    }
}

impl fmt::Display for IdMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Range { host, fs, count }) in self.ranges.iter().enumerate() {
            let plus = if i > 0 { "+" } else { "" };
            write!(f, "{plus}{host}:{fs}:{count}")?;
        }
        Ok(())
    }
}

/// `id` moved from one range into another, if it is in the first.
fn moved(id: u32, from: u32, to: u32, count: u32) -> Option<u32> {
    id.checked_sub(from).filter(|by| *by < count).map(|by| to + by)
}

impl IdMap {
    /// The lines of two maps together.
    pub fn joined(&self, other: &Self) -> Result<Self, BadMap> {
        other.ranges.iter().try_fold(self.clone(), |map, range| map.and(*range))
    }

    fn with(self, line: &str) -> Result<Self, BadMap> {
        let bad = || BadMap::Line(line.to_owned());
        let numbers = line.split(':').map(str::parse).collect::<Result<Vec<u32>, _>>().map_err(|_| bad())?;
        let (host, fs, count) = match numbers.as_slice() {
            [host, fs] => (*host, *fs, 1),
            [host, fs, count] if *count > 0 => (*host, *fs, *count),
            _ => return Err(bad()),
        };
        // The highest number means "no change" to chown.
        let fits = |first: u32| first.checked_add(count).is_some();
        if !fits(host) || !fits(fs) {
            return Err(BadMap::Beyond(line.to_owned()));
        }
        self.and(Range { host, fs, count })
    }

    fn and(mut self, new: Range) -> Result<Self, BadMap> {
        for old in &self.ranges {
            for (side, a, b) in [("host", old.host, new.host), ("file system", old.fs, new.fs)] {
                if a < b + new.count && b < a + old.count {
                    return Err(BadMap::Twice { side, id: a.max(b) });
                }
            }
        }
        if self.ranges.len() == LINES_MAX {
            return Err(BadMap::Long);
        }
        self.ranges.push(new);
        Ok(self)
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// This host's number for one of the file system; [`NOBODY`] when it is somebody else's here.
    pub fn to_host(&self, fs: u32) -> u32 {
        let mapped = self.ranges.iter().find_map(|range| moved(fs, range.fs, range.host, range.count));
        let taken = || self.ranges.iter().any(|range| moved(fs, range.host, range.fs, range.count).is_some());
        mapped.unwrap_or_else(|| if taken() { NOBODY } else { fs })
    }

    /// The file system's number for one of this host; none when it is somebody else's there.
    pub fn to_fs(&self, host: u32) -> Option<u32> {
        let mapped = self.ranges.iter().find_map(|range| moved(host, range.host, range.fs, range.count));
        let taken =
            || self.ranges.iter().any(|range| moved(host, range.fs, range.host, range.count).is_some());
        mapped.or_else(|| (!taken()).then_some(host))
    }
}

/// The maps of a mount.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct IdMaps {
    /// Of users.
    pub users: IdMap,
    /// Of groups.
    pub groups: IdMap,
}

impl IdMaps {
    fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }

    fn attr(&self, attr: Attr) -> Attr {
        Attr { uid: self.users.to_host(attr.uid), gid: self.groups.to_host(attr.gid), ..attr }
    }

    fn entry(&self, entry: Entry) -> Entry {
        Entry { attr: self.attr(entry.attr), ..entry }
    }

    fn caller(&self, caller: Caller) -> Result<Caller, FsError> {
        let (uid, gid) = (self.users.to_fs(caller.uid), self.groups.to_fs(caller.gid));
        Ok(Caller { uid: uid.ok_or(FsError::Access)?, gid: gid.ok_or(FsError::Access)?, ..caller })
    }

    fn set(&self, mut set: SetAttr) -> Result<SetAttr, FsError> {
        let into = |map: &IdMap, id: Option<u32>| match id {
            Some(id) => map.to_fs(id).map(Some).ok_or(FsError::Invalid),
            None => Ok(None),
        };
        (set.uid, set.gid) = (into(&self.users, set.uid)?, into(&self.groups, set.gid)?);
        Ok(set)
    }

    /// An ACL's value with other numbers: version 4 bytes, then entries of tag 2, permissions 2 and id 4 bytes, little-endian
    /// (Linux, `posix_acl_xattr.h`). What is none is left to those who check it.
    fn acl(&self, value: Bytes, of: impl Fn(&IdMap, u32) -> Option<u32>) -> Result<Bytes, FsError> {
        let mut out = BytesMut::with_capacity(value.len());
        let Some((version, entries)) = value.split_first_chunk::<4>() else { return Ok(value) };
        out.put_slice(version);
        let mut entries = entries.chunks_exact(ACL_ENTRY);
        for entry in &mut entries {
            let (tag, rest) = entry.split_at(2);
            let id = u32::from_le_bytes([rest[2], rest[3], rest[4], rest[5]]);
            let mapped = match u16::from_le_bytes([tag[0], tag[1]]) {
                ACL_USER => of(&self.users, id),
                ACL_GROUP => of(&self.groups, id),
                _ => Some(id),
            };
            out.put_slice(&entry[..4]);
            out.put_u32_le(mapped.ok_or(FsError::Invalid)?);
        }
        out.put_slice(entries.remainder());
        Ok(out.freeze())
    }
}

const ACL_ENTRY: usize = 8;
const ACL_USER: u16 = 0x02;
const ACL_GROUP: u16 = 0x08;

fn is_acl(name: &XattrName) -> bool {
    matches!(name.as_bytes(), b"system.posix_acl_access" | b"system.posix_acl_default")
}

/// A `Vfs` as this host sees it: what names users or groups is translated here, everything else is the `Vfs`'s own.
#[derive(Clone)]
pub(crate) struct MappedVfs {
    vfs: Vfs,
    ids: Arc<IdMaps>,
}

impl Deref for MappedVfs {
    type Target = Vfs;

    fn deref(&self) -> &Vfs {
        &self.vfs
    }
}

impl MappedVfs {
    pub fn new(vfs: Vfs, ids: IdMaps) -> Self {
        Self { vfs, ids: Arc::new(ids) }
    }

    /// The `Vfs`, in the file system's numbers.
    pub fn inner(&self) -> &Vfs {
        &self.vfs
    }

    pub async fn lookup(&self, parent: InodeId, name: Name) -> Result<Entry, FsError> {
        self.vfs.lookup(parent, name).await.map(|entry| self.ids.entry(entry))
    }

    pub async fn make(
        &self,
        parent: InodeId,
        name: Name,
        making: Making,
        caller: Caller,
    ) -> Result<Entry, FsError> {
        let caller = self.ids.caller(caller)?;
        self.vfs.make(parent, name, making, caller).await.map(|entry| self.ids.entry(entry))
    }

    pub async fn mkdir(
        &self,
        parent: InodeId,
        name: Name,
        mode: u32,
        caller: Caller,
        place: Option<PartitionId>,
    ) -> Result<Entry, FsError> {
        let caller = self.ids.caller(caller)?;
        self.vfs.mkdir(parent, name, mode, caller, place).await.map(|entry| self.ids.entry(entry))
    }

    pub async fn link(&self, inode: InodeId, parent: InodeId, name: Name) -> Result<Entry, FsError> {
        self.vfs.link(inode, parent, name).await.map(|entry| self.ids.entry(entry))
    }

    pub async fn create(
        &self,
        parent: InodeId,
        name: Name,
        mode: u32,
        how: (OpenMode, bool),
        caller: Caller,
    ) -> Result<(Entry, Opened), FsError> {
        let caller = self.ids.caller(caller)?;
        let (entry, opened) = self.vfs.create(parent, name, mode, how, caller).await?;
        Ok((self.ids.entry(entry), opened))
    }

    pub fn enter_line(&self, line: &Line) -> Option<Entry> {
        self.vfs.enter_line(line).map(|entry| self.ids.entry(entry))
    }

    pub async fn get_attr(&self, id: InodeId) -> Result<(Attr, Duration), FsError> {
        self.vfs.get_attr(id).await.map(|(attr, ttl)| (self.ids.attr(attr), ttl))
    }

    pub async fn set_attr(&self, id: InodeId, set: SetAttr) -> Result<(Attr, Duration), FsError> {
        let set = self.ids.set(set)?;
        self.vfs.set_attr(id, set).await.map(|(attr, ttl)| (self.ids.attr(attr), ttl))
    }

    pub async fn truncate(
        &self,
        id: InodeId,
        length: u64,
        kill_priv: bool,
    ) -> Result<(Attr, Duration), FsError> {
        self.vfs.truncate(id, length, kill_priv).await.map(|(attr, ttl)| (self.ids.attr(attr), ttl))
    }

    pub async fn get_xattr(&self, id: InodeId, name: XattrName) -> Result<Bytes, FsError> {
        let maps = is_acl(&name) && !self.ids.is_empty();
        let value = self.vfs.get_xattr(id, name).await?;
        if maps { self.ids.acl(value, |map, id| Some(map.to_host(id))) } else { Ok(value) }
    }

    pub async fn set_xattr(
        &self,
        id: InodeId,
        name: XattrName,
        value: Bytes,
        mode: SetMode,
    ) -> Result<(), FsError> {
        let maps = is_acl(&name) && !self.ids.is_empty();
        let value = if maps { self.ids.acl(value, IdMap::to_fs)? } else { value };
        self.vfs.set_xattr(id, name, value, mode).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(text: &str) -> IdMap {
        text.parse().unwrap()
    }

    #[test]
    fn numbers_go_there_and_back_and_nobody_becomes_another() {
        let map = map("1000:2000:10+5:6");
        for (host, fs) in
            [(0, Some(0)), (1000, Some(2000)), (1009, Some(2009)), (1010, Some(1010)), (5, Some(6))]
        {
            assert_eq!(map.to_fs(host), fs, "{host}");
            assert_eq!(map.to_host(fs.unwrap()), host, "{host}");
        }
        assert_eq!((map.to_fs(2000), map.to_fs(6)), (None, None), "they are others there");
        assert_eq!((map.to_host(1000), map.to_host(5)), (NOBODY, NOBODY), "they are others here");
        let empty = IdMap::default();
        assert!(empty.is_empty() && empty.to_fs(7) == Some(7) && empty.to_host(7) == 7);
    }

    #[test]
    fn two_users_may_change_places() {
        let map = map("1:2+2:1");
        assert_eq!((map.to_fs(1), map.to_fs(2), map.to_host(1), map.to_host(2)), (Some(2), Some(1), 2, 1));
    }

    #[test]
    fn what_is_no_map_is_refused() {
        let twice = |side, id| BadMap::Twice { side, id };
        for (text, error) in [
            ("", BadMap::Line(String::new())),
            ("5", BadMap::Line("5".into())),
            ("a:b", BadMap::Line("a:b".into())),
            ("1:2:0", BadMap::Line("1:2:0".into())),
            ("1:2:3:4", BadMap::Line("1:2:3:4".into())),
            ("-1:2", BadMap::Line("-1:2".into())),
            ("1:2+", BadMap::Line(String::new())),
            ("4294967295:1", BadMap::Beyond("4294967295:1".into())),
            ("1:4294967290:10", BadMap::Beyond("1:4294967290:10".into())),
            ("1:2:10+5:50", twice("host", 5)),
            ("1:20:10+50:25:10", twice("file system", 25)),
        ] {
            assert_eq!(text.parse::<IdMap>(), Err(error), "{text}");
        }
        let long: Vec<_> = (0..65).map(|id| format!("{id}:{id}")).collect();
        assert_eq!(long.join("+").parse::<IdMap>(), Err(BadMap::Long));
        assert_eq!(map("1:2").joined(&map("3:4:2")).unwrap().to_string(), "1:2:1+3:4:2");
        assert!(map("1:2").joined(&map("1:3")).is_err());
    }

    #[test]
    fn entries_of_acls_are_translated_and_what_is_no_acl_is_left_alone() {
        let ids = IdMaps { users: map("1000:2000"), groups: map("50:60") };
        let acl = |user: u32, group: u32| {
            let mut value = vec![2, 0, 0, 0];
            for (tag, id) in
                [(1u16, u32::MAX), (ACL_USER, user), (4, u32::MAX), (ACL_GROUP, group), (16, u32::MAX)]
            {
                value.extend_from_slice(&tag.to_le_bytes());
                value.extend_from_slice(&7u16.to_le_bytes());
                value.extend_from_slice(&id.to_le_bytes());
            }
            Bytes::from(value)
        };
        assert_eq!(ids.acl(acl(1000, 50), IdMap::to_fs), Ok(acl(2000, 60)));
        assert_eq!(ids.acl(acl(2000, 60), |map, id| Some(map.to_host(id))), Ok(acl(1000, 50)));
        assert_eq!(ids.acl(acl(2000, 50), IdMap::to_fs), Err(FsError::Invalid), "somebody else there");
        for odd in [&b""[..], b"abc", b"\x02\0\0\0abc"] {
            assert_eq!(ids.acl(Bytes::copy_from_slice(odd), IdMap::to_fs), Ok(Bytes::copy_from_slice(odd)));
        }
    }

    #[test]
    fn callers_and_new_owners_are_translated_or_refused() {
        let ids = IdMaps { users: map("1000:2000"), groups: IdMap::default() };
        let caller = |uid| Caller { uid, gid: 7, umask: 0o22 };
        assert_eq!(ids.caller(caller(1000)), Ok(caller(2000)));
        assert_eq!(ids.caller(caller(2000)), Err(FsError::Access));
        let set = |uid| SetAttr { uid, ..SetAttr::default() };
        assert_eq!(ids.set(set(Some(1000))), Ok(set(Some(2000))));
        assert_eq!(ids.set(set(None)), Ok(set(None)));
        assert_eq!(ids.set(set(Some(2000))), Err(FsError::Invalid));
    }
}
