//! When to checkpoint a group and how much of its log to purge.
//!
//! A checkpoint makes the state machine durable, which allows to purge the log up to it. A tail before it is kept, so
//! that a follower that was away for a short time catches up from the log. When the shared log has become too large,
//! the groups that hold back its oldest segments lose their tails.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use curve_types::GroupId;
use futures::StreamExt;
use tokio::sync::oneshot;

use crate::driver::Input;
use crate::group::Inner;
use crate::node::MultiRaft;

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
    let (snapshot, purged) = {
        let view = group.view.lock();
        (view.checkpointed, view.purged)
    };
    let due = group.flags.trail().is_checkpoint_due(group.options.checkpoint_log_bytes);
    if (due || pinned.is_some_and(|pinned| snapshot < pinned)) && checkpoint(group).await.is_err() {
        return;
    }
    let upto = purge_upto(group, pinned);
    if upto >= purged + PURGE_ENTRIES_MIN || pinned.is_some_and(|_| upto > purged) {
        group.tell(Input::Purge(upto));
    }
}

/// The last index that may go, as the log counts; 0 for none.
fn purge_upto(group: &Inner, pinned: Option<u64>) -> u64 {
    let (snapshot, last) = {
        let view = group.view.lock();
        (view.checkpointed, view.last.index)
    };
    let by_count = last.saturating_sub(group.options.log_keep_entries);
    let by_bytes = group.flags.trail().index_before_last(group.options.log_keep_bytes);
    let wanted = by_count.max(by_bytes).max(pinned.unwrap_or(0));
    let transfers = group.sources.pinned().map_or(u64::MAX, |index| index.get());
    wanted.min(snapshot).min(transfers)
}

/// Makes a checkpoint of all that is applied now and waits for it.
pub(crate) async fn checkpoint(group: &Arc<Inner>) -> Result<(), ()> {
    if group.stall.holds_changes() {
        return Err(());
    }
    group.flags.trail().checkpoint();
    let (tell, done) = oneshot::channel();
    group.tell(Input::Checkpoint(tell));
    match tokio::time::timeout(CHECKPOINT_DEADLINE, done).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(()),
    }
}
