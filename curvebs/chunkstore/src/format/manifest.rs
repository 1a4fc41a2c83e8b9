//! The manifest: a journal that says which chunks a copyset has and what was deleted.
//!
//! The file is a sequence of frames. The first is a snapshot; each sync appends one intent (if it will rewrite chunks
//! that the manifest lists) and one commit, and makes each durable before it goes on. When the journal has grown, a
//! sync writes a new file and renames it over the old one instead of appending its commit.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `CMFT` |
//! | 4 | 4 | kind: 1 snapshot, 2 intent, 3 commit |
//! | 8 | 8 | sync number |
//! | 16 | 4 | copyset |
//! | 20 | 4 | length of the body |
//! | 24 | 4 | CRC-32 of bytes 0..24 and the body |
//! | 28 | n | body |
//!
//! Body of an intent, the chunks whose header and table may be half written until a later commit lists them:
//!
//! | bytes | field |
//! |---|---|
//! | 4 | count |
//! | 12 each | volume (8), index (4) |
//!
//! Body of a snapshot or commit. A commit is applied in this order to what is known; a snapshot begins with nothing:
//!
//! | bytes | field |
//! |---|---|
//! | 8 | birth number of the next chunk file |
//! | 8 | horizon: deletions at or below this log index are forgotten |
//! | 4, then 12 each | chunks that are gone: volume (8), index (4) |
//! | 4, then 20 each | deletions of chunks: volume (8), index (4), log index (8) |
//! | 4, then 16 each | deletions of volumes: volume (8), log index (8) |
//! | 4, then 36 each | chunks that exist: volume (8), index (4), birth (8), generation (8), last change (8) |
//!
//! A frame that does not decode ends the journal. If a good frame follows it, the journal is damaged; if none does, it
//! is the torn end of an interrupted sync, or damage in the last frame, which the stamps of the records tell apart (see
//! `format::record`).

use curve_types::{ChunkKey, CopysetId, VolumeId};

use super::{Fields, FormatError, crc_of};

const MAGIC: &[u8; 4] = b"CMFT";
const HEAD: usize = 28;

/// What the manifest knows of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ChunkEntry {
    /// Tells the file from earlier ones of the same chunk.
    pub birth: u64,
    /// Number of the sync that wrote the chunk's header; 0 while no sync has.
    pub generation: u64,
    /// Log index of the last change, as of that sync.
    pub last_changed: u64,
}

/// The body of a snapshot or commit.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Delta {
    pub birth_next: u64,
    pub horizon: u64,
    pub removed: Vec<ChunkKey>,
    pub deleted: Vec<(ChunkKey, u64)>,
    pub volumes: Vec<(VolumeId, u64)>,
    pub chunks: Vec<(ChunkKey, ChunkEntry)>,
}

/// One frame's meaning.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Body {
    Snapshot(Delta),
    Intent(Vec<ChunkKey>),
    Commit(Delta),
}

/// One frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Frame {
    pub copyset: CopysetId,
    pub sync: u64,
    pub body: Body,
}

/// Appends a frame's bytes.
pub(crate) fn encode(frame: &Frame, to: &mut Vec<u8>) {
    let mut body = Vec::new();
    let kind: u32 = match &frame.body {
        Body::Snapshot(delta) => {
            encode_delta(delta, &mut body);
            1
        }
        Body::Intent(keys) => {
            encode_keys(keys, &mut body);
            2
        }
        Body::Commit(delta) => {
            encode_delta(delta, &mut body);
            3
        }
    };
    let head = to.len();
    to.extend_from_slice(MAGIC);
    to.extend_from_slice(&kind.to_le_bytes());
    to.extend_from_slice(&frame.sync.to_le_bytes());
    to.extend_from_slice(&frame.copyset.get().to_le_bytes());
    to.extend_from_slice(&(body.len() as u32).to_le_bytes());
    let crc = crc_of(&[&to[head..], &body]);
    to.extend_from_slice(&crc.to_le_bytes());
    to.extend_from_slice(&body);
}

fn encode_key(key: &ChunkKey, to: &mut Vec<u8>) {
    to.extend_from_slice(&key.volume.get().to_le_bytes());
    to.extend_from_slice(&key.index.to_le_bytes());
}

fn encode_keys(keys: &[ChunkKey], to: &mut Vec<u8>) {
    to.extend_from_slice(&(keys.len() as u32).to_le_bytes());
    keys.iter().for_each(|key| encode_key(key, to));
}

fn encode_delta(delta: &Delta, to: &mut Vec<u8>) {
    to.extend_from_slice(&delta.birth_next.to_le_bytes());
    to.extend_from_slice(&delta.horizon.to_le_bytes());
    encode_keys(&delta.removed, to);
    to.extend_from_slice(&(delta.deleted.len() as u32).to_le_bytes());
    for (key, index) in &delta.deleted {
        encode_key(key, to);
        to.extend_from_slice(&index.to_le_bytes());
    }
    to.extend_from_slice(&(delta.volumes.len() as u32).to_le_bytes());
    for (volume, index) in &delta.volumes {
        to.extend_from_slice(&volume.get().to_le_bytes());
        to.extend_from_slice(&index.to_le_bytes());
    }
    to.extend_from_slice(&(delta.chunks.len() as u32).to_le_bytes());
    for (key, entry) in &delta.chunks {
        encode_key(key, to);
        to.extend_from_slice(&entry.birth.to_le_bytes());
        to.extend_from_slice(&entry.generation.to_le_bytes());
        to.extend_from_slice(&entry.last_changed.to_le_bytes());
    }
}

