//! What an abort promises: after it, a write has happened or never will.

use std::sync::Arc;

use bytes::Bytes;
use curve_blockdev::MemoryDevice;
use tokio::io::DuplexStream;

use crate::gate::Gated;
use crate::initiator::{Initiator, field};
use crate::world::World;

const ABORT_TASK: u8 = 1;
const ABORT_TASK_SET: u8 = 2;
const CLEAR_TASK_SET: u8 = 4;
const RESET_UNIT: u8 = 5;
const RESET_TARGET: u8 = 6;

fn gated() -> (Arc<Gated>, World) {
    let gate = Gated::new(Arc::new(MemoryDevice::new(1 << 20, 512)));
    (gate.clone(), World::with(gate))
}

/// That no PDU comes for a while.
async fn is_quiet(initiator: &mut Initiator<DuplexStream>) {
    let quiet = tokio::time::timeout(std::time::Duration::from_secs(2), initiator.receive()).await;
    assert!(quiet.is_err(), "{quiet:?}");
}

async fn outcome(initiator: &mut Initiator<DuplexStream>, itt: u32) -> u8 {
    let pdu = initiator.pdu().await;
    assert_eq!((pdu.bhs[0], field(&pdu, 16)), (0x22, itt), "{:02x?}", pdu.bhs);
    pdu.bhs[2]
}

#[tokio::test(start_paused = true)]
async fn an_abort_waits_for_a_write_that_is_under_way() {
    for function in [ABORT_TASK, ABORT_TASK_SET, CLEAR_TASK_SET, RESET_UNIT, RESET_TARGET] {
        let (gate, world) = gated();
        let (mut initiator, _served) = world.login(1, "").await;
        initiator.settle().await;
        let write = initiator.begin_write(0, &Bytes::from(vec![7; 512]), 512).await;
        gate.arrived(1).await;
        let abort = initiator.manage(function, write).await;
        is_quiet(&mut initiator).await;
        gate.open();
        // The aborted write has no answer of its own.
        assert_eq!(outcome(&mut initiator, abort).await, 0, "function {function}");
        assert_eq!(world.read(0, 512).await, [7; 512]);
        is_quiet(&mut initiator).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_waits_for_its_data_never_happens() {
    for function in [ABORT_TASK, ABORT_TASK_SET, CLEAR_TASK_SET, RESET_UNIT, RESET_TARGET] {
        let world = World::new();
        let (mut initiator, _served) = world.login(1, "ImmediateData=No").await;
        initiator.settle().await;
        let write = initiator.begin_write(0, &Bytes::from(vec![7; 512]), 0).await;
        let ttt = field(&initiator.pdu().await, 20);
        let abort = initiator.manage(function, write).await;
        assert_eq!(outcome(&mut initiator, abort).await, 0, "function {function}");
        initiator.data_out(write, ttt, 0, 0, &[7; 512], true).await;
        is_quiet(&mut initiator).await;
        assert_eq!(world.read(0, 512).await, [0; 512]);
        // The session is as good as before, once it knows what happened.
        initiator.settle().await;
        assert_eq!(initiator.read(0, 1).await, [0; 512]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_was_answered_is_no_task_any_more() {
    let world = World::new();
    let (mut initiator, _served) = world.login(1, "").await;
    initiator.settle().await;
    let write = initiator.begin_write(0, &Bytes::from(vec![7; 512]), 512).await;
    assert_eq!(initiator.finish(write).await.status, 0);
    let abort = initiator.manage(ABORT_TASK, write).await;
    assert_eq!(outcome(&mut initiator, abort).await, 1);
}

#[tokio::test(start_paused = true)]
async fn another_initiators_write_is_cleared_or_reset() {
    for function in [CLEAR_TASK_SET, RESET_UNIT, RESET_TARGET] {
        let (gate, world) = gated();
        let (mut writer, _writing) = world.login(1, "").await;
        let (mut other, _managing) = world.login(2, "").await;
        writer.settle().await;
        other.settle().await;
        writer.begin_write(0, &Bytes::from(vec![7; 512]), 512).await;
        gate.arrived(1).await;
        let clear = other.manage(function, 0).await;
        is_quiet(&mut other).await;
        gate.open();
        assert_eq!(outcome(&mut other, clear).await, 0);
        assert_eq!(world.read(0, 512).await, [7; 512]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_after_an_abort_of_all_is_not_aborted() {
    let (gate, world) = gated();
    let (mut initiator, _served) = world.login(1, "").await;
    initiator.settle().await;
    initiator.begin_write(0, &Bytes::from(vec![7; 512]), 512).await;
    gate.arrived(1).await;
    let abort = initiator.manage(ABORT_TASK_SET, 0).await;
    let read = initiator.command(0xc0, &crate::initiator::cdb(0x28, 9, 1), 512, b"").await;
    assert_eq!(initiator.finish(read).await.status, 0);
    gate.open();
    assert_eq!(outcome(&mut initiator, abort).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_unit_that_is_not_there_cannot_be_managed() {
    let world = World::new();
    let (mut initiator, _served) = world.login(1, "").await;
    for function in [ABORT_TASK_SET, CLEAR_TASK_SET, RESET_UNIT] {
        let mut request = crate::initiator::bhs(&[(0, &[0x42, 0x80 | function]), (9, &[5]), (19, &[77])]);
        request[24..28].copy_from_slice(&initiator.number.to_be_bytes());
        initiator.send(&request, b"").await;
        assert_eq!(outcome(&mut initiator, 77).await, 2);
    }
}
