//! Rows on their way to another replica's store, a page at a time.
//!
//! A page's bytes are rows, each as key length (4, little-endian), key, value length (4), value.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::error::KvError;
use crate::store::{KeyRange, Reader, Row};

/// A page ends after this much; one row may go over it, and rows are far smaller than the rest of a frame.
const PAGE_BYTES: usize = 512 << 10;
const PAGE_ROWS: usize = 4096;
/// Rows that are in memory beside a page: values may have tens of KiB.
const SCAN_ROWS: usize = 64;

/// Some rows of a store, in order of key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// The rows' bytes.
    pub rows: Bytes,
    /// Whether there are rows after these.
    pub more: bool,
}

impl Page {
    /// The page after a key; an empty key begins.
    pub fn read(reader: &dyn Reader, after: &[u8]) -> Result<Self, KvError> {
        let mut after = Bytes::copy_from_slice(after);
        let (mut bytes, mut count) = (BytesMut::new(), 0);
        loop {
            let range = if after.is_empty() { KeyRange::all() } else { KeyRange::all().after(&after) };
            let rows = reader.scan(&range, SCAN_ROWS)?;
            let is_end = rows.len() < SCAN_ROWS;
            for (key, value) in rows {
                if bytes.len() >= PAGE_BYTES || count == PAGE_ROWS {
                    return Ok(Self { rows: bytes.freeze(), more: true });
                }
                for part in [&key, &value] {
                    bytes.put_u32_le(u32::try_from(part.len()).expect("rows are small"));
                    bytes.put_slice(part);
                }
                (after, count) = (key, count + 1);
            }
            if is_end {
                return Ok(Self { rows: bytes.freeze(), more: false });
            }
        }
    }
}

/// Takes the rows out of a page's bytes; what is no row is an error, and the last item.
#[derive(Clone, Debug)]
pub struct RowsOfPage(Bytes);

impl RowsOfPage {
    /// Of these bytes.
    pub fn new(rows: Bytes) -> Self {
        Self(rows)
    }

    fn part(&mut self) -> Option<Bytes> {
        let len = self.0.try_get_u32_le().ok()? as usize;
        (self.0.len() >= len).then(|| self.0.split_to(len))
    }
}

impl Iterator for RowsOfPage {
    type Item = Result<Row, KvError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let row = self.part().and_then(|key| Some((key, self.part()?)));
        if row.is_none() {
            self.0.clear();
        }
        Some(row.ok_or_else(|| KvError::Corrupt("a page of rows ends early".into())))
    }
}

#[cfg(test)]
mod tests {
    use curve_io::sim::{SimDisk, SimDiskConfig};

    use super::*;
    use crate::mem::MemStore;
    use crate::store::{Store, WriteBatch};

    #[tokio::test]
    async fn all_rows_come_once_in_order_and_cut_pages_are_refused() {
        for (count, value) in [(9000u32, 200), (150, 60 << 10), (PAGE_ROWS as u32, 1), (SCAN_ROWS as u32, 1)]
        {
            let store = MemStore::open(SimDisk::new(SimDiskConfig::default()).mount(), "kv").await.unwrap();
            let mut batch = WriteBatch::new();
            (0..count).for_each(|n| batch.put(n.to_be_bytes().to_vec(), vec![n as u8; value]));
            store.write(batch, None).unwrap();
            let (mut all, mut after, mut pages) = (Vec::new(), Bytes::new(), 0);
            loop {
                let page = Page::read(&store, &after).unwrap();
                assert!(page.rows.len() < PAGE_BYTES + value + 100);
                let cut = page.rows.slice(..page.rows.len() - 1);
                assert!(RowsOfPage::new(cut).last().unwrap().is_err());
                all.extend(RowsOfPage::new(page.rows).map(Result::unwrap));
                after = all.last().unwrap().0.clone();
                pages += 1;
                if !page.more {
                    break;
                }
            }
            assert_eq!(all, store.scan(&KeyRange::all(), usize::MAX >> 1).unwrap());
            assert_eq!(pages > 2, count as usize * value > 2 * PAGE_BYTES, "{pages} pages of {count} rows");
        }
    }
}
