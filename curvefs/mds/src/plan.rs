//! What to do next, decided from a picture.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use curve_proto::MdsError;
use curve_proto::pb::fs::{FsMountKey, MetaRemove};
use curve_proto::pb::mds_state::fs_command::Op;
use curve_proto::pb::mds_state::{
    FsEndMounts, FsForget, FsMembers, FsPartitionChange, FsPartitionRow, FsShutOut,
};
use curve_sched::{
    DiskState, Operator, REPLICAS, RepairLimits, Step, plan_groups, plan_leaders, plan_repair,
};
use curve_types::NodeId;
use rand::rngs::StdRng;

use crate::memory::{Memory, Running};
use crate::partitions::PARTITIONS_MAX;
use crate::picture::{Picture, group};
use crate::query::key_of;
use crate::times::Times;

/// How long a step may take before another plan is made.
const ADD_MAX: Duration = Duration::from_secs(15 * 60);
const REMOVE_MAX: Duration = Duration::from_secs(60);
const TRANSFER_MAX: Duration = Duration::from_secs(10);
/// A metaserver that came up less than this ago is given no leadership: it may be catching up, or crash again.
const STEADY_AFTER: Duration = Duration::from_secs(5);
/// How often leaders are balanced, and how many at once.
const LEADERS_EVERY: Duration = Duration::from_secs(2);
const TRANSFERS_MAX: usize = 4;

/// The members of the partitions of a new file system: `wanted` of them, or as many as there are metaservers. Different
/// metaservers, in different zones where there are enough.
pub fn place(picture: &Picture, wanted: u32, rng: &mut StdRng) -> Result<Vec<FsMembers>, MdsError> {
    let mut view = picture.view.clone();
    for (node, disk) in &mut view.disks {
        // Only who has been heard is given new replicas.
        if !picture.is_usable(node.get()) && disk.state == DiskState::Up {
            disk.state = DiskState::Down;
        }
    }
    let up = view.disks.keys().filter(|&&node| view.is_up(node)).count();
    let count = match wanted as usize {
        0 => up.clamp(REPLICAS, PARTITIONS_MAX),
        wanted if wanted <= PARTITIONS_MAX => wanted,
        _ => {
            let why = format!("a file system has at most {PARTITIONS_MAX} partitions");
            return Err(MdsError::BadRequest { why });
        }
    };
    let refuse = || MdsError::NotEnoughMetaservers { have: up as u32, need: REPLICAS as u32 };
    if up < REPLICAS {
        return Err(refuse());
    }
    let groups = plan_groups(&view, count, rng);
    if groups.is_empty() {
        return Err(MdsError::NoSpace {
            why: "fewer than three metaservers have room on their disks".into(),
        });
    }
    let members = |group: [NodeId; REPLICAS]| FsMembers { nodes: group.map(NodeId::get).to_vec() };
    Ok(groups.into_iter().map(members).collect())
}

/// What the rows do not know yet: members as their leaders report them, and partitions that all members have made.
pub fn partition_changes(picture: &Picture) -> Vec<FsPartitionChange> {
    let alive = picture.partitions.values().filter(|row| !picture.is_doomed(row));
    alive.filter_map(|row| change(picture, row)).collect()
}

fn change(picture: &Picture, row: &FsPartitionRow) -> Option<FsPartitionChange> {
    let mut change = FsPartitionChange { id: row.id, fs: row.fs, ..FsPartitionChange::default() };
    if let Some((_, report)) = picture.leader_report(row.id) {
        let newer = (report.term, report.members_index) >= (row.term, row.members_index);
        let differs = report.members != row.members || report.learners != row.learners;
        if newer && differs && !report.members.is_empty() {
            (change.term, change.members_index) = (report.term, report.members_index);
            (change.members, change.learners) = (report.members.clone(), report.learners.clone());
        }
    }
    change.created = !row.created && row.members.iter().all(|&node| picture.has_replica(row.id, node));
    (change.created || !change.members.is_empty()).then_some(change)
}

