//! Moves to the store what waits for it in the partition, after a while: what was overwritten or deleted meanwhile never goes.

use std::sync::Arc;
use std::time::Duration;

use curvefs_meta::server_request;
use curvefs_types::keys::tag;
use curvefs_types::limits::STAGED_BYTES_MAX;
use curvefs_types::{Answer, FsError, Op, Query, Staged};
use futures::StreamExt;

use super::passes::Passes;
use super::settle::has_rows;
use crate::context::Context;
use crate::replica::Replica;

const PASSES: Passes = Passes {
    every: Duration::from_secs(1),
    pause_max: Duration::from_secs(30),
    waits: "data waits to be stored",
};
/// Slices of one pass.
const STEP: u32 = 128;
/// Slices that are put at the same time.
const PARALLEL: usize = 8;
/// When so much waits, nothing waits for its time any more.
const MUCH: u64 = STAGED_BYTES_MAX / 4;

/// Runs until the term is over.
pub(super) async fn run(context: &Arc<Context>, replica: &Arc<Replica>) {
    PASSES.run(replica, || Box::pin(pass(context, replica))).await;
}

/// Whether there may be more. The error is for people.
async fn pass(context: &Arc<Context>, replica: &Arc<Replica>) -> Result<bool, String> {
    if !has_rows(replica, tag::STAGED) {
        return Ok(false);
    }
    let stay = i64::try_from(context.pace.stage_for.as_nanos()).unwrap_or(i64::MAX);
    let now_ns = context.clock.now_ns();
    let (mut slices, waiting) = look(replica, now_ns.saturating_sub(stay))?;
    if slices.is_empty() && waiting > MUCH {
        (slices, _) = look(replica, now_ns)?;
    }
    if slices.is_empty() {
        return Ok(false);
    }
    let full = slices.len() == STEP as usize;
    let data = context.systems.data(replica.fs()).await.map_err(|error| error.to_string())?;
    let puts = slices
        .into_iter()
        .map(async |Staged { slice, content }| data.put(slice, content).await.map(|()| slice));
    let put: Vec<_> = futures::stream::iter(puts).buffer_unordered(PARALLEL).collect().await;
    let failed: Option<FsError> = put.iter().find_map(|put| put.as_ref().err().copied());
    let slices: Vec<_> = put.into_iter().flatten().collect();
    if !slices.is_empty() {
        context.metrics.slices_stored.increment(slices.len() as u64);
        let request = server_request(now_ns, Op::Stored { slices });
        let done = replica.change(&request).await.map_err(|error| error.to_string())?;
        done.map_err(|error| error.to_string())?;
    }
    failed.map_or(Ok(full), |error| Err(error.to_string()))
}

/// Slices that wait since before a time, and bytes of all that wait.
fn look(replica: &Replica, before_ns: i64) -> Result<(Vec<Staged>, u64), String> {
    match replica.look_as_server(Query::StagedSlices { before_ns, limit: STEP }) {
        Ok(Answer::StagedSlices { slices, waiting }) => Ok((slices, waiting)),
        other => Err(format!("{other:?}")),
    }
}
