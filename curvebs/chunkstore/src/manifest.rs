//! Which chunks a copyset has, and what was deleted: the state behind the journal, without I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use curve_types::{ChunkKey, CopysetId, LogIndex, VolumeId};

use crate::data::{Changes, ChunkChange, VolumeDeletion};
use crate::format::manifest::{Body, ChunkEntry, Delta, Frame, any_frame_in, decode, encode};

/// Most deletions of chunks that are remembered one by one. When there are more, the older half is forgotten and the
/// horizon rises: replicas behind it are told everything that exists instead.
const DELETIONS_MAX: usize = 64 << 10;

/// The chunks of a copyset. Live, it runs ahead of the journal: entries of generation 0 were never written by a sync.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// The last completed sync.
    pub sync: u64,
    /// Birth number of the next chunk file.
    pub birth_next: u64,
    /// Deletions at or below this index are forgotten.
    pub horizon: u64,
    /// The chunks with a file.
    pub chunks: BTreeMap<ChunkKey, ChunkEntry>,
    /// Deleted chunks, with the index.
    pub deleted: BTreeMap<ChunkKey, u64>,
    /// Deleted volumes, with the index.
    pub volumes: BTreeMap<VolumeId, u64>,
    /// Chunks whose header and table an interrupted sync may have half written.
    pub unclean: BTreeSet<ChunkKey>,
}

/// The keys of one volume.
pub(crate) fn volume_range(volume: VolumeId) -> (Bound<ChunkKey>, Bound<ChunkKey>) {
    (Bound::Included(ChunkKey { volume, index: 0 }), Bound::Included(ChunkKey { volume, index: u32::MAX }))
}

impl Manifest {
    /// Reads a journal. The error says what is damaged.
    pub(crate) fn replay(bytes: &[u8], copyset: CopysetId) -> Result<Self, String> {
        let mut manifest = Self::default();
        let mut at = 0;
        while at < bytes.len() {
            match decode(&bytes[at..]) {
                Ok((frame, _)) if frame.copyset != copyset => {
                    return Err(format!("manifest belongs to {}", frame.copyset));
                }
                Ok((frame, len)) => {
                    if matches!(frame.body, Body::Snapshot(_)) != (at == 0) {
                        return Err(format!("manifest has a frame out of order at byte {at}"));
                    }
                    manifest.apply(frame);
                    at += len;
                }
                Err(cause) if at == 0 || any_frame_in(&bytes[at + 1..]) => {
                    return Err(format!("manifest frame at byte {at}: {cause}"));
                }
                Err(_) => break,
            }
        }
        // An intent may name chunks whose first commit never came.
        let Self { chunks, unclean, .. } = &mut manifest;
        unclean.retain(|key| chunks.contains_key(key));
        if at == 0 { Err("manifest is empty".into()) } else { Ok(manifest) }
    }

    fn apply(&mut self, frame: Frame) {
        match frame.body {
            Body::Intent(keys) => self.unclean.extend(keys),
            Body::Snapshot(delta) | Body::Commit(delta) => {
                self.sync = frame.sync;
                self.apply_delta(delta);
            }
        }
    }

    fn apply_delta(&mut self, delta: Delta) {
        self.birth_next = delta.birth_next;
        for key in &delta.removed {
            self.chunks.remove(key);
            self.unclean.remove(key);
        }
        self.deleted.extend(delta.deleted);
        for (volume, index) in delta.volumes {
            self.note_volume_deleted(volume, index);
        }
        for (key, entry) in delta.chunks {
            self.deleted.remove(&key);
            self.unclean.remove(&key);
            self.chunks.insert(key, entry);
        }
        self.forget(delta.horizon);
    }

    /// The whole state as the bytes of a new journal.
    pub(crate) fn encode(&self, copyset: CopysetId) -> Vec<u8> {
        let delta = Delta {
            birth_next: self.birth_next,
            horizon: self.horizon,
            removed: Vec::new(),
            deleted: self.deleted.iter().map(|(k, v)| (*k, *v)).chain(self.hidden_deletions()).collect(),
            volumes: self.volumes.iter().map(|(k, v)| (*k, *v)).collect(),
            chunks: self.chunks.iter().filter(|(_, e)| e.generation > 0).map(|(k, v)| (*k, *v)).collect(),
        };
        let mut bytes = Vec::new();
        encode(&Frame { copyset, sync: self.sync, body: Body::Snapshot(delta) }, &mut bytes);
        let unclean: Vec<_> = self.unclean.iter().copied().collect();
        if !unclean.is_empty() {
            encode(&Frame { copyset, sync: self.sync, body: Body::Intent(unclean) }, &mut bytes);
        }
        bytes
    }

