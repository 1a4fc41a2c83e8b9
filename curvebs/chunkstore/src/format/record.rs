//! A record: a few bytes of the copyset's owner, replaced as a whole.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `CURVRECD` |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | length of the content |
//! | 16 | 8 | stamp: number of the copyset's last completed sync when the record was saved |
//! | 24 | 4 | CRC-32 of bytes 0..24 and the content |
//! | 28 | n | content |
//!
//! The stamp ties records to the manifest: a manifest that has fewer syncs than a record saw has lost its end to
//! damage, not to a crash, since the record was saved after the sync had returned.

use super::{Fields, FormatError, crc_of};

const MAGIC: &[u8; 8] = b"CURVRECD";
const VERSION: u32 = 1;
const HEAD: usize = 28;

/// The file's bytes.
pub(crate) fn encode(stamp: u64, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + content.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(content.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&stamp.to_le_bytes());
    bytes.extend_from_slice(&crc_of(&[&bytes, content]).to_le_bytes());
    bytes.extend_from_slice(content);
    bytes
}

/// Stamp and content.
pub(crate) fn decode(bytes: &[u8]) -> Result<(u64, &[u8]), FormatError> {
    let mut fields = Fields(bytes);
    if fields.take(8)? != MAGIC {
        return Err(FormatError::Magic);
    }
    let version = fields.u32()?;
    let len = fields.u32()? as usize;
    let stamp = fields.u64()?;
    let crc = fields.u32()?;
    let content = fields.take(len)?;
    fields.end()?;
    if crc != crc_of(&[&bytes[..HEAD - 4], content]) {
        return Err(FormatError::Checksum);
    }
    if version != VERSION {
        return Err(FormatError::Version(version));
    }
    Ok((stamp, content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_any_flipped_byte_is_seen() {
        let bytes = encode(7, b"applied 12");
        assert_eq!(decode(&bytes), Ok((7, &b"applied 12"[..])));
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(decode(&flipped).is_err(), "byte {at}");
            assert!(decode(&bytes[..at]).is_err(), "{at} bytes");
        }
        assert!(decode(&[&bytes[..], b"x"].concat()).is_err());
    }
}
