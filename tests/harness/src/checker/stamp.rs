//! What is in a block.
//!
//! ```text
//!    0  8  magic "CurveChk"
//!    8  8  run: random per checker, so that an earlier run's blocks are recognised
//!   16  8  block number
//!   24  8  sequence, from 1
//!   32  …  pseudorandom words from the three numbers above
//! 4092  4  CRC-32 of bytes 0..4092
//! ```
//! Little-endian. The filler makes every 512-byte sector depend on the sequence, so that torn blocks show.

use bytes::{Bytes, BytesMut};

/// Bytes of a block.
pub const BLOCK: usize = 4096;
const MAGIC: u64 = u64::from_le_bytes(*b"CurveChk");
const CRC_AT: usize = BLOCK - 4;

/// The identity of one value of one block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// The checker's run.
    pub run: u64,
    /// The block.
    pub block: u64,
    /// The value's number.
    pub sequence: u64,
}

/// What was found in a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// Zeros.
    Zeros,
    /// A whole stamped block.
    Stamped(Stamp),
    /// Neither: bytes that nobody wrote in this combination.
    Torn {
        /// What its first bytes claim.
        claims: Stamp,
        /// How many of its eight sectors belong to that claim.
        sectors: u8,
    },
}

impl Stamp {
    /// The block's bytes.
    pub fn fill(self, out: &mut [u8]) {
        assert_eq!(out.len(), BLOCK, "a stamp fills one block");
        for (at, value) in [MAGIC, self.run, self.block, self.sequence].into_iter().enumerate() {
            out[at * 8..at * 8 + 8].copy_from_slice(&value.to_le_bytes());
        }
        let mut word = self.run ^ self.block.rotate_left(24) ^ self.sequence.rotate_left(48);
        for chunk in out[32..CRC_AT].chunks_mut(8) {
            word = mix(word);
            chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
        }
        let crc = crc32fast::hash(&out[..CRC_AT]);
        out[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    }

    /// Consecutive blocks with their sequences.
    pub fn fill_run(run: u64, first: u64, sequences: &[u64]) -> Bytes {
        let mut bytes = BytesMut::zeroed(sequences.len() * BLOCK);
        for (at, (chunk, sequence)) in bytes.chunks_mut(BLOCK).zip(sequences).enumerate() {
            Self { run, block: first + at as u64, sequence: *sequence }.fill(chunk);
        }
        bytes.freeze()
    }
}

/// Recognises a block.
pub fn read(bytes: &[u8]) -> Found {
    assert_eq!(bytes.len(), BLOCK, "one block at a time");
    if bytes.iter().all(|byte| *byte == 0) {
        return Found::Zeros;
    }
    let word = |at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().expect("inside the block"));
    let claims = Stamp { run: word(8), block: word(16), sequence: word(24) };
    let mut expected = [0; BLOCK];
    claims.fill(&mut expected);
    if bytes == expected {
        return Found::Stamped(claims);
    }
    let sectors = bytes.chunks(512).zip(expected.chunks(512)).filter(|(found, want)| found == want).count();
    Found::Torn { claims, sectors: sectors as u8 }
}

/// SplitMix64's step.
const fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_recognised_and_a_mixed_one_is_torn() {
        let (old, new) = (Stamp { run: 1, block: 5, sequence: 8 }, Stamp { run: 1, block: 5, sequence: 9 });
        let (mut a, mut b) = ([0; BLOCK], [0; BLOCK]);
        assert_eq!(read(&a), Found::Zeros);
        old.fill(&mut a);
        new.fill(&mut b);
        assert_eq!(read(&a), Found::Stamped(old));
        b[512..1024].copy_from_slice(&a[512..1024]);
        assert_eq!(read(&b), Found::Torn { claims: new, sectors: 7 });
    }
}
