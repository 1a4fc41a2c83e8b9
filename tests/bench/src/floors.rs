//! What a cluster promises beside Ceph, as ratios measured in the same run.

use serde_json::{Value, json};

use crate::report::{Report, Row};
use crate::target::Target;

/// Which side of the bound is good.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Bound {
    /// The ratio cluster / Ceph must be at least this.
    AtLeast(f64),
    /// The ratio cluster / Ceph must be at most this.
    AtMost(f64),
}

/// A promise.
struct Floor {
    what: &'static str,
    case: &'static str,
    figure: fn(&Row) -> f64,
    bound: Bound,
}

const FLOORS: [Floor; 6] = [
    Floor {
        what: "4 KiB random write, depth 32: IOPS",
        case: "randwrite-4k-qd32",
        figure: |row| row.iops,
        bound: Bound::AtLeast(15.0),
    },
    Floor {
        what: "4 KiB random write, depth 1: median us",
        case: "randwrite-4k-qd1",
        figure: |row| row.median_us,
        bound: Bound::AtMost(1.0 / 4.0),
    },
    Floor {
        what: "4 KiB random read, depth 32: IOPS",
        case: "randread-4k-qd32",
        figure: |row| row.iops,
        bound: Bound::AtLeast(6.0),
    },
    Floor {
        what: "1 MiB sequential write: MB/s",
        case: "seqwrite-1M-qd8",
        figure: |row| row.megabytes,
        bound: Bound::AtLeast(1.5),
    },
    Floor {
        what: "1 MiB sequential read: MB/s",
        case: "seqread-1M-qd8",
        figure: |row| row.megabytes,
        bound: Bound::AtLeast(2.0),
    },
    Floor {
        what: "4 KiB random write, depth 32: CPU us",
        case: "randwrite-4k-qd32",
        figure: |row| row.cpu_us,
        bound: Bound::AtMost(1.0 / 15.0),
    },
];

/// A promise and what came of it.
pub struct Judged {
    what: &'static str,
    case: &'static str,
    cluster: f64,
    ceph: f64,
    bound: Bound,
}

impl Judged {
    fn ratio(&self) -> f64 {
        self.cluster / self.ceph
    }

    /// Whether it is kept. A ratio that is no number keeps nothing.
    pub fn holds(&self) -> bool {
        match self.bound {
            Bound::AtLeast(floor) => self.ratio() >= floor,
            Bound::AtMost(ceiling) => self.ratio() <= ceiling,
        }
    }

    /// For machines.
    pub fn json(&self) -> Value {
        let (kind, bound) = match self.bound {
            Bound::AtLeast(floor) => ("at least", floor),
            Bound::AtMost(ceiling) => ("at most", ceiling),
        };
        json!({
            "floor": self.what, "case": self.case, "cluster": self.cluster, "ceph": self.ceph,
            "ratio": self.ratio(), "kind": kind, "bound": bound, "holds": self.holds(),
        })
    }

    /// A row of a table in Markdown. Small ratios are shown as fractions, as they are promised.
    fn row(&self) -> String {
        let (ratio, bound) = match self.bound {
            Bound::AtLeast(floor) => (format!("{:.2}", self.ratio()), format!(">= {floor}")),
            Bound::AtMost(ceiling) => {
                (format!("1/{:.1}", self.ratio().recip()), format!("<= 1/{:.0}", ceiling.recip()))
            }
        };
        let holds = if self.holds() { "yes" } else { "NO" };
        let digits = usize::from(self.cluster < 1000.0);
        format!(
            "| {} | {:.digits$} | {:.digits$} | {ratio} | {bound} | {holds} |",
            self.what, self.cluster, self.ceph
        )
    }
}

/// Judges what was measured on both; a floor whose case was not run is left out.
pub fn judge(report: &Report) -> Vec<Judged> {
    let judged = FLOORS.iter().filter_map(|floor| {
        let figure = |target| report.row(target, floor.case).map(|row| (floor.figure)(&row));
        let (cluster, ceph) = (figure(Target::Cluster)?, figure(Target::Ceph)?);
        Some(Judged { what: floor.what, case: floor.case, cluster, ceph, bound: floor.bound })
    });
    judged.collect()
}

/// A table in Markdown; nothing when nothing could be judged.
pub fn print_table(judged: &[Judged]) {
    if judged.is_empty() {
        return;
    }
    println!("\n| beside Ceph | cluster | ceph | cluster/ceph | floor | holds |");
    println!("|---|---|---|---|---|---|");
    for one in judged {
        println!("{}", one.row());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fio::CASES;

    fn judged(cluster: f64, ceph: f64, bound: Bound) -> Judged {
        Judged { what: "w", case: "c", cluster, ceph, bound }
    }

    #[test]
    fn every_floor_has_a_case() {
        for floor in &FLOORS {
            assert!(CASES.iter().any(|(name, ..)| *name == floor.case), "{}", floor.case);
        }
    }

    #[test]
    fn bounds_point_the_right_way() {
        assert!(judged(30_000.0, 2_000.0, Bound::AtLeast(15.0)).holds());
        assert!(!judged(29_999.0, 2_000.0, Bound::AtLeast(15.0)).holds());
        assert!(judged(500.0, 2_000.0, Bound::AtMost(0.25)).holds());
        assert!(!judged(501.0, 2_000.0, Bound::AtMost(0.25)).holds());
        assert!(!judged(0.0, 0.0, Bound::AtLeast(1.0)).holds());
        assert!(!judged(0.0, 0.0, Bound::AtMost(1.0)).holds());
    }

    #[test]
    fn rows_are_shown_as_they_are_promised() {
        let more = judged(30_000.0, 2_000.0, Bound::AtLeast(15.0));
        assert_eq!(more.row(), "| w | 30000 | 2000 | 15.00 | >= 15 | yes |");
        let less = judged(600.0, 2_000.0, Bound::AtMost(0.25));
        assert_eq!(less.row(), "| w | 600.0 | 2000.0 | 1/3.3 | <= 1/4 | NO |");
        assert_eq!(less.json()["holds"], false);
    }
}
