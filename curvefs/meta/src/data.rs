//! Bytes of files: which extents there are.

use curvefs_types::keys::Key;
use curvefs_types::limits::{ALLOCATE_BYTES_MAX, CHUNK_BYTES, EXTENTS_PER_REQUEST_MAX, FILE_BYTES_MAX};
use curvefs_types::{
    Attr, DataRef, Extent, FsError, InodeId, Kind, Place, Reply, SetAttr, Staged, TimeNs, without_privileges,
};

use crate::fail::Step;
use crate::rows::ExtentRow;
use crate::step::Change;
use crate::view::{PAGE, View};

/// What `Write` says besides its file.
pub(crate) struct Written<'a> {
    pub place: Place,
    pub extents: &'a [Extent],
    pub length: u64,
    pub mtime: TimeNs,
    pub expect: Option<u64>,
    pub kill_priv: bool,
    pub set: &'a SetAttr,
    pub staged: &'a [Staged],
}

/// A range of two files.
pub(crate) struct CopyRange {
    pub from: InodeId,
    pub from_offset: u64,
    pub to: InodeId,
    pub to_offset: u64,
    pub len: u64,
}

fn end_of(offset: u64, len: u64) -> Result<u64, FsError> {
    if len == 0 {
        return Err(FsError::Invalid);
    }
    offset.checked_add(len).filter(|end| *end <= FILE_BYTES_MAX).ok_or(FsError::TooBig)
}

impl Change<'_, '_> {
    /// A file whose data may be changed.
    fn free_file(&self, inode: InodeId) -> Step<Attr> {
        self.check_here(inode)?;
        let attr = self.free_inode(inode)?;
        match attr.kind {
            Kind::File => Ok(attr),
            Kind::Directory => Err(FsError::IsDir.into()),
            _ => Err(FsError::Invalid.into()),
        }
    }

    /// Stores a file whose bytes or length have changed.
    fn touch_data(&mut self, before: &Attr, attr: &mut Attr) -> Step<()> {
        attr.generation += 1;
        self.touch(attr);
        self.count(Some(before), Some(attr));
        self.account(Some(before), Some(attr))
    }

    /// Stores an extent where there is none.
    pub fn put_extent(&mut self, attr: &mut Attr, extent: &Extent) -> Step<()> {
        attr.allocated += u64::from(extent.len);
        let key = Key::Extent { inode: attr.inode, end: extent.end() };
        self.put(&key, &ExtentRow { len: extent.len, data: extent.data });
        extent.data.slice().map_or(Ok(()), |slice| self.add_reference(slice))
    }

    /// Removes a stored extent.
    pub fn remove_extent(&mut self, attr: &mut Attr, extent: &Extent) -> Step<()> {
        attr.allocated = attr.allocated.saturating_sub(u64::from(extent.len));
        self.delete(&Key::Extent { inode: attr.inode, end: extent.end() });
        extent.data.slice().map_or(Ok(()), |slice| self.drop_reference(slice))
    }

    /// Leaves a hole: whole extents go, others are cut.
    fn clear(&mut self, attr: &mut Attr, from: u64, to: u64) -> Step<()> {
        loop {
            let covered = self.extents(attr.inode, from, to, PAGE)?;
            let is_all = covered.len() < PAGE;
            for extent in covered {
                // The rest first, so that the slice is not without a reference between.
                if let Some(rest) = extent.part(0, from) {
                    self.put_extent(attr, &rest)?;
                }
                self.cut_row(attr, &extent, to)?;
            }
            if is_all {
                return Ok(());
            }
        }
    }

    /// Removes an extent but for what is behind `to`, which has the same key.
    fn cut_row(&mut self, attr: &mut Attr, extent: &Extent, to: u64) -> Step<()> {
        match extent.part(to, u64::MAX) {
            Some(rest) => {
                attr.allocated -= u64::from(extent.len - rest.len);
                let key = Key::Extent { inode: attr.inode, end: rest.end() };
                self.put(&key, &ExtentRow { len: rest.len, data: rest.data });
                Ok(())
            }
            None => self.remove_extent(attr, extent),
        }
    }

    fn insert(&mut self, attr: &mut Attr, extent: &Extent) -> Step<()> {
        self.clear(attr, extent.offset, extent.end())?;
        extent.by_chunk().try_for_each(|piece| self.put_extent(attr, &piece))
    }

