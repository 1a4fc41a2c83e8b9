//! Asks what became of transactions that hold rows here for long: their coordinator may have died before it decided.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use curvefs_meta::server_request;
use curvefs_types::keys::tag;
use curvefs_types::{Answer, Decision, Op, Query, Reply, TxId, TxNumber};
use tokio::time::{Instant, sleep};

use super::settle::has_rows;
use crate::context::Context;
use crate::peers::Target;
use crate::replica::Replica;

/// How often it is looked.
const EVERY: Duration = Duration::from_millis(500);
/// What was seen for this long is asked about. Longer than a healthy transaction takes, shorter than anybody's patience.
const LONG: Duration = Duration::from_millis(1500);
/// How long a coordinator may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Transactions of one pass.
const STEP: u32 = 256;

/// Runs until the term is over.
pub(super) async fn run(context: &Arc<Context>, replica: &Arc<Replica>) {
    let mut seen: BTreeMap<TxId, Instant> = BTreeMap::new();
    loop {
        sleep(EVERY).await;
        if !has_rows(replica, tag::PREPARED) {
            seen.clear();
            continue;
        }
        let Ok(Answer::PreparedTxs { txs }) = replica.look_as_server(Query::PreparedTxs { limit: STEP })
        else {
            continue;
        };
        seen.retain(|tx, _| txs.contains(tx));
        for tx in txs {
            let since = *seen.entry(tx).or_insert_with(Instant::now);
            if since.elapsed() >= LONG {
                resolve(context, replica, tx).await;
            }
        }
    }
}

async fn resolve(context: &Arc<Context>, replica: &Arc<Replica>, tx: TxId) {
    let target = Target { fs: replica.fs(), partition: tx.coordinator, until: Instant::now() + PATIENCE };
    let request = server_request(context.clock.now_ns(), Op::Resolve { tx });
    let commit = match context.change_at(target, &request).await {
        Ok(Ok(Reply::Resolved { decision })) => matches!(decision, Decision::Committed { .. }),
        other => {
            tracing::debug!(%tx, ?other, "its coordinator does not say what was decided");
            return;
        }
    };
    tracing::info!(partition = %replica.id(), %tx, commit, "ends a transaction that was left prepared");
    let op = Op::Finish { tx, floor: TxNumber::default(), commit };
    // If it cannot be now, the next pass tries again.
    if let Err(error) = replica.change(&server_request(context.clock.now_ns(), op)).await {
        tracing::debug!(%tx, %error, "not ended yet");
    }
}
