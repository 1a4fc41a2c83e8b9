//! The numbers of the protocol. All integers on the wire are big-endian.
//!
//! ```text
//! greeting   S: NBDMAGIC 8 | IHAVEOPT 8 | handshake flags 2            C: client flags 4
//! option     C: IHAVEOPT 8 | option 4 | length 4 | data                S: REPLY_MAGIC 8 | option 4 | type 4 | length 4 | data
//! request    C: magic 4 | flags 2 | type 2 | cookie 8 | offset 8 | length 4 (extended: 8) | payload
//! simple     S: magic 4 | error 4 | cookie 8 | data
//! structured S: magic 4 | flags 2 | type 2 | cookie 8 | length 4 | payload
//! extended   S: magic 4 | flags 2 | type 2 | cookie 8 | offset 8 | length 8 | payload
//! ```

/// How requests and replies are framed in the transmission phase.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Framing {
    /// Nothing was negotiated: 28-byte requests, simple replies.
    Simple,
    /// `NBD_OPT_STRUCTURED_REPLY`: 28-byte requests, replies with a payload come in chunks.
    Structured,
    /// `NBD_OPT_EXTENDED_HEADERS`: 32-byte requests, all replies are chunks with 64-bit lengths.
    Extended,
}

pub(super) const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943; // "NBDMAGIC"
pub(super) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054; // "IHAVEOPT"
pub(super) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub(super) const REQUEST_MAGIC: u32 = 0x2560_9513;
pub(super) const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
pub(super) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
pub(super) const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
pub(super) const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

pub(super) const OPTION_HEADER_BYTES: usize = 16;
pub(super) const REQUEST_BYTES: usize = 28;
pub(super) const EXTENDED_REQUEST_BYTES: usize = 32;

/// Handshake flags, the server's and the client's.
pub(super) mod hello {
    pub const FIXED_NEWSTYLE: u16 = 1 << 0;
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// Option types.
pub(super) mod opt {
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const STARTTLS: u32 = 5;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Types of replies to options.
pub(super) mod rep {
    const fn error(code: u32) -> u32 {
        1 << 31 | code
    }
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    pub const ERR_UNSUP: u32 = error(1);
    pub const ERR_POLICY: u32 = error(2);
    pub const ERR_INVALID: u32 = error(3);
    pub const ERR_TLS_REQD: u32 = error(5);
    pub const ERR_UNKNOWN: u32 = error(6);
    pub const ERR_TOO_BIG: u32 = error(9);
    pub const ERR_EXT_HEADER_REQD: u32 = error(10);
}

/// Kinds of information about an export.
pub(super) mod info {
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const DESCRIPTION: u16 = 2;
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags: what an export can do.
pub(super) mod can {
    pub const HAS_FLAGS: u16 = 1 << 0;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const FLUSH: u16 = 1 << 2;
    pub const FUA: u16 = 1 << 3;
    pub const TRIM: u16 = 1 << 5;
    pub const WRITE_ZEROES: u16 = 1 << 6;
    pub const DF: u16 = 1 << 7;
    pub const MULTI_CONN: u16 = 1 << 8;
    pub const CACHE: u16 = 1 << 10;
    pub const FAST_ZERO: u16 = 1 << 11;
    pub const BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;
}

/// Command types.
pub(super) mod cmd {
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISC: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const CACHE: u16 = 5;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flags of a command.
pub(super) mod flag {
    pub const FUA: u16 = 1 << 0;
    pub const NO_HOLE: u16 = 1 << 1;
    pub const DF: u16 = 1 << 2;
    pub const REQ_ONE: u16 = 1 << 3;
    pub const FAST_ZERO: u16 = 1 << 4;
    pub const PAYLOAD_LEN: u16 = 1 << 5;
}

/// Types and flags of reply chunks.
pub(super) mod chunk {
    pub const DONE: u16 = 1 << 0;
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const OFFSET_HOLE: u16 = 2;
    pub const BLOCK_STATUS: u16 = 5;
    pub const BLOCK_STATUS_EXT: u16 = 6;
    pub const ERROR: u16 = 1 << 15 | 1;
}

/// Flags of `base:allocation`.
pub(super) mod state {
    pub const HOLE: u32 = 1 << 0;
    pub const ZERO: u32 = 1 << 1;
}

/// The one metadata context served, and the number it has on every connection.
pub(super) const ALLOCATION_CONTEXT: &str = "base:allocation";
pub(super) const ALLOCATION_CONTEXT_ID: u32 = 1;
