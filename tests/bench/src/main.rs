//! Measures a cluster beside the machine's raw limits, and beside Ceph, in one run, with fio.
//!
//! Targets are measured with the same jobs: the disk itself (a file with `O_DIRECT`, without and with
//! `fdatasync` after each write), the NBD front end alone (a memory-backed device), a cluster of three MDSs and three
//! chunkservers, and Ceph with three OSDs. All are up at once and measured round after round (see `rounds`). Medians are printed, with the CPU that all processes of the
//! target and fio spent per operation, and the flushes that the servers counted meanwhile: a write that was acknowledged
//! without one would show.
//!
//! iSCSI is measured with `qemu-img bench` (see `qemu`), and NBD with it beside.

mod ceph;
mod cpu;
mod files;
mod fio;
mod floors;
mod growth;
mod memory;
mod ports;
mod qemu;
mod report;
mod rounds;
mod target;
mod tgt;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use curve_types::{ByteSize, HumanDuration};

use crate::fio::{CASES, Case};
use crate::rounds::Plan;
use crate::target::Target;

/// Measure the raw disk, the NBD front end alone, a three-replica cluster, and Ceph, with fio.
///
/// Examples:
///   curve-bench                                   all cases, medians of 3
///   curve-bench --cases randwrite-4k-qd32 --repeats 5
///   curve-bench --targets disk,disk-sync,nbd-memory,cluster,ceph
///   curve-bench --targets nbd-memory-qemu,cluster-qemu,iscsi-memory,iscsi-cluster,tgt
///   curve-bench --depths                          IOPS and CPU per write at depth 1 to 64
///   curve-bench --growth 6,30,150 --runtime 5s    the same as a table, for 6, 30 and 150 copysets
///   curve-bench files --help                      mounted file systems
#[derive(Parser, Debug)]
#[command(verbatim_doc_comment, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    other: Option<Other>,
    /// Where the data of all targets goes; a new directory below it is made and removed again.
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// Time of one run.
    #[arg(long, default_value = "10s")]
    runtime: HumanDuration,
    /// Runs of each case; medians are reported.
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Size of the volume, written through before it is measured.
    #[arg(long, default_value = "4GiB")]
    size: ByteSize,
    /// Cases to run, separated by commas.
    #[arg(long, value_delimiter = ',')]
    cases: Vec<String>,
    /// Random 4 KiB writes and reads at depths 1, 2, 4 … 64 instead of the cases.
    #[arg(long, conflicts_with = "cases")]
    depths: bool,
    /// Print a table of IOPS and CPU at depths 1 to 64 for clusters with these numbers of copysets instead.
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["cases", "depths", "targets", "playground", "json"])]
    growth: Vec<u16>,
    /// Targets to measure, separated by commas: disk, disk-sync, nbd-memory, cluster, ceph (with fio),
    /// nbd-memory-qemu, cluster-qemu, iscsi-memory, iscsi-cluster, tgt, tgt-rbd (with qemu-img).
    #[arg(long, value_delimiter = ',', default_value = "disk,disk-sync,nbd-memory,cluster")]
    targets: Vec<String>,
    /// More arguments for `curve playground start`, for example `--copysets 30`.
    #[arg(long, allow_hyphen_values = true, value_delimiter = ' ')]
    playground: Vec<String>,
    /// Print JSON, one object a measurement.
    #[arg(long)]
    json: bool,
}

/// What else can be measured.
#[derive(Subcommand, Debug)]
enum Other {
    Files(files::FilesArguments),
}

fn chosen(arguments: &Arguments) -> Result<Vec<Case>, String> {
    if arguments.depths {
        return Ok(growth::cases());
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

/// How long each case runs before the first round, unreported.
const WARM_UP: Duration = Duration::from_secs(2);

async fn run(mut arguments: Arguments) -> Result<(), String> {
    if let Some(Other::Files(arguments)) = arguments.other.take() {
        return files::run(arguments).await;
    }
    let (dir, size, runtime) = (&arguments.dir, arguments.size.0, arguments.runtime.0);
    if !arguments.growth.is_empty() {
        return growth::print(dir, size, runtime, &arguments.growth).await;
    }
    let cases = chosen(&arguments)?;
    let targets: Vec<Target> = arguments.targets.iter().map(|name| name.parse()).collect::<Result<_, _>>()?;
    let plan = Plan {
        dir,
        targets: &targets,
        cases: &cases,
        repeats: arguments.repeats,
        runtime,
        warm_up: WARM_UP,
        size,
        playground: &arguments.playground,
    };
    let first_use_us = memory::first_use_us();
    let report = rounds::measure(&plan).await?;
    if arguments.json {
        report.print_json()
    } else {
        report.print_table()
    };
    memory::print(first_use_us, arguments.json);
    Ok(())
}

/// Ends what was started, by dropping it, when the user has seen enough.
async fn until_interrupted(work: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    tokio::select! {
        done = work => done,
        _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
        _ = terminate.recv() => Err("terminated".into()),
    }
}

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    match runtime.block_on(until_interrupted(run(arguments))) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("curve-bench: {message}");
            std::process::ExitCode::FAILURE
        }
    }
}
