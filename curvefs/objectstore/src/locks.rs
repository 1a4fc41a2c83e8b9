//! Who may change a key, and which blobs are being read.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

const SHARDS: usize = 1024;

/// Locks of keys. Keys share a lock by their hash, so whoever needs several asks for them together.
pub(crate) struct KeyLocks(Vec<RwLock<()>>);

impl KeyLocks {
    pub(crate) fn new() -> Self {
        Self((0..SHARDS).map(|_| RwLock::new(())).collect())
    }

    fn shard(bucket: &str, key: &str) -> usize {
        let mut hasher = DefaultHasher::new();
        (bucket, key).hash(&mut hasher);
        (hasher.finish() % SHARDS as u64) as usize
    }

    pub(crate) fn read(&self, bucket: &str, key: &str) -> RwLockReadGuard<'_, ()> {
        self.0[Self::shard(bucket, key)].read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks all the keys, in one order everywhere.
    pub(crate) fn write<'a>(
        &self,
        bucket: &str,
        keys: impl Iterator<Item = &'a str>,
    ) -> Vec<RwLockWriteGuard<'_, ()>> {
        let mut shards = keys.map(|key| Self::shard(bucket, key)).collect::<Vec<_>>();
        shards.sort_unstable();
        shards.dedup();
        shards
            .into_iter()
            .map(|shard| self.0[shard].write().unwrap_or_else(PoisonError::into_inner))
            .collect()
    }
}

/// Blobs that are being read stay until the last reader is gone.
#[derive(Default)]
pub(crate) struct Pins(Mutex<HashMap<u64, Pin>>);

#[derive(Default)]
struct Pin {
    readers: u32,
    doomed: bool,
}

impl Pins {
    fn table(&self) -> MutexGuard<'_, HashMap<u64, Pin>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn pin(&self, blobs: impl Iterator<Item = u64>) {
        let mut table = self.table();
        blobs.for_each(|blob| table.entry(blob).or_default().readers += 1);
    }

    /// Gives pins back; returns which of the blobs are to be removed now.
    pub(crate) fn unpin(&self, blobs: impl Iterator<Item = u64>) -> Vec<u64> {
        let mut table = self.table();
        blobs
            .filter(|blob| {
                let pin = table.get_mut(blob).expect("pins are given back once");
                pin.readers -= 1;
                pin.readers == 0 && table.remove(blob).is_some_and(|pin| pin.doomed)
            })
            .collect()
    }

    /// Says that blobs are in no object any more; returns which of them nobody reads.
    pub(crate) fn doom(&self, blobs: Vec<u64>) -> Vec<u64> {
        let mut table = self.table();
        let unread = |blob: &u64| table.get_mut(blob).map(|pin| pin.doomed = true).is_none();
        blobs.into_iter().filter(unread).collect()
    }
}

/// Names of buckets with their time of creation; held to read while a change inside one is committed.
pub(crate) type Buckets = RwLock<std::collections::BTreeMap<String, i64>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doomed_blob_goes_with_its_last_reader() {
        let pins = Pins::default();
        pins.pin([1, 2].into_iter());
        pins.pin([1].into_iter());
        assert_eq!(pins.doom(vec![1, 3]), [3]);
        assert!(pins.unpin([1].into_iter()).is_empty());
        assert_eq!(pins.unpin([1, 2].into_iter()), [1]);
        assert_eq!(pins.doom(vec![2]), [2]);
    }
}