/// Commands that follow from what was heard: mounts whose lease has run out or that are shut out, file systems and
/// metaservers that have nothing any more.
pub fn commands(picture: &Picture, memory: &Memory, times: &Times) -> Vec<Op> {
    let mut commands = Vec::new();
    let mounts = lapsed(picture, memory, times);
    if !mounts.is_empty() {
        commands.push(Op::EndMounts(FsEndMounts { mounts }));
    }
    commands.extend(shut_out(picture).into_iter().map(Op::ShutOut));
    commands.extend(forgettable(picture, memory, times).into_iter().map(|fs| Op::Forget(FsForget { fs })));
    commands.extend(to_forget(picture).into_iter().map(|node| Op::ForgetMetaserver(MetaRemove { node })));
    commands
}

fn lapsed(picture: &Picture, memory: &Memory, times: &Times) -> Vec<FsMountKey> {
    let over = |id| memory.lease_left(id, times.mount_lease, picture.now).is_zero();
    picture.mounts.values().filter(|row| !row.ending && over(row.id)).map(key_of).collect()
}

/// The partitions that newly report a mount as shut out. Only a leader's word counts: it has seen the fence applied.
fn shut_out(picture: &Picture) -> Vec<FsShutOut> {
    let mut all = Vec::new();
    for row in picture.mounts.values().filter(|row| row.ending) {
        let key = key_of(row);
        let news = picture.partitions_of(row.fs).filter(|partition| {
            !row.shut_out.contains(&partition.id)
                && picture
                    .leader_report(partition.id)
                    .is_some_and(|(_, report)| report.shut_out.contains(&key))
        });
        let partitions: Vec<u32> = news.map(|partition| partition.id).collect();
        if !partitions.is_empty() {
            all.push(FsShutOut { mount: Some(key), partitions });
        }
    }
    all
}

/// Whether a file system is being deleted, and nobody reports a replica of it. Whoever is silent is waited for until it
/// counts as down; if it comes back later, it is told to drop what it has.
pub fn is_emptied(picture: &Picture, memory: &Memory, times: &Times, fs: u32) -> bool {
    let known_for = picture.now.saturating_duration_since(memory.since);
    let told = |node: &u64| picture.heard.contains(node) || known_for >= times.grace_after_failover;
    let mut replicas = picture.partitions_of(fs).flat_map(|row| picture.reported.get(&row.id)).flatten();
    picture.systems.get(&fs).is_some_and(|system| system.deleting)
        && picture.metaservers.keys().all(told)
        && replicas.all(|&node| !picture.is_heard(node))
}

/// File systems of which there is nothing any more but the rows, unless their objects are still being deleted.
fn forgettable(picture: &Picture, memory: &Memory, times: &Times) -> Vec<u32> {
    let wanted = picture.systems.values().filter(|system| !system.until_purged).map(|system| system.id);
    wanted.filter(|&fs| is_emptied(picture, memory, times, fs)).collect()
}

/// Metaservers that leave and are empty.
fn to_forget(picture: &Picture) -> Vec<u64> {
    let uses = |row: &FsPartitionRow, node| row.members.contains(&node) || row.learners.contains(&node);
    let used = |node| picture.partitions.values().any(|row| uses(row, node));
    picture.metaservers.values().filter(|row| row.leaving && !used(row.node)).map(|row| row.node).collect()
}

/// Strikes off the steps that are done or were given up, and begins new ones.
pub fn advance(picture: &Picture, memory: &mut Memory, times: &Times) {
    let mut running = std::mem::take(&mut memory.running);
    running.retain(|id, running| match running.step {
        Step::Transfer(to) if !steady(picture, memory, times, to) => false,
        _ => goes_on(picture, *id, running),
    });
    memory.running = running;
    note_missing(picture, memory);
    note_mounts(picture, memory);
    if picture.now.saturating_duration_since(memory.since) < times.grace_after_failover {
        return;
    }
    let mut view = picture.view.clone();
    for (id, copyset) in &mut view.copysets {
        copyset.running = memory.running.get(&id.get()).map(|running| running.step);
    }
    for (id, node) in lost(picture, memory, times) {
        let step = Step::Remove(NodeId(node));
        view.copysets.get_mut(&group(id)).expect("a partition of this picture").running = Some(step);
        begin(memory, id, step, picture.now);
    }
    for Operator { copyset, step } in plan_repair(&view, RepairLimits::default()) {
        view.copysets.get_mut(&copyset).expect("a partition of this picture").running = Some(step);
        begin(memory, copyset.get(), step, picture.now);
    }
    if picture.now.saturating_duration_since(memory.leaders_planned_at) >= LEADERS_EVERY {
        memory.leaders_planned_at = picture.now;
        for (&node, disk) in &mut view.disks {
            if !steady(picture, memory, times, node) {
                disk.state = DiskState::Down;
            }
        }
        for Operator { copyset, step } in plan_leaders(&view, TRANSFERS_MAX) {
            begin(memory, copyset.get(), step, picture.now);
        }
    }
}