    /// Publishes what was written.
    pub fn write(&mut self, inode: InodeId, written: &Written<'_>) -> Step<Reply> {
        if written.extents.len() > EXTENTS_PER_REQUEST_MAX {
            return Err(FsError::Invalid.into());
        }
        self.check_staged(written.staged)?;
        let before = self.free_file(inode)?;
        if written.expect.is_some_and(|generation| generation != before.generation) {
            return Err(FsError::Changed.into());
        }
        let mut attr = before;
        let base = if written.place == Place::AtEnd { before.length } else { 0 };
        let mut length = written.length.checked_add(base).ok_or(FsError::TooBig)?;
        for extent in written.extents {
            let offset = extent.offset.checked_add(base).ok_or(FsError::TooBig)?;
            let extent = Extent::checked(offset, extent.len, extent.data)?;
            self.insert(&mut attr, &extent)?;
            if extent.data != DataRef::Unwritten {
                length = length.max(extent.end());
            }
        }
        if length > FILE_BYTES_MAX {
            return Err(FsError::TooBig.into());
        }
        self.stage(written.staged)?;
        attr.length = attr.length.max(length);
        attr.mtime = written.mtime;
        if written.kill_priv {
            attr.mode = without_privileges(attr.mode);
        }
        self.touch_data(&before, &mut attr)?;
        if !written.set.is_empty() {
            attr = self.set_attrs(inode, written.set)?;
        }
        Ok(Reply::Written { attr, base })
    }

    /// Sets the length.
    pub fn truncate(&mut self, inode: InodeId, length: u64, kill_priv: bool) -> Step<Attr> {
        let before = self.free_file(inode)?;
        if length > FILE_BYTES_MAX {
            return Err(FsError::TooBig.into());
        }
        let mut attr = before;
        if length <= before.length {
            self.clear(&mut attr, length, u64::MAX)?;
        }
        attr.length = length;
        attr.mtime = self.now;
        if kill_priv {
            attr.mode = without_privileges(attr.mode);
        }
        self.touch_data(&before, &mut attr)?;
        Ok(attr)
    }

    /// Leaves a hole.
    pub fn punch(&mut self, inode: InodeId, offset: u64, len: u64) -> Step<Reply> {
        let end = end_of(offset, len)?;
        let before = self.free_file(inode)?;
        let mut attr = before;
        self.clear(&mut attr, offset, end)?;
        attr.mtime = self.now;
        self.touch_data(&before, &mut attr)?;
        Ok(Reply::Attr { attr, created: false })
    }

    /// Marks holes as unwritten.
    pub fn allocate(&mut self, inode: InodeId, offset: u64, len: u64, keep_size: bool) -> Step<Reply> {
        let end = end_of(offset, len)?;
        if len > ALLOCATE_BYTES_MAX {
            return Err(FsError::Invalid.into());
        }
        let before = self.free_file(inode)?;
        let mut attr = before;
        let mut at = offset;
        while at < end {
            let next = self.extents(inode, at, end, 1)?.first().copied();
            let hole_end = next.map_or(end, |extent| extent.offset.max(at));
            while at < hole_end {
                let len = (hole_end - at).min(CHUNK_BYTES - at % CHUNK_BYTES);
                let extent = Extent::checked(at, len as u32, DataRef::Unwritten)?;
                self.put_extent(&mut attr, &extent)?;
                at += len;
            }
            if let Some(extent) = next {
                at = extent.end();
            }
        }
        if !keep_size {
            attr.length = attr.length.max(end);
        }
        attr.mtime = self.now;
        self.touch_data(&before, &mut attr)?;
        Ok(Reply::Attr { attr, created: false })
    }

    /// Copies by reference.
    pub fn copy_range(&mut self, copy: &CopyRange) -> Step<Reply> {
        let CopyRange { from, from_offset, to, to_offset, len } = *copy;
        if !self.is_here(from) {
            return Err(FsError::CrossDevice.into());
        }
        let source = self.free_file(from)?;
        let before = self.free_file(to)?;
        let wanted = len.min(source.length.saturating_sub(from_offset));
        if wanted == 0 {
            return Ok(Reply::Written { attr: before, base: 0 });
        }
        let from_end = from_offset + wanted;
        let to_end = end_of(to_offset, wanted)?;
        if from == to && from_offset < to_end && to_offset < from_end {
            return Err(FsError::Invalid.into());
        }
        let extents = self.extents(from, from_offset, from_end, EXTENTS_PER_REQUEST_MAX)?;
        let done_to = match extents.last() {
            Some(last) if extents.len() == EXTENTS_PER_REQUEST_MAX => last.end().min(from_end),
            _ => from_end,
        };
        let done = done_to - from_offset;
        let mut attr = before;
        self.clear(&mut attr, to_offset, to_offset + done)?;
        for part in extents.iter().filter_map(|extent| extent.part(from_offset, done_to)) {
            if matches!(part.data, DataRef::Volume { .. }) {
                return Err(FsError::NotSupported.into());
            }
            let offset = part.offset - from_offset + to_offset;
            let moved = Extent::checked(offset, part.len, part.data)?;
            moved.by_chunk().try_for_each(|piece| self.put_extent(&mut attr, &piece))?;
        }
        attr.length = attr.length.max(to_offset + done);
        attr.mtime = self.now;
        attr.mode = without_privileges(attr.mode);
        self.touch_data(&before, &mut attr)?;
        Ok(Reply::Written { attr, base: done })
    }
}
