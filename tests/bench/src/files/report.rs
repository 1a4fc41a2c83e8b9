//! Medians of the cases, and the floors.

use std::collections::BTreeMap;

use serde_json::json;

use super::cases::{Case, Run, Unit};
use super::targets::FileTarget;
use crate::report::median;

/// What is promised: this target's rate at a case is at least so often the other's.
const FLOORS: [(&str, FileTarget, f64); 7] = [
    ("create", FileTarget::CephFuse, 3.0),
    ("stat", FileTarget::CephFuse, 2.0),
    ("rename", FileTarget::CephFuse, 3.0),
    ("write-4k-fsync", FileTarget::CephFuse, 3.0),
    ("untar", FileTarget::CephFuse, 3.0),
    ("write", FileTarget::S3Client, 0.8),
    ("read", FileTarget::S3Client, 0.8),
];

/// All runs so far.
pub struct Report {
    cases: Vec<&'static Case>,
    runs: BTreeMap<(&'static str, FileTarget), Vec<Run>>,
}

impl Report {
    /// No runs yet.
    pub fn new(cases: &[&'static Case]) -> Self {
        Self { cases: cases.to_vec(), runs: BTreeMap::new() }
    }

    /// Adds one.
    pub fn add(&mut self, target: FileTarget, case: &'static Case, run: Run) {
        self.runs.entry((case.name, target)).or_default().push(run);
    }

    fn of(&self, case: &str, target: FileTarget, value: fn(&Run) -> f64) -> Option<f64> {
        let case = self.cases.iter().find(|known| known.name == case)?;
        Some(median(self.runs.get(&(case.name, target))?.iter().map(value)))
    }

    fn rows(&self) -> impl Iterator<Item = (&'static Case, FileTarget, f64, f64, u64)> {
        self.cases.iter().flat_map(|case| {
            let of = self.runs.iter().filter(|((name, _), _)| *name == case.name);
            of.map(|((_, target), runs)| {
                let rate = median(runs.iter().map(|run| run.rate));
                let cpu = median(runs.iter().map(|run| run.cpu_us));
                (*case, *target, rate, cpu, runs.iter().map(|run| run.mount_bytes).max().unwrap_or_default())
            })
        })
    }

    /// What was promised and measured on both: case, beside, rate, the other's rate, floor.
    fn judged(&self) -> Vec<(&'static str, FileTarget, f64, f64, f64)> {
        let judged = FLOORS.iter().filter_map(|(case, beside, floor)| {
            let ours = self.of(case, FileTarget::Curvefs, |run| run.rate)?;
            let theirs = self.of(case, *beside, |run| run.rate)?;
            Some((*case, *beside, ours, theirs, *floor))
        });
        judged.collect()
    }

    /// Tables in Markdown.
    pub fn print_table(&self) {
        println!(
            "| case | target | rate | CPU us/op or MiB | mount's memory at most |\n|---|---|---|---|---|"
        );
        for (case, target, rate, cpu, memory) in self.rows() {
            let rate = match case.unit {
                Unit::Operations => format!("{rate:.0}/s"),
                Unit::Bytes => format!("{:.0} MB/s", rate / 1e6),
            };
            println!("| {} | {target} | {rate} | {cpu:.0} | {} MiB |", case.name, memory >> 20);
        }
        println!("\n| promise | beside | ratio | floor | holds |\n|---|---|---|---|---|");
        for (case, beside, ours, theirs, floor) in self.judged() {
            let holds = if ours / theirs >= floor { "yes" } else { "NO" };
            println!("| {case} | {beside} | {:.2} | >= {floor} | {holds} |", ours / theirs);
        }
    }

    /// The same, one JSON object a line.
    pub fn print_json(&self) {
        for (case, target, rate, cpu, memory) in self.rows() {
            let object = json!({
                "case": case.name, "target": target.to_string(), "per_second": rate,
                "unit": if case.unit == Unit::Bytes { "bytes" } else { "operations" },
                "cpu_us": cpu, "mount_resident_bytes": memory,
            });
            println!("{object}");
        }
        for (case, beside, ours, theirs, floor) in self.judged() {
            let ratio = ours / theirs;
            let beside = beside.to_string();
            println!(
                "{}",
                json!({"floor": floor, "case": case, "beside": beside, "ratio": ratio, "holds": ratio >= floor})
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::CASES;

    #[test]
    fn floors_have_cases_and_are_judged_from_medians() {
        assert!(FLOORS.iter().all(|(name, ..)| CASES.iter().any(|case| case.name == *name)));
        let mut report = Report::new(&CASES.iter().collect::<Vec<_>>());
        let run = |rate| Run { rate, cpu_us: 1.0, mount_bytes: 0 };
        [10.0, 31.0, 900.0].iter().for_each(|rate| report.add(FileTarget::Curvefs, &CASES[0], run(*rate)));
        assert!(report.judged().is_empty());
        report.add(FileTarget::CephFuse, &CASES[0], run(10.0));
        assert_eq!(report.judged(), [("create", FileTarget::CephFuse, 31.0, 10.0, 3.0)]);
    }
}
