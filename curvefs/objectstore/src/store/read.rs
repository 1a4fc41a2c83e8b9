//! Reading objects, verified.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::Store;
use crate::error::StoreError;
use crate::files::BlobFile;
use crate::format::{self, BLOCK_BYTES, BlobRow, ObjectRow, Segment};

/// An object as it was when it was opened, whatever happens to it meanwhile.
pub struct Reader {
    store: Arc<Store>,
    row: ObjectRow,
    /// The segment that was read last.
    open: Option<OpenBlob>,
}

struct OpenBlob {
    blob: u64,
    row: BlobRow,
    file: Option<Box<dyn BlobFile>>,
}

impl Store {
    /// An object without its bytes.
    pub fn head(&self, bucket: &str, key: &str) -> Result<ObjectRow, StoreError> {
        self.check_bucket(bucket)?;
        self.object(bucket, key)?.ok_or(StoreError::NoSuchKey)
    }

    /// Opens an object to read.
    pub fn read(self: &Arc<Self>, bucket: &str, key: &str) -> Result<Reader, StoreError> {
        self.check_bucket(bucket)?;
        let _key = self.locks.read(bucket, key);
        let row = self.object(bucket, key)?.ok_or(StoreError::NoSuchKey)?;
        self.pins.pin(row.segments.iter().map(|segment| segment.blob));
        Ok(Reader { store: self.clone(), row, open: None })
    }
}

impl Reader {
    /// The object without its bytes.
    pub fn row(&self) -> &ObjectRow {
        &self.row
    }

    /// At most `len` bytes from `at` on, at least one; less at the end of a segment.
    pub fn read(&mut self, at: u64, len: u64) -> Result<Bytes, StoreError> {
        let mut start = 0;
        let found = self.row.segments.iter().copied().find(|segment| {
            let inside = at < start + segment.size;
            if !inside {
                start += segment.size;
            }
            inside
        });
        let Some(segment) = found else { return Ok(Bytes::new()) };
        let from = at - start;
        let open = self.open(segment)?;
        open.read(from, len.min(segment.size - from))
    }

    fn open(&mut self, segment: Segment) -> Result<&OpenBlob, StoreError> {
        if self.open.as_ref().is_none_or(|open| open.blob != segment.blob) {
            self.open = Some(OpenBlob::open(&self.store, segment)?);
        }
        Ok(self.open.as_ref().expect("opened above"))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let unread = self.store.pins.unpin(self.row.segments.iter().map(|segment| segment.blob));
        self.store.remove(unread);
    }
}

impl OpenBlob {
    fn open(store: &Store, Segment { blob, size }: Segment) -> Result<Self, StoreError> {
        let missing = |what: &str| StoreError::Damaged(format!("{what} of blob {blob:016x} is missing"));
        let row = store.meta.get(&format::blob_key(blob))?.ok_or_else(|| missing("the row"))?;
        let row = BlobRow::decode(&row)?;
        if row.size != size {
            return Err(StoreError::Damaged(format!("blob {blob:016x} has another size")));
        }
        let file = match &row.inline {
            Some(_) => None,
            None => Some(store.files.open(blob).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => missing("the file"),
                _ => error.into(),
            })?),
        };
        Ok(Self { blob, row, file })
    }

    fn read(&self, from: u64, len: u64) -> Result<Bytes, StoreError> {
        let first = from / BLOCK_BYTES * BLOCK_BYTES;
        let end = (from + len).div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES).min(self.row.size);
        let bytes = self.blocks(first, end)?;
        let crcs = &self.row.crcs[(first / BLOCK_BYTES) as usize..];
        for (at, (block, crc)) in bytes.chunks(BLOCK_BYTES as usize).zip(crcs).enumerate() {
            if crc32c::crc32c(block) != *crc {
                let at = first + at as u64 * BLOCK_BYTES;
                return Err(StoreError::Damaged(format!("blob {:016x} at byte {at}", self.blob)));
            }
        }
        let start = (from - first) as usize;
        Ok(bytes.slice(start..start + len as usize))
    }

    fn blocks(&self, first: u64, end: u64) -> Result<Bytes, StoreError> {
        match (&self.row.inline, &self.file) {
            (Some(bytes), _) => Ok(Bytes::copy_from_slice(&bytes[first as usize..end as usize])),
            (None, Some(file)) => {
                let mut bytes = vec![0; (end - first) as usize];
                file.read_exact_at(&mut bytes, first).map_err(|error| match error.kind() {
                    io::ErrorKind::UnexpectedEof => {
                        StoreError::Damaged(format!("the file of blob {:016x} is too short", self.blob))
                    }
                    _ => error.into(),
                })?;
                Ok(bytes.into())
            }
            (None, None) => unreachable!("a blob without bytes in its row has its file open"),
        }
    }
}
