//! What an initiator's PDU means, taken out of its header.

use std::ops::Deref;

use bytes::Bytes;

use super::pdu::{Bhs, Pdu};
use super::reply::RejectReason;
use super::serial::Serial;
use super::wire::{CONTINUE, FINAL, IMMEDIATE, ahs, command, op};

/// A PDU of an initiator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Ping, or the answer to ours.
    NopOut(NopOut),
    /// A SCSI command.
    Command(Command),
    /// A task management function.
    Task(TaskRequest),
    /// Login; out of place after login.
    Login(LoginRequest),
    /// Text negotiation.
    Text(TextRequest),
    /// Data of a write.
    DataOut(DataOut),
    /// Goodbye.
    Logout(LogoutRequest),
    /// A request for retransmission, which recovery level 0 does not have.
    Snack,
}

/// Why a PDU cannot be taken apart. Its length was understood, so the connection can go on after a Reject.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed {
    /// For the Reject.
    pub reason: RejectReason,
    /// For people.
    pub what: &'static str,
}

const fn malformed(reason: RejectReason, what: &'static str) -> Malformed {
    Malformed { reason, what }
}

/// The order in which a command may run (SAM-5 8.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attribute {
    /// In any order.
    Simple,
    /// After all earlier ones, before all later ones.
    Ordered,
    /// Before all others.
    HeadOfQueue,
    /// Only meaningful during an auto contingent allegiance, which there is none of.
    Aca,
}

/// NOP-Out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NopOut {
    /// Delivered at once.
    pub immediate: bool,
    /// Tag to answer with; none if no answer is wanted.
    pub itt: u32,
    /// The tag of our ping, if this answers one.
    pub ttt: u32,
    /// Repeated in an answer.
    pub lun: [u8; 8],
    /// CmdSN.
    pub number: Serial,
    /// Sent back.
    pub data: Bytes,
}

/// A CDB. Nearly all have 16 bytes or less and cost no allocation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cdb {
    /// That of the header.
    Short([u8; 16]),
    /// With the part of an additional header segment.
    Long(Vec<u8>),
}

impl Deref for Cdb {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Short(cdb) => cdb,
            Self::Long(cdb) => cdb,
        }
    }
}

/// SCSI Command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command {
    /// Delivered at once.
    pub immediate: bool,
    /// No unsolicited Data-Out follows.
    pub last: bool,
    /// Data goes to the initiator.
    pub read: bool,
    /// Data comes from the initiator.
    pub write: bool,
    /// When it may run.
    pub attribute: Attribute,
    /// Logical unit.
    pub lun: [u8; 8],
    /// Tag of the task.
    pub itt: u32,
    /// Expected data transfer length.
    pub expected_len: u32,
    /// CmdSN.
    pub number: Serial,
    /// The CDB, 16 bytes or more.
    pub cdb: Cdb,
    /// Immediate data.
    pub data: Bytes,
}

/// Task management functions (RFC 7143 11.5.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Function {
    /// One task.
    AbortTask,
    /// All tasks of this session on a unit.
    AbortTaskSet,
    /// Ends an auto contingent allegiance.
    ClearAca,
    /// All tasks on a unit, whoever's.
    ClearTaskSet,
    /// A unit.
    LogicalUnitReset,
    /// All units.
    TargetWarmReset,
    /// All units and sessions.
    TargetColdReset,
    /// Moves a task to another connection.
    TaskReassign,
    /// A number that RFC 7143 does not have.
    Unknown(u8),
}

/// Task Management Function Request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TaskRequest {
    /// Delivered at once.
    pub immediate: bool,
    /// What to do.
    pub function: Function,
    /// Logical unit.
    pub lun: [u8; 8],
    /// Tag of this request.
    pub itt: u32,
    /// The task that is meant.
    pub referenced: u32,
    /// CmdSN.
    pub number: Serial,
}

/// Login Request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoginRequest {
    /// The initiator is ready to go to the next stage.
    pub transit: bool,
    /// The text goes on in the next PDU.
    pub more: bool,
    /// Current stage.
    pub current_stage: u8,
    /// Next stage, if `transit`.
    pub next_stage: u8,
    /// Lowest version.
    pub version_min: u8,
    /// Initiator's part of the session id.
    pub isid: [u8; 6],
    /// Target's part of the session id, 0 for a new session.
    pub tsih: u16,
    /// Tag of all PDUs of this login.
    pub itt: u32,
    /// Connection id.
    pub cid: u16,
    /// First CmdSN.
    pub number: Serial,
    /// Keys and values.
    pub data: Bytes,
}

/// Text Request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TextRequest {
    /// Delivered at once.
    pub immediate: bool,
    /// The initiator has said all.
    pub last: bool,
    /// The text goes on in the next PDU.
    pub more: bool,
    /// Repeated in the answer.
    pub lun: [u8; 8],
    /// Tag of all PDUs of this negotiation.
    pub itt: u32,
    /// Our tag, if the negotiation goes on.
    pub ttt: u32,
    /// CmdSN.
    pub number: Serial,
    /// Keys and values.
    pub data: Bytes,
}

