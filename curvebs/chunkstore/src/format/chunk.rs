//! A chunk file: header, checksum table, data.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4096 | header, below |
//! | 4096 | 4096 × pages | checksum table: 4 bytes a block, 1024 blocks a page; 0 = hole, reads as zeros |
//! | 4096 × (1 + pages) | chunk bytes | data, first plane |
//! | the end of that | chunk bytes | data, second plane; may be missing |
//!
//! A 16 MiB chunk has 4 pages; the first plane begins at 20480. The data of an extent (64 KiB, of larger chunks more) are
//! in one of the two planes; what the other one has there means nothing. The header:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `CURVCHNK` |
//! | 8 | 4 | version, 2; 1 is read too, its data are all in the first plane |
//! | 12 | 4 | flags: bit 0 = parts of the file may have no room of their own (were punched or never allocated) |
//! | 16 | 8 | volume |
//! | 24 | 4 | index of the chunk in the volume |
//! | 28 | 4 | copyset |
//! | 32 | 8 | birth: tells this file from earlier ones of the same chunk |
//! | 40 | 8 | generation: number of the sync that wrote this header; the manifest has the same number |
//! | 48 | 8 | log index of the last change |
//! | 56 | 4 | bytes of a block |
//! | 60 | 4 | bytes of a chunk |
//! | 64 | 32 | plane of each extent: bit *n* % 8 of byte *n* / 8, set for the second plane |
//! | 96 | 416 | zero |
//! | 512 | 4 × 64 | CRC-32 of each table page; 0 where there is no page |
//! | 768 | 256 | zero |
//! | 1024 | 8 × 256 | log index of the last change of each extent; 0 where there is none |
//! | 3072 | 1020 | zero |
//! | 4092 | 4 | CRC-32 of bytes 0..4092 |
//!
//! Header and table are written only by a sync, which first notes its intention in the manifest. So outside an
//! interrupted sync a mismatch is damage; inside one, header and table may be any mixture of old and new sectors, which
//! [`decode_torn`] accepts: fields do not cross sectors, and every block changed since the last completed sync is
//! written again by the replay of the Raft log.

use curve_types::{ChunkKey, CopysetId, VolumeId};

use super::{Fields, FormatError, crc_of};
use crate::layout::{BLOCK, EXTENTS_MAX, Layout, PAGES_MAX};
use crate::planes::{PLANES_BYTES, Planes};

const MAGIC: &[u8; 8] = b"CURVCHNK";
/// The version this release writes and the latest it reads.
const VERSION: u32 = 2;
const PLANES_AT: usize = 64;
const PAGE_CRCS_AT: usize = 512;
const EXTENTS_AT: usize = 1024;
const CRC_AT: usize = BLOCK - 4;
/// Flag: parts of the file may have no room of their own.
const FLAG_PUNCHED: u32 = 1;

const _: () = assert!(PLANES_AT + PLANES_BYTES <= PAGE_CRCS_AT);
const _: () = assert!(PAGE_CRCS_AT + 4 * PAGES_MAX <= EXTENTS_AT && EXTENTS_AT + 8 * EXTENTS_MAX <= CRC_AT);

/// What names a chunk file: whatever does not match belongs to another chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ChunkIdentity {
    pub key: ChunkKey,
    pub copyset: CopysetId,
    pub birth: u64,
}

/// The decoded header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ChunkHeader {
    pub identity: ChunkIdentity,
    pub generation: u64,
    pub last_changed: u64,
    pub punched: bool,
    pub page_crcs: Box<[u32]>,
    pub extents: Box<[u64]>,
    pub planes: Planes,
}

/// The header's block.
pub(crate) fn encode(header: &ChunkHeader, layout: &Layout) -> [u8; BLOCK] {
    assert!(header.page_crcs.len() == layout.pages && header.extents.len() == layout.extents);
    let mut bytes = [0; BLOCK];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, MAGIC);
    put(8, &VERSION.to_le_bytes());
    put(12, &(if header.punched { FLAG_PUNCHED } else { 0 }).to_le_bytes());
    put(16, &header.identity.key.volume.get().to_le_bytes());
    put(24, &header.identity.key.index.to_le_bytes());
    put(28, &header.identity.copyset.get().to_le_bytes());
    put(32, &header.identity.birth.to_le_bytes());
    put(40, &header.generation.to_le_bytes());
    put(48, &header.last_changed.to_le_bytes());
    put(56, &layout.geometry.block_bytes().to_le_bytes());
    put(60, &layout.geometry.chunk_bytes().to_le_bytes());
    put(PLANES_AT, &header.planes.to_bytes());
    for (n, crc) in header.page_crcs.iter().enumerate() {
        put(PAGE_CRCS_AT + 4 * n, &crc.to_le_bytes());
    }
    for (n, index) in header.extents.iter().enumerate() {
        put(EXTENTS_AT + 8 * n, &index.to_le_bytes());
    }
    let crc = crc_of(&[&bytes[..CRC_AT]]);
    bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Decodes a header that a completed sync wrote.
pub(crate) fn decode(bytes: &[u8], layout: &Layout) -> Result<ChunkHeader, FormatError> {
    let bytes = bytes.get(..BLOCK).ok_or(FormatError::Short)?;
    if bytes[..8] != *MAGIC {
        return Err(FormatError::Magic);
    }
    if bytes[CRC_AT..] != crc_of(&[&bytes[..CRC_AT]]).to_le_bytes() {
        return Err(FormatError::Checksum);
    }
    decode_torn(bytes, layout)
}

