//! The command window, immediate commands, pings, logout.

use super::*;

fn nop(flags: u8, itt: u32, number: u32, data: &[u8]) -> Pdu {
    let tags = [itt.to_be_bytes(), TAG_NONE.to_be_bytes(), number.to_be_bytes()].concat();
    pdu(&[(0, &[flags, 0x80]), (8, &LUN), (16, &tags)], data)
}

fn numbers(pdu: &Pdu) -> (u32, u32, u32) {
    (field(pdu, 24), field(pdu, 28), field(pdu, 32))
}

#[test]
fn answers_count_on() {
    let mut harness = Harness::new();
    for itt in 1..=3 {
        harness.good(command(READ, itt, 0, b""));
        harness.complete(itt, 0, &[]);
        let status = 99 + itt;
        assert_eq!(numbers(&harness.answer()), (status, itt + 1, itt + COMMANDS_MAX));
    }
}

#[test]
fn the_window_closes_and_opens() {
    let mut harness = Harness::new();
    for itt in 1..=COMMANDS_MAX {
        harness.good(command(READ, itt, 0, b""));
    }
    assert_eq!(harness.executing().len(), COMMANDS_MAX as usize);
    // One too many is ignored in silence.
    harness.good(command(READ, COMMANDS_MAX + 1, 0, b""));
    assert!(harness.executing().is_empty() && harness.answers().is_empty());
    harness.complete(5, 0, &[]);
    assert_eq!(numbers(&harness.answer()), (100, COMMANDS_MAX + 1, COMMANDS_MAX + 1));
    harness.good(command(READ, COMMANDS_MAX + 1, 0, b""));
    assert_eq!(harness.executing(), [(COMMANDS_MAX + 1, 0)]);
}

#[test]
fn numbers_out_of_the_window_are_ignored_and_holes_are_not() {
    let mut harness = Harness::new();
    let numbered = |number: u32| {
        let mut command = command(READ, 77, 0, b"");
        command.bhs[24..28].copy_from_slice(&number.to_be_bytes());
        command
    };
    for outside in [0, u32::MAX, 1 + COMMANDS_MAX, 1 << 31] {
        harness.good(numbered(outside));
        assert!(harness.executing().is_empty() && harness.answers().is_empty(), "{outside}");
    }
    harness.good(numbered(1));
    assert_eq!(harness.executing(), [(77, 0)]);
    harness.send(numbered(3)).expect_err("2 is missing");
    assert_eq!(harness.answer().bhs[..3], [0x3f, 0x80, 4]);
}

#[test]
fn immediate_commands_take_no_number_and_are_limited() {
    let mut harness = Harness::new();
    for itt in 1..=IMMEDIATES_MAX + 1 {
        let mut command = command(READ, itt, 0, b"");
        command.bhs[0] |= 0x40;
        command.bhs[24..28].copy_from_slice(&1u32.to_be_bytes());
        harness.good(command);
    }
    assert_eq!(harness.executing().len(), IMMEDIATES_MAX as usize);
    assert_eq!(harness.answer().bhs[..3], [0x3f, 0x80, 6]);
    harness.complete(1, 0, &[]);
    assert_eq!(numbers(&harness.answer()), (101, 1, COMMANDS_MAX));
}

#[test]
fn a_tag_in_use_is_refused_and_its_number_is_used_up() {
    let mut harness = Harness::new();
    harness.good(command(READ, 1, 0, b""));
    let mut again = command(READ, 1, 0, b"");
    again.bhs[27] = 2;
    harness.good(again);
    assert_eq!(harness.executing().len(), 1);
    let reject = harness.answer();
    assert_eq!((reject.bhs[2], numbers(&reject).1), (7, 3));
}

