//! What is on disk. Integers are little-endian, except in keys, where they are big-endian so that they sort.
//!
//! # Files
//!
//! | path | what |
//! |---|---|
//! | `lock` | locked while a process uses the directory |
//! | `meta/` | RocksDB with its write-ahead log on |
//! | `blobs/XX/NNNNNNNNNNNNNNNN` | the bytes of one blob, nothing else; the name is its number in hexadecimal, XX the number's last byte |
//!
//! # Keys in RocksDB
//!
//! | key | value |
//! |---|---|
//! | `S` | store: version `u8` = 1, number of this start `u32`, clean `u8` |
//! | `B` bucket | bucket: version `u8` = 1, created (ms) `i64` |
//! | `O` len `u8` bucket key | object |
//! | `U` len `u8` bucket key NUL upload `u64` | upload: version `u8` = 1, begun (ms) `i64`, headers |
//! | `P` upload `u64` part `u16` | part: an object with one segment and no headers |
//! | `D` blob `u64` | blob |
//! | `G` blob `u64` | nothing: the blob is in no object any more and is to be removed |
//!
//! # Object
//!
//! | bytes | field |
//! |---|---|
//! | 1 | version: 1 |
//! | 8 | size |
//! | 8 | last modified, milliseconds since 1970, `i64` |
//! | 16 | MD5 of the content, or of its parts' MD5s |
//! | 2 | number of parts, 0 if it was put at once |
//! | 4 | number of segments; for each: blob `u64`, size `u64` |
//! | 2 | number of headers; for each: length `u16`, name, length `u16`, value |
//! | 4 | CRC-32C of everything before |
//!
//! # Blob
//!
//! | bytes | field |
//! |---|---|
//! | 1 | version: 1 |
//! | 1 | 0: the bytes follow here; 1: they are in the file |
//! | 8 | size |
//! | 4·n | CRC-32C of each 64 KiB of content |
//! | 4 | CRC-32C of everything before |
//! | size | the content, if it is here |

use bytes::{Buf, BufMut};

use crate::error::StoreError;

/// Bytes that have one checksum.
pub const BLOCK_BYTES: u64 = 64 << 10;
const VERSION: u8 = 1;

/// One piece of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Where its bytes are.
    pub blob: u64,
    /// How many.
    pub size: u64,
}

/// An object without its bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ObjectRow {
    /// Bytes.
    pub size: u64,
    /// Milliseconds since 1970.
    pub modified_ms: i64,
    /// MD5 of the content, or of the MD5s of its parts; with `parts` 1 perhaps something else that only this object has.
    pub md5: [u8; 16],
    /// Parts it was uploaded in; 0 for one put.
    pub parts: u16,
    /// Where its bytes are, in order.
    pub segments: Vec<Segment>,
    /// Headers that are returned with it, user metadata among them.
    pub headers: Vec<(String, String)>,
}

impl ObjectRow {
    /// The ETag without its quotes.
    pub fn etag(&self) -> String {
        let md5 = hex(&self.md5);
        if self.parts == 0 { md5 } else { format!("{md5}-{}", self.parts) }
    }
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where a blob's bytes are, and their checksums.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BlobRow {
    /// Bytes.
    pub size: u64,
    /// CRC-32C of each block.
    pub crcs: Vec<u32>,
    /// The bytes, unless they are in a file.
    pub inline: Option<Vec<u8>>,
}

/// The store's own row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StoreRow {
    /// How often it was opened; the upper part of new blobs' numbers.
    pub run: u32,
    /// Whether it was closed in order.
    pub clean: bool,
}

/// A multipart upload in progress.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UploadRow {
    /// Milliseconds since 1970.
    pub begun_ms: i64,
    /// The headers of the object to be.
    pub headers: Vec<(String, String)>,
}

pub(crate) const STORE_KEY: &[u8] = b"S";

pub(crate) fn bucket_key(bucket: &str) -> Vec<u8> {
    [b"B", bucket.as_bytes()].concat()
}

fn in_bucket(kind: u8, bucket: &str) -> Vec<u8> {
    let len = u8::try_from(bucket.len()).expect("a bucket's name has at most 63 bytes");
    [&[kind, len][..], bucket.as_bytes()].concat()
}

pub(crate) fn object_prefix(bucket: &str) -> Vec<u8> {
    in_bucket(b'O', bucket)
}

pub(crate) fn object_key(bucket: &str, key: &str) -> Vec<u8> {
    [object_prefix(bucket).as_slice(), key.as_bytes()].concat()
}

pub(crate) fn upload_prefix(bucket: &str) -> Vec<u8> {
    in_bucket(b'U', bucket)
}

pub(crate) fn upload_key(bucket: &str, key: &str, upload: u64) -> Vec<u8> {
    [upload_prefix(bucket).as_slice(), key.as_bytes(), &[0], &upload.to_be_bytes()].concat()
}