fn begin(memory: &mut Memory, partition: u32, step: Step, now: Instant) {
    tracing::info!(partition, ?step, "begins");
    memory.running.insert(partition, Running { step, since: now });
}

/// Whether a metaserver may be given a leadership: it has been up for a while, and did not miss its last heartbeat.
fn steady(picture: &Picture, memory: &Memory, times: &Times, node: NodeId) -> bool {
    let Some(seen) = memory.seen.get(&node.get()) else { return false };
    let age = |at: Instant| picture.now.saturating_duration_since(at);
    age(seen.since) >= STEADY_AFTER && age(seen.at) <= times.heartbeat_interval.mul_f64(1.5)
}

fn goes_on(picture: &Picture, id: u32, running: &Running) -> bool {
    let row = picture.partitions.get(&id).filter(|row| !picture.is_doomed(row));
    let Some(row) = row else { return false };
    let age = picture.now.saturating_duration_since(running.since);
    match running.step {
        Step::Add(node) => !row.members.contains(&node.get()) && age < ADD_MAX && picture.view.is_up(node),
        Step::Remove(node) => {
            (row.members.contains(&node.get()) || row.learners.contains(&node.get())) && age < REMOVE_MAX
        }
        Step::Transfer(node) => picture.leader(id) != Some(node.get()) && age < TRANSFER_MAX,
    }
}

/// Notes since when members that are up have not had their replica.
fn note_missing(picture: &Picture, memory: &mut Memory) {
    let mut missing = std::mem::take(&mut memory.missing);
    let mut still = BTreeMap::new();
    for row in picture.partitions.values().filter(|row| row.created && !picture.is_doomed(row)) {
        for &node in &row.members {
            let heard = picture.heard.contains(&node) && picture.is_heard(node);
            if heard && !picture.has_replica(row.id, node) {
                still.insert((row.id, node), missing.remove(&(row.id, node)).unwrap_or(picture.now));
            }
        }
    }
    memory.missing = still;
}

/// Gives mounts that this leader has not heard of a whole lease, and forgets those that are gone.
fn note_mounts(picture: &Picture, memory: &mut Memory) {
    memory.mounts.retain(|id, _| picture.mounts.contains_key(id));
    for &id in picture.mounts.keys() {
        memory.mounts.entry(id).or_insert(picture.now);
    }
}

/// Members that have lost their replica and can be given up without losing the majority; one for each partition.
fn lost(picture: &Picture, memory: &Memory, times: &Times) -> Vec<(u32, u64)> {
    let long_ago = |since: &Instant| picture.now.saturating_duration_since(*since) > times.lost_replica_after;
    let mut chosen: BTreeMap<u32, u64> = BTreeMap::new();
    for (&(id, node), _) in memory.missing.iter().filter(|(_, since)| long_ago(since)) {
        let row = &picture.partitions[&id];
        let whole = |&&member: &&u64| picture.is_heard(member) && picture.has_replica(id, member);
        let safe = row.members.iter().filter(whole).count() >= REPLICAS - 1;
        let led = picture.leader(id).is_some_and(|leader| leader != node);
        if safe && led && !memory.running.contains_key(&id) {
            chosen.entry(id).or_insert(node);
        }
    }
    chosen.into_iter().collect()
}
