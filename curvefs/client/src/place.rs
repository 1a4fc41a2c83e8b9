//! Where new directories go. Pure.
//!
//! Directories near the root spread over the partitions, so that what many programs do in different trees is done by
//! different leaders. Deeper ones stay with their parent: what one program does in its own tree is then one apply each, never an
//! operation over two partitions.

use std::collections::HashMap;

use curvefs_types::{InodeId, Name, PartitionId};

/// Directories at this depth and above spread (children of the root have depth 1).
const SPREAD_DEPTH: u8 = 2;
/// Directories whose depth is remembered.
const KNOWN_MAX: usize = 64 << 10;

/// Knows how deep shallow directories are, as far as the mount has come across them. One that it does not know counts as
/// deep, which costs balance and nothing else.
#[derive(Debug, Default)]
pub struct Depths {
    /// Only those whose children spread.
    known: HashMap<InodeId, u8>,
}

impl Depths {
    fn of(&self, dir: InodeId) -> Option<u8> {
        if dir == InodeId::ROOT { Some(0) } else { self.known.get(&dir).copied() }
    }

    /// A directory was seen in another one.
    pub fn seen(&mut self, parent: InodeId, dir: InodeId) {
        match self.of(parent).map(|depth| depth + 1).filter(|depth| *depth < SPREAD_DEPTH) {
            Some(depth) if self.known.len() < KNOWN_MAX => drop(self.known.insert(dir, depth)),
            Some(_) => {}
            // It may have been moved there.
            None => drop(self.known.remove(&dir)),
        }
    }

    /// Whether a directory made there spreads.
    pub fn spreads(&self, parent: InodeId) -> bool {
        self.of(parent).is_some_and(|depth| depth < SPREAD_DEPTH)
    }
}

/// The partition for a directory; the same for the same name.
pub fn spread(parent: InodeId, name: &Name, partitions: &[PartitionId]) -> Option<PartitionId> {
    let mut hash = parent.get().wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xcbf2_9ce4_8422_2325;
    for byte in name.as_bytes() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let at = (hash >> 32) as usize % partitions.len().max(1);
    partitions.get(at).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_near_the_root_spread_and_deeper_ones_do_not() {
        let mut depths = Depths::default();
        let [a, b, c] = [10, 11, 12].map(InodeId);
        assert!(depths.spreads(InodeId::ROOT) && !depths.spreads(a), "unknown counts as deep");
        depths.seen(InodeId::ROOT, a);
        depths.seen(a, b);
        depths.seen(b, c);
        assert!(depths.spreads(a) && !depths.spreads(b) && !depths.spreads(c));
        depths.seen(b, a);
        assert!(!depths.spreads(a), "it was moved down");
        for dir in 100..200_000 {
            depths.seen(InodeId::ROOT, InodeId(dir));
        }
        assert!(depths.known.len() <= KNOWN_MAX);
    }

    #[test]
    fn names_spread_evenly() {
        let partitions = [3, 5, 8, 9].map(PartitionId);
        let mut counts = HashMap::new();
        for n in 0..4000 {
            let name = Name::try_from(format!("dir{n}").as_str()).unwrap();
            let place = spread(InodeId::ROOT, &name, &partitions).unwrap();
            assert_eq!(spread(InodeId::ROOT, &name, &partitions), Some(place));
            *counts.entry(place).or_insert(0) += 1;
        }
        assert!(counts.values().all(|count| (800..1200).contains(count)), "{counts:?}");
        assert_eq!(spread(InodeId::ROOT, &Name::try_from("a").unwrap(), &[]), None);
    }
}
