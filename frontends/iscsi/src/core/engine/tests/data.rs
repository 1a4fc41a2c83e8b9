//! Reads, writes, residuals, memory.

use super::*;

fn data_out(itt: u32, ttt: u32, number: u32, offset: u32, len: usize, last: bool) -> Pdu {
    pdu(
        &[
            (0, &[0x05, if last { 0x80 } else { 0 }]),
            (16, &itt.to_be_bytes()),
            (20, &ttt.to_be_bytes()),
            (36, &number.to_be_bytes()),
            (40, &offset.to_be_bytes()),
        ],
        &vec![7; len],
    )
}

#[test]
fn a_read_comes_in_pieces_with_its_status_in_the_last() {
    let mut harness = Harness::new();
    harness.good(command(READ, 1, 1200, b""));
    assert_eq!(harness.executing(), [(1, 0)]);
    harness.complete(1, 0, &[1000, 200]);
    let answers = harness.answers();
    let shape = |pdu: &Pdu| (pdu.bhs[0], pdu.bhs[1], pdu.data.len(), field(pdu, 36), field(pdu, 40));
    assert_eq!(
        answers.iter().map(shape).collect::<Vec<_>>(),
        [(0x25, 0, 512, 0, 0), (0x25, 0x80, 512, 1, 512), (0x25, 0x81, 176, 2, 1024)]
    );
    assert_eq!(field(&answers[2], 24), 100, "StatSN");
}

#[test]
fn residuals_of_reads_and_writes() {
    const OVER: u8 = 0x84;
    const UNDER: u8 = 0x82;
    for (flags, expected, wanted, given, status, opcode, result, residual) in [
        (READ, 512, 0, 512, 0, 0x25, 0x81, 0),
        (READ, 512, 0, 100, 0, 0x25, 0x81 | UNDER, 412),
        (READ, 512, 0, 1024, 0, 0x25, 0x81 | OVER, 512),
        (READ, 512, 0, 0, 0, 0x21, UNDER, 512),
        (READ, 512, 0, 0, 2, 0x21, UNDER, 512),
        (READ, 0, 0, 512, 0, 0x21, OVER, 512),
        (WRITE, 512, 512, 0, 0, 0x21, 0x80, 0),
        (WRITE, 512, 100, 0, 0, 0x21, UNDER, 412),
        (WRITE, 512, 1024, 0, 0, 0x21, OVER, 512),
        (WRITE, 0, 512, 0, 0, 0x21, OVER, 512),
        // Data where none is expected: a read that was sent as a write, or with neither flag.
        (WRITE, 512, 0, 512, 0, 0x21, OVER, 512),
        (0x80, 0, 0, 36, 0, 0x21, OVER, 36),
        (0x80, 0, 0, 0, 0, 0x21, 0x80, 0),
    ] {
        let mut harness = Harness::new();
        harness.wanted = Some(wanted);
        let immediate = if flags == WRITE { expected as usize } else { 0 };
        harness.good(command(flags, 1, expected, &vec![7; immediate]));
        assert_eq!(harness.executing().len(), 1);
        let parts = [given];
        harness.complete(1, status, if given > 0 { &parts } else { &[] });
        let answers = harness.answers();
        let last = answers.last().expect("an answer");
        let seen = (last.bhs[0], last.bhs[1], field(last, 44));
        assert_eq!(seen, (opcode, result, residual), "{flags:#x} {expected} {wanted} {given} {status}");
    }
}

#[test]
fn sense_data_has_its_length_before_it() {
    let mut harness = Harness::new();
    harness.good(command(READ, 1, 512, b""));
    harness.complete(1, 2, &[]);
    let answer = harness.answer();
    assert_eq!((answer.bhs[3], &answer.data[..3], answer.data.len()), (2, &[0, 18, 0x70][..], 20));
}

#[test]
fn data_goes_before_a_status_that_needs_sense() {
    let mut harness = Harness::new();
    harness.good(command(READ, 1, 512, b""));
    harness.complete(1, 2, &[100]);
    let answers = harness.answers();
    assert_eq!(opcodes(&answers), [0x25, 0x21]);
    assert_eq!((answers[0].bhs[1], field(&answers[1], 36)), (0x80, 1), "ExpDataSN");
}

