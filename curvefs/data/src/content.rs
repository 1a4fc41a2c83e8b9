//! Bytes of an object, in pieces.

use std::collections::VecDeque;
use std::sync::LazyLock;

use bytes::Bytes;

use crate::format::BLOCK_BYTES;

/// What an object is to hold, with the checksum of all of it. The pieces are those of whoever wrote them: of megabytes that go to the store
/// none is copied in between.
#[derive(Clone, Default, Debug)]
pub struct Content {
    pieces: Vec<Bytes>,
    len: u64,
    crc32c: u32,
}

impl Content {
    /// Of nothing, with room for so many pieces.
    pub(crate) fn with_pieces(count: usize) -> Self {
        Self { pieces: Vec::with_capacity(count), ..Self::default() }
    }

    /// Adds a piece.
    pub(crate) fn push(&mut self, piece: Bytes) {
        self.crc32c = crc32c::crc32c_append(self.crc32c, &piece);
        self.len += piece.len() as u64;
        self.pieces.push(piece);
    }

    /// Adds pieces of `len` bytes together whose CRC-32C is known.
    pub(crate) fn push_counted(&mut self, pieces: Vec<Bytes>, crc32c: u32, len: usize) {
        self.crc32c = combined(self.crc32c, crc32c, len);
        self.len += len as u64;
        self.pieces.extend(pieces);
    }

    /// Bytes of all pieces.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// CRC-32C of all bytes.
    pub fn crc32c(&self) -> u32 {
        self.crc32c
    }

    /// The pieces, in their order.
    pub fn into_pieces(self) -> Vec<Bytes> {
        self.pieces
    }

    /// All bytes in one piece.
    pub fn joined(&self) -> Bytes {
        match &self.pieces[..] {
            [only] => only.clone(),
            pieces => pieces.concat().into(),
        }
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        let mut content = Self::default();
        content.push(bytes);
        content
    }
}

/// The CRC-32C of bytes whose own is `first` and of `len` more whose own is `second`. It is linear in `first`, and for a block's length
/// the terms are kept: to add them takes nanoseconds, to find them as long as it takes to read the block.
pub(crate) fn combined(first: u32, second: u32, len: usize) -> u32 {
    static OF_A_BLOCK: LazyLock<[u32; 32]> = LazyLock::new(|| {
        std::array::from_fn(|bit| crc32c::crc32c_combine(1 << bit, 0, BLOCK_BYTES as usize))
    });
    if len != BLOCK_BYTES as usize {
        return crc32c::crc32c_combine(first, second, len);
    }
    let terms = OF_A_BLOCK.iter().enumerate();
    terms.fold(second, |sum, (bit, term)| sum ^ (term * (first >> bit & 1)))
}

/// Bytes in pieces, of which the front is taken without copying.
pub(crate) struct Cut(VecDeque<Bytes>);

impl Cut {
    pub fn new(pieces: Vec<Bytes>) -> Self {
        Self(pieces.into())
    }

    pub fn take(&mut self, mut len: usize) -> Vec<Bytes> {
        let mut taken = Vec::new();
        while len > 0 {
            let front = self.0.front_mut().expect("lengths were summed up before");
            let now = if front.len() <= len {
                self.0.pop_front().expect("there is a front")
            } else {
                front.split_to(len)
            };
            len -= now.len();
            taken.push(now);
        }
        taken
    }
}
