//! Reads.

use std::sync::Arc;

use curve_chunkstore::{HOLE, Located, ReadData, ReadError};
use curve_io::{File, Message, Pledge};
use curve_proto::ChunkError;
use curve_proto::pb::data::{ChunkReply, FilePlace, FileRun, FileSight, ReadRequest};
use curve_types::{ChunkKey, ClientId, Epoch, FRAME_PAYLOAD_BYTES_MAX, VolumeId};

use super::ServiceState;
use super::call::{Answer, Call, bad_request, decode, may_read, stopped, unless_disk_hangs};
use super::inflight::InflightPermit;
use crate::copyset::{Replica, check_range};

/// How often a read is tried again after its bad blocks were healed.
const ATTEMPTS: usize = 3;
/// A read of more runs than this is answered with its bytes: each run is a system call of the reader.
const RUNS_MAX: usize = 16;

/// Serves a read.
pub fn serve(request: Message, call: Call) {
    match check(&call.state, &request) {
        Err(error) => call.finish(Err(error)),
        Ok((read, replica, permit)) => call.run(async move {
            let outcome = unless_disk_hangs(&replica, run(&read, &replica)).await;
            drop(permit);
            outcome
        }),
    }
}

fn check(
    state: &ServiceState,
    request: &Message,
) -> Result<(ReadRequest, Arc<Replica>, InflightPermit), ChunkError> {
    let read: ReadRequest = decode(request)?;
    let replica = state.replica(read.copyset)?;
    check_range(read.offset, read.len, state.geometry).map_err(|error| bad_request(error.to_string()))?;
    if read.len as usize > FRAME_PAYLOAD_BYTES_MAX {
        return Err(bad_request(format!("{} bytes do not fit one reply", read.len)));
    }
    let permit = state.enter(read.len as usize)?;
    Ok((read, replica, permit))
}

async fn run(read: &ReadRequest, replica: &Arc<Replica>) -> Result<Answer, ChunkError> {
    let key = ChunkKey { volume: VolumeId(read.volume), index: read.chunk };
    // Before the reader's right is looked at: what is counted later may concern it.
    let changes = replica.pledge().map_or(0, Pledge::changes);
    may_read(replica, key.volume, ClientId(read.client), Epoch(read.epoch)).await?;
    if read.machine != 0
        && let Some(mut header) = locate(read, replica, key).await?
    {
        if let Some(place) = &mut header.place {
            place.sight = sight(read, replica, key, place, changes).await?;
        }
        replica.metrics().located.increment(u64::from(read.len));
        return Ok(Answer { header, payload: Vec::new(), bytes: u64::from(read.len) });
    }
    let data = read_healing(replica, key, read.offset, read.len).await?;
    Ok(answer(data, u64::from(read.len)))
}

/// Where the bytes are, for a reader on this machine; `None` when there are none, and for readers elsewhere.
async fn locate(
    read: &ReadRequest,
    replica: &Replica,
    key: ChunkKey,
) -> Result<Option<ChunkReply>, ChunkError> {
    let Some((file, runs, crcs)) = in_few_runs(replica, key, read.offset, read.len).await? else {
        return Ok(None);
    };
    let Some(place) = file.place().filter(|place| place.machine == read.machine) else { return Ok(None) };
    let path = read.path.then(|| file.path().ok()?.into_os_string().into_string().ok()).flatten();
    let place = FilePlace {
        device: place.device,
        inode: place.inode,
        runs,
        path: path.unwrap_or_default(),
        sight: None,
    };
    Ok(Some(ChunkReply { crcs, place: Some(place), ..ChunkReply::ok() }))
}

/// The file of some blocks, where they are in it, and their checksums; `None` when there are none or they are scattered.
async fn in_few_runs(
    replica: &Replica,
    key: ChunkKey,
    offset: u32,
    len: u32,
) -> Result<Option<(Arc<dyn File>, Vec<FileRun>, Vec<u32>)>, ChunkError> {
    let located = replica.store().locate(key, offset, len).await;
    let located = located.map_err(|error| failed(replica, key, error))?;
    let few = located.filter(|located| (1..=RUNS_MAX).contains(&located.runs.len()));
    Ok(few.map(|Located { file, runs, crcs }| {
        (file, runs.into_iter().map(|(offset, blocks)| FileRun { offset, blocks }).collect(), crcs)
    }))
}

/// What the reader needs to read the blocks around unasked; `None` when it did not ask for that or cannot have it.
async fn sight(
    read: &ReadRequest,
    replica: &Replica,
    key: ChunkKey,
    place: &FilePlace,
    changes: u64,
) -> Result<Option<FileSight>, ChunkError> {
    let Some(pledge) = replica.pledge().filter(|_| read.around_len > 0) else { return Ok(None) };
    check_range(read.around, read.around_len, replica.geometry())
        .map_err(|error| bad_request(error.to_string()))?;
    let board = pledge.board();
    let (Some(at), Some(path)) = (board.place(), board.path().to_str()) else { return Ok(None) };
    let Some((file, runs, crcs)) = in_few_runs(replica, key, read.around, read.around_len).await? else {
        return Ok(None);
    };
    if file.place().is_none_or(|file| (file.device, file.inode) != (place.device, place.inode)) {
        return Ok(None);
    }
    Ok(Some(FileSight {
        crcs,
        runs,
        board_device: at.device,
        board_inode: at.inode,
        board_path: path.into(),
        pledge: pledge.number(),
        changes,
    }))
}

/// Reads verified bytes; bad blocks are healed from another replica first.
async fn read_healing(
    replica: &Replica,
    key: ChunkKey,
    offset: u32,
    len: u32,
) -> Result<ReadData, ChunkError> {
    for _ in 0..ATTEMPTS {
        match replica.store().read(key, offset, len).await {
            Ok(data) => return Ok(data),
            Err(ReadError::Corrupt { bad, .. }) => {
                let healed = replica.heal(key, &bad).await;
                healed.map_err(|error| ChunkError::Corrupt { message: error.to_string() })?;
            }
            Err(error) => return Err(failed(replica, key, error)),
        }
    }
    Err(ChunkError::Corrupt { message: format!("{key} is damaged again and again") })
}

/// The answer when nothing was read, for another reason than bad blocks.
fn failed(replica: &Replica, key: ChunkKey, error: ReadError) -> ChunkError {
    match error {
        ReadError::BadRange(error) => bad_request(error.to_string()),
        error => {
            tracing::error!(copyset = %replica.id(), chunk = %key, %error, "a read failed");
            stopped(replica)
        }
    }
}

/// The reply to a read. Nothing is sent when every block is a hole.
pub fn answer(data: ReadData, bytes: u64) -> Answer {
    let all_holes = data.crcs.iter().all(|crc| *crc == HOLE);
    let payload = if all_holes { Vec::new() } else { data.parts };
    Answer { header: ChunkReply { crcs: data.crcs, ..ChunkReply::ok() }, payload, bytes }
}
