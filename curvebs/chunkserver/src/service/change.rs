//! How a change enters the log and how its fate becomes an answer.

use std::sync::Arc;

use bytes::Bytes;
use curve_io::Message;
use curve_multiraft::{Group, Op, ProposeError, Proposed};
use curve_proto::ChunkError;
use curve_proto::pb::data::{ChunkReply, DeleteVolumeRequest, FenceRequest};
use curve_types::{ChunkKey, ClientId, Epoch, HOLDERS_MAX, Sequence, VolumeId};
use futures::future::join_all;

use super::call::{Answer, Call, bad_request, decode, group, not_leader, stopped};
use crate::copyset::{Action, BlockPermit, CopysetOp, Mutation, Outcome, Replica, encode_kept};

/// The largest payload of one operation in the log; a larger change becomes several that count as one.
pub const PART_BYTES_MAX: u32 = 512 << 10;

/// One operation, ready to be logged.
#[derive(Clone, Debug)]
pub struct Part {
    /// What to do.
    pub mutation: Mutation,
    /// The blocks of a write.
    pub payload: Vec<Bytes>,
    /// Their checksums.
    pub crcs: Vec<u32>,
}

impl Part {
    fn into_op(self) -> Op {
        Op { header: CopysetOp::Mutation(self.mutation).encode(&self.crcs), payload: self.payload }
    }
}

/// Who asked for a change, as it came over the wire.
#[derive(Clone, Copy, Debug)]
pub struct Requester {
    /// The opener's epoch.
    pub epoch: Epoch,
    /// The opener.
    pub client: ClientId,
    /// Its number for the request.
    pub sequence: Sequence,
    /// All smaller ones were answered.
    pub answered_below: Sequence,
}

impl Requester {
    /// A mutation of a range of whole blocks.
    pub fn mutation(&self, key: ChunkKey, offset: u32, len: u32, action: Action) -> Mutation {
        Mutation {
            key,
            epoch: self.epoch,
            client: self.client,
            sequence: self.sequence,
            answered_below: self.answered_below,
            offset,
            len,
            read_in: None,
            more: false,
            action,
        }
    }

    /// Refuses early what the state machine would refuse; final, since a fence never falls.
    pub fn check_fence(&self, replica: &Replica, volume: VolumeId) -> Result<(), ChunkError> {
        match replica.fences().refused(volume, self.client, self.epoch) {
            Some(held) => Err(ChunkError::Fenced { held }),
            None => Ok(()),
        }
    }
}

/// Takes an operation of the log apart into pieces that fit. The last piece finishes the client's operation.
pub fn split(part: Part, block_bytes: u32) -> Vec<Part> {
    if part.mutation.action != Action::Write || part.mutation.len <= PART_BYTES_MAX {
        return vec![part];
    }
    let Part { mutation, payload, crcs } = part;
    let mut rest: std::collections::VecDeque<Bytes> = payload.into();
    let mut parts = Vec::new();
    let mut done = 0;
    while done < mutation.len {
        let len = PART_BYTES_MAX.min(mutation.len - done);
        let more = mutation.more || done + len < mutation.len;
        let first = (done / block_bytes) as usize;
        let crcs = crcs[first..first + (len / block_bytes) as usize].to_vec();
        let mutation = Mutation { offset: mutation.offset + done, len, more, ..mutation };
        parts.push(Part { mutation, payload: take(&mut rest, len as usize), crcs });
        done += len;
    }
    parts
}

/// Takes `len` bytes off the front without copying them.
fn take(from: &mut std::collections::VecDeque<Bytes>, mut len: usize) -> Vec<Bytes> {
    let mut taken = Vec::new();
    while len > 0 {
        let mut piece = from.pop_front().expect("the payload is as long as the checksums say");
        if piece.len() > len {
            from.push_front(piece.split_off(len));
        }
        len -= piece.len();
        taken.push(piece);
    }
    taken
}

/// Has the operations logged and applied, in order, and says what became of them. `permit` is kept until their fate is
/// known, even if that is after the answer.
pub async fn submit(
    replica: &Arc<Replica>,
    parts: Vec<Part>,
    permit: BlockPermit,
) -> Result<Outcome, ChunkError> {
    let group = group(replica)?;
    let mut parts = parts.into_iter();
    let first = parts.next().expect("a change has at least one operation");
    let results = if parts.len() == 0 {
        vec![group.propose(first.into_op()).await]
    } else {
        join_all(std::iter::once(first).chain(parts).map(|part| group.propose(part.into_op()))).await
    };
    if results.iter().any(|result| matches!(result, Err(ProposeError::Unavailable))) {
        tokio::spawn(settle(group.clone(), permit));
    }
    results.into_iter().map(|result| outcome(replica, result)).try_fold(Outcome::Applied, |worst, one| {
        let one = one?;
        Ok(if worst == Outcome::Applied { one } else { worst })
    })
}

