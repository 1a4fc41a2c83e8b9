//! What one chunkserver is to do, as the answer to its heartbeat.

use std::collections::BTreeMap;

use curve_proto::mds::{Heartbeat, Order, OrderAction};
use curve_proto::pb::mds_state::CopysetRow;
use curve_sched::Step;
use curve_types::{CopysetId, NodeId};

use crate::memory::Running;
use crate::schedule::Picture;

/// The orders for the sender of a heartbeat. `may_drop` is false while this leader does not know enough to say that a
/// replica is not needed.
pub(crate) fn orders_for(
    heartbeat: &Heartbeat,
    picture: &Picture,
    running: &BTreeMap<CopysetId, Running>,
    may_drop: bool,
) -> Vec<Order> {
    let node = heartbeat.node;
    let mut orders = Vec::new();
    for (&id, row) in &picture.copysets {
        let report = heartbeat.replicas.iter().find(|replica| replica.copyset == id);
        let step = running.get(&id).map(|running| running.step);
        let action = match report {
            None => make(node, row, step),
            Some(report) if report.leader == Some(node) => {
                step.and_then(|step| lead(step, |to| picture.has_replica(id, to)))
            }
            Some(_) => drop_replica(node, row, step, picture).filter(|_| may_drop),
        };
        orders.extend(action.map(|action| Order { copyset: id, action }));
    }
    orders
}

/// For a chunkserver without a replica: make one, if it should have one.
fn make(node: NodeId, row: &CopysetRow, step: Option<Step>) -> Option<OrderAction> {
    if step == Some(Step::Add(node)) {
        return Some(OrderAction::Join);
    }
    if !row.members.contains(&node.get()) || row.created {
        // A member whose replica was there once and is gone must not vote as if it had never been: it is removed
        // first, and added again as an empty replica.
        return None;
    }
    if row.version == 1 {
        return Some(OrderAction::Create(row.members.iter().copied().map(NodeId).collect()));
    }
    Some(OrderAction::Join)
}

/// For the leader: the step that is under way.
fn lead(step: Step, has_replica: impl Fn(NodeId) -> bool) -> Option<OrderAction> {
    match step {
        Step::Add(to) => has_replica(to).then_some(OrderAction::AddMember(to)),
        Step::Remove(from) => Some(OrderAction::RemoveMember(from)),
        Step::Transfer(to) => Some(OrderAction::TransferLeader(to)),
    }
}

/// For a replica that is no member: delete it, once the leader in office agrees.
fn drop_replica(
    node: NodeId,
    row: &CopysetRow,
    step: Option<Step>,
    picture: &Picture,
) -> Option<OrderAction> {
    let wanted = row.members.contains(&node.get())
        || row.learners.contains(&node.get())
        || step == Some(Step::Add(node));
    if wanted || row.version <= 1 {
        return None;
    }
    let (_, report) = picture.leader_report(CopysetId(row.id))?;
    let agreed =
        report.term.get() >= row.term && !report.members.contains(&node) && !report.learners.contains(&node);
    agreed.then_some(OrderAction::DropReplica)
}
