//! The slow walk over all chunks that finds damage before a reader does.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use crate::copyset::Replica;
use crate::metrics::Metrics;
use crate::service::ReplicaTable;

/// Bytes read before pausing.
const STEP_BYTES: u64 = 1 << 20;
/// The first pass begins this long after the start, when the caches are warm and the replicas have caught up.
const SETTLE: Duration = Duration::from_secs(30);

/// How fast and how often.
#[derive(Clone, Copy, Debug)]
pub struct ScrubPace {
    /// Bytes a second.
    pub bytes_per_second: u64,
    /// The shortest time between the beginnings of two passes.
    pub interval: Duration,
}

/// Walks for ever; to be aborted at shutdown.
pub async fn run(table: Arc<ReplicaTable>, metrics: Arc<Metrics>, pace: ScrubPace) {
    if pace.bytes_per_second == 0 {
        return;
    }
    sleep(SETTLE.min(pace.interval)).await;
    loop {
        let began = Instant::now();
        for replica in table.all() {
            scrub_replica(&replica, &metrics, pace).await;
        }
        metrics.scrub_passes.increment(1);
        sleep_until(began + pace.interval.max(Duration::from_secs(1))).await;
    }
}

/// Verifies every chunk of a replica once, and heals what is bad from the other replicas.
pub async fn scrub_replica(replica: &Replica, metrics: &Metrics, pace: ScrubPace) {
    replica.forget_unhealed();
    let mut cursor = None;
    loop {
        let began = Instant::now();
        let report = match replica.store().scrub_step(cursor, STEP_BYTES).await {
            Ok(report) => report,
            Err(error) => {
                tracing::warn!(copyset = %replica.id(), %error, "scrub cannot read");
                return;
            }
        };
        metrics.scrubbed.increment(report.bytes);
        for (key, bad) in &report.bad {
            // What cannot be healed was logged and counted, and will be found by the next pass.
            let _ = replica.heal(*key, bad).await;
        }
        cursor = report.next;
        if cursor.is_none() {
            return;
        }
        let seconds = report.bytes as f64 / pace.bytes_per_second.max(1) as f64;
        sleep_until(began + Duration::from_secs_f64(seconds)).await;
    }
}
