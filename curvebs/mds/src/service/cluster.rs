//! Requests about chunkservers, copysets and the cluster as a whole.

use std::collections::BTreeSet;
use std::time::Duration;

use curve_multiraft::Group;
use curve_proto::MdsError;
use curve_proto::mds::{
    ChunkserverInfo, ClusterStatus, CopysetHealth, CopysetInfo, CopysetMember, HealthItem, HealthLevel,
    Heartbeat, HeartbeatReply, MdsMember,
};
use curve_proto::pb::mds as pb;
use curve_proto::pb::mds::mds_response::Result as Answer;
use curve_proto::pb::mds_state as state;
use curve_proto::pb::mds_state::{ChunkserverRow, SessionRow, TrashRow, VolumeRow};
use curve_sched::{REPLICAS, Step};
use curve_types::{CopysetId, LogIndex, NodeId};
use tokio::time::Instant;

use crate::keys;
use crate::leader::picture;
use crate::memory::{Memory, Running};
use crate::node::Shared;
use crate::rows::{all, cluster, get};
use crate::schedule::{Picture, copyset_health, health, orders_for};
use crate::service::{Call, store_failed};

/// Chunkservers that have something to do report this often.
const BUSY_INTERVAL: Duration = Duration::from_millis(200);
/// An MDS that has not answered for this long counts as down.
const MDS_SILENT_AFTER: Duration = Duration::from_secs(3);

pub(super) async fn register(call: Call<'_>, op: pb::Register) -> Result<Answer, MdsError> {
    let answer = call.command(state::command::Op::Register(op)).await?;
    let Answer::Registered(mut registered) = answer else { return Ok(answer) };
    call.shared.memory.with(call.term, |memory| memory.registered_at = Instant::now());
    registered.heartbeat_interval_ms = call.shared.config.heartbeat_interval.0.as_millis() as u64;
    Ok(Answer::Registered(registered))
}

pub(super) async fn heartbeat(call: Call<'_>, op: pb::Heartbeat) -> Result<Answer, MdsError> {
    let token = op.token.clone();
    let heartbeat = Heartbeat::try_from(op)?;
    let node = heartbeat.node;
    let row =
        get::<ChunkserverRow>(call.shared.rows(), &keys::chunkserver(node.get())).map_err(store_failed)?;
    let Some(row) = row else {
        return Err(MdsError::NotFound { what: format!("chunkserver {node}") });
    };
    if row.token != token {
        return Err(MdsError::Conflict {
            why: format!("{node} has another token: two chunkservers use one id"),
        });
    }
    if row.address != heartbeat.address {
        let moved = state::Moved { node: node.get(), address: heartbeat.address.clone() };
        call.command(state::command::Op::Moved(moved)).await?;
    }
    call.shared.memory.with(call.term, |memory| {
        memory.hear(heartbeat.clone(), call.shared.config.down_after.0, Instant::now());
    });
    let picture = picture(call.shared, call.term).map_err(store_failed)?;
    let reply = call.shared.memory.with(call.term, |memory| reply(call.shared, &heartbeat, &picture, memory));
    Ok(Answer::Heartbeat(reply.into()))
}

fn reply(shared: &Shared, heartbeat: &Heartbeat, picture: &Picture, memory: &Memory) -> HeartbeatReply {
    let known_for = picture.now.saturating_duration_since(memory.since);
    let may_drop = known_for >= shared.config.grace_after_failover.0;
    let orders = orders_for(heartbeat, picture, &memory.running, may_drop);
    let busy = !memory.running.is_empty()
        || !orders.is_empty()
        || picture.copysets.iter().any(|(&id, row)| !row.created || picture.leader(id).is_none());
    let usual = shared.config.heartbeat_interval.0;
    let with_address = picture.chunkservers.iter().filter(|(_, row)| !row.address.is_empty());
    HeartbeatReply {
        orders,
        addresses: with_address.map(|(&node, row)| (node, row.address.clone())).collect(),
        heartbeat_interval: if busy { usual.min(BUSY_INTERVAL) } else { usual },
    }
}