/// Decodes a header that an interrupted sync may have half written: all but its checksum must be in order.
pub(crate) fn decode_torn(bytes: &[u8], layout: &Layout) -> Result<ChunkHeader, FormatError> {
    let bytes = bytes.get(..BLOCK).ok_or(FormatError::Short)?;
    let mut fields = Fields(bytes);
    if fields.take(8)? != MAGIC {
        return Err(FormatError::Magic);
    }
    let version = fields.u32()?;
    if version == 0 || version > VERSION {
        return Err(FormatError::Version(version));
    }
    let planes = match version {
        1 => Planes::default(),
        _ => Planes::from_bytes(Fields(&bytes[PLANES_AT..]).take(PLANES_BYTES)?.try_into().expect("as many")),
    };
    let flags = fields.u32()?;
    let key = ChunkKey { volume: VolumeId(fields.u64()?), index: fields.u32()? };
    let identity = ChunkIdentity { key, copyset: CopysetId(fields.u32()?), birth: fields.u64()? };
    let (generation, last_changed) = (fields.u64()?, fields.u64()?);
    if fields.u32()? != layout.geometry.block_bytes() || fields.u32()? != layout.geometry.chunk_bytes() {
        return Err(FormatError::Field("geometry"));
    }
    let mut crcs = Fields(&bytes[PAGE_CRCS_AT..]);
    let page_crcs = (0..layout.pages).map(|_| crcs.u32()).collect::<Result<_, _>>()?;
    let mut indexes = Fields(&bytes[EXTENTS_AT..]);
    let extents = (0..layout.extents).map(|_| indexes.u64()).collect::<Result<_, _>>()?;
    Ok(ChunkHeader {
        identity,
        generation,
        last_changed,
        punched: flags & FLAG_PUNCHED != 0,
        page_crcs,
        extents,
        planes,
    })
}

/// One page of the table, from the checksums of its blocks.
pub(crate) fn encode_page(crcs: &[u32]) -> [u8; BLOCK] {
    let mut page = [0; BLOCK];
    for (field, crc) in page.chunks_exact_mut(4).zip(crcs) {
        field.copy_from_slice(&crc.to_le_bytes());
    }
    page
}

/// The checksums in a page of the table.
pub(crate) fn decode_page(page: &[u8]) -> impl Iterator<Item = u32> {
    page.chunks_exact(4).map(|field| u32::from_le_bytes([field[0], field[1], field[2], field[3]]))
}

#[cfg(test)]
mod tests {
    use curve_types::Geometry;
    use proptest::prelude::{any, prop, proptest};

    use super::*;
    use crate::planes::Plane;

    fn sample(layout: &Layout) -> ChunkHeader {
        let mut planes = Planes::default();
        planes.set(0..1, Plane::Second);
        planes.set(10..layout.extents.max(10), Plane::Second);
        ChunkHeader {
            identity: ChunkIdentity {
                key: ChunkKey { volume: VolumeId(0x1122_3344_5566_7788), index: 9 },
                copyset: CopysetId(3),
                birth: 4,
            },
            generation: 5,
            last_changed: 6,
            punched: true,
            page_crcs: (0..layout.pages as u32).map(|n| n + 100).collect(),
            extents: (0..layout.extents as u64).map(|n| n + 1000).collect(),
            planes,
        }
    }

    #[test]
    fn round_trip_and_any_flipped_byte_is_seen() {
        let layout = Layout::new(Geometry::default()).unwrap();
        let header = sample(&layout);
        let bytes = encode(&header, &layout);
        assert_eq!(decode(&bytes, &layout), Ok(header.clone()));
        assert_eq!(decode_torn(&bytes, &layout), Ok(header));
        for at in 0..bytes.len() {
            let mut flipped = bytes;
            flipped[at] ^= 0x80;
            assert!(decode(&flipped, &layout).is_err(), "byte {at}");
        }
        assert_eq!(decode(&bytes[..4095], &layout), Err(FormatError::Short));
    }

    /// A header of version 1 has no planes, whatever is at their place.
    #[test]
    fn headers_of_version_1_are_read() {
        let layout = Layout::new(Geometry::default()).unwrap();
        let header = ChunkHeader { planes: Planes::default(), ..sample(&layout) };
        let mut bytes = encode(&header, &layout);
        bytes[8] = 1;
        assert_eq!(decode(&bytes, &layout), Err(FormatError::Checksum));
        let crc = crc_of(&[&bytes[..CRC_AT]]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(decode(&bytes, &layout), Ok(header));
        for version in [0, 3] {
            bytes[8] = version;
            assert_eq!(decode_torn(&bytes, &layout), Err(FormatError::Version(version.into())));
        }
    }

    /// The bytes of version 2, so that no later release changes them by accident.
    #[test]
    fn golden_header() {
        let layout = Layout::new(Geometry::new(4096, 4096, 4096).unwrap()).unwrap();
        let bytes = encode(&sample(&layout), &layout);
        assert_eq!(&bytes[..16], b"CURVCHNK\x02\0\0\0\x01\0\0\0");
        assert_eq!(bytes[64..96], *b"\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(&bytes[16..32], [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 9, 0, 0, 0, 3, 0, 0, 0]);
        assert_eq!(
            &bytes[32..64],
            [
                4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 16,
                0, 0
            ]
        );
        assert_eq!(
            (&bytes[512..516], &bytes[1024..1032]),
            (&[100, 0, 0, 0][..], &[232, 3, 0, 0, 0, 0, 0, 0][..])
        );
        assert_eq!(bytes[4092..], crc32fast::hash(&bytes[..4092]).to_le_bytes());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..5000), magic in any::<bool>()) {
            let layout = Layout::new(Geometry::default()).unwrap();
            let mut bytes = bytes;
            if magic && bytes.len() >= 12 {
                bytes[..12].copy_from_slice(b"CURVCHNK\x02\0\0\0");
            }
            let _ = decode(&bytes, &layout);
            let _ = decode_torn(&bytes, &layout);
        }
    }
}
