//! Health as operators see it: a level and named codes, each with cause and remedy.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum HealthLevel {
    /// Nothing to do.
    #[default]
    Ok,
    /// It works, and somebody should look.
    Warn,
    /// Something does not work.
    Err,
}

impl fmt::Display for HealthLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "OK",
            Self::Warn => "WARN",
            Self::Err => "ERR",
        })
    }
}

/// One thing that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HealthItem {
    /// A stable name for scripts and documents, such as `CHUNKSERVER_DOWN`.
    pub code: String,
    /// How bad it is.
    pub level: HealthLevel,
    /// What is wrong, in one line, with the ids concerned.
    pub summary: String,
    /// Why it usually happens.
    pub cause: String,
    /// What to do about it.
    pub remedy: String,
}

/// The health of a process or a cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HealthReport {
    /// The worst of the items; `Ok` when there is none.
    pub level: HealthLevel,
    /// What is not as it should be, worst first.
    pub items: Vec<HealthItem>,
}

impl HealthReport {
    /// A report of these items: sorted, worst first and then by code, with the level of the worst.
    pub fn new(mut items: Vec<HealthItem>) -> Self {
        items.sort_by(|a, b| (b.level, &a.code, &a.summary).cmp(&(a.level, &b.code, &b.summary)));
        let level = items.first().map_or(HealthLevel::Ok, |worst| worst.level);
        Self { level, items }
    }
}

/// Who knows how a process is.
pub trait HealthSource: Send + Sync + 'static {
    /// The health now. Must not block.
    fn health(&self) -> HealthReport;

    /// Called before each rendering of `/metrics`, to set gauges that are cheaper to read than to keep.
    fn collect(&self) {}
}
