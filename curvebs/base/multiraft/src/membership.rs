//! Changes of members, by one, and of the leader.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use curve_types::NodeId;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use crate::driver::Input;
use crate::engine::Change;
use crate::errors::MembershipError;
use crate::group::Inner;
use crate::stall::DiskState;
use crate::types::LogId;
use crate::view::View;
use crate::wire::{Outcome, TRANSFER, Transfer, TransferReply, decode, message};

/// A learner that lacks fewer entries than this is promoted.
const LAG_ENTRIES_MAX: u64 = 64;
/// How long a change may take to be committed and applied.
const CHANGE_PATIENCE: Duration = Duration::from_secs(10);

/// Adds a member: learner, catch up, voter.
///
/// While the learner catches up, other changes go on: it may never do, and then it must not keep the group from
/// removing a member, or this node from handing leadership over.
pub(crate) async fn add(group: &Arc<Inner>, node: NodeId) -> Result<(), MembershipError> {
    let deadline = Instant::now() + group.options.catch_up_deadline;
    {
        let _one = group.change.lock().await;
        group.wake();
        ensure_leader(group)?;
        let members = group.view.lock().membership.clone();
        if members.membership.is_voter(node.get()) {
            return Ok(());
        }
        if !members.membership.nodes().contains(&node.get()) {
            change(group, Change::AddLearner(node.get())).await?;
        }
    }
    caught_up(group, node, deadline).await?;
    let _one = group.change.lock().await;
    ensure_leader(group)?;
    if !is_member(&group.view.lock(), node) {
        return Err(MembershipError::NotMember { node });
    }
    change(group, Change::Promote(node.get())).await
}

/// Removes a member or learner.
pub(crate) async fn remove(group: &Arc<Inner>, node: NodeId) -> Result<(), MembershipError> {
    if node == group.node() && group.leading().is_some() {
        let Some(&successor) = successors(group).first() else { return Err(MembershipError::LastMember) };
        transfer(group, successor).await?;
        return Err(MembershipError::NotLeader { hint: Some(successor) });
    }
    let _one = group.change.lock().await;
    group.wake();
    ensure_leader(group)?;
    let members = group.view.lock().membership.clone();
    if !members.membership.nodes().contains(&node.get()) {
        return Ok(());
    }
    change(group, Change::Remove(node.get())).await
}

/// The members that may lead next: voters, the one with the longest log first.
pub(crate) fn successors(group: &Inner) -> Vec<NodeId> {
    let view = group.view.lock();
    let voters = view.membership.membership.voters().into_iter();
    let mut others: Vec<_> = voters.filter(|id| *id != group.node().get()).collect();
    others.sort_by_key(|id| (Reverse(view.matched(*id)), *id));
    others.into_iter().map(NodeId).collect()
}

/// Hands leadership over. New proposals wait while the rounds in flight end and the successor catches up, so that its
/// election needs no further entry; if it fails, this node goes on leading. They do not wait for a successor that is down
/// or far behind: it must have answered and be near before they are held up.
pub(crate) async fn transfer(group: &Arc<Inner>, to: NodeId) -> Result<(), MembershipError> {
    let _one = group.change.lock().await;
    group.wake();
    ensure_leader(group)?;
    if to == group.node() {
        return Ok(());
    }
    if !group.view.lock().membership.membership.is_voter(to.get()) {
        return Err(MembershipError::NotMember { node: to });
    }
    let deadline = Instant::now() + group.options.election_max;
    answers(group, to, deadline).await?;
    caught_up(group, to, deadline).await?;
    let _paused = Paused::new(group);
    hand_over(group, to, deadline).await
}

/// Whether a member has its replica and its task runs: it refuses to lead a term that never was.
async fn answers(group: &Inner, to: NodeId, deadline: Instant) -> Result<(), MembershipError> {
    match ask(group, to, deadline, 0, LogId::NONE).await {
        Some(Outcome::NotNow) => Ok(()),
        _ => Err(MembershipError::TooSlow { node: to }),
    }
}

/// What a member says to taking over; `None` when it does not answer.
async fn ask(group: &Inner, to: NodeId, deadline: Instant, term: u64, last: LogId) -> Option<Outcome> {
    let transfer = Transfer { route: group.caller.route(group.id, to), term, last: last.into() };
    let patience = deadline.saturating_duration_since(Instant::now());
    let reply = group.caller.call(to, message(TRANSFER, &transfer), patience).await.ok()?;
    decode::<TransferReply>(reply.header).ok().map(|reply| reply.outcome())
}

