//! `curve-sim`: runs seeds, each in a process of its own, and prints those that fail.

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use curve_sim::batch::Batch;
use curve_sim::faults::FaultMenu;
use curve_sim::fencing::Fencing;
use curve_sim::planted::Planted;
use curve_sim::reservations::Reservations;
use curve_sim::scenario::{Scenario, watch_panics};
use curve_types::HumanDuration;
use tracing_subscriber::EnvFilter;

/// Run the production code under simulated faults.
///
/// Examples:
///   curve-sim --seeds 200                 seeds 1 to 200, as many at a time as there are processors
///   curve-sim --scenario fencing          holders that are paused and displaced
///   curve-sim --scenario reservations     iSCSI initiators that preempt each other
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
    /// Seeds that run at the same time, each in a process of its own; by default one for each processor.
    #[arg(long)]
    jobs: Option<usize>,
    /// What is played.
    #[arg(long, value_enum, default_value = "takeovers")]
    scenario: Play,
    /// Only these kinds of faults, separated by commas: crashes, network, slow-disks, hung-disks, full-disks, wrong-clocks, bit-flips.
    #[arg(long, value_delimiter = ',')]
    faults: Vec<String>,
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
    /// Initiators preempt each other through gateways that are cut off and killed.
    Reservations,
}

fn run_here(arguments: &Arguments, seed: u64) -> ExitCode {
    if !arguments.quiet {
        let filter = EnvFilter::try_from_env("CURVE_SIM_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
        tracing_subscriber::fmt().with_env_filter(filter).without_time().with_writer(std::io::stderr).init();
    }
    watch_panics();
    let menu = match FaultMenu::only(&arguments.faults) {
        Ok(menu) if !arguments.faults.is_empty() => menu,
        Ok(_) => FaultMenu { bit_flips: !arguments.no_bit_flips, ..FaultMenu::ALL },
        Err(error) => {
            eprintln!("curve-sim: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (length, planted) = (arguments.length.0, arguments.planted);
    let summary = match arguments.scenario {
        Play::Takeovers => Scenario { menu, length, planted, ..Scenario::default() }.run(seed),
        Play::Fencing => Fencing { menu, length, planted }.run(seed),
        Play::Reservations => Reservations { menu, length, planted }.run(seed),
    };
    match summary {
        Ok(summary) => {
            println!("seed {seed}: {summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("seed {seed} FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(seed) = arguments.seed {
        return run_here(&arguments, seed);
    }
    let mut options = vec!["--length".to_owned(), format!("{}ms", arguments.length.0.as_millis())];
    if arguments.no_bit_flips {
        options.push("--no-bit-flips".into());
    }
    if !arguments.faults.is_empty() {
        options.extend(["--faults".into(), arguments.faults.join(",")]);
    }
    if let Some(bug) = arguments.planted {
        options.extend(["--planted".into(), bug.name().into()]);
    }
    if arguments.scenario != Play::Takeovers {
        let name = arguments.scenario.to_possible_value().expect("none is hidden");
        options.extend(["--scenario".into(), name.get_name().to_owned()]);
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let batch = Batch {
        seeds: arguments.from..arguments.from + arguments.seeds,
        jobs: arguments.jobs.unwrap_or(processors).max(1),
        options,
    };
    if batch.run() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
