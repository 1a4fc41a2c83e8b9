//! What a copyset's log holds that decides where a large write may be placed. Pure.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;

use curve_types::{ChunkKey, VolumeId};

use crate::data::PlacedRun;

/// Appended entries that are not applied, as far as they touch chunks, and what was placed for them.
///
/// # The rule
///
/// A large write may be placed into the plane that does *not* hold an extent's data, before anybody knows whether it
/// will be committed, if nothing has touched the extent since the last durable checkpoint: neither what was applied
/// (the chunk's own index of the extent says so) nor what is in the log behind it (this ledger says so). So within
/// whatever a crash may cause to be replayed, an extent changes planes at most once, and before anything else happens
/// to it. From that follow:
///
/// - The place written to holds nothing that any state which may still be needed refers to.
/// - A replay, over whatever an interrupted sync has left, sets the plane absolutely and repeats the small writes that
///   came after into the plane that the first run had put them into. Before, there are none.
/// - An operation that is refused when it is applied, or an entry that is truncated, leaves the plane as it was; what it
///   has placed means nothing.
///
/// Whatever takes data away from a chunk (discards, deletions) may end with the chunk's file given back, so while such a
/// change is newer than the checkpoint, nothing is placed in that chunk.
///
/// After a restart, the log holds entries that this ledger has not seen: nothing is placed until a checkpoint is at or
/// past the last of them (`floor`).
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// The last entry that may be in the log unseen; none is known before the first append.
    floor: Option<u64>,
    /// What the last durable checkpoint holds.
    checkpoint: u64,
    /// Extents that entries touch which are not applied; truncated ones stay until their index has been applied.
    unapplied: VecDeque<(u64, ChunkKey, Range<u16>)>,
    /// Chunks and volumes that a change newer than the checkpoint takes data from.
    cleared: HashMap<ChunkKey, u64>,
    cleared_volumes: HashMap<VolumeId, u64>,
    /// Bytes that were not placed for want of a checkpoint, since the last one.
    hindered: u64,
    /// What was placed for entries that are not applied, by index and number of the operation.
    placed: BTreeMap<(u64, u32), Vec<PlacedRun>>,
}

impl Ledger {
    /// Begins with what the last checkpoint held.
    pub(crate) fn open(&mut self, checkpoint: u64) {
        *self = Self { checkpoint, ..Self::default() };
    }

    /// An entry is about to be appended. Those of this index and after it were truncated, if there were any.
    pub(crate) fn append(&mut self, index: u64) {
        self.floor.get_or_insert(index.saturating_sub(1));
        if !self.placed.is_empty() {
            self.placed.split_off(&(index, 0));
        }
    }

    /// The entry writes to these extents.
    pub(crate) fn touch(&mut self, index: u64, key: ChunkKey, extents: Range<usize>) {
        self.unapplied.push_back((index, key, extents.start as u16..extents.end as u16));
    }

    /// The entry takes data away from the chunk.
    pub(crate) fn clear(&mut self, index: u64, key: ChunkKey) {
        let known = self.cleared.entry(key).or_default();
        *known = index.max(*known);
    }

    /// The entry takes all data of the volume away.
    pub(crate) fn clear_volume(&mut self, index: u64, volume: VolumeId) {
        let known = self.cleared_volumes.entry(volume).or_default();
        *known = index.max(*known);
    }

    /// What the last durable checkpoint holds; `None` while nothing may be placed in this chunk.
    pub(crate) fn checkpoint_for(&self, key: ChunkKey) -> Option<u64> {
        let seen = self.floor.is_some_and(|floor| self.checkpoint >= floor);
        let cleared = self.cleared.contains_key(&key) || self.cleared_volumes.contains_key(&key.volume);
        (seen && !cleared).then_some(self.checkpoint)
    }

    /// Of these extents, calls `taken` with those that an entry touches which is not applied.
    pub(crate) fn unapplied(&self, key: ChunkKey, extents: &Range<usize>, mut taken: impl FnMut(usize)) {
        for (_, _, touched) in self.unapplied.iter().filter(|(_, other, _)| *other == key) {
            let start = extents.start.max(usize::from(touched.start));
            let end = extents.end.min(usize::from(touched.end));
            (start..end).for_each(&mut taken);
        }
    }

    /// So many bytes could not be placed for want of a checkpoint.
    pub(crate) fn hinder(&mut self, bytes: u64) {
        self.hindered += bytes;
    }

    /// How many there have been since the last checkpoint.
    pub(crate) fn hindered(&self) -> u64 {
        self.hindered
    }

    /// Notes what will be placed for an operation.
    pub(crate) fn place(&mut self, index: u64, op: u32, runs: Vec<PlacedRun>) {
        self.placed.insert((index, op), runs);
    }

    /// Nothing was placed after all: the disk had no room.
    pub(crate) fn unplace(&mut self, index: u64, op: u32, runs: &[PlacedRun]) {
        // Another entry may have taken the index meanwhile, but then it has another plan or none.
        if self.placed.get(&(index, op)).is_some_and(|known| known == runs) {
            self.placed.remove(&(index, op));
        }
    }

