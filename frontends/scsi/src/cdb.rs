//! Command descriptor blocks, decoded and checked as far as that needs no unit.

use crate::opcodes::{CommandSpec, commands_of};
use crate::sense::{AdditionalSense, Sense};

/// A range of logical blocks. Not yet held against the unit's capacity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blocks {
    /// First logical block.
    pub lba: u64,
    /// How many.
    pub count: u32,
}

/// BYTCHK: what VERIFY compares with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ByteCheck {
    /// Nothing: the blocks are only read.
    None,
    /// As many blocks of data-out.
    All,
    /// One block of data-out, with each block.
    One,
}

/// REPORTING OPTIONS of REPORT SUPPORTED OPERATION CODES.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReportOptions {
    /// All commands.
    All,
    /// One, which has no service actions.
    One {
        /// Which.
        opcode: u8,
    },
    /// One service action.
    OneAction {
        /// Of which operation code.
        opcode: u8,
        /// Which.
        action: u16,
    },
    /// One, with a service action if it has any.
    Either {
        /// Which.
        opcode: u8,
        /// Which service action.
        action: u16,
    },
}

/// What MODE SENSE asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ModeSense {
    /// The form with ten bytes.
    pub ten: bool,
    /// DBD: leave the block descriptor out.
    pub no_descriptor: bool,
    /// LLBAA: a long block descriptor is welcome.
    pub long_lba: bool,
    /// PC: 0 current, 1 changeable, 2 default, 3 saved.
    pub page_control: u8,
    /// PAGE CODE.
    pub page: u8,
    /// SUBPAGE CODE.
    pub subpage: u8,
    /// ALLOCATION LENGTH.
    pub allocation: u32,
}

/// Service actions of PERSISTENT RESERVE IN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReserveIn {
    /// READ KEYS
    ReadKeys,
    /// READ RESERVATION
    ReadReservation,
    /// REPORT CAPABILITIES
    ReportCapabilities,
    /// READ FULL STATUS
    ReadFullStatus,
}

/// Service actions of PERSISTENT RESERVE OUT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReserveOut {
    /// REGISTER
    Register,
    /// RESERVE
    Reserve,
    /// RELEASE
    Release,
    /// CLEAR
    Clear,
    /// PREEMPT
    Preempt,
    /// PREEMPT AND ABORT
    PreemptAndAbort,
    /// REGISTER AND IGNORE EXISTING KEY
    RegisterAndIgnore,
    /// REGISTER AND MOVE
    RegisterAndMove,
}

/// A command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "fields are the CDB's fields under the standards' names")]
pub enum Command {
    /// TEST UNIT READY
    TestUnitReady,
    /// REQUEST SENSE
    RequestSense { descriptor: bool, allocation: u32 },
    /// INQUIRY, of the standard data or of a vital product data page
    Inquiry { page: Option<u8>, allocation: u32 },
    /// REPORT LUNS
    ReportLuns { select: u8, allocation: u32 },
    /// MODE SENSE(6) and (10)
    ModeSense(ModeSense),
    /// MODE SELECT(6) and (10)
    ModeSelect { ten: bool, page_format: bool, save: bool, parameter_len: u32 },
    /// READ CAPACITY(10)
    ReadCapacity10,
    /// READ CAPACITY(16)
    ReadCapacity16 { allocation: u32 },
    /// READ(6), (10), (12) and (16)
    Read(Blocks),
    /// WRITE(6), (10), (12) and (16)
    Write(Blocks),
    /// WRITE ATOMIC(16)
    WriteAtomic { blocks: Blocks, boundary: u16 },
    /// ORWRITE(16)
    OrWrite(Blocks),
    /// VERIFY(10), (12) and (16)
    Verify { blocks: Blocks, check: ByteCheck },
    /// WRITE AND VERIFY(10), (12) and (16)
    WriteAndVerify { blocks: Blocks, compare: bool },
    /// WRITE SAME(10) and (16)
    WriteSame { blocks: Blocks, unmap: bool, anchor: bool, no_data_out: bool },
    /// COMPARE AND WRITE
    CompareAndWrite(Blocks),
    /// SYNCHRONIZE CACHE(10) and (16); a count of 0 means to the end
    SynchronizeCache(Blocks),
    /// PRE-FETCH(10) and (16); a count of 0 means to the end
    Prefetch(Blocks),
    /// UNMAP
    Unmap { anchor: bool, parameter_len: u32 },
    /// GET LBA STATUS
    GetLbaStatus { lba: u64, allocation: u32 },
    /// START STOP UNIT
    StartStopUnit { start: bool, load_eject: bool, power_condition: u8 },
    /// RESERVE(6)
    Reserve6,
    /// RELEASE(6)
    Release6,
    /// PERSISTENT RESERVE IN
    PersistentReserveIn { action: ReserveIn, allocation: u32 },
    /// PERSISTENT RESERVE OUT
    PersistentReserveOut { action: ReserveOut, scope: u8, kind: u8, parameter_len: u32 },
    /// REPORT SUPPORTED OPERATION CODES
    ReportOpcodes { options: ReportOptions, timeouts: bool, allocation: u32 },
    /// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS
    ReportTaskManagement { extended: bool, allocation: u32 },
    /// REPORT TARGET PORT GROUPS
    ReportTargetPortGroups { extended: bool, allocation: u32 },
    /// EXTENDED COPY(LID1)
    ExtendedCopy { parameter_len: u32 },
    /// RECEIVE COPY RESULTS: COPY STATUS
    CopyStatus { list_id: u8, allocation: u32 },
    /// RECEIVE COPY RESULTS: OPERATING PARAMETERS
    CopyParameters { allocation: u32 },
}

