//! The headers of PDUs to an initiator.

use super::pdu::Bhs;
use super::request::LoginRequest;
use super::serial::Serial;
use super::wire::{BHS_BYTES, CONTINUE, FINAL, TAG_NONE, op, residual};

/// The three numbers that every answer carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Numbers {
    /// StatSN.
    pub status: Serial,
    /// ExpCmdSN.
    pub expected: Serial,
    /// MaxCmdSN.
    pub last: Serial,
}

/// Why a PDU is refused (RFC 7143 11.17.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum RejectReason {
    /// Its data digest is wrong.
    DataDigest = 0x02,
    /// Retransmission is not to be had.
    Snack = 0x03,
    /// It breaks the protocol.
    Protocol = 0x04,
    /// The command, or its opcode, is not supported here.
    CommandNotSupported = 0x05,
    /// Too many immediate commands.
    ImmediateCommands = 0x06,
    /// Its task tag is in use.
    TaskInProgress = 0x07,
    /// A field is invalid.
    InvalidField = 0x09,
    /// The negotiation is over; begin anew.
    NegotiationReset = 0x0b,
    /// A logout was asked for.
    WaitingForLogout = 0x0c,
}

/// How a task management function ended (RFC 7143 11.6.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum TaskOutcome {
    /// Done.
    Complete = 0,
    /// The task is not, or no longer, there.
    NoTask = 1,
    /// The unit is not there.
    NoUnit = 2,
    /// Tasks cannot be moved between connections.
    ReassignNotSupported = 4,
    /// The function is not supported.
    NotSupported = 5,
    /// Refused.
    Rejected = 255,
}

/// How a logout ended (RFC 7143 11.15.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum LogoutOutcome {
    /// Closed.
    Closed = 0,
    /// There is no such connection.
    NoConnection = 1,
    /// Connections cannot be recovered.
    RecoveryNotSupported = 2,
}

/// What an asynchronous message tells (RFC 7143 11.9.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AsyncEvent {
    /// Sense data that no command asked for follows.
    Sense {
        /// The unit that it is about.
        lun: [u8; 8],
    },
    /// The target wants the initiator to log out.
    LogoutRequested {
        /// Within this many seconds.
        seconds: u16,
    },
    /// The target will drop the connection.
    ConnectionDropped {
        /// Which.
        cid: u16,
    },
    /// The target will drop all connections of the session.
    SessionDropped,
}

/// What is missing from, or too much for, the length that the initiator expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Residual {
    /// It fits.
    #[default]
    None,
    /// This many bytes could not be transferred for lack of room.
    Overflow(u32),
    /// This many bytes of the expected ones were not needed.
    Underflow(u32),
}

impl Residual {
    /// What is left between `expected` bytes and the `wanted` ones of the command.
    pub fn between(expected: u32, wanted: u64) -> Self {
        let expected = u64::from(expected);
        let clamp = |len: u64| u32::try_from(len).unwrap_or(u32::MAX);
        match wanted.cmp(&expected) {
            std::cmp::Ordering::Equal => Self::None,
            std::cmp::Ordering::Greater => Self::Overflow(clamp(wanted - expected)),
            std::cmp::Ordering::Less => Self::Underflow(clamp(expected - wanted)),
        }
    }

    fn flag(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Overflow(_) => residual::OVERFLOW,
            Self::Underflow(_) => residual::UNDERFLOW,
        }
    }

    fn count(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Overflow(count) | Self::Underflow(count) => count,
        }
    }
}

/// A header being filled in.
struct Header(Bhs);

impl Header {
    fn new(opcode: u8, flags: u8, itt: u32) -> Self {
        let mut bhs = [0; BHS_BYTES];
        bhs[0] = opcode;
        bhs[1] = FINAL | flags;
        Self(bhs).u32(16, itt)
    }

    fn byte(mut self, at: usize, value: u8) -> Self {
        self.0[at] = value;
        self
    }

    fn u16(self, at: usize, value: u16) -> Self {
        self.bytes(at, &value.to_be_bytes())
    }

    fn u32(self, at: usize, value: u32) -> Self {
        self.bytes(at, &value.to_be_bytes())
    }

    fn bytes(mut self, at: usize, value: &[u8]) -> Self {
        self.0[at..at + value.len()].copy_from_slice(value);
        self
    }

    fn numbers(self, numbers: Numbers) -> Self {
        self.u32(24, numbers.status.0).u32(28, numbers.expected.0).u32(32, numbers.last.0)
    }
}

/// SCSI Response. `data_pdus` is the number of Data-In and R2T PDUs that the command had.
pub fn response(itt: u32, status: u8, residual: Residual, data_pdus: u32, numbers: Numbers) -> Bhs {
    Header::new(op::RESPONSE, residual.flag(), itt)
        .byte(3, status)
        .numbers(numbers)
        .u32(36, data_pdus)
        .u32(44, residual.count())
        .0
}

