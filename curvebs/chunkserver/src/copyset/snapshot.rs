//! The leader's side of a snapshot by difference, and the bytes of its requests and parts.
//!
//! A follower first pulls the *outline*: the volume table of the snapshot's moment and the list of chunks that
//! changed after the follower's own applied index. Then it pulls the changed extents of each chunk. All numbers are
//! little-endian.
//!
//! ```text
//! request for a piece of the outline
//!   0      1  1
//!   1      8  since: the follower's applied index
//!   9      4  offset in the outline
//! its part: header u32 total bytes of the outline; payload the piece
//!
//! request for extents of a chunk
//!   0      1  2
//!   1      8  since
//!   9      8  volume
//!  17      4  chunk
//!  21      4  first extent
//! its part: header u32 n (0: nothing left); payload n bytes of description, then the data of all blocks that are
//! not holes
//!
//! description of extents
//!   0      4  first block
//!   4      4  next extent, or 0xffff_ffff at the end
//!   8      4  b, number of blocks
//!  12      4  e, number of extents
//!  16    4*b  checksum of each block, 0 for a hole
//!   …    8*e  last change of each extent
//!
//! outline
//!   0      8  index of the snapshot
//!   8      8  horizon of the deletions
//!  16      1  1 when the list names every chunk that exists
//!  17      4  t, bytes of the volume table
//!  21      4  d, number of deleted volumes
//!  25      4  c, number of chunks
//!  29      t  volume table (see `record`)
//!   …   16*d  u64 volume, u64 index
//!   …   21*c  u64 volume, u32 chunk, u64 last change, u8 1 when deleted
//! ```

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use curve_chunkstore::{Changes, ChunkChange, ChunkPart, ExtentIndex, HOLE, ReadError, VolumeDeletion};
use curve_io::BoxFuture;
use curve_multiraft::{SnapshotPart, SnapshotSource};
use curve_types::{ChunkKey, LogIndex, VolumeId};

use super::record::{decode_table, encode_table};
use super::replica::Replica;
use super::volumes::VolumeTable;

/// Bytes of the outline in one part.
const PIECE_BYTES: usize = 512 << 10;
/// Data bytes of a chunk in one part; the description comes on top.
const PART_BYTES: usize = 512 << 10;
const NO_EXTENT: u32 = u32::MAX;

/// What a follower asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// A piece of the outline.
    Outline {
        /// The follower's applied index.
        since: LogIndex,
        /// Where the piece begins.
        offset: u32,
    },
    /// Changed extents of one chunk.
    Extents {
        /// The follower's applied index.
        since: LogIndex,
        /// The chunk.
        key: ChunkKey,
        /// The first extent wanted.
        from: ExtentIndex,
    },
}

impl Request {
    /// Encodes the request.
    pub fn encode(self) -> Bytes {
        let mut out = BytesMut::with_capacity(25);
        match self {
            Self::Outline { since, offset } => {
                out.put_u8(1);
                out.put_u64_le(since.get());
                out.put_u32_le(offset);
            }
            Self::Extents { since, key, from } => {
                out.put_u8(2);
                out.put_u64_le(since.get());
                out.put_u64_le(key.volume.get());
                out.put_u32_le(key.index);
                out.put_u32_le(from.0);
            }
        }
        out.freeze()
    }

    /// Decodes a request; `None` for bytes that `encode` never makes.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let kind = bytes.try_get_u8().ok()?;
        let since = LogIndex(bytes.try_get_u64_le().ok()?);
        let request = match kind {
            1 => Self::Outline { since, offset: bytes.try_get_u32_le().ok()? },
            2 => {
                let volume = VolumeId(bytes.try_get_u64_le().ok()?);
                let key = ChunkKey { volume, index: bytes.try_get_u32_le().ok()? };
                Self::Extents { since, key, from: ExtentIndex(bytes.try_get_u32_le().ok()?) }
            }
            _ => return None,
        };
        bytes.is_empty().then_some(request)
    }
}

/// What changed and what decides, as the follower gets it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outline {
    /// The snapshot's index.
    pub index: LogIndex,
    /// Fences and windows at that index.
    pub volumes: VolumeTable,
    /// Chunks and deletions after the follower's index.
    pub changes: Changes,
}

