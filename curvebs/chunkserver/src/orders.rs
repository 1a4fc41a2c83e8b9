//! Doing what the MDS orders. Each order may come again before or after it is done, and then does nothing.

use curve_multiraft::{Group, GroupState, MembershipError};
use curve_proto::mds::{Order, OrderAction};
use curve_types::CopysetId;

use crate::replicas::{ReplicaError, ReplicaHost};
use crate::service::ReplicaTable;

/// Runs one order. What fails is logged here; the MDS sees by the next heartbeats that it is not done and repeats it.
pub async fn execute(host: &ReplicaHost, table: &ReplicaTable, order: Order) {
    let copyset = order.copyset;
    match order.action {
        OrderAction::Create(members) => {
            replica_result(copyset, "create", host.create(copyset, &members).await)
        }
        OrderAction::Join => replica_result(copyset, "join", host.join(copyset).await),
        OrderAction::DropReplica => replica_result(copyset, "drop", host.drop_replica(copyset).await),
        OrderAction::AddMember(node) => {
            if let Some(group) = group(table, copyset) {
                let status = group.status();
                if !status.members.contains(&node) {
                    member_result(copyset, "add a member", group.add_member(node).await);
                }
            }
        }
        OrderAction::RemoveMember(node) => {
            if let Some(group) = group(table, copyset) {
                let status = group.status();
                if status.members.contains(&node) || status.learners.contains(&node) {
                    member_result(copyset, "remove a member", group.remove_member(node).await);
                }
            }
        }
        OrderAction::TransferLeader(node) => {
            if let Some(group) = group(table, copyset)
                && group.status().leader != Some(node)
            {
                member_result(copyset, "hand over leadership", group.transfer_leader(node).await);
            }
        }
    }
}

fn group(table: &ReplicaTable, copyset: CopysetId) -> Option<Group> {
    let group = table.get(copyset)?.group()?.clone();
    (!matches!(group.status().state, GroupState::Stopped | GroupState::Failed(_))).then_some(group)
}

fn replica_result(copyset: CopysetId, what: &str, result: Result<(), ReplicaError>) {
    if let Err(error) = result {
        tracing::error!(%copyset, order = what, %error, "an order failed");
    }
}

fn member_result(copyset: CopysetId, what: &str, result: Result<(), MembershipError>) {
    match result {
        Ok(()) => tracing::info!(%copyset, order = what, "an order is done"),
        // The MDS sent it to the one who led when it looked; it will look again.
        Err(MembershipError::NotLeader { .. } | MembershipError::InProgress) => {}
        // A new member that is being filled, most likely.
        Err(error @ MembershipError::TooSlow { .. }) => {
            tracing::debug!(%copyset, order = what, %error, "an order takes longer");
        }
        Err(error) => tracing::warn!(%copyset, order = what, %error, "an order is not done yet"),
    }
}
