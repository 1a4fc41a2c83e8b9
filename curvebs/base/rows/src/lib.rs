//! Typed rows over anything that can be read: the store, a view of it, or a transaction. Values are protobuf messages; a value
//! that is none is corruption.

use bytes::Bytes;
use curve_kv::{KeyRange, KvError, Reader, Row, Txn};
use prost::Message;

/// Where rows are read.
pub trait Rows {
    /// The value of a key.
    fn raw(&self, key: &[u8]) -> Result<Option<Bytes>, KvError>;
    /// At most `limit` rows of a range, in order.
    fn raw_scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<Row>, KvError>;
}

impl Rows for Txn<'_> {
    fn raw(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.get(key)
    }

    fn raw_scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<Row>, KvError> {
        self.scan(range, limit)
    }
}

impl Rows for dyn Reader + '_ {
    fn raw(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.get(key)
    }

    fn raw_scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<Row>, KvError> {
        self.scan(range, limit)
    }
}

fn decode<M: Message + Default>(key: &[u8], value: Bytes) -> Result<M, KvError> {
    M::decode(value).map_err(|error| KvError::Corrupt(format!("row {key:02x?}: {error}")))
}

/// The row of a key.
pub fn get<M: Message + Default>(rows: &(impl Rows + ?Sized), key: &[u8]) -> Result<Option<M>, KvError> {
    rows.raw(key)?.map(|value| decode(key, value)).transpose()
}

/// At most `limit` rows of a range, with their keys.
pub fn scan<M: Message + Default>(
    rows: &(impl Rows + ?Sized),
    range: &KeyRange,
    limit: usize,
) -> Result<Vec<(Bytes, M)>, KvError> {
    let found = rows.raw_scan(range, limit)?.into_iter();
    found.map(|(key, value)| Ok((key.clone(), decode(&key, value)?))).collect()
}

/// All rows of a range.
pub fn all<M: Message + Default>(rows: &(impl Rows + ?Sized), range: &KeyRange) -> Result<Vec<M>, KvError> {
    Ok(scan(rows, range, usize::MAX)?.into_iter().map(|(_, row)| row).collect())
}

/// Sets a row.
pub fn put(txn: &mut Txn<'_>, key: Bytes, row: &impl Message) {
    txn.put(key, row.encode_to_vec());
}
