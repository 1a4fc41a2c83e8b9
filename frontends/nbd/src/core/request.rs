//! Requests of the transmission phase, decoded and checked.

use bytes::{Buf, Bytes, BytesMut};
use curve_blockdev::ZeroMode;
use thiserror::Error;

use super::errno::Errno;
use super::fields::Fields;
use super::reply::ReplyHead;
use super::wire::{
    ALLOCATION_CONTEXT_ID, EXTENDED_REQUEST_BYTES, EXTENDED_REQUEST_MAGIC, Framing, REQUEST_BYTES,
    REQUEST_MAGIC, cmd, flag,
};

/// The longest read or write: what clients assume that know nothing of block sizes.
pub const PAYLOAD_BYTES_MAX: u32 = 32 << 20;
/// The longest payload that is read and thrown away so that a request can be refused; beyond it the client is dropped.
pub const DRAIN_BYTES_MAX: u64 = 64 << 20;
/// The longest range one block status request looks at. The client asks again from where the reply ended.
const STATUS_BYTES_MAX: u64 = 4 << 30;
/// Context ids a block status request may carry as its payload: more cannot differ.
const STATUS_PAYLOAD_BYTES_MAX: u64 = 8 + 4 * 64;

const _: () = assert!(
    DRAIN_BYTES_MAX >= 2 * PAYLOAD_BYTES_MAX as u64,
    "a slightly too long write is no reason to hang up"
);

/// What requests are held to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// How requests are framed.
    pub framing: Framing,
    /// Whether `base:allocation` was selected.
    pub allocation: bool,
    /// Bytes of the export.
    pub size: u64,
    /// Offsets and lengths are multiples of this.
    pub block_min: u32,
    /// The longest read or write.
    pub payload_max: u32,
    /// Whether changes are refused.
    pub read_only: bool,
}

/// A request that passed every check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// What the reply repeats.
    pub head: ReplyHead,
    /// What to do.
    pub command: Command,
}

/// What to do with a device. Ranges are aligned and inside the export.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Read `len` bytes, not 0.
    Read {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u32,
        /// Whether the reply may come in several chunks.
        may_fragment: bool,
    },
    /// Write `data`, not empty. Every write is durable when it completes, so forced unit access asks for nothing more.
    Write {
        /// First byte.
        offset: u64,
        /// Bytes to write: a slice of what was read from the socket.
        data: Bytes,
    },
    /// Make what was written durable.
    Flush,
    /// Give the range back.
    Trim {
        /// First byte.
        offset: u64,
        /// Bytes, not 0.
        len: u64,
        /// Whether a flush has to follow.
        fua: bool,
    },
    /// Make the range read as zeros.
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// Bytes, not 0.
        len: u64,
        /// How.
        mode: ZeroMode,
        /// Whether a flush has to follow.
        fua: bool,
    },
    /// Say what is allocated.
    BlockStatus {
        /// First byte.
        offset: u64,
        /// Bytes, not 0.
        len: u64,
        /// Whether the client wants the first extent only.
        one: bool,
    },
    /// Succeed at once: a range of no bytes, or a hint that is not taken.
    ///
    /// `NBD_CMD_CACHE` is one: what it would load is in the page cache of the servers, or on its way through the same
    /// queue as the read that follows, and moving it here only to drop it would cost more than it saves.
    Nothing,
}

/// What the bytes of a client amount to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Do this and reply.
    Request(Request),
    /// Reply with this error.
    Refused(Refusal),
    /// The client says goodbye and wants no reply.
    Disconnect,
}

/// A request that is refused without asking the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// What the reply repeats.
    pub head: ReplyHead,
    /// Why, as a number.
    pub errno: Errno,
    /// Why, for people.
    pub reason: &'static str,
}

/// The client broke the framing, so that what follows cannot be understood: it has to be dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Violation {
    /// A request does not begin with the magic of the negotiated framing.
    #[error("a request begins with {0:#010x}")]
    Magic(u32),
    /// A payload is longer than any client could mean.
    #[error("a request announces a payload of {0} bytes")]
    Payload(u64),
}

/// Turns bytes into requests. Holds no more input than one payload of `payload_max`.
#[derive(Debug)]
pub struct RequestDecoder {
    limits: Limits,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Header,
    /// Waits for the data of a write.
    WriteData(Header),
    /// Waits for the contexts of a block status request.
    StatusPayload(Header),
    /// Throws a payload away, then refuses.
    Drain {
        left: u64,
        refusal: Refusal,
    },
}

/// The fields of a request as they came.
#[derive(Clone, Copy, Debug)]
struct Header {
    flags: u16,
    kind: u16,
    cookie: u64,
    offset: u64,
    len: u64,
}

