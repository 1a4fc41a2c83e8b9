//! Valid bytes, and decoders that take any bytes, of the formats on the disk. For `tests/fuzz`, which damages the former
//! and gives them to the latter; not an API.
//!
//! Damage rarely gets past a checksum. So bytes are tried twice: as they are, and with the checksum made right.

use curve_types::{ChunkKey, CopysetId, Geometry, VolumeId};

use crate::format::chunk::{ChunkHeader, ChunkIdentity};
use crate::format::manifest::{Body, ChunkEntry, Delta, Frame};
use crate::format::{chunk, crc_of, manifest, record, store};
use crate::layout::{BLOCK, Layout};
use crate::planes::{PLANES_BYTES, Planes};

/// A format: its name, valid bytes from a seed, and whether any bytes are accepted.
pub type Format = (&'static str, fn(u64) -> Vec<u8>, fn(&[u8]) -> bool);

/// Every file of a store but the data of chunks.
pub const FORMATS: [Format; 4] = [
    ("chunk header", sample_chunk, take_chunk),
    ("manifest", sample_manifest, take_manifest),
    ("record", |seed| record::encode(seed, &seed.to_le_bytes()[..(seed % 9) as usize]), take_record),
    ("store", |_| store::encode(Geometry::default()), take_store),
];

fn layout() -> Layout {
    Layout::new(Geometry::default()).expect("chunk files can have the default geometry")
}

fn key(seed: u64) -> ChunkKey {
    ChunkKey { volume: VolumeId(seed % 7), index: (seed >> 8) as u32 }
}

fn sample_chunk(seed: u64) -> Vec<u8> {
    let layout = layout();
    let header = ChunkHeader {
        identity: ChunkIdentity { key: key(seed), copyset: CopysetId(seed as u32), birth: seed >> 3 },
        generation: seed >> 5,
        last_changed: seed >> 7,
        punched: seed.is_multiple_of(2),
        page_crcs: (0..layout.pages).map(|n| n as u32 * 77).collect(),
        extents: (0..layout.extents).map(|n| n as u64 ^ seed).collect(),
        planes: Planes::from_bytes([seed as u8; PLANES_BYTES]),
    };
    chunk::encode(&header, &layout).to_vec()
}

fn sample_manifest(seed: u64) -> Vec<u8> {
    let entry = ChunkEntry { birth: seed, generation: 3, last_changed: seed >> 9 };
    let delta = || Delta {
        birth_next: seed,
        horizon: seed >> 1,
        removed: (0..seed % 3).map(key).collect(),
        deleted: (0..seed % 4).map(|n| (key(n), n)).collect(),
        volumes: (0..seed % 5).map(|n| (VolumeId(n), n)).collect(),
        chunks: (0..seed % 9).map(|n| (key(n), entry)).collect(),
    };
    let mut bytes = Vec::new();
    for sync in 0..1 + seed % 3 {
        let body = match seed.wrapping_add(sync) % 3 {
            0 => Body::Snapshot(delta()),
            1 => Body::Intent((0..seed % 6).map(key).collect()),
            _ => Body::Commit(delta()),
        };
        manifest::encode(&Frame { copyset: CopysetId(1), sync, body }, &mut bytes);
    }
    bytes
}

fn take_chunk(bytes: &[u8]) -> bool {
    let layout = layout();
    let _ = chunk::decode(bytes, &layout);
    let sealed = sealed(bytes, BLOCK - 4, BLOCK);
    let accepted = chunk::decode(&sealed, &layout);
    // What a completed sync wrote is also a header that one interrupted may have written.
    assert!(accepted.is_err() || chunk::decode_torn(&sealed, &layout) == accepted);
    accepted.is_ok()
}

fn take_manifest(bytes: &[u8]) -> bool {
    let _ = manifest::any_frame_in(bytes);
    let mut accepted = false;
    let mut rest = sealed_frame(bytes);
    while let Ok((frame, len)) = manifest::decode(&rest) {
        let mut again = Vec::new();
        manifest::encode(&frame, &mut again);
        assert_eq!(again, rest[..len], "a frame has one encoding");
        accepted = true;
        rest = sealed_frame(&rest[len..]);
    }
    accepted
}

fn take_record(bytes: &[u8]) -> bool {
    let _ = record::decode(bytes);
    let mut right = bytes.to_vec();
    if bytes.len() >= 28 {
        right[24..28].copy_from_slice(&crc_of(&[&bytes[..24], &bytes[28..]]).to_le_bytes());
    }
    record::decode(&right).is_ok()
}

fn take_store(bytes: &[u8]) -> bool {
    let _ = store::decode(bytes);
    store::decode(&sealed(bytes, 28, 32)).is_ok()
}

/// With the checksum at `at` made right, where there are as many as `len` bytes.
fn sealed(bytes: &[u8], at: usize, len: usize) -> Vec<u8> {
    let mut right = bytes.to_vec();
    if right.len() >= len {
        right[at..at + 4].copy_from_slice(&crc_of(&[&bytes[..at]]).to_le_bytes());
    }
    right
}

/// With the checksum of the first frame made right, where the frame is whole.
fn sealed_frame(bytes: &[u8]) -> Vec<u8> {
    let mut right = bytes.to_vec();
    let len =
        bytes.get(20..24).map_or(0, |len| u32::from_le_bytes(len.try_into().expect("4 bytes")) as usize);
    if let Some(body) = bytes.get(28..28usize.saturating_add(len)) {
        right[24..28].copy_from_slice(&crc_of(&[&bytes[..24], body]).to_le_bytes());
    }
    right
}
