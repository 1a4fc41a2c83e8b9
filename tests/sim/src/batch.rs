//! Many seeds: several at a time, each in a process of its own, with progress and a summary.
//!
//! A process of its own costs a few milliseconds and makes a seed independent of all others: nothing static carries
//! over, and a seed that aborts or hangs ends alone.

use std::ops::Range;
use std::process::{Command, Stdio};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::tally::Tally;

/// How long a seed may run, in real time.
const SEED_MAX: &str = "300";
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Seeds to be run.
pub struct Batch {
    /// Which.
    pub seeds: Range<u64>,
    /// How many at the same time.
    pub jobs: usize,
    /// What each process is given beside its seed.
    pub options: Vec<String>,
}

#[derive(Default)]
struct Progress {
    next: u64,
    done: u64,
    failed: Vec<u64>,
    sum: Tally,
}

struct Shared<'a> {
    batch: &'a Batch,
    progress: Mutex<Progress>,
    finished: Condvar,
    began: Instant,
}

impl Batch {
    /// Runs all seeds and prints those that fail, each with the command that repeats it. Returns whether all passed.
    pub fn run(&self) -> bool {
        let progress = Progress { next: self.seeds.start, ..Progress::default() };
        let (progress, finished) = (Mutex::new(progress), Condvar::new());
        let shared = Shared { batch: self, progress, finished, began: Instant::now() };
        std::thread::scope(|scope| {
            for _ in 0..self.jobs {
                scope.spawn(|| shared.work());
            }
            shared.tell();
        });
        shared.conclude()
    }

    fn total(&self) -> u64 {
        self.seeds.end - self.seeds.start
    }

    /// The command that repeats a seed.
    fn repeat(&self, seed: u64) -> String {
        let own = std::env::current_exe().map_or("curve-sim".into(), |path| path.display().to_string());
        format!("{own} --seed {seed} {}", self.options.join(" "))
    }

    /// Runs one seed; what it printed.
    fn run_apart(&self, seed: u64) -> Result<String, String> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new("timeout");
        command.args(["--signal=KILL", SEED_MAX]).arg(own);
        command.args(["--quiet", "--seed", &seed.to_string()]).args(&self.options);
        let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(out);
        }
        let err = String::from_utf8_lossy(&output.stderr);
        Err(format!("seed {seed} ended with {}\n{out}{err}repeat with: {}", output.status, self.repeat(seed)))
    }
}

impl Shared<'_> {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().expect("no panic while held")
    }

    fn take(&self) -> Option<u64> {
        let mut progress = self.lock();
        let seed = progress.next;
        progress.next += 1;
        (seed < self.batch.seeds.end).then_some(seed)
    }

    fn work(&self) {
        while let Some(seed) = self.take() {
            let result = self.batch.run_apart(seed);
            let mut progress = self.lock();
            progress.done += 1;
            match result {
                Ok(out) => progress.sum.add_line(&out),
                Err(error) => {
                    println!("{error}");
                    progress.failed.push(seed);
                }
            }
            self.finished.notify_all();
        }
    }

    /// Tells how far the batch is, now and then, until it is done.
    fn tell(&self) {
        let total = self.batch.total();
        let mut told = Instant::now();
        let mut progress = self.lock();
        while progress.done < total {
            let wait = TELL_EVERY.saturating_sub(told.elapsed());
            (progress, _) = self.finished.wait_timeout(progress, wait).expect("no panic while held");
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                let (done, failed) = (progress.done, progress.failed.len());
                let rate = done as f64 / self.began.elapsed().as_secs_f64();
                let left = Duration::from_secs_f64((total - done) as f64 / rate.max(0.001));
                eprintln!(
                    "{done} of {total} seeds, {failed} failed, {rate:.2} a second, {} left",
                    clock(left)
                );
            }
        }
    }

    fn conclude(&self) -> bool {
        let mut progress = self.lock();
        progress.failed.sort_unstable();
        let took = self.began.elapsed();
        println!("in all: {}", progress.sum);
        println!(
            "{} seeds from {} in {}, {:.2} a second: {} failed {:?}",
            progress.done,
            self.batch.seeds.start,
            clock(took),
            progress.done as f64 / took.as_secs_f64(),
            progress.failed.len(),
            progress.failed
        );
        for seed in &progress.failed {
            println!("  {}", self.batch.repeat(*seed));
        }
        progress.failed.is_empty()
    }
}

/// A duration as people read it.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_repeats_the_seed() {
        let options = vec!["--length".into(), "5s".into()];
        let batch = Batch { seeds: 5..8, jobs: 1, options };
        assert_eq!(batch.total(), 3);
        assert!(batch.repeat(7).ends_with(" --seed 7 --length 5s"));
        assert_eq!(clock(Duration::from_secs(3725)), "1:02:05");
    }
}
