//! When to checkpoint a group and how much of its log to purge.
//!
//! A checkpoint makes the state machine durable, which allows to purge the log up to it. A tail before it is kept, so
//! that a follower that was away for a short time catches up from the log. When the shared log has become too large,
//! the groups that hold back its oldest segments lose their tails.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use curve_types::GroupId;
use futures::StreamExt;
use openraft::ChangeMembers;
use openraft_rt::WatchReceiver;

use crate::group::Inner;
use crate::node::MultiRaft;
use crate::types::{public_index, public_index_of};

/// Checkpoints that run at the same time, at most.
const CHECKPOINTS_MAX: usize = 2;
/// Fewer entries than this are not worth a purge.
const PURGE_ENTRIES_MIN: u64 = 64;
const CHECKPOINT_DEADLINE: Duration = Duration::from_secs(60);

/// Runs the policy until the node is gone.
pub(crate) async fn run(node: Weak<MultiRaft>) {
    let Some(interval) = node.upgrade().map(|node| node.options().purge_interval) else { return };
    loop {
        tokio::time::sleep(interval).await;
        let Some(node) = node.upgrade() else { return };
        if node.is_closing() {
            return;
        }
        step(&node).await;
    }
}

/// Looks at all groups once.
async fn step(node: &Arc<MultiRaft>) {
    if node.log().failed() {
        node.log_failed();
        return;
    }
    let stats = node.log().stats();
    let full = stats.live_segments > node.options().log_segments_max || node.log().space_low();
    let pinning: BTreeMap<GroupId, u64> = match full {
        true => stats.pinning.iter().map(|pin| (pin.group, pin.last_index_in_segment)).collect(),
        false => BTreeMap::new(),
    };
    let work = node.groups().into_iter().map(|group| {
        let pinned = pinning.get(&group.id()).copied();
        async move { look_after(&group.inner, pinned).await }
    });
    futures::stream::iter(work).for_each_concurrent(CHECKPOINTS_MAX, |work| work).await;
}

/// What the log must give up of a group, if `pinned` names the last index of the oldest segment.
async fn look_after(group: &Arc<Inner>, pinned: Option<u64>) {
    if group.is_stopped() {
        return;
    }
    finish_change(group).await;
    let (snapshot, purged) = {
        let metrics = group.metrics.borrow_watched();
        (public_index_of(metrics.snapshot), public_index_of(metrics.purged))
    };
    let grown = group.flags.trail().since_checkpoint() >= group.options.checkpoint_log_bytes;
    if (grown || pinned.is_some_and(|pinned| snapshot < pinned)) && checkpoint(group).await.is_err() {
        return;
    }
    let upto = purge_upto(group, pinned);
    if upto >= purged + PURGE_ENTRIES_MIN || pinned.is_some_and(|_| upto > purged) {
        let _ = group.raft.trigger().purge_log(upto - 1).await;
    }
}

/// The last index that may go, as the log counts; 0 for none.
fn purge_upto(group: &Inner, pinned: Option<u64>) -> u64 {
    let (snapshot, last) = {
        let metrics = group.metrics.borrow_watched();
        (public_index_of(metrics.snapshot), metrics.last_log_index.map_or(0, public_index))
    };
    let by_count = last.saturating_sub(group.options.log_keep_entries);
    let by_bytes = group.flags.trail().index_before_last(group.options.log_keep_bytes);
    let wanted = by_count.max(by_bytes).max(pinned.unwrap_or(0));
    let transfers = group.sources.pinned().map_or(u64::MAX, |index| index.get());
    wanted.min(snapshot).min(transfers)
}

/// Makes a checkpoint of all that is applied now and waits for it.
pub(crate) async fn checkpoint(group: &Arc<Inner>) -> Result<(), ()> {
    let mut metrics = group.metrics.clone();
    let target = metrics.borrow_and_update().last_applied;
    group.flags.trail().checkpoint();
    if target.is_none() {
        return Ok(());
    }
    let done = async {
        while metrics.borrow_and_update().snapshot < target {
            // A checkpoint that is running already may be of an earlier state; then one more is needed.
            group.raft.trigger().snapshot().await.map_err(|_| ())?;
            let tick =
                tokio::time::timeout(group.options.heartbeat, metrics.wait_until(|m| m.snapshot >= target));
            if let Ok(Err(_)) = tick.await {
                return Err(());
            }
        }
        Ok(())
    };
    tokio::select! {
        () = group.stopped() => Err(()),
        done = tokio::time::timeout(CHECKPOINT_DEADLINE, done) => done.map_err(|_| ())?,
    }
}

/// Completes a change of members that an earlier leader left half way.
async fn finish_change(group: &Arc<Inner>) {
    let joint = group.metrics.borrow_watched().membership_config.get_joint_config().len() > 1;
    if !joint || group.leading().is_none() {
        return;
    }
    if let Ok(_one) = group.change.try_lock() {
        let finish = group.raft.change_membership(ChangeMembers::AddVoterIds(BTreeSet::new()), true);
        let _ = tokio::time::timeout(group.options.election_max, finish).await;
    }
}
