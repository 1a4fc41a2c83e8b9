//! Replies of the transmission phase.

use bytes::Bytes;
use curve_blockdev::{Allocation, Extent, is_zeroes};

use super::Outbox;
use super::errno::Errno;
use super::wire::{
    ALLOCATION_CONTEXT_ID, EXTENDED_REPLY_MAGIC, Framing, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, chunk,
    state,
};

/// The most extents in one reply to `NBD_CMD_BLOCK_STATUS`. The client asks again from where the reply ended.
const EXTENTS_MAX: usize = 16 << 10;
/// The longest error message; the protocol allows a string of 4096.
const MESSAGE_BYTES_MAX: usize = 1024;

/// What a reply repeats of its request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplyHead {
    /// The client's name for the request.
    pub cookie: u64,
    /// Where the request began.
    pub offset: u64,
    /// Whether it is a read, whose replies are structured even if they fail.
    pub is_read: bool,
}

/// Writes replies in one framing.
#[derive(Clone, Copy, Debug)]
pub struct ReplyEncoder {
    framing: Framing,
}

impl ReplyEncoder {
    /// An encoder for a connection that negotiated `framing`.
    pub fn new(framing: Framing) -> Self {
        Self { framing }
    }

    /// Success without data.
    pub fn done(self, out: &mut Outbox, head: ReplyHead) {
        match self.framing {
            // Shorter, and allowed for whatever is not a read.
            Framing::Simple => simple(out, head.cookie, 0),
            Framing::Structured if !head.is_read => simple(out, head.cookie, 0),
            Framing::Structured | Framing::Extended => self.chunk(out, head, chunk::DONE, chunk::NONE, 0),
        }
    }

    /// A failure. The message is for people, and only sent where the framing has room for it.
    pub fn error(self, out: &mut Outbox, head: ReplyHead, errno: Errno, message: &str) {
        if self.framing == Framing::Simple {
            return simple(out, head.cookie, errno as u32);
        }
        let message = &message.as_bytes()[..message.floor_char_boundary(MESSAGE_BYTES_MAX)];
        self.chunk(out, head, chunk::DONE, chunk::ERROR, 6 + message.len() as u64);
        out.push_head(&(errno as u32).to_be_bytes());
        out.push_head(&(message.len() as u16).to_be_bytes());
        out.push_head(message);
    }

    /// What a read gave. Holes (see [`is_zeroes`]) are sent as such where the framing knows them and the client did not
    /// forbid fragments; `parts` must be of the length that was asked for.
    pub fn read(self, out: &mut Outbox, head: ReplyHead, parts: Vec<Bytes>, may_fragment: bool) {
        if self.framing == Framing::Simple {
            simple(out, head.cookie, 0);
            parts.into_iter().for_each(|part| out.push_payload(part));
            return;
        }
        let holes = parts.iter().filter(|part| is_zeroes(part)).count();
        if holes == parts.len() {
            let len = total(&parts);
            return self.hole(out, head, chunk::DONE, head.offset, len);
        }
        if holes == 0 || !may_fragment {
            return self.data(out, head, chunk::DONE, head.offset, parts);
        }
        self.fragments(out, head, parts);
    }

    fn fragments(self, out: &mut Outbox, head: ReplyHead, parts: Vec<Bytes>) {
        let mut at = head.offset;
        let mut parts = parts.into_iter().filter(|part| !part.is_empty()).peekable();
        while let Some(first) = parts.next() {
            let hole = is_zeroes(&first);
            let mut run = vec![first];
            while let Some(next) = parts.next_if(|part| is_zeroes(part) == hole) {
                run.push(next);
            }
            let flags = if parts.peek().is_none() { chunk::DONE } else { 0 };
            let len = total(&run);
            match hole {
                true => self.hole(out, head, flags, at, len),
                false => self.data(out, head, flags, at, run),
            }
            at += len;
        }
    }

    fn data(self, out: &mut Outbox, head: ReplyHead, flags: u16, offset: u64, parts: Vec<Bytes>) {
        self.chunk(out, head, flags, chunk::OFFSET_DATA, 8 + total(&parts));
        out.push_head(&offset.to_be_bytes());
        parts.into_iter().for_each(|part| out.push_payload(part));
    }

    fn hole(self, out: &mut Outbox, head: ReplyHead, flags: u16, offset: u64, len: u64) {
        self.chunk(out, head, flags, chunk::OFFSET_HOLE, 12);
        out.push_head(&offset.to_be_bytes());
        out.push_head(&(len as u32).to_be_bytes());
    }

    /// The answer to a block status request: `extents` from the request's offset on, not empty. Only the first is sent
    /// if the client wants one.
    pub fn status(self, out: &mut Outbox, head: ReplyHead, extents: &[Extent], one: bool) {
        let extents = &extents[..extents.len().min(if one { 1 } else { EXTENTS_MAX })];
        let flags = |extent: &Extent| match extent.allocation {
            Allocation::Data => 0,
            Allocation::Hole => state::HOLE | state::ZERO,
        };
        let count = extents.len() as u64;
        if self.framing == Framing::Extended {
            self.chunk(out, head, chunk::DONE, chunk::BLOCK_STATUS_EXT, 8 + 16 * count);
            out.push_head(&ALLOCATION_CONTEXT_ID.to_be_bytes());
            out.push_head(&(count as u32).to_be_bytes());
            for extent in extents {
                out.push_head(&extent.len.to_be_bytes());
                out.push_head(&u64::from(flags(extent)).to_be_bytes());
            }
            return;
        }
        self.chunk(out, head, chunk::DONE, chunk::BLOCK_STATUS, 4 + 8 * count);
        out.push_head(&ALLOCATION_CONTEXT_ID.to_be_bytes());
        for extent in extents {
            out.push_head(&(extent.len as u32).to_be_bytes());
            out.push_head(&flags(extent).to_be_bytes());
        }
    }

    fn chunk(self, out: &mut Outbox, head: ReplyHead, flags: u16, kind: u16, len: u64) {
        let mut header = [0; 32];
        header[4..6].copy_from_slice(&flags.to_be_bytes());
        header[6..8].copy_from_slice(&kind.to_be_bytes());
        header[8..16].copy_from_slice(&head.cookie.to_be_bytes());
        if self.framing == Framing::Extended {
            header[..4].copy_from_slice(&EXTENDED_REPLY_MAGIC.to_be_bytes());
            header[16..24].copy_from_slice(&head.offset.to_be_bytes());
            header[24..].copy_from_slice(&len.to_be_bytes());
            out.push_head(&header);
        } else {
            header[..4].copy_from_slice(&STRUCTURED_REPLY_MAGIC.to_be_bytes());
            header[16..20].copy_from_slice(&(len as u32).to_be_bytes());
            out.push_head(&header[..20]);
        }
    }
}

fn simple(out: &mut Outbox, cookie: u64, error: u32) {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    header[4..8].copy_from_slice(&error.to_be_bytes());
    header[8..].copy_from_slice(&cookie.to_be_bytes());
    out.push_head(&header);
}

fn total(parts: &[Bytes]) -> u64 {
    parts.iter().map(|part| part.len() as u64).sum()
}

#[cfg(test)]
mod tests;
