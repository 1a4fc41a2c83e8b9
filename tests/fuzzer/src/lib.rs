//! What the fuzzers of the frontends' protocol cores share. They are examples of the crates that they fuzz.
//!
//! A case is made from `(seed, case)` alone. A failure prints the command that repeats it, and the counts at the end show
//! how deep the generator reaches.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore, SeedableRng};

/// States that a generator must at least reach to be worth its time.
const SEEN_MIN: usize = 15;

/// A mutation fuzzer for a protocol core.
#[derive(Parser)]
struct Arguments {
    /// How long to go on.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seed of all cases; a random one if not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Run this one case only.
    #[arg(long, requires = "seed")]
    case: Option<u64>,
}

/// What was reached, and how often.
#[derive(Debug, Default)]
pub struct Seen(BTreeMap<String, u64>);

impl Seen {
    /// Counts one more.
    pub fn count(&mut self, what: impl Into<String>) {
        *self.0.entry(what.into()).or_default() += 1;
    }
}

static CASE: AtomicU64 = AtomicU64::new(0);

/// Runs cases as the command line says. `program` is how `cargo` runs it: `-p CRATE --example NAME`.
pub fn run(program: &'static str, case: fn(&mut StdRng, &mut Seen)) {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| rand::rng().random());
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        let case = CASE.load(Ordering::Relaxed);
        eprintln!("run it again with: cargo run --release {program} -- --seed {seed} --case {case}");
    }));
    let mut seen = Seen::default();
    let mut one = |number: u64| {
        CASE.store(number, Ordering::Relaxed);
        case(&mut StdRng::seed_from_u64(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)), &mut seen);
    };
    if let Some(number) = arguments.case {
        one(number);
        return println!("case {number} of seed {seed} passed: {seen:?}");
    }
    let deadline = Instant::now() + Duration::from_secs(arguments.seconds);
    let mut number = 0;
    while Instant::now() < deadline {
        one(number);
        number += 1;
    }
    println!("{number} cases of seed {seed} passed in {} s", arguments.seconds);
    for (what, count) in &seen.0 {
        println!("{count:>12} {what}");
    }
    assert!(seen.0.len() >= SEEN_MIN, "the generator no longer reaches the states it should");
}

/// Cuts bytes into pieces of 1 to `longest` bytes each, as a network might.
pub fn pieces<'a>(rng: &mut StdRng, mut rest: &'a [u8], longest: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let longest = rest.len().min(*longest.choose(rng).expect("there are lengths"));
        let (piece, left) = rest.split_at(rng.random_range(1..=longest));
        pieces.push(piece);
        rest = left;
    }
    pieces
}

/// Changes a few bytes, or none: half of the cases stay as they are.
pub fn damage(rng: &mut StdRng, input: &mut Vec<u8>) {
    if rng.random() {
        return;
    }
    for _ in 0..rng.random_range(1..5) {
        if input.is_empty() {
            return;
        }
        let at = rng.random_range(0..input.len());
        match rng.random_range(0..6) {
            0 => input[at] ^= 1 << rng.random_range(0..8),
            1 => input[at] = *[0, 1, 0x7f, 0x80, 0xff].choose(rng).expect("five"),
            2 => input.truncate(at),
            3 => {
                let end = input.len().min(at + rng.random_range(1..60));
                input.drain(at..end);
            }
            4 => {
                let mut noise = vec![0; rng.random_range(1..60)];
                rng.fill_bytes(&mut noise);
                input.splice(at..at, noise);
            }
            _ => {
                let from = rng.random_range(0..input.len());
                let end = input.len().min(from + rng.random_range(1..100));
                let copy = input[from..end].to_vec();
                input.splice(at..at, copy);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_all_of_it_and_a_case_repeats() {
        let input: Vec<u8> = (0..200).collect();
        for seed in 0..100 {
            let mut rng = StdRng::seed_from_u64(seed);
            let cut = pieces(&mut rng, &input, &[1, 3, 60]);
            assert!(cut.concat() == input && cut.iter().all(|piece| (1..=60).contains(&piece.len())));
            let again = |mut input: Vec<u8>| {
                damage(&mut StdRng::seed_from_u64(seed), &mut input);
                input
            };
            assert_eq!(again(input.clone()), again(input.clone()));
        }
    }
}