/// A command and its row of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decoded {
    /// What to do.
    pub command: Command,
    /// Who may, and when.
    pub spec: &'static CommandSpec,
}

impl Command {
    /// Decodes a CDB. Bytes beyond the length of the operation code's group are not looked at.
    pub fn decode(cdb: &[u8]) -> Result<Decoded, Sense> {
        let opcode = *cdb.first().ok_or(UNKNOWN)?;
        let specs = commands_of(opcode);
        let len = specs.first().ok_or(UNKNOWN)?.usage.len();
        let cdb = Cdb(cdb.get(..len).ok_or(Sense::invalid_field(0))?);
        let spec = match specs {
            [one] if one.service_action.is_none() => one,
            many => {
                let action = Some(u16::from(cdb.byte(1) & 0x1f));
                many.iter().find(|spec| spec.service_action == action).ok_or(Sense::invalid_bit(1, 4))?
            }
        };
        // NACA asks for an auto contingent allegiance, which we do not have (SAM-5 5.2).
        if cdb.bit(len - 1, 2) {
            return Err(Sense::invalid_bit(len as u16 - 1, 2));
        }
        Ok(Decoded { command: cdb.command(spec)?, spec })
    }

    /// Bytes of data-out that the command asks for on a unit with blocks of `block_bytes`.
    pub fn data_out_len(&self, block_bytes: u32) -> u64 {
        let block = u64::from(block_bytes);
        let all = |blocks: &Blocks| u64::from(blocks.count) * block;
        match self {
            Command::Write(blocks)
            | Command::OrWrite(blocks)
            | Command::WriteAtomic { blocks, .. }
            | Command::WriteAndVerify { blocks, .. }
            | Command::Verify { blocks, check: ByteCheck::All } => all(blocks),
            Command::Verify { blocks, check: ByteCheck::One } if blocks.count > 0 => block,
            Command::CompareAndWrite(blocks) => 2 * all(blocks),
            Command::WriteSame { no_data_out: false, .. } => block,
            Command::ModeSelect { parameter_len, .. }
            | Command::Unmap { parameter_len, .. }
            | Command::PersistentReserveOut { parameter_len, .. }
            | Command::ExtendedCopy { parameter_len } => u64::from(*parameter_len),
            _ => 0,
        }
    }
}

const UNKNOWN: Sense = Sense::illegal(AdditionalSense::INVALID_COMMAND_OPERATION_CODE);

/// A CDB of the length that its operation code has.
#[derive(Clone, Copy)]
struct Cdb<'a>(&'a [u8]);

