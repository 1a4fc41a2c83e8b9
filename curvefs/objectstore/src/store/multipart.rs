//! Uploads in parts. A completed object keeps the parts' blobs: nothing is copied.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use md5::{Digest, Md5};
use rocksdb::WriteBatch;

use super::write::add_garbage;
use super::{Expect, Spooled, Store, check_headers, check_key, now_ms};
use crate::error::StoreError;
use crate::format::{self, ObjectRow, UploadRow};
use crate::meta::Commit;

/// An upload's number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct UploadId(pub u64);

/// A part that was uploaded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// Its number, from 1.
    pub number: u16,
    /// Its bytes.
    pub size: u64,
    /// Its ETag without quotes.
    pub etag: String,
    /// When it came, in milliseconds since 1970.
    pub modified_ms: i64,
}

/// An upload in progress.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upload {
    /// The object to be.
    pub key: String,
    /// Its number.
    pub id: UploadId,
    /// When it began, in milliseconds since 1970.
    pub begun_ms: i64,
}

impl Store {
    /// Begins an upload.
    pub fn create_upload(
        &self,
        bucket: &str,
        key: &str,
        headers: Vec<(String, String)>,
    ) -> Result<UploadId, StoreError> {
        check_key(key)?;
        check_headers(&headers)?;
        let _bucket = self.in_bucket(bucket)?;
        let upload = self.new_blob();
        let mut batch = WriteBatch::default();
        batch
            .put(format::upload_key(bucket, key, upload), UploadRow { begun_ms: now_ms(), headers }.encode());
        self.meta.commit(batch, Commit::Durable)?;
        Ok(UploadId(upload))
    }

    fn upload(&self, bucket: &str, key: &str, id: UploadId) -> Result<UploadRow, StoreError> {
        let row = self.meta.get(&format::upload_key(bucket, key, id.0))?;
        UploadRow::decode(&row.ok_or(StoreError::NoSuchUpload)?)
    }

    /// Makes spooled bytes a part of an upload, in place of the one that has its number. Returns its ETag.
    pub fn put_part(
        &self,
        bucket: &str,
        key: &str,
        id: UploadId,
        number: u16,
        mut bytes: Spooled,
    ) -> Result<Part, StoreError> {
        let _bucket = self.in_bucket(bucket)?;
        let _key = self.locks.write(bucket, [key].into_iter());
        self.upload(bucket, key, id)?;
        let row_key = format::part_key(id.0, number);
        let old = self.meta.get(&row_key)?.map(|row| ObjectRow::decode(&row)).transpose()?;
        let mut batch = WriteBatch::default();
        let segment = bytes.add_to(&mut batch);
        let row = bytes.row(segment, Vec::new());
        batch.put(row_key, row.encode());
        let garbage = add_garbage(&mut batch, old.iter());
        bytes.keep();
        self.meta.commit(batch, Commit::Durable)?;
        self.discard(garbage);
        Ok(part(number, &row))
    }

    fn part_rows(&self, id: UploadId) -> Result<BTreeMap<u16, ObjectRow>, StoreError> {
        let prefix = format::part_prefix(id.0);
        let mut rows = BTreeMap::new();
        self.meta.scan(&prefix, &prefix, |key, value| {
            if let Some(number) = key[prefix.len()..].first_chunk() {
                rows.insert(u16::from_be_bytes(*number), ObjectRow::decode(value)?);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(rows)
    }

    /// The parts of an upload, in order.
    pub fn parts(&self, bucket: &str, key: &str, id: UploadId) -> Result<Vec<Part>, StoreError> {
        self.check_bucket(bucket)?;
        self.upload(bucket, key, id)?;
        Ok(self.part_rows(id)?.iter().map(|(number, row)| part(*number, row)).collect())
    }

    /// The uploads in progress, in order of key.
    pub fn uploads(&self, bucket: &str, prefix: &str, max: usize) -> Result<Vec<Upload>, StoreError> {
        self.check_bucket(bucket)?;
        let base = format::upload_prefix(bucket);
        let from = [base.as_slice(), prefix.as_bytes()].concat();
        let mut uploads = Vec::new();
        self.meta.scan(&from, &from, |key, value| {
            if uploads.len() == max {
                return Ok(ControlFlow::Break(()));
            }
            if let Some((key, id)) = format::parse_upload_key(&key[base.len()..]) {
                let begun_ms = UploadRow::decode(value)?.begun_ms;
                uploads.push(Upload { key, id: UploadId(id), begun_ms });
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(uploads)
    }

    /// Makes an object of parts, which are given by number and ETag.
    pub fn complete_upload(
        &self,
        bucket: &str,
        key: &str,
        id: UploadId,
        wanted: &[(u16, String)],
        expect: &Expect,
    ) -> Result<ObjectRow, StoreError> {
        let _bucket = self.in_bucket(bucket)?;
        let _key = self.locks.write(bucket, [key].into_iter());
        let upload = self.upload(bucket, key, id)?;
        let mut rows = self.part_rows(id)?;
        let mut batch = WriteBatch::default();
        batch.delete(format::upload_key(bucket, key, id.0));
        rows.keys().for_each(|number| batch.delete(format::part_key(id.0, *number)));
        let chosen = self.choose(&mut rows, wanted)?;
        let unused = add_garbage(&mut batch, rows.values());
        let row = joined(&chosen, upload.headers);
        self.replace(bucket, key, &row, batch, expect, || ())?;
        self.discard(unused);
        Ok(row)
    }

    fn choose(
        &self,
        rows: &mut BTreeMap<u16, ObjectRow>,
        wanted: &[(u16, String)],
    ) -> Result<Vec<ObjectRow>, StoreError> {
        if wanted.is_empty() || !wanted.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(StoreError::InvalidPartOrder);
        }
        let mut chosen = Vec::with_capacity(wanted.len());
        for (at, (number, etag)) in wanted.iter().enumerate() {
            let row = rows.remove(number).filter(|row| row.etag() == *etag);
            let row = row.ok_or(StoreError::InvalidPart(*number))?;
            if row.size < self.limits.part_bytes_min && at + 1 < wanted.len() {
                return Err(StoreError::PartTooSmall(*number));
            }
            chosen.push(row);
        }
        Ok(chosen)
    }

    /// Ends an upload and removes its parts.
    pub fn abort_upload(&self, bucket: &str, key: &str, id: UploadId) -> Result<(), StoreError> {
        let _bucket = self.in_bucket(bucket)?;
        let _key = self.locks.write(bucket, [key].into_iter());
        self.upload(bucket, key, id)?;
        let rows = self.part_rows(id)?;
        let mut batch = WriteBatch::default();
        batch.delete(format::upload_key(bucket, key, id.0));
        rows.keys().for_each(|number| batch.delete(format::part_key(id.0, *number)));
        let garbage = add_garbage(&mut batch, rows.values());
        self.meta.commit(batch, Commit::Durable)?;
        self.discard(garbage);
        Ok(())
    }
}

fn part(number: u16, row: &ObjectRow) -> Part {
    Part { number, size: row.size, etag: row.etag(), modified_ms: row.modified_ms }
}

fn joined(parts: &[ObjectRow], headers: Vec<(String, String)>) -> ObjectRow {
    let mut md5 = Md5::new();
    parts.iter().for_each(|part| md5.update(part.md5));
    ObjectRow {
        size: parts.iter().map(|part| part.size).sum(),
        modified_ms: now_ms(),
        md5: md5.finalize().into(),
        parts: u16::try_from(parts.len()).expect("parts have different numbers of 16 bits"),
        segments: parts.iter().flat_map(|part| part.segments.clone()).collect(),
        headers,
    }
}
