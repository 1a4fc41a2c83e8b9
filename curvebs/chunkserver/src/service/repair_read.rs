//! Reads between replicas, to heal bad blocks.

use curve_chunkstore::ReadError;
use curve_io::Message;
use curve_proto::ChunkError;
use curve_proto::pb::data::RepairReadRequest;
use curve_types::{ChunkKey, FRAME_PAYLOAD_BYTES_MAX, VolumeId};

use super::call::{Call, bad_request, decode, group, stopped};
use super::read::answer;
use crate::copyset::check_range;

/// Serves this replica's own copy, whoever leads. The asker judges by `applied` whether it is new enough; a copy that
/// is damaged here is never given on.
pub fn serve(request: Message, call: Call) {
    let checked = decode::<RepairReadRequest>(&request).and_then(|r| {
        check_range(r.offset, r.len, call.state.geometry).map_err(|error| bad_request(error.to_string()))?;
        if r.len as usize > FRAME_PAYLOAD_BYTES_MAX {
            return Err(bad_request(format!("{} bytes do not fit one reply", r.len)));
        }
        Ok((call.state.replica(r.copyset)?, call.state.enter(r.len as usize)?, r))
    });
    match checked {
        Err(error) => call.finish(Err(error)),
        Ok((replica, permit, r)) => call.spawn(async move {
            let key = ChunkKey { volume: VolumeId(r.volume), index: r.chunk };
            // Noted before the read, so that the copy holds at least this.
            let applied = group(&replica)?.status().applied;
            let read = replica.store().read(key, r.offset, r.len).await;
            drop(permit);
            match read {
                Ok(data) => {
                    let mut answer = answer(data, u64::from(r.len));
                    answer.header.applied = applied.get();
                    Ok(answer)
                }
                Err(ReadError::Corrupt { bad, .. }) => {
                    Err(ChunkError::Corrupt { message: format!("{} blocks are damaged here too", bad.len()) })
                }
                Err(ReadError::BadRange(error)) => Err(bad_request(error.to_string())),
                Err(ReadError::Io(_)) => Err(stopped(&replica)),
            }
        }),
    }
}