    /// Deletions remembered by chunks that were made again and that no sync has written yet.
    fn hidden_deletions(&self) -> impl Iterator<Item = (ChunkKey, u64)> {
        let unborn = self.chunks.iter().filter(|(_, e)| e.generation == 0 && e.last_changed > self.horizon);
        unborn.map(|(key, entry)| (*key, entry.last_changed))
    }

    /// A rough size of [`encode`](Self::encode)'s result.
    pub(crate) fn encoded_len(&self) -> u64 {
        (100 + self.chunks.len() * 36 + self.deleted.len() * 20 + self.volumes.len() * 16) as u64
    }

    /// Adds a chunk and returns its birth number and the index at which all of it counts as changed: an earlier
    /// deletion, its own or its volume's, is remembered in the new chunk from now on.
    pub(crate) fn add_chunk(&mut self, key: ChunkKey) -> (u64, u64) {
        let birth = self.birth_next;
        self.birth_next += 1;
        let own = self.deleted.remove(&key).unwrap_or(0);
        let changed = own.max(self.volumes.get(&key.volume).copied().unwrap_or(0)).max(self.horizon);
        self.chunks.insert(key, ChunkEntry { birth, generation: 0, last_changed: changed });
        (birth, changed)
    }

    /// Remembers the deletion of a chunk.
    pub(crate) fn note_deleted(&mut self, key: ChunkKey, index: u64) {
        let known = self.deleted.entry(key).or_default();
        *known = index.max(*known);
    }

    /// Remembers the deletion of a volume, which covers all its chunks.
    pub(crate) fn note_volume_deleted(&mut self, volume: VolumeId, index: u64) {
        self.forget_chunks_of(volume, index);
        let known = self.volumes.entry(volume).or_default();
        *known = index.max(*known);
    }