pub(super) async fn remove_chunkserver(
    call: Call<'_>,
    op: pb::RemoveChunkserver,
) -> Result<Answer, MdsError> {
    let picture = picture(call.shared, call.term).map_err(store_failed)?;
    let node = NodeId(op.node);
    let used = picture.copysets.values().any(|row| row.members.contains(&op.node));
    let others =
        picture.chunkservers.keys().filter(|&&other| other != node && picture.view.is_up(other)).count();
    if used && others < REPLICAS {
        return Err(MdsError::NotEnoughChunkservers { have: others as u32, need: REPLICAS as u32 });
    }
    call.command(state::command::Op::RemoveChunkserver(op)).await
}

pub(super) fn copysets(call: Call<'_>, op: &pb::GetCopysets) -> Result<Answer, MdsError> {
    let picture = picture(call.shared, call.term).map_err(store_failed)?;
    let wanted: BTreeSet<u32> = op.ids.iter().copied().collect();
    let chosen = picture.copysets.keys().filter(|id| wanted.is_empty() || wanted.contains(&id.get()));
    let copysets = call.shared.memory.with(call.term, |memory| {
        chosen.map(|&id| copyset_info(&picture, id, memory.running.get(&id)).into()).collect()
    });
    Ok(Answer::Copysets(pb::Copysets { copysets }))
}

fn copyset_info(picture: &Picture, id: CopysetId, running: Option<&Running>) -> CopysetInfo {
    let row = &picture.copysets[&id];
    let member = |&node: &u64| {
        let chunkserver = picture.chunkservers.get(&NodeId(node));
        CopysetMember {
            node: NodeId(node),
            address: chunkserver.map(|row| row.address.clone()).unwrap_or_default(),
            zone: chunkserver.map(|row| row.zone.clone()).unwrap_or_default(),
            up: picture.is_heard(NodeId(node)),
        }
    };
    CopysetInfo {
        id,
        members: row.members.iter().map(member).collect(),
        leader: picture.leader(id),
        version: row.version,
        health: copyset_health(picture, id),
        term: picture.term(id),
        applied: picture.best.get(&id).map_or(LogIndex(0), |(_, report)| report.applied),
        operation: running.map(|running| step_text(running.step)).unwrap_or_default(),
    }
}

fn step_text(step: Step) -> String {
    match step {
        Step::Add(node) => format!("add {node}"),
        Step::Remove(node) => format!("remove {node}"),
        Step::Transfer(node) => format!("transfer leadership to {node}"),
    }
}

pub(super) fn chunkservers(call: Call<'_>) -> Result<Answer, MdsError> {
    let picture = picture(call.shared, call.term).map_err(store_failed)?;
    let chunkservers = call.shared.memory.with(call.term, |memory| {
        picture
            .chunkservers
            .iter()
            .map(|(&node, row)| chunkserver_info(&picture, memory, node, row).into())
            .collect()
    });
    Ok(Answer::Chunkservers(pb::Chunkservers { chunkservers }))
}

fn chunkserver_info(
    picture: &Picture,
    memory: &Memory,
    node: NodeId,
    row: &ChunkserverRow,
) -> ChunkserverInfo {
    let copysets = picture.copysets.values().filter(|row| row.members.contains(&node.get())).count();
    let leaders = picture.copysets.keys().filter(|&&id| picture.leader(id) == Some(node)).count();
    let seen = memory.seen.get(&node).map(|seen| &seen.heartbeat);
    ChunkserverInfo {
        node,
        address: row.address.clone(),
        zone: row.zone.clone(),
        state: picture.state(node),
        total_bytes: seen.map_or(row.total_bytes, |seen| seen.total_bytes),
        free_bytes: seen.map_or(0, |seen| seen.free_bytes),
        copysets: copysets as u32,
        leaders: leaders as u32,
        heartbeat_age: memory.silence(node, picture.now),
    }
}

