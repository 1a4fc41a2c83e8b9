//! Deletes from the store what is in no file any more, after a while.

use std::sync::Arc;
use std::time::Duration;

use curvefs_meta::server_request;
use curvefs_types::keys::tag;
use curvefs_types::{Answer, FsError, Op, Query, SliceRef};
use futures::future::join_all;

use super::passes::Passes;
use super::settle::has_rows;
use crate::context::Context;
use crate::replica::Replica;

const PASSES: Passes = Passes {
    every: Duration::from_secs(2),
    pause_max: Duration::from_secs(60),
    waits: "data waits to be deleted",
};
/// Slices of one pass.
const STEP: u32 = 1024;
/// Deletions under way.
const PARALLEL: usize = 4;

/// Runs until the term is over.
pub(super) async fn run(context: &Arc<Context>, replica: &Arc<Replica>) {
    PASSES.run(replica, || Box::pin(pass(context, replica))).await;
}

/// Whether there may be more. The error is for people.
async fn pass(context: &Arc<Context>, replica: &Arc<Replica>) -> Result<bool, String> {
    if !has_rows(replica, tag::GARBAGE) {
        return Ok(false);
    }
    let grace = i64::try_from(context.pace.garbage_grace.as_nanos()).unwrap_or(i64::MAX);
    let before_ns = context.clock.now_ns().saturating_sub(grace);
    let slices = match replica.look_as_server(Query::Garbage { before_ns, limit: STEP }) {
        Ok(Answer::Garbage { slices }) => slices,
        other => return Err(format!("{other:?}")),
    };
    if slices.is_empty() {
        return Ok(false);
    }
    let full = slices.len() == STEP as usize;
    let data = context.systems.data(replica.fs()).await.map_err(|error| error.to_string())?;
    let groups = slices.chunks(slices.len().div_ceil(PARALLEL));
    let deleted = join_all(groups.map(async |group| {
        let refs: Vec<SliceRef> = group.iter().map(|freed| freed.slice).collect();
        data.delete(refs).await.map(|()| group.to_vec())
    }))
    .await;
    let failed: Option<FsError> = deleted.iter().find_map(|deleted| deleted.as_ref().err().copied());
    let gone: Vec<_> = deleted.into_iter().flatten().flatten().collect();
    if !gone.is_empty() {
        context.metrics.slices_deleted.increment(gone.len() as u64);
        let request = server_request(context.clock.now_ns(), Op::Reclaimed { slices: gone });
        replica
            .change(&request)
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
    }
    failed.map_or(Ok(full), |error| Err(error.to_string()))
}