type Refused = (Errno, &'static str);

impl Header {
    fn head(&self) -> ReplyHead {
        ReplyHead { cookie: self.cookie, offset: self.offset, is_read: self.kind == cmd::READ }
    }

    fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    fn refused(&self, (errno, reason): Refused) -> Refusal {
        Refusal { head: self.head(), errno, reason }
    }
}

impl RequestDecoder {
    /// A decoder at the beginning of the transmission phase.
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: State::Header }
    }

    /// How many bytes the input must hold before [`RequestDecoder::next`] can give anything: what to make room for.
    pub fn wanted(&self) -> usize {
        match self.state {
            State::Header => self.header_bytes(),
            State::WriteData(header) | State::StatusPayload(header) => header.len as usize,
            State::Drain { left, .. } => left.min(64 << 10) as usize,
        }
    }

    /// Takes the next request from the front of `input`; `None` if more bytes are needed.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Event>, Violation> {
        loop {
            match self.state {
                State::Header => {
                    if input.len() < self.header_bytes() {
                        return Ok(None);
                    }
                    let header = self.header(input)?;
                    if let Some(event) = self.begin(header)? {
                        return Ok(Some(event));
                    }
                }
                State::WriteData(header) => {
                    if (input.len() as u64) < header.len {
                        return Ok(None);
                    }
                    self.state = State::Header;
                    let data = input.split_to(header.len as usize).freeze();
                    let command = Command::Write { offset: header.offset, data };
                    return Ok(Some(Event::Request(Request { head: header.head(), command })));
                }
                State::StatusPayload(header) => {
                    if (input.len() as u64) < header.len {
                        return Ok(None);
                    }
                    self.state = State::Header;
                    let payload = input.split_to(header.len as usize);
                    return Ok(Some(self.status_of(header, &payload)));
                }
                State::Drain { left, refusal } => {
                    let drained = left.min(input.len() as u64);
                    input.advance(drained as usize);
                    let left = left - drained;
                    self.state = State::Drain { left, refusal };
                    if left > 0 {
                        return Ok(None);
                    }
                    self.state = State::Header;
                    return Ok(Some(Event::Refused(refusal)));
                }
            }
        }
    }

    fn header_bytes(&self) -> usize {
        if self.limits.framing == Framing::Extended { EXTENDED_REQUEST_BYTES } else { REQUEST_BYTES }
    }

    fn header(&self, input: &mut BytesMut) -> Result<Header, Violation> {
        let extended = self.limits.framing == Framing::Extended;
        let magic = input.get_u32();
        if magic != if extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC } {
            return Err(Violation::Magic(magic));
        }
        Ok(Header {
            flags: input.get_u16(),
            kind: input.get_u16(),
            cookie: input.get_u64(),
            offset: input.get_u64(),
            len: if extended { input.get_u64() } else { u64::from(input.get_u32()) },
        })
    }

    /// Gives the event of a request without a payload, or prepares for the payload.
    fn begin(&mut self, header: Header) -> Result<Option<Event>, Violation> {
        if header.kind == cmd::DISC {
            return Ok(Some(Event::Disconnect));
        }
        let announced = self.limits.framing == Framing::Extended && header.has(flag::PAYLOAD_LEN);
        // An extended write without the flag breaks a rule, but can only mean that its data follows.
        let payload = if header.kind == cmd::WRITE || announced { header.len } else { 0 };
        if payload > DRAIN_BYTES_MAX {
            return Err(Violation::Payload(payload));
        }
        match self.check(header) {
            Ok(()) if payload == 0 => Ok(Some(Event::Request(self.request(header)))),
            Ok(()) => {
                let write = header.kind == cmd::WRITE;
                self.state = if write { State::WriteData(header) } else { State::StatusPayload(header) };
                Ok(None)
            }
            Err(refused) if payload == 0 => Ok(Some(Event::Refused(header.refused(refused)))),
            Err(refused) => {
                self.state = State::Drain { left: payload, refusal: header.refused(refused) };
                Ok(None)
            }
        }
    }

    fn check(&self, header: Header) -> Result<(), Refused> {
        let extended = self.limits.framing == Framing::Extended;
        let when = |condition: bool, flags: u16| if condition { flags } else { 0 };
        let allowed = match header.kind {
            cmd::READ => when(self.limits.framing >= Framing::Structured, flag::DF),
            cmd::WRITE => when(extended, flag::PAYLOAD_LEN),
            cmd::FLUSH | cmd::TRIM | cmd::CACHE => 0,
            cmd::WRITE_ZEROES => flag::NO_HOLE | flag::FAST_ZERO,
            cmd::BLOCK_STATUS => flag::REQ_ONE | when(extended, flag::PAYLOAD_LEN),
            _ => return Err((Errno::Invalid, "unknown command")),
        };
        // Forced unit access must be accepted with every command, even where it means nothing.
        if header.flags & !(allowed | flag::FUA) != 0 {
            return Err((Errno::Invalid, "a flag that this command does not have"));
        }
        match header.kind {
            cmd::FLUSH => Ok(()),
            cmd::WRITE | cmd::TRIM | cmd::WRITE_ZEROES if self.limits.read_only => {
                Err((Errno::NotPermitted, "the export is read-only"))
            }
            cmd::READ | cmd::WRITE if header.len > u64::from(self.limits.payload_max) => {
                Err((Errno::Invalid, "longer than the export's largest block"))
            }
            cmd::BLOCK_STATUS => self.check_status(header),
            _ => self.check_range(header),
        }
    }

    fn check_status(&self, header: Header) -> Result<(), Refused> {
        if !self.limits.allocation {
            return Err((Errno::Invalid, "no metadata context was negotiated"));
        }
        if !header.has(flag::PAYLOAD_LEN) {
            return self.check_range(header).and(nonzero(header.len));
        }
        // The length is that of the payload; the range is checked once it is known.
        if header.len < 8 || header.len > STATUS_PAYLOAD_BYTES_MAX || !header.len.is_multiple_of(4) {
            return Err((Errno::Invalid, "malformed list of contexts"));
        }
        Ok(())
    }

    fn check_range(&self, header: Header) -> Result<(), Refused> {
        let align = u64::from(self.limits.block_min);
        let Header { kind, offset, len, .. } = header;
        if offset.checked_add(len).is_none_or(|end| end > self.limits.size) {
            let errno = match kind {
                cmd::WRITE | cmd::WRITE_ZEROES => Errno::NoSpace,
                _ => Errno::Invalid,
            };
            return Err((errno, "the range ends after the export"));
        }
        if !offset.is_multiple_of(align) || !len.is_multiple_of(align) {
            return Err((Errno::Invalid, "the range is not aligned to the export's smallest block"));
        }
        Ok(())
    }

    /// The request of a checked header that has no payload.
    fn request(&self, header: Header) -> Request {
        let Header { offset, len, .. } = header;
        let fua = header.has(flag::FUA);
        let command = match header.kind {
            cmd::FLUSH => Command::Flush,
            _ if len == 0 => Command::Nothing,
            cmd::READ => Command::Read { offset, len: len as u32, may_fragment: !header.has(flag::DF) },
            cmd::TRIM => Command::Trim { offset, len, fua },
            cmd::WRITE_ZEROES => {
                let mode = ZeroMode {
                    keep_allocated: header.has(flag::NO_HOLE),
                    fast_only: header.has(flag::FAST_ZERO),
                };
                Command::WriteZeroes { offset, len, mode, fua }
            }
            cmd::BLOCK_STATUS => self.status(header, len),
            _ => Command::Nothing,
        };
        Request { head: header.head(), command }
    }

    fn status(&self, header: Header, len: u64) -> Command {
        // Compact descriptors have 32-bit lengths, so one must not cover all of the longest range.
        let longest = STATUS_BYTES_MAX - u64::from(self.limits.block_min);
        Command::BlockStatus { offset: header.offset, len: len.min(longest), one: header.has(flag::REQ_ONE) }
    }

    /// The event of a block status request whose payload (length of the range 8, context ids 4 each) has come.
    fn status_of(&self, header: Header, payload: &[u8]) -> Event {
        let mut fields = Fields::new(payload);
        let len = fields.u64().expect("the length was checked");
        let mut known = 0;
        while let Some(id) = fields.u32() {
            if id != ALLOCATION_CONTEXT_ID || known > 0 {
                return Event::Refused(header.refused((Errno::Invalid, "an unknown or repeated context")));
            }
            known += 1;
        }
        let range = Header { len, ..header };
        let asked = if known == 0 { Err((Errno::Invalid, "no context was asked for")) } else { Ok(()) };
        match asked.and_then(|()| self.check_range(range)).and_then(|()| nonzero(len)) {
            Ok(()) => Event::Request(Request { head: header.head(), command: self.status(header, len) }),
            Err(refused) => Event::Refused(header.refused(refused)),
        }
    }
}

fn nonzero(len: u64) -> Result<(), Refused> {
    if len == 0 { Err((Errno::Invalid, "a range of no bytes has no status")) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
