//! What the MDS hears from this chunkserver, and what it says in return.
//!
//! The MDS is never on the I/O path: when none answers, this loop goes on trying and everything else goes on working.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use curve_chunkstore::ChunkStore;
use curve_io::Disk;
use curve_multiraft::DiskState;
use curve_node::{HeartbeatPace, Identity, PeerBook};
use curve_proto::mds::{Heartbeat, HeartbeatReply, MdsApi, MdsError, Order, Registration, ReplicaReport};
use curve_types::{CopysetId, NodeId};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::copyset::Replica;
use crate::metrics::Metrics;
use crate::orders;
use crate::replicas::ReplicaHost;
use crate::service::ReplicaTable;

/// The pause between tries to register.
const REGISTER_PAUSE: Duration = Duration::from_millis(500);

/// Who this is and where it is, for the MDS.
#[derive(Clone, Debug)]
pub struct Announcement {
    /// The data plane's address.
    pub address: String,
    /// The failure domain.
    pub zone: String,
}

/// Registers until an MDS answers. Used at the first start, which cannot do anything before it has a node id, and in
/// the background at later ones.
pub async fn register(
    api: &MdsApi,
    identity: &Identity,
    announcement: &Announcement,
    disk: &dyn Disk,
) -> Result<curve_proto::mds::Registered, MdsError> {
    let mut warned = false;
    loop {
        let space = disk.space().ok();
        let registration = Registration {
            token: identity.token,
            address: announcement.address.clone(),
            zone: announcement.zone.clone(),
            total_bytes: space.map_or(0, |s| s.total),
            free_bytes: space.map_or(0, |s| s.free),
            geometry: curve_types::Geometry::default(),
            version: env!("CARGO_PKG_VERSION").into(),
        };
        match api.register(registration).await {
            Ok(registered) => return Ok(registered),
            Err(error) if error.is_transient() => {
                if !std::mem::replace(&mut warned, true) {
                    tracing::warn!(%error, "no MDS registers this chunkserver yet; trying on");
                }
                tokio::time::sleep(REGISTER_PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// The loop that sends heartbeats and runs the orders that come back.
pub struct HeartbeatLoop {
    /// The control plane.
    pub api: Arc<MdsApi>,
    /// This chunkserver's id.
    pub node: NodeId,
    /// Its token.
    pub token: u128,
    /// Where it is.
    pub announcement: Announcement,
    /// How often.
    pub pace: HeartbeatPace,
    /// What is reported.
    pub table: Arc<ReplicaTable>,
    /// What orders change.
    pub host: Arc<ReplicaHost>,
    /// Room is asked here.
    pub store: Arc<ChunkStore>,
    /// What the MDS teaches.
    pub book: Arc<PeerBook>,
    /// Where the book is kept.
    pub disk: Arc<dyn Disk>,
    /// The data directory.
    pub dir: PathBuf,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Whether the last heartbeat was answered.
    pub mds_heard: Arc<AtomicBool>,
}

impl HeartbeatLoop {
    /// Runs for ever; to be aborted at shutdown.
    pub async fn run(mut self) {
        let mut running: JoinSet<CopysetId> = JoinSet::new();
        let mut busy = BTreeSet::new();
        let mut failed_before = false;
        loop {
            let sent = Instant::now();
            let report = self.report();
            let told_full = report.reserve_low;
            // A server whose disk hangs is as good as down, and so it is silent.
            let answer = match self.host.raft().disk() {
                DiskState::Hangs => None,
                DiskState::Fine | DiskState::Full => Some(self.api.heartbeat(report).await),
            };
            if let Some(answer) = &answer {
                self.mds_heard.store(answer.is_ok(), Ordering::Relaxed);
            }
            match answer {
                None => {}
                Some(Ok(reply)) => {
                    self.metrics.heartbeats.increment(1);
                    if std::mem::replace(&mut failed_before, false) {
                        tracing::info!("an MDS answers again");
                    }
                    self.learn(&reply).await;
                    self.start(reply.orders, &mut running, &mut busy);
                }
                Some(Err(error)) => {
                    self.metrics.heartbeats_failed.increment(1);
                    if !std::mem::replace(&mut failed_before, true) {
                        tracing::warn!(%error, "no MDS answers heartbeats; open volumes are not affected");
                    }
                }
            }
            let next = sent + self.pace.interval();
            let earliest = Instant::now() + HeartbeatPace::SPACING;
            while Instant::now() < next {
                tokio::select! {
                    Some(done) = running.join_next() => {
                        // An order that panicked is a bug that was reported; its copyset stays busy.
                        if let Ok(copyset) = done {
                            busy.remove(&copyset);
                        }
                        self.host.changed().notify_one();
                    }
                    // Before, nobody had reason to expect it.
                    () = self.store.refused().notified(), if !told_full => {
                        sleep_until(earliest).await;
                        break;
                    }
                    changed = timeout_at(next, self.host.changed().notified()) => {
                        if changed.is_ok() {
                            sleep_until(earliest).await;
                        }
                        break;
                    }
                }
            }
        }
    }

    async fn learn(&mut self, reply: &HeartbeatReply) {
        self.pace.told(reply.heartbeat_interval);
        if self.book.learn(reply.addresses.iter().cloned())
            && let Err(error) = self.book.save(&*self.disk, &self.dir).await
        {
            tracing::warn!(%error, "cannot keep the addresses of the other chunkservers");
        }
    }

    /// Starts orders. One copyset runs one order at a time; the MDS repeats what is not done.
    fn start(&self, orders: Vec<Order>, running: &mut JoinSet<CopysetId>, busy: &mut BTreeSet<CopysetId>) {
        for order in orders {
            if !busy.insert(order.copyset) {
                continue;
            }
            let (host, table) = (self.host.clone(), self.table.clone());
            running.spawn(async move {
                let copyset = order.copyset;
                orders::execute(&host, &table, order).await;
                copyset
            });
        }
    }

    fn report(&self) -> Heartbeat {
        let space = self.store.space();
        let replicas = self.table.all().iter().filter_map(|replica| report_replica(replica)).collect();
        Heartbeat {
            node: self.node,
            token: self.token,
            address: self.announcement.address.clone(),
            total_bytes: space.total,
            free_bytes: space.free,
            reserve_low: space.reserve_low,
            replicas,
        }
    }
}

fn report_replica(replica: &Replica) -> Option<ReplicaReport> {
    let status = replica.group()?.status();
    let chunk_bytes = u64::from(replica.geometry().chunk_bytes());
    Some(ReplicaReport {
        copyset: replica.id(),
        term: status.term,
        leader: status.leader,
        members: status.members,
        learners: status.learners,
        members_index: status.members_index,
        applied: status.applied,
        last_log: status.last_log,
        used_bytes: replica.store().stats().chunks as u64 * chunk_bytes,
        corrupt_blocks: replica.unhealed_blocks(),
    })
}
