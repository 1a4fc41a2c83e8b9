//! Prints what the log costs beside the raw disk, in one run: `cargo run --release -p curve-log --example logbench [DIR]`.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use curve_io::{Disk, OpenMode, RealDisk};
use curve_log::{Entry, Log, LogConfig};
use curve_types::GroupId;

const RUN: Duration = Duration::from_secs(3);
const BYTES: usize = 4096;

struct Outcome {
    name: String,
    operations: u64,
    syncs: u64,
    elapsed: Duration,
    cpu: Duration,
    latencies: Vec<Duration>,
}

impl Outcome {
    fn print(mut self) {
        self.latencies.sort();
        let seconds = self.elapsed.as_secs_f64();
        let p50 = self.latencies.get(self.latencies.len() / 2).copied().unwrap_or_default();
        println!(
            "{:<34} {:>8.0} op/s {:>8.0} sync/s {:>7.1} us CPU/op {:>8.0} us p50",
            self.name,
            self.operations as f64 / seconds,
            self.syncs as f64 / seconds,
            self.cpu.as_secs_f64() * 1e6 / self.operations as f64,
            p50.as_secs_f64() * 1e6,
        );
    }
}

/// CPU time of the whole process.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

async fn log_run(dir: &Path, groups: u64, depth_each: usize) -> Outcome {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(dir.to_path_buf()));
    let (log, _) = Log::open(disk, Path::new("log"), LogConfig::default()).await.expect("the log opens");
    let name = format!("log, {groups} groups x depth {depth_each}");
    let payload = Bytes::from(vec![7; BYTES]);
    let (flushes, begun, cpu_before) = (log.stats().flushes, Instant::now(), cpu());
    let workers: Vec<_> = (0..groups)
        .map(|group| tokio::spawn(append_for(log.clone(), group, depth_each, payload.clone(), begun)))
        .collect();
    let mut latencies = Vec::new();
    for worker in workers {
        latencies.extend(worker.await.expect("no panic"));
    }
    let (elapsed, cpu) = (begun.elapsed(), cpu() - cpu_before);
    let syncs = log.stats().flushes - flushes;
    log.close().await;
    Outcome { name, operations: latencies.len() as u64, syncs, elapsed, cpu, latencies }
}

/// Keeps `depth` appends of one group in flight, and purges as a copyset would.
async fn append_for(log: Log, group: u64, depth: usize, payload: Bytes, begun: Instant) -> Vec<Duration> {
    let log = log.group(GroupId(group));
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let mut latencies = Vec::new();
    let mut next = log.state().last.or(log.state().purged).map_or(1, |(index, _)| index + 1);
    let mut in_flight = 0;
    while begun.elapsed() < RUN || in_flight > 0 {
        while in_flight < depth && begun.elapsed() < RUN {
            let (sender, issued) = (sender.clone(), Instant::now());
            let done = move |result: std::io::Result<()>| {
                result.expect("the disk is fine");
                let _ = sender.send(issued.elapsed());
            };
            let entry = Entry {
                index: next,
                meta: Bytes::from_static(b"term and node"),
                payload: vec![payload.clone()],
            };
            log.append(vec![entry], Box::new(done));
            if next.is_multiple_of(1000) {
                log.purge(next - 500, Bytes::new());
            }
            next += 1;
            in_flight += 1;
        }
        latencies.extend(receiver.recv().await);
        in_flight -= 1;
    }
    latencies
}

/// What the disk gives without a log: overwrite one block of a written file, fdatasync, again.
async fn raw_run(dir: &Path, in_thread: bool) -> Outcome {
    let disk = RealDisk::new(dir.to_path_buf());
    let file = disk.open(Path::new("raw"), OpenMode::Create).expect("a file");
    let zeros = vec![0; 1 << 20];
    (0..16).for_each(|n| file.write_at(n << 20, &[IoSlice::new(&zeros)]).expect("room for 16 MiB"));
    file.clone().sync().await.expect("a sync");
    let plain = std::fs::OpenOptions::new().write(true).open(dir.join("raw")).expect("the same file");
    let (block, begun, cpu_before) = (vec![7; BYTES], Instant::now(), cpu());
    let mut latencies = Vec::new();
    while begun.elapsed() < RUN {
        let (at, issued) = ((latencies.len() as u64 % 4096) * BYTES as u64, Instant::now());
        file.write_at(at, &[IoSlice::new(&block)]).expect("a write");
        if in_thread {
            file.clone().sync().await.expect("a sync");
        } else {
            plain.sync_data().expect("a sync");
        }
        latencies.push(issued.elapsed());
    }
    let name =
        if in_thread { "pwrite + File::sync (other thread)" } else { "pwrite + fdatasync (same thread)" };
    let (operations, elapsed, cpu) = (latencies.len() as u64, begun.elapsed(), cpu() - cpu_before);
    Outcome { name: name.to_owned(), operations, syncs: operations, elapsed, cpu, latencies }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let parent = std::env::args().nth(1).map_or_else(|| PathBuf::from("."), PathBuf::from);
    let dir = tempfile::tempdir_in(parent).expect("a temporary directory");
    raw_run(dir.path(), false).await.print();
    raw_run(dir.path(), true).await.print();
    for (groups, depth) in [(1, 1), (1, 32), (32, 1), (8, 4)] {
        log_run(dir.path(), groups, depth).await.print();
    }
    raw_run(dir.path(), false).await.print();
}
