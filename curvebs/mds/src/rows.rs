//! Typed rows over anything that can be read: the store, a view of it, or a transaction.

use bytes::Bytes;
use curve_kv::{KeyRange, KvError, Reader, Row, Txn};
use curve_proto::MdsError;
use curve_proto::pb::mds_state::ClusterRow;
use prost::Message;

use crate::keys;

/// Why an operation was not applied.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The client is told; nothing has changed.
    No(MdsError),
    /// The store failed; this node must stop.
    Store(KvError),
}

impl From<MdsError> for Refusal {
    fn from(error: MdsError) -> Self {
        Self::No(error)
    }
}

impl From<KvError> for Refusal {
    fn from(error: KvError) -> Self {
        Self::Store(error)
    }
}

/// Where rows are read.
pub(crate) trait Rows {
    fn raw(&self, key: &[u8]) -> Result<Option<Bytes>, KvError>;
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
pub(crate) fn get<M: Message + Default>(
    rows: &(impl Rows + ?Sized),
    key: &[u8],
) -> Result<Option<M>, KvError> {
    rows.raw(key)?.map(|value| decode(key, value)).transpose()
}

/// At most `limit` rows of a range, with their keys.
pub(crate) fn scan<M: Message + Default>(
    rows: &(impl Rows + ?Sized),
    range: &KeyRange,
    limit: usize,
) -> Result<Vec<(Bytes, M)>, KvError> {
    let found = rows.raw_scan(range, limit)?.into_iter();
    found.map(|(key, value)| Ok((key.clone(), decode(&key, value)?))).collect()
}

/// All rows of a range.
pub(crate) fn all<M: Message + Default>(
    rows: &(impl Rows + ?Sized),
    range: &KeyRange,
) -> Result<Vec<M>, KvError> {
    Ok(scan(rows, range, usize::MAX)?.into_iter().map(|(_, row)| row).collect())
}

/// Sets a row.
pub(crate) fn put(txn: &mut Txn<'_>, key: Bytes, row: &impl Message) {
    txn.put(key, row.encode_to_vec());
}

/// The cluster's row; there is one once the first leader has founded the cluster.
pub(crate) fn cluster(rows: &(impl Rows + ?Sized)) -> Result<ClusterRow, Refusal> {
    let founding = || MdsError::Unavailable { why: "the cluster is being founded".into() };
    get(rows, &keys::cluster())?.ok_or_else(|| founding().into())
}
