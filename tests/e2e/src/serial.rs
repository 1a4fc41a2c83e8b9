//! One test at a time: they share the machine's disk and two cores, and measure stalls.

use std::fs::File;
use std::time::Instant;

use tokio::sync::{Mutex, MutexGuard};

static ONE: Mutex<()> = Mutex::const_new(());

/// A test's turn. Says at the end how long it took.
pub struct Turn {
    name: &'static str,
    begun: Instant,
    _within_process: MutexGuard<'static, ()>,
    _across_processes: File,
}

/// Waits for this test's turn, among the threads of this process and other processes on this machine.
pub async fn turn(name: &'static str) -> Turn {
    let within = ONE.lock().await;
    let path = std::env::temp_dir().join("curve-e2e.lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path).expect("a lock file");
    // Blocks this thread, which has nothing else to do.
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
        .expect("locks work in the temporary directory");
    println!("=== {name}");
    Turn { name, begun: Instant::now(), _within_process: within, _across_processes: file }
}

impl Drop for Turn {
    fn drop(&mut self) {
        println!("=== {} took {:.1} s", self.name, self.begun.elapsed().as_secs_f64());
    }
}
