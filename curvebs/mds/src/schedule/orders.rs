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

#[cfg(test)]
mod tests {
    use curve_proto::mds::ReplicaReport;
    use curve_types::{LogIndex, Term};
    use tokio::time::Instant;

    use super::*;

    const COPYSET: CopysetId = CopysetId(1);

    fn row(members: &[u64], version: u64, created: bool) -> CopysetRow {
        CopysetRow { id: 1, members: members.to_vec(), version, created, term: 5, ..CopysetRow::default() }
    }

    fn report(leader: u64, members: &[u64]) -> ReplicaReport {
        ReplicaReport {
            copyset: COPYSET,
            term: Term(5),
            leader: Some(NodeId(leader)),
            members: members.iter().map(|&n| NodeId(n)).collect(),
            learners: Vec::new(),
            members_index: LogIndex(1),
            applied: LogIndex(1),
            last_log: LogIndex(1),
            used_bytes: 0,
            corrupt_blocks: 0,
        }
    }

    /// The action for `node`, which holds a replica or not, when node 1 leads and `reported` have a replica.
    fn action(
        node: u64,
        row: CopysetRow,
        reported: &[u64],
        step: Option<Step>,
        may_drop: bool,
    ) -> Option<OrderAction> {
        let best = report(1, &row.members);
        let mut picture = Picture {
            now: Instant::now(),
            chunkservers: BTreeMap::new(),
            copysets: [(COPYSET, row)].into(),
            view: Default::default(),
            best: BTreeMap::new(),
            reported: [(COPYSET, reported.iter().map(|&n| NodeId(n)).collect())].into(),
            heard: Default::default(),
        };
        if reported.contains(&1) {
            picture.best.insert(COPYSET, (NodeId(1), best.clone()));
        }
        let replicas = if reported.contains(&node) { vec![best] } else { Vec::new() };
        let heartbeat = Heartbeat {
            node: NodeId(node),
            token: 0,
            address: String::new(),
            total_bytes: 0,
            free_bytes: 0,
            reserve_low: false,
            replicas,
        };
        let running =
            step.map(|step| (COPYSET, Running { step, since: Instant::now() })).into_iter().collect();
        let mut orders = orders_for(&heartbeat, &picture, &running, may_drop);
        assert!(orders.len() <= 1);
        orders.pop().map(|order| order.action)
    }

    #[test]
    fn each_is_told_its_part() {
        use OrderAction::{AddMember, Create, DropReplica, Join, RemoveMember, TransferLeader};
        let three = &[1, 2, 3][..];
        let create = Create(three.iter().map(|&n| NodeId(n)).collect());
        let n4 = NodeId(4);
        for (what, got, expected) in [
            ("a member of a new copyset", action(2, row(three, 1, false), &[], None, true), Some(create)),
            ("nobody's business", action(4, row(three, 1, false), &[], None, true), None),
            ("made already", action(2, row(three, 1, false), &[1, 2], None, true), None),
            ("a member that came later", action(2, row(three, 2, false), &[1], None, true), Some(Join)),
            ("a member that lost it", action(2, row(three, 1, true), &[1], None, true), None),
            ("to be added", action(4, row(three, 1, true), three, Some(Step::Add(n4)), true), Some(Join)),
            (
                "joined, not added",
                action(4, row(three, 2, true), &[1, 2, 3, 4], Some(Step::Add(n4)), true),
                None,
            ),
            ("leader, not joined", action(1, row(three, 1, true), three, Some(Step::Add(n4)), true), None),
            (
                "leader, joined",
                action(1, row(three, 1, true), &[1, 2, 3, 4], Some(Step::Add(n4)), true),
                Some(AddMember(n4)),
            ),
            (
                "leader removes",
                action(1, row(three, 1, true), three, Some(Step::Remove(NodeId(3))), true),
                Some(RemoveMember(NodeId(3))),
            ),
            (
                "leader hands over",
                action(1, row(three, 1, true), three, Some(Step::Transfer(NodeId(3))), true),
                Some(TransferLeader(NodeId(3))),
            ),
            (
                "a follower",
                action(2, row(three, 1, true), three, Some(Step::Transfer(NodeId(3))), true),
                None,
            ),
            (
                "no member any more",
                action(4, row(three, 3, true), &[1, 2, 3, 4], None, true),
                Some(DropReplica),
            ),
            ("too early to say", action(4, row(three, 3, true), &[1, 2, 3, 4], None, false), None),
            ("the leader is silent", action(4, row(three, 3, true), &[2, 3, 4], None, true), None),
        ] {
            assert_eq!(got, expected, "{what}");
        }
    }
}
