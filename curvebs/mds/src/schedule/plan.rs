//! What to do next, decided from a picture.

use std::time::Duration;

use curve_proto::pb::mds::Members;
use curve_proto::pb::mds_state::{CopysetChange, CopysetRow, CreateCopysets};
use curve_sched::{
    DiskState, REPLICAS, RepairLimits, Step, copysets_per_disk, plan_creation, plan_leaders, plan_repair,
};
use curve_types::{CopysetId, NodeId};

use crate::config::MdsConfig;
use crate::memory::{Memory, Running};
use crate::schedule::Picture;

/// Chunkservers that start together should all be in the first copysets.
const SETTLE: Duration = Duration::from_secs(1);
/// Copysets made by one command.
const CREATED_AT_ONCE_MAX: usize = 256;
/// How long a step may take before another plan is made.
const ADD_MAX: Duration = Duration::from_secs(15 * 60);
const REMOVE_MAX: Duration = Duration::from_secs(60);
const TRANSFER_MAX: Duration = Duration::from_secs(10);
/// A chunkserver that came up less than this ago is given no leadership: it may be catching up, or crash again.
const STEADY_AFTER: Duration = Duration::from_secs(5);
/// How often leaders are balanced, and how many at once.
const LEADERS_EVERY: Duration = Duration::from_secs(2);
const TRANSFERS_MAX: usize = 4;

/// The copysets to make now.
pub(crate) fn creation(picture: &Picture, memory: &mut Memory, config: &MdsConfig) -> Option<CreateCopysets> {
    if picture.now.saturating_duration_since(memory.registered_at) < SETTLE {
        return None;
    }
    if !settled(picture, memory) {
        // A disk that lacks replicas may be about to get those of another.
        return None;
    }
    let mut view = picture.view.clone();
    for (node, disk) in &mut view.disks {
        // Only who has been heard is given new replicas.
        if !picture.heard.contains(node) && disk.state == DiskState::Up {
            disk.state = DiskState::Down;
        }
    }
    let disks = view.disks.values().filter(|disk| disk.state == DiskState::Up).count();
    let per_disk = match config.copysets_per_chunkserver {
        0 => copysets_per_disk(disks),
        n => n as usize,
    };
    let mut made = plan_creation(&view, per_disk, &mut memory.rng);
    made.truncate(CREATED_AT_ONCE_MAX);
    let copysets: Vec<Members> = made
        .into_iter()
        .map(|members| Members { nodes: members.into_iter().map(NodeId::get).collect() })
        .collect();
    (!copysets.is_empty()).then_some(CreateCopysets { copysets })
}

/// Whether every copyset is whole and stays where it is.
fn settled(picture: &Picture, memory: &Memory) -> bool {
    let moving = memory.running.values().any(|running| !matches!(running.step, Step::Transfer(_)));
    let whole = |row: &CopysetRow| {
        row.members.len() == REPLICAS && row.members.iter().all(|&node| picture.view.is_up(NodeId(node)))
    };
    !moving && picture.copysets.values().all(whole)
}

/// What the rows do not know yet: members as their leaders report them, and copysets that all members have made.
pub(crate) fn membership_changes(picture: &Picture) -> Vec<CopysetChange> {
    picture.copysets.iter().filter_map(|(&id, row)| change(picture, id, row)).collect()
}

fn change(picture: &Picture, id: CopysetId, row: &CopysetRow) -> Option<CopysetChange> {
    let numbers = |nodes: &[NodeId]| nodes.iter().map(|node| node.get()).collect::<Vec<u64>>();
    let mut change = CopysetChange { id: row.id, ..CopysetChange::default() };
    if let Some((_, report)) = picture.leader_report(id) {
        let (members, learners) = (numbers(&report.members), numbers(&report.learners));
        let newer = (report.term.get(), report.members_index.get()) >= (row.term, row.members_index);
        if newer && !members.is_empty() && (members != row.members || learners != row.learners) {
            (change.term, change.members_index) = (report.term.get(), report.members_index.get());
            (change.members, change.learners) = (members, learners);
        }
    }
    change.created = !row.created && row.members.iter().all(|&node| picture.has_replica(id, NodeId(node)));
    (change.created || !change.members.is_empty()).then_some(change)
}

/// Chunkservers that leave and are empty.
pub(crate) fn to_forget(picture: &Picture) -> Vec<u64> {
    let used = |node: u64| {
        picture.copysets.values().any(|row| row.members.contains(&node) || row.learners.contains(&node))
    };
    picture.chunkservers.values().filter(|row| row.leaving && !used(row.node)).map(|row| row.node).collect()
}

