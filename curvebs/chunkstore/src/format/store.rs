//! The `format` file: what the store was made with.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `CURVSTOR` |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | bytes of a block |
//! | 16 | 4 | bytes of a chunk |
//! | 20 | 8 | bytes of a segment |
//! | 28 | 4 | CRC-32 of bytes 0..28 |

use curve_types::Geometry;

use super::{Fields, FormatError, crc_of};

const MAGIC: &[u8; 8] = b"CURVSTOR";
/// The version this release writes and the latest it reads.
pub(crate) const VERSION: u32 = 1;
const LEN: usize = 32;

/// The file's bytes.
pub(crate) fn encode(geometry: Geometry) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(LEN);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&geometry.block_bytes().to_le_bytes());
    bytes.extend_from_slice(&geometry.chunk_bytes().to_le_bytes());
    bytes.extend_from_slice(&geometry.segment_bytes().to_le_bytes());
    bytes.extend_from_slice(&crc_of(&[&bytes]).to_le_bytes());
    bytes
}

/// The sizes the store was made with.
pub(crate) fn decode(bytes: &[u8]) -> Result<Geometry, FormatError> {
    let mut fields = Fields(bytes);
    if fields.take(8)? != MAGIC {
        return Err(FormatError::Magic);
    }
    let version = fields.u32()?;
    let (block, chunk, segment) = (fields.u32()?, fields.u32()?, fields.u64()?);
    if fields.u32()? != crc_of(&[&bytes[..LEN - 4]]) {
        return Err(FormatError::Checksum);
    }
    if version != VERSION {
        return Err(FormatError::Version(version));
    }
    fields.end()?;
    Geometry::new(block, chunk, segment).map_err(|_| FormatError::Field("geometry"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_any_flipped_byte_is_seen() {
        let bytes = encode(Geometry::default());
        assert_eq!(decode(&bytes), Ok(Geometry::default()));
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            assert!(decode(&flipped).is_err(), "byte {at}");
            assert!(decode(&bytes[..at]).is_err(), "{at} bytes");
        }
    }

    #[test]
    fn a_later_version_is_named() {
        let mut bytes = encode(Geometry::default());
        bytes[8] = 9;
        let crc = crc_of(&[&bytes[..28]]).to_le_bytes();
        bytes[28..].copy_from_slice(&crc);
        assert_eq!(decode(&bytes), Err(FormatError::Version(9)));
    }
}
