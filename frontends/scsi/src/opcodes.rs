//! Every command there is, in one table: its CDB, who may send it under a reservation, and whether it writes.
//!
//! The table drives the length check of the decoder, REPORT SUPPORTED OPERATION CODES (SPC-4 6.35) and the allow/deny
//! decision of reservations (SPC-4 table 66, SBC-3 table 13), so that none of the three can forget a command.

use bytes::Bytes;

use crate::cdb::ReportOptions;
use crate::sense::Sense;

/// What a command needs from a persistent reservation that its nexus neither holds nor, where that is enough, is
/// registered for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Allowed whatever is reserved.
    Always,
    /// Reads: allowed while only writes are exclusive.
    Read,
    /// Writes, or changes how the unit behaves: never allowed.
    Write,
    /// PERSISTENT RESERVE OUT: decided by the change that it asks for.
    Reservation,
}

/// One command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommandSpec {
    /// Its name in the standards.
    pub name: &'static str,
    /// The CDB usage bitmap: the operation code, the service action where there is one, then a one for every bit that is
    /// looked at. As long as the CDB.
    pub usage: &'static [u8],
    /// The service action, where there is one.
    pub service_action: Option<u16>,
    /// What it needs from a persistent reservation.
    pub access: Access,
    /// Whether another nexus may send it in spite of a RESERVE(6) (SPC-2 table 10).
    pub under_reserve: bool,
    /// Whether it changes blocks: refused by a write-protected unit.
    pub writes: bool,
}

impl CommandSpec {
    /// OPERATION CODE.
    pub const fn opcode(&self) -> u8 {
        self.usage[0]
    }
}

const fn spec(name: &'static str, usage: &'static [u8], access: Access) -> CommandSpec {
    CommandSpec { name, usage, service_action: None, access, under_reserve: false, writes: false }
}

const fn with_action(name: &'static str, action: u16, usage: &'static [u8], access: Access) -> CommandSpec {
    CommandSpec { service_action: Some(action), ..spec(name, usage, access) }
}

/// A command that another nexus may send in spite of a RESERVE(6).
const fn open(spec: CommandSpec) -> CommandSpec {
    CommandSpec { under_reserve: true, ..spec }
}

/// A command that changes blocks.
const fn write(name: &'static str, usage: &'static [u8]) -> CommandSpec {
    CommandSpec { writes: true, ..spec(name, usage, Access::Write) }
}

use Access::{Always, Read, Reservation, Write};

/// LBA of four bytes, a byte with a group number, then two of transfer length and the control byte.
const CDB10: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0x00, 0xff, 0xff, 0x00];

const fn cdb10(opcode: u8, flags: u8) -> [u8; 10] {
    let [a, b, c, d, e, f, g, h] = CDB10;
    [opcode, flags, a, b, c, d, e, f, g, h]
}

const fn cdb12(opcode: u8, flags: u8) -> [u8; 12] {
    [opcode, flags, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00]
}

const fn cdb16(opcode: u8, flags: u8) -> [u8; 16] {
    let f = 0xff;
    [opcode, flags, f, f, f, f, f, f, f, f, f, f, f, f, 0x00, 0x00]
}

const fn cdb16_action(opcode: u8, action: u8) -> [u8; 16] {
    cdb16(opcode, action)
}

/// A CDB of 16 bytes with a one-byte count of blocks.
const COMPARE_AND_WRITE: [u8; 16] = {
    let mut usage = cdb16(0x89, 0xf8);
    usage[10] = 0;
    usage[11] = 0;
    usage[12] = 0;
    usage
};

/// OPERATION CODE of WRITE ATOMIC(16), which not every device has.
pub(crate) const WRITE_ATOMIC_16: u8 = 0x9c;

/// WRITE ATOMIC(16): an atomic boundary of two bytes, then two of transfer length.
const WRITE_ATOMIC: [u8; 16] = cdb16(WRITE_ATOMIC_16, 0xf8);

const fn allocation12(opcode: u8, action: u8) -> [u8; 12] {
    [opcode, action, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00]
}

