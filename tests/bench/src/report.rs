//! Medians and how they are printed.

use std::collections::BTreeMap;

use serde_json::json;

use crate::fio::Case;
use crate::floors;
use crate::target::{Run, Target};

/// All runs so far.
#[derive(Default)]
pub struct Report {
    /// Cases in the order in which they were asked for.
    cases: Vec<String>,
    runs: BTreeMap<(Target, String), Vec<Run>>,
}

/// The medians of one case on one target.
pub struct Row {
    /// Operations per second.
    pub iops: f64,
    /// 10^6 bytes per second.
    pub megabytes: f64,
    /// Median latency in microseconds.
    pub median_us: f64,
    /// 99th percentile of the latency in microseconds.
    pub p99_us: f64,
    /// CPU microseconds of all processes, fio's among them, for one operation.
    pub cpu_us: f64,
    flushes_per_op: Option<f64>,
    resident_bytes: u64,
}

/// The middle one; 0 of nothing.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
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

    /// The medians of one case on one target, if it was measured there.
    pub fn row(&self, target: Target, case: &str) -> Option<Row> {
        let runs = self.runs.get(&(target, case.to_owned()))?;
        let of = |value: fn(&Run) -> f64| median(runs.iter().map(value));
        let flushes = runs.iter().filter_map(|run| run.flushes.map(|flushes| flushes / operations(run)));
        Some(Row {
            iops: of(|run| run.fio.iops),
            megabytes: of(|run| run.fio.megabytes),
            median_us: of(|run| run.fio.median_us),
            p99_us: of(|run| run.fio.p99_us),
            cpu_us: of(|run| run.cpu_s * 1e6 / operations(run)),
            flushes_per_op: runs[0].flushes.map(|_| median(flushes)),
            resident_bytes: runs.last().map_or(0, |run| run.resident_bytes),
        })
    }

    fn targets(&self) -> Vec<Target> {
        let mut targets: Vec<Target> = self.runs.keys().map(|(target, _)| *target).collect();
        targets.dedup();
        targets
    }

    /// A table in Markdown: one row a case and target, with the share of the disk's own IOPS. Then the ratios that are promised,
    /// where both were measured, and how quiet the machine was.
    pub fn print_table(&self) {
        println!(
            "| case | target | IOPS | MB/s | median us | p99 us | CPU us/op | flushes/op | of the disk |"
        );
        println!("|---|---|---|---|---|---|---|---|---|");
        for case in &self.cases {
            let disk = self.row(Target::Disk, case).map(|row| row.iops);
            for target in self.targets() {
                let Some(row) = self.row(target, case) else { continue };
                let share = optional(disk.map(|disk| row.iops / disk));
                println!(
                    "| {case} | {target} | {:.0} | {:.0} | {} | {} | {:.1} | {} | {share} |",
                    row.iops,
                    row.megabytes,
                    whole(row.median_us),
                    whole(row.p99_us),
                    row.cpu_us,
                    optional(row.flushes_per_op)
                );
            }
        }
        floors::print_table(&floors::judge(self));
        let (usual, worst) = self.other_cores();
        println!(
            "\nEverything else on the machine took {usual:.2} cores in the median run, {worst:.2} in the worst."
        );
    }

    /// One JSON object a line: medians, then floors, then the noise.
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
        floors::judge(self).iter().for_each(|judged| println!("{}", judged.json()));
        let (usual, worst) = self.other_cores();
        println!("{}", json!({"other_cores_median": usual, "other_cores_max": worst}));
    }

    /// What everything else took in the median run and in the worst.
    fn other_cores(&self) -> (f64, f64) {
        let all = || self.runs.values().flatten().map(|run| run.other_cores);
        (median(all()), all().fold(0.0, f64::max))
    }
}

fn operations(run: &Run) -> f64 {
    run.fio.operations.max(1) as f64
}

fn optional(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.2}"))
}

/// qemu-img reports no latencies.
fn whole(us: f64) -> String {
    if us > 0.0 { format!("{us:.0}") } else { "-".into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fio::{CASES, Outcome};

    #[test]
    fn the_median_is_the_middle_run() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median(std::iter::empty()), 0.0);
    }

    #[test]
    fn a_floor_is_judged_from_medians_of_both() {
        let case = Case::from_table(&CASES[1]);
        let run = |iops: f64| Run {
            fio: Outcome { operations: 1000, iops, ..Outcome::default() },
            cpu_s: 1.0,
            flushes: Some(3000.0),
            ..Run::default()
        };
        let mut report = Report::default();
        [100.0, 160.0, 900.0].iter().for_each(|iops| report.add(Target::Cluster, &case, run(*iops)));
        assert!(floors::judge(&report).is_empty());
        report.add(Target::Ceph, &case, run(10.0));
        let judged = floors::judge(&report);
        assert_eq!(judged.iter().map(floors::Judged::holds).collect::<Vec<_>>(), [true, false]);
        let row = report.row(Target::Cluster, &case.name).unwrap();
        assert_eq!((row.iops, row.cpu_us, row.flushes_per_op), (160.0, 1000.0, Some(3.0)));
    }
}