#[test]
fn a_write_asks_for_what_did_not_come() {
    let mut harness = Harness::new();
    harness.good(command(WRITE_MORE, 1, 3000, &[7; 200]));
    assert!(harness.answers().is_empty(), "unsolicited data is on its way");
    harness.good(data_out(1, TAG_NONE, 0, 200, 312, true));
    let mut at = 512;
    for (number, len) in [(0, 1024), (1, 1024), (2, 440)] {
        let r2t = harness.answer();
        let seen = (r2t.bhs[0], field(&r2t, 36), field(&r2t, 40), field(&r2t, 44));
        assert_eq!(seen, (0x31, number, at, len));
        assert_eq!((&r2t.bhs[8..16], field(&r2t, 16), field(&r2t, 24)), (&LUN[..], 1, 100));
        let ttt = field(&r2t, 20);
        assert_ne!(ttt, TAG_NONE);
        let half = len / 2;
        harness.good(data_out(1, ttt, 0, at, half as usize, false));
        assert!(harness.executing().is_empty());
        harness.good(data_out(1, ttt, 1, at + half, half as usize, true));
        at += len;
    }
    assert_eq!(harness.executing(), [(1, 3000)]);
    harness.complete(1, 0, &[]);
    let answer = harness.answer();
    assert_eq!((answer.bhs[0], answer.bhs[1], field(&answer, 36)), (0x21, 0x80, 3));
}

#[test]
fn data_that_breaks_the_order_ends_the_command() {
    for (solicited, number, offset, len, qualifier) in [
        (true, 1, 0, 1024, 0x0d),
        (true, 0, 4, 1020, 0x0d),
        (true, 0, 0, 1025, 0x0d),
        (true, 0, 0, 100, 0x0d),
        (false, 0, 0, 10, 0x0c),
    ] {
        let mut harness = Harness::new();
        harness.good(command(WRITE, 1, 2048, b""));
        let ttt = field(&harness.answer(), 20);
        let ttt = if solicited { ttt } else { TAG_NONE };
        harness.good(data_out(1, ttt, number, offset, len, true));
        let answer = harness.answer();
        assert_eq!((answer.bhs[0], answer.bhs[3], field(&answer, 32)), (0x21, 2, 1 + COMMANDS_MAX));
        // ABORTED COMMAND, WRITE ERROR.
        let sense = &answer.data[2..];
        assert_eq!((answer.data[1], sense[2], sense[12], sense[13]), (18, 0x0b, 0x0c, qualifier));
        // What follows is dropped, and the session goes on.
        harness.good(data_out(1, ttt, 0, 0, 1024, true));
        assert!(harness.executing().is_empty() && harness.answers().is_empty());
        harness.good(command(READ, 2, 0, b""));
        assert_eq!(harness.executing(), [(2, 0)]);
    }
}

#[test]
fn data_after_the_end_ends_the_connection() {
    let mut harness = Harness::new();
    harness.good(command(WRITE, 1, 10, &[7; 10]));
    harness.send(data_out(1, TAG_NONE, 0, 0, 10, true)).expect_err("a violation");
    let reject = harness.answer();
    assert_eq!((reject.bhs[0], reject.bhs[2], reject.data[0]), (0x3f, 4, 0x05));
}

#[test]
fn data_for_a_command_that_is_gone_is_dropped() {
    let mut harness = Harness::new();
    harness.good(data_out(9, 3, 0, 0, 100, true));
    assert!(harness.answers().is_empty());
}

#[test]
fn a_refused_write_is_not_asked_for_its_data() {
    let mut harness = Harness::new();
    harness.wanted = Some(0);
    harness.good(command(WRITE, 1, 1 << 20, &[7; 100]));
    assert_eq!(harness.executing(), [(1, 0)]);
    assert!(harness.answers().is_empty());
}

#[test]
fn memory_is_granted_to_whole_commands_in_order() {
    let mut harness = Harness::new();
    let big = 40 << 20;
    harness.good(command(READ, 1, 20 << 20, b""));
    harness.good(command(WRITE, 2, big, b""));
    // No room beside the two, not even for what would fit: it would starve those before it.
    harness.good(command(WRITE, 3, big, b""));
    harness.good(command(READ, 4, 512, b""));
    assert_eq!(harness.executing(), [(1, 0)]);
    let r2ts = harness.answers();
    assert_eq!(r2ts.iter().map(|pdu| field(pdu, 16)).collect::<Vec<_>>(), [2]);
    // An answer that waits to be sent counts until it is gone.
    harness.complete(1, 0, &[20 << 20]);
    assert!(harness.executing().is_empty());
    harness.answers();
    harness.engine.pump(&mut harness.out);
    harness.collect();
    assert!(harness.executing().is_empty(), "20 MiB are free, 40 MiB are needed");
    const { assert!(2 * (40 << 20) > MEMORY_BYTES_MAX) };
}

#[test]
fn a_command_larger_than_the_memory_goes_alone() {
    let mut harness = Harness::new();
    harness.good(command(WRITE, 1, 100 << 20, b""));
    assert_eq!(opcodes(&harness.answers()), [0x31]);
    harness.good(command(READ, 2, 512, b""));
    assert!(harness.executing().is_empty());
}
