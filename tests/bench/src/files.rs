//! `curve-bench files`: a mounted CurveFS beside a local directory, ceph-fuse, s3fs on the same kind of store, and a parallel
//! S3 client without a file system.
//!
//! Every target is up at once and takes every case in turn, round after round; medians are printed. What a run leaves behind is
//! waited for. "Uncached" means that the file system was unmounted and mounted in between. What is promised when a call returns is
//! in docs/performance.md.

mod cases;
mod report;
mod s3;
mod table;
mod targets;

use std::path::PathBuf;

use clap::Args;

pub use cases::{CASES, Case};
use report::Report;
use targets::{FileTarget, Mounted};

use crate::rounds::settle;
use crate::{cpu, memory};

/// Measure mounted file systems.
///
/// Examples:
///   curve-bench files
///   curve-bench files --targets disk,curvefs,ceph-fuse,s3fs,s3-client
///   curve-bench files --targets curvefs --cases create,stat --repeats 5
///   curve-bench files --table                     creates a second for 1 to 8 mounts and 1 to 6 partitions
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct FilesArguments {
    /// Where the data of all targets goes; new directories below it are made and removed again.
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// What is measured, separated by commas: disk, curvefs, curvefs-nodelegate (mounted with -o nodelegate), ceph-fuse, s3fs, s3-client.
    #[arg(long, value_delimiter = ',', default_value = "disk,curvefs,s3-client")]
    targets: Vec<String>,
    /// Cases to run, separated by commas.
    #[arg(long, value_delimiter = ',')]
    cases: Vec<String>,
    /// Rounds; medians are reported.
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Creates a second for 1, 2, 4, 8 mounts and 1, 3, 6 partitions, as a table.
    #[arg(long, conflicts_with_all = ["targets", "cases", "json"])]
    table: bool,
    /// Print JSON, one object a measurement.
    #[arg(long)]
    json: bool,
}

/// Measures and prints.
pub async fn run(arguments: FilesArguments) -> Result<(), String> {
    if arguments.table {
        return table::print(&arguments.dir, arguments.repeats).await;
    }
    let targets: Vec<FileTarget> =
        arguments.targets.iter().map(|name| name.parse()).collect::<Result<_, _>>()?;
    let cases = chosen(&arguments.cases)?;
    let mut mounts = Vec::new();
    for target in targets {
        eprintln!("starting {target}");
        mounts.push(Mounted::start(target, &arguments.dir).await?);
    }
    let first_use_us = memory::first_use_us();
    let mut report = Report::new(&cases);
    for round in 0..arguments.repeats.max(1) {
        for at in 0..mounts.len() {
            for case in &cases {
                if mounts[at].target().takes(case) {
                    if case.uncached {
                        mounts[at].remount().await?;
                    }
                    settle(&arguments.dir, || used(&mounts)).await?;
                    let mount = &mounts[at];
                    eprintln!(
                        "round {} of {}: {} on {}",
                        round + 1,
                        arguments.repeats,
                        case.name,
                        mount.target()
                    );
                    let run = cases::run(case, mount, round).await?;
                    report.add(mount.target(), case, run);
                }
            }
            mounts[at].clean(round).await?;
        }
        mounts.rotate_left(1);
    }
    cases::forget_archive();
    if arguments.json {
        report.print_json()
    } else {
        report.print_table()
    }
    memory::print(first_use_us, arguments.json);
    Ok(())
}

fn chosen(names: &[String]) -> Result<Vec<&'static Case>, String> {
    if names.is_empty() {
        return Ok(CASES.iter().collect());
    }
    let find = |name: &String| {
        let known = || CASES.iter().map(|case| case.name).collect::<Vec<_>>().join(", ");
        let found = CASES.iter().find(|case| case.name == name);
        found.ok_or_else(|| format!("no case `{name}`; there are {}", known()))
    };
    names.iter().map(find).collect()
}

/// CPU seconds of all targets' processes.
fn used(mounts: &[Mounted]) -> f64 {
    cpu::seconds(&mounts.iter().flat_map(Mounted::pids).collect::<Vec<_>>())
}