    /// Takes what was placed for an operation that is being applied.
    pub(crate) fn take(&mut self, index: u64, op: u32) -> Option<Vec<PlacedRun>> {
        if self.placed.is_empty() { None } else { self.placed.remove(&(index, op)) }
    }

    /// Everything up to here is applied.
    pub(crate) fn applied(&mut self, index: u64) {
        while self.unapplied.pop_front_if(|(touched, ..)| *touched <= index).is_some() {}
        while self.placed.first_key_value().is_some_and(|((placed, _), _)| *placed <= index) {
            self.placed.pop_first();
        }
    }

    /// Everything up to here is durable.
    pub(crate) fn checkpointed(&mut self, index: u64) {
        self.checkpoint = self.checkpoint.max(index);
        self.hindered = 0;
        let checkpoint = self.checkpoint;
        self.cleared.retain(|_, cleared| *cleared > checkpoint);
        self.cleared_volumes.retain(|_, cleared| *cleared > checkpoint);
    }
}

#[cfg(test)]
mod tests {
    use curve_types::VolumeId;

    use super::*;

    fn key(index: u32) -> ChunkKey {
        ChunkKey { volume: VolumeId(1), index }
    }

    fn runs(first: u32) -> Vec<PlacedRun> {
        vec![PlacedRun { first, extents: 1, second: true }]
    }

    fn taken(ledger: &Ledger, index: u32, extents: Range<usize>) -> Vec<usize> {
        let mut taken = Vec::new();
        ledger.unapplied(key(index), &extents, |extent| taken.push(extent));
        taken
    }

    #[test]
    fn nothing_is_placed_before_a_checkpoint_has_seen_what_the_log_held() {
        let mut ledger = Ledger::default();
        ledger.open(7);
        assert_eq!(ledger.checkpoint_for(key(0)), None, "no append has shown how far the log goes");
        ledger.append(11);
        assert_eq!(ledger.checkpoint_for(key(0)), None);
        ledger.checkpointed(9);
        assert_eq!(ledger.checkpoint_for(key(0)), None);
        ledger.checkpointed(10);
        assert_eq!(ledger.checkpoint_for(key(0)), Some(10));
        ledger.append(12);
        ledger.checkpointed(8);
        assert_eq!(ledger.checkpoint_for(key(0)), Some(10), "checkpoints only go forward");
    }

    #[test]
    fn extents_are_taken_until_their_entry_is_applied() {
        let mut ledger = Ledger::default();
        ledger.append(1);
        ledger.touch(1, key(0), 2..4);
        ledger.append(2);
        ledger.touch(2, key(1), 0..256);
        assert_eq!((taken(&ledger, 0, 0..3), taken(&ledger, 0, 4..9)), (vec![2], vec![]));
        ledger.applied(1);
        assert_eq!((taken(&ledger, 0, 0..3), taken(&ledger, 1, 255..256)), (vec![], vec![255]));
    }

    #[test]
    fn an_entry_that_is_truncated_keeps_its_extents_and_loses_its_place() {
        let mut ledger = Ledger::default();
        ledger.append(5);
        ledger.touch(5, key(0), 0..1);
        ledger.place(5, 0, runs(0));
        ledger.append(4);
        ledger.append(5);
        assert_eq!(ledger.take(5, 0), None);
        assert_eq!(taken(&ledger, 0, 0..1), [0]);
        ledger.applied(4);
        assert_eq!(taken(&ledger, 0, 0..1), [0]);
        ledger.applied(5);
        assert_eq!(taken(&ledger, 0, 0..1), [0usize; 0]);
    }

    #[test]
    fn a_chunk_that_loses_data_takes_none_until_a_checkpoint_holds_that() {
        let mut ledger = Ledger::default();
        ledger.append(1);
        ledger.clear(1, key(0));
        ledger.clear_volume(2, VolumeId(2));
        let other = ChunkKey { volume: VolumeId(2), index: 9 };
        let open = |ledger: &Ledger| [key(0), key(1), other].map(|key| ledger.checkpoint_for(key).is_some());
        assert_eq!(open(&ledger), [false, true, false]);
        ledger.applied(2);
        assert_eq!(open(&ledger), [false, true, false]);
        ledger.checkpointed(1);
        assert_eq!(open(&ledger), [true, true, false]);
        ledger.checkpointed(2);
        assert_eq!(open(&ledger), [true, true, true]);
    }

    #[test]
    fn what_was_placed_is_taken_once() {
        let mut ledger = Ledger::default();
        ledger.append(3);
        ledger.place(3, 1, runs(4));
        ledger.place(3, 2, runs(5));
        ledger.unplace(3, 2, &runs(6));
        assert_eq!((ledger.take(3, 0), ledger.take(3, 1), ledger.take(3, 1)), (None, Some(runs(4)), None));
        ledger.unplace(3, 2, &runs(5));
        assert_eq!(ledger.take(3, 2), None);
        ledger.place(4, 0, runs(1));
        ledger.applied(4);
        assert_eq!(ledger.take(4, 0), None);
    }
}
