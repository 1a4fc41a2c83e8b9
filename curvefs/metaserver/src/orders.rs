//! Doing what the MDS orders. Each order may come again before or after it is done, and then does nothing.

use std::sync::Arc;

use curve_multiraft::{Group, MembershipError};
use curve_proto::pb::fs as pb;
use curve_types::{Epoch, NodeId};
use curvefs_meta::{Birth, InodeRange};
use curvefs_types::{FsId, InodeId, MountId, PartitionId};

use crate::context::Context;
use crate::host::{ReplicaError, ReplicaHost};
use crate::leader;

/// An order about one partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Order {
    /// Which.
    pub partition: PartitionId,
    /// What is to be done.
    pub action: Action,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Make the partition's group with these members.
    Create(Birth, Vec<NodeId>),
    /// Make an empty replica that waits to be added.
    Join(Birth),
    /// Add a member.
    AddMember(NodeId),
    /// Remove a member.
    RemoveMember(NodeId),
    /// Hand leadership over.
    TransferLeader(NodeId),
    /// Remove the replica here.
    DropReplica,
    /// Refuse a mount below an epoch, and release what it holds.
    ShutOut(MountId, Epoch),
}

impl Order {
    /// Orders with the same key are run one at a time.
    pub fn key(&self) -> (PartitionId, Option<MountId>) {
        match self.action {
            Action::ShutOut(mount, _) => (self.partition, Some(mount)),
            _ => (self.partition, None),
        }
    }

    /// An order from the wire; `None` if this version does not know it.
    pub fn of(order: pb::MetaOrder) -> Option<Self> {
        use pb::meta_order::Action as Wire;
        let partition = PartitionId(order.partition);
        let action = match order.action? {
            Wire::Create(birth) => {
                let members = birth.members.iter().copied().map(NodeId).collect();
                Action::Create(birth_of(partition, &birth)?, members)
            }
            Wire::Join(birth) => Action::Join(birth_of(partition, &birth)?),
            Wire::AddMember(node) => Action::AddMember(NodeId(node)),
            Wire::RemoveMember(node) => Action::RemoveMember(NodeId(node)),
            Wire::TransferLeader(node) => Action::TransferLeader(NodeId(node)),
            Wire::DropReplica(_) => Action::DropReplica,
            Wire::ShutOut(key) => Action::ShutOut(MountId(key.mount), Epoch(key.epoch)),
        };
        (partition != PartitionId(0)).then_some(Self { partition, action })
    }
}

fn birth_of(partition: PartitionId, birth: &pb::PartitionBirth) -> Option<Birth> {
    let range = InodeRange { first: InodeId(birth.first_inode), last: InodeId(birth.last_inode) };
    // A slot that does not fit an inode's number could make none.
    let fits = range.first <= range.last && InodeId::in_slot(birth.slot, 1).is_some();
    fits.then_some(Birth {
        fs: FsId(birth.fs),
        partition,
        slot: birth.slot,
        ranges: vec![range],
        now_ns: birth.now_ns,
        root: (birth.root_uid, birth.root_gid, birth.root_mode),
    })
}

/// Runs one order. What fails is logged here; the MDS sees by the next heartbeats that it is not done and repeats it.
pub async fn execute(context: &Arc<Context>, host: &ReplicaHost, order: Order) {
    let id = order.partition;
    match order.action {
        Action::Create(birth, members) => made(id, "create", host.create(birth, &members).await),
        Action::Join(birth) => made(id, "join", host.join(birth).await),
        Action::DropReplica => made(id, "drop", host.drop_replica(id).await),
        Action::AddMember(node) => {
            if let Some(group) = group(context, id)
                && !group.status().members.contains(&node)
            {
                changed(id, "add a member", group.add_member(node).await);
            }
        }
        Action::RemoveMember(node) => {
            if let Some(group) = group(context, id) {
                let status = group.status();
                if status.members.contains(&node) || status.learners.contains(&node) {
                    changed(id, "remove a member", group.remove_member(node).await);
                }
            }
        }
        Action::TransferLeader(node) => {
            if let Some(group) = group(context, id)
                && group.status().leader != Some(node)
            {
                changed(id, "hand over leadership", group.transfer_leader(node).await);
            }
        }
        Action::ShutOut(mount, epoch) => {
            if let Some(replica) = context.table.get(id) {
                leader::shut_out(context, &replica, mount, epoch).await;
            }
        }
    }
}

fn group(context: &Context, id: PartitionId) -> Option<Group> {
    context.table.get(id)?.working_group().cloned()
}

fn made(partition: PartitionId, what: &str, result: Result<(), ReplicaError>) {
    if let Err(error) = result {
        tracing::error!(%partition, order = what, %error, "an order failed");
    }
}

fn changed(partition: PartitionId, what: &str, result: Result<(), MembershipError>) {
    match result {
        Ok(()) => tracing::info!(%partition, order = what, "an order is done"),
        // The MDS sent it to the one who led when it looked; it will look again.
        Err(MembershipError::NotLeader { .. } | MembershipError::InProgress) => {}
        // A new member that is being filled, most likely.
        Err(error @ MembershipError::TooSlow { .. }) => {
            tracing::debug!(%partition, order = what, %error, "an order takes longer");
        }
        Err(error) => tracing::warn!(%partition, order = what, %error, "an order is not done yet"),
    }
}

#[cfg(test)]
mod tests {
    use pb::meta_order::Action as Wire;

    use super::*;

    fn order(action: Wire) -> Option<Order> {
        Order::of(pb::MetaOrder { partition: 7, action: Some(action) })
    }

    #[test]
    fn orders_from_the_wire() {
        let birth = pb::PartitionBirth {
            fs: 1,
            slot: 2,
            first_inode: 2 << 40,
            last_inode: (3 << 40) - 1,
            members: vec![4, 5],
            ..pb::PartitionBirth::default()
        };
        let made = Birth { root: (0, 0, 0), ..Birth::of_slot(FsId(1), PartitionId(7), 2) };
        let create = order(Wire::Create(birth.clone())).unwrap();
        assert_eq!(create.action, Action::Create(made.clone(), vec![NodeId(4), NodeId(5)]));
        assert_eq!(order(Wire::Join(birth.clone())).unwrap().action, Action::Join(made));
        let key = pb::FsMountKey { fs: 1, mount: 9, epoch: 2 };
        let shut_out = order(Wire::ShutOut(key)).unwrap();
        assert_eq!(shut_out.action, Action::ShutOut(MountId(9), Epoch(2)));
        assert_ne!(shut_out.key(), create.key());
        for strange in [
            pb::PartitionBirth { last_inode: 0, ..birth.clone() },
            pb::PartitionBirth { slot: 1 << 24, ..birth },
        ] {
            assert_eq!(order(Wire::Create(strange)), None);
        }
        assert_eq!(Order::of(pb::MetaOrder { partition: 7, action: None }), None);
    }
}
