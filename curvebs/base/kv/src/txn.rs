//! Reads that see a batch's own changes before it is written.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::error::KvError;
use crate::store::{KeyRange, Reader, Row, WriteBatch};

/// Changes over a store that are not written yet, and reads that see them. Made for `apply`: all operations of a Raft
/// entry become one batch, each sees the ones before it, and one that is refused half way leaves nothing behind.
pub struct Txn<'a> {
    base: &'a dyn Reader,
    kept: BTreeMap<Bytes, Option<Bytes>>,
    current: BTreeMap<Bytes, Option<Bytes>>,
}

impl<'a> Txn<'a> {
    /// No changes yet.
    pub fn new(base: &'a dyn Reader) -> Self {
        Self { base, kept: BTreeMap::new(), current: BTreeMap::new() }
    }

    /// Sets a key.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.current.insert(key.into(), Some(value.into()));
    }

    /// Removes a key.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.current.insert(key.into(), None);
    }

    /// The value of a key, changes included.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        match self.current.get(key).or_else(|| self.kept.get(key)) {
            Some(changed) => Ok(changed.clone()),
            None => self.base.get(key),
        }
    }

    /// At most `limit` rows of a range in order of key, changes included.
    pub fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<Row>, KvError> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let changed = |changes: &BTreeMap<Bytes, Option<Bytes>>| -> BTreeMap<Bytes, Option<Bytes>> {
            changes
                .range::<[u8], _>(range.bounds())
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        };
        let mut over = changed(&self.kept);
        over.extend(changed(&self.current));
        // Each change hides at most one row of the store, so this many rows are enough.
        let mut rows: BTreeMap<Bytes, Bytes> =
            self.base.scan(range, limit.saturating_add(over.len()))?.into_iter().collect();
        for (key, value) in over {
            match value {
                Some(value) => drop(rows.insert(key, value)),
                None => drop(rows.remove(&key)),
            }
        }
        Ok(rows.into_iter().take(limit).collect())
    }

    /// Keeps the changes made since the last `keep` or `discard`.
    pub fn keep(&mut self) {
        self.kept.append(&mut self.current);
    }

    /// Forgets the changes made since the last `keep` or `discard`.
    pub fn discard(&mut self) {
        self.current.clear();
    }

    /// The kept changes as a batch.
    pub fn into_batch(self) -> WriteBatch {
        assert!(self.current.is_empty(), "an operation was neither kept nor discarded");
        let mut batch = WriteBatch::new();
        for (key, value) in self.kept {
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
        }
        batch
    }
}

impl std::fmt::Debug for Txn<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Txn").field("kept", &self.kept.len()).field("current", &self.current.len()).finish()
    }
}
