//! How IOPS and CPU grow with the queue depth and with the number of copysets.

use std::path::Path;
use std::time::Duration;

use crate::fio::Case;
use crate::report::{Report, Row};
use crate::rounds::{Plan, measure};
use crate::target::Target;

/// Depths measured.
pub const DEPTHS: [u32; 7] = [1, 2, 4, 8, 16, 32, 64];

/// Random 4 KiB writes, then reads, at all depths.
pub fn cases() -> Vec<Case> {
    ["randwrite", "randread"].iter().flat_map(|rw| DEPTHS.map(|depth| Case::random(rw, depth))).collect()
}

/// One cluster for each number of copysets, one after the other, and a table in Markdown.
///
/// With three chunkservers and three replicas every copyset is on every chunkserver, so `--copysets N` of the
/// playground, which counts replicas on a chunkserver, is the number of copysets in all.
pub async fn print(dir: &Path, size: u64, runtime: Duration, copysets: &[u16]) -> Result<(), String> {
    let cases = cases();
    let mut measured = Vec::new();
    for count in copysets {
        eprintln!("{count} copysets");
        let playground = [format!("--copysets={count}")];
        let plan = Plan {
            dir,
            targets: &[Target::Cluster],
            cases: &cases,
            repeats: 1,
            runtime,
            // The table has 42 runs of a few seconds each; it shows how figures grow, not what is best.
            warm_up: Duration::ZERO,
            size,
            playground: &playground,
        };
        measured.push((*count, measure(&plan).await?));
    }
    let depths = DEPTHS.map(|depth| depth.to_string()).join(" | ");
    println!("| copysets | 4 KiB random, at depth | {depths} |");
    println!("|---|---|{}", "---|".repeat(DEPTHS.len()));
    for (count, report) in &measured {
        for line in lines(report) {
            println!("| {count} | {line} |");
        }
    }
    Ok(())
}

/// Four rows of a table: IOPS and CPU of writes and of reads.
fn lines(report: &Report) -> Vec<String> {
    let line = |rw: &str, what: &str, show: fn(&Row) -> String| {
        let rows = DEPTHS.map(|depth| report.row(Target::Cluster, &Case::random(rw, depth).name));
        let cells = rows.map(|row| row.as_ref().map_or_else(|| "-".into(), show));
        format!("{}s, {what} | {}", rw.trim_start_matches("rand"), cells.join(" | "))
    };
    let both = |rw| {
        [
            line(rw, "IOPS", |row| format!("{:.0}", row.iops)),
            line(rw, "CPU us/op", |row| format!("{:.1}", row.cpu_us)),
        ]
    };
    ["randwrite", "randread"].into_iter().flat_map(both).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fio::Outcome;
    use crate::target::Run;

    #[test]
    fn rows_have_a_cell_for_each_depth() {
        let mut report = Report::default();
        let fio = Outcome { operations: 1000, iops: 1234.4, ..Outcome::default() };
        report.add(
            Target::Cluster,
            &Case::random("randwrite", 2),
            Run { fio, cpu_s: 0.05, ..Run::default() },
        );
        assert_eq!(
            lines(&report),
            [
                "writes, IOPS | - | 1234 | - | - | - | - | -",
                "writes, CPU us/op | - | 50.0 | - | - | - | - | -",
                "reads, IOPS | - | - | - | - | - | - | -",
                "reads, CPU us/op | - | - | - | - | - | - | -",
            ]
        );
    }
}
