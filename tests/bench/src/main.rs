//! Measures a cluster beside the machine's raw limits, in one run, with fio.
//!
//! Three targets are measured with the same jobs, round after round so that a noisy minute hits all of them: the disk
//! itself (a file with `O_DIRECT`, and `pwrite` + `fdatasync`), the NBD front end alone (a memory-backed device), and a
//! cluster of three MDSs and three chunkservers. Medians are printed, with the CPU that all processes of the target
//! and fio spent per operation, and the flushes that the chunkservers counted meanwhile: a write that was acknowledged
//! without one would show.

mod cpu;
mod fio;
mod report;
mod target;

use std::path::PathBuf;

use clap::Parser;
use curve_types::{ByteSize, HumanDuration};

use crate::fio::{CASES, Case};
use crate::report::Report;
use crate::target::{Bench, Target};

/// Measure the raw disk, the NBD front end alone, and a three-replica cluster, with fio.
///
/// Examples:
///   curve-bench                                   all cases, medians of 3
///   curve-bench --cases randwrite-4k-qd32 --repeats 5
///   curve-bench --depths                          IOPS and CPU per write at depth 1 to 64
#[derive(Parser, Debug)]
#[command(verbatim_doc_comment)]
struct Arguments {
    /// Where the data of all targets goes; a new directory below it is made and removed again.
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// Time of one run.
    #[arg(long, default_value = "10s")]
    runtime: HumanDuration,
    /// Runs of each case; medians are reported.
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Size of the volume, written once through before it is measured.
    #[arg(long, default_value = "4GiB")]
    size: ByteSize,
    /// Cases to run, separated by commas.
    #[arg(long, value_delimiter = ',')]
    cases: Vec<String>,
    /// Random 4 KiB writes and reads at depths 1, 2, 4 … 64 instead of the cases.
    #[arg(long, conflicts_with = "cases")]
    depths: bool,
    /// Targets to measure, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "disk,nbd-memory,cluster")]
    targets: Vec<String>,
    /// More arguments for `curve playground start`, for example `--copysets 30`.
    #[arg(long, allow_hyphen_values = true, value_delimiter = ' ')]
    playground: Vec<String>,
    /// Print JSON, one object a measurement.
    #[arg(long)]
    json: bool,
}

fn chosen(arguments: &Arguments) -> Result<Vec<Case>, String> {
    if arguments.depths {
        let depths = [1, 2, 4, 8, 16, 32, 64];
        return Ok(["randwrite", "randread"]
            .iter()
            .flat_map(|rw| depths.map(|d| Case::random(rw, d)))
            .collect());
    }
    if arguments.cases.is_empty() {
        return Ok(CASES.iter().map(Case::from_table).collect());
    }
    let find = |name: &String| {
        let found = CASES.iter().find(|(case, ..)| case == name).map(Case::from_table);
        let known = || CASES.iter().map(|(case, ..)| *case).collect::<Vec<_>>().join(", ");
        found.ok_or_else(|| format!("no case `{name}`; there are {}", known()))
    };
    arguments.cases.iter().map(find).collect()
}

async fn run(arguments: Arguments) -> Result<(), String> {
    let cases = chosen(&arguments)?;
    let targets: Vec<Target> = arguments.targets.iter().map(|name| name.parse()).collect::<Result<_, _>>()?;
    let mut report = Report::default();
    for &target in &targets {
        eprintln!("preparing {target}");
        let bench = Bench::prepare(target, &arguments.dir, arguments.size.0, &arguments.playground).await?;
        for round in 1..=arguments.repeats {
            for case in &cases {
                eprintln!("{target}: {} ({round} of {})", case.name, arguments.repeats);
                let run = bench.run(case, arguments.runtime.0).await?;
                report.add(target, case, run);
            }
        }
    }
    if arguments.json {
        report.print_json()
    } else {
        report.print_table()
    };
    Ok(())
}

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    match runtime.block_on(run(arguments)) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("curve-bench: {message}");
            std::process::ExitCode::FAILURE
        }
    }
}
