//! Zeros that take no memory and can be told from data by their address.
//!
//! A device answers a read of a hole with parts made by [`push_zeroes`]. All of them are slices of one static page, so
//! a frontend whose protocol can say "hole" (NBD's `OFFSET_HOLE` chunk) recognises them with [`is_zeroes`] for the price
//! of a comparison, and sends a few bytes instead of the zeros. Data that merely happens to be zero is never mistaken
//! for a hole, and a device that copies its zeros is still correct: they are then sent as data.

use bytes::Bytes;

/// The longest part that [`push_zeroes`] makes, in bytes.
pub const ZEROES_PART_BYTES_MAX: usize = 64 << 10;

static ZEROES: [u8; ZEROES_PART_BYTES_MAX] = [0; ZEROES_PART_BYTES_MAX];

/// Appends `len` bytes of zeros, in parts of at most [`ZEROES_PART_BYTES_MAX`].
pub fn push_zeroes(parts: &mut Vec<Bytes>, mut len: u64) {
    while len > 0 {
        let part = len.min(ZEROES_PART_BYTES_MAX as u64) as usize;
        parts.push(Bytes::from_static(&ZEROES[..part]));
        len -= part as u64;
    }
}

/// Whether `part` was made by [`push_zeroes`] (or is empty).
pub fn is_zeroes(part: &Bytes) -> bool {
    part.is_empty() || ZEROES.as_ptr_range().contains(&part.as_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroes_are_known_by_their_address_not_their_content() {
        let mut parts = Vec::new();
        push_zeroes(&mut parts, 150 << 10);
        assert_eq!(parts.iter().map(Bytes::len).collect::<Vec<_>>(), [64 << 10, 64 << 10, 22 << 10]);
        assert!(parts.iter().all(|part| is_zeroes(part) && is_zeroes(&part.slice(4096..))));
        assert!(!is_zeroes(&Bytes::from(vec![0u8; 4096])));
    }
}
