//! A bug that is planted is found, by seeds that pass without it.

use std::process::{Command, Stdio};

const LENGTH: &str = "20s";

fn passes(seed: u64, more: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_curve-sim"));
    command.args(["--quiet", "--no-bit-flips", "--length", LENGTH, "--seed", &seed.to_string()]).args(more);
    let output =
        command.env("RUST_BACKTRACE", "0").stdin(Stdio::null()).output().expect("the simulator starts");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Looks for a seed whose run notices the bug in one of these words, and checks that it passes without. Only the kinds of
/// faults that the bug needs are inflicted, so that they happen often; none stands for all.
fn is_found(bug: &str, faults: &str, seeds: std::ops::Range<u64>, words: &[&str]) {
    let kinds = if faults.is_empty() { vec![] } else { vec!["--faults", faults] };
    for seed in seeds.clone() {
        let (passed, said) = passes(seed, &[&kinds[..], &["--planted", bug]].concat());
        if !passed && words.iter().any(|word| said.contains(word)) {
            let (clean, without) = passes(seed, &kinds);
            assert!(clean, "seed {seed} fails without the bug, too: {without}");
            println!("{bug}: {said}");
            return;
        }
    }
    panic!("{bug} was not found by seeds {seeds:?}");
}

#[test]
fn an_acknowledgement_before_the_flush_is_found() {
    // The second is what a log says whose later records rest on one that never reached the disk.
    is_found(
        "acknowledge-before-flush",
        "",
        105..205,
        &["lost write", "was written when this one was durable"],
    );
}

#[test]
fn a_log_trimmed_before_the_chunks_are_durable_is_found() {
    is_found("trim-before-chunk-sync", "", 1..40, &["manifest", "record", "bad blocks", "lost write"]);
}

#[test]
fn a_read_under_a_lease_that_is_too_long_is_found() {
    is_found("lease-too-long", "network", 700..1100, &["stale read", "lost write"]);
}

#[test]
fn a_stale_epoch_that_is_accepted_is_found() {
    is_found("stale-epoch-accepted", "", 1..20, &["although epoch"]);
}

#[test]
fn a_follower_that_forgets_its_vote_is_found() {
    is_found("vote-forgotten", "crashes,network", 1..60, &["lost write", "is not the same"]);
}

#[test]
fn a_torn_record_that_is_taken_as_good_is_found() {
    is_found(
        "torn-record-accepted",
        "crashes",
        370..570,
        // A replica that holds something else than the leader believes may also get stuck.
        &["bad blocks", "damaged blocks", "is not the same", "lost write", "has applied"],
    );
}

#[test]
fn a_large_write_that_is_logged_before_it_is_placed_is_found() {
    is_found("logged-before-placed", "crashes", 125..290, &["bad blocks", "damaged blocks", "lost write"]);
}
