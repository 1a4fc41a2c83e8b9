//! The part of a file's extents that a mount knows. Pure.

use curvefs_types::{DataRef, Extent};

/// Extents kept of one file.
const EXTENTS_MAX: usize = 4096;

/// All extents with a byte in `from .. to`, as they were at one generation of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Window {
    pub generation: u64,
    pub from: u64,
    pub to: u64,
    extents: Vec<Extent>,
}

impl Window {
    /// What a partition answered to a question for `from .. to`.
    pub fn new(generation: u64, from: u64, to: u64, extents: Vec<Extent>) -> Self {
        Self { generation, from, to, extents }
    }

    /// Whether it knows a range.
    pub fn covers(&self, from: u64, to: u64) -> bool {
        self.from <= from && to <= self.to
    }

    /// The written parts in a range; what is between them is zeros.
    pub fn written(&self, from: u64, to: u64) -> Vec<Extent> {
        let first = self.extents.partition_point(|extent| extent.end() <= from);
        self.extents[first..]
            .iter()
            .take_while(|extent| extent.offset < to)
            .filter(|extent| extent.data != DataRef::Unwritten)
            .filter_map(|extent| extent.part(from, to))
            .collect()
    }

    /// Whether the mount's own write, just published, could be added: otherwise the window is of no use any more.
    pub fn add(&mut self, generation: u64, extents: &[Extent]) -> bool {
        if self.generation + 1 != generation || self.extents.len() + 2 * extents.len() > EXTENTS_MAX {
            return false;
        }
        self.generation = generation;
        let (from, to) = (self.from, self.to);
        for extent in extents.iter().flat_map(Extent::by_chunk).filter_map(|extent| extent.part(from, to)) {
            self.insert(extent);
        }
        true
    }

    fn insert(&mut self, extent: Extent) {
        let first = self.extents.partition_point(|other| other.end() <= extent.offset);
        let last = self.extents.partition_point(|other| other.offset < extent.end());
        let covered = first..last.max(first);
        let before = self.extents[covered.clone()].first().and_then(|other| other.part(0, extent.offset));
        let after = self.extents[covered.clone()].last().and_then(|other| other.part(extent.end(), u64::MAX));
        let new = [before, Some(extent), after].into_iter().flatten();
        self.extents.splice(covered, new);
    }
}

#[cfg(test)]
mod tests {
    use curvefs_types::SliceId;
    use proptest::prelude::*;

    use super::*;

    fn extent(offset: u64, len: u32, serial: u64) -> Extent {
        let slice = SliceId { serial, ..SliceId::default() };
        Extent::checked(offset, len, DataRef::Slice { slice, bytes: 1000, at: 0 }).unwrap()
    }

    proptest! {
        /// Against a table that says for each byte which slice it is in, and where.
        #[test]
        fn added_extents_cover_earlier_ones(writes in prop::collection::vec((0u64..90, 1u32..40), 1..30)) {
            let mut window = Window::new(1, 10, 80, Vec::new());
            let mut model = [None; 140];
            for (serial, (offset, len)) in writes.into_iter().enumerate() {
                let serial = serial as u64;
                prop_assert!(window.add(serial + 2, &[extent(offset, len, serial)]));
                for byte in 0..u64::from(len) {
                    model[(offset + byte) as usize] = Some((serial, byte));
                }
            }
            let mut seen = [None; 140];
            for part in window.written(0, 1000) {
                let DataRef::Slice { slice, at, .. } = part.data else { continue };
                for byte in 0..u64::from(part.len) {
                    seen[(part.offset + byte) as usize] = Some((slice.serial, u64::from(at) + byte));
                }
            }
            prop_assert_eq!(&seen[10..80], &model[10..80]);
            prop_assert!(!window.add(1, &[]));
        }
    }
}
