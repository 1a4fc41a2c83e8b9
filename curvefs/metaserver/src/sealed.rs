//! What small files have in common: a magic number, a version, a state, and a checksum behind everything.
//!
//! ```text
//!   0   4  magic
//!   4   2  version, little-endian as all numbers
//!   6   2  state: what it means is the file's own
//!   8   n  content
//!   …   4  CRC-32 of everything before it
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};

const HEAD: usize = 8;

/// A file whose content is to be put behind this.
pub fn begin(magic: [u8; 4], version: u16, state: u16) -> BytesMut {
    let mut out = BytesMut::with_capacity(64);
    out.put_slice(&magic);
    out.put_u16_le(version);
    out.put_u16_le(state);
    out
}

/// The file with its checksum.
pub fn seal(mut out: BytesMut) -> Bytes {
    let crc = crc32fast::hash(&out);
    out.put_u32_le(crc);
    out.freeze()
}

/// The state and the content; `None` if it is damaged, or another kind or version.
pub fn open(bytes: &[u8], magic: [u8; 4], version: u16) -> Option<(u16, &[u8])> {
    let (body, mut crc) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    if crc32fast::hash(body) != crc.get_u32_le() {
        return None;
    }
    let (mut head, content) = body.split_at_checked(HEAD)?;
    if head[..4] != magic {
        return None;
    }
    head.advance(4);
    (head.get_u16_le() == version).then(|| (head.get_u16_le(), content))
}
