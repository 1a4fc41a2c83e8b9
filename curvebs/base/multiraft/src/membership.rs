//! Changes of members, by one, and of the leader.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use curve_types::NodeId;
use openraft::ChangeMembers;
use openraft::errors::{ChangeMembershipError, ClientWriteError, ForwardReason, RaftError};
use openraft::raft::ClientWriteResponse;
use openraft_rt::WatchReceiver;
use tokio::time::{Instant, timeout_at};

use crate::errors::MembershipError;
use crate::group::{Inner, leading};
use crate::types::{C, LogId, Metrics};
use crate::wire::{Outcome, TRANSFER, Transfer, TransferReply, decode, message};

/// A learner that lacks fewer entries than this is promoted.
const LAG_ENTRIES_MAX: u64 = 64;

type WriteError = RaftError<C, ClientWriteError<C>>;

/// Adds a member: learner, catch up, voter.
pub(crate) async fn add(group: &Arc<Inner>, node: NodeId) -> Result<(), MembershipError> {
    let _one = group.change.lock().await;
    group.wake().await;
    let deadline = Instant::now() + group.options.catch_up_deadline;
    ensure_leader(group)?;
    let (voter, member) = {
        let metrics = group.metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let voter = membership.voter_ids().any(|id| id == node.get());
        (voter, membership.get_node(&node.get()).is_some())
    };
    if voter {
        return Ok(());
    }
    if !member {
        let learner = || ChangeMembers::AddNodes(BTreeMap::from([(node.get(), ())]));
        write(group, || group.raft.change_membership(learner(), true)).await?;
    }
    caught_up(group, node, deadline).await?;
    let voters = || ChangeMembers::AddVoterIds(BTreeSet::from([node.get()]));
    write(group, || group.raft.change_membership(voters(), true)).await
}

/// Removes a member or learner.
pub(crate) async fn remove(group: &Arc<Inner>, node: NodeId) -> Result<(), MembershipError> {
    if node == group.node() && group.leading().is_some() {
        let Some(successor) = successor(group) else { return Err(MembershipError::LastMember) };
        transfer(group, successor).await?;
        return Err(MembershipError::NotLeader { hint: Some(successor) });
    }
    let _one = group.change.lock().await;
    group.wake().await;
    ensure_leader(group)?;
    let (voters, member) = {
        let metrics = group.metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        (membership.voter_ids().collect::<BTreeSet<_>>(), membership.get_node(&node.get()).is_some())
    };
    if !member {
        return Ok(());
    }
    if voters.len() == 1 && voters.contains(&node.get()) {
        return Err(MembershipError::LastMember);
    }
    let one = || BTreeSet::from([node.get()]);
    if voters.contains(&node.get()) {
        write(group, || group.raft.change_membership(ChangeMembers::RemoveVoters(one()), false)).await
    } else {
        write(group, || group.raft.change_membership(ChangeMembers::RemoveNodes(one()), false)).await
    }
}

/// The member that is best suited to lead next: a voter, and of those the one whose log is longest.
pub(crate) fn successor(group: &Inner) -> Option<NodeId> {
    let metrics = group.metrics.borrow_watched();
    let membership = metrics.membership_config.membership();
    let voters: BTreeSet<u64> = membership.voter_ids().filter(|id| *id != group.node().get()).collect();
    let matched = |id: u64| metrics.replication.as_ref().and_then(|peers| peers.get(&id).copied().flatten());
    voters.into_iter().rev().max_by_key(|id| matched(*id)).map(NodeId)
}

/// Hands leadership over. New proposals wait while the rounds in flight end and the successor catches up, so that its
/// election needs no further entry; if it fails, this node goes on leading.
pub(crate) async fn transfer(group: &Arc<Inner>, to: NodeId) -> Result<(), MembershipError> {
    let _one = group.change.lock().await;
    group.wake().await;
    ensure_leader(group)?;
    if to == group.node() {
        return Ok(());
    }
    if !group.metrics.borrow_watched().membership_config.voter_ids().any(|id| id == to.get()) {
        return Err(MembershipError::NotMember { node: to });
    }
    let deadline = Instant::now() + group.options.election_max;
    group.proposals.pause(group.options.election_min).await;
    let result = hand_over(group, to, deadline).await;
    group.proposals.resume();
    result
}