/// Keeps `permit` until everything proposed before is applied or can never be: an operation without an answer may
/// still be in the log, and what the permit guards must not be read before it is decided.
async fn settle(group: Group, permit: BlockPermit) {
    let term = group.status().term;
    loop {
        let marker = Op { header: CopysetOp::Marker.encode(&[]), payload: Vec::new() };
        match group.propose(marker).await {
            Err(ProposeError::Unavailable) if group.status().term == term => {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            _ => break,
        }
    }
    drop(permit);
}

fn outcome(replica: &Replica, result: Result<Proposed, ProposeError>) -> Result<Outcome, ChunkError> {
    match result {
        Ok(proposed) => {
            Ok(Outcome::decode(&proposed.result).expect("the state machine encodes its own outcomes"))
        }
        Err(ProposeError::NotLeader { hint }) => Err(not_leader(replica, hint)),
        Err(ProposeError::Unavailable) => {
            Err(ChunkError::Busy { message: "the copyset cannot commit now".into() })
        }
        Err(ProposeError::Stopped) => Err(stopped(replica)),
        Err(error @ ProposeError::TooLarge { .. }) => Err(bad_request(error.to_string())),
    }
}

/// The client's answer to a decided operation of `bytes`.
pub fn answer(outcome: Outcome, bytes: u64) -> Result<Answer, ChunkError> {
    match outcome {
        Outcome::Applied => Ok(Answer::changed(bytes)),
        Outcome::Fenced { held } => Err(ChunkError::Fenced { held }),
        Outcome::Stale => Err(bad_request("the sequence is below what the client said was answered")),
        Outcome::AnotherTerm => Err(ChunkError::Busy { message: "the leader changed meanwhile".into() }),
        Outcome::Malformed => Err(bad_request("the operation was malformed")),
        Outcome::Differs { at } => Ok(Answer {
            header: ChunkReply { differs_at: Some(at), ..ChunkReply::ok() },
            ..Answer::default()
        }),
    }
}

/// Raises the lowest epoch of a volume. Answered when it is applied here, so on a majority it is in the log.
pub fn serve_fence(request: Message, call: Call) {
    let replica = decode::<FenceRequest>(&request).and_then(|r| Ok((call.state.replica(r.copyset)?, r)));
    match replica {
        Err(error) => call.finish(Err(error)),
        Ok((replica, r)) => call.spawn(async move {
            if r.kept.len() > HOLDERS_MAX {
                return Err(bad_request(format!("a fence keeps at most {HOLDERS_MAX} holders")));
            }
            let op = CopysetOp::Fence { volume: VolumeId(r.volume), epoch: Epoch(r.epoch) };
            let kept: Vec<_> = r.kept.iter().map(|kept| (ClientId(kept.client), Epoch(kept.epoch))).collect();
            propose_plain(&replica, op, encode_kept(&kept)).await
        }),
    }
}

/// Removes a volume's chunks for good.
pub fn serve_delete_volume(request: Message, call: Call) {
    let replica =
        decode::<DeleteVolumeRequest>(&request).and_then(|r| Ok((call.state.replica(r.copyset)?, r)));
    match replica {
        Err(error) => call.finish(Err(error)),
        Ok((replica, r)) => call.spawn(async move {
            propose_plain(&replica, CopysetOp::DeleteVolume { volume: VolumeId(r.volume) }, Bytes::new())
                .await
        }),
    }
}

async fn propose_plain(replica: &Replica, op: CopysetOp, payload: Bytes) -> Result<Answer, ChunkError> {
    let payload = if payload.is_empty() { Vec::new() } else { vec![payload] };
    let result = group(replica)?.propose(Op { header: op.encode(&[]), payload }).await;
    answer(outcome(replica, result)?, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_write_becomes_parts_that_finish_with_the_last() {
        let requester = Requester {
            epoch: Epoch(1),
            client: ClientId(2),
            sequence: Sequence(3),
            answered_below: Sequence(1),
        };
        let key = ChunkKey { volume: VolumeId(1), index: 0 };
        let len = 2 * PART_BYTES_MAX + 4096;
        let whole: Bytes = (0..len).map(|i| (i / 4096) as u8).collect::<Vec<_>>().into();
        let crcs: Vec<u32> = (0..len / 4096).collect();
        let mutation = requester.mutation(key, 8192, len, Action::Write);
        // The payload's own cuts have nothing to do with where the parts are cut.
        let payload = vec![whole.slice(..4096), whole.slice(4096..)];
        let parts = split(Part { mutation, payload, crcs }, 4096);
        assert_eq!(parts.iter().map(|p| p.mutation.more).collect::<Vec<_>>(), [true, true, false]);
        assert_eq!(parts[1].mutation.offset, 8192 + PART_BYTES_MAX);
        assert_eq!(parts[2].crcs, [len / 4096 - 1]);
        let bytes: Vec<u8> = parts.iter().flat_map(|p| p.payload.concat()).collect();
        assert_eq!(bytes, whole);
    }
}