/// SCSI Data-Out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DataOut {
    /// The last of its sequence.
    pub last: bool,
    /// The task.
    pub itt: u32,
    /// The R2T that asked for it; none if nobody did.
    pub ttt: u32,
    /// Place in the sequence.
    pub number: u32,
    /// Place in the command's data.
    pub offset: u32,
    /// The data.
    pub data: Bytes,
}

/// Logout Request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogoutRequest {
    /// Delivered at once.
    pub immediate: bool,
    /// 0: close the session, 1: close a connection, 2: a connection is to be recovered.
    pub reason: u8,
    /// Tag of this request.
    pub itt: u32,
    /// Which connection.
    pub cid: u16,
    /// CmdSN.
    pub number: Serial,
}

/// Reads fields at fixed places.
struct Fields<'a>(&'a Bhs);

impl Fields<'_> {
    fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_be_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        *self.0[at..].first_chunk().expect("the field is inside the header")
    }

    fn flag(&self, flag: u8) -> bool {
        self.0[1] & flag != 0
    }

    fn immediate(&self) -> bool {
        self.0[0] & IMMEDIATE != 0
    }

    fn itt(&self) -> u32 {
        self.u32(16)
    }

    fn number(&self) -> Serial {
        Serial(self.u32(24))
    }
}

impl Request {
    /// Takes a PDU apart.
    pub fn decode(pdu: Pdu) -> Result<Request, Malformed> {
        let fields = Fields(&pdu.bhs);
        let (data, lun) = (pdu.data.clone(), fields.array(8));
        Ok(match pdu.bhs[0] & 0x3f {
            op::NOP_OUT => Request::NopOut(NopOut {
                immediate: fields.immediate(),
                itt: fields.itt(),
                ttt: fields.u32(20),
                lun,
                number: fields.number(),
                data,
            }),
            op::COMMAND => Request::Command(command_of(&fields, &pdu)?),
            op::TASK_REQUEST => Request::Task(TaskRequest {
                immediate: fields.immediate(),
                function: function_of(pdu.bhs[1] & 0x7f),
                lun,
                itt: fields.itt(),
                referenced: fields.u32(20),
                number: fields.number(),
            }),
            op::LOGIN => Request::Login(LoginRequest {
                transit: fields.flag(FINAL),
                more: fields.flag(CONTINUE),
                current_stage: pdu.bhs[1] >> 2 & 3,
                next_stage: pdu.bhs[1] & 3,
                version_min: pdu.bhs[3],
                isid: fields.array(8),
                tsih: fields.u16(14),
                itt: fields.itt(),
                cid: fields.u16(20),
                number: fields.number(),
                data,
            }),
            op::TEXT => Request::Text(TextRequest {
                immediate: fields.immediate(),
                last: fields.flag(FINAL),
                more: fields.flag(CONTINUE),
                lun,
                itt: fields.itt(),
                ttt: fields.u32(20),
                number: fields.number(),
                data,
            }),
            op::DATA_OUT => Request::DataOut(DataOut {
                last: fields.flag(FINAL),
                itt: fields.itt(),
                ttt: fields.u32(20),
                number: fields.u32(36),
                offset: fields.u32(40),
                data,
            }),
            op::LOGOUT => Request::Logout(LogoutRequest {
                immediate: fields.immediate(),
                reason: pdu.bhs[1] & 0x7f,
                itt: fields.itt(),
                cid: fields.u16(20),
                number: fields.number(),
            }),
            op::SNACK => Request::Snack,
            _ => return Err(malformed(RejectReason::CommandNotSupported, "unknown opcode")),
        })
    }
}

fn function_of(code: u8) -> Function {
    match code {
        1 => Function::AbortTask,
        2 => Function::AbortTaskSet,
        3 => Function::ClearAca,
        4 => Function::ClearTaskSet,
        5 => Function::LogicalUnitReset,
        6 => Function::TargetWarmReset,
        7 => Function::TargetColdReset,
        8 => Function::TaskReassign,
        code => Function::Unknown(code),
    }
}

fn command_of(fields: &Fields<'_>, pdu: &Pdu) -> Result<Command, Malformed> {
    let invalid = |what| malformed(RejectReason::InvalidField, what);
    let (read, write) = (fields.flag(command::READ), fields.flag(command::WRITE));
    if read && write {
        return Err(invalid("a bidirectional command"));
    }
    let attribute = match pdu.bhs[1] & command::ATTRIBUTE {
        0 | 1 => Attribute::Simple,
        2 => Attribute::Ordered,
        3 => Attribute::HeadOfQueue,
        4 => Attribute::Aca,
        _ => return Err(invalid("a reserved task attribute")),
    };
    let more = !fields.flag(FINAL) || !pdu.data.is_empty();
    if more && !write {
        return Err(invalid("data with a command that does not write"));
    }
    Ok(Command {
        immediate: fields.immediate(),
        last: fields.flag(FINAL),
        read,
        write,
        attribute,
        lun: fields.array(8),
        itt: fields.itt(),
        expected_len: fields.u32(20),
        number: fields.number(),
        cdb: cdb_of(&pdu.bhs, &pdu.ahs)?,
        data: pdu.data.clone(),
    })
}

