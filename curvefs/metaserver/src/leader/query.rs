//! A question to a partition.

use std::sync::Arc;
use std::time::Duration;

use curvefs_proto::{Outcome, Refusal};
use curvefs_types::{Answer, Ask, FsError};
use tokio::time::{Instant, timeout};

use super::change::BUSY_PATIENCE;
use crate::context::Context;
use crate::replica::{Replica, read_refusal};

/// How long the bell is waited for that says that something is free.
const PAUSE: Duration = Duration::from_millis(20);

/// Answers a server at once, `Busy` included: whoever asks may hold locks, and nobody waits while holding one.
pub async fn peer_query(context: &Context, replica: &Replica, ask: &Ask) -> Result<Outcome<Answer>, Refusal> {
    let barrier = replica.barrier().await;
    barrier.map_err(|error| read_refusal(error, |node| context.address(node)))?;
    Ok(replica.look(ask))
}

/// Answers a mount from this replica's rows, which have everything that was acknowledged. What a transaction holds is waited for:
/// it may be about to change, and the change may have been seen elsewhere.
pub async fn query(
    context: &Arc<Context>,
    replica: &Arc<Replica>,
    ask: &Ask,
) -> Result<Outcome<Answer>, Refusal> {
    let mut waiting = None;
    loop {
        let barrier = replica.barrier().await;
        barrier.map_err(|error| read_refusal(error, |node| context.address(node)))?;
        let answer = replica.look(ask);
        if answer != Err(FsError::Busy) {
            return Ok(answer);
        }
        let (until, freed) = waiting
            .get_or_insert_with(|| (Instant::now() + BUSY_PATIENCE, replica.bells().freed.subscribe()));
        if Instant::now() >= *until {
            return Ok(answer);
        }
        context.metrics.waits.increment(1);
        // The bell cannot end, since the replica has it; without it we look again anyway.
        let _ = timeout(PAUSE, freed.changed()).await;
    }
}
