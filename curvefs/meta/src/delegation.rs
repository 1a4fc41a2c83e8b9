//! Delegated directories at their partition (see `curvefs_types`, `delegation.rs`).

use bytes::Bytes;
use curve_kv::KeyRange;
use curvefs_types::keys::{Key, tag};
use curvefs_types::limits::{
    BORN_PER_REQUEST_MAX, DELEGATIONS_PER_MOUNT_MAX, EXTENTS_PER_REQUEST_MAX, FILE_BYTES_MAX,
    KNOWN_NAMES_MAX, MOVED_PER_REQUEST_MAX, RESERVED_AT_ONCE_MAX, RESERVED_RANGES_MAX, TARGET_BYTES_MAX,
    XATTR_VALUE_BYTES_MAX,
};
use curvefs_types::{
    Attr, Born, DataRef, Dentry, Extent, FsError, InodeId, Kind, MODE_BITS, MountId, Name, Published, Reply,
    Reserved, Wire,
};

use crate::fail::Step;
use crate::rows::ReservedRow;
use crate::step::Change;
use crate::view::{PAGE, View};

/// Versions and generations that a mount may have counted to: far from where counting on would overflow.
const COUNTED_MAX: u64 = 1 << 48;

impl Change<'_, '_> {
    /// Delegates a directory to the mount.
    pub fn delegate(&mut self, dir: InodeId, knows: Option<&[Name]>, reserve: u32) -> Step<Reply> {
        self.check_here(dir)?;
        if knows.is_some_and(|knows| knows.len() > KNOWN_NAMES_MAX) {
            return Err(FsError::Invalid.into());
        }
        let attr = self.free_dir(dir)?;
        if let Some(knows) = knows {
            let names = self.page(&KeyRange::prefix(Key::prefix(tag::DENTRY, dir.0)), KNOWN_NAMES_MAX + 1)?;
            let is_known = |key: &Key| matches!(key, Key::Dentry { name, .. } if knows.contains(name));
            if !names.iter().all(|(key, _)| is_known(key)) {
                return Err(FsError::NotEmpty.into());
            }
        }
        if self.any(&KeyRange::prefix(Key::prefix(tag::NAME_LOCK, dir.0)))? {
            return Err(FsError::Busy.into());
        }
        let mount = self.mount;
        let held = KeyRange::prefix(Key::prefix(tag::DELEGATED, mount.0));
        let has = self.page(&held, DELEGATIONS_PER_MOUNT_MAX)?.len();
        if has == DELEGATIONS_PER_MOUNT_MAX && self.holder_of(dir)?.is_none() {
            return Err(FsError::NoLocks.into());
        }
        self.put(&Key::Delegation { dir }, &mount);
        self.mark(&Key::Delegated { mount, dir });
        Ok(Reply::Delegated { attr, reserved: self.reserve(reserve)? })
    }

    /// Publishes what a mount has made in its directories.
    pub fn publish(&mut self, dirs: &[Published], lowest: InodeId, reserve: u32) -> Step<Reply> {
        let born: usize = dirs.iter().map(|published| published.born.len()).sum();
        let moved: usize = dirs.iter().map(|published| published.moved.len()).sum();
        let is_much = born.max(dirs.len()) > BORN_PER_REQUEST_MAX || moved > MOVED_PER_REQUEST_MAX;
        if dirs.is_empty() || is_much {
            return Err(FsError::Invalid.into());
        }
        let (mut ours, mut refused) = (Vec::new(), Vec::new());
        for published in dirs {
            self.check_here(published.dir)?;
            match self.holder_of(published.dir)? {
                Some(holder) if holder == self.mount => ours.push(published),
                _ => refused.push(published.dir),
            }
        }
        let unmoved = self.publish_moves(&ours)?;
        for published in ours {
            self.publish_in(published, &mut refused)?;
        }
        self.forget_reserved(lowest)?;
        Ok(Reply::Published { refused, unmoved, reserved: self.reserve(reserve)? })
    }

