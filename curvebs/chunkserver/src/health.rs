//! How this chunkserver is, for `/healthz` and `/metrics`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use curve_chunkstore::ChunkStore;
use curve_log::Log;
use curve_multiraft::{GroupState, MultiRaft, Role};
use curve_node::disk_items;
use curve_telemetry::{HealthItem, HealthLevel, HealthReport, HealthSource};
use curve_types::ByteSize;

use crate::metrics::Metrics;
use crate::service::{Inflight, ReplicaTable};

/// What health is read from.
pub struct Health {
    /// The replicas.
    pub table: Arc<ReplicaTable>,
    /// The chunks.
    pub store: Arc<ChunkStore>,
    /// The shared log.
    pub log: Log,
    /// The Raft runtime, which knows whether the disk answers.
    pub raft: Arc<MultiRaft>,
    /// Whether the last heartbeat was answered.
    pub mds_heard: Arc<AtomicBool>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Requests in flight.
    pub inflight: Arc<Inflight>,
}

fn item(level: HealthLevel, code: &str, summary: String, cause: &str, remedy: &str) -> HealthItem {
    HealthItem { code: code.into(), level, summary, cause: cause.into(), remedy: remedy.into() }
}

impl Health {
    fn disk_items(&self, items: &mut Vec<HealthItem>) {
        if let Some(failure) = self.store.failure() {
            items.push(item(
                HealthLevel::Err,
                "STORE_FAILED",
                format!("the chunk store has stopped: {failure}"),
                "The disk failed a write or a sync; what it then holds in memory cannot be trusted.",
                "Check the disk (dmesg, smartctl). Restart the chunkserver, or replace the disk and rebuild it.",
            ));
        }
        items.extend(disk_items(&self.raft, &self.log, "chunkserver"));
        let space = self.store.space();
        if space.reserve_low || self.log.space_low() {
            items.push(item(
                HealthLevel::Warn,
                "NO_SPACE",
                format!("{} are left; new allocations are refused", ByteSize(space.free)),
                "The disk is full up to the reserve.",
                "Delete volumes or discard blocks, or add chunkservers. Reads, overwrites and deletions still work.",
            ));
        }
    }

    fn replica_items(&self, items: &mut Vec<HealthItem>) {
        for replica in self.table.all() {
            let Some(group) = replica.group() else { continue };
            if let GroupState::Failed(cause) = group.status().state {
                items.push(item(
                    HealthLevel::Err,
                    "REPLICA_FAILED",
                    format!("the replica of {} has stopped: {cause}", replica.id()),
                    "Its log or its state machine failed.",
                    "See the log of this process. Restart the chunkserver; if that does not help, rebuild it.",
                ));
            }
            let bad = replica.unhealed_blocks();
            if bad > 0 {
                items.push(item(
                    HealthLevel::Err,
                    "CORRUPT_BLOCKS",
                    format!("{bad} damaged blocks of {} could not be healed", replica.id()),
                    "The disk returned bytes with a wrong checksum, and no other replica could give a good copy.",
                    "Bring the other replicas up; the blocks are healed on the next read or scrub.",
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
                "All MDSs are down or cannot be reached, or this chunkserver has just started.",
                "Start the MDSs; open volumes go on meanwhile.",
            ));
        }
        HealthReport::new(items)
    }

    fn collect(&self) {
        let replicas = self.table.all();
        let led =
            replicas.iter().filter(|r| r.group().is_some_and(|g| g.status().role == Role::Leader)).count();
        let space = self.store.space();
        let log = self.log.stats();
        self.metrics.copysets.set(replicas.len() as f64);
        self.metrics.copysets_led.set(led as f64);
        self.metrics.inflight.set(self.inflight.ops() as f64);
        self.metrics.space_total.set(space.total as f64);
        self.metrics.space_free.set(space.free as f64);
        self.metrics.log_flushes.absolute(log.flushes);
        self.metrics.log_bytes.absolute(log.appended_bytes);
    }
}
