//! How often each fault happened in a run.

use std::collections::BTreeMap;
use std::fmt;

/// Counts by name; equal for equal seeds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally(BTreeMap<String, u64>);

impl Tally {
    /// Counts one.
    pub fn count(&mut self, what: &str) {
        self.add(what, 1);
    }

    /// Counts several.
    pub fn add(&mut self, what: &str, n: u64) {
        if n > 0 {
            *self.0.entry(what.to_owned()).or_default() += n;
        }
    }

    /// How often it happened.
    pub fn get(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    /// Adds all `name=number` words of a line that `Display` wrote.
    pub fn add_line(&mut self, line: &str) {
        for (name, number) in line.split_whitespace().filter_map(|word| word.split_once('=')) {
            if let Ok(number) = number.parse() {
                self.add(name, number);
            }
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self.0.iter().map(|(name, number)| format!("{name}={number}")).collect();
        f.write_str(&words.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_add_up() {
        let mut one = Tally::default();
        one.count("crashes");
        one.add("full-disks", 2);
        one.add("none", 0);
        assert_eq!(one.to_string(), "crashes=1 full-disks=2");
        let mut sum = Tally::default();
        sum.add_line("seed 7: crashes=1 and words");
        sum.add_line(&one.to_string());
        assert_eq!((sum.get("crashes"), sum.get("full-disks"), sum.get("none")), (2, 2, 0));
    }
}
