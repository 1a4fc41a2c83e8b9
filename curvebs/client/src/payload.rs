//! Payload parts: slicing without copying, checksums per block, zeros.

use bytes::Bytes;
use crc32fast::Hasher;
use curve_blockdev::push_zeroes;
use curve_types::BLOCK_BYTES;

/// Walks over consecutive parts and hands out slices of them.
#[derive(Debug)]
pub struct Parts {
    parts: std::vec::IntoIter<Bytes>,
    current: Bytes,
}

impl Parts {
    /// Begins at the first byte of `parts`.
    pub fn new(parts: Vec<Bytes>) -> Self {
        Self { parts: parts.into_iter(), current: Bytes::new() }
    }

    /// The next `len` bytes, in as many parts as they lie in. The caller asks for no more than there is.
    pub fn take(&mut self, len: usize) -> Vec<Bytes> {
        let mut taken = Vec::with_capacity(1);
        let mut missing = len;
        while missing > 0 {
            if self.current.is_empty() {
                self.current = self.parts.next().expect("pieces cover exactly the payload");
                continue;
            }
            let part = self.current.split_to(self.current.len().min(missing));
            missing -= part.len();
            taken.push(part);
        }
        taken
    }
}

/// `len` bytes of `parts` from `skip` on, sharing memory.
pub fn cut(parts: Vec<Bytes>, skip: usize, len: usize) -> Vec<Bytes> {
    if skip == 0 && total_len(&parts) == len as u64 {
        return parts;
    }
    let mut parts = Parts::new(parts);
    parts.take(skip);
    parts.take(len)
}

/// Bytes in all parts.
pub fn total_len(parts: &[Bytes]) -> u64 {
    parts.iter().map(|part| part.len() as u64).sum()
}

/// CRC-32 of the bytes of `parts` that fall into each 4 KiB block, the first byte lying at `offset` in its chunk.
/// The value 0 stands for a hole, so a checksum that comes out as 0 is written as 1.
pub fn block_crcs(offset: u32, parts: &[Bytes]) -> Vec<u32> {
    let block = BLOCK_BYTES as usize;
    let mut crcs = Vec::with_capacity(total_len(parts) as usize / block + 2);
    let mut room = block - offset as usize % block;
    let mut hasher = Hasher::new();
    let mut open = false;
    for part in parts {
        let mut rest = &part[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(room));
            hasher.update(now);
            open = true;
            room -= now.len();
            rest = later;
            if room == 0 {
                crcs.push(never_zero(std::mem::take(&mut hasher).finalize()));
                room = block;
                open = false;
            }
        }
    }
    if open {
        crcs.push(never_zero(hasher.finalize()));
    }
    crcs
}

/// `len` zeros that frontends can tell from data.
pub fn zeros(len: u64) -> Vec<Bytes> {
    let mut parts = Vec::with_capacity(1);
    push_zeroes(&mut parts, len);
    parts
}

fn never_zero(crc: u32) -> u32 {
    if crc == 0 { 1 } else { crc }
}

/// Whether whole blocks read as their checksums say; a checksum of 0 is a hole and must be zeros.
pub fn blocks_match(data: &[u8], crcs: &[u32]) -> bool {
    let block = BLOCK_BYTES as usize;
    data.len() == crcs.len() * block
        && data.chunks_exact(block).zip(crcs).all(|(bytes, &crc)| match crc {
            0 => bytes.iter().all(|&byte| byte == 0),
            _ => never_zero(crc32fast::hash(bytes)) == crc,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_cut_where_asked() {
        let mut parts =
            Parts::new(vec![Bytes::from_static(b"abc"), Bytes::new(), Bytes::from_static(b"defgh")]);
        assert_eq!(parts.take(2).concat(), b"ab");
        assert_eq!(parts.take(4).concat(), b"cdef");
        assert_eq!(parts.take(2).concat(), b"gh");
        assert!(parts.take(0).is_empty());
    }

    #[test]
    fn checksums_do_not_depend_on_how_the_payload_is_parted() {
        let whole = Bytes::from((0..12288u32).map(|i| (i * 7) as u8).collect::<Vec<_>>());
        let parted = vec![whole.slice(..1000), whole.slice(1000..5000), whole.slice(5000..)];
        let crcs = block_crcs(0, std::slice::from_ref(&whole));
        assert_eq!(crcs, block_crcs(0, &parted));
        assert_eq!(crcs.len(), 3);
        assert!(blocks_match(&whole, &crcs));
        let mut flipped = whole.to_vec();
        flipped[5000] ^= 1;
        assert!(!blocks_match(&flipped, &crcs));
    }

    #[test]
    fn a_partial_block_has_its_own_checksum() {
        let data = Bytes::from(vec![9u8; 1024]);
        assert_eq!(block_crcs(3584, std::slice::from_ref(&data)).len(), 2);
        assert_eq!(block_crcs(512, &[data.slice(..512)]), [crc32fast::hash(&data[..512])]);
    }

    #[test]
    fn holes_must_read_as_zeros() {
        assert!(blocks_match(&[0; 4096], &[0]));
        assert!(!blocks_match(&[1; 4096], &[0]));
        assert_eq!(total_len(&zeros((1 << 20) + 512)), (1 << 20) + 512);
    }
}
