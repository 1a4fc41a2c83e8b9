//! Space of files: `fallocate`, `SEEK_HOLE` and `SEEK_DATA`, `copy_file_range`.

use std::sync::Arc;

use curvefs_types::limits::{ALLOCATE_BYTES_MAX, FILE_BYTES_MAX};
use curvefs_types::{Attr, DataRef, Extent, FsError, Op, Reply};

use crate::counters::ExtentPage;
use crate::inode::Inode;
use crate::shared::now_ns;
use crate::vfs::Vfs;

/// Bytes that one call of `copy_file_range` copies, where they have to be carried.
const CARRIED_BYTES_MAX: u64 = 8 << 20;

/// What `fallocate` is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    /// Make sure that the range can be written; without `keep_size` the file is at least that long.
    Allocate {
        /// Leave the length.
        keep_size: bool,
    },
    /// Give the range back: it reads as zeros.
    Punch,
    /// Zeros, without giving the range back.
    Zero {
        /// Leave the length.
        keep_size: bool,
    },
}

/// What `lseek` looks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seek {
    /// `SEEK_DATA`
    Data,
    /// `SEEK_HOLE`; the end of the file is one.
    Hole,
}

/// An own change of a file's bytes that is under way. Dropped without an answer it counts as failed.
pub(crate) struct Changing<'a> {
    inode: &'a Inode,
    is_over: bool,
}

impl<'a> Changing<'a> {
    /// After [`crate::inode::State::change`].
    pub fn new(inode: &'a Inode) -> Self {
        Self { inode, is_over: false }
    }

    /// It was answered.
    pub fn end(mut self, answer: Result<Attr, FsError>, added: Option<&[Extent]>) -> Result<Attr, FsError> {
        self.is_over = true;
        self.inode.state().changed(answer.as_ref().ok().copied(), added);
        answer
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.inode.state().changed(None, None);
        }
    }
}

fn end_of(offset: u64, len: u64) -> Result<u64, FsError> {
    if len == 0 {
        return Err(FsError::Invalid);
    }
    offset.checked_add(len).filter(|end| *end <= FILE_BYTES_MAX).ok_or(FsError::TooBig)
}

impl Vfs {
    /// `fallocate`.
    pub async fn fallocate(&self, handle: u64, offset: u64, len: u64, what: Space) -> Result<(), FsError> {
        let file = self.file(handle)?;
        if !file.mode.write {
            return Err(FsError::Access);
        }
        let end = end_of(offset, len)?;
        let inode = &file.inode;
        let (clear, keep_size) = match what {
            Space::Punch => (true, None),
            Space::Zero { keep_size } => (true, Some(keep_size)),
            Space::Allocate { keep_size } => (false, Some(keep_size)),
        };
        // The end of the file has to be what the partition takes it to be.
        self.core.flush(inode).await?;
        let _order = self.core.alone(inode).await?;
        let _one = inode.publishing().await;
        if clear {
            self.punch(inode, offset, len).await?;
        }
        let mut at = offset;
        while let (Some(keep_size), true) = (keep_size, at < end) {
            let len = (end - at).min(ALLOCATE_BYTES_MAX);
            inode.state().change();
            let guard = Changing::new(inode);
            let op = Op::Allocate { inode: inode.id, offset: at, len, keep_size };
            guard.end(self.core.change_attr(op).await, None)?;
            at += len;
        }
        self.core.tell_kernel(inode);
        Ok(())
    }

    async fn punch(&self, inode: &Inode, offset: u64, len: u64) -> Result<(), FsError> {
        inode.state().change();
        let guard = Changing::new(inode);
        let answer = self.core.change_attr(Op::Punch { inode: inode.id, offset, len }).await;
        guard.end(answer, None)?;
        let freed = inode.state().cut(offset, offset + len, now_ns());
        self.core.budget.free(freed);
        Ok(())
    }

