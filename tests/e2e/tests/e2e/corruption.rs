//! Bytes that flip on one replica's disk: never returned, healed or refused, and counted.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use curve_e2e::{Volume, turn};
use curve_harness::checker::{BLOCK, Stamp, write_stamp};
use curve_harness::nbd::NbdClient;
use curve_harness::{Playground, PlaygroundOptions};
use serde_json::Value;

const CHUNK_BYTES: u64 = 16 << 20;
/// Where a chunk file's data begins: header and four pages of checksums before it (`curvebs/chunkstore`, `format`).
const DATA_AT: u64 = 20_480;
const BLOCKS: u64 = 48;

/// Blocks 0.. of the test are spread over eight chunks.
fn offset(block: u64) -> u64 {
    (block % 8) * CHUNK_BYTES + (block / 8) * 64 * 1024
}

fn stamp(block: u64) -> Stamp {
    Stamp { run: 1, block, sequence: 1 }
}

#[tokio::test]
async fn flipped_chunk_bytes_are_never_returned_and_healed() {
    let _turn = turn("flipped_chunk_bytes_are_never_returned_and_healed").await;
    let volume = Volume::start("1GiB").await;
    write_all(&volume.client().await).await;
    // Every replica is damaged, each in other blocks, so whoever leads has damage to find.
    for number in 1..=3u64 {
        let name = format!("chunkserver-{number}");
        volume.playground.stop(&name).await.unwrap_or_else(|error| panic!("{error}"));
        let blocks: Vec<u64> = (0..BLOCKS).filter(|block| block % 3 == number - 1).collect();
        let flipped = flip_blocks(&volume.playground.data_dir(&name), &blocks);
        println!("{name}: {flipped} blocks flipped");
        assert_eq!(flipped, blocks.len(), "a graceful stop leaves everything in the chunk files");
        volume.playground.restart(&name).await.unwrap_or_else(|error| panic!("{error}"));
    }
    let client = volume.client().await;
    read_all(&client).await;
    read_all(&client).await;
    let (mut found, mut repaired, mut located) = (0.0, 0.0, 0.0);
    for number in 1..=3 {
        let name = format!("chunkserver-{number}");
        found += metric(&volume.playground, &name, "curve_chunkserver_corrupt_blocks_found_total").await;
        repaired +=
            metric(&volume.playground, &name, "curve_chunkserver_corrupt_blocks_repaired_total").await;
        located += metric(&volume.playground, &name, "curve_chunkserver_located_bytes_total").await;
    }
    println!("found {found} bad blocks, repaired {repaired}");
    assert!(found >= 1.0 && repaired >= 1.0, "found {found}, repaired {repaired}");
    assert!(located > 0.0, "the server of the volume runs on the chunkservers' machine");
}

#[tokio::test]
async fn a_damaged_log_is_refused_and_rebuilt_by_one_command() {
    let _turn = turn("a_damaged_log_is_refused_and_rebuilt_by_one_command").await;
    let volume = damaged_cluster().await;
    write_all(&volume.client().await).await;
    volume.playground.kill("chunkserver-1").await.unwrap_or_else(|error| panic!("{error}"));
    let log = volume.playground.data_dir("chunkserver-1").join("log");
    damage_middle(&log);
    refused_then_rebuilt(&volume).await;
}

#[tokio::test]
async fn a_damaged_manifest_is_refused_and_rebuilt_by_one_command() {
    let _turn = turn("a_damaged_manifest_is_refused_and_rebuilt_by_one_command").await;
    let volume = damaged_cluster().await;
    write_all(&volume.client().await).await;
    volume.playground.stop("chunkserver-1").await.unwrap_or_else(|error| panic!("{error}"));
    let store = volume.playground.data_dir("chunkserver-1").join("store");
    for file in files(&store).into_iter().filter(|file| !is_chunk(file)) {
        let len = file.metadata().expect("it exists").len();
        if len > 0 {
            flip(&file, len / 2, 16);
        }
    }
    refused_then_rebuilt(&volume).await;
}

