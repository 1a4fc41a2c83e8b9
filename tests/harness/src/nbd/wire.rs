//! Numbers of the protocol (<https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>), big-endian on the wire.

pub(super) const INIT_MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
pub(super) const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
pub(super) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub(super) const REQUEST_MAGIC: u32 = 0x2560_9513;
pub(super) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
pub(super) const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

pub(super) const FLAG_FIXED_NEWSTYLE: u16 = 1;
pub(super) const FLAG_NO_ZEROES: u16 = 2;

pub(super) const OPTION_GO: u32 = 7;
pub(super) const OPTION_STRUCTURED_REPLY: u32 = 8;
pub(super) const REPLY_ACK: u32 = 1;
pub(super) const REPLY_INFO: u32 = 3;
pub(super) const REPLY_ERROR_BIT: u32 = 1 << 31;
pub(super) const INFO_EXPORT: u16 = 0;
pub(super) const INFO_BLOCK_SIZE: u16 = 3;

pub(super) const COMMAND_READ: u16 = 0;
pub(super) const COMMAND_WRITE: u16 = 1;
pub(super) const COMMAND_DISCONNECT: u16 = 2;
pub(super) const COMMAND_FLUSH: u16 = 3;
pub(super) const COMMAND_TRIM: u16 = 4;
pub(super) const COMMAND_WRITE_ZEROES: u16 = 6;

pub(super) const CHUNK_FLAG_DONE: u16 = 1;
pub(super) const CHUNK_NONE: u16 = 0;
pub(super) const CHUNK_OFFSET_DATA: u16 = 1;
pub(super) const CHUNK_OFFSET_HOLE: u16 = 2;
pub(super) const CHUNK_ERROR: u16 = 0x8001;
pub(super) const CHUNK_ERROR_OFFSET: u16 = 0x8002;

/// The longest reply that is believed.
pub(super) const PAYLOAD_BYTES_MAX: u32 = 64 << 20;

/// A request's 28 bytes.
pub(super) fn request(flags: u16, command: u16, cookie: u64, offset: u64, len: u32) -> [u8; 28] {
    let mut bytes = [0; 28];
    bytes[0..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
    bytes[4..6].copy_from_slice(&flags.to_be_bytes());
    bytes[6..8].copy_from_slice(&command.to_be_bytes());
    bytes[8..16].copy_from_slice(&cookie.to_be_bytes());
    bytes[16..24].copy_from_slice(&offset.to_be_bytes());
    bytes[24..28].copy_from_slice(&len.to_be_bytes());
    bytes
}
