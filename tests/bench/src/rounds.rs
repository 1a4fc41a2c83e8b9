//! All targets up at once, measured in turn.
//!
//! A noisy minute should hit all targets, so each case is measured on one target after the other before the next case,
//! and a round of all cases is done before the next round, in which the targets' order is turned by one. The targets
//! that wait are left running. Freezing them (SIGSTOP) was rejected: members of both clusters would find, once thawed,
//! that their peers had been silent for longer than a lease or a heartbeat's grace, and would elect, peer and recover
//! in the run that is measured. An idle cluster takes a few percent of one core; what others took during each run is
//! measured and reported, so that it can be judged. What a target still does after a run, such as compaction and
//! syncing, is waited for before the next.

use std::path::Path;
use std::time::{Duration, Instant};

use curve_harness::run;

use crate::fio::Case;
use crate::report::Report;
use crate::target::{Bench, Target};

/// Targets are quiet when all together use less than this many cores for two windows.
const QUIET_CORES: f64 = 0.15;
const QUIET_WINDOW: Duration = Duration::from_millis(500);
const QUIET_LIMIT: Duration = Duration::from_secs(20);

/// What to measure.
pub struct Plan<'a> {
    /// A directory for all data.
    pub dir: &'a Path,
    /// Targets, in the order of the first round.
    pub targets: &'a [Target],
    /// Cases in order.
    pub cases: &'a [Case],
    /// Runs of each case.
    pub repeats: usize,
    /// Length of a run.
    pub runtime: Duration,
    /// Length of the first run of each case, which is not reported; none when zero.
    pub warm_up: Duration,
    /// Size of each target.
    pub size: u64,
    /// More arguments for the cluster's start.
    pub playground: &'a [String],
}

/// Starts all targets, measures them round by round and ends them.
pub async fn measure(plan: &Plan<'_>) -> Result<Report, String> {
    enough_memory(plan)?;
    let mut benches = Vec::new();
    for target in plan.targets {
        eprintln!("preparing {target}");
        let bench = Bench::prepare(*target, plan.dir, plan.size, plan.playground, &benches).await?;
        benches.push(bench);
    }
    let mut report = Report::default();
    for round in 1..=plan.repeats {
        for case in plan.cases {
            for bench in benches.iter().filter(|bench| bench.target.takes(case)) {
                settle(plan.dir, || benches.iter().map(Bench::cpu_seconds).sum()).await?;
                if round == 1 && !plan.warm_up.is_zero() {
                    bench.run(case, plan.warm_up).await?;
                }
                eprintln!("{}: {} ({round} of {})", bench.target, case.name, plan.repeats);
                report.add(bench.target, case, bench.run(case, plan.runtime).await?);
            }
        }
        if benches.len() > 1 {
            benches.rotate_left(1);
        }
    }
    Ok(report)
}

/// Waits until nothing that an earlier run left is going on: dirty pages are written, processes are quiet.
/// `used`: CPU seconds of all targets.
pub async fn settle(dir: &Path, used: impl Fn() -> f64) -> Result<(), String> {
    run(120, "sync", &["-f", &dir.display().to_string()]).await.map_err(|error| error.to_string())?;
    let begun = Instant::now();
    let mut quiet = 0;
    while quiet < 2 {
        if begun.elapsed() > QUIET_LIMIT {
            eprintln!("targets are not quiet after {} s; going on", QUIET_LIMIT.as_secs());
            return Ok(());
        }
        let before = used();
        tokio::time::sleep(QUIET_WINDOW).await;
        let cores = (used() - before) / QUIET_WINDOW.as_secs_f64();
        quiet = if cores < QUIET_CORES { quiet + 1 } else { 0 };
    }
    Ok(())
}

/// Refuses what would make the machine swap or starve the page cache: that would measure the machine's distress.
fn enough_memory(plan: &Plan<'_>) -> Result<(), String> {
    let text = std::fs::read_to_string("/proc/meminfo").map_err(|error| error.to_string())?;
    let available = available_bytes(&text).ok_or("/proc/meminfo does not say what is available")?;
    // The page cache holds what the cluster reads.
    let needed = plan.targets.iter().map(|target| target.memory_bytes(plan.size)).sum::<u64>() + plan.size;
    if needed > available {
        let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
        return Err(format!(
            "these targets need about {:.1} GiB of memory, {:.1} GiB are available; use a smaller --size or fewer --targets",
            gib(needed),
            gib(available)
        ));
    }
    Ok(())
}

fn available_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_found() {
        assert_eq!(available_bytes("MemTotal: 9 kB\nMemAvailable:    2048 kB\n"), Some(2 << 20));
        assert_eq!(available_bytes("MemTotal: 9 kB\n"), None);
    }
}
