//! Carries recursive counters up the tree: to parents in this partition by a request of our own, to others by telling them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use curve_kv::KeyRange;
use curvefs_meta::server_request;
use curvefs_types::keys::{Key, tag};
use curvefs_types::{Answer, Op, PartitionId, Query, Reply, Told};
use futures::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use crate::context::Context;
use crate::peers::Target;
use crate::replica::Replica;

/// Rows of one step.
const STEP: u32 = 256;
/// How long a parent's partition may take to hear.
const TELL_PATIENCE: Duration = Duration::from_secs(3);
/// When something could not be told, it is tried again after this.
const AGAIN: Duration = Duration::from_secs(1);
/// Steps before the rest waits for the next pass.
const STEPS_MAX: usize = 1000;

/// Runs until the term is over.
pub(super) async fn run(context: &Arc<Context>, replica: &Arc<Replica>) {
    let mut changed = replica.bells().changed.subscribe();
    loop {
        changed.borrow_and_update();
        let all = pass(context, replica).await;
        if all {
            // The bell cannot end, since the replica has it.
            let _ = changed.changed().await;
        } else {
            let _ = timeout(AGAIN, changed.changed()).await;
        }
        // What changes together settles together.
        sleep(context.pace.settle_after).await;
    }
}

/// Whether the partition has rows of a kind.
pub(super) fn has_rows(replica: &Replica, kind: u8) -> bool {
    let rows = replica.partition().store().scan(&KeyRange::prefix(Key::kind(kind)), 1);
    rows.is_ok_and(|rows| !rows.is_empty())
}

/// Proposes a bounded request until it is done; whether it is.
pub(super) async fn until_done(context: &Context, replica: &Replica, op: &Op) -> bool {
    for _ in 0..STEPS_MAX {
        match replica.change(&server_request(context.clock.now_ns(), op.clone())).await {
            Ok(Ok(Reply::Progress { more: true })) => {}
            Ok(Ok(_)) => return true,
            Ok(Err(error)) => {
                tracing::error!(partition = %replica.id(), %error, "a worker's request is refused");
                return false;
            }
            Err(error) => {
                tracing::debug!(partition = %replica.id(), %error, "a worker's request waits");
                return false;
            }
        }
    }
    false
}

/// Whether nothing is left to be carried.
async fn pass(context: &Arc<Context>, replica: &Arc<Replica>) -> bool {
    if !has_rows(replica, tag::DIRTY) {
        return true;
    }
    if !until_done(context, replica, &Op::Settle { limit: STEP }).await {
        return false;
    }
    for _ in 0..STEPS_MAX {
        let told = match replica.look_as_server(Query::Untold { limit: STEP }) {
            Ok(Answer::Untold { told }) => told,
            _ => return false,
        };
        if told.is_empty() {
            return true;
        }
        if !tell(context, replica, told).await {
            return false;
        }
    }
    false
}

/// Tells parents elsewhere; whether all have heard.
async fn tell(context: &Arc<Context>, replica: &Arc<Replica>, told: Vec<Told>) -> bool {
    let Ok(system) = context.systems.get(replica.fs()).await else { return false };
    let mut by_partition: BTreeMap<PartitionId, Vec<Told>> = BTreeMap::new();
    for one in told {
        by_partition.entry(system.map.partition_of(one.parent)).or_default().push(one);
    }
    let heard = join_all(by_partition.into_iter().map(async |(partition, told)| {
        let target = Target { fs: replica.fs(), partition, until: Instant::now() + TELL_PATIENCE };
        let request = server_request(context.clock.now_ns(), Op::Tell { told: told.clone() });
        match context.change_at(target, &request).await {
            Ok(Ok(_)) => Some(told),
            other => {
                tracing::debug!(%partition, ?other, "totals wait to be told");
                None
            }
        }
    }))
    .await;
    let all = heard.iter().all(Option::is_some);
    let told: Vec<Told> = heard.into_iter().flatten().flatten().collect();
    let noted = told.is_empty() || until_done(context, replica, &Op::ToldDone { told }).await;
    noted && all
}
