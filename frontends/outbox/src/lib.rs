//! Bytes on their way to a client of a frontend.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;

/// A queue of bytes made of small headers, which are copied, and payloads, which are not. All of it can leave in one
/// vectored write.
///
/// Headers go into one buffer, so that neighbouring ones (the replies to 32 writes, say) become one slice and nothing is
/// allocated for a reply.
#[derive(Debug, Default)]
pub struct Outbox {
    heads: Vec<u8>,
    /// Bytes at the front of `heads` that were sent.
    heads_sent: usize,
    pieces: VecDeque<Piece>,
    len: usize,
}

#[derive(Debug)]
enum Piece {
    /// This many bytes of `heads`, after those of the pieces before.
    Head(usize),
    Payload(Bytes),
}

impl Outbox {
    /// Appends a copy of `head`.
    pub fn push_head(&mut self, head: &[u8]) {
        if head.is_empty() {
            // A piece of nothing could not be sent: a write of no bytes looks like a closed connection.
            return;
        }
        self.heads.extend_from_slice(head);
        self.len += head.len();
        match self.pieces.back_mut() {
            Some(Piece::Head(len)) => *len += head.len(),
            _ => self.pieces.push_back(Piece::Head(head.len())),
        }
    }

    /// Appends `payload` without copying it.
    pub fn push_payload(&mut self, payload: Bytes) {
        if !payload.is_empty() {
            self.len += payload.len();
            self.pieces.push_back(Piece::Payload(payload));
        }
    }

    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills `slices` with what is first in the queue and gives how many were filled.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut head_at = self.heads_sent;
        let mut filled = 0;
        for (slot, piece) in slices.iter_mut().zip(&self.pieces) {
            *slot = IoSlice::new(match piece {
                Piece::Head(len) => {
                    head_at += len;
                    &self.heads[head_at - len..head_at]
                }
                Piece::Payload(payload) => payload,
            });
            filled += 1;
        }
        filled
    }

    /// Forgets the first `sent` bytes.
    pub fn advance(&mut self, mut sent: usize) {
        assert!(sent <= self.len, "{sent} bytes were sent of {}", self.len);
        self.len -= sent;
        while sent > 0 {
            let front = self.pieces.front_mut().expect("the pieces hold `len` bytes");
            let (gone, whole) = match front {
                Piece::Head(len) => {
                    let gone = sent.min(*len);
                    *len -= gone;
                    self.heads_sent += gone;
                    (gone, *len == 0)
                }
                Piece::Payload(payload) => {
                    let gone = sent.min(payload.len());
                    bytes::Buf::advance(payload, gone);
                    (gone, payload.is_empty())
                }
            };
            sent -= gone;
            if whole {
                self.pieces.pop_front();
            }
        }
        if self.pieces.is_empty() {
            self.heads.clear();
            self.heads_sent = 0;
        } else if self.heads_sent > 64 << 10 {
            // A client that never lets the queue run empty must not make this buffer grow for ever.
            self.heads.drain(..self.heads_sent);
            self.heads_sent = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(outbox: &mut Outbox, step: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while !outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); 4];
            let filled = outbox.slices(&mut slices);
            let bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect();
            let sent = bytes.len().min(step);
            all.extend_from_slice(&bytes[..sent]);
            outbox.advance(sent);
        }
        all
    }

    #[test]
    fn bytes_leave_in_order_whatever_the_size_of_a_write() {
        for step in [1, 3, 7, 1000] {
            let mut outbox = Outbox::default();
            for piece in ["ab", "cd"] {
                outbox.push_head(piece.as_bytes());
            }
            outbox.push_payload(Bytes::from_static(b"payload"));
            outbox.push_payload(Bytes::new());
            outbox.push_head(b"");
            outbox.push_head(b"e");
            outbox.push_payload(Bytes::from_static(b"x"));
            outbox.push_payload(Bytes::from_static(b"y"));
            outbox.push_head(b"");
            assert_eq!(outbox.len(), 14);
            assert_eq!(drain(&mut outbox, step), b"abcdpayloadexy", "step {step}");
            outbox.push_head(b"again");
            assert_eq!(drain(&mut outbox, step), b"again");
        }
    }

    #[test]
    fn the_header_buffer_does_not_grow_when_the_queue_never_runs_empty() {
        let mut outbox = Outbox::default();
        outbox.push_head(&[1; 16]);
        for _ in 0..100_000 {
            outbox.push_head(&[1; 16]);
            outbox.push_payload(Bytes::from_static(b"x"));
            outbox.advance(17);
        }
        assert!(outbox.heads.capacity() < 1 << 20, "{}", outbox.heads.capacity());
    }
}
