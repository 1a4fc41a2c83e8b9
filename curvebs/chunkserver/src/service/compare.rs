//! COMPARE AND WRITE: a range is written if it holds what the client expects, and nothing else changes it in between,
//! whichever gateway the others come through.
//!
//! # Where it is decided
//!
//! The leader of the copyset reads the blocks, verified against their checksums (and healed from another replica if they
//! are damaged), compares, and proposes what came of it: a write of whole blocks, or a *miscompare*, which changes nothing
//! but says where the first difference was. Both carry the term in which the blocks were read. The state machine decides
//! when it applies, from the log alone and so alike on every replica:
//!
//! - Between the read and the apply nothing else changed the blocks. In the same term that is so because this leader, the
//!   only one that can propose, holds them exclusively until the fate of the operation is known; in another term the
//!   operation is refused (`AnotherTerm`), changes nothing, and the leader of that term compares again. This is the scheme
//!   of [`merge`], which merges parts of blocks.
//! - The fence is judged as for every write. A fence or the deletion of the volume that came in between refuses it.
//! - A repeat gets the first result: both kinds are remembered by client and sequence, the miscompare with its offset.
//!   The new leader's comparison of a repeat may well come out differently, since the first try may have written; it is
//!   logged and then answered from what is remembered.
//!
//! # What was rejected
//!
//! To log the expected bytes and compare when applying. A replica's chunks may be ahead of its state after a crash, so a
//! replay would compare with what was written later; and a replica whose block is damaged could not compare, while the
//! others could. To guard against both by a version of each block in the log costs a version of each block on disk.
//!
//! # Limits
//!
//! A comparison lies within one chunk, is at most [`COMPARE_BYTES_MAX`] long and therefore one operation of the log. One
//! that crosses a chunk would need two copysets to decide together; the client refuses it.

use std::sync::Arc;

use bytes::Bytes;
use curve_chunkstore::block_crc;
use curve_io::Message;
use curve_proto::ChunkError;
use curve_proto::pb::data::CompareAndWriteRequest;
use curve_types::{COMPARE_BYTES_MAX, ChunkKey, ClientId, Epoch, Sequence, Term, VolumeId};

use super::ServiceState;
use super::call::{Answer, Call, bad_request, decode};
use super::change::{PART_BYTES_MAX, Part, Requester, answer};
use super::inflight::InflightPermit;
use super::merge::{self, Change, Unmerged};
use super::write::{Checked, admit, check_crcs, check_sectors};
use crate::copyset::{Action, Mutation};

const _: () = assert!(COMPARE_BYTES_MAX + 2 * 4096 <= PART_BYTES_MAX, "one operation of the log");

/// Serves a comparison.
pub fn serve(request: Message, call: Call) {
    match check(&call.state, request) {
        Err(error) => call.finish(Err(error)),
        Ok((write, expected, permit)) => call.spawn(async move {
            let outcome = run(&write, &expected).await;
            drop(permit);
            outcome
        }),
    }
}

async fn run(write: &Checked, expected: &Bytes) -> Result<Answer, ChunkError> {
    let outcome = merge::decide(write, Change::Compared { expected }).await?;
    answer(outcome, write.payload.len() as u64)
}

/// What is to be logged: the write of whole blocks, or that and where they differ.
pub async fn compare(write: &Checked, expected: &Bytes, term: Term) -> Result<Vec<Part>, Unmerged> {
    let blocks = merge::blocks_touched(write);
    let mut bytes = merge::read_blocks(write, blocks.clone()).await?;
    let from = (write.offset - blocks.start) as usize;
    let stored = &mut bytes[from..from + expected.len()];
    let logged = |action| {
        let mutation = write.requester.mutation(write.key, blocks.start, blocks.end - blocks.start, action);
        Mutation { read_in: Some(term), ..mutation }
    };
    if let Some(at) = stored.iter().zip(expected).position(|(stored, expected)| stored != expected) {
        let mutation = logged(Action::Miscompare { at: at as u32 });
        return Ok(vec![Part { mutation, payload: Vec::new(), crcs: Vec::new() }]);
    }
    stored.copy_from_slice(&write.payload);
    let block = write.replica.geometry().block_bytes() as usize;
    let crcs = bytes.chunks(block).map(block_crc).collect();
    Ok(vec![Part { mutation: logged(Action::Write), payload: vec![bytes.freeze()], crcs }])
}

/// Everything that can be said about a comparison before it costs anything. The expected bytes come first.
fn check(state: &ServiceState, request: Message) -> Result<(Checked, Bytes, InflightPermit), ChunkError> {
    let r: CompareAndWriteRequest = decode(&request)?;
    let replica: Arc<_> = state.replica(r.copyset)?;
    let mut expected = Bytes::from(request.payload.concat());
    if expected.len() > 2 * COMPARE_BYTES_MAX as usize || !expected.len().is_multiple_of(2) {
        return Err(bad_request(format!("a comparison has two halves of at most {COMPARE_BYTES_MAX} bytes")));
    }
    let payload = expected.split_off(expected.len() / 2);
    check_sectors(r.offset, payload.len() as u64, state.geometry)?;
    let key = ChunkKey { volume: VolumeId(r.volume), index: r.chunk };
    let requester = Requester {
        epoch: Epoch(r.epoch),
        client: ClientId(r.client),
        sequence: Sequence(r.sequence),
        answered_below: Sequence(r.answered_below),
    };
    requester.check_fence(&replica, key.volume)?;
    let permit = state.enter(2 * payload.len())?;
    check_crcs(state, r.offset, &expected, &r.expected_crcs)?;
    check_crcs(state, r.offset, &payload, &r.crcs)?;
    admit(&replica, key, r.offset, payload.len() as u32)?;
    let write = Checked { replica, key, requester, offset: r.offset, payload, crcs: r.crcs };
    Ok((write, expected, permit))
}