/// The object's key and the upload of a row's key without its prefix.
pub(crate) fn parse_upload_key(rest: &[u8]) -> Option<(String, u64)> {
    let (key, upload) = rest.split_last_chunk::<8>()?;
    let (0, key) = key.split_last().map(|(nul, key)| (*nul, key))? else { return None };
    Some((String::from_utf8(key.to_vec()).ok()?, u64::from_be_bytes(*upload)))
}

pub(crate) fn part_prefix(upload: u64) -> Vec<u8> {
    [&b"P"[..], &upload.to_be_bytes()].concat()
}

pub(crate) fn part_key(upload: u64, part: u16) -> Vec<u8> {
    [part_prefix(upload).as_slice(), &part.to_be_bytes()].concat()
}

pub(crate) fn blob_key(blob: u64) -> Vec<u8> {
    [&b"D"[..], &blob.to_be_bytes()].concat()
}

pub(crate) fn garbage_key(blob: u64) -> Vec<u8> {
    [&b"G"[..], &blob.to_be_bytes()].concat()
}

pub(crate) fn parse_garbage_key(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*key.strip_prefix(b"G")?.first_chunk()?))
}

fn damaged(what: &str) -> StoreError {
    StoreError::Damaged(format!("the row of {what}"))
}

fn put_headers(out: &mut Vec<u8>, headers: &[(String, String)]) {
    let len = |text: &str| u16::try_from(text.len()).expect("headers are limited far below 64 KiB");
    out.put_u16_le(u16::try_from(headers.len()).expect("headers are limited far below 64 Ki"));
    for (name, value) in headers {
        for text in [name, value] {
            out.put_u16_le(len(text));
            out.put_slice(text.as_bytes());
        }
    }
}

fn take_headers(rest: &mut &[u8]) -> Option<Vec<(String, String)>> {
    let text = |rest: &mut &[u8]| {
        let len = usize::from(rest.try_get_u16_le().ok()?);
        let (text, after) = rest.split_at_checked(len)?;
        *rest = after;
        String::from_utf8(text.to_vec()).ok()
    };
    let count = rest.try_get_u16_le().ok()?;
    (0..count).map(|_| Some((text(rest)?, text(rest)?))).collect()
}

impl ObjectRow {
    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + 16 * self.segments.len());
        out.put_u8(VERSION);
        out.put_u64_le(self.size);
        out.put_i64_le(self.modified_ms);
        out.put_slice(&self.md5);
        out.put_u16_le(self.parts);
        out.put_u32_le(u32::try_from(self.segments.len()).expect("at most 10,000 parts"));
        for segment in &self.segments {
            out.put_u64_le(segment.blob);
            out.put_u64_le(segment.size);
        }
        put_headers(&mut out, &self.headers);
        let crc = crc32c::crc32c(&out);
        out.put_u32_le(crc);
        out
    }

    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or_else(|| damaged("an object"))?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
            return Err(damaged("an object"));
        }
        Self::parse(body).ok_or_else(|| damaged("an object"))
    }

    fn parse(mut rest: &[u8]) -> Option<Self> {
        if rest.try_get_u8().ok()? != VERSION {
            return None;
        }
        let size = rest.try_get_u64_le().ok()?;
        let modified_ms = rest.try_get_i64_le().ok()?;
        let (md5, after) = rest.split_first_chunk::<16>()?;
        rest = after;
        let parts = rest.try_get_u16_le().ok()?;
        let count = rest.try_get_u32_le().ok()?;
        let segment = |rest: &mut &[u8]| {
            Some(Segment { blob: rest.try_get_u64_le().ok()?, size: rest.try_get_u64_le().ok()? })
        };
        let segments = (0..count).map(|_| segment(&mut rest)).collect::<Option<Vec<_>>>()?;
        let headers = take_headers(&mut rest)?;
        let sum = segments.iter().try_fold(0u64, |sum, segment| sum.checked_add(segment.size))?;
        (rest.is_empty() && sum == size).then_some(Self {
            size,
            modified_ms,
            md5: *md5,
            parts,
            segments,
            headers,
        })
    }
}

impl BlobRow {
    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + 4 * self.crcs.len() + self.inline.as_ref().map_or(0, Vec::len));
        out.put_u8(VERSION);
        out.put_u8(u8::from(self.inline.is_none()));
        out.put_u64_le(self.size);
        self.crcs.iter().for_each(|crc| out.put_u32_le(*crc));
        let crc = crc32c::crc32c(&out);
        out.put_u32_le(crc);
        out.put_slice(self.inline.as_deref().unwrap_or_default());
        out
    }

    /// From bytes. The checksums of the content are not compared.
    pub fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        Self::parse(bytes).ok_or_else(|| damaged("a blob"))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let (version, kind) = (rest.try_get_u8().ok()?, rest.try_get_u8().ok()?);
        let size = rest.try_get_u64_le().ok()?;
        let blocks = usize::try_from(size.div_ceil(BLOCK_BYTES)).ok()?;
        if version != VERSION || kind > 1 || rest.len() / 4 < blocks {
            return None;
        }
        let crcs = (0..blocks).map(|_| rest.try_get_u32_le().ok()).collect::<Option<Vec<_>>>()?;
        let head = &bytes[..bytes.len() - rest.len()];
        if rest.try_get_u32_le().ok()? != crc32c::crc32c(head) {
            return None;
        }
        let inline = (kind == 0).then(|| rest.to_vec());
        let right = if kind == 0 { rest.len() as u64 == size } else { rest.is_empty() };
        right.then_some(Self { size, crcs, inline })
    }
}

