//! Cuts a stream of bytes into frames, without copying payloads more than the stream forces it to.

use std::io;
use std::mem;
use std::task::Poll;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use curve_io::SECTOR_ALIGN;
use tokio::io::ReadBuf;

use crate::format::{FrameError, PREFIX_BYTES, Prefix, decode_prefix};

/// Small frames are received in blocks of this size and share them: the most memory a small piece can keep alive.
const BLOCK_BYTES: usize = 64 << 10;
/// A block with less room than this is left for a new one.
const ROOM_BYTES_MIN: usize = 4 << 10;
/// Payloads of this size and above are received into a buffer of their own, exactly sized.
const LARGE_BYTES: usize = 32 << 10;

/// One frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// What it is.
    pub prefix: Prefix,
    /// Its header, whose checksum was right.
    pub header: Bytes,
    /// Its payload, unchecked.
    pub payload: Bytes,
}

/// Turns bytes into frames. Does no I/O: bytes are put in by `feed` or `fill`, frames taken out by `next_frame`.
///
/// Payloads of 32 KiB and above get a buffer of their own, aligned for a disk, into which the socket is read directly. Smaller ones are
/// slices of the 64 KiB block they arrived in, which lives as long as any of its slices; who keeps a small piece for
/// long should copy it.
#[derive(Debug, Default)]
pub struct Decoder {
    block: BytesMut,
    state: State,
}

#[derive(Debug, Default)]
enum State {
    /// A prefix comes next.
    #[default]
    Prefix,
    /// The prefix is known; header and payload come next, or only the header where the payload is large.
    Rest(Prefix),
    /// The rest of a large payload comes next.
    Large { prefix: Prefix, header: Bytes, payload: BytesMut },
}

impl Decoder {
    /// A decoder at the beginning of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next frame that has arrived in full. After an error the stream is lost.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            match &mut self.state {
                State::Prefix => {
                    let Some(bytes) = self.block.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
                    let prefix = decode_prefix(bytes)?;
                    self.block.advance(PREFIX_BYTES);
                    self.state = State::Rest(prefix);
                }
                State::Rest(prefix) => {
                    let prefix = *prefix;
                    let wanted = Self::wanted_in_block(&prefix);
                    if self.block.len() < wanted {
                        return Ok(None);
                    }
                    if let Some(frame) = self.take_rest(prefix)? {
                        return Ok(Some(frame));
                    }
                }
                State::Large { prefix, payload, .. } => {
                    if payload.len() < prefix.payload_len as usize {
                        return Ok(None);
                    }
                    let State::Large { prefix, header, payload } = mem::take(&mut self.state) else {
                        unreachable!("matched above")
                    };
                    return Ok(Some(Frame { prefix, header, payload: payload.freeze() }));
                }
            }
        }
    }

    /// Appends bytes of the stream.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (target, room) = self.target();
            let len = room.min(bytes.len());
            target.put_slice(&bytes[..len]);
            bytes = &bytes[len..];
        }
    }

    /// Lets `read` append bytes of the stream.
    pub(crate) fn fill(
        &mut self,
        read: impl FnOnce(&mut ReadBuf<'_>) -> Poll<io::Result<()>>,
    ) -> Poll<io::Result<Filled>> {
        let is_block = !matches!(self.state, State::Large { .. });
        let (target, room) = self.target();
        let spare = &mut target.spare_capacity_mut()[..room];
        let start = spare.as_ptr().cast::<u8>();
        let mut buf = ReadBuf::uninit(spare);
        match read(&mut buf) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
            Poll::Pending => return Poll::Pending,
        }
        let len = buf.filled().len();
        assert_eq!(buf.filled().as_ptr(), start, "the reader filled another buffer");
        // SAFETY: `ReadBuf` vouches that the first `len` bytes of the spare capacity are initialised.
        unsafe { target.advance_mut(len) };
        Poll::Ready(Ok(Filled { bytes: len, is_block_full: is_block && len == room }))
    }

    /// What must be in the block before the rest of a frame can be taken.
    fn wanted_in_block(prefix: &Prefix) -> usize {
        match prefix.payload_len as usize {
            len if len >= LARGE_BYTES => prefix.header_len as usize,
            len => prefix.header_len as usize + len,
        }
    }

    /// Takes header and payload out of the block; for a large payload only what is there of it, and no frame yet.
    fn take_rest(&mut self, prefix: Prefix) -> Result<Option<Frame>, FrameError> {
        let header = self.block.split_to(prefix.header_len as usize).freeze();
        prefix.check_header(&header)?;
        let len = prefix.payload_len as usize;
        if len < LARGE_BYTES {
            self.state = State::Prefix;
            let payload = self.block.split_to(len).freeze();
            return Ok(Some(Frame { prefix, header, payload }));
        }
        let mut payload = aligned(len);
        let here = len.min(self.block.len());
        payload.extend_from_slice(&self.block[..here]);
        self.block.advance(here);
        self.state = State::Large { prefix, header, payload };
        Ok(None)
    }

    /// Where the next bytes of the stream go, and how many at most.
    fn target(&mut self) -> (&mut BytesMut, usize) {
        match &mut self.state {
            State::Large { prefix, payload, .. } if payload.len() < prefix.payload_len as usize => {
                let room = prefix.payload_len as usize - payload.len();
                payload.reserve(room);
                (payload, room)
            }
            State::Rest(prefix) => {
                let missing = Self::wanted_in_block(prefix).saturating_sub(self.block.len());
                Self::make_room(&mut self.block, missing)
            }
            State::Prefix | State::Large { .. } => Self::make_room(&mut self.block, 0),
        }
    }

    fn make_room(block: &mut BytesMut, missing: usize) -> (&mut BytesMut, usize) {
        if block.capacity() - block.len() < missing.max(ROOM_BYTES_MIN) {
            block.reserve(BLOCK_BYTES.max(missing + PREFIX_BYTES) - block.len().min(BLOCK_BYTES / 2));
        }
        let room = block.capacity() - block.len();
        (block, room)
    }
}

