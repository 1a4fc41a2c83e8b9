//! Discards and the deletion of whole chunks.

use std::sync::Arc;

use curve_io::Message;
use curve_proto::ChunkError;
use curve_proto::pb::data::{DeleteChunksRequest, DiscardRequest};
use curve_types::{ChunkKey, ClientId, Epoch, Sequence, VolumeId};

use super::call::{Answer, Call, bad_request, decode};
use super::change::{Part, Requester, answer, submit};
use crate::copyset::{Action, Mutation, Replica, check_range};

/// Chunks in one deletion.
const CHUNKS_MAX: usize = 4096;

/// Serves a discard of whole blocks.
pub fn serve(request: Message, call: Call) {
    let checked = decode::<DiscardRequest>(&request).and_then(|r| {
        check_range(r.offset, r.len, call.state.geometry).map_err(|error| bad_request(error.to_string()))?;
        let requester = Requester {
            epoch: Epoch(r.epoch),
            client: ClientId(r.client),
            sequence: Sequence(r.sequence),
            answered_below: Sequence(r.answered_below),
        };
        let replica = call.state.replica(r.copyset)?;
        requester.check_fence(&replica, VolumeId(r.volume))?;
        Ok((replica, requester, r))
    });
    match checked {
        Err(error) => call.finish(Err(error)),
        Ok((replica, requester, r)) => call.spawn(async move {
            let key = ChunkKey { volume: VolumeId(r.volume), index: r.chunk };
            change_blocks(&replica, requester.mutation(key, r.offset, r.len, Action::Discard)).await
        }),
    }
}

/// A change of whole blocks without payload.
pub async fn change_blocks(replica: &Arc<Replica>, mutation: Mutation) -> Result<Answer, ChunkError> {
    let bytes = mutation.offset..mutation.offset + mutation.len;
    let permit = replica.guards().lock(mutation.key, bytes).await;
    let part = Part { mutation, payload: Vec::new(), crcs: Vec::new() };
    answer(submit(replica, vec![part], permit).await?, u64::from(mutation.len))
}

/// Serves the deletion of whole chunks.
pub fn serve_delete_chunks(request: Message, call: Call) {
    let checked = decode::<DeleteChunksRequest>(&request).and_then(|r| {
        if r.chunks.is_empty() || r.chunks.len() > CHUNKS_MAX {
            return Err(bad_request(format!(
                "a deletion names 1 to {CHUNKS_MAX} chunks, not {}",
                r.chunks.len()
            )));
        }
        let requester = Requester {
            epoch: Epoch(r.epoch),
            client: ClientId(r.client),
            sequence: Sequence(r.sequence),
            answered_below: Sequence(r.answered_below),
        };
        let replica = call.state.replica(r.copyset)?;
        requester.check_fence(&replica, VolumeId(r.volume))?;
        Ok((replica, requester, r))
    });
    match checked {
        Err(error) => call.finish(Err(error)),
        Ok((replica, requester, r)) => call.spawn(async move { delete_chunks(&replica, requester, r).await }),
    }
}

/// One chunk after the other; the last one finishes the client's operation.
async fn delete_chunks(
    replica: &Arc<Replica>,
    requester: Requester,
    r: DeleteChunksRequest,
) -> Result<Answer, ChunkError> {
    let chunk_bytes = replica.geometry().chunk_bytes();
    let last = r.chunks.len() - 1;
    for (i, index) in r.chunks.iter().enumerate() {
        let key = ChunkKey { volume: VolumeId(r.volume), index: *index };
        let whole = requester.mutation(key, 0, chunk_bytes, Action::Discard);
        change_blocks(replica, Mutation { more: i < last, ..whole }).await?;
    }
    Ok(Answer::changed(0))
}
