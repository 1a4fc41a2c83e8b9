//! Putting, copying and deleting objects.

use std::sync::Arc;

use md5::{Digest, Md5};
use rocksdb::WriteBatch;

use super::{Expect, Store, check_headers, check_key, now_ms};
use crate::error::StoreError;
use crate::files::BlobFile;
use crate::format::{self, BLOCK_BYTES, BlobRow, ObjectRow, Segment};
use crate::meta::Commit;

/// Objects up to this size are kept in the rows.
pub const INLINE_BYTES_MAX: u64 = 64 << 10;
/// Bytes a copy moves at a time.
const COPY_BYTES: u64 = 1 << 20;

/// Takes an object's bytes. Dropped before [`Store::put`], it leaves nothing.
pub struct Spool {
    store: Arc<Store>,
    blob: u64,
    size: u64,
    size_max: u64,
    /// `None`: the object gets a tag of another kind.
    md5: Option<Md5>,
    /// Checksums of whole blocks, and the one that grows.
    crcs: Vec<u32>,
    /// What is not in a file yet.
    held: Vec<u8>,
    file: Option<Box<dyn BlobFile>>,
    kept: bool,
}

/// Bytes that are durable, under a number that nobody knows yet, and their tag.
pub struct Spooled(Spool, Tag);

#[derive(Clone, Copy)]
enum Tag {
    Md5([u8; 16]),
    /// Says nothing of the content, but that it is this one.
    Unique([u8; 16]),
}

impl Spool {
    /// Leaves the MD5 out, which is a third of what taking a large object costs. Before the first bytes.
    pub fn without_md5(mut self) -> Self {
        self.md5 = None;
        self
    }

    /// Adds bytes.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let size = self.size + bytes.len() as u64;
        if size > self.size_max {
            return Err(StoreError::TooLarge(self.size_max));
        }
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        self.checksum(bytes);
        self.size = size;
        if self.file.is_none() && size <= INLINE_BYTES_MAX {
            self.held.extend_from_slice(bytes);
            return Ok(());
        }
        if self.file.is_none() {
            self.file = Some(self.store.files.create(self.blob)?);
        }
        let file = self.file.as_mut().expect("made above");
        if !self.held.is_empty() {
            file.append(&std::mem::take(&mut self.held))?;
        }
        Ok(file.append(bytes)?)
    }

    fn checksum(&mut self, mut bytes: &[u8]) {
        let mut at = self.size;
        while !bytes.is_empty() {
            let in_block = at % BLOCK_BYTES;
            if in_block == 0 {
                self.crcs.push(0);
            }
            let room = usize::try_from(BLOCK_BYTES - in_block).expect("a block is small");
            let (now, rest) = bytes.split_at(bytes.len().min(room));
            let crc = self.crcs.last_mut().expect("pushed when the block began");
            *crc = crc32c::crc32c_append(*crc, now);
            at += now.len() as u64;
            bytes = rest;
        }
    }

    /// Makes the bytes durable.
    pub fn finish(self) -> Result<Spooled, StoreError> {
        if let Some(file) = &self.file {
            file.sync()?;
            self.store.files.sync_name(self.blob)?;
        }
        let tag = match &self.md5 {
            Some(md5) => Tag::Md5(md5.clone().finalize().into()),
            // No blob gets the number of another.
            None => Tag::Unique((u128::from(self.blob) << 64 | u128::from(self.size)).to_be_bytes()),
        };
        Ok(Spooled(self, tag))
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if self.file.take().is_some()
            && !self.kept
            && let Err(error) = self.store.files.remove(self.blob)
        {
            tracing::warn!(%error, blob = self.blob, "an unfinished blob stays until the next start");
        }
    }
}

impl Spooled {
    /// MD5 of the bytes, unless it was left out.
    pub fn md5(&self) -> Option<[u8; 16]> {
        match self.1 {
            Tag::Md5(md5) => Some(md5),
            Tag::Unique(_) => None,
        }
    }

    /// How many.
    pub fn size(&self) -> u64 {
        self.0.size
    }

    /// Puts the blob's row into a batch; returns what is to name it.
    pub(super) fn add_to(&mut self, batch: &mut WriteBatch) -> Segment {
        let spool = &mut self.0;
        let inline = spool.file.is_none().then(|| std::mem::take(&mut spool.held));
        let row = BlobRow { size: spool.size, crcs: std::mem::take(&mut spool.crcs), inline };
        batch.put(format::blob_key(spool.blob), row.encode());
        Segment { blob: spool.blob, size: spool.size }
    }

    /// Called before the commit: after an error nobody knows whether it is on disk, so the next start decides.
    pub(super) fn keep(&mut self) {
        self.0.kept = true;
    }

