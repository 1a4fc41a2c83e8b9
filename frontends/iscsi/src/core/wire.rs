//! The numbers of RFC 7143. All integers on the wire are big-endian, digests little-endian (reflected CRC-32C).
//!
//! A PDU is a basic header segment (BHS) of 48 bytes, additional header segments (AHS), a header digest if negotiated,
//! data padded to a multiple of four, a data digest if negotiated.
//!
//! ```text
//! byte          0            1               2         3        4 5..7        8..15       16   20      24      28         32       36       40      44
//! command       01           F R W . . ATTR  -         -        ahs data-len  LUN         ITT  EDTL    CmdSN   ExpStatSN  CDB, 16 bytes
//! response      21           1 . . o u O U . response  status   ahs data-len  -           ITT  SNACK   StatSN  ExpCmdSN   MaxCmdSN ExpDataSN -     residual
//! task request  02           1 function      -         -        ahs data-len  LUN         ITT  RefITT  CmdSN   ExpStatSN  RefCmdSN -
//! task response 22           1               response  -        ahs data-len  -           ITT  -       StatSN  ExpCmdSN   MaxCmdSN
//! data-out      05           F               -         -        ahs data-len  LUN         ITT  TTT     -       ExpStatSN  -        DataSN   offset
//! data-in       25           F A . . . O U S -         status   ahs data-len  LUN         ITT  TTT     StatSN  ExpCmdSN   MaxCmdSN DataSN   offset residual
//! R2T           31           1               -         -        ahs data-len  LUN         ITT  TTT     StatSN  ExpCmdSN   MaxCmdSN R2TSN    offset length
//! async         32           1               -         -        ahs data-len  LUN         -1   -       StatSN  ExpCmdSN   MaxCmdSN event 36, vendor 37, parameters 38 40 42
//! text          04 / 24      F C             -         -        ahs data-len  LUN         ITT  TTT     CmdSN / StatSN …
//! login         43           T C . . CSG NSG max       min      ahs data-len  ISID, TSIH  ITT  CID     CmdSN   ExpStatSN
//! login answer  23           T C . . CSG NSG max       active   ahs data-len  ISID, TSIH  ITT  -       StatSN  ExpCmdSN   MaxCmdSN class 36, detail 37
//! logout        06           1 reason        -         -        ahs data-len  -           ITT  CID     CmdSN   ExpStatSN
//! logout answer 26           1               response  -        ahs data-len  -           ITT  -       StatSN  ExpCmdSN   MaxCmdSN -        wait 40, retain 42
//! NOP-Out / In  00 / 20      1               -         -        ahs data-len  LUN         ITT  TTT     CmdSN / StatSN …
//! reject        3f           1               reason    -        ahs data-len  -           -1   -       StatSN  ExpCmdSN   MaxCmdSN DataSN        data: the refused BHS
//! ```

/// Bytes of a basic header segment.
pub const BHS_BYTES: usize = 48;
/// Bytes of a digest.
pub(super) const DIGEST_BYTES: usize = 4;
/// A tag that names nothing.
pub const TAG_NONE: u32 = 0xffff_ffff;
/// Longest data segment before anything is negotiated, and during all of login.
pub const LOGIN_DATA_BYTES_MAX: u32 = 8192;

/// Bit 6 of the first byte: deliver at once, outside of the command window.
pub(super) const IMMEDIATE: u8 = 0x40;
/// Bit 7 of the second byte: the last PDU of a sequence.
pub(super) const FINAL: u8 = 0x80;
/// Bit 6 of the second byte of login and text PDUs: the text goes on in the next one.
pub(super) const CONTINUE: u8 = 0x40;

/// Opcodes.
pub(super) mod op {
    pub const NOP_OUT: u8 = 0x00;
    pub const COMMAND: u8 = 0x01;
    pub const TASK_REQUEST: u8 = 0x02;
    pub const LOGIN: u8 = 0x03;
    pub const TEXT: u8 = 0x04;
    pub const DATA_OUT: u8 = 0x05;
    pub const LOGOUT: u8 = 0x06;
    pub const SNACK: u8 = 0x10;
    pub const NOP_IN: u8 = 0x20;
    pub const RESPONSE: u8 = 0x21;
    pub const TASK_RESPONSE: u8 = 0x22;
    pub const LOGIN_RESPONSE: u8 = 0x23;
    pub const TEXT_RESPONSE: u8 = 0x24;
    pub const DATA_IN: u8 = 0x25;
    pub const LOGOUT_RESPONSE: u8 = 0x26;
    pub const R2T: u8 = 0x31;
    pub const ASYNC: u8 = 0x32;
    pub const REJECT: u8 = 0x3f;
}

/// Flags of a SCSI command.
pub(super) mod command {
    pub const READ: u8 = 0x40;
    pub const WRITE: u8 = 0x20;
    pub const ATTRIBUTE: u8 = 0x07;
}

/// Flags of a SCSI response and of Data-In.
pub(super) mod residual {
    pub const OVERFLOW: u8 = 0x04;
    pub const UNDERFLOW: u8 = 0x02;
    /// Data-In only: the PDU carries the status.
    pub const STATUS: u8 = 0x01;
}

/// Types of additional header segments.
pub(super) mod ahs {
    pub const EXTENDED_CDB: u8 = 1;
    pub const BIDIRECTIONAL_LENGTH: u8 = 2;
}