impl Outline {
    /// Encodes the outline.
    pub fn encode(&self) -> Bytes {
        let table = encode_table(&self.volumes);
        let changes = &self.changes;
        let mut out = BytesMut::with_capacity(
            29 + table.len() + 16 * changes.volumes.len() + 21 * changes.chunks.len(),
        );
        out.put_u64_le(self.index.get());
        out.put_u64_le(changes.horizon.get());
        out.put_u8(u8::from(changes.full));
        out.put_u32_le(table.len() as u32);
        out.put_u32_le(changes.volumes.len() as u32);
        out.put_u32_le(changes.chunks.len() as u32);
        out.put_slice(&table);
        for deletion in &changes.volumes {
            out.put_u64_le(deletion.volume.get());
            out.put_u64_le(deletion.index.get());
        }
        for change in &changes.chunks {
            out.put_u64_le(change.key.volume.get());
            out.put_u32_le(change.key.index);
            out.put_u64_le(change.last_changed.get());
            out.put_u8(u8::from(change.deleted));
        }
        out.freeze()
    }

    /// Decodes an outline; `None` for bytes that `encode` never makes.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let index = LogIndex(bytes.try_get_u64_le().ok()?);
        let horizon = LogIndex(bytes.try_get_u64_le().ok()?);
        let full = bytes.try_get_u8().ok()? == 1;
        let table_len = bytes.try_get_u32_le().ok()? as usize;
        let deleted = bytes.try_get_u32_le().ok()? as usize;
        let chunks = bytes.try_get_u32_le().ok()? as usize;
        let lists = deleted.checked_mul(16)?.checked_add(chunks.checked_mul(21)?)?;
        if table_len.checked_add(lists)? != bytes.len() {
            return None;
        }
        let (table, mut lists) = bytes.split_at(table_len);
        let mut changes = Changes { horizon, full, ..Changes::default() };
        for _ in 0..deleted {
            changes.volumes.push(VolumeDeletion {
                volume: VolumeId(lists.get_u64_le()),
                index: LogIndex(lists.get_u64_le()),
            });
        }
        for _ in 0..chunks {
            let key = ChunkKey { volume: VolumeId(lists.get_u64_le()), index: lists.get_u32_le() };
            let last_changed = LogIndex(lists.get_u64_le());
            changes.chunks.push(ChunkChange { key, last_changed, deleted: lists.get_u8() == 1 });
        }
        Some(Self { index, volumes: decode_table(table).ok()?, changes })
    }
}

/// Encodes extents of a chunk, or "nothing left".
pub fn encode_part(part: Option<ChunkPart>) -> SnapshotPart {
    let Some(part) = part else {
        return SnapshotPart { header: Bytes::copy_from_slice(&0u32.to_le_bytes()), payload: Vec::new() };
    };
    let mut out = BytesMut::with_capacity(16 + 4 * part.crcs.len() + 8 * part.changed.len());
    out.put_u32_le(part.first_block);
    out.put_u32_le(part.next.map_or(NO_EXTENT, |next| next.0));
    out.put_u32_le(part.crcs.len() as u32);
    out.put_u32_le(part.changed.len() as u32);
    for crc in &part.crcs {
        out.put_u32_le(*crc);
    }
    for index in &part.changed {
        out.put_u64_le(index.get());
    }
    let header = Bytes::copy_from_slice(&(out.len() as u32).to_le_bytes());
    let mut payload = vec![out.freeze()];
    payload.extend(part.data);
    SnapshotPart { header, payload }
}

/// Decodes extents of a chunk. The outer `None` is for bytes that `encode_part` never makes, the inner one for
/// "nothing left".
pub fn decode_part(part: &SnapshotPart, block_bytes: u32) -> Option<Option<ChunkPart>> {
    let described = (&*part.header).try_get_u32_le().ok()? as usize;
    if described == 0 {
        return Some(None);
    }
    let mut payload = match part.payload.as_slice() {
        [one] => one.clone(),
        parts => parts.concat().into(),
    };
    if payload.len() < described || described < 16 {
        return None;
    }
    let mut head = payload.split_to(described);
    let first_block = head.get_u32_le();
    let next = head.get_u32_le();
    let blocks = head.get_u32_le() as usize;
    let extents = head.get_u32_le() as usize;
    if blocks.checked_mul(4)?.checked_add(extents.checked_mul(8)?)? != head.len() {
        return None;
    }
    let crcs: Vec<u32> = (0..blocks).map(|_| head.get_u32_le()).collect();
    let changed = (0..extents).map(|_| LogIndex(head.get_u64_le())).collect();
    let stored = crcs.iter().filter(|crc| **crc != HOLE).count();
    if payload.len() != stored * block_bytes as usize {
        return None;
    }
    let data = if payload.is_empty() { Vec::new() } else { vec![payload] };
    let next = (next != NO_EXTENT).then_some(ExtentIndex(next));
    Some(Some(ChunkPart { first_block, crcs, data, changed, next }))
}

