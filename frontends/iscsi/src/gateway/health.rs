//! What `/healthz` of a gateway says.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use curve_telemetry::{HealthItem, HealthLevel, HealthReport, HealthSource};

/// What is wrong now. The lock is held for a few instructions.
#[derive(Debug, Default)]
pub struct Problems(Mutex<Found>);

#[derive(Debug, Default)]
struct Found {
    units: BTreeMap<String, String>,
    locked: Vec<String>,
    unheard: bool,
}

impl Problems {
    /// Why a unit cannot be served; nothing if it is.
    pub fn unit(&self, path: &str, why: Option<String>) {
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match why {
            Some(why) => found.units.insert(path.to_owned(), why),
            None => found.units.remove(path),
        };
    }

    /// Targets whose secrets the MDS could not unseal.
    pub fn locked(&self, targets: Vec<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).locked = targets;
    }

    /// Whether the gateway's lease has run out as far as it can know.
    pub fn unheard(&self, unheard: bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).unheard = unheard;
    }
}

fn item(code: &str, level: HealthLevel, summary: String, cause: &str, remedy: &str) -> HealthItem {
    HealthItem { code: code.to_owned(), level, summary, cause: cause.to_owned(), remedy: remedy.to_owned() }
}

impl HealthSource for Problems {
    fn health(&self) -> HealthReport {
        let found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut items = Vec::new();
        for (path, why) in &found.units {
            items.push(item(
                "UNIT_UNAVAILABLE",
                HealthLevel::Err,
                format!("{path} is not served by this gateway: {why}"),
                "somebody has the volume open alone, or the cluster is away",
                "see `curve bs holders PATH` and `curve cluster status`; it is tried again all the time",
            ));
        }
        if !found.locked.is_empty() {
            items.push(item(
                "SECRETS_LOCKED",
                HealthLevel::Err,
                format!("nobody can log in to {}", found.locked.join(", ")),
                "the leading MDS has not the key that the CHAP secrets were sealed with",
                "give every MDS the same `secrets_key_file`, or set the secrets again with `curve iscsi auth set`",
            ));
        }
        if found.unheard {
            items.push(item(
                "MDS_UNHEARD",
                HealthLevel::Warn,
                "no MDS has been heard for longer than this gateway's lease".to_owned(),
                "the MDSs or the network to them are down",
                "see `curve cluster status`; I/O goes on, changes of reservations and targets wait",
            ));
        }
        HealthReport::new(items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_come_and_go() {
        let problems = Problems::default();
        assert_eq!(problems.health().level, HealthLevel::Ok);
        problems.unit("/a", Some("held".into()));
        problems.locked(vec!["iqn.x:y".into()]);
        problems.unheard(true);
        let report = problems.health();
        let codes: Vec<&str> = report.items.iter().map(|item| item.code.as_str()).collect();
        assert_eq!(codes, ["SECRETS_LOCKED", "UNIT_UNAVAILABLE", "MDS_UNHEARD"]);
        problems.unit("/a", None);
        problems.locked(Vec::new());
        problems.unheard(false);
        assert_eq!(problems.health().level, HealthLevel::Ok);
    }
}