impl Cdb<'_> {
    fn byte(self, at: usize) -> u8 {
        self.0[at]
    }

    fn bit(self, at: usize, bit: u8) -> bool {
        self.0[at] >> bit & 1 == 1
    }

    fn u16(self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    fn u24(self, at: usize) -> u32 {
        u32::from_be_bytes([0, self.0[at], self.0[at + 1], self.0[at + 2]])
    }

    fn u32(self, at: usize) -> u32 {
        u32::from_be_bytes(std::array::from_fn(|i| self.0[at + i]))
    }

    fn u64(self, at: usize) -> u64 {
        u64::from_be_bytes(std::array::from_fn(|i| self.0[at + i]))
    }

    fn command(self, spec: &CommandSpec) -> Result<Command, Sense> {
        match self.byte(0) {
            0x00..=0x1f => self.command6(),
            0x5e | 0x5f => self.reservation(),
            0x83 | 0x84 | 0x9e | 0xa0 | 0xa3 => self.with_action(spec),
            0x25..=0x2f | 0x41 | 0x88..=0x8f | 0x93 | 0x9c | 0xa8..=0xaf => self.medium(),
            _ => self.other(),
        }
    }

    fn command6(self) -> Result<Command, Sense> {
        Ok(match self.byte(0) {
            0x00 => Command::TestUnitReady,
            0x03 => Command::RequestSense { descriptor: self.bit(1, 0), allocation: u32::from(self.byte(4)) },
            0x08 => Command::Read(self.blocks6()),
            0x0a => Command::Write(self.blocks6()),
            0x12 => self.inquiry()?,
            0x15 => Command::ModeSelect {
                ten: false,
                page_format: self.bit(1, 4),
                save: self.bit(1, 0),
                parameter_len: u32::from(self.byte(4)),
            },
            0x16 => Command::Reserve6,
            0x17 => Command::Release6,
            0x1a => Command::ModeSense(self.mode_sense(false)),
            0x1b => Command::StartStopUnit {
                start: self.bit(4, 0),
                load_eject: self.bit(4, 1),
                power_condition: self.byte(4) >> 4,
            },
            _ => return Err(UNKNOWN),
        })
    }

    fn inquiry(self) -> Result<Command, Sense> {
        let page = self.byte(2);
        let page = if self.bit(1, 0) { Some(page) } else { None };
        if page.is_none() && self.byte(2) != 0 {
            return Err(Sense::invalid_field(2));
        }
        Ok(Command::Inquiry { page, allocation: u32::from(self.u16(3)) })
    }

    fn mode_sense(self, ten: bool) -> ModeSense {
        ModeSense {
            ten,
            no_descriptor: self.bit(1, 3),
            long_lba: ten && self.bit(1, 4),
            page_control: self.byte(2) >> 6,
            page: self.byte(2) & 0x3f,
            subpage: self.byte(3),
            allocation: if ten { u32::from(self.u16(7)) } else { u32::from(self.byte(4)) },
        }
    }

    /// A count of 0 means 256 here, and nowhere else.
    fn blocks6(self) -> Blocks {
        let count = match self.byte(4) {
            0 => 256,
            count => u32::from(count),
        };
        Blocks { lba: u64::from(self.u24(1) & 0x1f_ffff), count }
    }

    /// LBA and count where CDBs of 10, 12 and 16 bytes have them.
    fn blocks(self) -> Blocks {
        match self.0.len() {
            10 => Blocks { lba: u64::from(self.u32(2)), count: u32::from(self.u16(7)) },
            12 => Blocks { lba: u64::from(self.u32(2)), count: self.u32(6) },
            _ => Blocks { lba: self.u64(2), count: self.u32(10) },
        }
    }

    fn medium(self) -> Result<Command, Sense> {
        let opcode = self.byte(0);
        if opcode == 0x25 {
            return Ok(Command::ReadCapacity10);
        }
        // Protection information is not kept: RDPROTECT, WRPROTECT and VRPROTECT must be 0.
        if self.byte(1) & 0xe0 != 0 {
            return Err(Sense::invalid_bit(1, 7));
        }
        let blocks = self.blocks();
        Ok(match opcode {
            0x28 | 0x88 | 0xa8 => Command::Read(blocks),
            0x2a | 0x8a | 0xaa => Command::Write(blocks),
            0x2e | 0x8e | 0xae => match self.byte_check()? {
                ByteCheck::None => Command::WriteAndVerify { blocks, compare: false },
                ByteCheck::All => Command::WriteAndVerify { blocks, compare: true },
                ByteCheck::One => return Err(Sense::invalid_bit(1, 2)),
            },
            0x2f | 0x8f | 0xaf => Command::Verify { blocks, check: self.byte_check()? },
            0x41 | 0x93 => self.write_same(blocks)?,
            0x89 => Command::CompareAndWrite(Blocks { count: u32::from(self.byte(13)), ..blocks }),
            0x8b => Command::OrWrite(blocks),
            0x9c => Command::WriteAtomic {
                blocks: Blocks { count: u32::from(self.u16(12)), ..blocks },
                boundary: self.u16(10),
            },
            _ => return Err(UNKNOWN),
        })
    }

    fn byte_check(self) -> Result<ByteCheck, Sense> {
        match self.byte(1) >> 1 & 0x03 {
            0 => Ok(ByteCheck::None),
            1 => Ok(ByteCheck::All),
            3 => Ok(ByteCheck::One),
            _ => Err(Sense::invalid_bit(1, 2)),
        }
    }

    fn write_same(self, blocks: Blocks) -> Result<Command, Sense> {
        let anchor = self.bit(1, 4);
        let unmap = self.bit(1, 3);
        let no_data_out = self.byte(0) == 0x93 && self.bit(1, 0);
        if anchor && !unmap {
            return Err(Sense::invalid_bit(1, 4));
        }
        Ok(Command::WriteSame { blocks, unmap, anchor, no_data_out })
    }

    fn other(self) -> Result<Command, Sense> {
        Ok(match self.byte(0) {
            0x34 | 0x90 => Command::Prefetch(self.blocks()),
            0x35 | 0x91 => Command::SynchronizeCache(self.blocks()),
            0x42 => Command::Unmap { anchor: self.bit(1, 0), parameter_len: u32::from(self.u16(7)) },
            0x55 => Command::ModeSelect {
                ten: true,
                page_format: self.bit(1, 4),
                save: self.bit(1, 0),
                parameter_len: u32::from(self.u16(7)),
            },
            0x5a => Command::ModeSense(self.mode_sense(true)),
            _ => return Err(UNKNOWN),
        })
    }

    fn reservation(self) -> Result<Command, Sense> {
        let action = self.byte(1) & 0x1f;
        if self.byte(0) == 0x5e {
            let action = match action {
                0 => ReserveIn::ReadKeys,
                1 => ReserveIn::ReadReservation,
                2 => ReserveIn::ReportCapabilities,
                3 => ReserveIn::ReadFullStatus,
                _ => return Err(Sense::invalid_bit(1, 4)),
            };
            return Ok(Command::PersistentReserveIn { action, allocation: u32::from(self.u16(7)) });
        }
        let action = match action {
            0 => ReserveOut::Register,
            1 => ReserveOut::Reserve,
            2 => ReserveOut::Release,
            3 => ReserveOut::Clear,
            4 => ReserveOut::Preempt,
            5 => ReserveOut::PreemptAndAbort,
            6 => ReserveOut::RegisterAndIgnore,
            7 => ReserveOut::RegisterAndMove,
            _ => return Err(Sense::invalid_bit(1, 4)),
        };
        let (scope, kind) = (self.byte(2) >> 4, self.byte(2) & 0x0f);
        Ok(Command::PersistentReserveOut { action, scope, kind, parameter_len: self.u32(5) })
    }

    fn with_action(self, spec: &CommandSpec) -> Result<Command, Sense> {
        Ok(match (self.byte(0), spec.service_action) {
            (0x83, _) => Command::ExtendedCopy { parameter_len: self.u32(10) },
            (0x84, Some(0)) => Command::CopyStatus { list_id: self.byte(2), allocation: self.u32(10) },
            (0x84, _) => Command::CopyParameters { allocation: self.u32(10) },
            (0x9e, Some(0x10)) => Command::ReadCapacity16 { allocation: self.u32(10) },
            (0x9e, _) => Command::GetLbaStatus { lba: self.u64(2), allocation: self.u32(10) },
            (0xa0, _) => Command::ReportLuns { select: self.byte(2), allocation: self.u32(6) },
            (0xa3, Some(0x0a)) => self.target_port_groups()?,
            (0xa3, Some(0x0c)) => Command::ReportOpcodes {
                options: self.report_options()?,
                timeouts: self.bit(2, 7),
                allocation: self.u32(6),
            },
            (0xa3, _) => Command::ReportTaskManagement { extended: self.bit(2, 7), allocation: self.u32(6) },
            _ => return Err(UNKNOWN),
        })
    }

    fn target_port_groups(self) -> Result<Command, Sense> {
        let extended = match self.byte(1) >> 5 {
            0 => false,
            1 => true,
            _ => return Err(Sense::invalid_bit(1, 7)),
        };
        Ok(Command::ReportTargetPortGroups { extended, allocation: self.u32(6) })
    }

    fn report_options(self) -> Result<ReportOptions, Sense> {
        let (opcode, action) = (self.byte(3), self.u16(4));
        match self.byte(2) & 0x07 {
            0 => Ok(ReportOptions::All),
            1 => Ok(ReportOptions::One { opcode }),
            2 => Ok(ReportOptions::OneAction { opcode, action }),
            3 => Ok(ReportOptions::Either { opcode, action }),
            _ => Err(Sense::invalid_bit(2, 2)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};
    use proptest::{collection, prop_assert, prop_assert_eq};

    use super::*;
    use crate::opcodes::COMMANDS;

    fn command(cdb: &[u8]) -> Result<Command, Sense> {
        Command::decode(cdb).map(|decoded| decoded.command)
    }

    #[test]
    fn cdbs_are_read_field_by_field() {
        let blocks = |lba, count| Blocks { lba, count };
        let cases: &[(&[u8], Command)] = &[
            (&[0x08, 0xe1, 2, 3, 0, 0], Command::Read(blocks(0x01_0203, 256))),
            (&[0x0a, 0x1f, 0xff, 0xff, 7, 0], Command::Write(blocks(0x1f_ffff, 7))),
            (&[0x28, 0x18, 1, 2, 3, 4, 0, 5, 6, 0], Command::Read(blocks(0x0102_0304, 0x0506))),
            (&[0xaa, 0x08, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0], Command::Write(blocks(0x0102_0304, 0x0506_0708))),
            (
                &[0x8a, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 0],
                Command::Write(blocks(0x0102_0304_0506_0708, 0x090a_0b0c)),
            ),
            (&[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 2, 0, 0], Command::CompareAndWrite(blocks(9, 2))),
            (
                &[0x9c, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 4, 1, 0, 0, 0],
                Command::WriteAtomic { blocks: blocks(9, 256), boundary: 4 },
            ),
            (
                &[0x2f, 0x06, 0, 0, 0, 1, 0, 0, 2, 0],
                Command::Verify { blocks: blocks(1, 2), check: ByteCheck::One },
            ),
            (
                &[0x93, 0x19, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0],
                Command::WriteSame { blocks: blocks(1, 2), unmap: true, anchor: true, no_data_out: true },
            ),
            (&[0x12, 1, 0x83, 1, 0, 0], Command::Inquiry { page: Some(0x83), allocation: 256 }),
            (
                &[0x5f, 5, 0x03, 0, 0, 0, 0, 0, 24, 0],
                Command::PersistentReserveOut {
                    action: ReserveOut::PreemptAndAbort,
                    scope: 0,
                    kind: 3,
                    parameter_len: 24,
                },
            ),
            (
                &[0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 24, 0, 0],
                Command::GetLbaStatus { lba: 5, allocation: 24 },
            ),
        ];
        for (cdb, expected) in cases {
            assert_eq!(command(cdb), Ok(*expected), "{cdb:02x?}");
        }
    }

    #[test]
    fn what_is_wrong_is_pointed_at() {
        let cases: &[(&[u8], Sense)] = &[
            (&[], UNKNOWN),
            (&[0xff], UNKNOWN),
            (&[0x04, 0, 0, 0, 0, 0], UNKNOWN),
            (&[0x28, 0, 0], Sense::invalid_field(0)),
            (&[0x28, 0x20, 0, 0, 0, 0, 0, 0, 1, 0], Sense::invalid_bit(1, 7)),
            (&[0x2f, 0x04, 0, 0, 0, 0, 0, 0, 1, 0], Sense::invalid_bit(1, 2)),
            (&[0x2e, 0x06, 0, 0, 0, 0, 0, 0, 1, 0], Sense::invalid_bit(1, 2)),
            (&[0x00, 0, 0, 0, 0, 0x04], Sense::invalid_bit(5, 2)),
            (&[0x12, 0, 0x80, 0, 36, 0], Sense::invalid_field(2)),
            (&[0x5e, 4, 0, 0, 0, 0, 0, 0, 8, 0], Sense::invalid_bit(1, 4)),
            (&[0x41, 0x10, 0, 0, 0, 0, 0, 0, 1, 0], Sense::invalid_bit(1, 4)),
        ];
        for (cdb, sense) in cases {
            assert_eq!(command(cdb), Err(*sense), "{cdb:02x?}");
        }
    }

    #[test]
    fn every_command_of_the_table_decodes() {
        for spec in COMMANDS {
            let mut cdb = vec![0; spec.usage.len()];
            cdb[0] = spec.opcode();
            cdb[1] = spec.service_action.unwrap_or(0) as u8;
            let decoded = Command::decode(&cdb).unwrap_or_else(|sense| panic!("{}: {sense:?}", spec.name));
            assert_eq!(decoded.spec, spec);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(cdb in collection::vec(any::<u8>(), 0..40)) {
            if let Ok(Decoded { command, spec }) = Command::decode(&cdb) {
                prop_assert!(cdb.len() >= spec.usage.len());
                // What follows the CDB changes nothing.
                prop_assert_eq!(Command::decode(&cdb[..spec.usage.len()]).map(|again| again.command), Ok(command));
                command.data_out_len(4096);
            }
        }
    }
}
