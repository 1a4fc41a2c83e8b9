//! Block status: which parts of a range hold data.

use curve_chunkstore::ReadError;
use curve_io::Message;
use curve_proto::ChunkError;
use curve_proto::pb::data::{BlockStatusRequest, ChunkReply, Extent};
use curve_types::{ChunkKey, ClientId, Epoch, VolumeId};

use super::call::{Answer, Call, bad_request, decode, may_read, stopped};
use crate::copyset::check_range;

/// Extents in one reply, so that it fits a frame's header. What is after them is reported as allocated, which is
/// always a correct answer.
const EXTENTS_MAX: usize = 4096;

/// Serves a block status request.
pub fn serve(request: Message, call: Call) {
    let checked = decode::<BlockStatusRequest>(&request).and_then(|r| {
        check_range(r.offset, r.len, call.state.geometry).map_err(|error| bad_request(error.to_string()))?;
        Ok((call.state.replica(r.copyset)?, r))
    });
    match checked {
        Err(error) => call.finish(Err(error)),
        Ok((replica, r)) => call.run(async move {
            let key = ChunkKey { volume: VolumeId(r.volume), index: r.chunk };
            may_read(&replica, key.volume, ClientId(r.client), Epoch(r.epoch)).await?;
            match replica.store().extents(key, r.offset, r.len).await {
                Ok(extents) => {
                    let extents = bounded(extents, r.len);
                    Ok(Answer { header: ChunkReply { extents, ..ChunkReply::ok() }, ..Answer::default() })
                }
                Err(ReadError::BadRange(error)) => Err(bad_request(error.to_string())),
                Err(ReadError::Corrupt { key, .. }) => {
                    Err(ChunkError::Corrupt { message: format!("the table of {key} is damaged") })
                }
                Err(ReadError::Io(_)) => Err(stopped(&replica)),
            }
        }),
    }
}

fn bounded(extents: Vec<curve_chunkstore::Extent>, len: u32) -> Vec<Extent> {
    let mut out: Vec<Extent> = extents
        .into_iter()
        .take(EXTENTS_MAX)
        .map(|e| Extent { len: e.len, allocated: e.allocated })
        .collect();
    let covered: u32 = out.iter().map(|e| e.len).sum();
    if covered < len {
        out.push(Extent { len: len - covered, allocated: true });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_ends_as_allocated() {
        let many: Vec<_> =
            (0..5000u32).map(|i| curve_chunkstore::Extent { len: 4096, allocated: i % 2 == 0 }).collect();
        let out = bounded(many, 5000 * 4096);
        assert_eq!(out.len(), EXTENTS_MAX + 1);
        assert_eq!(out.iter().map(|e| e.len).sum::<u32>(), 5000 * 4096);
        assert!(out.last().unwrap().allocated);
    }
}
