//! A file, or anything else that is no directory, that was made here and is not published: what a partition would make of each change. Pure.

use bytes::Bytes;
use curvefs_types::limits::{FILE_BYTES_MAX, TARGET_BYTES_MAX};
use curvefs_types::{
    Answer, Attr, DataRef, Extent, FsError, InodeId, Kind, MODE_BITS, MODE_SETGID, Name, NewInode, Place,
    SetAttr, TimeNs, Xattr, XattrName, without_privileges,
};

/// Extents that a file may have before it is published.
const EXTENTS_MAX: usize = 64;

/// A file that its partition does not know.
#[derive(Clone, Debug)]
pub(super) struct Birth {
    pub dir: InodeId,
    pub name: Name,
    pub attr: Attr,
    /// A symbolic link's target, else empty.
    pub target: Bytes,
    pub xattrs: Vec<Xattr>,
    pub extents: Vec<Extent>,
    /// The mount holds it open.
    pub held: bool,
    /// It is being published: it changes no more, and what would change it waits.
    pub sent: bool,
    /// It was closed with bytes that the store has not got: they have to go there before anybody else may see the file.
    /// Which time that was, so that a later close is not taken for an earlier one.
    pub lazy: Option<u64>,
    /// What was written can only be named by the partition: its bytes go by themselves.
    pub alone: bool,
}

/// What `Op::Write` says besides its file.
pub(super) struct Written<'a> {
    pub place: Place,
    pub extents: &'a [Extent],
    pub length: u64,
    pub mtime: TimeNs,
    pub expect: Option<u64>,
    pub kill_priv: bool,
    pub set: &'a SetAttr,
}

/// What becomes of attributes; versions are the caller's.
pub(super) fn with_set(attr: &mut Attr, set: &SetAttr, now: TimeNs) {
    if set.kill_priv {
        attr.mode = without_privileges(attr.mode);
    }
    attr.mode = set.mode.map_or(attr.mode, |mode| mode & MODE_BITS);
    attr.uid = set.uid.unwrap_or(attr.uid);
    attr.gid = set.gid.unwrap_or(attr.gid);
    attr.atime = set.atime.map_or(attr.atime, |time| time.after(attr.atime, now));
    attr.mtime = set.mtime.map_or(attr.mtime, |time| time.after(attr.mtime, now));
    attr.flags = set.flags.unwrap_or(attr.flags);
    attr.ctime = attr.ctime.max(now);
}

impl Birth {
    /// A new inode; `None` for what only a partition makes, or refuses.
    pub fn new(inode: InodeId, dir: &Attr, name: &Name, new: &NewInode, now: TimeNs) -> Option<Self> {
        let is_link = new.kind == Kind::Symlink;
        let target_fits = new.target.len() <= TARGET_BYTES_MAX && !new.target.contains(&0);
        if new.kind == Kind::Directory || is_link == new.target.is_empty() || !target_fits {
            return None;
        }
        let attr = Attr {
            inode,
            kind: new.kind,
            mode: new.mode & MODE_BITS,
            uid: new.uid,
            gid: if dir.mode & MODE_SETGID != 0 { dir.gid } else { new.gid },
            nlink: 1,
            rdev: if matches!(new.kind, Kind::CharDevice | Kind::BlockDevice) { new.rdev } else { 0 },
            flags: 0,
            length: new.target.len() as u64,
            allocated: 0,
            atime: now,
            mtime: now,
            ctime: now,
            parent: dir.inode,
            version: 1,
            generation: 1,
        };
        Some(Self {
            dir: dir.inode,
            name: name.clone(),
            attr,
            target: new.target.clone(),
            xattrs: new.xattrs.clone(),
            extents: Vec::new(),
            held: false,
            sent: false,
            lazy: None,
            alone: false,
        })
    }

    /// Whether attributes can be set here: with an ACL the mode is more than itself.
    pub fn can_set(&self, set: &SetAttr) -> bool {
        set.flags.is_none() && (self.xattrs.is_empty() || set.mode.is_none())
    }

