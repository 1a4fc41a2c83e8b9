//! `qemu-img bench`: the one tool at hand that drives iSCSI and NBD with the same code, reads and writes, at a depth.
//! (Debian's fio has no iSCSI engine, and libiscsi's `iscsi-perf` only reads.)
//!
//! Its operations are not random but strided: each is 104,729 blocks after the last, modulo the volume. The number is a
//! prime, so that all blocks are visited and neighbours in time lie in different chunks. It knows counts and no
//! times, so that a short run says how many operations a run of the wanted length has. Latencies it does not report.

use std::time::Duration;

use curve_harness::run_within;

use crate::fio::{Case, Outcome};

/// Blocks from one operation to the next.
const STRIDE_BLOCKS: u64 = 104_729;
/// The shortest run that says how long a run will take.
const PROBE_OPERATIONS: u64 = 2000;
const PROBE_S: f64 = 0.3;

/// Runs one job on the volume at `url`.
pub async fn run(case: &Case, url: &str, size: u64, runtime: Duration) -> Result<Outcome, String> {
    let (block, depth) = (case.block_bytes()?, case.depth());
    let step = if case.is_random() { STRIDE_BLOCKS * block % size } else { block };
    let job = Job { url, block, depth, step, writes: case.writes() };
    let mut outcome = Outcome::default();
    let mut count = PROBE_OPERATIONS.min(size / block).max(1);
    loop {
        let seconds = job.run(count, runtime).await?;
        outcome.operations += count;
        outcome.iops = count as f64 / seconds;
        outcome.megabytes = outcome.iops * block as f64 / 1e6;
        if seconds >= 0.7 * runtime.as_secs_f64() {
            return Ok(outcome);
        }
        // The first guess is short, and the next may be off by what caches do.
        let wanted = if seconds < PROBE_S { PROBE_S * 2.0 } else { runtime.as_secs_f64() };
        count = (outcome.iops * wanted) as u64 + 1;
    }
}

/// Writes the whole volume once.
pub async fn fill(url: &str, size: u64) -> Result<(), String> {
    let block = 1 << 20;
    let job = Job { url, block, depth: 8, step: block, writes: true };
    job.run(size / block, Duration::from_secs(1200)).await.map(drop)
}

struct Job<'a> {
    url: &'a str,
    block: u64,
    depth: u32,
    step: u64,
    writes: bool,
}

impl Job<'_> {
    /// Does so many operations and gives the seconds that they took.
    async fn run(&self, count: u64, about: Duration) -> Result<f64, String> {
        let [count, depth, block, step] =
            [count, self.depth.into(), self.block, self.step].map(|number| number.to_string());
        let mut arguments = vec!["bench", "-f", "raw", "-t", "none", "-c", &count, "-d", &depth];
        arguments.extend(["-s", &block, "-S", &step]);
        if self.writes {
            arguments.push("-w");
        }
        arguments.push(self.url);
        let limit = 10 * about + Duration::from_secs(60);
        let finished = run_within(limit, "qemu-img", &arguments).await.map_err(|error| error.to_string())?;
        seconds(&finished.success().map_err(|error| error.to_string())?.stdout)
    }
}

/// `Run completed in 1.234 seconds.`
fn seconds(text: &str) -> Result<f64, String> {
    let number = text.lines().find_map(|line| line.strip_prefix("Run completed in ")?.split(' ').next());
    let seconds = number.and_then(|number| number.parse::<f64>().ok()).filter(|seconds| *seconds > 0.0);
    seconds.ok_or_else(|| format!("qemu-img's output: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_found() {
        let text =
            "Sending 10 read requests, 4096 bytes each, 32 in parallel\nRun completed in 0.250 seconds.\n";
        assert_eq!(seconds(text), Ok(0.25));
        assert!(seconds("Run completed in 0.000 seconds.").is_err() && seconds("").is_err());
    }
}
