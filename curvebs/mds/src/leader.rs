//! The loops of a leader: decide what is next, remove deleted data, watch the other MDSs. On a follower they idle.

use std::sync::Arc;
use std::time::Duration;

use curve_kv::KvError;
use curve_proto::MdsError;
use curve_proto::pb::mds_state as state;
use curve_proto::pb::mds_state::command::Op;
use curve_types::{Geometry, Term};
use rand::Rng;
use thiserror::Error;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::memory::Peer;
use crate::node::Shared;
use crate::rows::get;
use crate::schedule::{Picture, advance, creation, membership_changes, to_forget};
use crate::service::Via;
use crate::{bootstrap, fs, keys};

const TICK_MIN: Duration = Duration::from_millis(50);
const TICK_MAX: Duration = Duration::from_millis(500);
const PURGE_EVERY: Duration = Duration::from_secs(1);
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Why a round of a leader's loop ended early. The next round tries again.
#[derive(Debug, Error)]
pub(crate) enum RoundError {
    #[error(transparent)]
    Mds(#[from] MdsError),
    #[error(transparent)]
    Store(#[from] KvError),
}

impl RoundError {
    fn log(&self, what: &str) {
        match self {
            Self::Mds(MdsError::NotLeader { .. }) => tracing::debug!(what, "lost leadership"),
            error => tracing::warn!(what, %error, "will be tried again"),
        }
    }
}

fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Decides and orders, a few times per heartbeat.
pub(crate) async fn run_schedule(shared: Arc<Shared>) {
    let mut ticks = ticks((shared.config.heartbeat_interval.0 / 3).clamp(TICK_MIN, TICK_MAX));
    loop {
        ticks.tick().await;
        if shared.leading().is_some()
            && let Err(error) = schedule(&shared).await
        {
            error.log("scheduling");
        }
    }
}

async fn schedule(shared: &Shared) -> Result<(), RoundError> {
    if shared.store_failed() {
        return resign(shared).await;
    }
    let term = shared.lead(Via::Frames).await?;
    if get::<state::ClusterRow>(shared.rows(), &keys::cluster())?.is_none() {
        return found(shared, term).await;
    }
    let mut seen = picture(shared, term)?;
    let changes = membership_changes(&seen);
    if !changes.is_empty() {
        shared.propose_own(Op::CopysetChanges(state::CopysetChanges { changes })).await?;
        seen = picture(shared, term)?;
    }
    let made = shared.memory.with(term, |memory| {
        advance(&seen, memory, &shared.config);
        creation(&seen, memory, &shared.config)
    });
    if let Some(copysets) = made {
        tracing::info!(copysets = copysets.copysets.len(), "making copysets");
        shared.propose_own(Op::CreateCopysets(copysets)).await?;
    }
    for node in to_forget(&seen) {
        tracing::info!(node, "an emptied chunkserver is forgotten");
        shared.propose_own(Op::ForgetChunkserver(state::ForgetChunkserver { node })).await?;
    }
    Ok(())
}

/// Hands leadership to a member that is level: this node cannot read its state any more.
async fn resign(shared: &Shared) -> Result<(), RoundError> {
    let Some(group) = shared.group() else { return Ok(()) };
    let status = group.status();
    let others = status.peers.iter().filter(|peer| status.members.contains(&peer.node));
    if let Some(successor) = others.max_by_key(|peer| peer.matched)
        && let Err(error) = group.transfer_leader(successor.node).await
    {
        tracing::warn!(%error, "leadership could not be handed over");
    }
    Ok(())
}

/// The cluster now, as the leader of `term` knows it.
pub(crate) fn picture(shared: &Shared, term: Term) -> Result<Picture, KvError> {
    shared.memory.with(term, |memory| Picture::take(shared.rows(), memory, &shared.config, Instant::now()))
}

async fn found(shared: &Shared, term: Term) -> Result<(), RoundError> {
    let geometry = Geometry::default();
    let found = state::Found {
        id: shared.memory.with(term, |memory| memory.rng.random()),
        name: shared.config.cluster.clone(),
        block_bytes: geometry.block_bytes(),
        chunk_bytes: geometry.chunk_bytes(),
        segment_bytes: geometry.segment_bytes(),
    };
    tracing::info!(name = found.name, "founding the cluster");
    shared.propose_own(Op::Found(found)).await?;
    Ok(())
}

/// Decides about file systems, a few times per heartbeat.
pub(crate) async fn run_file_systems(shared: Arc<Shared>) {
    let mut ticks = ticks((shared.config.heartbeat_interval.0 / 3).clamp(TICK_MIN, TICK_MAX));
    loop {
        ticks.tick().await;
        if shared.leading().is_some()
            && !shared.store_failed()
            && let Err(error) = fs::round(&shared).await
        {
            error.log("file systems");
        }
    }
}

/// Removes the data of deleted volumes.
pub(crate) async fn run_purge(shared: Arc<Shared>) {
    let mut ticks = ticks(PURGE_EVERY);
    loop {
        ticks.tick().await;
        if shared.leading().is_some()
            && let Err(error) = purge(&shared).await
        {
            error.log("removing the data of deleted volumes");
        }
    }
}

async fn purge(shared: &Shared) -> Result<(), RoundError> {
    shared.lead(Via::Frames).await?;
    for purged in shared.purger.round(shared.rows()).await? {
        shared.propose_own(Op::Purged(purged)).await?;
    }
    Ok(())
}

/// Notes which MDSs answer, and how they are.
pub(crate) async fn run_watch(shared: Arc<Shared>) {
    let mut ticks = ticks(WATCH_EVERY);
    loop {
        ticks.tick().await;
        let Some(term) = shared.leading() else { continue };
        let heard = bootstrap::ask_others(&shared).await;
        shared.memory.with(term, |memory| {
            let at = Instant::now();
            let heard = heard.into_iter().filter_map(|(node, pong)| Some((node, Peer { at, pong: pong? })));
            memory.peers.extend(heard);
        });
    }
}

/// Takes members that lost their state out of the group and adds them again as empty ones.
pub(crate) async fn run_membership(shared: Arc<Shared>) {
    let mut ticks = ticks(WATCH_EVERY);
    loop {
        ticks.tick().await;
        let (Some(term), Some(group)) = (shared.leading(), shared.group()) else { continue };
        let peers = shared.memory.with(term, |memory| memory.peers.clone());
        for (node, peer) in peers {
            if let Err(error) = bootstrap::admit(&shared, group, node, peer.pong).await {
                tracing::warn!(%node, %error, "its membership will be tried again");
            }
        }
    }
}
