//! Seeds of the fencing scenario that CI runs, and the proof that it finds a fence that does not hold.

use std::process::{Command, Output, Stdio};

fn simulate(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_curve-sim"));
    command.args(["--scenario", "fencing"]).args(arguments).env("RUST_BACKTRACE", "0").stdin(Stdio::null());
    command.output().expect("the simulator starts")
}

#[test]
fn no_displaced_holder_writes_and_no_live_one_is_refused() {
    let output = simulate(&["--seeds", "60", "--length", "8s"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}\nrun one with `cargo run -p curve-sim -- --scenario fencing --length 8s --seed N`"
    );
}

/// Looks for a seed whose run notices the bug in one of these words.
fn is_found(bug: &str, mut seeds: std::ops::Range<u64>, words: &[&str]) {
    let found = seeds.any(|seed| {
        let seed = seed.to_string();
        let arguments = ["--quiet", "--no-bit-flips", "--length", "8s", "--seed", &seed, "--planted", bug];
        let output = simulate(&arguments);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let noticed = words.iter().any(|word| said.contains(word));
        assert!(output.status.success() || noticed, "it fails for another reason: {said}");
        noticed
    });
    assert!(found, "no seed noticed");
}

#[test]
fn a_copyset_that_accepts_displaced_writers_is_found() {
    is_found("stale-epoch-accepted", 1..20, &["was shut out", "stale read or a lost write"]);
}

#[test]
fn a_pledge_that_is_believed_for_ever_is_found() {
    // A read of what the victim knew: whether it was stale or a later write lost, the history cannot tell.
    is_found("pledge-for-ever", 40..400, &["stale read", "lost write"]);
}
