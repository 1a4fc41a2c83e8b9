//! What the MDS hears from this metaserver, and what it says in return.
//!
//! The MDS is never on the way of a request: when none answers, this loop goes on trying and everything else goes on working.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use curve_io::Disk;
use curve_multiraft::DiskState;
use curve_node::{HeartbeatPace, Identity};
use curve_proto::mds::{MdsApi, MdsError};
use curve_proto::pb::fs as pb;
use curve_proto::pb::fs::fs_request::Op;
use curve_proto::pb::fs::fs_response::Result as Answer;
use curve_types::NodeId;
use curvefs_types::{Answer as MetaAnswer, MountId, PartitionId, Query};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::context::Context;
use crate::host::ReplicaHost;
use crate::orders::{self, Order};
use crate::replica::Replica;

/// The pause between tries to register.
const REGISTER_PAUSE: Duration = Duration::from_millis(500);
/// Orders that run at a time; what is not started now is ordered again.
const ORDERS_MAX: usize = 1024;

/// Who this is and where it is, for the MDS.
#[derive(Clone, Debug)]
pub struct Announcement {
    /// The data plane's address.
    pub address: String,
    /// The failure domain.
    pub zone: String,
}

/// What the MDS gave at registration.
#[derive(Clone, Debug)]
pub struct Registered {
    /// The node id.
    pub node: NodeId,
    /// The cluster's name.
    pub cluster: String,
}