async fn hand_over(group: &Arc<Inner>, to: NodeId, deadline: Instant) -> Result<(), MembershipError> {
    let too_slow = MembershipError::TooSlow { node: to };
    let mut metrics = group.metrics.clone();
    let level = metrics.wait_until(|metrics| {
        leading(metrics, group.node()).is_none()
            || matched_of(metrics, to).is_some_and(|m| behind(metrics, m) == 0)
    });
    match timeout_at(deadline, level).await {
        Ok(Ok(_)) => {}
        Ok(Err(_)) => return Err(MembershipError::Stopped),
        Err(_) => return Err(too_slow),
    }
    let (leader, last) = {
        let metrics = group.metrics.borrow_watched();
        (leading(&metrics, group.node()), matched_of(&metrics, to))
    };
    let Some(leader) = leader else { return Ok(()) };
    // From here on, an election that ignores this node's lease may begin at any time.
    group.flags.stop_lease_reads(leader);
    *group.successor.lock().expect("never poisoned") = Some(to);
    let transfer = Transfer {
        route: group.caller.route(group.id, to),
        vote: crate::types::Vote { leader_id: leader, committed: true }.into(),
        successor: to.get(),
        last: last.map(Into::into),
    };
    let patience = deadline.saturating_duration_since(Instant::now());
    let asked = group.caller.call(to, message(TRANSFER, &transfer), patience).await;
    let agreed = asked.ok().and_then(|reply| decode::<TransferReply>(reply.header).ok());
    if agreed.is_none_or(|reply| reply.outcome() != Outcome::Ok) {
        *group.successor.lock().expect("never poisoned") = None;
        return Err(too_slow);
    }
    let resigned = metrics.wait_until(|metrics| leading(metrics, group.node()).is_none());
    match timeout_at(deadline, resigned).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => Err(MembershipError::Stopped),
        Err(_) => {
            *group.successor.lock().expect("never poisoned") = None;
            Err(too_slow)
        }
    }
}

fn ensure_leader(group: &Inner) -> Result<(), MembershipError> {
    match group.leading() {
        _ if group.is_stopped() => Err(MembershipError::Stopped),
        Some(_) => Ok(()),
        None => Err(MembershipError::NotLeader { hint: group.hint() }),
    }
}

fn matched_of(metrics: &Metrics, node: NodeId) -> Option<LogId> {
    metrics.replication.as_ref()?.get(&node.get()).copied().flatten()
}

fn behind(metrics: &Metrics, matched: LogId) -> u64 {
    metrics.last_log_index.unwrap_or(0).saturating_sub(matched.index)
}

/// Waits until a learner is near the end of the log.
async fn caught_up(group: &Arc<Inner>, node: NodeId, deadline: Instant) -> Result<(), MembershipError> {
    let mut metrics = group.metrics.clone();
    let done = metrics.wait_until(|metrics| {
        leading(metrics, group.node()).is_none()
            || matched_of(metrics, node).is_some_and(|matched| behind(metrics, matched) < LAG_ENTRIES_MAX)
    });
    tokio::select! {
        () = group.stopped() => Err(MembershipError::Stopped),
        done = timeout_at(deadline, done) => match done {
            Ok(Ok(_)) => ensure_leader(group),
            Ok(Err(_)) => Err(MembershipError::Stopped),
            Err(_) => Err(MembershipError::TooSlow { node }),
        },
    }
}

/// Proposes a change of members, again while only the leader's lease had lapsed.
async fn write<F>(group: &Arc<Inner>, mut change: impl FnMut() -> F) -> Result<(), MembershipError>
where
    F: Future<Output = Result<ClientWriteResponse<C>, WriteError>>,
{
    const TRIES: u32 = 3;
    const PATIENCE: Duration = Duration::from_secs(10);
    for _ in 0..TRIES {
        let result = tokio::select! {
            () = group.stopped() => return Err(MembershipError::Stopped),
            result = tokio::time::timeout(PATIENCE, change()) => result,
        };
        match result {
            Err(_) => return Err(MembershipError::Unavailable),
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => match refusal(group, &error) {
                Some(refusal) => return Err(refusal),
                None => group.wait_for_lease().await,
            },
        }
    }
    Err(MembershipError::Unavailable)
}

/// What a refusal by openraft means to the caller; `None` to try again.
fn refusal(group: &Inner, error: &WriteError) -> Option<MembershipError> {
    let error = match error {
        RaftError::Fatal(_) => return Some(MembershipError::Stopped),
        RaftError::APIError(error) => error,
    };
    match error {
        ClientWriteError::ForwardToLeader(forward) if forward.reason == ForwardReason::LeaseExpired => None,
        ClientWriteError::ForwardToLeader(forward) | ClientWriteError::LogEntryDiscarded(forward) => {
            Some(MembershipError::NotLeader { hint: forward.leader_id.map(NodeId).or_else(|| group.hint()) })
        }
        ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_)) => {
            Some(MembershipError::InProgress)
        }
        ClientWriteError::ChangeMembershipError(ChangeMembershipError::EmptyMembership(_)) => {
            Some(MembershipError::LastMember)
        }
        ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_) => {
            tracing::warn!(group = %group.id, %error, "membership change refused");
            Some(MembershipError::Unavailable)
        }
    }
}
