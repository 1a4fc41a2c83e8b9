//! Seeds that CI runs: each in a process of its own, with faults of every kind.

use std::process::{Command, Output, Stdio};

fn simulate(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_curve-sim"));
    command.args(arguments).env("RUST_BACKTRACE", "0").stdin(Stdio::null());
    command.output().expect("the simulator starts")
}

#[test]
fn two_hundred_seeds_lose_nothing_and_heal() {
    let output = simulate(&["--seeds", "200", "--length", "5s"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\nrun one with `cargo run -p curve-sim -- --length 5s --seed N`");
}

#[test]
fn a_seed_decides_everything() {
    let run = || simulate(&["--quiet", "--seed", "4711", "--length", "5s"]);
    let (first, second) = (run(), run());
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stdout));
    assert_eq!(String::from_utf8_lossy(&first.stdout), String::from_utf8_lossy(&second.stdout));
}
