//! The bytes on a data-plane connection. Integers are little-endian.
//!
//! Each side begins with a hello, the client first; the server answers with its own, and frames follow. With TLS all
//! of it travels inside the TLS stream.
//!
//! ```text
//! hello, 32 bytes
//!  0   8  magic "CURVERPC"
//!  8   2  version, 2
//! 10   2  verdict: 0 go on, 1 version not spoken, 2 TLS required, 3 too many connections, 4 stopping
//! 12   4  how many unanswered requests the sender takes
//! 16   8  how many bytes of unanswered requests the sender takes
//! 24   4  the server's time; of a client 0
//! 28   4  CRC-32 of bytes 0..28
//!
//! frame: prefix, header bytes, payload bytes
//!  0   4  length of the header, at most HEADER_BYTES_MAX
//!  4   4  length of the payload, at most PAYLOAD_BYTES_MAX
//!  8   8  request id: low half a slot number below SLOTS_MAX, high half its generation
//! 16   2  method
//! 18   1  kind, see `Kind`
//! 19   1  0
//! 20   4  of a request: the server's time after which it is not executed any more; else of the server: its time; else 0
//! 24   4  CRC-32 of the header bytes
//! 28   4  CRC-32 of bytes 0..28
//! 32   …  header, then payload
//! ```
//!
//! The payload carries no CRC here: its integrity is end to end, by the checksums of blocks that its owners keep.
//! A request id names one unanswered request; its slot is used again, with another generation, once it was answered
//! or cancelled. Times are in milliseconds of the server's boot clock and wrap after 49 days. A frame that breaks a rule ends the connection.

use curve_types::{FRAME_HEADER_BYTES_MAX, FRAME_PAYLOAD_BYTES_MAX};
use thiserror::Error;

/// Length of a hello.
pub const HELLO_BYTES: usize = 32;
/// Length of a frame's prefix.
pub const PREFIX_BYTES: usize = 32;
/// The version spoken here.
pub const VERSION: u16 = 2;
/// The longest header taken; a little above what callers may send, so that a limit can grow by one release.
pub const HEADER_BYTES_MAX: usize = FRAME_HEADER_BYTES_MAX + (4 << 10);
/// The longest payload taken.
pub const PAYLOAD_BYTES_MAX: usize = FRAME_PAYLOAD_BYTES_MAX + (64 << 10);
/// Slot numbers are below this.
pub const SLOTS_MAX: u32 = 1 << 16;
/// The first byte of a TLS record that begins a handshake, which no hello begins with.
pub(crate) const TLS_HANDSHAKE: u8 = 0x16;

const MAGIC: [u8; 8] = *b"CURVERPC";

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// 1: a call.
    Request,
    /// 2: its reply.
    Reply,
    /// 3: the server dropped the call without a reply.
    Dropped,
    /// 4: the server did not look at the call, since it is stopping.
    Refused,
    /// 5: the client no longer waits for the reply.
    Cancel,
    /// 6: asks for a pong; method 0.
    Ping,
    /// 7: answers a ping.
    Pong,
    /// 8: the server is stopping; it answers what it has and refuses what comes.
    GoAway,
    /// 9: the server did not look at the call, since it came too late.
    Late,
}

impl Kind {
    const ALL: [Self; 9] = [
        Self::Request,
        Self::Reply,
        Self::Dropped,
        Self::Refused,
        Self::Cancel,
        Self::Ping,
        Self::Pong,
        Self::GoAway,
        Self::Late,
    ];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte).checked_sub(1)?).copied()
    }

    fn byte(self) -> u8 {
        self as u8 + 1
    }
}

/// The first bytes of a frame, decoded and within limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prefix {
    /// What the frame is.
    pub kind: Kind,
    /// Which method is called; copied into the reply by the server as it likes.
    pub method: u16,
    /// Which request.
    pub id: u64,
    /// A time of the server's clock, in milliseconds that wrap: by when a request must arrive, or what time it is.
    pub clock: u32,
    /// Length of the header that follows.
    pub header_len: u32,
    /// Length of the payload after the header.
    pub payload_len: u32,
    /// CRC-32 of the header.
    pub header_crc: u32,
}

