//! How sessions begin and end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use curve_blockdev::MemoryDevice;
use curve_iscsi::session::{LOGIN_TIMEOUT, LOGOUT_WAIT, SILENCE_MAX, SessionError};
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, sleep, timeout};

use crate::gate::Gated;
use crate::initiator::{Initiator, NONE, bhs, field};
use crate::world::{ALICE, GUARDED, OPEN, Served, World};

async fn ended(served: Served) -> SessionError {
    served.ended.await.expect("no panic").expect_err("it did not end in order")
}

#[tokio::test(start_paused = true)]
async fn logins_that_are_refused() {
    for (text, flags, status) in [
        (format!("InitiatorName=iqn.i:a TargetName={OPEN}"), 0x87, 0),
        ("InitiatorName=iqn.i:a TargetName=iqn.t:none".to_owned(), 0x87, 0x0203),
        (format!("InitiatorName=iqn.i:a TargetName={GUARDED} AuthMethod=CHAP"), 0x81, 0x0202),
        (format!("InitiatorName={ALICE} TargetName={GUARDED} AuthMethod=None"), 0x81, 0x0201),
        (format!("InitiatorName={ALICE} TargetName={GUARDED}"), 0x87, 0x0201),
    ] {
        let world = World::new();
        let (stream, served) = world.connect();
        let mut initiator = Initiator::new(stream, 1);
        let answer = initiator.login(flags, &text).await;
        assert_eq!(answer.status, status, "{text}");
        if status != 0 {
            assert_eq!(initiator.receive().await, None);
            assert!(matches!(ended(served).await, SessionError::Refused { .. }));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_guess_is_refused_by_the_whole_gateway() {
    let world = World::new();
    let (stream, served) = world.connect();
    let mut initiator = Initiator::new(stream, 1);
    let answer =
        initiator.login(0x81, &format!("InitiatorName={ALICE} TargetName={GUARDED} AuthMethod=CHAP")).await;
    assert_eq!((answer.status, answer.flags), (0, 0));
    let first = initiator.login(0x00, "CHAP_A=7,5").await.text;
    assert!(first.starts_with("CHAP_A=7 CHAP_I="), "{first}");
    let answer = initiator.login(0x81, &format!("CHAP_N=alice CHAP_R=0x{}", "00".repeat(32))).await;
    assert_eq!(answer.status, 0x0201);
    ended(served).await;
    // The next challenge is another one.
    let (stream, _served) = world.connect();
    let mut initiator = Initiator::new(stream, 1);
    initiator.login(0x81, &format!("InitiatorName={ALICE} TargetName={GUARDED} AuthMethod=CHAP")).await;
    assert_ne!(initiator.login(0x00, "CHAP_A=7,5").await.text, first);
}

#[tokio::test(start_paused = true)]
async fn discovery() {
    let world = World::new();
    for (initiator, targets) in [("iqn.i:a", 1), (ALICE, 2)] {
        let (stream, served) = world.connect();
        let mut session = Initiator::new(stream, 1);
        let answer = session.login(0x87, &format!("InitiatorName={initiator} SessionType=Discovery")).await;
        assert!(answer.status == 0 && answer.tsih != 0);
        let request = bhs(&[(0, &[0x04, 0x80]), (16, &[0, 0, 0, 5]), (20, &NONE.to_be_bytes()), (27, &[1])]);
        session.send(&request, b"SendTargets=All\0").await;
        let answer = session.pdu().await;
        let text = String::from_utf8(answer.data.to_vec()).expect("text");
        assert_eq!(text.matches("TargetName=").count(), targets, "{text}");
        assert_eq!(text.matches("TargetAddress=10.0.0.1:3260,1\0").count(), targets, "{text}");
        session.number = 2;
        session.logout().await;
        served.ended.await.expect("no panic").expect("it ended in order");
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_login_of_a_port_ends_the_first_with_all_its_commands() {
    let gate = Gated::new(Arc::new(MemoryDevice::new(1 << 20, 512)));
    let world = Arc::new(World::with(gate.clone()));
    let (mut first, served) = world.login(1, "").await;
    first.settle().await;
    first.begin_write(0, &Bytes::from(vec![7; 512]), 512).await;
    gate.arrived(1).await;
    let second = tokio::spawn({
        let world = world.clone();
        async move { world.login(1, "").await.0.read_when_ready().await }
    });
    assert_eq!(first.receive().await, None, "the first sees its end at once");
    sleep(Duration::from_secs(5)).await;
    assert!(!second.is_finished(), "a write of the first is still under way");
    gate.open();
    assert_eq!(second.await.expect("no panic"), [7; 512]);
    assert!(matches!(ended(served).await, SessionError::Replaced));
    // Another ISID is another port.
    let (mut third, _third) = world.login(2, "").await;
    let (mut fourth, _fourth) = world.login(3, "").await;
    third.settle().await;
    fourth.settle().await;
}

impl Initiator<DuplexStream> {
    async fn read_when_ready(mut self) -> Vec<u8> {
        self.settle().await;
        self.read(0, 1).await
    }
}

#[tokio::test(start_paused = true)]
async fn connections_cannot_join_a_session() {
    let world = World::new();
    let (stream, _first) = world.connect();
    let mut first = Initiator::new(stream, 1);
    let names = format!("InitiatorName=iqn.i:a TargetName={OPEN}\0").replace(' ', "\0");
    let tsih = first.login(0x87, &names.replace('\0', " ")).await.tsih;
    for (tsih, status) in [(tsih, 0x0206u16), (tsih.wrapping_add(1), 0x020a)] {
        let (stream, _served) = world.connect();
        let mut second = Initiator::new(stream, 1);
        let tsih = tsih.to_be_bytes();
        second
            .send(&bhs(&[(0, &[0x43, 0x87]), (8, &[1; 6]), (14, &tsih), (21, &[2])]), names.as_bytes())
            .await;
        assert_eq!(second.pdu().await.bhs[36..38], status.to_be_bytes());
    }
}

#[tokio::test(start_paused = true)]
async fn silent_initiators_are_pinged_then_dropped() {
    let world = World::new();
    let (mut initiator, served) = world.login(1, "").await;
    let begin = Instant::now();
    // One that answers stays.
    for _ in 0..5 {
        let ping = initiator.pdu().await;
        assert_eq!((ping.bhs[0], field(&ping, 16)), (0x20, NONE));
        initiator.nop(NONE, field(&ping, 20)).await;
    }
    assert!(begin.elapsed() >= 4 * SILENCE_MAX, "{:?}", begin.elapsed());
    assert_eq!(initiator.pdu().await.bhs[0], 0x20);
    assert_eq!(initiator.receive().await, None);
    assert!(matches!(ended(served).await, SessionError::Silent));
}

/// A gateway that was stopped finds commands in its socket that their initiator has given up, and written again elsewhere.
#[tokio::test(start_paused = true)]
async fn what_came_before_a_stall_is_not_begun() {
    let clock = Arc::new(AtomicU64::new(0));
    let world = World::new().with_clock(clock.clone());
    let (mut initiator, served) = world.login(1, "").await;
    initiator.settle().await;
    clock.store(3, Ordering::Relaxed);
    assert_eq!(initiator.read(0, 1).await, [0; 512], "that was no stall");
    clock.store(7, Ordering::Relaxed);
    let data = Bytes::from(vec![7; 512]);
    initiator.begin_write(0, &data, 512).await;
    assert_eq!(initiator.receive().await, None);
    assert!(matches!(ended(served).await, SessionError::Stalled));
    assert_eq!(world.read(0, 512).await, [0; 512]);
    let (mut initiator, _served) = world.login(1, "").await;
    initiator.settle().await;
    assert_eq!(initiator.read(0, 1).await, [0; 512]);
}

#[tokio::test(start_paused = true)]
async fn slow_logins_end() {
    let world = World::new();
    let (mut stream, served) = world.connect();
    let begin = Instant::now();
    let dripping = async {
        for byte in bhs(&[(0, &[0x43, 0x87])]) {
            if stream.write_all(&[byte]).await.is_err() {
                return;
            }
            sleep(Duration::from_secs(5)).await;
        }
    };
    dripping.await;
    assert!(matches!(ended(served).await, SessionError::Slow(_)));
    assert!(begin.elapsed() < 2 * LOGIN_TIMEOUT, "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn newcomers_can_be_evicted_and_sessions_cannot() {
    let world = World::new();
    let (_stream, served) = world.connect();
    served.evict.send(()).expect("it waits");
    assert!(matches!(served.ended.await.expect("no panic"), Err(SessionError::Evicted)));
    let (mut initiator, served) = world.login(1, "").await;
    assert!(served.evict.send(()).is_err());
    initiator.settle().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_login_ends_the_connection() {
    for wire in [&b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: a browser\r\n\r\n"[..], &[0; 48]] {
        let world = World::new();
        let (mut stream, served) = world.connect();
        stream.write_all(wire).await.expect("the gateway reads");
        drop(stream);
        ended(served).await;
    }
}

#[tokio::test(start_paused = true)]
async fn at_the_end_initiators_are_asked_to_log_out() {
    let world = World::new();
    let (mut initiator, served) = world.login(1, "").await;
    world.stop();
    let message = initiator.pdu().await;
    assert_eq!(
        (message.bhs[0], message.bhs[36], u64::from(message.bhs[43])),
        (0x32, 1, LOGOUT_WAIT.as_secs())
    );
    // Commands are served until then.
    initiator.settle().await;
    initiator.logout().await;
    served.ended.await.expect("no panic").expect("it ended in order");
}

#[tokio::test(start_paused = true)]
async fn commands_in_flight_are_answered_at_the_end() {
    let gate = Gated::new(Arc::new(MemoryDevice::new(1 << 20, 512)));
    let world = World::with(gate.clone());
    let (mut initiator, served) = world.login(1, "").await;
    initiator.settle().await;
    let write = initiator.begin_write(0, &Bytes::from(vec![7; 512]), 512).await;
    gate.arrived(1).await;
    world.stop();
    assert_eq!(initiator.pdu().await.bhs[0], 0x32);
    // It does not log out; its command is waited for all the same.
    assert!(timeout(2 * LOGOUT_WAIT, initiator.receive()).await.is_err());
    gate.open();
    assert_eq!(initiator.finish(write).await.status, 0);
    assert_eq!(initiator.receive().await, None);
    served.ended.await.expect("no panic").expect("it ended in order");
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_leaves_no_command_behind() {
    let gate = Gated::new(Arc::new(MemoryDevice::new(1 << 20, 512)));
    let world = World::with(gate.clone());
    let (mut initiator, served) = world.login(1, "").await;
    initiator.settle().await;
    initiator.begin_write(0, &Bytes::from(vec![7; 512]), 512).await;
    gate.arrived(1).await;
    drop(initiator);
    sleep(Duration::from_secs(5)).await;
    assert!(!served.ended.is_finished(), "its write is under way");
    gate.open();
    ended(served).await;
    assert_eq!(world.read(0, 512).await, [7; 512]);
}
