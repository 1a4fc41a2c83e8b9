//! Bad input and bad people, through real sockets: they are refused or bounded, told of once, and nobody else notices.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use curve_iscsi::server::ServerLimits;
use curve_serving::admission::Limits;
use md5::{Digest, Md5};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::initiator::{Initiator, LoginAnswer, NONE, bhs, field};
use crate::world::{ALICE, GUARDED, OPEN, World};

const LIMITS: ServerLimits = ServerLimits {
    admission: Limits { connections: 4096, of_peer: 4096, newcomers: 512 },
    login_timeout: Duration::from_secs(30),
};
/// Where bad people connect from, and where good ones do.
const BAD: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 66));
const GOOD: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 7));
/// More than any answer takes on a busy machine that runs a debug build.
const PATIENCE: Duration = Duration::from_secs(20);

async fn connect(from: IpAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.connect(to).await
}

async fn initiator(from: IpAddr, to: SocketAddr) -> Initiator<TcpStream> {
    Initiator::new(connect(from, to).await.expect("the gateway accepts"), 1)
}

/// A session with the open target.
async fn session(to: SocketAddr, from: IpAddr, name: &str) -> Initiator<TcpStream> {
    let mut initiator = initiator(from, to).await;
    let names = format!("InitiatorName={name} TargetName={OPEN} InitialR2T=Yes ImmediateData=No");
    let answer = initiator.login(0x87, &names).await;
    assert_eq!(answer.status, 0, "{answer:?}");
    initiator
}

/// A session that reads all the time, and how long its slowest read took.
async fn probe(to: SocketAddr, until: impl Future<Output = ()>) -> Duration {
    let mut probe = session(to, GOOD, "iqn.i:good").await;
    probe.settle().await;
    let mut latencies = Vec::new();
    let mut until = Box::pin(until);
    loop {
        let begin = Instant::now();
        assert_eq!(timeout(PATIENCE, probe.read(0, 8)).await.expect("an answer").len(), 4096);
        latencies.push(begin.elapsed());
        if timeout(Duration::from_millis(1), &mut until).await.is_ok() {
            break;
        }
    }
    latencies.sort();
    let (median, worst) = (latencies[latencies.len() / 2], latencies[latencies.len() - 1]);
    println!("{} reads meanwhile: median {median:?}, worst {worst:?}", latencies.len());
    worst
}

/// Ends when the gateway has closed the connection.
async fn closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    // A reset is an end, too.
    let _ =
        timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the gateway closes the connection");
}

/// The first steps of a login with CHAP; gives the answer with the challenge.
async fn challenged(to: SocketAddr) -> (Initiator<TcpStream>, LoginAnswer) {
    let mut initiator = initiator(BAD, to).await;
    let names = format!("InitiatorName={ALICE} TargetName={GUARDED} AuthMethod=CHAP");
    assert_eq!(initiator.login(0x81, &names).await.status, 0);
    let answer = initiator.login(0x00, "CHAP_A=5").await;
    (initiator, answer)
}