#[test]
fn pings_are_answered() {
    let mut harness = Harness::new();
    harness.good(nop(0x00, 5, 1, b"hello"));
    let answer = harness.answer();
    assert_eq!((answer.bhs[0], field(&answer, 16), field(&answer, 20)), (0x20, 5, TAG_NONE));
    assert_eq!((&answer.data[..], &answer.bhs[8..16]), (&b"hello"[..], &LUN[..]));
    assert_eq!(numbers(&answer), (100, 2, 1 + COMMANDS_MAX));
    // Not more than the initiator takes.
    harness.good(nop(0x40, 6, 2, &[1; 600]));
    let answer = harness.answer();
    assert_eq!((answer.data.len(), numbers(&answer).1), (512, 2));
    // An answer to ours is not answered.
    harness.good(nop(0x40, TAG_NONE, 2, b""));
    assert!(harness.answers().is_empty());
}

#[test]
fn our_ping_uses_up_no_status() {
    let mut harness = Harness::new();
    harness.engine.ping(&mut harness.out);
    let ping = harness.answer();
    assert_eq!((ping.bhs[0], field(&ping, 16), numbers(&ping).0), (0x20, TAG_NONE, 100));
    assert_ne!(field(&ping, 20), TAG_NONE);
    harness.good(nop(0x00, 5, 1, b""));
    assert_eq!(numbers(&harness.answer()).0, 100);
}

fn logout(reason: u8, cid: u16) -> Pdu {
    pdu(
        &[(0, &[0x46, 0x80 | reason]), (16, &[0, 0, 0, 9]), (20, &cid.to_be_bytes()), (24, &[0, 0, 0, 2])],
        b"",
    )
}

#[test]
fn logout_waits_for_what_executes() {
    for (reason, cid) in [(0, 0), (1, 1)] {
        let mut harness = Harness::new();
        harness.good(command(READ, 1, 512, b""));
        harness.good(logout(reason, cid));
        assert!(harness.engine.is_leaving() && harness.answers().is_empty());
        harness.complete(1, 0, &[512]);
        let answers = harness.answers();
        assert_eq!(opcodes(&answers), [0x25, 0x26]);
        assert_eq!((answers[1].bhs[2], numbers(&answers[1]).0), (0, 101));
        assert!(harness.engine.is_closed());
    }
}

#[test]
fn logout_does_not_wait_for_data_that_will_not_come() {
    let mut harness = Harness::new();
    harness.good(command(WRITE, 1, 2048, b""));
    harness.answers();
    harness.good(logout(0, 0));
    assert_eq!(opcodes(&harness.answers()), [0x26]);
    assert!(harness.engine.is_closed());
}

#[test]
fn logouts_that_are_refused() {
    for (reason, cid, outcome) in [(1, 2, 1), (2, 1, 2), (5, 1, 2)] {
        let mut harness = Harness::new();
        harness.good(logout(reason, cid));
        assert_eq!(harness.answer().bhs[2], outcome, "{reason} {cid}");
        assert!(!harness.engine.is_leaving());
    }
}

#[test]
fn what_has_no_place_here() {
    let mut harness = Harness::new();
    // SNACK: there is no retransmission at recovery level 0.
    harness.good(pdu(&[(0, &[0x10, 0x80])], b""));
    assert_eq!(harness.answer().bhs[..3], [0x3f, 0x80, 3]);
    // An unknown opcode.
    harness.good(pdu(&[(0, &[0x1e, 0x80])], b""));
    let reject = harness.answer();
    assert_eq!((reject.bhs[2], reject.data[0], reject.data.len()), (5, 0x1e, 48));
    // A bidirectional command.
    harness.good(pdu(&[(0, &[0x01, 0xe0])], b""));
    assert_eq!(harness.answer().bhs[2], 9);
    // Login again.
    harness.send(pdu(&[(0, &[0x43, 0x87])], b"")).expect_err("a violation");
}

#[test]
fn messages_carry_sense() {
    let mut harness = Harness::new();
    harness.engine.announce(AsyncEvent::Sense { lun: LUN }, &[0x70, 0, 6], &mut harness.out);
    let message = harness.answer();
    assert_eq!((message.bhs[0], message.bhs[36], &message.data[..]), (0x32, 0, &[0, 3, 0x70, 0, 6][..]));
    harness.engine.announce(AsyncEvent::LogoutRequested { seconds: 3 }, &[], &mut harness.out);
    let message = harness.answer();
    assert_eq!((message.bhs[36], message.bhs[43], numbers(&message).0), (1, 3, 101));
}
