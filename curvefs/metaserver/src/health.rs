//! How this metaserver is, for `/healthz` and `/metrics`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use curve_log::Log;
use curve_multiraft::{GroupState, MultiRaft};
use curve_node::disk_items;
use curve_telemetry::{HealthItem, HealthLevel, HealthReport, HealthSource};
use curve_types::ByteSize;

use crate::context::Context;
use crate::service::Inflight;

/// What health is read from.
pub struct Health {
    /// The replicas and counters.
    pub context: Arc<Context>,
    /// The shared log.
    pub log: Log,
    /// The Raft runtime, which knows whether the disk answers.
    pub raft: Arc<MultiRaft>,
    /// Whether the last heartbeat was answered.
    pub mds_heard: Arc<AtomicBool>,
    /// Requests in flight.
    pub inflight: Arc<Inflight>,
}

fn item(level: HealthLevel, code: &str, summary: String, cause: &str, remedy: &str) -> HealthItem {
    HealthItem { code: code.into(), level, summary, cause: cause.into(), remedy: remedy.into() }
}

impl Health {
    fn disk_items(&self, items: &mut Vec<HealthItem>) {
        items.extend(disk_items(&self.raft, &self.log, "metaserver"));
        if let Some(space) = self.context.room.space().filter(|space| space.is_low) {
            let (free, reserve) = (ByteSize(space.free), ByteSize(space.reserve));
            items.push(item(
                HealthLevel::Err,
                "NO_SPACE",
                format!("{free} are left, and {reserve} are the reserve: what grows is refused"),
                "The disk is full up to the reserve.",
                "Delete files, make room on the disk, or add metaservers and take this one out with `curve cluster \
                 remove-metaserver`. Reads and removals work.",
            ));
        }
    }

    fn replica_items(&self, items: &mut Vec<HealthItem>) {
        for replica in self.context.table.all() {
            let Some(group) = replica.group() else { continue };
            if let GroupState::Failed(cause) = group.status().state {
                items.push(item(
                    HealthLevel::Err,
                    "REPLICA_FAILED",
                    format!("the replica of {} has stopped: {cause}", replica.id()),
                    "Its log or its rows failed.",
                    "See the log of this process. Restart the metaserver; if that does not help, rebuild it.",
                ));
            }
        }
    }
}

impl HealthSource for Health {
    fn health(&self) -> HealthReport {
        let mut items = Vec::new();
        self.disk_items(&mut items);
        self.replica_items(&mut items);
        if !self.mds_heard.load(Ordering::Relaxed) {
            items.push(item(
                HealthLevel::Warn,
                "MDS_UNREACHABLE",
                "no MDS answers heartbeats".into(),
                "All MDSs are down or cannot be reached, or this metaserver has just started.",
                "Start the MDSs; mounts go on meanwhile.",
            ));
        }
        HealthReport::new(items)
    }

    fn collect(&self) {
        let metrics = &self.context.metrics;
        let replicas = self.context.table.all();
        let led = replicas.iter().filter(|replica| replica.led_term().is_some()).count();
        let log = self.log.stats();
        metrics.partitions.set(replicas.len() as f64);
        metrics.partitions_led.set(led as f64);
        metrics.inflight.set(self.inflight.ops() as f64);
        metrics.log_flushes.absolute(log.flushes);
        metrics.log_bytes.absolute(log.appended_bytes);
        if let Some(space) = self.context.room.space() {
            metrics.space_total.set(space.total as f64);
            metrics.space_free.set(space.free as f64);
        }
    }
}