/// A Data-In PDU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataIn {
    /// The task.
    pub itt: u32,
    /// Place in the sequence.
    pub number: u32,
    /// Place in the command's data.
    pub offset: u32,
    /// The last of its burst.
    pub last: bool,
    /// The status and what is left over, in the very last PDU.
    pub status: Option<(u8, Residual)>,
}

/// SCSI Data-In. The status number is only meaningful with a status.
pub fn data_in(data: &DataIn, numbers: Numbers) -> Bhs {
    let header = Header::new(op::DATA_IN, 0, data.itt)
        .u32(20, TAG_NONE)
        .numbers(numbers)
        .u32(36, data.number)
        .u32(40, data.offset);
    match data.status {
        Some((status, residual)) => {
            header
                .byte(1, FINAL | residual::STATUS | residual.flag())
                .byte(3, status)
                .u32(44, residual.count())
                .0
        }
        None => header.byte(1, if data.last { FINAL } else { 0 }).u32(24, 0).0,
    }
}

/// A Ready To Transfer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadyToTransfer {
    /// The tag that its data will carry.
    pub ttt: u32,
    /// Place among those of the task.
    pub number: u32,
    /// From here on in the command's data.
    pub offset: u32,
    /// This much.
    pub len: u32,
}

/// R2T.
pub fn r2t(lun: [u8; 8], itt: u32, r2t: ReadyToTransfer, numbers: Numbers) -> Bhs {
    Header::new(op::R2T, 0, itt)
        .bytes(8, &lun)
        .u32(20, r2t.ttt)
        .numbers(numbers)
        .u32(36, r2t.number)
        .u32(40, r2t.offset)
        .u32(44, r2t.len)
        .0
}

/// Task Management Function Response.
pub fn task_response(itt: u32, outcome: TaskOutcome, numbers: Numbers) -> Bhs {
    Header::new(op::TASK_RESPONSE, 0, itt).byte(2, outcome as u8).numbers(numbers).0
}

/// NOP-In. A ping has no `itt`, an answer no `ttt`.
pub fn nop_in(lun: [u8; 8], itt: u32, ttt: u32, numbers: Numbers) -> Bhs {
    Header::new(op::NOP_IN, 0, itt).bytes(8, &lun).u32(20, ttt).numbers(numbers).0
}

/// Text Response. With `more` the text goes on once the initiator has sent an empty request with `ttt`.
pub fn text_response(lun: [u8; 8], itt: u32, ttt: u32, more: bool, numbers: Numbers) -> Bhs {
    let last = !more && ttt == TAG_NONE;
    let flags = if last { FINAL } else { 0 } | if more { CONTINUE } else { 0 };
    Header::new(op::TEXT_RESPONSE, 0, itt).byte(1, flags).bytes(8, &lun).u32(20, ttt).numbers(numbers).0
}

/// Logout Response. There is nothing to wait for and nothing retained.
pub fn logout_response(itt: u32, outcome: LogoutOutcome, numbers: Numbers) -> Bhs {
    Header::new(op::LOGOUT_RESPONSE, 0, itt).byte(2, outcome as u8).numbers(numbers).0
}

/// Reject; its data is the header of what is refused.
pub fn reject(reason: RejectReason, numbers: Numbers) -> Bhs {
    Header::new(op::REJECT, 0, TAG_NONE).byte(2, reason as u8).numbers(numbers).0
}

/// Asynchronous Message.
pub fn async_message(event: AsyncEvent, numbers: Numbers) -> Bhs {
    let header = Header::new(op::ASYNC, 0, TAG_NONE).numbers(numbers);
    match event {
        AsyncEvent::Sense { lun } => header.bytes(8, &lun).byte(36, 0).0,
        AsyncEvent::LogoutRequested { seconds } => header.byte(36, 1).u16(42, seconds).0,
        AsyncEvent::ConnectionDropped { cid } => header.byte(36, 2).u16(38, cid).0,
        AsyncEvent::SessionDropped => header.byte(36, 3).0,
    }
}

/// What a Login Response says beside its text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoginAnswer {
    /// Goes to the next stage, too.
    pub transit: bool,
    /// Current stage, as the initiator has it.
    pub current_stage: u8,
    /// Next stage, if `transit`.
    pub next_stage: u8,
    /// Target's part of the session id; 0 until the last answer.
    pub tsih: u16,
    /// Status class and detail: 0 if all is well.
    pub status: u16,
}

