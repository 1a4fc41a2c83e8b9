//! Follows one group's engine: publishes who leads, notices that it ended, and enables elections after a restart.

use std::sync::Arc;

use openraft_rt::WatchReceiver;
use tokio::time::{sleep_until, timeout};

use crate::group::{Inner, failure_of, leading};

/// Publishes who leads, until the engine ends.
pub(crate) async fn follow(group: Arc<Inner>) {
    let mut servers = group.raft.server_metrics();
    let mut applied = group.view.applied_leader.subscribe();
    loop {
        servers.borrow_and_update();
        applied.borrow_and_update();
        publish(&group);
        tokio::select! {
            biased;
            () = group.stopped() => break,
            changed = servers.changed() => if changed.is_err() { break },
            changed = applied.changed() => if changed.is_err() { break },
        }
        if failure_of(&group.metrics.borrow_watched()).is_some() {
            break;
        }
    }
    ended(&group);
}

fn publish(group: &Inner) {
    let leader = {
        let metrics = group.metrics.borrow_watched();
        match leading(&metrics, group.node()) {
            Some(own) => (*group.view.applied_leader.borrow() == Some(own)).then_some(own.node_id),
            None => metrics.current_leader.filter(|leader| *leader != group.node().get()),
        }
    };
    let leader = leader.map(curve_types::NodeId);
    let changed = group.leader.send_if_modified(|current| std::mem::replace(current, leader) != leader);
    if changed {
        tracing::debug!(group = %group.id, ?leader, "leader changed");
    }
}

/// Marks the group stopped or failed; its callers see it from now on.
pub(crate) fn ended(group: &Inner) {
    if !group.flags.is_stopping() {
        let cause = failure_of(&group.metrics.borrow_watched()).unwrap_or_else(|| "the engine ended".into());
        let mut failure = group.failure.lock().expect("never poisoned");
        if failure.is_none() {
            tracing::error!(group = %group.id, cause, "group failed on this node and stays stopped until a restart");
            *failure = Some(cause);
        }
    }
    group.leader.send_replace(None);
    group.stop.send_replace(true);
}

/// Asks for votes in a new group before the others' timers do, until there is a leader.
pub(crate) async fn stand_first(group: Arc<Inner>) {
    let mut servers = group.raft.server_metrics();
    for _ in 0..10 {
        let led = servers.wait_until(|metrics| metrics.current_leader.is_some());
        if group.raft.trigger().elect(true).await.is_err()
            || timeout(group.options.heartbeat / 4, led).await.is_ok()
        {
            return;
        }
    }
}

/// Lets the node stand for election once promises it may have made before a restart have ended.
pub(crate) async fn enable_elections(group: Arc<Inner>) {
    tokio::select! {
        () = group.stopped() => {}
        () = sleep_until(group.votes_from) => group.raft.runtime_config().elect(true),
    }
}
