//! Bytes of an object, in pieces.

use std::collections::VecDeque;

use bytes::Bytes;

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
