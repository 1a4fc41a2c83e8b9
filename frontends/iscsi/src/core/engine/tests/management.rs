//! Task management and task attributes.

use super::*;

/// An immediate task management request with the tag 90.
fn request(function: u8, lun: [u8; 8], referenced: u32) -> Pdu {
    let tags = [90u32.to_be_bytes(), referenced.to_be_bytes()].concat();
    pdu(&[(0, &[0x42, 0x80 | function]), (8, &lun), (16, &tags)], b"")
}

fn managing(harness: &mut Harness) -> Vec<Management<u8>> {
    let actions = std::mem::take(&mut harness.actions);
    let managing = actions.into_iter().filter_map(|action| match action {
        Action::Manage { itt: 90, what } => Some(what),
        _ => None,
    });
    managing.collect()
}

#[test]
fn functions_that_are_answered_at_once() {
    for (function, outcome) in [(1, 1), (3, 5), (7, 5), (8, 4), (99, 5)] {
        let mut harness = Harness::new();
        harness.good(request(function, LUN, 5));
        let answer = harness.answer();
        assert_eq!((answer.bhs[0], answer.bhs[2], field(&answer, 16)), (0x22, outcome, 90), "{function}");
        assert!(managing(&mut harness).is_empty());
    }
}

#[test]
fn functions_that_reach_beyond() {
    for (function, what) in [
        (2, Management::AbortTaskSet(LUN)),
        (4, Management::ClearTaskSet(LUN)),
        (5, Management::ResetUnit(LUN)),
        (6, Management::ResetTarget),
    ] {
        let mut harness = Harness::new();
        harness.good(request(function, LUN, 0));
        assert_eq!(managing(&mut harness), [what]);
        assert!(harness.answers().is_empty(), "not before it is done");
        harness.engine.managed(90, TaskOutcome::Complete, &mut harness.out);
        assert_eq!(harness.answer().bhs[..3], [0x22, 0x80, 0]);
    }
}

#[test]
fn a_task_that_waits_for_data_is_gone_at_once() {
    let mut harness = Harness::new();
    harness.good(command(WRITE, 1, 2048, b""));
    let ttt = field(&harness.answer(), 20);
    harness.good(request(1, LUN, 1));
    let answer = harness.answer();
    assert_eq!((answer.bhs[..3].to_vec(), field(&answer, 32)), (vec![0x22, 0x80, 0], 1 + COMMANDS_MAX));
    // Its data may still be on its way.
    let tags = [1u32.to_be_bytes(), ttt.to_be_bytes()].concat();
    harness.good(pdu(&[(0, &[0x05, 0x80]), (16, &tags)], &[7; 1024]));
    assert!(harness.executing().is_empty() && harness.answers().is_empty());
    // It can be aborted once.
    harness.good(request(1, LUN, 1));
    assert_eq!(harness.answer().bhs[2], 1);
}

#[test]
fn a_task_that_executes_is_aborted_by_its_handle() {
    let mut harness = Harness::new();
    harness.good(command(READ, 1, 512, b""));
    harness.executing();
    harness.good(request(1, LUN, 1));
    assert_eq!(managing(&mut harness), [Management::AbortTask(1)]);
    harness.engine.complete(1, Outcome::Aborted, &mut harness.out);
    assert!(harness.answers().is_empty(), "an aborted task has no answer");
    harness.engine.managed(90, TaskOutcome::Complete, &mut harness.out);
    let answer = harness.answer();
    assert_eq!((answer.bhs[2], field(&answer, 24), field(&answer, 32)), (0, 100, 1 + COMMANDS_MAX));
}

#[test]
fn a_set_is_that_of_its_unit() {
    for (function, lun, left) in [
        (2, LUN, false),
        (4, LUN, false),
        (5, LUN, false),
        (6, [0; 8], false),
        // The same unit, written in another way.
        (2, [0x40, 1, 0, 0, 0, 0, 0, 0], false),
        (2, [0, 2, 0, 0, 0, 0, 0, 0], true),
        (5, [0; 8], true),
    ] {
        let mut harness = Harness::new();
        harness.good(command(WRITE, 1, 1024, b""));
        let ttt = field(&harness.answer(), 20);
        harness.good(request(function, lun, 0));
        managing(&mut harness);
        let tags = [1u32.to_be_bytes(), ttt.to_be_bytes()].concat();
        harness.good(pdu(&[(0, &[0x05, 0x80]), (16, &tags)], &[7; 1024]));
        assert_eq!(!harness.executing().is_empty(), left, "{function} {lun:?}");
    }
}

#[test]
fn functions_at_a_time_are_limited() {
    let mut harness = Harness::new();
    for _ in 0..IMMEDIATES_MAX {
        harness.good(request(5, LUN, 0));
    }
    assert!(harness.answers().is_empty());
    harness.good(request(5, LUN, 0));
    assert_eq!(harness.answer().bhs[..3], [0x3f, 0x80, 6]);
}

/// Commands with attributes, 1 simple, 2 ordered, 3 head of queue; each has the tag of its place.
fn attributed(harness: &mut Harness, attributes: &[u8]) {
    for (itt, attribute) in (1..).zip(attributes) {
        let mut command = command(READ, itt, 0, b"");
        command.bhs[1] = READ | attribute;
        harness.good(command);
    }
}

fn tags(harness: &mut Harness) -> Vec<u32> {
    harness.executing().into_iter().map(|(itt, _)| itt).collect()
}

#[test]
fn simple_tasks_run_together() {
    let mut harness = Harness::new();
    attributed(&mut harness, &[1, 0, 1]);
    assert_eq!(tags(&mut harness), [1, 2, 3]);
}

#[test]
fn an_ordered_task_is_a_fence() {
    let mut harness = Harness::new();
    attributed(&mut harness, &[1, 1, 2, 1, 3]);
    assert_eq!(tags(&mut harness), [1, 2, 5], "head of queue goes past it");
    harness.complete(1, 0, &[]);
    harness.complete(5, 0, &[]);
    assert_eq!(tags(&mut harness), [0; 0]);
    harness.complete(2, 0, &[]);
    assert_eq!(tags(&mut harness), [3]);
    harness.complete(3, 0, &[]);
    assert_eq!(tags(&mut harness), [4]);
}

#[test]
fn an_ordered_task_that_is_aborted_is_no_fence() {
    let mut harness = Harness::new();
    attributed(&mut harness, &[1, 2, 1]);
    assert_eq!(tags(&mut harness), [1]);
    harness.good(request(1, LUN, 2));
    assert_eq!(tags(&mut harness), [3]);
}

#[test]
fn a_fence_is_for_its_unit_only() {
    let mut harness = Harness::new();
    attributed(&mut harness, &[1, 2]);
    let mut other = command(READ, 3, 0, b"");
    other.bhs[9] = 2;
    harness.good(other);
    assert_eq!(tags(&mut harness), [1, 3]);
}

#[test]
fn a_fence_holds_while_data_is_on_its_way() {
    let mut harness = Harness::new();
    harness.good(command(WRITE, 1, 1024, b""));
    let ttt = field(&harness.answer(), 20);
    let mut ordered = command(READ, 2, 0, b"");
    ordered.bhs[1] = READ | 2;
    harness.good(ordered);
    assert_eq!(tags(&mut harness), [0; 0]);
    let data = [1u32.to_be_bytes(), ttt.to_be_bytes()].concat();
    harness.good(pdu(&[(0, &[0x05, 0x80]), (16, &data)], &[7; 1024]));
    assert_eq!(tags(&mut harness), [1]);
    harness.complete(1, 0, &[]);
    assert_eq!(tags(&mut harness), [2]);
}
