//! How the store is, for `/healthz` and `/metrics`.

use std::sync::Weak;

use curve_telemetry::{HealthItem, HealthLevel, HealthReport, HealthSource};
use curve_types::ByteSize;

use crate::store::Store;

/// Does not keep the store open.
pub(crate) struct Health(pub Weak<Store>);

fn item(level: HealthLevel, code: &str, summary: String, cause: &str, remedy: &str) -> HealthItem {
    HealthItem { code: code.into(), level, summary, cause: cause.into(), remedy: remedy.into() }
}

impl HealthSource for Health {
    fn health(&self) -> HealthReport {
        let mut items = Vec::new();
        let Some(store) = self.0.upgrade() else { return HealthReport::default() };
        if store.stopped() {
            items.push(item(
                HealthLevel::Err,
                "STORE_FAILED",
                "the store has stopped after a failed commit".into(),
                "The disk failed or was full when a change was made durable; what it holds is unknown.",
                "Check the disk (dmesg, df) and restart: the store reads what is there.",
            ));
        }
        match store.space() {
            Ok((free, reserve)) if free <= reserve => items.push(item(
                HealthLevel::Warn,
                "NO_SPACE",
                format!("{} are left; new objects are refused", ByteSize(free)),
                "The disk is full up to the reserve.",
                "Delete objects or give it a larger disk. Reading and deleting still work.",
            )),
            Ok(_) => {}
            Err(error) => items.push(item(
                HealthLevel::Err,
                "STORE_FAILED",
                format!("the directory cannot be read: {error}"),
                "The disk or its file system failed.",
                "Check the disk (dmesg).",
            )),
        }
        HealthReport::new(items)
    }

    fn collect(&self) {
        let Some(store) = self.0.upgrade() else { return };
        if let Ok((free, _)) = store.space() {
            metrics::gauge!("curve_s3_space_free_bytes").set(free as f64);
        }
        metrics::gauge!("curve_s3_buckets").set(store.buckets().len() as f64);
    }
}