/// Every command, in the order of operation codes and service actions.
pub static COMMANDS: &[CommandSpec] = &[
    spec("TEST UNIT READY", &[0x00, 0, 0, 0, 0, 0], Always),
    open(spec("REQUEST SENSE", &[0x03, 0x01, 0, 0, 0xff, 0], Always)),
    spec("READ(6)", &[0x08, 0x1f, 0xff, 0xff, 0xff, 0], Read),
    write("WRITE(6)", &[0x0a, 0x1f, 0xff, 0xff, 0xff, 0]),
    open(spec("INQUIRY", &[0x12, 0x01, 0xff, 0xff, 0xff, 0], Always)),
    spec("MODE SELECT(6)", &[0x15, 0x11, 0, 0, 0xff, 0], Write),
    spec("RESERVE(6)", &[0x16, 0, 0, 0, 0, 0], Always),
    open(spec("RELEASE(6)", &[0x17, 0, 0, 0, 0, 0], Always)),
    spec("MODE SENSE(6)", &[0x1a, 0x08, 0xff, 0xff, 0xff, 0], Write),
    spec("START STOP UNIT", &[0x1b, 0x01, 0, 0x0f, 0xf7, 0], Write),
    open(spec("READ CAPACITY(10)", &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], Always)),
    spec("READ(10)", &cdb10(0x28, 0xf8), Read),
    write("WRITE(10)", &cdb10(0x2a, 0xf8)),
    write("WRITE AND VERIFY(10)", &cdb10(0x2e, 0xf6)),
    spec("VERIFY(10)", &cdb10(0x2f, 0xf6), Read),
    spec("PRE-FETCH(10)", &cdb10(0x34, 0x02), Read),
    spec("SYNCHRONIZE CACHE(10)", &cdb10(0x35, 0x02), Write),
    write("WRITE SAME(10)", &cdb10(0x41, 0xf8)),
    write("UNMAP", &[0x42, 0x01, 0, 0, 0, 0, 0, 0xff, 0xff, 0]),
    spec("MODE SELECT(10)", &[0x55, 0x11, 0, 0, 0, 0, 0, 0xff, 0xff, 0], Write),
    spec("MODE SENSE(10)", &[0x5a, 0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 0], Write),
    with_action("PERSISTENT RESERVE IN: READ KEYS", 0, &pr_in(0), Always),
    with_action("PERSISTENT RESERVE IN: READ RESERVATION", 1, &pr_in(1), Always),
    with_action("PERSISTENT RESERVE IN: REPORT CAPABILITIES", 2, &pr_in(2), Always),
    with_action("PERSISTENT RESERVE IN: READ FULL STATUS", 3, &pr_in(3), Always),
    with_action("PERSISTENT RESERVE OUT: REGISTER", 0, &pr_out(0), Reservation),
    with_action("PERSISTENT RESERVE OUT: RESERVE", 1, &pr_out(1), Reservation),
    with_action("PERSISTENT RESERVE OUT: RELEASE", 2, &pr_out(2), Reservation),
    with_action("PERSISTENT RESERVE OUT: CLEAR", 3, &pr_out(3), Reservation),
    with_action("PERSISTENT RESERVE OUT: PREEMPT", 4, &pr_out(4), Reservation),
    with_action("PERSISTENT RESERVE OUT: PREEMPT AND ABORT", 5, &pr_out(5), Reservation),
    with_action("PERSISTENT RESERVE OUT: REGISTER AND IGNORE EXISTING KEY", 6, &pr_out(6), Reservation),
    with_action("PERSISTENT RESERVE OUT: REGISTER AND MOVE", 7, &pr_out(7), Reservation),
    with_action("EXTENDED COPY(LID1)", 0, &EXTENDED_COPY, Write),
    with_action("RECEIVE COPY RESULTS: COPY STATUS", 0, &receive_copy(0), Write),
    with_action("RECEIVE COPY RESULTS: OPERATING PARAMETERS", 3, &receive_copy(3), Write),
    spec("READ(16)", &cdb16(0x88, 0xf8), Read),
    write("COMPARE AND WRITE", &COMPARE_AND_WRITE),
    write("WRITE(16)", &cdb16(0x8a, 0xf8)),
    write("ORWRITE(16)", &cdb16(0x8b, 0xf8)),
    write("WRITE AND VERIFY(16)", &cdb16(0x8e, 0xf6)),
    spec("VERIFY(16)", &cdb16(0x8f, 0xf6), Read),
    spec("PRE-FETCH(16)", &cdb16(0x90, 0x02), Read),
    spec("SYNCHRONIZE CACHE(16)", &cdb16(0x91, 0x02), Write),
    write("WRITE SAME(16)", &cdb16(0x93, 0xf9)),
    write("WRITE ATOMIC(16)", &WRITE_ATOMIC),
    open(with_action("READ CAPACITY(16)", 0x10, &cdb16_action(0x9e, 0x10), Always)),
    with_action("GET LBA STATUS", 0x12, &cdb16_action(0x9e, 0x12), Read),
    open(spec("REPORT LUNS", &[0xa0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0], Always)),
    with_action("REPORT TARGET PORT GROUPS", 0x0a, &allocation12(0xa3, 0xea), Always),
    with_action("REPORT SUPPORTED OPERATION CODES", 0x0c, &REPORT_OPCODES, Read),
    with_action("REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS", 0x0d, &REPORT_TMFS, Read),
    spec("READ(12)", &cdb12(0xa8, 0xf8), Read),
    write("WRITE(12)", &cdb12(0xaa, 0xf8)),
    write("WRITE AND VERIFY(12)", &cdb12(0xae, 0xf6)),
    spec("VERIFY(12)", &cdb12(0xaf, 0xf6), Read),
];

