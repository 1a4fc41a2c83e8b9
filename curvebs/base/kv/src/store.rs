//! What a state machine asks of its store.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use curve_io::BoxFuture;

use crate::error::KvError;

/// A key and its value.
pub type Row = (Bytes, Bytes);

/// A range of keys in byte order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyRange {
    /// The first key.
    pub from: Bytes,
    /// The first key after the range; `None` for the end of the store.
    pub to: Option<Bytes>,
}

impl KeyRange {
    /// Every key.
    pub fn all() -> Self {
        Self { from: Bytes::new(), to: None }
    }

    /// Every key that begins with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let from: Bytes = prefix.into();
        let mut end = from.to_vec();
        while end.last() == Some(&0xFF) {
            end.pop();
        }
        let to = end.pop().map(|last| {
            end.push(last + 1);
            Bytes::from(end)
        });
        Self { from, to }
    }

    /// The part of the range after `key`.
    pub fn after(mut self, key: &[u8]) -> Self {
        let mut next = Vec::with_capacity(key.len() + 1);
        next.extend_from_slice(key);
        next.push(0);
        self.from = self.from.max(Bytes::from(next));
        self
    }

    /// Whether a key is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.from[..] && self.to.as_ref().is_none_or(|to| key < &to[..])
    }

    /// Whether no key can be in the range.
    pub fn is_empty(&self) -> bool {
        self.to.as_ref().is_some_and(|to| *to <= self.from)
    }

    pub(crate) fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (
            Bound::Included(&self.from[..]),
            self.to.as_ref().map_or(Bound::Unbounded, |to| Bound::Excluded(&to[..])),
        )
    }
}

/// Changes that become visible, and durable, together. Later ones win.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WriteBatch {
    pub(crate) changes: Vec<Change>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    Put(Bytes, Bytes),
    Delete(Bytes),
    DeleteRange(KeyRange),
}

impl WriteBatch {
    /// No changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.changes.push(Change::Put(key.into(), value.into()));
    }

    /// Removes a key; one that is not there is no error.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.changes.push(Change::Delete(key.into()));
    }

    /// Removes every key of a range.
    pub fn delete_range(&mut self, range: KeyRange) {
        self.changes.push(Change::DeleteRange(range));
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// Something that can be read: a store as it is now, or as it was.
pub trait Reader: Send + Sync + 'static {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError>;
    /// At most `limit` rows of a range, in order of key.
    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<Row>, KvError>;
    /// The marker that was last written.
    fn applied(&self) -> Result<Option<Bytes>, KvError>;
}

/// Ordered bytes to bytes, with a marker of how far the log is applied. One task writes; any may read.
pub trait Store: Reader {
    /// Applies a batch, and sets the marker where one is given, in one step. Not durable until the next flush.
    fn write(&self, batch: WriteBatch, applied: Option<&[u8]>) -> Result<(), KvError>;
    /// Makes everything written before the call durable. After an error the store accepts nothing more.
    fn flush(&self) -> BoxFuture<'static, Result<(), KvError>>;
    /// The store as it is now, unchanged by later writes.
    fn view(&self) -> Result<Arc<dyn Reader>, KvError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_covers_exactly_the_keys_that_begin_with_it() {
        let range = KeyRange::prefix(&b"ab"[..]);
        for (key, inside) in
            [(&b"ab"[..], true), (b"ab\xff\xff", true), (b"aa\xff", false), (b"ac", false), (b"a", false)]
        {
            assert_eq!(range.contains(key), inside, "{key:?}");
        }
        assert_eq!(KeyRange::prefix(&b"a\xff"[..]).to, Some(Bytes::from_static(b"b")));
        assert_eq!(KeyRange::prefix(&b"\xff"[..]).to, None);
        assert_eq!(KeyRange::prefix(Bytes::new()), KeyRange::all());
    }

    #[test]
    fn after_a_key_excludes_it() {
        let range = KeyRange::prefix(&b"a"[..]).after(b"a5");
        assert!(!range.contains(b"a5") && range.contains(b"a5\0") && range.contains(b"a6"));
    }
}