#[tokio::test]
async fn a_damaged_mds_store_is_refused_and_rebuilt_by_one_command() {
    let _turn = turn("a_damaged_mds_store_is_refused_and_rebuilt_by_one_command").await;
    let volume = Volume::start("1GiB").await;
    let playground = &volume.playground;
    write_all(&volume.client().await).await;
    playground.stop("mds-1").await.unwrap_or_else(|error| panic!("{error}"));
    let mut flipped = 0;
    for file in files(&playground.data_dir("mds-1")) {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let len = file.metadata().expect("it exists").len();
        if len > 0 && (name.ends_with(".sst") || name.starts_with("MANIFEST")) {
            flip(&file, len / 2, 32);
            flipped += 1;
        }
    }
    assert!(flipped > 0, "RocksDB's files are there");
    let restarted = playground.verb(60, &["playground", "restart", "mds-1", "--no-wait"]).await;
    let said = restarted.expect_err("a damaged MDS does not start").to_string();
    println!(
        "{flipped} files flipped: {}",
        said.lines().find(|line| line.contains("--rebuild")).unwrap_or(&said)
    );
    assert!(said.contains("--rebuild"), "it says what to do: {said}");

    playground
        .verb(90, &["playground", "restart", "mds-1", "--rebuild"])
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    let begun = Instant::now();
    while !playground.log("mds-1").contains("admitted again") {
        assert!(begun.elapsed() < Duration::from_secs(60), "the leader does not admit it again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    playground.wait_healthy(60).await.unwrap_or_else(|error| panic!("{error}"));
    println!("filled again after {:.1} s", begun.elapsed().as_secs_f64());
    // It has the state again: the group lives without one of the others, and the volume is still known.
    playground.kill("mds-2").await.unwrap_or_else(|error| panic!("{error}"));
    playground.json(&["bs", "stat", "/vol"]).await.unwrap_or_else(|error| panic!("{error}"));
    playground.create("/other", "1GiB").await.unwrap_or_else(|error| panic!("{error}"));
    read_all(&volume.client().await).await;
}

#[tokio::test]
async fn a_torn_log_tail_is_cut_off() {
    let _turn = turn("a_torn_log_tail_is_cut_off").await;
    let volume = Volume::start("1GiB").await;
    write_all(&volume.client().await).await;
    volume.playground.kill("chunkserver-1").await.unwrap_or_else(|error| panic!("{error}"));
    let log = volume.playground.data_dir("chunkserver-1").join("log");
    let (file, end) = log_end(&log);
    // A write that was in progress when the power went: garbage behind what was durable.
    let garbage: Vec<u8> = (0..3000u32).map(|n| (n * 7 + 1) as u8).collect();
    File::options()
        .write(true)
        .open(&file)
        .and_then(|file| file.write_all_at(&garbage, end))
        .expect("writable");
    volume.playground.restart("chunkserver-1").await.unwrap_or_else(|error| panic!("{error}"));
    read_all(&volume.client().await).await;
}

/// A dead chunkserver is replaced soon, so that the test need not wait ten minutes.
async fn damaged_cluster() -> Volume {
    let more = ["--mds-set", "dead_after = \"10s\"", "--mds-set", "grace_after_failover = \"2s\""]
        .map(str::to_owned);
    Volume::start_with(PlaygroundOptions { more: more.to_vec(), ..PlaygroundOptions::default() }, "1GiB")
        .await
}

/// chunkserver-1 does not start, says why and what to do; doing it brings every copyset back to three replicas.
async fn refused_then_rebuilt(volume: &Volume) {
    let playground = &volume.playground;
    let restarted = playground.verb(60, &["playground", "restart", "chunkserver-1", "--no-wait"]).await;
    let said = restarted.expect_err("a damaged replica does not start").to_string();
    println!("{said}");
    assert!(said.contains("--rebuild"), "it says what to do");
    read_all(&volume.client().await).await;

    let former: Vec<Value> =
        chunkservers(playground).await.iter().map(|member| member["id"].clone()).collect();
    let rebuild = ["playground", "restart", "chunkserver-1", "--rebuild", "--no-wait"];
    playground.verb(60, &rebuild).await.unwrap_or_else(|error| panic!("{error}"));
    let begun = Instant::now();
    loop {
        // It comes back under a new id, and takes over the replicas of the old one once that counts as dead.
        let now = chunkservers(playground).await;
        let fresh = now.iter().find(|member| !former.contains(&member["id"]));
        let copysets =
            playground.json(&["cluster", "copysets"]).await.unwrap_or_else(|error| panic!("{error}"));
        let copysets = copysets.as_array().expect("a list");
        let whole = copysets.iter().filter(|copyset| copyset["health"] == "ok").count();
        if fresh.is_some_and(|fresh| fresh["copysets"] == copysets.len()) && whole == copysets.len() {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "not rebuilt: {now:?} {copysets:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    println!("every copyset has three replicas again after {:.1} s", begun.elapsed().as_secs_f64());
    // The rebuilt replica carries the data: the cluster lives without one of the others.
    playground.kill("chunkserver-2").await.unwrap_or_else(|error| panic!("{error}"));
    read_all(&volume.client().await).await;
}

async fn chunkservers(playground: &Playground) -> Vec<Value> {
    match playground.json(&["cluster", "chunkservers"]).await {
        Ok(Value::Array(all)) => all,
        other => panic!("{other:?}"),
    }
}

async fn write_all(client: &NbdClient) {
    for block in 0..BLOCKS {
        write_stamp(client, offset(block), stamp(block)).await.unwrap_or_else(|error| panic!("{error}"));
    }
    client.flush().await.unwrap_or_else(|error| panic!("{error}"));
}

async fn read_all(client: &NbdClient) {
    let mut expected = vec![0; BLOCK];
    for block in 0..BLOCKS {
        stamp(block).fill(&mut expected);
        let read =
            tokio::time::timeout(Duration::from_secs(60), client.read(offset(block), BLOCK as u32)).await;
        let read = read.unwrap_or_else(|_| panic!("block {block} is not read within a minute"));
        let bytes = read.unwrap_or_else(|error| panic!("block {block}: {error}"));
        assert!(bytes == expected, "block {block} is wrong");
    }
}

async fn metric(playground: &Playground, name: &str, metric: &str) -> f64 {
    let value = playground.metric(name, metric).await.unwrap_or_else(|error| panic!("{error}"));
    value.unwrap_or(0.0)
}

/// Flips the test's blocks in the chunk files below a data directory; returns how many were there.
fn flip_blocks(data_dir: &Path, blocks: &[u64]) -> usize {
    let chunks: Vec<PathBuf> = files(data_dir).into_iter().filter(|file| is_chunk(file)).collect();
    let mut flipped = 0;
    for block in blocks {
        let (index, inside) = ((offset(*block) / CHUNK_BYTES) as u32, offset(*block) % CHUNK_BYTES);
        let mut expected = vec![0; BLOCK];
        stamp(*block).fill(&mut expected);
        for chunk in &chunks {
            let file = File::open(chunk).expect("readable");
            let mut number = [0; 4];
            file.read_exact_at(&mut number, 24).expect("a header");
            let mut found = vec![0; BLOCK];
            let whole = file.read_exact_at(&mut found, DATA_AT + inside).is_ok();
            if u32::from_le_bytes(number) == index && whole && found == expected {
                flip(chunk, DATA_AT + inside + 1000, 8);
                flipped += 1;
            }
        }
    }
    flipped
}

fn is_chunk(path: &Path) -> bool {
    let mut magic = [0; 8];
    File::open(path).and_then(|file| file.read_exact_at(&mut magic, 0)).is_ok() && &magic == b"CURVCHNK"
}

/// Inverts bytes of a file.
fn flip(path: &Path, at: u64, len: usize) {
    let file = File::options().read(true).write(true).open(path).expect("writable");
    let mut bytes = vec![0; len];
    let len = file.read_at(&mut bytes, at).expect("readable");
    bytes.truncate(len);
    bytes.iter_mut().for_each(|byte| *byte = !*byte);
    file.write_all_at(&bytes, at).expect("writable");
}

/// Flips bytes well before the end of what was logged.
fn damage_middle(log: &Path) {
    let (file, end) = log_end(log);
    assert!(end > 64 << 10, "the log has a middle: {end} bytes in {}", file.display());
    flip(&file, end / 2, 64);
    println!("flipped 64 bytes at {} of {end} in {}", end / 2, file.display());
}

/// The log segment with the most written bytes, and where they end.
fn log_end(log: &Path) -> (PathBuf, u64) {
    let ends = files(log).into_iter().map(|file| {
        let bytes = std::fs::read(&file).expect("readable");
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
        (file, (end as u64).next_multiple_of(8))
    });
    ends.max_by_key(|(_, end)| *end).expect("the log has files")
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())).flatten()
    {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}