impl StoreRow {
    /// To bytes.
    pub fn encode(self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.put_u32_le(self.run);
        out.put_u8(u8::from(self.clean));
        out
    }

    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let [VERSION, a, b, c, d, clean @ 0..=1] = *bytes else { return Err(damaged("the store")) };
        Ok(Self { run: u32::from_le_bytes([a, b, c, d]), clean: clean == 1 })
    }
}

impl UploadRow {
    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.put_i64_le(self.begun_ms);
        put_headers(&mut out, &self.headers);
        out
    }

    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        Self::parse(bytes).ok_or_else(|| damaged("an upload"))
    }

    fn parse(mut rest: &[u8]) -> Option<Self> {
        if rest.try_get_u8().ok()? != VERSION {
            return None;
        }
        let begun_ms = rest.try_get_i64_le().ok()?;
        let headers = take_headers(&mut rest)?;
        rest.is_empty().then_some(Self { begun_ms, headers })
    }
}

pub(crate) fn encode_bucket(created_ms: i64) -> Vec<u8> {
    [&[VERSION][..], &created_ms.to_le_bytes()].concat()
}

pub(crate) fn decode_bucket(bytes: &[u8]) -> Result<i64, StoreError> {
    let [VERSION, created @ ..] = bytes else { return Err(damaged("a bucket")) };
    Ok(i64::from_le_bytes(created.try_into().map_err(|_| damaged("a bucket"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object() -> ObjectRow {
        ObjectRow {
            size: 7,
            modified_ms: 1,
            md5: [0xab; 16],
            parts: 2,
            segments: vec![Segment { blob: 1, size: 3 }, Segment { blob: 2, size: 4 }],
            headers: vec![("content-type".into(), "a/b".into()), ("x-amz-meta-k".into(), String::new())],
        }
    }

    #[test]
    fn rows_round_trip_and_every_damage_of_an_object_is_noticed() {
        let good = object().encode();
        assert_eq!(ObjectRow::decode(&good).unwrap(), object());
        assert_eq!(object().etag(), format!("{}-2", "ab".repeat(16)));
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(ObjectRow::decode(&bad).is_err(), "flip at {at}");
            assert!(ObjectRow::decode(&good[..at]).is_err(), "cut at {at}");
        }
        let upload = UploadRow { begun_ms: -5, headers: object().headers };
        assert_eq!(UploadRow::decode(&upload.encode()).unwrap(), upload);
        let store = StoreRow { run: 9, clean: true };
        assert_eq!(StoreRow::decode(&store.encode()).unwrap(), store);
        assert_eq!(decode_bucket(&encode_bucket(77)).unwrap(), 77);
    }

    #[test]
    fn blobs_are_here_or_in_a_file() {
        for (inline, size) in [(Some(vec![1, 2, 3]), 3), (None, 3 * BLOCK_BYTES + 1), (Some(Vec::new()), 0)] {
            let crcs = (0..size.div_ceil(BLOCK_BYTES)).map(|at| at as u32).collect();
            let row = BlobRow { size, crcs, inline };
            let good = row.encode();
            assert_eq!(BlobRow::decode(&good).unwrap(), row);
            let head = good.len() - row.inline.as_ref().map_or(0, Vec::len);
            for at in 0..head {
                let mut bad = good.clone();
                bad[at] ^= 1;
                assert!(BlobRow::decode(&bad).is_err(), "flip at {at}");
            }
            for at in 0..good.len() {
                assert!(BlobRow::decode(&good[..at]).is_err(), "cut at {at}");
            }
        }
    }

    #[test]
    fn golden_bytes() {
        let row = BlobRow { size: 1, crcs: vec![0x0403_0201], inline: Some(b"x".to_vec()) };
        let head = b"\x01\x00\x01\0\0\0\0\0\0\0\x01\x02\x03\x04";
        let encoded = row.encode();
        assert_eq!(&encoded[..14], head);
        assert_eq!(encoded[14..18], crc32c::crc32c(head).to_le_bytes());
        assert_eq!(&encoded[18..], b"x");
        assert_eq!(object_key("bkt", "k"), b"O\x03bktk");
        assert_eq!(upload_key("bkt", "k", 1), b"U\x03bktk\0\0\0\0\0\0\0\0\x01");
        assert_eq!(parse_upload_key(b"k\0\0\0\0\0\0\0\0\x01"), Some(("k".into(), 1)));
        assert_eq!(parse_upload_key(b"short"), None);
        assert_eq!(part_key(1, 2), b"P\0\0\0\0\0\0\0\x01\0\x02");
    }
}
