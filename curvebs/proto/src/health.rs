//! Wording that findings about a cluster share.

use std::fmt::Display;

use crate::mds::{HealthItem, HealthLevel};

/// How many of what is wrong are named.
const LISTED_MAX: usize = 8;

/// A finding.
pub fn item(level: HealthLevel, code: &str, summary: String, cause: String, remedy: &str) -> HealthItem {
    HealthItem { level, code: code.into(), summary, cause, remedy: remedy.into() }
}

/// The first of them, and how many more there are.
pub fn listed<T: ToString>(all: &[T]) -> String {
    let mut text = all.iter().take(LISTED_MAX).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if all.len() > LISTED_MAX {
        text.push_str(&format!(" and {} more", all.len() - LISTED_MAX));
    }
    text
}

/// Who it is and where. One whose address another has taken over is nowhere.
pub fn placed(node: impl Display, address: &str) -> String {
    if address.is_empty() { format!("{node}, which was replaced") } else { format!("{node} at {address}") }
}
