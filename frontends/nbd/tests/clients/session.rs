//! A session over a stream in memory and a device that misbehaves, with virtual time.

use std::sync::Arc;
use std::time::Duration;

use curve_blockdev::{BlockDevice, BlockError, Fault, FaultRates, Faulty, MemoryDevice, Operation};
use curve_nbd::exports::{Export, Exports};
use curve_nbd::session::{self, SessionContext, SessionError};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::raw::{EINVAL, EIO, ENOSPC, ENOTSUP, EPERM, Framing, OK, READ, RawClient, WRITE};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

struct Fixture {
    memory: Arc<MemoryDevice>,
    device: Arc<Faulty<MemoryDevice>>,
    stop: watch::Sender<bool>,
    session: JoinHandle<Result<(), SessionError>>,
}

/// A session, and a stream to it that has not said anything yet.
fn begin() -> (Fixture, DuplexStream) {
    let memory = Arc::new(MemoryDevice::new(64 << 20, 4096));
    let device = Arc::new(Faulty::new(memory.clone(), 1, FaultRates::default()));
    let (stop, stopping) = watch::channel(false);
    let (near, far) = tokio::io::duplex(64 << 10);
    let export = Export { name: "/demo".to_owned(), description: String::new(), device: device.clone() };
    let session = tokio::spawn(async move {
        let exports = Exports::new(vec![export]);
        let context = SessionContext { exports: &exports, tls: None, handshake_timeout: HANDSHAKE_TIMEOUT };
        session::serve(far, context, oneshot::channel().1, stopping).await
    });
    (Fixture { memory, device, stop, session }, near)
}

async fn connected() -> (Fixture, RawClient<DuplexStream>) {
    let (fixture, near) = begin();
    let client = RawClient::connect(near, Framing::Structured, "demo").await;
    (fixture, client)
}

#[tokio::test(start_paused = true)]
async fn a_slow_request_holds_nobody_up() {
    let (fixture, mut client) = connected().await;
    fixture.device.fail_next(Operation::Read, Fault::Delay(Duration::from_secs(5)));
    let slow = client.send(READ, 0, 0, 4096, &[]).await;
    let quick = client.send(READ, 0, 0, 4096, &[]).await;
    let begin = Instant::now();
    assert_eq!(client.receive().await.cookie, quick);
    assert!(begin.elapsed() < Duration::from_secs(1));
    assert_eq!(client.receive().await.cookie, slow);
    assert!(begin.elapsed() >= Duration::from_secs(5));
}

#[tokio::test]
async fn what_the_device_says_reaches_the_client() {
    let (fixture, mut client) = connected().await;
    let range = BlockError::BadRange { offset: 0, len: 4096, size: 0 };
    for (error, number) in [
        (range, EINVAL),
        (BlockError::ReadOnly, EPERM),
        (BlockError::Fenced, EPERM),
        (BlockError::NoSpace, ENOSPC),
        (BlockError::TimedOut { seconds: 1 }, EIO),
        (BlockError::Corrupt { offset: 0, len: 4096 }, EIO),
        (BlockError::Io("x".to_owned()), EIO),
        (BlockError::Unsupported("x"), ENOTSUP),
        (BlockError::Closed, 108),
    ] {
        fixture.device.fail_next(Operation::Write, Fault::Refuse(error.clone()));
        assert_eq!(client.write(0, &[1; 4096]).await, number, "{error}");
        fixture.device.fail_next(Operation::Read, Fault::Refuse(error));
        assert_eq!(client.ask(READ, 0, 0, 4096).await.error, number);
    }
    assert_eq!(client.write(0, &[1; 4096]).await, OK);
}

#[tokio::test(start_paused = true)]
async fn stopping_answers_what_is_in_flight() {
    let (fixture, mut client) = connected().await;
    fixture.device.fail_next(Operation::Write, Fault::Delay(Duration::from_secs(3)));
    let cookie = client.send(WRITE, 0, 0, 4096, &[9; 4096]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    fixture.stop.send_replace(true);
    let reply = client.receive().await;
    assert_eq!((reply.cookie, reply.error), (cookie, OK));
    assert!(client.is_closed().await);
    fixture.session.await.expect("no panic").expect("an orderly end");
    assert_eq!(fixture.memory.read(0, 4096).await.unwrap().concat(), vec![9; 4096]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_vanishes_does_not_cut_its_requests_off() {
    let (fixture, mut client) = connected().await;
    fixture.device.fail_next(Operation::Write, Fault::Delay(Duration::from_secs(3)));
    client.send(WRITE, 0, 0, 4096, &[9; 4096]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(client);
    let _ = fixture.session.await.expect("no panic");
    assert_eq!(fixture.memory.read(0, 4096).await.unwrap().concat(), vec![9; 4096]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_take_its_replies_is_not_served_without_end() {
    let (_fixture, mut client) = connected().await;
    let mut requests = Vec::new();
    for _ in 0..20_000 {
        requests.extend(client.header(READ, 1 << 2, 0, 1 << 20));
    }
    // Data, not holes: a hole's reply is small.
    for block in 0..16 {
        assert_eq!(client.write(block << 16, &[1; 64 << 10]).await, OK);
    }
    let sent = timeout(Duration::from_secs(10), client.stream.write_all(&requests)).await;
    assert!(sent.is_err(), "20,000 requests of 1 MiB each were taken from a client that reads nothing");
    // And once it reads, it is served on.
    client.stream.read_exact(&mut [0; 28]).await.expect("a reply");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_dropped() {
    let (fixture, near) = begin();
    let begin = Instant::now();
    assert!(matches!(fixture.session.await.expect("no panic"), Err(SessionError::Slow(_))));
    assert_eq!(begin.elapsed().as_secs(), HANDSHAKE_TIMEOUT.as_secs());
    drop(near);
}

#[tokio::test(start_paused = true)]
async fn an_idle_client_stays() {
    let (_fixture, mut client) = connected().await;
    tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
    assert_eq!(client.write(0, &[1; 4096]).await, OK);
}