/// Registers until an MDS answers. Used at the first start, which cannot do anything before it has a node id.
pub async fn register(
    api: &MdsApi,
    identity: &Identity,
    announcement: &Announcement,
    disk: &dyn Disk,
) -> Result<Registered, MdsError> {
    let mut warned = false;
    loop {
        let space = disk.space().ok();
        let registration = pb::MetaRegister {
            token: identity.token.to_le_bytes().to_vec().into(),
            address: announcement.address.clone(),
            zone: announcement.zone.clone(),
            total_bytes: space.map_or(0, |s| s.total),
            free_bytes: space.map_or(0, |s| s.free),
            version: env!("CARGO_PKG_VERSION").into(),
        };
        match api.fs(Op::Register(registration)).await {
            Ok(Answer::Registered(pb::MetaRegistered { node, cluster, .. })) if node != 0 => {
                return Ok(Registered { node: NodeId(node), cluster });
            }
            Ok(_) => {
                let why = "the MDS's answer to a registration makes no sense".into();
                return Err(MdsError::BadRequest { why });
            }
            Err(error) if error.is_transient() => {
                if !std::mem::replace(&mut warned, true) {
                    tracing::warn!(%error, "no MDS registers this metaserver yet; trying on");
                }
                tokio::time::sleep(REGISTER_PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
}

type OrderKey = (PartitionId, Option<MountId>);

/// The loop that sends heartbeats and runs the orders that come back.
pub struct HeartbeatLoop {
    /// The control plane.
    pub api: Arc<MdsApi>,
    /// What is reported.
    pub context: Arc<Context>,
    /// This metaserver's token.
    pub token: u128,
    /// Where it is.
    pub announcement: Announcement,
    /// How often.
    pub pace: HeartbeatPace,
    /// What orders change.
    pub host: Arc<ReplicaHost>,
    /// Where the addresses are kept, and whose room is reported.
    pub disk: Arc<dyn Disk>,
    /// The data directory.
    pub dir: PathBuf,
    /// Whether the last heartbeat was answered.
    pub mds_heard: Arc<AtomicBool>,
}

impl HeartbeatLoop {
    /// Runs for ever; to be aborted at shutdown.
    pub async fn run(mut self) {
        let mut running: JoinSet<OrderKey> = JoinSet::new();
        let mut busy = BTreeSet::new();
        let mut failed_before = false;
        loop {
            let sent = Instant::now();
            // A server whose disk hangs is as good as down, and so it is silent.
            let answer = match self.host.raft().disk() {
                DiskState::Hangs => None,
                DiskState::Fine | DiskState::Full => Some(self.send().await),
            };
            if let Some(answer) = &answer {
                self.mds_heard.store(answer.is_ok(), Ordering::Relaxed);
            }
            match answer {
                None => {}
                Some(Ok(orders)) => {
                    self.context.metrics.heartbeats.increment(1);
                    if std::mem::replace(&mut failed_before, false) {
                        tracing::info!("an MDS answers again");
                    }
                    self.learn(&orders).await;
                    tokio::spawn({
                        let context = self.context.clone();
                        async move { context.systems.keep_up().await }
                    });
                    self.start(orders.orders, &mut running, &mut busy);
                }
                Some(Err(error)) => {
                    self.context.metrics.heartbeats_failed.increment(1);
                    if !std::mem::replace(&mut failed_before, true) {
                        tracing::warn!(%error, "no MDS answers heartbeats; mounts are not affected");
                    }
                }
            }
            let next = sent + self.pace.interval();
            let earliest = Instant::now() + HeartbeatPace::SPACING;
            while Instant::now() < next {
                tokio::select! {
                    Some(done) = running.join_next() => {
                        // An order that panicked is a bug that was reported; its partition stays busy.
                        if let Ok(key) = done {
                            busy.remove(&key);
                        }
                        self.context.news.notify_one();
                    }
                    changed = timeout_at(next, self.context.news.notified()) => {
                        if changed.is_ok() {
                            sleep_until(earliest).await;
                        }
                        break;
                    }
                }
            }
        }
    }

    async fn send(&self) -> Result<pb::MetaOrders, MdsError> {
        match self.api.fs(Op::Heartbeat(self.report())).await? {
            Answer::Heartbeat(orders) => Ok(orders),
            _ => Err(MdsError::BadRequest { why: "the MDS's answer to a heartbeat makes no sense".into() }),
        }
    }

    async fn learn(&mut self, orders: &pb::MetaOrders) {
        self.pace.told(Duration::from_millis(orders.heartbeat_interval_ms));
        let here = self.context.table.all().iter().map(|replica| replica.fs()).collect();
        self.context.systems.heard(&orders.versions, &here);
        self.context.room.heard(orders.no_space.iter().copied().map(NodeId));
        let addresses = orders.addresses.iter().map(|one| (NodeId(one.node), one.address.clone()));
        if self.context.book.learn(addresses)
            && let Err(error) = self.context.book.save(&*self.disk, &self.dir).await
        {
            tracing::warn!(%error, "cannot keep the addresses of the other metaservers");
        }
    }

    /// Starts orders. One partition runs one order at a time; the MDS repeats what is not done.
    fn start(
        &self,
        orders: Vec<pb::MetaOrder>,
        running: &mut JoinSet<OrderKey>,
        busy: &mut BTreeSet<OrderKey>,
    ) {
        for order in orders {
            let Some(order) = Order::of(order) else {
                tracing::warn!("the MDS orders something that this version does not understand");
                continue;
            };
            let key = order.key();
            if busy.len() >= ORDERS_MAX || !busy.insert(key) {
                continue;
            }
            let (context, host) = (self.context.clone(), self.host.clone());
            running.spawn(async move {
                orders::execute(&context, &host, order).await;
                key
            });
        }
    }

    fn report(&self) -> pb::MetaHeartbeat {
        let space = self.context.room.space();
        let replicas = self.context.table.all();
        pb::MetaHeartbeat {
            node: self.context.node.get(),
            token: self.token.to_le_bytes().to_vec().into(),
            address: self.announcement.address.clone(),
            total_bytes: space.map_or(0, |s| s.total),
            free_bytes: space.map_or(0, |s| s.free),
            replicas: replicas.iter().filter_map(|replica| report_replica(replica)).collect(),
            reserve_low: space.is_some_and(|s| s.is_low),
        }
    }
}

fn report_replica(replica: &Replica) -> Option<pb::MetaReplica> {
    let status = replica.group()?.status();
    let numbers = |nodes: &[NodeId]| nodes.iter().map(|node| node.get()).collect();
    let shut_outs = replica.leadership().map(|leadership| leadership.shut_outs()).unwrap_or_default();
    let shut_out = |(mount, epoch): (MountId, curve_types::Epoch)| pb::FsMountKey {
        fs: replica.fs().0,
        mount: mount.0,
        epoch: epoch.get(),
    };
    Some(pb::MetaReplica {
        partition: replica.id().0,
        term: status.term.get(),
        leader: status.leader.map_or(0, NodeId::get),
        members: numbers(&status.members),
        learners: numbers(&status.learners),
        applied: status.applied.get(),
        last_log: status.last_log.get(),
        members_index: status.members_index.get(),
        usage: usage(replica),
        shut_out: shut_outs.into_iter().map(shut_out).collect(),
    })
}

/// What lives in the partition, as far as it is applied here.
fn usage(replica: &Replica) -> Option<pb::FsUsage> {
    let inode = replica.birth().ranges.first()?.first;
    let Ok(MetaAnswer::StatFs { usage }) = replica.look_as_server(Query::StatFs { inode }) else {
        return None;
    };
    let part = |n: i64| u64::try_from(n).unwrap_or(0);
    Some(pb::FsUsage { files: part(usage.files), directories: part(usage.dirs), bytes: part(usage.bytes) })
}
