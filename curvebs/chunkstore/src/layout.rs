//! Where things are in a chunk file, derived from the geometry.

use std::ops::Range;

use curve_types::{BlockRange, Geometry, GeometryError};

use crate::planes::Plane;

/// Bytes of a block, of the header and of a page of the checksum table.
pub(crate) const BLOCK: usize = 4096;
/// Checksums in one page of the table.
pub(crate) const ENTRIES_PER_PAGE: usize = BLOCK / 4;
/// Most pages a table may have; the header keeps a checksum for each.
pub(crate) const PAGES_MAX: usize = 64;
/// Most extents a chunk may have; the header keeps a log index for each.
pub(crate) const EXTENTS_MAX: usize = 256;
/// The finest unit in which changes are remembered.
const EXTENT_BYTES_MIN: u32 = 64 << 10;

/// The measures of a chunk file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// What they are derived from.
    pub geometry: Geometry,
    /// Blocks of data.
    pub blocks: usize,
    /// Pages of the checksum table.
    pub pages: usize,
    /// Blocks in an extent.
    pub extent_blocks: usize,
    /// Extents in a chunk.
    pub extents: usize,
    /// Where data begins.
    pub data_at: u64,
    /// Length of a chunk file without its second plane, which begins there.
    pub file_bytes: u64,
}

impl Layout {
    /// The layout for a geometry, if chunk files can have it.
    pub(crate) fn new(geometry: Geometry) -> Option<Self> {
        let blocks = geometry.blocks_per_chunk() as usize;
        let pages = blocks.div_ceil(ENTRIES_PER_PAGE);
        if geometry.block_bytes() as usize != BLOCK || pages > PAGES_MAX {
            return None;
        }
        let extent_bytes = extent_bytes(geometry);
        let data_at = ((1 + pages) * BLOCK) as u64;
        Some(Self {
            geometry,
            blocks,
            pages,
            extent_blocks: extent_bytes as usize / BLOCK,
            extents: (geometry.chunk_bytes() / extent_bytes) as usize,
            data_at,
            file_bytes: data_at + u64::from(geometry.chunk_bytes()),
        })
    }

    /// The blocks of a byte range of a chunk.
    pub(crate) fn range(&self, offset: u32, len: u32) -> Result<Range<usize>, GeometryError> {
        let size = u64::from(self.geometry.chunk_bytes());
        let range = BlockRange::checked(u64::from(offset), u64::from(len), size, BLOCK as u64)?;
        Ok(range.offset() as usize / BLOCK..range.end() as usize / BLOCK)
    }

    /// Where a block of a plane is in the file.
    pub(crate) fn block_in(&self, plane: Plane, block: usize) -> u64 {
        let begin = match plane {
            Plane::First => self.data_at,
            Plane::Second => self.file_bytes,
        };
        begin + (block * BLOCK) as u64
    }

    /// Bytes of one plane.
    pub(crate) fn plane_bytes(&self) -> u64 {
        self.file_bytes - self.data_at
    }

    /// The blocks of extents.
    pub(crate) fn blocks_of(&self, extents: &Range<usize>) -> Range<usize> {
        extents.start * self.extent_blocks..self.blocks.min(extents.end * self.extent_blocks)
    }

    /// The extents that lie within a range of blocks.
    pub(crate) fn extents_within(&self, blocks: &Range<usize>) -> Range<usize> {
        let first = blocks.start.div_ceil(self.extent_blocks);
        first..first.max(blocks.end / self.extent_blocks)
    }

    /// The extents that a range of blocks touches.
    pub(crate) fn extents_of(&self, blocks: &Range<usize>) -> Range<usize> {
        blocks.start / self.extent_blocks..blocks.end.div_ceil(self.extent_blocks)
    }
}

/// Bytes of an extent: the unit in which changes are remembered, and in which large writes are placed.
pub fn extent_bytes(geometry: Geometry) -> u32 {
    EXTENT_BYTES_MIN.max(geometry.chunk_bytes() / EXTENTS_MAX as u32).min(geometry.chunk_bytes())
}

/// The run of equal `class` that begins at `at`, as an index range.
pub(crate) fn run_at<T>(values: &[T], at: usize, class: impl Fn(&T) -> bool) -> Option<(Range<usize>, bool)> {
    let first = class(values.get(at)?);
    let len = values[at..].iter().take_while(|value| class(value) == first).count();
    Some((at..at + len, first))
}

/// Splits `values` into runs of equal `class`.
pub(crate) fn runs<T>(
    values: &[T],
    class: impl Fn(&T) -> bool,
) -> impl Iterator<Item = (Range<usize>, bool)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let (run, first) = run_at(values, at, &class)?;
        at = run.end;
        Some((run, first))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_geometry_has_the_documented_layout() {
        let layout = Layout::new(Geometry::default()).unwrap();
        assert_eq!((layout.blocks, layout.pages, layout.extents, layout.extent_blocks), (4096, 4, 256, 16));
        assert_eq!((layout.data_at, layout.file_bytes), (20480, 20480 + (16 << 20)));
    }

    #[test]
    fn small_and_large_chunks_fit_and_others_are_refused() {
        let tiny = Layout::new(Geometry::new(4096, 4096, 4096).unwrap()).unwrap();
        assert_eq!((tiny.blocks, tiny.pages, tiny.extents, tiny.extent_blocks), (1, 1, 1, 1));
        let huge = Layout::new(Geometry::new(4096, 256 << 20, 1 << 30).unwrap()).unwrap();
        assert_eq!((huge.pages, huge.extents), (PAGES_MAX, EXTENTS_MAX));
        assert!(Layout::new(Geometry::new(4096, 512 << 20, 1 << 30).unwrap()).is_none());
        assert!(Layout::new(Geometry::new(8192, 16 << 20, 1 << 30).unwrap()).is_none());
    }

    #[test]
    fn runs_split_by_class() {
        let found: Vec<_> = runs(&[0, 0, 7, 8, 0], |crc| *crc == 0).collect();
        assert_eq!(found, [(0..2, true), (2..4, false), (4..5, true)]);
        assert_eq!(runs(&[] as &[u32], |_| true).count(), 0);
    }
}
