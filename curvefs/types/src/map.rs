//! Which partition holds which inodes.

use crate::ids::{InodeId, PartitionId};
use crate::wire::{Input, Seeds, Wire, WireError};
use crate::wire_struct;

/// From this inode on, up to the next line of the map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapLine {
    /// The first inode.
    pub first: InodeId,
    /// Who holds it and those that follow.
    pub partition: PartitionId,
}

wire_struct!(MapLine { first, partition });

/// Which partition holds which inodes of a file system; clients keep it whole. The MDS raises `version` with each change. A
/// partition that is asked for what it does not hold says `NotHere`, so an old map costs a call, never a wrong answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionMap {
    version: u64,
    lines: Vec<MapLine>,
}

impl PartitionMap {
    /// A map; `None` unless the lines begin with inode 0 and grow.
    pub fn new(version: u64, lines: Vec<MapLine>) -> Option<Self> {
        let sorted = lines.windows(2).all(|pair| pair[0].first < pair[1].first);
        let whole = lines.first().is_some_and(|line| line.first == InodeId(0));
        (sorted && whole).then_some(Self { version, lines })
    }

    /// Which of two maps is newer.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Who holds an inode.
    pub fn partition_of(&self, inode: InodeId) -> PartitionId {
        let after = self.lines.partition_point(|line| line.first <= inode);
        self.lines[after - 1].partition
    }

    /// All lines.
    pub fn lines(&self) -> &[MapLine] {
        &self.lines
    }
}

impl Wire for PartitionMap {
    fn put(&self, out: &mut Vec<u8>) {
        self.version.put(out);
        self.lines.put(out);
    }

    fn get(input: &mut Input<'_>) -> Result<Self, WireError> {
        Self::new(Wire::get(input)?, Wire::get(input)?).ok_or(WireError::Value("partition map"))
    }

    fn sample(seeds: &mut Seeds) -> Self {
        let line = |slot| MapLine { first: InodeId(slot << 40), partition: PartitionId(slot as u32 + 1) };
        Self { version: seeds.number(), lines: (0..=seeds.below(4)).map(line).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found() {
        let lines = [(0, 1), (1 << 40, 2), (1 << 40 | 500, 3)];
        let lines = lines.map(|(first, p)| MapLine { first: InodeId(first), partition: PartitionId(p) });
        let map = PartitionMap::new(1, lines.to_vec()).unwrap();
        for (inode, partition) in
            [(1, 1), ((1 << 40) - 1, 1), (1 << 40, 2), (1 << 40 | 499, 2), (u64::MAX, 3)]
        {
            assert_eq!(map.partition_of(InodeId(inode)), PartitionId(partition));
        }
        assert_eq!(PartitionMap::new(1, lines[1..].to_vec()), None);
        assert_eq!(PartitionMap::new(1, vec![lines[0], lines[0]]), None);
        assert_eq!(PartitionMap::new(1, Vec::new()), None);
    }
}