/// Login Response. Both versions are 0, the only one there is.
pub fn login_response(request: &LoginRequest, answer: LoginAnswer, numbers: Numbers) -> Bhs {
    let transit = if answer.transit { FINAL | answer.next_stage } else { 0 };
    Header::new(op::LOGIN_RESPONSE, 0, request.itt)
        .byte(1, transit | answer.current_stage << 2)
        .bytes(8, &request.isid)
        .u16(14, answer.tsih)
        .numbers(numbers)
        .u16(36, answer.status)
        .0
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBERS: Numbers =
        Numbers { status: Serial(0x0101), expected: Serial(0x0202), last: Serial(0x0303) };
    const LUN: [u8; 8] = [0, 5, 0, 0, 0, 0, 0, 0];

    /// Checks the bytes that are not zero.
    fn check(bhs: Bhs, fields: &[(usize, &[u8])]) {
        let mut expected = [0; 48];
        for (at, bytes) in fields {
            expected[*at..*at + bytes.len()].copy_from_slice(bytes);
        }
        assert_eq!(bhs, expected);
    }

    const SERIALS: (usize, &[u8]) = (24, &[0, 0, 1, 1, 0, 0, 2, 2, 0, 0, 3, 3]);

    #[test]
    fn the_bytes_of_answers() {
        let itt: (usize, &[u8]) = (16, &[0, 0, 0, 9]);
        check(
            response(9, 2, Residual::Underflow(7), 3, NUMBERS),
            &[(0, &[0x21, 0x82, 0, 2]), itt, SERIALS, (39, &[3]), (47, &[7])],
        );
        check(
            data_in(&DataIn { itt: 9, number: 1, offset: 512, last: false, status: None }, NUMBERS),
            &[
                (0, &[0x25, 0]),
                itt,
                (20, &[0xff; 4]),
                (28, &[0, 0, 2, 2, 0, 0, 3, 3]),
                (39, &[1]),
                (42, &[2]),
            ],
        );
        let status = Some((0, Residual::Overflow(256)));
        check(
            data_in(&DataIn { itt: 9, number: 0, offset: 0, last: true, status }, NUMBERS),
            &[(0, &[0x25, 0x85]), itt, (20, &[0xff; 4]), SERIALS, (46, &[1])],
        );
        check(
            r2t(LUN, 9, ReadyToTransfer { ttt: 4, number: 1, offset: 256, len: 512 }, NUMBERS),
            &[(0, &[0x31, 0x80]), (8, &LUN), itt, (23, &[4]), SERIALS, (39, &[1]), (42, &[1]), (46, &[2])],
        );
        check(task_response(9, TaskOutcome::Rejected, NUMBERS), &[(0, &[0x22, 0x80, 255]), itt, SERIALS]);
        check(
            nop_in(LUN, TAG_NONE, 4, NUMBERS),
            &[(0, &[0x20, 0x80]), (8, &LUN), (16, &[0xff; 4]), (23, &[4]), SERIALS],
        );
        check(
            text_response(LUN, 9, 4, true, NUMBERS),
            &[(0, &[0x24, 0x40]), (8, &LUN), itt, (23, &[4]), SERIALS],
        );
        check(
            text_response([0; 8], 9, TAG_NONE, false, NUMBERS),
            &[(0, &[0x24, 0x80]), itt, (20, &[0xff; 4]), SERIALS],
        );
        check(
            logout_response(9, LogoutOutcome::NoConnection, NUMBERS),
            &[(0, &[0x26, 0x80, 1]), itt, SERIALS],
        );
        check(reject(RejectReason::Protocol, NUMBERS), &[(0, &[0x3f, 0x80, 4]), (16, &[0xff; 4]), SERIALS]);
    }

    #[test]
    fn the_bytes_of_messages() {
        let none: (usize, &[u8]) = (16, &[0xff; 4]);
        for (event, fields) in [
            (AsyncEvent::Sense { lun: LUN }, &[(8, &LUN[..])][..]),
            (AsyncEvent::LogoutRequested { seconds: 0x0105 }, &[(36, &[1]), (42, &[1, 5])]),
            (AsyncEvent::ConnectionDropped { cid: 3 }, &[(36, &[2]), (39, &[3])]),
            (AsyncEvent::SessionDropped, &[(36, &[3])]),
        ] {
            let fields = [&[(0, &[0x32, 0x80][..]), none, SERIALS][..], fields].concat();
            check(async_message(event, NUMBERS), &fields);
        }
    }

    #[test]
    fn residuals() {
        for (expected, wanted, residual) in [
            (512, 512, Residual::None),
            (512, 0, Residual::Underflow(512)),
            (512, 1024, Residual::Overflow(512)),
            (0, u64::MAX, Residual::Overflow(u32::MAX)),
        ] {
            assert_eq!(Residual::between(expected, wanted), residual);
        }
    }
}
