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

#[test]
fn a_copyset_that_accepts_displaced_writers_is_found() {
    let found = (1..20u64).any(|seed| {
        let output = simulate(&[
            "--quiet",
            "--no-bit-flips",
            "--length",
            "8s",
            "--seed",
            &seed.to_string(),
            "--planted",
            "stale-epoch-accepted",
        ]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let shut_out = said.contains("was shut out") || said.contains("stale read or a lost write");
        assert!(output.status.success() || shut_out, "it fails for another reason: {said}");
        shut_out
    });
    assert!(found, "no seed noticed");
}