pub(super) fn status(call: Call<'_>) -> Result<Answer, MdsError> {
    let shared = call.shared;
    let rows = shared.rows();
    let picture = picture(shared, call.term).map_err(store_failed)?;
    let row = cluster(rows)?;
    let volumes: Vec<VolumeRow> = all(rows, &keys::volumes()).map_err(store_failed)?;
    let sessions: Vec<SessionRow> = all(rows, &keys::sessions()).map_err(store_failed)?;
    let trash: Vec<TrashRow> = all(rows, &keys::trashes()).map_err(store_failed)?;
    let (mds, items) = shared.memory.with(call.term, |memory| {
        (mds_members(shared, memory, picture.now), findings(shared, &picture, memory))
    });
    let ok = picture.copysets.keys().filter(|&&id| copyset_health(&picture, id) == CopysetHealth::Ok).count();
    let heard = |node: &NodeId| picture.heard.contains(node);
    let (mut total, mut free) = (0, 0);
    for (node, disk) in picture.view.disks.iter().filter(|(node, _)| heard(node)) {
        total += picture.chunkservers[node].total_bytes;
        free += disk.free_bytes;
    }
    let status = ClusterStatus {
        cluster: row.name,
        level: items.iter().map(|item| item.level).max().unwrap_or_default(),
        health: items,
        mds,
        chunkservers: picture.chunkservers.len() as u32,
        chunkservers_up: picture.up() as u32,
        copysets: picture.copysets.len() as u32,
        copysets_ok: ok as u32,
        total_bytes: total,
        free_bytes: free,
        volumes: volumes.len() as u64,
        volume_bytes: volumes.iter().map(|volume| volume.size).sum(),
        allocated_bytes: volumes
            .iter()
            .map(|volume| u64::from(volume.segments_allocated) * row.segment_bytes)
            .sum(),
        sessions: sessions.len() as u64,
        volumes_deleting: trash.len() as u64,
        fs: crate::fs::counts(shared, call.term).map_err(store_failed)?,
    };
    Ok(Answer::Status(status.into()))
}

fn mds_members(shared: &Shared, memory: &Memory, now: Instant) -> Vec<MdsMember> {
    let group = shared.group().map(Group::status);
    let (peers, last_log) = group.map_or((Vec::new(), LogIndex(0)), |group| (group.peers, group.last_log));
    let member = |member: &crate::config::MemberConfig| {
        let node = NodeId(member.id);
        let me = node == shared.config.node();
        let heard = memory.peers.get(&node).map_or(memory.since, |peer| peer.at);
        let matched = peers.iter().find(|peer| peer.node == node).map_or(LogIndex(0), |peer| peer.matched);
        MdsMember {
            node,
            address: member.grpc_address.clone(),
            leader: me,
            up: me || now.saturating_duration_since(heard) <= MDS_SILENT_AFTER,
            lag: if me { 0 } else { last_log.get().saturating_sub(matched.get()) },
        }
    };
    shared.config.members.iter().map(member).collect()
}

/// Everything that is not well, worst first.
pub(crate) fn findings(shared: &Shared, picture: &Picture, memory: &Memory) -> Vec<HealthItem> {
    let mut items = health(picture, memory, &shared.config);
    let down: Vec<String> = mds_members(shared, memory, picture.now)
        .into_iter()
        .filter(|member| !member.up)
        .map(|member| format!("{} at {}", member.node, member.address))
        .collect();
    if !down.is_empty() {
        items.push(HealthItem {
            level: HealthLevel::Warn,
            code: "MDS_DOWN".into(),
            summary: format!("{} MDSs do not answer: {}", down.len(), down.join(", ")),
            cause: "The process has stopped or cannot be reached. The others go on as long as they are a majority.".into(),
            remedy: "Start it again, or look at its log and at the network.".into(),
        });
    }
    items.extend(crate::disks::findings(shared, memory));
    items.extend(outsiders(shared));
    let (file_systems, metaservers) = crate::fs::findings(shared, memory);
    if metaservers > 0 && picture.chunkservers.is_empty() {
        // A cluster for file systems alone.
        items.retain(|item| item.code != "NOT_ENOUGH_CHUNKSERVERS");
    }
    items.extend(file_systems);
    items.sort_by(|a, b| (b.level, &a.code).cmp(&(a.level, &b.code)));
    items
}

/// MDSs of the configuration that the group does not count.
fn outsiders(shared: &Shared) -> Option<HealthItem> {
    let members = shared.group()?.status().members;
    let outside: Vec<String> = shared
        .config
        .members
        .iter()
        .filter(|member| !members.contains(&NodeId(member.id)))
        .map(|member| format!("{} at {}", NodeId(member.id), member.grpc_address))
        .collect();
    (!outside.is_empty()).then(|| HealthItem {
        level: HealthLevel::Warn,
        code: "MDS_REJOINING".into(),
        summary: format!("{} MDSs are being filled again: {}", outside.len(), outside.join(", ")),
        cause: "Their disks were empty, so they may not vote before they have the state again.".into(),
        remedy: "Keep the other MDSs up; it ends by itself.".into(),
    })
}
