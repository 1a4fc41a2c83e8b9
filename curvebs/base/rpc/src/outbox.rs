//! Frames on their way into a socket, gathered so that all of them leave in one vectored write.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;
use curve_io::Message;

use crate::clock::Millis;
use crate::format::{Kind, encode_prefix};

/// Pieces of one write at most.
pub(crate) const SLICES_MAX: usize = 64;
/// Parts of a payload up to this length are copied beside their header: cheaper than a slice of their own.
const COPY_BYTES_MAX: usize = 512;
/// The copied bytes keep at most this much memory between batches.
const SCRATCH_KEPT_BYTES: usize = 256 << 10;

/// Encoded frames that are not written yet.
///
/// Prefixes, headers and small payloads are copied one after the other into `scratch`, so that a batch of small
/// frames is one piece; large parts of payloads are pieces of their own and never copied.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    scratch: Vec<u8>,
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that are written already.
    written: usize,
    /// Bytes of all pieces that are not written.
    bytes: usize,
}

#[derive(Debug)]
enum Piece {
    Scratch { start: usize, end: usize },
    Payload(Bytes),
}

impl Outbox {
    /// Whether everything is written.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Bytes that are not written.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends a frame.
    pub(crate) fn push(&mut self, kind: Kind, id: u64, clock: Millis, message: Message) {
        let prefix = encode_prefix(kind, message.method, id, clock, &message.header, message.payload_len());
        self.copy(&prefix);
        self.copy(&message.header);
        for part in message.payload {
            if part.len() <= COPY_BYTES_MAX {
                self.copy(&part);
            } else {
                self.bytes += part.len();
                self.pieces.push_back(Piece::Payload(part));
            }
        }
    }

    /// Appends a frame that is only a prefix.
    pub(crate) fn push_bare(&mut self, kind: Kind, id: u64, clock: Millis) {
        self.copy(&encode_prefix(kind, 0, id, clock, &[], 0));
    }

    /// Fills `slices` from the first unwritten byte; returns how many are used.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES_MAX]) -> usize {
        let mut skip = self.written;
        let mut used = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(&self.piece_bytes(piece)[skip..]);
            skip = 0;
            used += 1;
        }
        used
    }

    /// The first `len` unwritten bytes are written.
    pub(crate) fn advance(&mut self, len: usize) {
        assert!(len <= self.bytes, "more written than there was");
        self.bytes -= len;
        self.written += len;
        while let Some(piece) = self.pieces.front() {
            let piece_len = self.piece_bytes(piece).len();
            if self.written < piece_len {
                break;
            }
            self.written -= piece_len;
            self.pieces.pop_front();
        }
        if self.pieces.is_empty() {
            self.scratch.clear();
            self.scratch.shrink_to(SCRATCH_KEPT_BYTES);
        }
    }

    fn copy(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let start = self.scratch.len();
        self.scratch.extend_from_slice(bytes);
        self.bytes += bytes.len();
        let end = self.scratch.len();
        match self.pieces.back_mut() {
            Some(Piece::Scratch { end: last, .. }) => *last = end,
            _ => self.pieces.push_back(Piece::Scratch { start, end }),
        }
    }

    fn piece_bytes<'a>(&'a self, piece: &'a Piece) -> &'a [u8] {
        match piece {
            Piece::Scratch { start, end } => &self.scratch[*start..*end],
            Piece::Payload(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decoder::Decoder;

    fn message(id: u64, payload: &[usize]) -> Message {
        Message {
            method: 3,
            header: Bytes::from(vec![id as u8; 20]),
            payload: payload.iter().map(|len| Bytes::from(vec![id as u8; *len])).collect(),
        }
    }

    #[test]
    fn frames_survive_writes_of_any_length() {
        for step in [997, 4096, 1 << 20] {
            let mut outbox = Outbox::default();
            for id in 0..40 {
                outbox.push(Kind::Request, id, 0, message(id, &[0, 100, 4096, 513]));
                outbox.push_bare(Kind::Cancel, id, 0);
            }
            let (mut decoder, mut frames) = (Decoder::new(), Vec::new());
            while !outbox.is_empty() {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let used = outbox.slices(&mut slices);
                let flat: Vec<u8> = slices[..used].iter().flat_map(|slice| slice.iter().copied()).collect();
                let len = flat.len().min(step);
                decoder.feed(&flat[..len]);
                outbox.advance(len);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    frames.push(frame);
                }
            }
            assert_eq!(frames.len(), 80);
            assert_eq!(frames[40].prefix.id, 20);
            assert_eq!(frames[40].payload, vec![20; 4709]);
            assert_eq!(frames[41].prefix.kind, Kind::Cancel);
        }
    }

    #[test]
    fn small_frames_are_one_piece() {
        let mut outbox = Outbox::default();
        for id in 0..10 {
            outbox.push(Kind::Reply, id, 0, message(id, &[16]));
        }
        assert_eq!(outbox.pieces.len(), 1);
    }
}
