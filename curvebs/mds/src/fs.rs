//! CurveFS: what `curvefs-mds` keeps and plans, over this MDS's store, log and memory.

mod secrets;

pub(crate) use secrets::{open_secret, seal_secret};

use curve_kv::{KvError, Txn};
use curve_proto::mds::{FsCounts, HealthItem};
use curve_proto::pb::fs::FsResponse;
use curve_proto::pb::mds::mds_response::Result as Answer;
use curve_proto::pb::mds_state as state;
use curve_proto::pb::mds_state::command::Op;
use curve_proto::pb::mds_state::fs_command::Op as FsOp;
use curve_types::Term;
use curvefs_mds::{Ids, Picture, Times, health, messages, plan};
use tokio::time::Instant;

use crate::config::MdsConfig;
use crate::keys;
use crate::leader::RoundError;
use crate::memory::Memory;
use crate::node::Shared;
use crate::rows::{Refusal, cluster, get, put};
use crate::service::Via;
use crate::topology::cluster_name;

/// The times of the configuration that concern file systems.
pub(crate) fn times(config: &MdsConfig) -> Times {
    Times {
        heartbeat_interval: config.heartbeat_interval.0,
        down_after: config.down_after.0,
        dead_after: config.metaserver_dead_after.0,
        grace_after_failover: config.grace_after_failover.0,
        lost_replica_after: config.lost_replica_after.0,
        mount_lease: config.mount_lease.0,
    }
}

/// Applies a command. Node ids are the cluster's, whatever kind of server they are for.
pub(crate) fn apply(txn: &mut Txn<'_>, now_ms: u64, command: &state::FsCommand) -> Result<Answer, Refusal> {
    let mut row = cluster(txn)?;
    let cluster_name = cluster_name(&row);
    let mut ids = Ids { cluster: row.id, cluster_name, next_node: row.next_node };
    let result = curvefs_mds::apply(txn, now_ms, &mut ids, command)?;
    if ids.next_node != row.next_node {
        row.next_node = ids.next_node;
        put(txn, keys::cluster(), &row);
    }
    Ok(Answer::Fs(FsResponse { result: Some(result) }))
}

/// The command of an operation on file systems.
pub(crate) fn command(op: FsOp) -> Op {
    Op::Fs(state::FsCommand { op: Some(op) })
}

/// Everything that concerns file systems now, as the leader of `term` knows it.
pub(crate) fn picture(shared: &Shared, term: Term) -> Result<Picture, KvError> {
    shared.memory.with(term, |memory| picture_with(shared, memory))
}

/// The same, for who has the memory already.
pub(crate) fn picture_with(shared: &Shared, memory: &Memory) -> Result<Picture, KvError> {
    Picture::take(shared.rows(), &memory.fs, &times(&shared.config), Instant::now().into_std())
}

/// What is not well with file systems, and how many metaservers there are.
pub(crate) fn findings(shared: &Shared, memory: &Memory) -> (Vec<HealthItem>, usize) {
    match picture_with(shared, memory) {
        Ok(picture) => {
            (health::items(&picture, &memory.fs, &times(&shared.config)), picture.metaservers.len())
        }
        Err(error) => {
            // The store's own finding says so, and this MDS hands over.
            tracing::debug!(%error, "no picture of file systems");
            (Vec::new(), 0)
        }
    }
}

/// How many there are of what.
pub(crate) fn counts(shared: &Shared, term: Term) -> Result<FsCounts, KvError> {
    Ok(messages::counts(&picture(shared, term)?))
}

/// Decides what is next, once.
pub(crate) async fn round(shared: &Shared) -> Result<(), RoundError> {
    let term = shared.lead(Via::Frames).await?;
    if get::<state::ClusterRow>(shared.rows(), &keys::cluster())?.is_none() {
        return Ok(());
    }
    let mut seen = picture(shared, term)?;
    let changes = plan::partition_changes(&seen);
    if !changes.is_empty() {
        let changes = state::FsPartitionChanges { changes };
        shared.propose_own(command(FsOp::PartitionChanges(changes))).await?;
        seen = picture(shared, term)?;
    }
    let times = times(&shared.config);
    let commands = shared.memory.with(term, |memory| {
        plan::advance(&seen, &mut memory.fs, &times);
        plan::commands(&seen, &memory.fs, &times)
    });
    for op in commands {
        log(&op);
        shared.propose_own(command(op)).await?;
    }
    Ok(())
}

fn log(op: &FsOp) {
    match op {
        FsOp::EndMounts(end) => {
            for key in &end.mounts {
                tracing::info!(
                    fs = key.fs,
                    mount = key.mount,
                    "the lease of a mount has run out: it is shut out"
                );
            }
        }
        FsOp::Forget(forget) => tracing::info!(fs = forget.fs, "a deleted file system is gone everywhere"),
        FsOp::ForgetMetaserver(gone) => {
            tracing::info!(node = gone.node, "an emptied metaserver is forgotten")
        }
        _ => {}
    }
}
