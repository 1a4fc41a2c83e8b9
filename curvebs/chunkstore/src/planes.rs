//! Which of a chunk file's two regions holds the current data of each extent. Pure.

use std::ops::Range;

use crate::layout::{EXTENTS_MAX, Layout};

/// One of the two regions of a chunk file that have room for all of the chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Plane {
    /// The one every chunk file has.
    #[default]
    First,
    /// The one behind it, which is there only where large writes went.
    Second,
}

impl Plane {
    /// The other one.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

/// Bytes of the planes of all extents in the header.
pub(crate) const PLANES_BYTES: usize = EXTENTS_MAX / 8;

/// The plane of each extent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Planes([u8; PLANES_BYTES]);

impl Planes {
    /// As they are in a header: one bit an extent, set for the second plane.
    pub(crate) fn from_bytes(bytes: [u8; PLANES_BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes of a header.
    pub(crate) fn to_bytes(self) -> [u8; PLANES_BYTES] {
        self.0
    }

    /// Where an extent's data are.
    pub(crate) fn of(&self, extent: usize) -> Plane {
        if self.0[extent / 8] & (1 << (extent % 8)) == 0 { Plane::First } else { Plane::Second }
    }

    /// Notes where the data of extents are now.
    pub(crate) fn set(&mut self, extents: Range<usize>, plane: Plane) {
        for extent in extents {
            let bit = 1 << (extent % 8);
            match plane {
                Plane::First => self.0[extent / 8] &= !bit,
                Plane::Second => self.0[extent / 8] |= bit,
            }
        }
    }

    /// Splits blocks into runs that lie in one plane, with the offset in the file at which each begins.
    pub(crate) fn runs(
        self,
        layout: &Layout,
        blocks: Range<usize>,
    ) -> impl Iterator<Item = (Range<usize>, u64)> {
        let (per_extent, layout) = (layout.extent_blocks, *layout);
        let mut at = blocks.start;
        std::iter::from_fn(move || {
            if at >= blocks.end {
                return None;
            }
            let first = at / per_extent;
            let plane = self.of(first);
            let extents = layout.extents_of(&(at..blocks.end));
            let end = extents.skip(1).find(|extent| self.of(*extent) != plane);
            let run = at..end.map_or(blocks.end, |extent| extent * per_extent);
            at = run.end;
            Some((run.clone(), layout.block_in(plane, run.start)))
        })
    }
}

#[cfg(test)]
mod tests {
    use curve_types::Geometry;

    use super::*;

    #[test]
    fn runs_end_where_the_plane_changes() {
        let layout = Layout::new(Geometry::default()).unwrap();
        let mut planes = Planes::default();
        planes.set(1..3, Plane::Second);
        planes.set(255..256, Plane::Second);
        let runs =
            |blocks| planes.runs(&layout, blocks).map(|(run, _)| (run.start, run.end)).collect::<Vec<_>>();
        assert_eq!(runs(3..5), [(3, 5)]);
        assert_eq!(runs(3..70), [(3, 16), (16, 48), (48, 70)]);
        assert_eq!(runs(20..40), [(20, 40)]);
        assert_eq!(runs(4000..4096), [(4000, 4080), (4080, 4096)]);
        assert_eq!(runs(7..7), []);
        let (_, at) = planes.runs(&layout, 20..40).next().unwrap();
        assert_eq!(at, layout.file_bytes + 20 * 4096);
        planes.set(0..256, Plane::First);
        assert_eq!(planes, Planes::default());
        assert_eq!(Planes::from_bytes(planes.to_bytes()), planes);
    }
}
