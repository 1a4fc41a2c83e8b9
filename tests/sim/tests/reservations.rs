//! Seeds of the reservations scenario that CI runs, and the proof that it finds a change that is answered too early.

use std::process::{Command, Output, Stdio};

fn simulate(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_curve-sim"));
    command.args(["--scenario", "reservations", "--length", "8s"]).args(arguments);
    command.env("RUST_BACKTRACE", "0").stdin(Stdio::null()).output().expect("the simulator starts")
}

#[test]
fn nothing_of_a_preempted_initiator_lands_whatever_becomes_of_its_gateway() {
    let output = simulate(&["--seeds", "16"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}\nrun one with `cargo run -p curve-sim -- --scenario reservations --length 8s --seed N`"
    );
}

#[test]
fn a_change_that_is_answered_before_every_gateway_enforces_it_is_found() {
    let found = (1..20u64).any(|seed| {
        let seed = seed.to_string();
        let output =
            simulate(&["--quiet", "--no-bit-flips", "--seed", &seed, "--planted", "unsettled-answered"]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let landed = ["was shut out", "was let", "stale read or a lost write", "a lost write"];
        let noticed = landed.iter().any(|what| said.contains(what));
        assert!(output.status.success() || noticed, "it fails for another reason: {said}");
        noticed
    });
    assert!(found, "no seed noticed");
}