    fn publish_in(&mut self, published: &Published, refused: &mut Vec<InodeId>) -> Step<()> {
        let Published { dir, moved, born, mtime, set, give_back } = published;
        let mut attr = self.free_dir(*dir)?;
        for born in born {
            if self.can_be(*dir, born)? {
                self.bear(&mut attr, born)?;
            } else {
                refused.push(born.attr.inode);
            }
        }
        if !(born.is_empty() && moved.is_empty()) || attr.mtime < *mtime {
            attr.mtime = attr.mtime.max(*mtime);
            attr.ctime = attr.ctime.max(*mtime);
            self.touch(&mut attr);
        }
        if !set.is_empty() {
            self.set_attrs(*dir, set)?;
        }
        if *give_back {
            self.take_back(*dir, self.mount);
        }
        Ok(())
    }

    /// Whether a mount's new file is one that may be.
    fn can_be(&self, dir: InodeId, born: &Born) -> Step<bool> {
        let Born { name, attr, xattrs, .. } = born;
        let counted = |count: u64| (1..=COUNTED_MAX).contains(&count);
        let sound = attr.parent == dir
            && attr.nlink == 1
            && attr.mode & !MODE_BITS == 0
            && counted(attr.version)
            && counted(attr.generation)
            && attr.length <= FILE_BYTES_MAX
            && xattrs.iter().all(|xattr| xattr.value.len() <= XATTR_VALUE_BYTES_MAX)
            && is_sound_kind(born);
        Ok(sound
            && self.is_here(attr.inode)
            && self.reserving(attr.inode)?.is_some_and(|(first, row)| !is_used(&row, attr.inode.0 - first.0))
            && !self.has(&Key::Inode { inode: attr.inode })?
            && self.free_dentry(dir, name)?.is_none())
    }

    fn bear(&mut self, dir: &mut Attr, born: &Born) -> Step<()> {
        let mut attr = Attr { allocated: 0, ..born.attr };
        for extent in born.extents.iter().flat_map(Extent::by_chunk) {
            self.put_extent(&mut attr, &extent)?;
        }
        let inode = attr.inode;
        self.use_reserved(inode)?;
        self.put(&Key::Inode { inode }, &attr);
        if attr.kind == Kind::Symlink {
            self.put_bytes(&Key::Target { inode }, born.target.clone());
        }
        for xattr in &born.xattrs {
            self.put_bytes(&Key::Xattr { inode, name: xattr.name.clone() }, xattr.value.clone());
        }
        self.count(None, Some(&attr));
        self.account(None, Some(&attr))?;
        let dentry = Dentry { inode, kind: attr.kind };
        self.put_dentry(dir.inode, &born.name, dentry);
        self.gain_name(dir, dentry)?;
        if born.open {
            self.hold(inode);
        }
        Ok(())
    }

    /// Sets numbers aside for the mount; none if it has many ranges already.
    fn reserve(&mut self, wanted: u32) -> Step<Reserved> {
        let count = wanted.min(RESERVED_AT_ONCE_MAX);
        let mount = self.mount;
        let range = KeyRange::prefix(Key::prefix(tag::RESERVED, mount.0));
        if count == 0 || self.page(&range, RESERVED_RANGES_MAX)?.len() == RESERVED_RANGES_MAX {
            return Ok(Reserved::NONE);
        }
        let serial = self.header.next_serial;
        let ends = [serial, serial + u64::from(count) - 1].map(|n| InodeId::in_slot(self.header.slot, n));
        let [Some(first), Some(_)] = ends else { return Ok(Reserved::NONE) };
        self.header.next_serial = serial + u64::from(count);
        self.put(&Key::Reserved { mount, first }, &ReservedRow { count, used: Bytes::new() });
        Ok(Reserved { first, count })
    }

    /// The mount's range that a number is in.
    fn reserving(&self, inode: InodeId) -> Step<Option<(InodeId, ReservedRow)>> {
        let range = KeyRange::prefix(Key::prefix(tag::RESERVED, self.mount.0));
        for (key, value) in self.page(&range, RESERVED_RANGES_MAX)? {
            if let Some(reserved) = reserved_in(&key, &value)?
                && reserved.last().is_some_and(|last| (reserved.first..=last).contains(&inode))
            {
                return Ok(Some((reserved.first, ReservedRow::from_row(&value)?)));
            }
        }
        Ok(None)
    }