/// The 16 bytes of the header, and what an extended CDB segment adds. Each segment: length 2 (of what follows the type),
/// type 1, reserved 1, rest, padded to a multiple of four.
fn cdb_of(bhs: &Bhs, mut rest: &[u8]) -> Result<Cdb, Malformed> {
    let invalid = |what| malformed(RejectReason::InvalidField, what);
    let mut cdb = Cdb::Short(Fields(bhs).array(32));
    while !rest.is_empty() {
        let (head, tail) = rest.split_at_checked(4).ok_or(invalid("a cut additional header"))?;
        let len = usize::from(u16::from_be_bytes([head[0], head[1]]));
        let len = len.checked_sub(1).ok_or(invalid("an additional header without content"))?;
        let (content, tail) = tail.split_at_checked(len).ok_or(invalid("a cut additional header"))?;
        match head[2] & 0x3f {
            ahs::EXTENDED_CDB if cdb.len() == 16 => cdb = Cdb::Long([&cdb[..], content].concat()),
            ahs::EXTENDED_CDB => return Err(invalid("two extended CDBs")),
            ahs::BIDIRECTIONAL_LENGTH => return Err(invalid("a bidirectional command")),
            _ => return Err(invalid("an unknown additional header")),
        }
        rest = tail.get(len.wrapping_neg() % 4..).unwrap_or_default();
    }
    Ok(cdb)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};
    use proptest::{array, collection};

    use super::*;

    fn pdu(bytes: &[(usize, &[u8])], data: &'static [u8]) -> Pdu {
        let mut bhs = [0; 48];
        for (at, field) in bytes {
            bhs[*at..*at + field.len()].copy_from_slice(field);
        }
        Pdu { bhs, ahs: Bytes::new(), data: Bytes::from_static(data) }
    }

    #[test]
    fn a_command_is_taken_apart() {
        let wire = pdu(
            &[
                (0, &[0x41, 0xa2]),
                (8, &[0, 3]),
                (16, &[0, 0, 0, 9]),
                (20, &[0, 0, 2, 0]),
                (24, &[0, 0, 0, 7]),
                (32, &[0x2a, 1]),
            ],
            b"data",
        );
        let Ok(Request::Command(command)) = Request::decode(wire) else { panic!("it is a command") };
        assert!(command.immediate && command.last && command.write && !command.read);
        assert_eq!(command.attribute, Attribute::Ordered);
        assert_eq!((command.lun, command.itt, command.expected_len), ([0, 3, 0, 0, 0, 0, 0, 0], 9, 512));
        assert_eq!((command.number, &command.cdb[..2], command.cdb.len()), (Serial(7), &[0x2a, 1][..], 16));
        assert_eq!(&command.data[..], b"data");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (opcode, flags, data, reason) in [
            (0x01, 0xe0, &b""[..], RejectReason::InvalidField),
            (0x01, 0xa5, b"", RejectReason::InvalidField),
            (0x01, 0xc0, b"data", RejectReason::InvalidField),
            (0x01, 0x40, b"", RejectReason::InvalidField),
            (0x1c, 0x80, b"", RejectReason::CommandNotSupported),
            (0x21, 0x80, b"", RejectReason::CommandNotSupported),
        ] {
            let refused = Request::decode(pdu(&[(0, &[opcode, flags])], data)).expect_err("it is refused");
            assert_eq!(refused.reason, reason, "{opcode:#x} {flags:#x}");
        }
    }

    #[test]
    fn a_long_cdb_is_put_together() {
        let mut wire = pdu(&[(0, &[0x01, 0x80]), (32, &[0x7f])], b"");
        for (ahs, len) in [
            (&[0, 5, 1, 0, 1, 2, 3, 4][..], Some(20)),
            (&[0, 2, 1, 0, 9, 0, 0, 0], Some(17)),
            (&[0, 0, 1, 0], None),
            (&[0, 5, 1, 0, 1], None),
            (&[0, 1, 7, 0], None),
            (&[0, 5, 2, 0, 0, 0, 0, 1], None),
            (&[0, 2, 1, 0, 9, 0, 0, 0, 0, 2, 1, 0, 9, 0, 0, 0], None),
        ] {
            wire.ahs = Bytes::from_static(ahs);
            let cdb = match Request::decode(wire.clone()) {
                Ok(Request::Command(command)) => Some(command.cdb.len()),
                _ => None,
            };
            assert_eq!(cdb, len, "{ahs:?}");
        }
    }

    proptest! {
        #[test]
        fn garbage_does_no_harm(
            head in array::uniform32(any::<u8>()),
            tail in array::uniform16(any::<u8>()),
            ahs in collection::vec(any::<u8>(), 0..64),
        ) {
            let mut bhs = [0; 48];
            bhs[..32].copy_from_slice(&head);
            bhs[32..].copy_from_slice(&tail);
            for opcode in [head[0], 0x01] {
                bhs[0] = opcode;
                let _ = Request::decode(Pdu { bhs, ahs: ahs.clone().into(), data: Bytes::new() });
            }
        }
    }
}
