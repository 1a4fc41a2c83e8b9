//! Where a file's bytes are.

use bytes::Bytes;

use crate::error::FsError;
use crate::ids::SliceId;
use crate::limits::{CHUNK_BYTES, FILE_BYTES_MAX, SLICE_BYTES_MAX};
use crate::wire::{Input, Seeds, Wire, WireError};
use crate::{wire_enum, wire_struct};
use curve_types::VolumeId;

/// A place in the data store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DataRef {
    /// Inside a slice. The store cuts a slice into objects by the file system's object size, the last being shorter.
    Slice {
        /// Which.
        slice: SliceId,
        /// Bytes of the whole slice, so that whoever deletes it knows its objects.
        bytes: u32,
        /// First byte in it.
        at: u32,
    },
    /// On a volume.
    Volume {
        /// Which.
        volume: VolumeId,
        /// First byte on it.
        at: u64,
    },
    /// Allocated but never written (`fallocate`): reads as zeros, counts as allocated, is a hole for `SEEK_DATA`.
    Unwritten,
}

wire_enum!(DataRef { 1 => Slice { slice, bytes, at }, 2 => Volume { volume, at }, 3 => Unwritten {} });

impl DataRef {
    /// The place `by` bytes further.
    pub fn advanced(self, by: u32) -> Self {
        match self {
            Self::Slice { slice, bytes, at } => Self::Slice { slice, bytes, at: at + by },
            Self::Volume { volume, at } => Self::Volume { volume, at: at + u64::from(by) },
            Self::Unwritten => Self::Unwritten,
        }
    }

    /// The slice, if it is one.
    pub fn slice(self) -> Option<SliceRef> {
        match self {
            Self::Slice { slice, bytes, .. } => Some(SliceRef { slice, bytes }),
            Self::Volume { .. } | Self::Unwritten => None,
        }
    }
}

/// A whole slice: what is deleted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SliceRef {
    /// Which.
    pub slice: SliceId,
    /// Its bytes.
    pub bytes: u32,
}

wire_struct!(SliceRef { slice, bytes });

/// A slice whose bytes wait in the partition until the store has them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Staged {
    /// The slice.
    pub slice: SliceRef,
    /// All of its bytes.
    pub content: Bytes,
}

wire_struct!(Staged { slice, content });

/// A slice that no extent is in any more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Freed {
    /// When it was freed, in nanoseconds since 1970.
    pub at_ns: u64,
    /// The slice.
    pub slice: SliceRef,
}

wire_struct!(Freed { at_ns, slice });

/// A range of a file and where its bytes are. A file's stored extents never overlap and never cross a border of a chunk
/// ([`CHUNK_BYTES`]): whoever stores one cuts it, and cuts what it covers. What no extent covers reads as zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// First byte in the file.
    pub offset: u64,
    /// Bytes; at least 1, at most [`SLICE_BYTES_MAX`].
    pub len: u32,
    /// Where they are.
    pub data: DataRef,
}

impl Extent {
    /// An extent that is possible: inside a file's limits and inside its slice.
    pub fn checked(offset: u64, len: u32, data: DataRef) -> Result<Self, FsError> {
        if len == 0 || len > SLICE_BYTES_MAX {
            return Err(FsError::Invalid);
        }
        if offset.checked_add(u64::from(len)).is_none_or(|end| end > FILE_BYTES_MAX) {
            return Err(FsError::TooBig);
        }
        let inside = match data {
            DataRef::Slice { bytes, at, .. } => {
                bytes <= SLICE_BYTES_MAX && at.checked_add(len).is_some_and(|end| end <= bytes)
            }
            DataRef::Volume { at, .. } => at.checked_add(u64::from(len)).is_some(),
            DataRef::Unwritten => true,
        };
        if inside { Ok(Self { offset, len, data }) } else { Err(FsError::Invalid) }
    }

    /// The first byte after it.
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.len)
    }

    /// The chunk of its first byte.
    pub fn chunk(&self) -> u64 {
        self.offset / CHUNK_BYTES
    }

    /// The part of it in `from..to`, if any.
    pub fn part(&self, from: u64, to: u64) -> Option<Self> {
        let (start, end) = (self.offset.max(from), self.end().min(to));
        (start < end).then(|| Self {
            offset: start,
            len: (end - start) as u32,
            data: self.data.advanced((start - self.offset) as u32),
        })
    }

    /// It, cut at the borders of chunks: one or two pieces.
    pub fn by_chunk(&self) -> impl Iterator<Item = Self> {
        let whole = *self;
        let border = (self.chunk() + 1) * CHUNK_BYTES;
        [whole.part(0, border), whole.part(border, u64::MAX)].into_iter().flatten()
    }
}

impl Wire for Extent {
    fn put(&self, out: &mut Vec<u8>) {
        self.offset.put(out);
        self.len.put(out);
        self.data.put(out);
    }

    fn get(input: &mut Input<'_>) -> Result<Self, WireError> {
        let (offset, len, data) = (Wire::get(input)?, Wire::get(input)?, Wire::get(input)?);
        Self::checked(offset, len, data).map_err(|_| WireError::Value("extent"))
    }

    fn sample(seeds: &mut Seeds) -> Self {
        let len = 1 + seeds.below(u64::from(SLICE_BYTES_MAX)) as u32;
        let at = seeds.below(u64::from(SLICE_BYTES_MAX - len) + 1) as u32;
        let data = match seeds.below(3) {
            0 => DataRef::Slice { slice: Wire::sample(seeds), bytes: SLICE_BYTES_MAX, at },
            1 => DataRef::Volume { volume: Wire::sample(seeds), at: seeds.below(1 << 60) },
            _ => DataRef::Unwritten,
        };
        Self { offset: seeds.below(1 << 60), len, data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(at: u32) -> DataRef {
        DataRef::Slice { slice: SliceId::default(), bytes: SLICE_BYTES_MAX, at }
    }

    #[test]
    fn extents_are_checked_and_cut() {
        let border = CHUNK_BYTES;
        let extent = Extent::checked(border - 10, 30, slice(5)).unwrap();
        let pieces: Vec<_> = extent.by_chunk().collect();
        assert_eq!(
            pieces,
            [
                Extent { offset: border - 10, len: 10, data: slice(5) },
                Extent { offset: border, len: 20, data: slice(15) },
            ]
        );
        assert_eq!(extent.part(0, border - 10), None);
        assert_eq!(
            extent.part(border + 1, border + 2),
            Some(Extent { offset: border + 1, len: 1, data: slice(16) })
        );
        assert_eq!(Extent::checked(0, 0, slice(0)), Err(FsError::Invalid));
        assert_eq!(Extent::checked(0, 2, slice(SLICE_BYTES_MAX - 1)), Err(FsError::Invalid));
        assert_eq!(Extent::checked(FILE_BYTES_MAX, 1, slice(0)), Err(FsError::TooBig));
        assert_eq!(Extent::checked(u64::MAX, 1, slice(0)), Err(FsError::TooBig));
    }
}
