//! CRC-32C digests of headers and data (RFC 7143 13.1).

use super::wire::DIGEST_BYTES;

/// Which parts of a PDU carry a digest on this connection, in both directions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Digests {
    /// BHS and AHS.
    pub header: bool,
    /// Data and its padding.
    pub data: bool,
}

impl Digests {
    pub(super) fn header_bytes(self) -> usize {
        if self.header { DIGEST_BYTES } else { 0 }
    }

    /// A data segment of no bytes has no digest.
    pub(super) fn data_bytes(self, len: usize) -> usize {
        if self.data && len > 0 { DIGEST_BYTES } else { 0 }
    }
}

/// A digest over bytes that come in pieces.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Crc(u32);

impl Crc {
    pub(super) fn add(self, bytes: &[u8]) -> Self {
        Self(crc32c::crc32c_append(self.0, bytes))
    }

    /// As it is on the wire.
    pub(super) fn to_bytes(self) -> [u8; DIGEST_BYTES] {
        self.0.to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 7143 appendix A (RFC 3720 B.4).
    #[test]
    fn the_standards_examples() {
        let incrementing: Vec<u8> = (0..32).collect();
        let decrementing: Vec<u8> = (0..32).rev().collect();
        for (bytes, digest) in [
            (&[0; 32][..], [0xaa, 0x36, 0x91, 0x8a]),
            (&[0xff; 32], [0x43, 0xab, 0xa8, 0x62]),
            (&incrementing, [0x4e, 0x79, 0xdd, 0x46]),
            (&decrementing, [0x5c, 0xdb, 0x3f, 0x11]),
        ] {
            assert_eq!(Crc::default().add(bytes).to_bytes(), digest);
            let (head, tail) = bytes.split_at(7);
            assert_eq!(Crc::default().add(head).add(tail).to_bytes(), digest, "in two pieces");
        }
    }
}