/// What answers a challenge.
fn response(challenge: &str, secret: &[u8]) -> String {
    let value = |key: &str| {
        let pair = challenge.split(' ').find_map(|pair| pair.strip_prefix(key));
        pair.unwrap_or_else(|| panic!("no {key} in {challenge}"))
    };
    let id: u8 = value("CHAP_I=").parse().expect("a number");
    let digits = value("CHAP_C=0x").as_bytes().chunks(2);
    let bytes: Vec<u8> = digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("digits"))
        .collect();
    let hash = Md5::digest([&[id], secret, &bytes].concat());
    hash.iter().fold("CHAP_N=alice CHAP_R=0x".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

#[tokio::test]
async fn bad_logins_are_refused_and_told_of_once() {
    let world = World::new();
    let to = world.listen(LIMITS);
    let (mut right, challenge) = challenged(to).await;
    let recorded = response(&challenge.text, b"secret of alice");
    assert_eq!(right.login(0x81, &recorded).await.status, 0);
    for _ in 0..30 {
        // Not the secret; what was right for another challenge; the gateway's own challenge as a name.
        let (mut wrong, challenge) = challenged(to).await;
        assert_eq!(wrong.login(0x81, &response(&challenge.text, b"secret of bob")).await.status, 0x0201);
        let (mut replayed, other) = challenged(to).await;
        assert_ne!(challenge.text, other.text);
        assert_eq!(replayed.login(0x81, &recorded).await.status, 0x0201);
        closed(&mut replayed.stream).await;
        for (names, status) in [
            ("InitiatorName=iqn.i:a TargetName=iqn.t:none".to_owned(), 0x0203),
            (format!("InitiatorName=iqn.i:mallory TargetName={GUARDED}"), 0x0202),
        ] {
            let mut foreign = initiator(BAD, to).await;
            assert_eq!(foreign.login(0x87, &names).await.status, status);
            closed(&mut foreign.stream).await;
        }
    }
    let log = world.log();
    for (what, times) in [
        ("authentication failed", 1),
        ("no such target", 1),
        ("this initiator may not use this target", 1),
        ("dropped", 3),
    ] {
        assert_eq!(log.matches(what).count(), times, "`{what}` in:\n{log}");
    }
    assert!(log.contains("127.0.0.66"), "{log}");
}

#[tokio::test]
async fn oversize_and_senseless_input_ends_its_connection() {
    let world = World::new();
    let to = world.listen(LIMITS);
    let names = format!("InitiatorName=iqn.i:a\0TargetName={OPEN}\0");
    // A text that goes on and on.
    let mut endless = initiator(BAD, to).await;
    let request = bhs(&[(0, &[0x43, 0x44]), (8, &[1; 6])]);
    endless.send(&request, names.as_bytes()).await;
    let mut status = 0;
    for _ in 0..8 {
        let answer = endless.pdu().await;
        status = u16::from_be_bytes([answer.bhs[36], answer.bhs[37]]);
        if status != 0 {
            break;
        }
        endless.send(&request, &[b'x'; 8000]).await;
    }
    assert_eq!(status, 0x0200);
    closed(&mut endless.stream).await;
    // A segment that is longer than a login's may be; something that is no iSCSI; the end in the middle.
    let long = bhs(&[(0, &[0x43, 0x87]), (5, &[0xff; 3])]);
    for wire in
        [&long[..], &[0xff; 9000], b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n................................"]
    {
        let mut stream = connect(BAD, to).await.expect("the gateway accepts");
        // The gateway may be quicker to close than we are to write.
        let _ = stream.write_all(wire).await;
        let _ = stream.shutdown().await;
        closed(&mut stream).await;
    }
    session(to, GOOD, "iqn.i:good").await.settle().await;
}

#[tokio::test]
async fn data_beyond_what_was_announced_reaches_nothing() {
    let world = World::new();
    let to = world.listen(LIMITS);
    let data = Bytes::from(vec![7; 4096]);
    for (offset, len) in [(0, 4096), (1024, 512), (u32::MAX, 512)] {
        let mut initiator = session(to, BAD, "iqn.i:a").await;
        initiator.settle().await;
        let itt = initiator.command(0xa0, &crate::initiator::cdb(0x2a, 0, 2), 1024, b"").await;
        let r2t = initiator.pdu().await;
        assert_eq!((r2t.bhs[0], field(&r2t, 40), field(&r2t, 44)), (0x31, 0, 1024));
        initiator.data_out(itt, field(&r2t, 20), 0, offset, &data[..len], true).await;
        let response = initiator.finish(itt).await;
        assert_eq!(response.status, 2, "{response:02x?}");
        assert_eq!(response.sense[2] & 0xf, 0xb, "ABORTED COMMAND");
        // The session goes on, and nothing was written.
        assert_eq!(initiator.read(0, 8).await, vec![0; 4096]);
    }
    // A command with more data than it announces breaks the protocol.
    let mut initiator = session(to, BAD, "iqn.i:a").await;
    initiator.settle().await;
    initiator.command(0xa0, &crate::initiator::cdb(0x2a, 0, 1), 512, &data[..1024]).await;
    assert_eq!(initiator.pdu().await.bhs[0], 0x3f);
    closed(&mut initiator.stream).await;
    assert_eq!(world.read(0, 4096).await, vec![0; 4096]);
}

/// As many descriptors as this process may have; gives their number.
fn descriptors() -> u64 {
    let maximum = getrlimit(Resource::Nofile).maximum;
    // Should it not be allowed, what there is will do: the number of connections follows from it.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(1 << 20)
}

/// Answers pings and does nothing else until the sender is gone.
async fn stay(mut idle: Initiator<TcpStream>, mut waiting: watch::Receiver<()>) -> Initiator<TcpStream> {
    loop {
        tokio::select! {
            pdu = idle.receive() => {
                let ping = pdu.expect("the session goes on");
                idle.nop(NONE, field(&ping, 20)).await;
            }
            // An error, as nothing is ever sent.
            _ = waiting.changed() => return idle,
        }
    }
}

/// 10,000 connections that say nothing, or as many as this process may have, and sessions that do nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_keep_nobody_out_and_nobody_waiting() {
    // Both ends of what the gateway keeps open are ours, too, and other tests run beside this one.
    const KEPT: u64 = 512 + 2 * 200;
    let silent = 10_000.min(descriptors().saturating_sub(KEPT + 600)) as usize;
    println!("{silent} silent connections");
    let world = World::new();
    let to = world.listen(LIMITS);
    let flood = async move {
        let (done, waiting) = watch::channel(());
        let mut sessions = Vec::new();
        for number in 0..200 {
            let idle = session(to, BAD, &format!("iqn.i:idle-{number}")).await;
            sessions.push(tokio::spawn(stay(idle, waiting.clone())));
        }
        drop(waiting);
        let begun = Instant::now();
        let mut held = Vec::new();
        for _ in 0..silent {
            held.push(connect(BAD, to).await.expect("the gateway accepts"));
        }
        println!("they took {:?}", begun.elapsed());
        // A newcomer from elsewhere gets in; the flood has only made room for itself.
        let begin = Instant::now();
        session(to, GOOD, "iqn.i:late").await.settle().await;
        println!("a login beside them took {:?}", begin.elapsed());
        assert!(begin.elapsed() < PATIENCE);
        // Sessions have not been thrown out.
        drop(done);
        for idle in sessions {
            idle.await.expect("no panic").settle().await;
        }
    };
    let flood = tokio::spawn(flood);
    let worst = probe(to, async { flood.await.expect("the flood went as it should") }).await;
    assert!(worst < Duration::from_secs(5), "{worst:?}");
    let log = world.log();
    assert!(log.matches("make room").count() <= 1 && log.lines().count() < 450, "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_of_a_byte_a_second_end() {
    let world = World::new();
    let login_timeout = Duration::from_secs(3);
    let to = world.listen(ServerLimits { login_timeout, ..LIMITS });
    let dripping = async move {
        let begin = Instant::now();
        let loris = |_| async move {
            let mut stream = connect(BAD, to).await.expect("the gateway accepts");
            for byte in bhs(&[(0, &[0x43, 0x87])]) {
                if stream.write_all(&[byte]).await.is_err() {
                    break;
                }
                let mut gone = [0];
                // Nothing is ever answered to half a header, so that an end is all that can come.
                if timeout(Duration::from_secs(1), stream.read(&mut gone)).await.is_ok() {
                    break;
                }
            }
        };
        futures::future::join_all((0..100).map(loris)).await;
        assert!(begin.elapsed() < 4 * login_timeout, "{:?}", begin.elapsed());
    };
    let dripping = tokio::spawn(dripping);
    let worst = probe(to, async { dripping.await.expect("the drip went as it should") }).await;
    assert!(worst < Duration::from_secs(2), "{worst:?}");
    let log = world.log();
    assert_eq!(log.matches("no login within 3 s").count(), 1, "{log}");
}

#[tokio::test]
async fn a_host_has_a_share_of_the_connections() {
    let world = World::new();
    let admission = Limits { connections: 8, of_peer: 4, newcomers: 4 };
    let to = world.listen(ServerLimits { admission, ..LIMITS });
    let mut greedy = Vec::new();
    for number in 0..4 {
        greedy.push(session(to, BAD, &format!("iqn.i:greedy-{number}")).await);
    }
    for _ in 0..10 {
        let mut refused = connect(BAD, to).await.expect("the gateway accepts");
        closed(&mut refused).await;
    }
    session(to, GOOD, "iqn.i:good").await.settle().await;
    // A place is free again once its session is over.
    greedy.pop().expect("four").logout().await;
    let begin = Instant::now();
    loop {
        let mut next = initiator(BAD, to).await;
        let request = bhs(&[(0, &[0x43, 0x87]), (8, &[1; 6])]);
        next.send(&request, format!("InitiatorName=iqn.i:next\0TargetName={OPEN}\0").as_bytes()).await;
        if next.receive().await.is_some() {
            break;
        }
        assert!(begin.elapsed() < PATIENCE);
        sleep(Duration::from_millis(5)).await;
    }
    let log = world.log();
    assert_eq!(log.matches("as many as one host may have").count(), 1, "{log}");
}