/// Keeps new rounds from beginning, also when the hand-over is given up half way.
struct Paused<'a>(&'a Inner);

impl<'a> Paused<'a> {
    fn new(group: &'a Inner) -> Self {
        group.tell(Input::Pause(true));
        Self(group)
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        self.0.tell(Input::Pause(false));
    }
}

async fn hand_over(group: &Arc<Inner>, to: NodeId, deadline: Instant) -> Result<(), MembershipError> {
    let too_slow = MembershipError::TooSlow { node: to };
    let is_level = |view: &View| view.matched(to.get()) == Some(view.last.index);
    let calm = |view: &View| view.leading().is_none() || (view.rounds == 0 && is_level(view));
    // With rounds in flight it may still work out, and with a bad disk they do not end.
    if group.stall.disk() == DiskState::Fine {
        let _ = timeout(group.options.election_min, group.view.wait_until(calm)).await;
    }
    let level = group.view.wait_until(|view| view.leading().is_none() || is_level(view));
    match timeout_at(deadline, level).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) => return Err(MembershipError::Stopped),
        Err(_) => return Err(too_slow),
    }
    let (leader, last) = {
        let view = group.view.lock();
        (view.leading(), view.last)
    };
    let Some(leader) = leader else { return Ok(()) };
    // From here on, an election that ignores this node's lease may begin at any time.
    group.view.stop_lease_reads(leader);
    *group.successor.lock().expect("never poisoned") = Some(to);
    let result = resign(group, to, deadline, leader.term, last).await;
    if result.is_err() {
        *group.successor.lock().expect("never poisoned") = None;
    }
    result
}

/// Asks the successor to take over, and waits until this node no longer leads.
async fn resign(
    group: &Inner,
    to: NodeId,
    deadline: Instant,
    term: u64,
    last: LogId,
) -> Result<(), MembershipError> {
    let too_slow = MembershipError::TooSlow { node: to };
    if ask(group, to, deadline, term, last).await != Some(Outcome::Ok) {
        return Err(too_slow);
    }
    let resigned = group.view.wait_until(|view| view.leading().is_none());
    match timeout_at(deadline, resigned).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(MembershipError::Stopped),
        Err(_) => Err(too_slow),
    }
}

fn ensure_leader(group: &Inner) -> Result<(), MembershipError> {
    match group.leading() {
        _ if group.is_stopped() => Err(MembershipError::Stopped),
        Some(_) => Ok(()),
        None => Err(MembershipError::NotLeader { hint: group.hint() }),
    }
}

fn is_member(view: &View, node: NodeId) -> bool {
    view.membership.membership.nodes().contains(&node.get())
}

/// Waits until a member is near the end of the log. One that is removed meanwhile is waited for no longer.
async fn caught_up(group: &Arc<Inner>, node: NodeId, deadline: Instant) -> Result<(), MembershipError> {
    let near = |view: &View| {
        let matched = view.matched(node.get()).unwrap_or(0);
        let level = matched > 0 && view.last.index - matched < LAG_ENTRIES_MAX;
        view.leading().is_none() || !is_member(view, node) || level
    };
    tokio::select! {
        biased;
        () = group.stopped() => Err(MembershipError::Stopped),
        done = timeout_at(deadline, group.view.wait_until(near)) => match done {
            Ok(Ok(())) => {
                ensure_leader(group)?;
                if is_member(&group.view.lock(), node) { Ok(()) } else { Err(MembershipError::NotMember { node }) }
            }
            Ok(Err(_)) => Err(MembershipError::Stopped),
            Err(_) => Err(MembershipError::TooSlow { node }),
        },
    }
}

/// Has a change of members committed and applied.
async fn change(group: &Arc<Inner>, change: Change) -> Result<(), MembershipError> {
    let changed = async {
        // A new leader may change nothing before an entry of its own is committed.
        let settled = group.view.wait_until(|view| view.serves || view.leading().is_none());
        settled.await.map_err(|_| MembershipError::Stopped)?;
        let (tell, done) = oneshot::channel();
        group.tell(Input::Change(change, tell));
        done.await.unwrap_or(Err(MembershipError::Stopped))
    };
    tokio::select! {
        biased;
        () = group.stopped() => Err(MembershipError::Stopped),
        changed = timeout(CHANGE_PATIENCE, changed) => changed.unwrap_or(Err(MembershipError::Unavailable)),
    }
}