/// Strikes off the steps that are done or were given up, and begins new ones.
pub(crate) fn advance(picture: &Picture, memory: &mut Memory, config: &MdsConfig) {
    let mut running = std::mem::take(&mut memory.running);
    running.retain(|id, running| match running.step {
        Step::Transfer(to) if !steady(picture, memory, config, to) => false,
        _ => goes_on(picture, *id, running),
    });
    memory.running = running;
    note_missing(picture, memory);
    memory.forget_refreshes(config.lease.0, picture.now);
    if picture.now.saturating_duration_since(memory.since) < config.grace_after_failover.0 {
        return;
    }
    let mut view = picture.view.clone();
    for (id, copyset) in &mut view.copysets {
        copyset.running = memory.running.get(id).map(|running| running.step);
    }
    let begin = |memory: &mut Memory, id: CopysetId, step: Step| {
        tracing::info!(copyset = id.get(), ?step, "begins");
        memory.running.insert(id, Running { step, since: picture.now });
    };
    for (id, node) in lost(picture, memory, config) {
        view.copysets.get_mut(&id).expect("a copyset of this picture").running = Some(Step::Remove(node));
        begin(memory, id, Step::Remove(node));
    }
    for operator in plan_repair(&view, RepairLimits::default()) {
        view.copysets.get_mut(&operator.copyset).expect("a copyset of this picture").running =
            Some(operator.step);
        begin(memory, operator.copyset, operator.step);
    }
    if picture.now.saturating_duration_since(memory.leaders_planned_at) >= LEADERS_EVERY {
        memory.leaders_planned_at = picture.now;
        for (&node, disk) in &mut view.disks {
            if !steady(picture, memory, config, node) {
                disk.state = DiskState::Down;
            }
        }
        for operator in plan_leaders(&view, TRANSFERS_MAX) {
            begin(memory, operator.copyset, operator.step);
        }
    }
}

/// Whether a chunkserver may be given a leadership: it has been up for a while, and did not miss its last heartbeat.
fn steady(picture: &Picture, memory: &Memory, config: &MdsConfig, node: NodeId) -> bool {
    let Some(seen) = memory.seen.get(&node) else { return false };
    let age = |at: tokio::time::Instant| picture.now.saturating_duration_since(at);
    age(seen.since) >= STEADY_AFTER && age(seen.at) <= config.heartbeat_interval.0.mul_f64(1.5)
}

fn goes_on(picture: &Picture, id: CopysetId, running: &Running) -> bool {
    let Some(row) = picture.copysets.get(&id) else { return false };
    let age = picture.now.saturating_duration_since(running.since);
    match running.step {
        Step::Add(node) => !row.members.contains(&node.get()) && age < ADD_MAX && picture.view.is_up(node),
        Step::Remove(node) => {
            (row.members.contains(&node.get()) || row.learners.contains(&node.get())) && age < REMOVE_MAX
        }
        Step::Transfer(node) => picture.leader(id) != Some(node) && age < TRANSFER_MAX,
    }
}

/// Notes since when members that are up have not had their replica.
fn note_missing(picture: &Picture, memory: &mut Memory) {
    let mut missing = std::mem::take(&mut memory.missing);
    let mut still = std::collections::BTreeMap::new();
    for (&id, row) in picture.copysets.iter().filter(|(_, row)| row.created) {
        for &node in &row.members {
            let node = NodeId(node);
            let lacks =
                picture.heard.contains(&node) && picture.is_heard(node) && !picture.has_replica(id, node);
            if lacks {
                still.insert((id, node), missing.remove(&(id, node)).unwrap_or(picture.now));
            }
        }
    }
    memory.missing = still;
}

/// Members that have lost their replica and can be given up without losing the majority; one for each copyset.
fn lost(picture: &Picture, memory: &Memory, config: &MdsConfig) -> Vec<(CopysetId, NodeId)> {
    let long_ago = |since| picture.now.saturating_duration_since(since) > config.lost_replica_after.0;
    let candidates = memory.missing.iter().filter(|(_, since)| long_ago(**since)).map(|(key, _)| *key);
    let mut chosen: Vec<(CopysetId, NodeId)> = Vec::new();
    for (id, node) in candidates {
        let row = &picture.copysets[&id];
        let whole =
            |&&member: &&u64| picture.is_heard(NodeId(member)) && picture.has_replica(id, NodeId(member));
        let safe = row.members.iter().filter(whole).count() >= REPLICAS - 1;
        let led = picture.leader(id).is_some_and(|leader| leader != node);
        if safe && led && !memory.running.contains_key(&id) && chosen.iter().all(|(other, _)| *other != id) {
            chosen.push((id, node));
        }
    }
    chosen
}