    /// No number is used twice, though its inode may be gone.
    fn use_reserved(&mut self, inode: InodeId) -> Step<()> {
        let Some((first, row)) = self.reserving(inode)? else { return Ok(()) };
        let at = (inode.0 - first.0) as usize;
        let mut used = row.used.to_vec();
        used.resize(used.len().max(at / 8 + 1), 0);
        used[at / 8] |= 1 << (at % 8);
        let mount = self.mount;
        self.put(&Key::Reserved { mount, first }, &ReservedRow { used: used.into(), ..row });
        Ok(())
    }

    /// The mount has no use any more for numbers below.
    fn forget_reserved(&mut self, lowest: InodeId) -> Step<()> {
        let range = KeyRange::prefix(Key::prefix(tag::RESERVED, self.mount.0));
        for (key, value) in self.page(&range, RESERVED_RANGES_MAX)? {
            let last = reserved_in(&key, &value)?.and_then(|reserved| reserved.last());
            if last.is_none_or(|last| last < lowest) {
                self.delete(&key);
            }
        }
        Ok(())
    }

    /// Takes a directory back from whoever has it, if that is who is meant.
    pub fn revoke(&mut self, dir: InodeId, mount: MountId) -> Step<Reply> {
        if self.holder_of(dir)? == Some(mount) {
            self.take_back(dir, mount);
        }
        Ok(Reply::Done)
    }

    fn take_back(&mut self, dir: InodeId, mount: MountId) {
        self.delete(&Key::Delegation { dir });
        self.delete(&Key::Delegated { mount, dir });
    }

    /// Takes everything delegated and reserved back from a mount that was fenced; whether there was anything.
    pub fn take_all_back(&mut self, mount: MountId) -> Step<bool> {
        let mut found = false;
        for kind in [tag::DELEGATED, tag::RESERVED] {
            for (key, _) in self.page(&KeyRange::prefix(Key::prefix(kind, mount.0)), PAGE)? {
                found = true;
                if let Key::Delegated { dir, .. } = key {
                    self.delete(&Key::Delegation { dir });
                }
                self.delete(&key);
            }
        }
        Ok(found)
    }
}

/// A range of reserved numbers.
pub(crate) fn reserved_in(key: &Key, value: &[u8]) -> Step<Option<Reserved>> {
    let Key::Reserved { first, .. } = key else { return Ok(None) };
    let ReservedRow { count, .. } = ReservedRow::from_row(value)?;
    Ok(Some(Reserved { first: *first, count }))
}

fn is_used(row: &ReservedRow, at: u64) -> bool {
    row.used.get(at as usize / 8).is_some_and(|byte| byte & 1 << (at % 8) != 0)
}

/// Whether what is in a mount's new inode is what one of its kind has.
fn is_sound_kind(born: &Born) -> bool {
    let Born { attr, target, extents, .. } = born;
    let has_no_target = target.is_empty();
    match attr.kind {
        Kind::Directory => false,
        Kind::File => has_no_target && attr.rdev == 0 && are_sound(extents, attr.length),
        Kind::Symlink => {
            let fits = (1..=TARGET_BYTES_MAX).contains(&target.len()) && !target.contains(&0);
            fits && attr.rdev == 0 && attr.length == target.len() as u64 && extents.is_empty()
        }
        kind => {
            let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
            has_no_target && (is_device || attr.rdev == 0) && attr.length == 0 && extents.is_empty()
        }
    }
}

/// Whether extents are possible, follow each other, and end within the length.
fn are_sound(extents: &[Extent], length: u64) -> bool {
    let mut end = 0;
    extents.len() <= EXTENTS_PER_REQUEST_MAX
        && extents.iter().all(|extent| {
            let possible = Extent::checked(extent.offset, extent.len, extent.data).is_ok();
            let follows = possible && extent.offset >= end && extent.end() <= length;
            end = if possible { extent.end() } else { end };
            follows && extent.data != DataRef::Unwritten
        })
}
