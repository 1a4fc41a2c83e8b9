//! Objects: their names and what is in them.
//!
//! # Name
//!
//! `PREFIX/FS/WRITER/SERIAL/INDEX`, each in hexadecimal: file system (8 digits), the slice's writer (16) and serial (16),
//! number of the object in the slice (4). PREFIX is two digits of a hash of the rest, so that stores which cut their
//! key space by prefix spread the load. A name is written once and never again, so that a reader with old metadata reads
//! what that metadata means, or finds that it is gone.
//!
//! # Content
//!
//! An object holds up to 4 MiB of its slice in blocks of 64 KiB, the last being shorter. Each block is followed by its
//! checksum, so that a range of blocks can be read, with one request, and verified.
//!
//! | bytes | field |
//! |---|---|
//! | n ≤ 65536 | content |
//! | 4 | CRC-32C, little-endian, of writer `u64`, serial `u64`, index `u32`, number of the block in the object `u32` (all little-endian) and the content |
//!
//! That the place is part of the checksum tells a block of another object, or of another place, from the right one.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use curvefs_types::{FsId, SliceId};

use crate::content::{Content, Cut, combined};
use crate::error::DataError;

/// Bytes of content with one checksum.
pub const BLOCK_BYTES: u32 = 64 << 10;
/// Bytes of a checksum.
pub const CHECKSUM_BYTES: u32 = 4;
const STORED_BLOCK: u64 = (BLOCK_BYTES + CHECKSUM_BYTES) as u64;

/// An object of a slice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ObjectName {
    /// The file system.
    pub fs: FsId,
    /// The slice.
    pub slice: SliceId,
    /// Which object of it, from 0.
    pub index: u32,
}

impl ObjectName {
    /// A number that is the same everywhere and for ever: where the object is placed depends on it.
    pub fn hash(&self) -> u32 {
        let crc = crc32c::crc32c(&self.slice.writer.0.to_le_bytes());
        let crc = crc32c::crc32c_append(crc, &self.slice.serial.to_le_bytes());
        let crc = crc32c::crc32c_append(crc, &self.index.to_le_bytes());
        // A CRC is linear: numbers that differ in few bits would be placed alike.
        let mixed = (crc ^ crc >> 16).wrapping_mul(0x85eb_ca6b);
        let mixed = (mixed ^ mixed >> 13).wrapping_mul(0xc2b2_ae35);
        mixed ^ mixed >> 16
    }

    fn seed(&self, block: u32) -> u32 {
        let crc = crc32c::crc32c(&self.slice.writer.0.to_le_bytes());
        let crc = crc32c::crc32c_append(crc, &self.slice.serial.to_le_bytes());
        let crc = crc32c::crc32c_append(crc, &self.index.to_le_bytes());
        crc32c::crc32c_append(crc, &block.to_le_bytes())
    }

    /// What the object holds for a content.
    pub fn seal(&self, content: Vec<Bytes>) -> Content {
        let len = content.iter().map(Bytes::len).sum::<usize>();
        let blocks = len.div_ceil(BLOCK_BYTES as usize);
        let mut out = Content::with_pieces(content.len() + 2 * blocks);
        let mut content = Cut::new(content);
        for block in 0..blocks {
            let len = (len - block * BLOCK_BYTES as usize).min(BLOCK_BYTES as usize);
            let pieces = content.take(len);
            // Of the bytes alone: both sums are made from it.
            let crc = pieces.iter().fold(0, |crc, piece| crc32c::crc32c_append(crc, piece));
            out.push_counted(pieces, crc, len);
            let sum = combined(self.seed(block as u32), crc, len);
            out.push(Bytes::copy_from_slice(&sum.to_le_bytes()));
        }
        out
    }

    /// The content of `wanted` out of the stored bytes that `stored_range` names for it.
    pub fn unseal(&self, stored: Vec<Bytes>, wanted: Range<u32>) -> Result<Vec<Bytes>, DataError> {
        let damaged = |what: String| DataError::Damaged { object: self.to_string(), what };
        let mut left = stored.iter().map(Bytes::len).sum::<usize>();
        let (mut stored, mut content) = (Cut::new(stored), Vec::new());
        let first = wanted.start / BLOCK_BYTES;
        let mut at = first * BLOCK_BYTES;
        for block in first.. {
            if left == 0 {
                break;
            }
            let Some(len) = left.min(STORED_BLOCK as usize).checked_sub(CHECKSUM_BYTES as usize) else {
                return Err(damaged(format!("block {block} is cut off")));
            };
            left -= len + CHECKSUM_BYTES as usize;
            let (pieces, sum) = (stored.take(len), stored.take(CHECKSUM_BYTES as usize).concat());
            let crc = pieces.iter().fold(self.seed(block), |crc, piece| crc32c::crc32c_append(crc, piece));
            if crc.to_le_bytes() != sum[..] {
                return Err(damaged(format!("block {block} has a wrong checksum")));
            }
            for piece in pieces {
                let end = at + piece.len() as u32;
                let (from, to) = (wanted.start.max(at), wanted.end.min(end));
                if from < to {
                    content.push(piece.slice((from - at) as usize..(to - at) as usize));
                }
                at = end;
            }
        }
        if content.iter().map(Bytes::len).sum::<usize>() != wanted.len() {
            return Err(damaged(format!("{wanted:?} is not all there")));
        }
        Ok(content)
    }
}

