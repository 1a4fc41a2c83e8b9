//! Fuzzes every decoder: `curve-fuzz --seconds 60` runs each target that long (the NBD core has its own fuzzer in
//! `frontends/nbd/examples/fuzz.rs`; `make fuzz` runs both).
//!
//! A case is made from `(target, seed, case)` alone: valid bytes, damaged in a few places. No decoder may panic, and
//! what is accepted must be right: a log gives only entries that were appended, a chunk store only blocks that were
//! written. A failure prints the command that repeats it. Valid bytes damaged a little reach deeper than noise, which
//! a checksum stops at the door; so formats are also tried with their checksums made right after the damage.
//!
//! | target | what |
//! |---|---|
//! | frames | frames of the data plane, cut anywhere |
//! | messages | requests and replies of the MDS |
//! | data | requests and replies of the data plane |
//! | raft | log entries, votes, memberships, appends and other messages between replicas |
//! | copyset | operations, outcomes, checkpoints, snapshots; a chunkserver's identity and peers |
//! | log | whole logs with damaged segments |
//! | records | single records and segment headers of a log, the hello of a connection |
//! | chunk | chunk headers, manifests, records, the store's format |
//! | fs | requests, replies, queries, rows and keys of CurveFS |
//! | metaserver | what metaservers keep beside rows |
//! | store | whole stores with damaged files |
//! | config | configuration files |

mod config;
mod damage;
mod data;
mod formats;
mod frames;
mod log;
mod messages;
mod records;
mod store;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// One case of a target; the text says how it ended, for the counts.
type Target = fn(&mut StdRng) -> &'static str;

const TARGETS: [(&str, Target); 12] = [
    ("frames", frames::case),
    ("messages", messages::case),
    ("data", data::case),
    ("raft", formats::raft),
    ("copyset", formats::copyset),
    ("log", log::case),
    ("records", records::case),
    ("chunk", formats::chunk),
    ("fs", formats::fs),
    ("metaserver", formats::metaserver),
    ("store", store::case),
    ("config", config::case),
];

/// Fuzz every decoder.
#[derive(Parser)]
struct Arguments {
    /// How long to run each target.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Run only this target.
    #[arg(long)]
    target: Option<String>,
    /// Seed of all cases; a random one when absent.
    #[arg(long)]
    seed: Option<u64>,
    /// Run this one case only.
    #[arg(long, requires = "seed", requires = "target")]
    case: Option<u64>,
}

static CASE: AtomicU64 = AtomicU64::new(0);

fn main() {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| rand::rng().random());
    let known = TARGETS.map(|(name, _)| name).join(", ");
    let chosen = |name: &str| arguments.target.as_deref().is_none_or(|target| target == name);
    let targets: Vec<_> = TARGETS.iter().filter(|(name, _)| chosen(name)).collect();
    assert!(!targets.is_empty(), "unknown target; there are {known}");
    for (name, target) in targets {
        let _ = std::panic::take_hook();
        explain_panics(name, seed);
        match arguments.case {
            Some(case) => println!("{name} case {case}: {}", run(*target, seed, case)),
            None => go_on(name, *target, seed, Duration::from_secs(arguments.seconds)),
        }
    }
}

fn go_on(name: &str, target: Target, seed: u64, time: Duration) {
    let begun = Instant::now();
    let mut counts = std::collections::BTreeMap::<&str, u64>::new();
    let mut case = 0;
    while begun.elapsed() < time {
        *counts.entry(run(target, seed, case)).or_default() += 1;
        case += 1;
    }
    println!("{name}: {case} cases in {} s, no failure (seed {seed}): {counts:?}", time.as_secs());
}

fn run(target: Target, seed: u64, case: u64) -> &'static str {
    CASE.store(case, Ordering::Relaxed);
    target(&mut StdRng::seed_from_u64(seed ^ case.rotate_left(32)))
}

fn explain_panics(name: &str, seed: u64) {
    let report = std::panic::take_hook();
    let name = name.to_owned();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        let case = CASE.load(Ordering::Relaxed);
        eprintln!("run it again with: curve-fuzz --target {name} --seed {seed} --case {case}");
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With overflow checks, which the release build that fuzzes for long does not have.
    #[test]
    fn every_target_survives_its_first_cases() {
        for (name, target) in TARGETS {
            // Whole logs and stores take a millisecond a case or more.
            let cases = if matches!(name, "log" | "store") { 200 } else { 10_000 };
            explain_panics(name, 1);
            for case in 0..cases {
                run(target, 1, case);
            }
            let _ = std::panic::take_hook();
        }
    }
}