/// Why bytes are not a frame or a hello.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum FrameError {
    /// The hello does not begin with the magic.
    #[error("the peer does not speak Curve's RPC")]
    Magic,
    /// Bytes were changed on the way, or the stream is out of step.
    #[error("a checksum of the RPC framing is wrong")]
    Checksum,
    /// No such kind of frame.
    #[error("unknown kind of frame {0}")]
    Kind(u8),
    /// A reserved byte is not 0.
    #[error("a reserved byte is not 0")]
    Reserved,
    /// The header is longer than allowed.
    #[error("a frame header of {0} bytes is longer than the limit of {HEADER_BYTES_MAX}")]
    HeaderTooLong(u32),
    /// The payload is longer than allowed.
    #[error("a frame payload of {0} bytes is longer than the limit of {PAYLOAD_BYTES_MAX}")]
    PayloadTooLong(u32),
    /// The slot in the id is not below `SLOTS_MAX`.
    #[error("a request id with slot {0} is out of range")]
    Slot(u32),
    /// No such verdict.
    #[error("unknown verdict {0} in a hello")]
    Verdict(u16),
}

/// Encodes the prefix of a frame with this header and a payload of this length.
pub fn encode_prefix(
    kind: Kind,
    method: u16,
    id: u64,
    clock: u32,
    header: &[u8],
    payload_len: usize,
) -> [u8; PREFIX_BYTES] {
    assert!(
        header.len() <= HEADER_BYTES_MAX && payload_len <= PAYLOAD_BYTES_MAX,
        "limits are checked by callers"
    );
    let header_crc = if header.is_empty() { 0 } else { crc32fast::hash(header) };
    let mut bytes = [0; PREFIX_BYTES];
    bytes[0..4].copy_from_slice(&(header.len() as u32).to_le_bytes());
    bytes[4..8].copy_from_slice(&(payload_len as u32).to_le_bytes());
    bytes[8..16].copy_from_slice(&id.to_le_bytes());
    bytes[16..18].copy_from_slice(&method.to_le_bytes());
    bytes[18] = kind.byte();
    bytes[20..24].copy_from_slice(&clock.to_le_bytes());
    bytes[24..28].copy_from_slice(&header_crc.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..28]);
    bytes[28..32].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Decodes a prefix and checks it against the limits, so that what it says may be allocated.
pub fn decode_prefix(bytes: &[u8; PREFIX_BYTES]) -> Result<Prefix, FrameError> {
    if crc32fast::hash(&bytes[..28]) != u32_at(bytes, 28) {
        return Err(FrameError::Checksum);
    }
    let kind = Kind::from_byte(bytes[18]).ok_or(FrameError::Kind(bytes[18]))?;
    if bytes[19] != 0 {
        return Err(FrameError::Reserved);
    }
    let prefix = Prefix {
        kind,
        method: u16::from_le_bytes([bytes[16], bytes[17]]),
        id: u64_at(bytes, 8),
        header_len: u32_at(bytes, 0),
        payload_len: u32_at(bytes, 4),
        clock: u32_at(bytes, 20),
        header_crc: u32_at(bytes, 24),
    };
    if prefix.header_len as usize > HEADER_BYTES_MAX {
        return Err(FrameError::HeaderTooLong(prefix.header_len));
    }
    if prefix.payload_len as usize > PAYLOAD_BYTES_MAX {
        return Err(FrameError::PayloadTooLong(prefix.payload_len));
    }
    if prefix.id as u32 >= SLOTS_MAX {
        return Err(FrameError::Slot(prefix.id as u32));
    }
    Ok(prefix)
}

impl Prefix {
    /// Whether these are the header's bytes.
    pub fn check_header(&self, header: &[u8]) -> Result<(), FrameError> {
        match header.is_empty() || crc32fast::hash(header) == self.header_crc {
            true => Ok(()),
            false => Err(FrameError::Checksum),
        }
    }
}

/// Whether a connection goes on after the hello.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Frames follow.
    GoOn,
    /// The version is not spoken.
    Version,
    /// The server wants TLS.
    TlsRequired,
    /// The server has too many connections.
    TooMany,
    /// The server is stopping.
    Stopping,
}

impl Verdict {
    const ALL: [Self; 5] = [Self::GoOn, Self::Version, Self::TlsRequired, Self::TooMany, Self::Stopping];
}

/// The first message of each side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The version the sender speaks.
    pub version: u16,
    /// Whether the sender goes on.
    pub verdict: Verdict,
    /// How many unanswered requests the sender takes.
    pub inflight_max: u32,
    /// How many bytes of unanswered requests the sender takes.
    pub inflight_bytes_max: u64,
    /// The server's time, see [`Prefix::clock`]; of a client 0.
    pub clock: u32,
}