/// Bytes of an object with so much content.
pub(crate) fn stored_len(content: u32) -> u64 {
    u64::from(content) + u64::from(content.div_ceil(BLOCK_BYTES)) * u64::from(CHECKSUM_BYTES)
}

/// Which stored bytes hold a range of an object's content, of which there are `content` bytes.
pub(crate) fn stored_range(wanted: &Range<u32>, content: u32) -> Range<u64> {
    let (first, end) = (wanted.start / BLOCK_BYTES, wanted.end.div_ceil(BLOCK_BYTES));
    let end = (u64::from(end) * STORED_BLOCK).min(stored_len(content));
    u64::from(first) * STORED_BLOCK..end
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}/{:08x}/{}/{:04x}", self.hash() >> 24, self.fs.0, self.slice, self.index)
    }
}

#[cfg(test)]
mod tests {
    use curvefs_types::WriterId;
    use proptest::prelude::*;

    use super::*;

    fn name(serial: u64, index: u32) -> ObjectName {
        ObjectName { fs: FsId(7), slice: SliceId { writer: WriterId(9), serial }, index }
    }

    fn content(len: usize) -> Bytes {
        (0..len).map(|at| (at % 253) as u8).collect()
    }

    #[test]
    fn names_and_bytes_are_for_ever() {
        let text = name(0x1f, 3).to_string();
        assert!(text.ends_with("/00000007/0000000000000009/000000000000001f/0003"), "{text}");
        let sealed = name(1, 2).seal(vec![Bytes::from_static(b"ab"), Bytes::from_static(b"c")]).joined();
        let covered =
            [&9u64.to_le_bytes()[..], &1u64.to_le_bytes(), &2u32.to_le_bytes(), &[0; 4], b"abc"].concat();
        assert_eq!(sealed[..], [b"abc", &crc32c::crc32c(&covered).to_le_bytes()[..]].concat());
    }

    #[test]
    fn objects_are_spread() {
        let mut counts = [0; 4];
        (0..4000).for_each(|serial| counts[name(serial, 0).hash() as usize % 4] += 1);
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    #[test]
    fn every_damage_is_noticed() {
        let (name, len) = (name(1, 0), 70_000);
        let sealed = name.seal(vec![content(len)]).joined();
        assert_eq!(sealed.len() as u64, stored_len(len as u32));
        for at in [0, 100, 65_535, 65_536, 65_539, 65_540, sealed.len() - 1] {
            let mut bad = sealed.to_vec();
            bad[at] ^= 1;
            assert!(name.unseal(vec![bad.into()], 0..len as u32).is_err(), "flip at {at}");
            assert!(name.unseal(vec![sealed.slice(..at)], 0..len as u32).is_err(), "cut at {at}");
        }
        let other = ObjectName { index: 1, ..name };
        assert!(other.unseal(vec![sealed.clone()], 0..10).is_err(), "another object's");
        let second = sealed.slice(65_540..);
        assert!(name.unseal(vec![second], 0..10).is_err(), "another place's");
    }

    proptest! {
        #[test]
        fn ranges_come_back(len in 1u32..200_000, a in any::<u32>(), b in any::<u32>(), cut in 1usize..70_000) {
            let (a, b) = (a % len, b % len);
            let wanted = a.min(b)..a.max(b) + 1;
            let whole = content(len as usize);
            let pieces = whole.chunks(cut).map(Bytes::copy_from_slice).collect::<Vec<_>>();
            let sealed = name(5, 6).seal(pieces);
            prop_assert_eq!(sealed.crc32c(), crc32c::crc32c(&sealed.joined()));
            let sealed = sealed.joined();
            let range = stored_range(&wanted, len);
            let stored = sealed.slice(range.start as usize..range.end as usize);
            // As it comes from the network: in pieces that know nothing of blocks.
            let stored = stored.chunks(cut).map(Bytes::copy_from_slice).collect();
            let found = name(5, 6).unseal(stored, wanted.clone()).unwrap().concat();
            prop_assert!(found == whole[wanted.start as usize..wanted.end as usize]);
        }
    }
}
