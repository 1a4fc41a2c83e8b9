//! How a volume is cut: blocks in chunks in segments.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits::{BLOCK_BYTES, CHUNK_BYTES, SEGMENT_BYTES};

/// A byte offset from the start of a volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VolumeOffset(pub u64);

/// A byte offset from the start of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ChunkOffset(pub u32);

/// Which chunk of a volume, counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ChunkIndex(pub u32);

/// Which segment of a volume, counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SegmentIndex(pub u32);

/// Why a size or a range was refused.
#[derive(Debug, Error, PartialEq, Eq, Clone, Copy)]
pub enum GeometryError {
    /// A size does not divide the next larger one, or is zero.
    #[error(
        "block {block}, chunk {chunk} and segment {segment} bytes must each divide the next and be a power of two"
    )]
    Indivisible {
        /// Bytes of a block.
        block: u32,
        /// Bytes of a chunk.
        chunk: u32,
        /// Bytes of a segment.
        segment: u64,
    },
    /// The range does not begin and end on a block boundary.
    #[error("range {offset}+{len} is not aligned to {align} bytes")]
    Unaligned {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Required alignment in bytes.
        align: u64,
    },
    /// The range ends after the device.
    #[error("range {offset}+{len} ends after the device's {size} bytes")]
    OutOfRange {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Size of the device in bytes.
        size: u64,
    },
}

/// The sizes a pool was made with. All are powers of two, and each divides the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Geometry {
    block_bytes: u32,
    chunk_bytes: u32,
    segment_bytes: u64,
}

impl Default for Geometry {
    fn default() -> Self {
        Self {
            block_bytes: BLOCK_BYTES as u32,
            chunk_bytes: CHUNK_BYTES as u32,
            segment_bytes: SEGMENT_BYTES,
        }
    }
}

impl Geometry {
    /// Checks that the sizes fit each other.
    pub fn new(block_bytes: u32, chunk_bytes: u32, segment_bytes: u64) -> Result<Self, GeometryError> {
        let powers =
            block_bytes.is_power_of_two() && chunk_bytes.is_power_of_two() && segment_bytes.is_power_of_two();
        if !powers || block_bytes > chunk_bytes || u64::from(chunk_bytes) > segment_bytes {
            return Err(GeometryError::Indivisible {
                block: block_bytes,
                chunk: chunk_bytes,
                segment: segment_bytes,
            });
        }
        Ok(Self { block_bytes, chunk_bytes, segment_bytes })
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> u32 {
        self.block_bytes
    }

    /// Bytes of a chunk.
    pub const fn chunk_bytes(self) -> u32 {
        self.chunk_bytes
    }

    /// Bytes of a segment.
    pub const fn segment_bytes(self) -> u64 {
        self.segment_bytes
    }

    /// Blocks in a chunk.
    pub const fn blocks_per_chunk(self) -> u32 {
        self.chunk_bytes / self.block_bytes
    }

    /// Chunks in a segment.
    pub const fn chunks_per_segment(self) -> u32 {
        (self.segment_bytes / self.chunk_bytes as u64) as u32
    }

    /// Segments needed for a volume of `size` bytes; the last may be partly used.
    pub const fn segments(self, size: u64) -> u32 {
        size.div_ceil(self.segment_bytes) as u32
    }
}

impl VolumeOffset {
    /// The chunk that holds this byte.
    pub const fn chunk(self, geometry: Geometry) -> ChunkIndex {
        ChunkIndex((self.0 / geometry.chunk_bytes as u64) as u32)
    }

    /// Where in its chunk this byte is.
    pub const fn in_chunk(self, geometry: Geometry) -> ChunkOffset {
        ChunkOffset((self.0 % geometry.chunk_bytes as u64) as u32)
    }
}

impl ChunkIndex {
    /// The segment that holds this chunk.
    pub const fn segment(self, geometry: Geometry) -> SegmentIndex {
        SegmentIndex(self.0 / geometry.chunks_per_segment())
    }

    /// Which chunk of its segment this is.
    pub const fn in_segment(self, geometry: Geometry) -> u32 {
        self.0 % geometry.chunks_per_segment()
    }

    /// The first byte of this chunk in its volume.
    pub const fn start(self, geometry: Geometry) -> VolumeOffset {
        VolumeOffset(self.0 as u64 * geometry.chunk_bytes as u64)
    }
}

impl SegmentIndex {
    /// The first chunk of this segment.
    pub const fn first_chunk(self, geometry: Geometry) -> ChunkIndex {
        ChunkIndex(self.0 * geometry.chunks_per_segment())
    }
}

impl fmt::Display for ChunkIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chunk {}", self.0)
    }
}

/// A run of whole alignment units inside a device, checked once at the edge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockRange {
    offset: u64,
    len: u64,
}

impl BlockRange {
    /// Accepts `offset..offset+len` when it lies in `0..size` and both ends are multiples of `align`.
    pub fn checked(offset: u64, len: u64, size: u64, align: u64) -> Result<Self, GeometryError> {
        if !offset.is_multiple_of(align) || !len.is_multiple_of(align) {
            return Err(GeometryError::Unaligned { offset, len, align });
        }
        match offset.checked_add(len) {
            Some(end) if end <= size => Ok(Self { offset, len }),
            _ => Err(GeometryError::OutOfRange { offset, len, size }),
        }
    }

    /// First byte.
    pub const fn offset(self) -> u64 {
        self.offset
    }

    /// Bytes.
    pub const fn len(self) -> u64 {
        self.len
    }

    /// Whether the range holds nothing.
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// First byte after the range.
    pub const fn end(self) -> u64 {
        self.offset + self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_map_to_chunks_and_segments() {
        let g = Geometry::default();
        let at = VolumeOffset(SEGMENT_BYTES + 3 * CHUNK_BYTES + 4096);
        assert_eq!(at.chunk(g), ChunkIndex(67));
        assert_eq!(at.in_chunk(g), ChunkOffset(4096));
        assert_eq!(at.chunk(g).segment(g), SegmentIndex(1));
        assert_eq!(at.chunk(g).in_segment(g), 3);
        assert_eq!(SegmentIndex(1).first_chunk(g), ChunkIndex(64));
        assert_eq!(g.segments(SEGMENT_BYTES + 1), 2);
    }

    #[test]
    fn ranges_are_refused_when_unaligned_or_outside() {
        assert!(BlockRange::checked(4096, 8192, 16384, 4096).is_ok());
        assert_eq!(
            BlockRange::checked(512, 4096, 16384, 4096),
            Err(GeometryError::Unaligned { offset: 512, len: 4096, align: 4096 })
        );
        assert_eq!(
            BlockRange::checked(u64::MAX - 4095, 4096, 16384, 4096),
            Err(GeometryError::OutOfRange { offset: u64::MAX - 4095, len: 4096, size: 16384 })
        );
    }

    #[test]
    fn geometry_refuses_sizes_that_do_not_divide() {
        assert!(Geometry::new(4096, 16 << 20, 1 << 30).is_ok());
        assert!(Geometry::new(4096, 1000, 1 << 30).is_err());
        assert!(Geometry::new(8192, 4096, 1 << 30).is_err());
    }
}