/// Encodes a hello.
pub fn encode_hello(hello: &Hello) -> [u8; HELLO_BYTES] {
    let mut bytes = [0; HELLO_BYTES];
    bytes[0..8].copy_from_slice(&MAGIC);
    bytes[8..10].copy_from_slice(&hello.version.to_le_bytes());
    bytes[10..12].copy_from_slice(&(hello.verdict as u16).to_le_bytes());
    bytes[12..16].copy_from_slice(&hello.inflight_max.to_le_bytes());
    bytes[16..24].copy_from_slice(&hello.inflight_bytes_max.to_le_bytes());
    bytes[24..28].copy_from_slice(&hello.clock.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..28]);
    bytes[28..32].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Decodes a hello. Another version is not an error here; the receiver decides.
pub fn decode_hello(bytes: &[u8; HELLO_BYTES]) -> Result<Hello, FrameError> {
    if bytes[0..8] != MAGIC {
        return Err(FrameError::Magic);
    }
    if crc32fast::hash(&bytes[..28]) != u32_at(bytes, 28) {
        return Err(FrameError::Checksum);
    }
    let verdict = u16::from_le_bytes([bytes[10], bytes[11]]);
    Ok(Hello {
        version: u16::from_le_bytes([bytes[8], bytes[9]]),
        verdict: *Verdict::ALL.get(usize::from(verdict)).ok_or(FrameError::Verdict(verdict))?,
        inflight_max: u32_at(bytes, 12),
        inflight_bytes_max: u64_at(bytes, 16),
        clock: u32_at(bytes, 24),
    })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_round_trips() {
        for kind in Kind::ALL {
            let bytes = encode_prefix(kind, 0x203, 7 << 32 | 9, 0xdead_beef, b"header", 4096);
            let prefix = decode_prefix(&bytes).unwrap();
            assert_eq!((prefix.kind, prefix.method, prefix.id), (kind, 0x203, 7 << 32 | 9));
            assert_eq!((prefix.header_len, prefix.payload_len, prefix.clock), (6, 4096, 0xdead_beef));
            assert_eq!(prefix.check_header(b"header"), Ok(()));
            assert_eq!(prefix.check_header(b"Header"), Err(FrameError::Checksum));
        }
    }

    #[test]
    fn the_format_is_the_released_one() {
        let bytes = encode_prefix(Kind::Request, 0x0201, 0x0000_0002_0000_0003, 0x0605_0403, b"ab", 4096);
        assert_eq!(
            bytes,
            [
                2, 0, 0, 0, 0, 16, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 1, 2, 1, 0, 3, 4, 5, 6, 109, 72, 131, 158,
                40, 60, 250, 147
            ]
        );
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = encode_prefix(Kind::Reply, 1, 5, 0, b"", 0);
        for bit in 0..PREFIX_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_prefix(&bad), Err(FrameError::Checksum), "bit {bit}");
        }
    }

    fn resealed(change: impl FnOnce(&mut [u8; PREFIX_BYTES])) -> Result<Prefix, FrameError> {
        let mut bytes = encode_prefix(Kind::Request, 1, 1, 0, b"", 0);
        change(&mut bytes);
        let crc = crc32fast::hash(&bytes[..28]);
        bytes[28..32].copy_from_slice(&crc.to_le_bytes());
        decode_prefix(&bytes)
    }

    #[test]
    fn limits_are_checked() {
        assert_eq!(resealed(|b| b[3] = 1), Err(FrameError::HeaderTooLong(1 << 24)));
        assert_eq!(resealed(|b| b[7] = 0xff), Err(FrameError::PayloadTooLong(0xff << 24)));
        assert_eq!(resealed(|b| b[10] = 1), Err(FrameError::Slot(1 << 16 | 1)));
        assert_eq!(resealed(|b| b[18] = 10), Err(FrameError::Kind(10)));
        assert_eq!(resealed(|b| b[18] = 0), Err(FrameError::Kind(0)));
        assert_eq!(resealed(|b| b[19] = 1), Err(FrameError::Reserved));
    }

    #[test]
    fn a_hello_round_trips() {
        for verdict in Verdict::ALL {
            let hello = Hello { version: 3, verdict, inflight_max: 7, inflight_bytes_max: 1 << 40, clock: 9 };
            assert_eq!(decode_hello(&encode_hello(&hello)), Ok(hello));
        }
        let mut bytes = encode_hello(&Hello {
            version: 1,
            verdict: Verdict::GoOn,
            inflight_max: 1,
            inflight_bytes_max: 1,
            clock: 0,
        });
        bytes[12] ^= 1;
        assert_eq!(decode_hello(&bytes), Err(FrameError::Checksum));
        assert_eq!(decode_hello(b"GET / HTTP/1.1\r\nHost: example\r\n\r"), Err(FrameError::Magic));
    }
}