    fn forget_chunks_of(&mut self, volume: VolumeId, upto: u64) {
        let covered = self.deleted.range(volume_range(volume)).filter(|(_, index)| **index <= upto);
        for key in covered.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.deleted.remove(&key);
        }
    }

    /// Raises the horizon, forgetting what lies below.
    pub(crate) fn forget(&mut self, horizon: u64) {
        if horizon > self.horizon {
            self.horizon = horizon;
            self.deleted.retain(|_, index| *index > horizon);
            self.volumes.retain(|_, index| *index > horizon);
        }
    }

    /// Raises the horizon when too many deletions are remembered.
    pub(crate) fn limit_deletions(&mut self) {
        if self.deleted.len() > DELETIONS_MAX {
            let mut indexes: Vec<_> = self.deleted.values().copied().collect();
            let (_, median, _) = indexes.select_nth_unstable(DELETIONS_MAX / 2);
            let median = *median;
            self.forget(median);
        }
    }

    /// What changed after `index`; `live` gives the last change of a chunk whose entry is behind.
    pub(crate) fn changed_since(&self, index: LogIndex, live: impl Fn(&ChunkKey) -> Option<u64>) -> Changes {
        let full = index.get() < self.horizon;
        let mut chunks: Vec<_> = self
            .chunks
            .iter()
            .map(|(key, entry)| (*key, live(key).unwrap_or(entry.last_changed)))
            .filter(|(_, changed)| full || *changed > index.get())
            .map(|(key, changed)| ChunkChange { key, last_changed: LogIndex(changed), deleted: false })
            .collect();
        let deleted = self.deleted.iter().filter(|(_, at)| **at > index.get());
        chunks.extend(deleted.map(|(key, at)| ChunkChange {
            key: *key,
            last_changed: LogIndex(*at),
            deleted: true,
        }));
        chunks.sort_by_key(|change| change.key);
        let volumes = self.volumes.iter().filter(|(_, at)| **at > index.get());
        let volumes =
            volumes.map(|(volume, at)| VolumeDeletion { volume: *volume, index: LogIndex(*at) }).collect();
        Changes { chunks, volumes, horizon: LogIndex(self.horizon), full }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::manifest::tests::key;

    const ID: CopysetId = CopysetId(6);

    fn entry(birth: u64, generation: u64) -> ChunkEntry {
        ChunkEntry { birth, generation, last_changed: 10 * generation }
    }

    fn commit(sync: u64, delta: Delta) -> Frame {
        Frame { copyset: ID, sync, body: Body::Commit(delta) }
    }

    #[test]
    fn a_journal_is_replayed_and_its_torn_end_ignored() {
        let mut bytes = Manifest::default().encode(ID);
        encode(
            &commit(1, Delta { birth_next: 2, chunks: vec![(key(1, 0), entry(0, 1))], ..Delta::default() }),
            &mut bytes,
        );
        encode(&Frame { copyset: ID, sync: 2, body: Body::Intent(vec![key(1, 0)]) }, &mut bytes);
        let whole = bytes.len();
        encode(
            &commit(2, Delta { birth_next: 2, chunks: vec![(key(1, 0), entry(0, 2))], ..Delta::default() }),
            &mut bytes,
        );
        let manifest = Manifest::replay(&bytes, ID).unwrap();
        assert_eq!((manifest.sync, manifest.chunks[&key(1, 0)]), (2, entry(0, 2)));
        assert!(manifest.unclean.is_empty());
        for cut in whole..bytes.len() {
            let torn = Manifest::replay(&bytes[..cut], ID).unwrap();
            assert_eq!((torn.sync, torn.chunks[&key(1, 0)]), (1, entry(0, 1)));
            assert!(torn.unclean.contains(&key(1, 0)), "the interrupted sync may have written the chunk");
            assert_eq!(Manifest::replay(&torn.encode(ID), ID).unwrap(), torn);
        }
    }

    #[test]
    fn damage_before_the_last_frame_is_named() {
        let mut bytes = Manifest::default().encode(ID);
        let first = bytes.len();
        encode(&commit(1, Delta::default()), &mut bytes);
        let second = bytes.len();
        encode(&commit(2, Delta::default()), &mut bytes);
        for at in 0..second {
            let mut flipped = bytes.clone();
            flipped[at] ^= 4;
            assert!(Manifest::replay(&flipped, ID).is_err(), "byte {at}");
        }
        assert!(Manifest::replay(&bytes[first..], ID).is_err());
        assert!(Manifest::replay(&[], ID).is_err());
        assert!(Manifest::replay(&bytes, CopysetId(7)).unwrap_err().contains("cs-6"));
    }

    #[test]
    fn a_deletion_lives_on_in_the_chunk_that_is_made_again() {
        let mut manifest = Manifest::default();
        manifest.note_deleted(key(1, 0), 20);
        assert_eq!(manifest.add_chunk(key(1, 0)), (0, 20));
        assert!(manifest.deleted.is_empty());
        let crashed = Manifest::replay(&manifest.encode(ID), ID).unwrap();
        assert_eq!(
            crashed.deleted[&key(1, 0)],
            20,
            "a crash before the new chunk is synced forgets only the chunk"
        );
        manifest.chunks.remove(&key(1, 0));
        manifest.forget(30);
        assert_eq!(
            manifest.add_chunk(key(1, 0)),
            (1, 30),
            "a forgotten deletion may lie anywhere below the horizon"
        );
        manifest.note_volume_deleted(VolumeId(1), 40);
        assert_eq!(
            manifest.add_chunk(key(1, 7)),
            (2, 40),
            "a replica may hear of the chunk and not of the volume"
        );
    }

    #[test]
    fn changes_below_the_horizon_list_everything() {
        let mut manifest = Manifest { sync: 3, ..Manifest::default() };
        manifest.chunks.insert(key(1, 0), entry(0, 1));
        manifest.chunks.insert(key(1, 1), entry(1, 3));
        manifest.note_deleted(key(1, 2), 25);
        manifest.note_deleted(key(2, 0), 26);
        manifest.note_volume_deleted(VolumeId(2), 27);
        let changes = manifest.changed_since(LogIndex(20), |_| None);
        let seen: Vec<_> = changes.chunks.iter().map(|c| (c.key, c.last_changed.get(), c.deleted)).collect();
        assert_eq!(seen, [(key(1, 1), 30, false), (key(1, 2), 25, true)]);
        assert_eq!(changes.volumes, [VolumeDeletion { volume: VolumeId(2), index: LogIndex(27) }]);
        assert!(!changes.full);
        manifest.forget(26);
        let changes = manifest.changed_since(LogIndex(20), |_| None);
        assert!(changes.full && changes.chunks.len() == 2 && changes.volumes.len() == 1);
    }

    #[test]
    fn too_many_deletions_raise_the_horizon() {
        let mut manifest = Manifest::default();
        (0..=DELETIONS_MAX as u32).for_each(|n| manifest.note_deleted(key(1, n), u64::from(n) + 1));
        manifest.limit_deletions();
        assert!(manifest.deleted.len() <= DELETIONS_MAX / 2 + 1);
        assert_eq!(manifest.horizon, DELETIONS_MAX as u64 / 2 + 1);
    }
}
