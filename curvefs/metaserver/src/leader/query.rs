//! A question to a partition.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use curve_types::FRAME_PAYLOAD_BYTES_MAX;
use curvefs_proto::{Outcome, Refusal, outcome_bytes};
use curvefs_types::limits::ENTRIES_PER_PAGE_MAX;
use curvefs_types::{Answer, Ask, FsError, Query};
use tokio::time::{Instant, timeout};

use super::change::{BUSY_PATIENCE, as_busy};
use super::recall;
use crate::context::Context;
use crate::replica::{Replica, read_refusal};

/// How long the bell is waited for that says that something is free.
const PAUSE: Duration = Duration::from_millis(20);

/// Answers a server at once, `Busy` included: whoever asks may hold locks, and nobody waits while holding one.
pub async fn peer_query(context: &Context, replica: &Replica, ask: &Ask) -> Result<Outcome<Answer>, Refusal> {
    let barrier = replica.barrier().await;
    barrier.map_err(|error| read_refusal(error, |node| context.address(node)))?;
    let answer = replica.look(ask);
    recall::note(context, replica, answer.as_ref().err().copied());
    Ok(answer.map_err(as_busy))
}

/// Answers a mount from this replica's rows, which have everything that was acknowledged. What a transaction or another mount
/// holds is waited for: it may be about to change, and the change may have been seen elsewhere.
pub async fn query(context: &Arc<Context>, replica: &Arc<Replica>, mut ask: Ask) -> Result<Bytes, Refusal> {
    if matches!(ask.query, Query::Recalls { .. }) {
        return recall::poll(context, replica, ask).await;
    }
    let mut waiting = None;
    loop {
        let barrier = replica.barrier().await;
        barrier.map_err(|error| read_refusal(error, |node| context.address(node)))?;
        let answer = replica.look(&ask);
        recall::note(context, replica, answer.as_ref().err().copied());
        let answer = answer.map_err(as_busy);
        if answer != Err(FsError::Busy) {
            let bytes = outcome_bytes(&answer);
            if bytes.len() > FRAME_PAYLOAD_BYTES_MAX && is_halved(&mut ask) {
                continue;
            }
            return Ok(bytes);
        }
        let (until, freed) = waiting
            .get_or_insert_with(|| (Instant::now() + BUSY_PATIENCE, replica.bells().freed.subscribe()));
        if Instant::now() >= *until {
            return Ok(outcome_bytes(&answer));
        }
        context.metrics.waits.increment(1);
        // The bell cannot end, since the replica has it; without it we look again anyway.
        let _ = timeout(PAUSE, freed.changed()).await;
    }
}

/// A page of long names may be more than a frame: half as many are asked for then, and the mount asks for the rest.
fn is_halved(ask: &mut Ask) -> bool {
    let Query::ReadDir { limit, .. } = &mut ask.query else { return false };
    *limit = (*limit).min(ENTRIES_PER_PAGE_MAX) / 2;
    *limit > 0
}
