//! What is promised, as ratios measured in the same run: a cluster beside Ceph, iSCSI beside NBD and tgt.

use serde_json::{Value, json};

use crate::report::{Report, Row};
use crate::target::Target;

/// Which side of the bound is good.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Bound {
    /// The ratio must be at least this.
    AtLeast(f64),
    /// The ratio must be at most this.
    AtMost(f64),
}

/// A promise.
struct Floor {
    what: &'static str,
    case: &'static str,
    /// What promises, and what it is compared with.
    pair: (Target, Target),
    figure: fn(&Row) -> f64,
    bound: Bound,
}

const BESIDE_CEPH: (Target, Target) = (Target::Cluster, Target::Ceph);
const BESIDE_NBD: (Target, Target) = (Target::IscsiCluster, Target::ClusterQemu);
const BESIDE_TGT: (Target, Target) = (Target::IscsiMemory, Target::Tgt);
const BESIDE_TGT_ON_RBD: (Target, Target) = (Target::IscsiCluster, Target::TgtRbd);

const FLOORS: [Floor; 11] = [
    Floor {
        what: "4 KiB random write, depth 32: IOPS",
        case: "randwrite-4k-qd32",
        pair: BESIDE_CEPH,
        figure: |row| row.iops,
        bound: Bound::AtLeast(15.0),
    },
    Floor {
        what: "4 KiB random write, depth 1: median us",
        case: "randwrite-4k-qd1",
        pair: BESIDE_CEPH,
        figure: |row| row.median_us,
        bound: Bound::AtMost(1.0 / 4.0),
    },
    Floor {
        what: "4 KiB random read, depth 32: IOPS",
        case: "randread-4k-qd32",
        pair: BESIDE_CEPH,
        figure: |row| row.iops,
        bound: Bound::AtLeast(6.0),
    },
    Floor {
        what: "1 MiB sequential write: MB/s",
        case: "seqwrite-1M-qd8",
        pair: BESIDE_CEPH,
        figure: |row| row.megabytes,
        bound: Bound::AtLeast(1.5),
    },
    Floor {
        what: "1 MiB sequential read: MB/s",
        case: "seqread-1M-qd8",
        pair: BESIDE_CEPH,
        figure: |row| row.megabytes,
        bound: Bound::AtLeast(2.0),
    },
    Floor {
        what: "4 KiB random write, depth 32: CPU us",
        case: "randwrite-4k-qd32",
        pair: BESIDE_CEPH,
        figure: |row| row.cpu_us,
        bound: Bound::AtMost(1.0 / 15.0),
    },
    Floor {
        what: "iSCSI beside NBD, 4 KiB random write, depth 32: IOPS",
        case: "randwrite-4k-qd32",
        pair: BESIDE_NBD,
        figure: |row| row.iops,
        bound: Bound::AtLeast(0.8),
    },
    Floor {
        what: "iSCSI beside NBD, 4 KiB random read, depth 32: IOPS",
        case: "randread-4k-qd32",
        pair: BESIDE_NBD,
        figure: |row| row.iops,
        bound: Bound::AtLeast(0.8),
    },
    Floor {
        what: "iSCSI beside tgt, both in memory, 4 KiB random write, depth 32: IOPS",
        case: "randwrite-4k-qd32",
        pair: BESIDE_TGT,
        figure: |row| row.iops,
        bound: Bound::AtLeast(1.5),
    },
    Floor {
        what: "iSCSI beside tgt, both in memory, 4 KiB random read, depth 32: IOPS",
        case: "randread-4k-qd32",
        pair: BESIDE_TGT,
        figure: |row| row.iops,
        bound: Bound::AtLeast(1.5),
    },
    Floor {
        what: "iSCSI beside tgt on rbd, 4 KiB random write, depth 32: IOPS",
        case: "randwrite-4k-qd32",
        pair: BESIDE_TGT_ON_RBD,
        figure: |row| row.iops,
        bound: Bound::AtLeast(10.0),
    },
];

/// A promise and what came of it.
pub struct Judged {
    what: &'static str,
    case: &'static str,
    pair: (Target, Target),
    ours: f64,
    theirs: f64,
    bound: Bound,
}

impl Judged {
    fn ratio(&self) -> f64 {
        self.ours / self.theirs
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
            "floor": self.what, "case": self.case, "of": self.pair.0.to_string(), "beside": self.pair.1.to_string(),
            "ours": self.ours, "theirs": self.theirs,
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
        let digits = usize::from(self.ours < 1000.0);
        format!(
            "| {} | {} / {} | {:.digits$} | {:.digits$} | {ratio} | {bound} | {holds} |",
            self.what, self.pair.0, self.pair.1, self.ours, self.theirs
        )
    }
}

/// Judges what was measured on both; a floor whose case was not run is left out.
pub fn judge(report: &Report) -> Vec<Judged> {
    let judged = FLOORS.iter().filter_map(|floor| {
        let figure = |target| report.row(target, floor.case).map(|row| (floor.figure)(&row));
        let (ours, theirs) = (figure(floor.pair.0)?, figure(floor.pair.1)?);
        Some(Judged {
            what: floor.what,
            case: floor.case,
            pair: floor.pair,
            ours,
            theirs,
            bound: floor.bound,
        })
    });
    judged.collect()
}

/// A table in Markdown; nothing when nothing could be judged.
pub fn print_table(judged: &[Judged]) {
    if judged.is_empty() {
        return;
    }
    println!("\n| promise | of / beside | of | beside | ratio | floor | holds |");
    println!("|---|---|---|---|---|---|---|");
    for one in judged {
        println!("{}", one.row());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fio::CASES;

    fn judged(ours: f64, theirs: f64, bound: Bound) -> Judged {
        Judged { what: "w", case: "c", pair: BESIDE_CEPH, ours, theirs, bound }
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
        assert_eq!(more.row(), "| w | cluster / ceph | 30000 | 2000 | 15.00 | >= 15 | yes |");
        let less = judged(600.0, 2_000.0, Bound::AtMost(0.25));
        assert_eq!(less.row(), "| w | cluster / ceph | 600.0 | 2000.0 | 1/3.3 | <= 1/4 | NO |");
        assert_eq!(less.json()["holds"], false);
    }
}
