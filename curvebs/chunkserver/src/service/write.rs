//! Writes.

use std::sync::Arc;

use bytes::Bytes;
use curve_chunkstore::block_crc;
use curve_io::Message;
use curve_proto::ChunkError;
use curve_proto::pb::data::WriteRequest;
use curve_types::{ChunkKey, ClientId, Epoch, Geometry, SECTOR_BYTES, Sequence, VolumeId};

use super::ServiceState;
use super::call::{Call, bad_request, decode};
use super::change::{Part, Requester, answer, split, submit};
use super::inflight::InflightPermit;
use super::merge;
use crate::copyset::{Action, Replica};

/// A write that passed all checks.
pub struct Checked {
    /// Where.
    pub replica: Arc<Replica>,
    /// Which chunk.
    pub key: ChunkKey,
    /// Who.
    pub requester: Requester,
    /// First byte in the chunk; a multiple of a sector.
    pub offset: u32,
    /// The bytes; a multiple of a sector.
    pub payload: Bytes,
    /// CRC of the payload's bytes in each block touched.
    pub crcs: Vec<u32>,
}

/// Serves a write.
pub fn serve(request: Message, call: Call) {
    match check(&call.state, request) {
        Err(error) => call.finish(Err(error)),
        Ok((write, permit)) => call.spawn(async move {
            let outcome = run(write).await;
            drop(permit);
            outcome
        }),
    }
}

async fn run(write: Checked) -> Result<super::call::Answer, ChunkError> {
    let geometry = write.replica.geometry();
    let (block, len) = (geometry.block_bytes(), write.payload.len() as u32);
    if !write.offset.is_multiple_of(block) || !len.is_multiple_of(block) {
        return answer(merge::write(&write, false).await?, u64::from(len));
    }
    let Checked { replica, key, requester, offset, payload, crcs } = write;
    let permit = match replica.guards().try_plain() {
        Some(permit) => permit,
        None => replica.guards().lock(key, offset..offset + len).await,
    };
    let mutation = requester.mutation(key, offset, len, Action::Write);
    let parts = split(Part { mutation, payload: vec![payload], crcs }, block);
    answer(submit(&replica, parts, permit).await?, u64::from(len))
}

/// Everything that can be said about a write before it costs anything.
fn check(state: &ServiceState, request: Message) -> Result<(Checked, InflightPermit), ChunkError> {
    let r: WriteRequest = decode(&request)?;
    let replica = state.replica(r.copyset)?;
    let payload = match request.payload.len() {
        0 => Bytes::new(),
        1 => request.payload.into_iter().next().expect("one part"),
        _ => request.payload.concat().into(),
    };
    check_sectors(r.offset, payload.len() as u64, state.geometry)?;
    let key = ChunkKey { volume: VolumeId(r.volume), index: r.chunk };
    let requester = Requester {
        epoch: Epoch(r.epoch),
        client: ClientId(r.client),
        sequence: Sequence(r.sequence),
        answered_below: Sequence(r.answered_below),
    };
    requester.check_fence(&replica, key.volume)?;
    let permit = state.enter(payload.len())?;
    check_crcs(state, r.offset, &payload, &r.crcs)?;
    admit(&replica, key, r.offset, payload.len() as u32)?;
    Ok((Checked { replica, key, requester, offset: r.offset, payload, crcs: r.crcs }, permit))
}

/// Accepts a range of at least one whole sector inside a chunk.
pub fn check_sectors(offset: u32, len: u64, geometry: Geometry) -> Result<(), ChunkError> {
    let aligned =
        u64::from(offset).is_multiple_of(SECTOR_BYTES) && len.is_multiple_of(SECTOR_BYTES) && len > 0;
    if aligned && u64::from(offset) + len <= u64::from(geometry.chunk_bytes()) {
        return Ok(());
    }
    Err(bad_request(format!("range {offset}+{len} is not made of whole sectors of a chunk")))
}

/// Compares the payload with the checksums that the client made of it, so that what was damaged on the way never
/// enters the log.
pub fn check_crcs(
    state: &ServiceState,
    offset: u32,
    payload: &Bytes,
    crcs: &[u32],
) -> Result<(), ChunkError> {
    let block = state.geometry.block_bytes() as usize;
    let first_len = block - offset as usize % block;
    let (first, rest) = payload.split_at(first_len.min(payload.len()));
    let blocks = std::iter::once(first).chain(rest.chunks(block));
    let count = 1 + rest.len().div_ceil(block);
    if crcs.len() != count {
        return Err(bad_request(format!("{} checksums for {count} blocks", crcs.len())));
    }
    match blocks.zip(crcs).position(|(bytes, crc)| block_crc(bytes) != *crc) {
        None => Ok(()),
        Some(at) => {
            state.metrics.damaged_in_flight.increment(1);
            let message = format!("block {at} of the payload was damaged on its way to the chunkserver");
            Err(ChunkError::Corrupt { message })
        }
    }
}

/// Refuses what would need new room when only the reserve is left.
pub fn admit(replica: &Replica, key: ChunkKey, offset: u32, len: u32) -> Result<(), ChunkError> {
    let block = replica.geometry().block_bytes();
    let start = offset - offset % block;
    let end = (offset + len).next_multiple_of(block);
    replica.store().admit(key, start, end - start).map_err(|_| ChunkError::NoSpace)
}