/// Decodes the frame at the start of `bytes`; also returns its length.
pub(crate) fn decode(bytes: &[u8]) -> Result<(Frame, usize), FormatError> {
    let mut fields = Fields(bytes);
    if fields.take(4)? != MAGIC {
        return Err(FormatError::Magic);
    }
    let kind = fields.u32()?;
    let (sync, copyset) = (fields.u64()?, CopysetId(fields.u32()?));
    let (len, crc) = (fields.u32()? as usize, fields.u32()?);
    let body = fields.take(len)?;
    if crc != crc_of(&[&bytes[..HEAD - 4], body]) {
        return Err(FormatError::Checksum);
    }
    let mut fields = Fields(body);
    let body = match kind {
        1 => Body::Snapshot(decode_delta(&mut fields)?),
        2 => Body::Intent(decode_keys(&mut fields)?),
        3 => Body::Commit(decode_delta(&mut fields)?),
        _ => return Err(FormatError::Field("kind")),
    };
    fields.end()?;
    Ok((Frame { copyset, sync, body }, HEAD + len))
}

/// Whether a good frame begins anywhere in `bytes`.
pub(crate) fn any_frame_in(bytes: &[u8]) -> bool {
    bytes.windows(4).enumerate().any(|(at, window)| window == MAGIC && decode(&bytes[at..]).is_ok())
}

fn decode_key(fields: &mut Fields<'_>) -> Result<ChunkKey, FormatError> {
    Ok(ChunkKey { volume: VolumeId(fields.u64()?), index: fields.u32()? })
}

fn decode_keys(fields: &mut Fields<'_>) -> Result<Vec<ChunkKey>, FormatError> {
    (0..fields.count(12)?).map(|_| decode_key(fields)).collect()
}

fn decode_delta(fields: &mut Fields<'_>) -> Result<Delta, FormatError> {
    let (birth_next, horizon) = (fields.u64()?, fields.u64()?);
    let removed = decode_keys(fields)?;
    let deleted =
        (0..fields.count(20)?).map(|_| Ok((decode_key(fields)?, fields.u64()?))).collect::<Result<_, _>>()?;
    let volumes = (0..fields.count(16)?)
        .map(|_| Ok((VolumeId(fields.u64()?), fields.u64()?)))
        .collect::<Result<_, _>>()?;
    let chunks = (0..fields.count(36)?)
        .map(|_| {
            let key = decode_key(fields)?;
            Ok((
                key,
                ChunkEntry { birth: fields.u64()?, generation: fields.u64()?, last_changed: fields.u64()? },
            ))
        })
        .collect::<Result<_, _>>()?;
    Ok(Delta { birth_next, horizon, removed, deleted, volumes, chunks })
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::*;

    pub(crate) fn key(volume: u64, index: u32) -> ChunkKey {
        ChunkKey { volume: VolumeId(volume), index }
    }

    fn sample() -> Frame {
        let entry = ChunkEntry { birth: 3, generation: 4, last_changed: 5 };
        let delta = Delta {
            birth_next: 9,
            horizon: 2,
            removed: vec![key(1, 2)],
            deleted: vec![(key(1, 2), 77)],
            volumes: vec![(VolumeId(8), 78)],
            chunks: vec![(key(1, 3), entry), (key(2, 0), entry)],
        };
        Frame { copyset: CopysetId(6), sync: 4, body: Body::Commit(delta) }
    }

    #[test]
    fn round_trip_and_any_flipped_byte_is_seen() {
        for frame in [sample(), Frame { body: Body::Intent(vec![key(1, 1), key(2, 2)]), ..sample() }] {
            let mut bytes = Vec::new();
            encode(&frame, &mut bytes);
            assert_eq!(decode(&bytes), Ok((frame, bytes.len())));
            for at in 0..bytes.len() {
                let mut flipped = bytes.clone();
                flipped[at] ^= 2;
                assert!(decode(&flipped).is_err(), "byte {at}");
                assert!(decode(&bytes[..at]).is_err(), "{at} bytes");
            }
        }
    }

    /// The bytes of version 1, so that no later release changes them by accident.
    #[test]
    fn golden_intent() {
        let mut bytes = Vec::new();
        encode(&Frame { copyset: CopysetId(6), sync: 4, body: Body::Intent(vec![key(1, 2)]) }, &mut bytes);
        assert_eq!(&bytes[..24], b"CMFT\x02\0\0\0\x04\0\0\0\0\0\0\0\x06\0\0\0\x10\0\0\0");
        assert_eq!(&bytes[28..], b"\x01\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0");
    }

    #[test]
    fn a_wild_count_reserves_nothing() {
        assert_eq!(decode_keys(&mut Fields(&[0xFF; 64])), Err(FormatError::Short));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(body in prop::collection::vec(any::<u8>(), 0..300), kind in 0u32..5) {
            let mut bytes = [&MAGIC[..], &kind.to_le_bytes(), &[0; 12], &(body.len() as u32).to_le_bytes()].concat();
            let crc = crc_of(&[&bytes, &body]);
            bytes.extend_from_slice(&crc.to_le_bytes());
            bytes.extend_from_slice(&body);
            let _ = decode(&bytes);
            let _ = decode(&body);
            let _ = any_frame_in(&body);
        }
    }
}