    pub(super) fn row(&self, segment: Segment, headers: Vec<(String, String)>) -> ObjectRow {
        // A tag with a number of parts is known not to be an MD5.
        let (md5, parts) = match self.1 {
            Tag::Md5(md5) => (md5, 0),
            Tag::Unique(tag) => (tag, 1),
        };
        ObjectRow { size: segment.size, modified_ms: now_ms(), md5, parts, segments: vec![segment], headers }
    }
}

impl Store {
    /// Begins to take an object's bytes, of which the client announces `announced`.
    pub fn spool(self: &Arc<Self>, announced: u64) -> Result<Spool, StoreError> {
        let size_max = self.limits.object_bytes_max;
        if announced > size_max {
            return Err(StoreError::TooLarge(size_max));
        }
        self.check_space(announced)?;
        Ok(Spool {
            store: self.clone(),
            blob: self.new_blob(),
            size: 0,
            size_max,
            md5: Some(Md5::new()),
            crcs: Vec::new(),
            held: Vec::new(),
            file: None,
            kept: false,
        })
    }

    pub(super) fn check_space(&self, wanted: u64) -> Result<(), StoreError> {
        let (free, reserve) = self.space()?;
        if free < reserve.saturating_add(wanted) {
            Err(StoreError::NoSpace { free, reserve })
        } else {
            Ok(())
        }
    }

    /// Makes spooled bytes the object of a key; durable when it returns.
    pub fn put(
        &self,
        bucket: &str,
        key: &str,
        mut bytes: Spooled,
        headers: Vec<(String, String)>,
        expect: &Expect,
    ) -> Result<ObjectRow, StoreError> {
        check_key(key)?;
        check_headers(&headers)?;
        let _bucket = self.in_bucket(bucket)?;
        let _key = self.locks.write(bucket, [key].into_iter());
        let mut batch = WriteBatch::default();
        let segment = bytes.add_to(&mut batch);
        let row = bytes.row(segment, headers);
        self.replace(bucket, key, &row, batch, expect, || bytes.keep())?;
        Ok(row)
    }

    /// Commits a row in place of the one that is there. The key is locked.
    pub(super) fn replace(
        &self,
        bucket: &str,
        key: &str,
        row: &ObjectRow,
        mut batch: WriteBatch,
        expect: &Expect,
        before_commit: impl FnOnce(),
    ) -> Result<(), StoreError> {
        let old = self.object(bucket, key)?;
        expect.check(old.as_ref())?;
        batch.put(format::object_key(bucket, key), row.encode());
        let garbage = add_garbage(&mut batch, old.iter());
        before_commit();
        self.meta.commit(batch, Commit::Durable)?;
        self.discard(garbage);
        Ok(())
    }

    /// Deletes objects in one commit. Those that are not there are deleted.
    pub fn delete(&self, bucket: &str, keys: &[String]) -> Result<(), StoreError> {
        self.delete_if(bucket, keys, &Expect::Anything)
    }

    /// Deletes objects if each is as expected.
    pub fn delete_if(&self, bucket: &str, keys: &[String], expect: &Expect) -> Result<(), StoreError> {
        let _bucket = self.in_bucket(bucket)?;
        let _keys = self.locks.write(bucket, keys.iter().map(String::as_str));
        let mut distinct = keys.iter().collect::<Vec<_>>();
        distinct.sort_unstable();
        distinct.dedup();
        let mut batch = WriteBatch::default();
        let mut old = Vec::new();
        for key in distinct {
            let found = self.object(bucket, key)?;
            expect.check(found.as_ref())?;
            if let Some(row) = found {
                batch.delete(format::object_key(bucket, key));
                old.push(row);
            }
        }
        if old.is_empty() {
            return Ok(());
        }
        let garbage = add_garbage(&mut batch, old.iter());
        self.meta.commit(batch, Commit::Durable)?;
        self.discard(garbage);
        Ok(())
    }

    /// Spools the bytes of a range of an object: the copy of it.
    pub fn spool_copy(
        self: &Arc<Self>,
        source: &mut super::Reader,
        range: std::ops::Range<u64>,
    ) -> Result<Spooled, StoreError> {
        let mut spool = self.spool(range.end - range.start)?;
        let mut at = range.start;
        while at < range.end {
            let bytes = source.read(at, COPY_BYTES.min(range.end - at))?;
            spool.append(&bytes)?;
            at += bytes.len() as u64;
        }
        spool.finish()
    }
}

/// Names the blobs of rows as garbage in a batch.
pub(super) fn add_garbage<'a>(batch: &mut WriteBatch, rows: impl Iterator<Item = &'a ObjectRow>) -> Vec<u64> {
    let blobs = rows.flat_map(|row| row.segments.iter().map(|segment| segment.blob)).collect::<Vec<_>>();
    blobs.iter().for_each(|blob| batch.put(format::garbage_key(*blob), b""));
    blobs
}