/// An empty buffer for `len` bytes that begins where a disk can take it from without a copy.
fn aligned(len: usize) -> BytesMut {
    let mut buf = BytesMut::with_capacity(len + SECTOR_ALIGN - 1);
    let skip = (buf.as_ptr() as usize).next_multiple_of(SECTOR_ALIGN) - buf.as_ptr() as usize;
    buf.put_bytes(0, skip);
    buf.advance(skip);
    buf
}

/// What one read brought.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filled {
    /// Bytes; 0 at the end of the stream.
    pub(crate) bytes: usize,
    /// Whether it filled a block of small frames, so that more of them are probably waiting.
    pub(crate) is_block_full: bool,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::*;
    use crate::format::{Kind, encode_prefix};

    fn encoded(id: u64, header: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut bytes = encode_prefix(Kind::Request, 7, id, 0, header, payload.len()).to_vec();
        bytes.extend_from_slice(header);
        bytes.extend_from_slice(payload);
        bytes
    }

    fn drain(decoder: &mut Decoder, into: &mut Vec<Frame>) {
        while let Some(frame) = decoder.next_frame().unwrap() {
            into.push(frame);
        }
    }

    #[test]
    fn a_large_payload_has_a_buffer_of_its_own() {
        let payload = vec![7; LARGE_BYTES + 5];
        let bytes = encoded(1, b"h", &payload);
        let mut decoder = Decoder::new();
        let mut frames = Vec::new();
        for part in bytes.chunks(1000) {
            decoder.feed(part);
            drain(&mut decoder, &mut frames);
        }
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0].payload, payload);
        assert!((frames[0].payload.as_ptr() as usize).is_multiple_of(SECTOR_ALIGN), "a disk can take it");
        let payload = frames.remove(0).payload.try_into_mut().expect("nobody shares it");
        assert!((LARGE_BYTES + 5..LARGE_BYTES + 5 + SECTOR_ALIGN).contains(&payload.capacity()));
    }

    #[test]
    fn garbage_is_an_error_before_anything_is_allocated() {
        let mut decoder = Decoder::new();
        decoder.feed(&[0xff; 100]);
        assert_eq!(decoder.next_frame(), Err(FrameError::Checksum));
        assert!(decoder.block.capacity() <= 2 * BLOCK_BYTES);
    }

    #[test]
    fn a_changed_header_is_an_error() {
        let mut bytes = encoded(1, b"header", b"payload");
        bytes[PREFIX_BYTES] ^= 1;
        let mut decoder = Decoder::new();
        decoder.feed(&bytes);
        assert_eq!(decoder.next_frame(), Err(FrameError::Checksum));
    }

    proptest! {
        #[test]
        fn any_cut_of_the_stream_gives_the_same_frames(
            sizes in prop::collection::vec((0usize..300, 0usize..70_000), 1..12),
            cuts in prop::collection::vec(1usize..90_000, 1..20),
        ) {
            let mut stream = Vec::new();
            for (id, (header, payload)) in sizes.iter().enumerate() {
                stream.extend(encoded(id as u64, &vec![1; *header], &vec![id as u8; *payload]));
            }
            let (mut decoder, mut frames, mut rest) = (Decoder::new(), Vec::new(), &stream[..]);
            for cut in cuts.iter().cycle() {
                let (part, after) = rest.split_at(rest.len().min(*cut));
                decoder.feed(part);
                drain(&mut decoder, &mut frames);
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            assert_eq!(frames.len(), sizes.len());
            for (id, (frame, (header, payload))) in frames.iter().zip(&sizes).enumerate() {
                assert_eq!(frame.prefix.id, id as u64);
                assert_eq!(frame.header.len(), *header);
                assert_eq!(frame.payload, vec![id as u8; *payload]);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..10)) {
            let mut decoder = Decoder::new();
            for part in parts {
                decoder.feed(&part);
                while let Ok(Some(_)) = decoder.next_frame() {}
            }
        }
    }
}
