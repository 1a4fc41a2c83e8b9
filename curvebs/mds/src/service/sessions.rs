//! Requests about sessions.

use std::time::Duration;

use curve_proto::MdsError;
use curve_proto::pb::mds as pb;
use curve_proto::pb::mds::mds_response::Result as Answer;
use curve_proto::pb::mds_state as state;
use curve_proto::pb::mds_state::{SessionRow, VolumeRow};
use curve_types::Epoch;
use tokio::time::Instant;

use crate::keys;
use crate::lease::{self, FenceProgress};
use crate::namespace::{path_of, volume_message};
use crate::rows::{cluster, get};
use crate::service::{Call, store_failed};

/// How long one request waits for fences. Shorter than the time after which a caller tries another MDS.
const FENCE_WAIT: Duration = Duration::from_millis(1500);
/// Left for the answer.
const ANSWER_TIME: Duration = Duration::from_millis(100);
const FENCE_RETRY: Duration = Duration::from_millis(100);

/// Opens a volume, and answers only when every copyset of it refuses whoever was shut out.
pub(super) async fn open(call: Call<'_>, op: pb::Open) -> Result<Answer, MdsError> {
    if op.client == 0 {
        return Err(MdsError::BadRequest { why: "a session needs a client id other than 0".into() });
    }
    let client = op.client;
    let lapsed = if op.volume == 0 { call.lapsed_at(&op.path)? } else { call.lapsed_of(op.volume)? };
    // A copy of the request that arrives late gets the first answer, and does not open the volume again.
    let answer = call.mutate(state::command::Op::Open(state::Open { open: Some(op), lapsed })).await?;
    let Answer::Opened(mut opened) = answer else { return Ok(answer) };
    let id = opened.volume.as_ref().expect("an open is answered with its volume").id;
    touch(call, id, client);
    fence(call, id).await?;
    // The volume may have grown, or the session been displaced, while the copysets were asked.
    let rows = call.shared.rows();
    let volume = get::<VolumeRow>(rows, &keys::volume(id)).map_err(store_failed)?;
    let session = get::<SessionRow>(rows, &keys::session(id, client)).map_err(store_failed)?;
    let (Some(volume), Some(session)) = (volume, session) else {
        return Err(MdsError::NotHeld { what: format!("volume {id}") });
    };
    opened.epoch = session.epoch;
    opened.volume = Some(volume_message(&cluster(rows)?, &volume));
    opened.lease_ms = call.shared.config.lease.0.as_millis() as u64;
    touch(call, id, client);
    Ok(Answer::Opened(opened))
}

fn touch(call: Call<'_>, volume: u64, client: u64) {
    call.shared.memory.with(call.term, |memory| memory.refreshed.insert((volume, client), Instant::now()));
}

/// Waits a moment until every copyset of a volume refuses whoever was shut out of it.
pub(super) async fn fence(call: Call<'_>, id: u64) -> Result<(), MdsError> {
    let rows = call.shared.rows();
    let Some(volume) = get::<VolumeRow>(rows, &keys::volume(id)).map_err(store_failed)? else {
        return Err(MdsError::NotFound { what: format!("volume {id}") });
    };
    if volume.fenced_epoch >= volume.epoch {
        return Ok(());
    }
    let until = (Instant::now() + FENCE_WAIT).min(call.until - ANSWER_TIME);
    let fenced = call.shared.fencer.fence(rows, id, volume.epoch, until).await;
    match fenced.map_err(store_failed)? {
        FenceProgress::Done => {
            tracing::info!(volume = id, epoch = volume.epoch, "former holders are shut out");
            let fenced = state::Fenced { volume: id, epoch: volume.epoch };
            call.command(state::command::Op::Fenced(fenced)).await?;
            Ok(())
        }
        FenceProgress::Waiting(why) => {
            let why = format!("shutting former holders out of {}: {why}", path_of(&volume));
            Err(MdsError::InProgress { why, retry_after: FENCE_RETRY })
        }
    }
}

/// Ends sessions, and answers only when every copyset of the volume refuses their holders.
pub(super) async fn break_sessions(call: Call<'_>, op: pb::BreakSessions) -> Result<Answer, MdsError> {
    let answer = call.command(state::command::Op::BreakSessions(op)).await?;
    let Answer::Volume(volume) = answer else { return Ok(answer) };
    fence(call, volume.id).await?;
    Ok(Answer::Done(pb::Empty {}))
}

/// Keeps sessions alive.
pub(super) fn refresh(call: Call<'_>, op: pb::Refresh) -> Result<Answer, MdsError> {
    let mut sessions = Vec::with_capacity(op.sessions.len());
    for session in op.sessions {
        let outcome = match refresh_one(call, &session) {
            Ok(volume) => pb::SessionState { session: Some(session), volume: Some(volume), error: None },
            Err(error @ MdsError::NotLeader { .. }) => return Err(error),
            Err(error) => {
                pb::SessionState { session: Some(session), volume: None, error: Some((&error).into()) }
            }
        };
        sessions.push(outcome);
    }
    let lease_ms = call.shared.config.lease.0.as_millis() as u64;
    Ok(Answer::Refreshed(pb::Refreshed { sessions, lease_ms }))
}

fn refresh_one(call: Call<'_>, key: &pb::SessionKey) -> Result<pb::Volume, MdsError> {
    let rows = call.shared.rows();
    let Some(volume) = get::<VolumeRow>(rows, &keys::volume(key.volume)).map_err(store_failed)? else {
        return Err(MdsError::NotFound { what: format!("volume {}", key.volume) });
    };
    let session = lease::session(rows, key.volume, key.client, key.epoch).map_err(store_failed)?;
    if session.is_none() {
        return Err(if key.epoch < volume.epoch {
            MdsError::Fenced { held: Epoch(volume.epoch) }
        } else {
            MdsError::NotHeld { what: path_of(&volume) }
        });
    }
    touch(call, key.volume, key.client);
    Ok(volume_message(&cluster(rows)?, &volume))
}
