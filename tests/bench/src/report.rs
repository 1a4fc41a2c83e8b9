//! Medians, ratios and how they are printed.

use std::collections::BTreeMap;

use serde_json::json;

use crate::fio::Case;
use crate::target::{Run, Target};

/// All runs so far.
#[derive(Default)]
pub struct Report {
    /// Cases in the order in which they were asked for.
    cases: Vec<String>,
    runs: BTreeMap<(Target, String), Vec<Run>>,
}

/// The medians of one case on one target.
struct Row {
    iops: f64,
    megabytes: f64,
    median_us: f64,
    p99_us: f64,
    cpu_us: f64,
    flushes_per_op: f64,
    resident_bytes: u64,
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

impl Report {
    /// Adds one run.
    pub fn add(&mut self, target: Target, case: &Case, run: Run) {
        if !self.cases.contains(&case.name) {
            self.cases.push(case.name.clone());
        }
        self.runs.entry((target, case.name.clone())).or_default().push(run);
    }

    fn row(&self, target: Target, case: &str) -> Option<Row> {
        let runs = self.runs.get(&(target, case.to_owned()))?;
        let of = |value: fn(&Run) -> f64| median(runs.iter().map(value));
        Some(Row {
            iops: of(|run| run.fio.iops),
            megabytes: of(|run| run.fio.megabytes),
            median_us: of(|run| run.fio.median_us),
            p99_us: of(|run| run.fio.p99_us),
            cpu_us: of(|run| (run.servers_cpu_s + run.fio.cpu_s) * 1e6 / run.fio.operations.max(1) as f64),
            flushes_per_op: of(|run| run.flushes / run.fio.operations.max(1) as f64),
            resident_bytes: runs.last().map_or(0, |run| run.resident_bytes),
        })
    }

    fn targets(&self) -> Vec<Target> {
        let mut targets: Vec<Target> = self.runs.keys().map(|(target, _)| *target).collect();
        targets.dedup();
        targets
    }

    /// A table in Markdown: one row a case and target, with the share of the disk's own IOPS.
    pub fn print_table(&self) {
        println!(
            "| case | target | IOPS | MB/s | median us | p99 us | CPU us/op | flushes/op | of the disk |"
        );
        println!("|---|---|---|---|---|---|---|---|---|");
        for case in &self.cases {
            let disk = self.row(Target::Disk, case).map(|row| row.iops);
            for target in self.targets() {
                let Some(row) = self.row(target, case) else { continue };
                let share = disk.map_or_else(|| "-".into(), |disk| format!("{:.2}", row.iops / disk));
                println!(
                    "| {case} | {target} | {:.0} | {:.0} | {:.0} | {:.0} | {:.1} | {:.2} | {share} |",
                    row.iops, row.megabytes, row.median_us, row.p99_us, row.cpu_us, row.flushes_per_op
                );
            }
        }
    }

    /// One JSON object a line.
    pub fn print_json(&self) {
        for case in &self.cases {
            for target in self.targets() {
                let Some(row) = self.row(target, case) else { continue };
                let object = json!({
                    "case": case, "target": target.to_string(), "iops": row.iops, "mb_per_s": row.megabytes,
                    "median_us": row.median_us, "p99_us": row.p99_us, "cpu_us_per_op": row.cpu_us,
                    "flushes_per_op": row.flushes_per_op, "resident_bytes": row.resident_bytes,
                });
                println!("{object}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_run() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median(std::iter::empty()), 0.0);
    }
}