    /// `lseek` for data or a hole. What was allocated and not written is a hole.
    pub async fn seek(&self, handle: u64, offset: u64, what: Seek) -> Result<u64, FsError> {
        let file = self.file(handle)?;
        self.core.flush(&file.inode).await?;
        let mut at = offset;
        loop {
            let ExtentPage { attr, extents, end } = self.extents(file.inode.id, at).await?;
            if at >= attr.length {
                return Err(FsError::NoData);
            }
            if let Some(found) = find(&extents, &mut at, what) {
                // Extents behind the end are unwritten, and holes end there at the latest.
                let found = found.min(attr.length);
                return if what == Seek::Data && found == attr.length {
                    Err(FsError::NoData)
                } else {
                    Ok(found)
                };
            }
            if end || at >= attr.length {
                return if what == Seek::Hole { Ok(at.min(attr.length)) } else { Err(FsError::NoData) };
            }
        }
    }

    /// `copy_file_range`: by reference where the partition can, else the bytes are carried. Gives how many were copied.
    pub async fn copy_range(
        &self,
        (from, from_offset): (u64, u64),
        (to, to_offset): (u64, u64),
        len: u64,
    ) -> Result<u64, FsError> {
        let (source, target) = (self.file(from)?, self.file(to)?);
        if !source.mode.read || !target.mode.write {
            return Err(FsError::Access);
        }
        if len == 0 {
            return Ok(0);
        }
        end_of(from_offset, len)?;
        end_of(to_offset, len)?;
        self.core.flush(&source.inode).await?;
        self.core.flush(&target.inode).await?;
        let op = Op::CopyRange { from: source.inode.id, from_offset, to: target.inode.id, to_offset, len };
        match self.copy_by_reference(&target.inode, op).await {
            Err(FsError::CrossDevice | FsError::NotSupported) => {}
            other => return other,
        }
        let bytes = self.core.read_bytes(&source.inode, from_offset, len.min(CARRIED_BYTES_MAX)).await?;
        let copied = bytes.len() as u64;
        self.write(to, to_offset, bytes.into(), false).await?;
        Ok(copied)
    }

    async fn copy_by_reference(&self, target: &Arc<Inode>, op: Op) -> Result<u64, FsError> {
        let _order = self.core.alone(target).await?;
        let _one = target.publishing().await;
        target.state().change();
        let guard = Changing::new(target);
        match self.core.change(op).await {
            Ok(Reply::Written { attr, base }) => {
                guard.end(Ok(attr), None)?;
                self.core.tell_kernel(target);
                Ok(base)
            }
            Ok(_) => Err(FsError::Corrupt),
            Err(error) => guard.end(Err(error), None).map(|_| 0),
        }
    }
}

/// The first data or hole from `at` on, as far as these extents tell; `at` moves on.
fn find(extents: &[Extent], at: &mut u64, what: Seek) -> Option<u64> {
    for extent in extents {
        let is_data = extent.data != DataRef::Unwritten;
        match what {
            Seek::Data if is_data => return Some((*at).max(extent.offset)),
            Seek::Hole if extent.offset > *at || !is_data => return Some(*at),
            _ => *at = (*at).max(extent.end()),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use curvefs_types::SliceId;

    use super::*;

    #[test]
    fn data_and_holes_are_found() {
        let data = DataRef::Slice { slice: SliceId::default(), bytes: 100, at: 0 };
        let extent = |offset, data| Extent::checked(offset, 10, data).unwrap();
        let extents = [extent(10, data), extent(20, data), extent(30, DataRef::Unwritten), extent(50, data)];
        for (from, what, found) in [
            (0, Seek::Data, Some(10)),
            (15, Seek::Data, Some(15)),
            (0, Seek::Hole, Some(0)),
            (15, Seek::Hole, Some(30)),
            (40, Seek::Hole, Some(40)),
        ] {
            let mut at = from;
            let first = extents.partition_point(|extent| extent.end() <= from);
            assert_eq!(find(&extents[first..], &mut at, what), found, "{from} {what:?}");
        }
        let mut at = 50;
        assert_eq!(find(&extents[3..], &mut at, Seek::Hole), None);
        assert_eq!(at, 60);
    }
}
