//! Prints what it costs to hand a sync to another thread: tokio's blocking pool beside a thread of its own.
//! `cargo run --release -p curve-io --example syncbench [DIR]`; on a tmpfs the sync itself is free.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

const RUN: Duration = Duration::from_secs(1);

type SyncJob = (Arc<File>, oneshot::Sender<std::io::Result<()>>);

fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn sync_thread() -> mpsc::Sender<SyncJob> {
    let (sender, receiver) = mpsc::channel::<SyncJob>();
    std::thread::spawn(move || {
        for (file, done) in receiver {
            let _ = done.send(file.sync_data());
        }
    });
    sender
}

async fn measure(name: &str, mut sync: impl AsyncFnMut()) {
    let (begun, cpu_before) = (Instant::now(), cpu());
    let mut latencies = Vec::new();
    while begun.elapsed() < RUN {
        let issued = Instant::now();
        sync().await;
        latencies.push(issued.elapsed());
    }
    let cpu = cpu() - cpu_before;
    latencies.sort();
    let n = latencies.len();
    println!(
        "{name:<16} {n:>8} /s {:>6.1} us CPU, p50 {:>6.1} us",
        cpu.as_secs_f64() * 1e6 / n as f64,
        latencies[n / 2].as_secs_f64() * 1e6
    );
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let dir = std::env::args().nth(1).map_or_else(|| PathBuf::from("/dev/shm"), PathBuf::from);
    let dir = tempfile::tempdir_in(dir).expect("a temporary directory");
    let file = Arc::new(File::create(dir.path().join("sync")).expect("a file"));
    file.write_all_at(&[0; 8192], 0).expect("room");
    let thread = sync_thread();
    for _ in 0..3 {
        measure("blocking pool", async || {
            file.write_all_at(&[1; 4096], 0).expect("room");
            let file = file.clone();
            tokio::task::spawn_blocking(move || file.sync_data()).await.expect("no panic").expect("synced");
        })
        .await;
        measure("own thread", async || {
            file.write_all_at(&[1; 4096], 0).expect("room");
            let (done, synced) = oneshot::channel();
            thread.send((file.clone(), done)).expect("the thread lives");
            synced.await.expect("the thread answers").expect("synced");
        })
        .await;
        measure("in place", async || {
            file.write_all_at(&[1; 4096], 0).expect("room");
            file.sync_data().expect("synced");
        })
        .await;
    }
}
