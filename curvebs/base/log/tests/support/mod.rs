//! What the tests of the log share. Cargo makes a test of every file in `tests/`, so this is a `mod.rs`.
#![allow(dead_code, reason = "each test uses its part")]

use std::future::Future;
use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use curve_io::sim::SimDisk;
use curve_log::{Entry, GroupLog, Log, LogConfig, Recovery};
use tokio::sync::oneshot;

/// Resolves when something is durable.
pub type Durable = curve_io::BoxFuture<'static, io::Result<()>>;

/// Where the log is on the disk.
pub fn dir() -> &'static Path {
    Path::new("log")
}

/// Small segments and a small cache, so that tests see many of them.
pub fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 64 << 10,
        cache_bytes: 16 << 10,
        queue_bytes_max: 4 << 20,
        batch_bytes_max: 256 << 10,
        spare_segments_max: 2,
        keep_free_bytes: 0,
        settle_after: Duration::from_millis(500),
    }
}

/// Opens the log of a disk, which must work.
pub async fn open(disk: &SimDisk) -> (Log, Recovery) {
    Log::open(disk.mount(), dir(), config()).await.expect("the log opens")
}

/// An entry whose content follows from its index, term and length; in two parts.
pub fn entry(index: u64, term: u64, len: usize) -> Entry {
    let bytes: Vec<u8> =
        (0..len as u64).map(|n| (n ^ index.wrapping_mul(31) ^ term.wrapping_mul(7)) as u8).collect();
    let mut payload = Bytes::from(bytes);
    let head = payload.split_to(len.min(8));
    let payload = [head, payload].into_iter().filter(|part| !part.is_empty()).collect();
    Entry { index, meta: format!("{term}/{index}").into(), payload }
}

/// Appends; resolves when durable. The entries are queued by the call.
pub fn append(group: &GroupLog, entries: Vec<Entry>) -> impl Future<Output = io::Result<()>> + Send + use<> {
    let (sender, receiver) = oneshot::channel();
    let done = move |result| {
        let _ = sender.send(result);
    };
    group.append(entries.into_iter().collect(), Box::new(done));
    async move { receiver.await.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into())) }
}

/// All entries of a group, in one-part form normalised to that of `entry`.
pub async fn read_all(group: &GroupLog) -> Vec<Entry> {
    let state = group.state();
    let (Some(first), Some((last, _))) = (state.first, state.last) else { return Vec::new() };
    let mut entries = Vec::new();
    let mut next = first;
    while next <= last {
        let part = group.read(next..last + 1, 10_000).await.expect("entries can be read");
        assert!(!part.is_empty(), "entry {next} of {:?} is missing", group.id());
        next += part.len() as u64;
        entries.extend(part.into_iter().map(normal));
    }
    entries
}

/// Cuts the payload as `entry` does, so that an entry from disk equals one from memory.
pub fn normal(entry: Entry) -> Entry {
    let mut payload = Bytes::from(entry.payload.concat());
    let head = payload.split_to(payload.len().min(8));
    let payload = [head, payload].into_iter().filter(|part| !part.is_empty()).collect();
    Entry { payload, ..entry }
}
