//! The checksum of a block: CRC-32 (IEEE), with 0 kept free to mean "hole".

/// The table value of a block that was never written or was discarded. It reads as zeros.
pub const HOLE: u32 = 0;

/// Checksum of one block: CRC-32 (IEEE 802.3, as zlib's), with the value 0 mapped to 1. Never [`HOLE`].
pub fn block_crc(block: &[u8]) -> u32 {
    match crc32fast::hash(block) {
        HOLE => 1,
        crc => crc,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values_and_the_reserved_zero() {
        assert_eq!(block_crc(b"123456789"), 0xCBF4_3926);
        // Four bytes whose CRC-32 is zero.
        let zero_crc = [0xFF, 0xFF, 0xFF, 0xFF];
        assert_eq!(crc32fast::hash(&zero_crc), 0xFFFF_FFFF);
        let preimage_of_zero = [0x9D, 0x0A, 0xD9, 0x6D];
        assert_eq!(crc32fast::hash(&preimage_of_zero), 0);
        assert_eq!(block_crc(&preimage_of_zero), 1);
    }
}