const REPORT_OPCODES: [u8; 12] = [0xa3, 0x0c, 0x87, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0];
const REPORT_TMFS: [u8; 12] = [0xa3, 0x0d, 0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0];
const EXTENDED_COPY: [u8; 16] = [0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0];

const fn pr_in(action: u8) -> [u8; 10] {
    [0x5e, action, 0, 0, 0, 0, 0, 0xff, 0xff, 0]
}

const fn pr_out(action: u8) -> [u8; 10] {
    [0x5f, action, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0]
}

const fn receive_copy(action: u8) -> [u8; 16] {
    [0x84, action, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0]
}

/// The commands of an operation code: none, one, or one for each service action.
pub fn commands_of(opcode: u8) -> &'static [CommandSpec] {
    let from = COMMANDS.partition_point(|spec| spec.opcode() < opcode);
    let to = COMMANDS.partition_point(|spec| spec.opcode() <= opcode);
    &COMMANDS[from..to]
}

/// Answers REPORT SUPPORTED OPERATION CODES. `offered` says which commands this unit has.
pub(crate) fn report(
    options: ReportOptions,
    timeouts: bool,
    offered: impl Fn(&CommandSpec) -> bool,
) -> Result<Bytes, Sense> {
    let found = |opcode, action: Option<u16>| {
        commands_of(opcode).iter().find(|spec| spec.service_action == action && offered(spec))
    };
    let has_actions = |opcode| commands_of(opcode).iter().any(|spec| spec.service_action.is_some());
    match options {
        ReportOptions::All => Ok(all(timeouts, offered)),
        ReportOptions::One { opcode } if has_actions(opcode) => Err(Sense::invalid_field(2)),
        ReportOptions::One { opcode } => Ok(one(found(opcode, None), timeouts)),
        ReportOptions::OneAction { opcode, action } => {
            if !commands_of(opcode).is_empty() && !has_actions(opcode) {
                return Err(Sense::invalid_field(2));
            }
            Ok(one(found(opcode, Some(action)), timeouts))
        }
        ReportOptions::Either { opcode, action } => {
            let action = has_actions(opcode).then_some(action);
            Ok(one(found(opcode, action), timeouts))
        }
    }
}

