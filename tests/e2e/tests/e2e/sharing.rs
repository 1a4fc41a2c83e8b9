//! Several holders of one volume: who is shut out when, and that those who share see each other's writes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use curve_e2e::turn;
use curve_harness::checker::{BLOCK, Found, Stamp, read_stamp};
use curve_harness::nbd::{NbdClient, NbdError};
use curve_harness::{Playground, PlaygroundOptions};
use serde_json::Value;
use tokio::task::JoinSet;

/// The protocol's EPERM, which a fenced volume answers.
const NOT_PERMITTED: u32 = 1;
const SEGMENT: u64 = 1 << 30;
const WRITERS: u64 = 64;

/// A cluster with short leases and a volume `/vol`.
async fn cluster() -> Playground {
    let more = ["--mds-set", "lease = \"3s\""].map(str::to_owned).to_vec();
    let options = PlaygroundOptions { more, ..PlaygroundOptions::default() };
    let playground = Playground::start(options).await.unwrap_or_else(|error| panic!("{error}"));
    playground.create("/vol", "8GiB").await.unwrap_or_else(|error| panic!("{error}"));
    playground
}

/// Serves `/vol` at a socket of its own; refused as long as somebody stands in the way.
async fn serve(playground: &Playground, socket: &str, more: &[&str]) -> PathBuf {
    let path = playground.dir().join(socket);
    let text = path.display().to_string();
    let arguments = [&["--socket", &text], more].concat();
    let begun = Instant::now();
    loop {
        match playground.serve_nbd(&["/vol"], &arguments).await {
            Ok(socket) => return socket,
            Err(error) if begun.elapsed() > Duration::from_secs(60) => panic!("{error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn connect(socket: &Path) -> Arc<NbdClient> {
    Arc::new(NbdClient::connect(socket, "vol", true).await.expect("the server accepts connections"))
}

async fn write(client: &NbdClient, run: u64, block: u64, sequence: u64) -> Result<(), NbdError> {
    client.write(block * BLOCK as u64, Stamp::fill_run(run, block, &[sequence])).await
}

async fn read(client: &NbdClient, block: u64) -> Result<Found, NbdError> {
    client.read(block * BLOCK as u64, BLOCK as u32).await.map(|bytes| read_stamp(&bytes))
}

fn stamped(run: u64, block: u64, sequence: u64) -> Found {
    Found::Stamped(Stamp { run, block, sequence })
}

fn is_refused<T>(result: &Result<T, NbdError>) -> bool {
    matches!(result, Err(NbdError::Refused { errno: NOT_PERMITTED, .. }))
}

async fn holders(playground: &Playground) -> Vec<Value> {
    match playground.json(&["bs", "holders", "/vol"]).await.unwrap_or_else(|error| panic!("{error}")) {
        Value::Array(holders) => holders,
        other => panic!("not a list: {other}"),
    }
}

/// One block's writer: each write waits for the one before. Ends at the first refusal; says which sequence was
/// acknowledged last and which was refused.
async fn write_until_refused(client: Arc<NbdClient>, block: u64, issued: Arc<AtomicU64>) -> (u64, u64) {
    let mut sequence = 1;
    loop {
        match write(&client, 1, block, sequence).await {
            Ok(()) => issued.fetch_add(1, Ordering::Relaxed),
            Err(NbdError::Refused { errno, .. }) => {
                assert_eq!(errno, NOT_PERMITTED, "block {block}");
                return (sequence - 1, sequence);
            }
            Err(error) => panic!("block {block}: {error}"),
        };
        sequence += 1;
    }
}

#[tokio::test]
async fn a_paused_writer_is_shut_out_before_another_is_let_in() {
    let _turn = turn("a_paused_writer_is_shut_out_before_another_is_let_in").await;
    let playground = cluster().await;
    let first = connect(&serve(&playground, "a.sock", &[]).await).await;
    let hole = 2 * SEGMENT / BLOCK as u64;
    assert_eq!(read(&first, hole).await.expect("it holds the volume"), Found::Zeros);
    let issued = Arc::new(AtomicU64::new(0));
    let mut writers = JoinSet::new();
    for block in 0..WRITERS {
        let (client, issued) = (Arc::clone(&first), Arc::clone(&issued));
        writers.spawn(async move { (block, write_until_refused(client, block, issued).await) });
    }
    while issued.load(Ordering::Relaxed) < 20 * WRITERS {
        assert!(writers.try_join_next().is_none(), "no writer is refused yet");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Requests wait in its socket and in the chunkservers'.
    playground.pause("nbd-1").await.expect("paused");

    let begun = Instant::now();
    let second = connect(&serve(&playground, "b.sock", &[]).await).await;
    println!("another was let in {:.1} s after the first was paused", begun.elapsed().as_secs_f64());
    let mut seen = Vec::new();
    for block in 0..WRITERS {
        match read(&second, block).await.expect("it holds the volume") {
            Found::Stamped(stamp) => seen.push(stamp),
            other => panic!("block {block}: {other:?}"),
        }
    }
    for block in (0..WRITERS).step_by(2).chain([hole]) {
        write(&second, 2, block, 1).await.expect("it holds the volume");
    }

    playground.resume("nbd-1").await.expect("resumed");
    assert!(is_refused(&read(&first, hole).await), "what it knew as a hole is not zeros any more");
    assert!(is_refused(&read(&first, 0).await));
    assert!(is_refused(&write(&first, 1, hole + 1, 1).await));
    assert!(is_refused(&first.write_zeroes(3 * SEGMENT, BLOCK as u32).await), "nor may it zero a hole");
    while let Some(ended) = writers.join_next().await {
        let (block, (acknowledged, refused)) = ended.expect("no writer panics");
        let stamp = seen[block as usize];
        // What is acknowledged, even late, was there when the other was let in; what is refused may have been.
        assert!(
            stamp.sequence == acknowledged || stamp.sequence == refused,
            "block {block}: {stamp:?} was seen, {acknowledged} acknowledged, {refused} refused"
        );
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    for block in 0..WRITERS {
        let sequence = seen[block as usize].sequence;
        let expected = if block % 2 == 0 { stamped(2, block, 1) } else { stamped(1, block, sequence) };
        assert_eq!(read(&second, block).await.expect("it holds the volume"), expected);
    }
    assert_eq!(read(&second, hole).await.expect("it holds the volume"), stamped(2, hole, 1));
    let held = holders(&playground).await;
    assert_eq!((held.len(), &held[0]["mode"]), (1, &Value::from("exclusive")), "{held:?}");
}

/// Writes and reads its own blocks until told to stop; any error is one too many.
async fn go_on(client: Arc<NbdClient>, blocks: std::ops::Range<u64>, stop: Arc<AtomicBool>) -> u64 {
    let mut sequence = 0;
    while !stop.load(Ordering::Relaxed) {
        sequence += 1;
        for block in blocks.clone() {
            write(&client, 9, block, sequence).await.expect("a live holder is never refused");
            let found = read(&client, block).await.expect("a live holder is never refused");
            assert_eq!(found, stamped(9, block, sequence));
        }
    }
    sequence
}

#[tokio::test]
async fn servers_that_share_a_volume_see_each_others_writes_and_are_fenced_one_by_one() {
    let _turn = turn("servers_that_share_a_volume").await;
    let playground = cluster().await;
    let shared = &["--shared"][..];
    let a = connect(&serve(&playground, "a.sock", shared).await).await;
    let b = connect(&serve(&playground, "b.sock", shared).await).await;
    // Each segment is a hole for both before one of them writes there.
    for round in 0..200u64 {
        let block = (round % 8) * SEGMENT / BLOCK as u64 + round;
        let (writer, reader) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        assert_eq!(read(reader, block).await.expect("shared"), Found::Zeros);
        write(writer, 3, block, round).await.expect("shared");
        assert_eq!(read(reader, block).await.expect("shared"), stamped(3, block, round), "round {round}");
    }
    let held = holders(&playground).await;
    assert_eq!(held.len(), 2, "{held:?}");
    for holder in &held {
        assert_eq!(holder["mode"], "shared");
        assert!(holder["process"].as_u64() > Some(0) && holder["epoch"].as_u64() == Some(1), "{holder}");
        assert!(holder["lease_left_ms"].as_u64().is_some_and(|left| left > 0 && left <= 3000), "{holder}");
    }
    let exclusive = playground.serve_nbd(&["/vol"], &["--timeout", "10s"]).await;
    let said = exclusive.expect_err("beside shared holders nobody is alone").to_string();
    assert!(said.contains("is open by"), "{said}");
    let reader = connect(&serve(&playground, "r.sock", &["--read-only", "--shared"]).await).await;
    assert_eq!(read(&reader, 0).await.expect("a reader is beside anybody"), stamped(3, 0, 0));

    let stop = Arc::new(AtomicBool::new(false));
    let others = tokio::spawn(go_on(Arc::clone(&b), 5000..5016, Arc::clone(&stop)));
    let id = id_of(&playground, "nbd-1").await;
    let dry =
        playground.json(&["bs", "fence", "/vol", "--holder", &id, "--dry-run"]).await.expect("a dry run");
    assert_eq!(dry["fenced"].as_array().map(Vec::len), Some(1), "{dry}");
    write(&a, 3, 0, 1000).await.expect("a dry run changes nothing");
    let fenced = playground.json(&["bs", "fence", "/vol", "--holder", &id, "--yes"]).await.expect("fenced");
    assert_eq!(fenced["fenced"][0]["client"], Value::from(id), "{fenced}");
    assert!(is_refused(&write(&a, 3, 0, 1001).await) && is_refused(&read(&a, 0).await));
    assert_eq!(read(&reader, 0).await.expect("the reader goes on"), stamped(3, 0, 1000));

    // A server that is killed and started again shuts its predecessor out, and nobody else.
    playground.kill("nbd-1").await.expect("killed");
    playground.verb(60, &["playground", "restart", "nbd-1", "--no-wait"]).await.expect("served again");
    let a = connect(&playground.dir().join("a.sock")).await;
    write(&a, 3, 0, 1002).await.expect("it holds the volume again");
    playground.kill("nbd-1").await.expect("killed");
    playground.verb(60, &["playground", "restart", "nbd-1", "--no-wait"]).await.expect("served again");
    let a = connect(&playground.dir().join("a.sock")).await;
    assert_eq!(read(&a, 0).await.expect("it holds the volume again"), stamped(3, 0, 1002));
    assert_eq!(holders(&playground).await.len(), 3, "two writers and a reader");

    stop.store(true, Ordering::Relaxed);
    println!("meanwhile {} rounds of the other", others.await.expect("it was never refused"));
    playground.json(&["bs", "fence", "/vol", "--yes"]).await.expect("fenced");
    assert!(is_refused(&write(&a, 3, 0, 1).await) && is_refused(&write(&b, 3, 0, 1).await));
    assert!(is_refused(&read(&reader, 0).await));
    assert!(holders(&playground).await.is_empty());
    let told = playground.curve(&["bs", "fence", "/vol", "--yes"]).await.expect("it runs");
    assert!(told.status.success() && told.stdout.contains("nobody"), "{}", told.stdout);
}

/// The id of the holder that is a member of the playground.
async fn id_of(playground: &Playground, member: &str) -> String {
    let members = playground.members().await.expect("members");
    let pid = members.iter().find(|known| known["name"] == member).expect("it is a member")["pid"].clone();
    let held = holders(playground).await;
    let holder = held.iter().find(|holder| holder["process"] == pid).expect("it holds the volume");
    holder["client"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn a_lapsed_holder_among_several_is_shut_out_when_another_comes_in() {
    let _turn = turn("a_lapsed_holder_among_several").await;
    let playground = cluster().await;
    let shared = &["--shared"][..];
    let a = connect(&serve(&playground, "a.sock", shared).await).await;
    let b = connect(&serve(&playground, "b.sock", shared).await).await;
    write(&a, 1, 0, 1).await.expect("shared");
    let stop = Arc::new(AtomicBool::new(false));
    let others = tokio::spawn(go_on(Arc::clone(&b), 5000..5016, Arc::clone(&stop)));
    playground.pause("nbd-1").await.expect("paused");
    let begun = Instant::now();
    while !holders(&playground).await.iter().any(|holder| holder["lapsed"] == true) {
        assert!(begun.elapsed() < Duration::from_secs(30), "its lease does not end");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Nobody comes in: it goes on where it was.
    playground.resume("nbd-1").await.expect("resumed");
    write(&a, 1, 0, 2).await.expect("a lapsed holder goes on");
    playground.pause("nbd-1").await.expect("paused");
    tokio::time::sleep(Duration::from_secs(4)).await;
    let c = connect(&serve(&playground, "c.sock", shared).await).await;
    write(&c, 1, 0, 3).await.expect("shared");
    playground.resume("nbd-1").await.expect("resumed");
    assert!(is_refused(&write(&a, 1, 0, 4).await) && is_refused(&read(&a, 0).await));
    assert_eq!(read(&c, 0).await.expect("shared"), stamped(1, 0, 3));
    stop.store(true, Ordering::Relaxed);
    println!("meanwhile {} rounds of the live one", others.await.expect("it was never refused"));
}
