//! The image file of [`crate::MemStore`]: the whole store after one batch. Little-endian.
//!
//! | offset | bytes | field |
//! |--------|-------|-------|
//! | 0      | 8     | magic `CURVEKV1` |
//! | 8      | 1     | 1 when a marker follows, else 0 |
//! | 9      | 4 + n | marker: length, bytes (only when the byte before is 1) |
//! | …      | 8     | number of rows |
//! | …      | 4 + k | key: length, bytes      ⎫ for each row, |
//! | …      | 4 + v | value: length, bytes    ⎭ in order of key |
//! | end-4  | 4     | CRC-32 of everything before |

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes};

use crate::error::KvError;

const MAGIC: &[u8; 8] = b"CURVEKV1";

/// What an image holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Image {
    pub applied: Option<Bytes>,
    pub rows: BTreeMap<Bytes, Bytes>,
}

pub(crate) fn encode(image: &Image) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_slice(MAGIC);
    out.put_u8(u8::from(image.applied.is_some()));
    let part = |bytes: &Bytes, out: &mut Vec<u8>| {
        out.put_u32_le(u32::try_from(bytes.len()).expect("keys and values are far below 4 GiB"));
        out.put_slice(bytes);
    };
    if let Some(applied) = &image.applied {
        part(applied, &mut out);
    }
    out.put_u64_le(image.rows.len() as u64);
    for (key, value) in &image.rows {
        part(key, &mut out);
        part(value, &mut out);
    }
    let crc = crc32fast::hash(&out);
    out.put_u32_le(crc);
    out
}

pub(crate) fn decode(file: Bytes) -> Result<Image, KvError> {
    let bad = |what: &str| KvError::Corrupt(format!("image of {} bytes: {what}", file.len()));
    let Some(body_len) = file.len().checked_sub(4).filter(|len| *len >= MAGIC.len()) else {
        return Err(bad("too short"));
    };
    let crc = (&file[body_len..]).get_u32_le();
    if crc32fast::hash(&file[..body_len]) != crc {
        return Err(bad("checksum mismatch"));
    }
    if !file.starts_with(MAGIC) {
        return Err(bad("wrong magic or version"));
    }
    let mut rest = file.slice(MAGIC.len()..body_len);
    let short = || bad("ends early");
    let has_marker = rest.try_get_u8().map_err(|_| short())?;
    let part = |rest: &mut Bytes| -> Result<Bytes, KvError> {
        let len = rest.try_get_u32_le().map_err(|_| short())? as usize;
        if rest.len() < len { Err(short()) } else { Ok(rest.split_to(len)) }
    };
    let mut image = Image::default();
    if has_marker == 1 {
        image.applied = Some(part(&mut rest)?);
    }
    let count = rest.try_get_u64_le().map_err(|_| short())?;
    for _ in 0..count {
        let key = part(&mut rest)?;
        let value = part(&mut rest)?;
        image.rows.insert(key, value);
    }
    if !rest.is_empty() {
        return Err(bad("has bytes after the end"));
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Image {
        let rows = [("a", "1"), ("b", ""), ("\u{7f}", "long value")];
        Image {
            applied: Some(Bytes::from_static(b"mark")),
            rows: rows.iter().map(|(k, v)| (Bytes::from(*k), Bytes::from(*v))).collect(),
        }
    }

    #[test]
    fn images_round_trip() {
        for image in [Image::default(), sample()] {
            assert_eq!(decode(encode(&image).into()).unwrap(), image);
        }
    }

    #[test]
    fn golden_bytes() {
        let image = Image {
            applied: Some(Bytes::from_static(b"m")),
            rows: [(Bytes::from("k"), Bytes::from("v"))].into(),
        };
        let body = b"CURVEKV1\x01\x01\0\0\0m\x01\0\0\0\0\0\0\0\x01\0\0\0k\x01\0\0\0v";
        let encoded = encode(&image);
        assert_eq!(&encoded[..body.len()], body);
        assert_eq!(encoded[body.len()..], crc32fast::hash(body).to_le_bytes());
    }

    #[test]
    fn every_damage_is_noticed() {
        let good = encode(&sample());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            assert!(matches!(decode(bad.into()), Err(KvError::Corrupt(_))), "flip at {at}");
            assert!(matches!(decode(good[..at].to_vec().into()), Err(KvError::Corrupt(_))), "cut at {at}");
        }
    }
}