/// `all_commands` parameter data: a length, then 8 bytes for each command, 20 with timeouts.
fn all(timeouts: bool, offered: impl Fn(&CommandSpec) -> bool) -> Bytes {
    let mut out = vec![0; 4];
    for spec in COMMANDS.iter().filter(|spec| offered(spec)) {
        let [action_high, action_low] = spec.service_action.unwrap_or(0).to_be_bytes();
        let flags = u8::from(timeouts) << 1 | u8::from(spec.service_action.is_some());
        let len = spec.usage.len() as u8;
        out.extend_from_slice(&[spec.opcode(), 0, action_high, action_low, 0, flags, 0, len]);
        if timeouts {
            out.extend_from_slice(&TIMEOUTS);
        }
    }
    let len = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&len.to_be_bytes());
    Bytes::from(out)
}

/// `one_command` parameter data: flags, the length of the CDB, and its usage bitmap.
fn one(spec: Option<&CommandSpec>, timeouts: bool) -> Bytes {
    let Some(spec) = spec else {
        // SUPPORT 001b: not supported; nothing else is valid.
        return Bytes::from_static(&[0, 0x01, 0, 0]);
    };
    // SUPPORT 011b: supported as the standard says.
    let mut out = vec![0, u8::from(timeouts) << 7 | 0x03, 0, spec.usage.len() as u8];
    out.extend_from_slice(spec.usage);
    if timeouts {
        out.extend_from_slice(&TIMEOUTS);
    }
    Bytes::from(out)
}

/// A command timeouts descriptor that says nothing: a device that waits for its disks promises no time.
const TIMEOUTS: [u8; 12] = [0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_says_each_command_once() {
        for pair in COMMANDS.windows(2) {
            let key = |spec: &CommandSpec| (spec.opcode(), spec.service_action);
            assert!(key(&pair[0]) < key(&pair[1]), "{} before {}", pair[0].name, pair[1].name);
        }
    }

    #[test]
    fn lengths_follow_the_group_of_the_operation_code() {
        for spec in COMMANDS {
            let len = match spec.opcode() >> 5 {
                0 => 6,
                1 | 2 => 10,
                4 => 16,
                5 => 12,
                group => panic!("{}: group {group}", spec.name),
            };
            assert_eq!(spec.usage.len(), len, "{}", spec.name);
        }
    }

    #[test]
    fn whatever_writes_needs_write_access() {
        for spec in COMMANDS.iter().filter(|spec| spec.writes) {
            assert_eq!(spec.access, Access::Write, "{}", spec.name);
        }
    }

    #[test]
    fn one_command_is_asked_for_in_the_right_way() {
        let everything = |_: &CommandSpec| true;
        let ask = |options| report(options, false, everything);
        assert!(ask(ReportOptions::One { opcode: 0x5e }).is_err());
        assert!(ask(ReportOptions::OneAction { opcode: 0x28, action: 0 }).is_err());
        let absent: &[u8] = &[0, 1, 0, 0];
        assert_eq!(&ask(ReportOptions::One { opcode: 0xff }).expect("well formed")[..], absent);
        assert_eq!(
            &ask(ReportOptions::OneAction { opcode: 0x5e, action: 9 }).expect("well formed")[..],
            absent
        );
        let tur = ask(ReportOptions::One { opcode: 0 }).expect("well formed");
        assert_eq!(&tur[..], [0, 3, 0, 6, 0, 0, 0, 0, 0, 0]);
        let either = ask(ReportOptions::Either { opcode: 0x9e, action: 0x10 }).expect("well formed");
        assert_eq!((either[1], either[3], either[4]), (3, 16, 0x9e));
    }

    #[test]
    fn all_commands_have_descriptors_of_the_announced_length() {
        let plain = report(ReportOptions::All, false, |_| true).expect("well formed");
        let timed = report(ReportOptions::All, true, |spec| !spec.writes).expect("well formed");
        assert_eq!(plain.len(), 4 + 8 * COMMANDS.len());
        let readers = COMMANDS.iter().filter(|spec| !spec.writes).count();
        assert_eq!(timed.len(), 4 + 20 * readers);
        assert_eq!(&timed[..4], &((20 * readers) as u32).to_be_bytes());
    }
}