    /// Sets attributes.
    pub fn set(&mut self, set: &SetAttr, now: TimeNs) -> Attr {
        with_set(&mut self.attr, set, now);
        self.attr.version += 1;
        self.attr
    }

    /// Sets the length; `None` if extents would have to be cut.
    pub fn truncate(&mut self, length: u64, kill_priv: bool, now: TimeNs) -> Option<Attr> {
        let cuts = self.extents.last().is_some_and(|last| last.end() > length);
        if cuts || length > FILE_BYTES_MAX {
            return None;
        }
        let attr = &mut self.attr;
        attr.length = length;
        attr.mtime = now;
        attr.ctime = attr.ctime.max(now);
        if kill_priv {
            attr.mode = without_privileges(attr.mode);
        }
        attr.version += 1;
        attr.generation += 1;
        Some(*attr)
    }

    /// Names written bytes. The attributes, and where they went; `None` for what only a partition does: what covers earlier bytes
    /// makes garbage of them.
    pub fn write(&mut self, written: &Written<'_>, now: TimeNs) -> Option<(Attr, u64)> {
        let base = if written.place == Place::AtEnd { self.attr.length } else { 0 };
        let mut length = written.length.checked_add(base)?;
        let expected = written.expect.is_none_or(|generation| generation == self.attr.generation);
        if !expected || self.extents.len() + written.extents.len() > EXTENTS_MAX || !self.can_set(written.set)
        {
            return None;
        }
        let mut extents = self.extents.clone();
        for extent in written.extents {
            let extent = Extent::checked(extent.offset.checked_add(base)?, extent.len, extent.data).ok()?;
            let at = extents.partition_point(|other| other.end() <= extent.offset);
            let covers = extents.get(at).is_some_and(|other| other.offset < extent.end());
            if covers || extent.data == DataRef::Unwritten {
                return None;
            }
            length = length.max(extent.end());
            extents.insert(at, extent);
        }
        if length > FILE_BYTES_MAX {
            return None;
        }
        let attr = &mut self.attr;
        attr.allocated = extents.iter().map(|extent| u64::from(extent.len)).sum();
        self.extents = extents;
        attr.length = attr.length.max(length);
        attr.mtime = written.mtime;
        attr.ctime = attr.ctime.max(now);
        if written.kill_priv {
            attr.mode = without_privileges(attr.mode);
        }
        attr.version += 1;
        attr.generation += 1;
        if !written.set.is_empty() {
            self.set(written.set, now);
        }
        Some((self.attr, base))
    }

    /// Its name is another one now.
    pub fn rename(&mut self, dir: InodeId, name: &Name, now: TimeNs) -> Attr {
        (self.dir, self.name) = (dir, name.clone());
        self.attr.parent = dir;
        self.attr.ctime = self.attr.ctime.max(now);
        self.attr.version += 1;
        self.attr
    }

    /// Its name is gone, and it with it.
    pub fn unlinked(self, now: TimeNs) -> Attr {
        let Attr { ctime, version, .. } = self.attr;
        Attr { nlink: 0, ctime: ctime.max(now), version: version + 1, ..self.attr }
    }

    /// Extents with a byte in a range.
    pub fn extents_in(&self, offset: u64, len: u64, limit: u32) -> Answer {
        let to = offset.saturating_add(len);
        let inside = |extent: &&Extent| extent.end() > offset && extent.offset < to;
        let limit = (limit as usize).max(1);
        let all: Vec<Extent> = self.extents.iter().filter(inside).copied().collect();
        let end = all.len() < limit;
        let extents = all.into_iter().take(limit).collect();
        Answer::Extents { attr: self.attr, extents, end, staged: Vec::new() }
    }

    /// An extended attribute.
    pub fn xattr(&self, name: &XattrName) -> Result<Bytes, FsError> {
        let found = self.xattrs.iter().find(|xattr| xattr.name == *name);
        found.map(|xattr| xattr.value.clone()).ok_or(FsError::NoAttribute)
    }
}
