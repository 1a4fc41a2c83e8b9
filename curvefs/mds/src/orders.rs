//! What one metaserver is to do, as the answer to its heartbeat.

use curve_proto::pb::fs::meta_order::Action;
use curve_proto::pb::fs::{FsEmpty, MetaHeartbeat, MetaOrder, MetaReplica};
use curve_proto::pb::mds_state::{FsPartitionRow, FsSystemRow};
use curve_sched::Step;
use curve_types::NodeId;

use crate::memory::Memory;
use crate::partitions::birth;
use crate::picture::Picture;
use crate::query::key_of;
use crate::times::Times;

/// Mounts that one answer orders to be shut out; the next goes on.
const SHUT_OUTS_MAX: usize = 256;

/// The orders for the sender of a heartbeat.
pub fn orders_for(
    heartbeat: &MetaHeartbeat,
    picture: &Picture,
    memory: &Memory,
    times: &Times,
) -> Vec<MetaOrder> {
    let may_drop = picture.now.saturating_duration_since(memory.since) >= times.grace_after_failover;
    let mut orders = Vec::new();
    for row in picture.partitions.values() {
        let Some(system) = picture.systems.get(&row.fs) else { continue };
        let report = heartbeat.replicas.iter().find(|replica| replica.partition == row.id);
        let action = action(heartbeat.node, system, row, report, picture, memory, may_drop);
        orders.extend(action.map(|action| MetaOrder { partition: row.id, action: Some(action) }));
    }
    for replica in &heartbeat.replicas {
        // An id that was never given out is not ours to judge: the MDS may have lost its state.
        let given_out = replica.partition < picture.next_partition;
        if may_drop && given_out && !picture.partitions.contains_key(&replica.partition) {
            let action = Some(Action::DropReplica(FsEmpty {}));
            orders.push(MetaOrder { partition: replica.partition, action });
        }
    }
    orders.extend(shut_outs(heartbeat, picture));
    orders
}

fn action(
    node: u64,
    system: &FsSystemRow,
    row: &FsPartitionRow,
    report: Option<&MetaReplica>,
    picture: &Picture,
    memory: &Memory,
    may_drop: bool,
) -> Option<Action> {
    if system.deleting {
        return report.map(|_| Action::DropReplica(FsEmpty {}));
    }
    let step = memory.running.get(&row.id).map(|running| running.step);
    match report {
        None => make(node, system, row, step),
        Some(report) if report.leader == node => step.and_then(|step| lead(step, row.id, picture)),
        Some(_) => drop_replica(node, row, step, picture).filter(|_| may_drop),
    }
}

/// For a metaserver without a replica: make one, if it should have one.
fn make(node: u64, system: &FsSystemRow, row: &FsPartitionRow, step: Option<Step>) -> Option<Action> {
    if step == Some(Step::Add(NodeId(node))) {
        return Some(Action::Join(birth(system, row)));
    }
    if !row.members.contains(&node) || row.created {
        // A member whose replica was there once and is gone must not vote as if it had never been: it is removed
        // first, and added again as an empty replica.
        return None;
    }
    if row.version == 1 {
        Some(Action::Create(birth(system, row)))
    } else {
        Some(Action::Join(birth(system, row)))
    }
}

/// For the leader: the step that is under way.
fn lead(step: Step, partition: u32, picture: &Picture) -> Option<Action> {
    match step {
        Step::Add(to) => picture.has_replica(partition, to.get()).then_some(Action::AddMember(to.get())),
        Step::Remove(from) => Some(Action::RemoveMember(from.get())),
        Step::Transfer(to) => Some(Action::TransferLeader(to.get())),
    }
}

/// For a replica that is no member: delete it, once the leader in office agrees.
fn drop_replica(node: u64, row: &FsPartitionRow, step: Option<Step>, picture: &Picture) -> Option<Action> {
    let wanted =
        row.members.contains(&node) || row.learners.contains(&node) || step == Some(Step::Add(NodeId(node)));
    if wanted || row.version <= 1 {
        return None;
    }
    let (_, report) = picture.leader_report(row.id)?;
    let agreed =
        report.term >= row.term && !report.members.contains(&node) && !report.learners.contains(&node);
    agreed.then_some(Action::DropReplica(FsEmpty {}))
}

/// For leaders: mounts that are over and that their partitions have not yet reported as shut out.
fn shut_outs(heartbeat: &MetaHeartbeat, picture: &Picture) -> Vec<MetaOrder> {
    let mut orders = Vec::new();
    for mount in picture.mounts.values().filter(|row| row.ending) {
        let key = key_of(mount);
        for replica in heartbeat.replicas.iter().filter(|replica| replica.leader == heartbeat.node) {
            let row = picture.partitions.get(&replica.partition);
            let concerned = row.is_some_and(|row| {
                row.fs == mount.fs && !picture.is_doomed(row) && !mount.shut_out.contains(&row.id)
            });
            if concerned && !replica.shut_out.contains(&key) {
                orders.push(MetaOrder { partition: replica.partition, action: Some(Action::ShutOut(key)) });
            }
            if orders.len() >= SHUT_OUTS_MAX {
                return orders;
            }
        }
    }
    orders
}