/// A snapshot that is being served.
///
/// The volume table is a copy of the snapshot's moment. Chunks are served as they are when they are asked for, so
/// they may be newer; the follower replays the log from the snapshot's index over them and arrives at the same state.
pub struct Source {
    replica: Arc<Replica>,
    index: LogIndex,
    volumes: VolumeTable,
    /// The outline for the `since` that was asked for last.
    outline: Mutex<Option<(LogIndex, Bytes)>>,
}

impl Source {
    /// A snapshot of now.
    pub fn new(replica: Arc<Replica>, index: LogIndex, volumes: &VolumeTable) -> Self {
        Self { replica, index, volumes: volumes.clone(), outline: Mutex::default() }
    }

    fn outline_since(&self, since: LogIndex) -> Bytes {
        let mut cached = self.outline.lock().unwrap_or_else(PoisonError::into_inner);
        match &*cached {
            Some((of, bytes)) if *of == since => bytes.clone(),
            _ => {
                let changes = self.replica.store().changed_since(since);
                let bytes = Outline { index: self.index, volumes: self.volumes.clone(), changes }.encode();
                *cached = Some((since, bytes.clone()));
                bytes
            }
        }
    }

    async fn extents(&self, since: LogIndex, key: ChunkKey, from: ExtentIndex) -> io::Result<SnapshotPart> {
        let store = self.replica.store();
        let part = match store.export(key, since, from, PART_BYTES).await {
            Err(ReadError::Corrupt { key, bad }) => {
                // A damaged block must be healed before it can be given on.
                self.replica.heal(key, &bad).await.map_err(io::Error::other)?;
                store.export(key, since, from, PART_BYTES).await
            }
            other => other,
        };
        let part = encode_part(part.map_err(io::Error::other)?);
        let sent = part.payload.iter().map(Bytes::len).sum::<usize>() as u64;
        self.replica.metrics().snapshot_sent.increment(sent);
        Ok(part)
    }
}

impl SnapshotSource for Source {
    fn read(&self, request: Bytes) -> BoxFuture<'_, io::Result<SnapshotPart>> {
        Box::pin(async move {
            match Request::decode(&request) {
                None => {
                    Err(io::Error::new(io::ErrorKind::InvalidInput, "malformed request for a snapshot part"))
                }
                Some(Request::Outline { since, offset }) => {
                    let outline = self.outline_since(since);
                    let from = (offset as usize).min(outline.len());
                    let piece = outline.slice(from..outline.len().min(from + PIECE_BYTES));
                    let header = Bytes::copy_from_slice(&(outline.len() as u32).to_le_bytes());
                    Ok(SnapshotPart { header, payload: vec![piece] })
                }
                Some(Request::Extents { since, key, from }) => self.extents(since, key, from).await,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use curve_types::Epoch;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_and_outlines_round_trip() {
        let key = ChunkKey { volume: VolumeId(4), index: 9 };
        for request in [
            Request::Outline { since: LogIndex(3), offset: 7 },
            Request::Extents { since: LogIndex(3), key, from: ExtentIndex(8) },
        ] {
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
        let mut volumes = VolumeTable::default();
        volumes.fence(VolumeId(1), Epoch(2), &[]);
        let changes = Changes {
            chunks: vec![ChunkChange { key, last_changed: LogIndex(5), deleted: true }],
            volumes: vec![VolumeDeletion { volume: VolumeId(2), index: LogIndex(4) }],
            horizon: LogIndex(1),
            full: true,
        };
        let outline = Outline { index: LogIndex(6), volumes, changes };
        let bytes = outline.encode();
        assert_eq!(Outline::decode(&bytes), Some(outline));
        for len in 0..bytes.len() {
            assert_eq!(Outline::decode(&bytes[..len]), None);
        }
    }

    #[test]
    fn parts_round_trip() {
        let part = ChunkPart {
            first_block: 16,
            crcs: vec![7, HOLE, 9],
            data: vec![Bytes::from(vec![1; 8192])],
            changed: vec![LogIndex(3)],
            next: Some(ExtentIndex(2)),
        };
        assert_eq!(decode_part(&encode_part(Some(part.clone())), 4096), Some(Some(part)));
        assert_eq!(decode_part(&encode_part(None), 4096), Some(None));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoders_panic(a in proptest::collection::vec(any::<u8>(), 0..99), n in 0u32..99) {
            let _ = Request::decode(&a);
            let _ = Outline::decode(&a);
            let header = Bytes::copy_from_slice(&n.to_le_bytes());
            let _ = decode_part(&SnapshotPart { header, payload: vec![a.into()] }, 4096);
        }
    }
}
