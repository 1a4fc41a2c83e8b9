//! `curve-sim`: runs seeds, each in a process of its own, and prints those that fail.

use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use curve_sim::faults::FaultMenu;
use curve_sim::fencing::Fencing;
use curve_sim::planted::Planted;
use curve_sim::scenario::{Scenario, watch_panics};
use curve_types::HumanDuration;
use tracing_subscriber::EnvFilter;

/// Run the production code under simulated faults.
///
/// Examples:
///   curve-sim --seeds 200                 seeds 1 to 200, two at a time
///   curve-sim --scenario fencing          holders that are paused and displaced
///   curve-sim --seed 17                   one seed, with its story (CURVE_SIM_LOG=debug for more)
#[derive(Parser, Debug)]
#[command(verbatim_doc_comment)]
struct Arguments {
    /// Run this one seed in this process and print what happens.
    #[arg(long)]
    seed: Option<u64>,
    /// How many seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Seeds that run at the same time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// What is played.
    #[arg(long, value_enum, default_value = "takeovers")]
    scenario: Play,
    /// How long faults are inflicted, in virtual time.
    #[arg(long, default_value = "20s")]
    length: HumanDuration,
    /// Plant a bug, to see that it is found.
    #[arg(long)]
    planted: Option<Planted>,
    /// Leave the disks' bits as they are, so that a disk found damaged is a failure and not something to rebuild.
    #[arg(long)]
    no_bit_flips: bool,
    /// Print nothing but the summary of the seed.
    #[arg(long)]
    quiet: bool,
}

/// What can be played.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Play {
    /// Two clients take the volume from each other.
    Takeovers,
    /// Holders share it, are paused and displaced.
    Fencing,
}

fn run_here(arguments: &Arguments, seed: u64) -> ExitCode {
    if !arguments.quiet {
        let filter = EnvFilter::try_from_env("CURVE_SIM_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
        tracing_subscriber::fmt().with_env_filter(filter).without_time().with_writer(std::io::stderr).init();
    }
    watch_panics();
    let menu = FaultMenu { bit_flips: !arguments.no_bit_flips, ..FaultMenu::ALL };
    let (length, planted) = (arguments.length.0, arguments.planted);
    let summary = match arguments.scenario {
        Play::Takeovers => Scenario { menu, length, planted, ..Scenario::default() }.run(seed),
        Play::Fencing => Fencing { menu, length, planted }.run(seed),
    };
    match summary {
        Ok(summary) => {
            println!("seed {seed}: {summary:?}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("seed {seed} FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one seed in a process of its own; the text says what failed.
fn run_apart(seed: u64, length: Duration, play: Play) -> Result<(), String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let length = format!("{}ms", length.as_millis());
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", "300"]).arg(own);
    command.args(["--quiet", "--seed", &seed.to_string(), "--length", &length]);
    command.args(["--scenario", play.to_possible_value().expect("none is hidden").get_name()]);
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Err(format!("seed {seed} ended with {}\n{out}{err}", output.status))
}

fn run_many(arguments: &Arguments) -> ExitCode {
    let next = AtomicU64::new(arguments.from);
    let end = arguments.from + arguments.seeds;
    let failed = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= end {
                        return;
                    }
                    if let Err(error) = run_apart(seed, arguments.length.0, arguments.scenario) {
                        println!("{error}");
                        failed.lock().expect("no panic while held").push(seed);
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().expect("no panic while held");
    failed.sort_unstable();
    println!("{} seeds from {}: {} failed {failed:?}", arguments.seeds, arguments.from, failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.seed {
        Some(seed) => run_here(&arguments, seed),
        None => run_many(&arguments),
    }
}
