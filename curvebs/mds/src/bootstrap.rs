//! How a member whose disk has nothing finds out whether it is new or has lost what it had.
//!
//! A new cluster: every member asks all others, and once each has answered that it knows of no cluster, makes its
//! replica of the group. Nothing can have been acknowledged before the cluster is founded, so nothing can be forgotten.
//!
//! A cluster exists: then this member has been part of it and has lost its votes and its log. If it took part as if it
//! were new, its vote could elect a leader that lacks what a majority had stored. So it opens no replica, and answers
//! no Raft message, until the leader has removed it from the group and told it so. Then it joins as an empty learner.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use curve_io::Message;
use curve_multiraft::{Group, GroupError, MembershipError, MultiRaft};
use curve_proto::methods;
use curve_proto::pb::mds::{PeerPing, PeerPong, PeerState};
use curve_proto::pb::mds_state::ClusterRow;
use curve_types::{GroupId, NodeId};
use futures::future::join_all;
use prost::Message as _;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::disks;
use crate::keys;
use crate::node::Shared;
use crate::rows::get;
use crate::state_machine::MdsMachine;

const PING_DEADLINE: Duration = Duration::from_millis(800);
const ASK_EVERY: Duration = Duration::from_millis(50);

/// What a node tells its peers while it has no replica.
pub(crate) struct PeerSide {
    nonce: u64,
    lost: AtomicBool,
    readmitted: Notify,
}

impl PeerSide {
    pub(crate) fn new(seed: u64) -> Self {
        // 0 means none, so the lowest bit is always set.
        Self { nonce: seed | 1, lost: AtomicBool::new(false), readmitted: Notify::new() }
    }
}

fn state(shared: &Shared) -> PeerState {
    if shared.group().is_none() {
        return if shared.peer.lost.load(Ordering::Acquire) {
            PeerState::PeerLost
        } else {
            PeerState::PeerEmpty
        };
    }
    match get::<ClusterRow>(shared.rows(), &keys::cluster()) {
        Ok(None) => PeerState::PeerCreated,
        // A store that cannot be read does not make an old cluster new.
        Ok(Some(_)) | Err(_) => PeerState::PeerFounded,
    }
}

/// Answers a ping.
pub(crate) fn answer(shared: &Shared, request: &Message) -> Message {
    let ping = PeerPing::decode(request.header.clone()).unwrap_or_default();
    if ping.readmit == shared.peer.nonce && shared.peer.lost.load(Ordering::Acquire) {
        shared.peer.readmitted.notify_one();
    }
    let disk = Some(disks::own(shared));
    let pong = PeerPong { state: state(shared).into(), nonce: shared.peer.nonce, disk };
    Message { method: methods::MDS_PING, header: pong.encode_to_vec().into(), payload: Vec::new() }
}

async fn ping(shared: &Shared, node: NodeId, readmit: u64) -> Option<PeerPong> {
    let address = &shared.config.member(node)?.data_address;
    let header = PeerPing { readmit }.encode_to_vec().into();
    let request = Message { method: methods::MDS_PING, header, payload: Vec::new() };
    let reply = shared.network.call(address, request, PING_DEADLINE).await.ok()?;
    PeerPong::decode(reply.header).ok()
}

/// Asks every other member how it is; `None` for those that do not answer.
pub(crate) async fn ask_others(shared: &Shared) -> Vec<(NodeId, Option<PeerPong>)> {
    let others =
        shared.config.members.iter().map(|member| NodeId(member.id)).filter(|&n| n != shared.config.node());
    join_all(others.map(|node| async move { (node, ping(shared, node, 0).await) })).await
}

/// Makes this member's replica, when it is known which kind.
pub(crate) async fn run(shared: Arc<Shared>, raft: Arc<MultiRaft>, machine: MdsMachine) {
    match make(&shared, &raft, machine).await {
        Ok(group) => shared.enter(group),
        Err(error) => tracing::error!(%error, "this MDS cannot take part"),
    }
}

async fn make(shared: &Shared, raft: &Arc<MultiRaft>, machine: MdsMachine) -> Result<Group, GroupError> {
    loop {
        let answers: Vec<Option<PeerState>> =
            ask_others(shared).await.into_iter().map(|(_, pong)| pong.map(|pong| pong.state())).collect();
        if answers.contains(&Some(PeerState::PeerFounded)) {
            break;
        }
        let new = |answer: &Option<PeerState>| {
            matches!(answer, Some(PeerState::PeerEmpty | PeerState::PeerCreated))
        };
        if answers.iter().all(new) {
            tracing::info!("every member is new: making the group");
            let members: Vec<NodeId> = shared.config.members.iter().map(|member| NodeId(member.id)).collect();
            return raft.create_group(GroupId::MDS, &members, Box::new(machine)).await;
        }
        sleep(ASK_EVERY).await;
    }
    tracing::warn!(
        "the disk is empty and the cluster exists: waiting for the leader to admit this MDS again"
    );
    shared.peer.lost.store(true, Ordering::Release);
    shared.peer.readmitted.notified().await;
    tracing::info!("admitted again; the state is being copied");
    raft.join_group(GroupId::MDS, Box::new(machine)).await
}

/// Brings a member's place in the group in line with how it is. Repeating it is harmless.
pub(crate) async fn admit(
    shared: &Shared,
    group: &Group,
    node: NodeId,
    pong: PeerPong,
) -> Result<(), MembershipError> {
    let status = group.status();
    let counted = status.members.contains(&node);
    match pong.state() {
        PeerState::PeerLost => {
            if counted || status.learners.contains(&node) {
                tracing::warn!(%node, "an MDS has lost its state and is taken out of the group until it has it again");
                group.remove_member(node).await?;
            }
            ping(shared, node, pong.nonce).await;
        }
        PeerState::PeerCreated | PeerState::PeerFounded if !counted => {
            group.add_member(node).await?;
            tracing::info!(%node, "an MDS is a member again");
        }
        PeerState::PeerCreated | PeerState::PeerFounded | PeerState::PeerEmpty | PeerState::Unspecified => {}
    }
    Ok(())
}
