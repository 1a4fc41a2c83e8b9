//! Zeroing of ranges.

use std::sync::Arc;

use bytes::Bytes;
use curve_chunkstore::block_crc;
use curve_io::Message;
use curve_proto::ChunkError;
use curve_proto::pb::data::WriteZeroesRequest;
use curve_types::{BLOCK_BYTES, ChunkKey, ClientId, Epoch, Sequence, VolumeId};

use super::call::{Answer, Call, decode};
use super::change::{Requester, answer};
use super::discard::change_blocks;
use super::merge;
use super::write::{Checked, admit, check_sectors};
use crate::copyset::{Action, Mutation, Outcome, Replica};

static ZEROS: [u8; BLOCK_BYTES as usize] = [0; BLOCK_BYTES as usize];

/// Serves zeroing. Whole blocks become holes, or allocated zeros; the parts of blocks at the ends are written.
pub fn serve(request: Message, call: Call) {
    let checked = decode::<WriteZeroesRequest>(&request).and_then(|r| {
        check_sectors(r.offset, u64::from(r.len), call.state.geometry)?;
        let requester = Requester {
            epoch: Epoch(r.epoch),
            client: ClientId(r.client),
            sequence: Sequence(r.sequence),
            answered_below: Sequence(r.answered_below),
        };
        let replica = call.state.replica(r.copyset)?;
        let key = ChunkKey { volume: VolumeId(r.volume), index: r.chunk };
        requester.check_fence(&replica, key.volume)?;
        let block = call.state.geometry.block_bytes();
        if r.keep_allocated || !r.offset.is_multiple_of(block) || !r.len.is_multiple_of(block) {
            admit(&replica, key, r.offset, r.len)?;
        }
        Ok((replica, requester, key, r))
    });
    match checked {
        Err(error) => call.finish(Err(error)),
        Ok((replica, requester, key, r)) => {
            call.spawn(async move { run(&replica, requester, key, &r).await });
        }
    }
}

async fn run(
    replica: &Arc<Replica>,
    requester: Requester,
    key: ChunkKey,
    r: &WriteZeroesRequest,
) -> Result<Answer, ChunkError> {
    let pieces = pieces(r.offset, r.len, replica.geometry().block_bytes());
    let last = pieces.len() - 1;
    for (i, piece) in pieces.into_iter().enumerate() {
        let more = i < last;
        match piece {
            Piece::Blocks { offset, len } => {
                let action = Action::WriteZeroes { keep_allocated: r.keep_allocated };
                change_blocks(replica, Mutation { more, ..requester.mutation(key, offset, len, action) })
                    .await?;
            }
            Piece::Sectors { offset, len } => {
                let payload = Bytes::from_static(&ZEROS).slice(..len as usize);
                let crcs = vec![block_crc(&payload)];
                let replica = replica.clone();
                let write = Checked { replica, key, requester, offset, payload, crcs };
                match merge::write(&write, more).await? {
                    Outcome::Applied => {}
                    refused => return answer(refused, 0),
                }
            }
        }
    }
    Ok(Answer::changed(u64::from(r.len)))
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Piece {
    Blocks { offset: u32, len: u32 },
    Sectors { offset: u32, len: u32 },
}

/// Cuts a range of sectors into the part of a block before, the whole blocks, and the part of a block after.
fn pieces(offset: u32, len: u32, block: u32) -> Vec<Piece> {
    let end = offset + len;
    let first = offset.next_multiple_of(block);
    let last = end - end % block;
    if first > last {
        return vec![Piece::Sectors { offset, len }];
    }
    let mut pieces = Vec::with_capacity(3);
    if offset < first {
        pieces.push(Piece::Sectors { offset, len: first - offset });
    }
    if first < last {
        pieces.push(Piece::Blocks { offset: first, len: last - first });
    }
    if last < end {
        pieces.push(Piece::Sectors { offset: last, len: end - last });
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::Piece::{Blocks, Sectors};
    use super::*;

    #[test]
    fn ranges_are_cut_at_block_borders() {
        assert_eq!(pieces(0, 8192, 4096), [Blocks { offset: 0, len: 8192 }]);
        assert_eq!(pieces(512, 512, 4096), [Sectors { offset: 512, len: 512 }]);
        assert_eq!(pieces(3584, 512, 4096), [Sectors { offset: 3584, len: 512 }]);
        assert_eq!(
            pieces(3584, 1024, 4096),
            [Sectors { offset: 3584, len: 512 }, Sectors { offset: 4096, len: 512 }]
        );
        assert_eq!(
            pieces(3584, 5120, 4096),
            [
                Sectors { offset: 3584, len: 512 },
                Blocks { offset: 4096, len: 4096 },
                Sectors { offset: 8192, len: 512 }
            ]
        );
    }
}
