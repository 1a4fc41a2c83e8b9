//! The follower's side of a snapshot by difference.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use curve_chunkstore::ExtentIndex;
use curve_multiraft::{SnapshotFetch, SnapshotPart};
use curve_types::{ChunkKey, LogIndex};
use futures::{StreamExt, TryStreamExt, stream};

use super::replica::Replica;
use super::snapshot::{Outline, Request, decode_part};
use super::volumes::VolumeTable;

/// Chunks that are pulled at the same time.
const CHUNKS_PARALLEL: usize = 4;

/// Pulls everything that changed after `since` into the store, in place, and returns the snapshot's index and volume
/// table. The caller makes it durable. Failing half way leaves chunks that are newer than the replica's record, which
/// is what the record allows.
pub async fn pull(
    replica: &Replica,
    fetch: &dyn SnapshotFetch,
    since: LogIndex,
) -> io::Result<(LogIndex, VolumeTable)> {
    let outline = pull_outline(fetch, since).await?;
    let changes = &outline.changes;
    let store = replica.store();
    store.import_changes(changes).map_err(io::Error::other)?;
    let wanted: Vec<ChunkKey> = changes.chunks.iter().filter(|c| !c.deleted).map(|c| c.key).collect();
    tracing::info!(
        copyset = %replica.id(), since = %since, to = %outline.index, chunks = wanted.len(), full = changes.full,
        "installing a snapshot by difference"
    );
    // A full list drops what the sender does not name, but what it names is still compared by its last change.
    stream::iter(wanted)
        .map(|key| pull_chunk(replica, fetch, since, key))
        .buffer_unordered(CHUNKS_PARALLEL)
        .try_collect::<()>()
        .await?;
    Ok((outline.index, outline.volumes))
}

async fn pull_outline(fetch: &dyn SnapshotFetch, since: LogIndex) -> io::Result<Outline> {
    let mut bytes = BytesMut::new();
    loop {
        let part = fetch.read(Request::Outline { since, offset: bytes.len() as u32 }.encode()).await?;
        let total = (&*part.header).try_get_u32_le().map_err(|_| malformed())? as usize;
        let before = bytes.len();
        part.payload.iter().for_each(|piece| bytes.extend_from_slice(piece));
        if bytes.len() >= total {
            break;
        }
        if bytes.len() == before {
            return Err(malformed());
        }
    }
    Outline::decode(&bytes).ok_or_else(malformed)
}

async fn pull_chunk(
    replica: &Replica,
    fetch: &dyn SnapshotFetch,
    since: LogIndex,
    key: ChunkKey,
) -> io::Result<()> {
    let mut from = ExtentIndex(0);
    loop {
        let part: SnapshotPart = fetch.read(Request::Extents { since, key, from }.encode()).await?;
        let received = part.payload.iter().map(Bytes::len).sum::<usize>() as u64;
        replica.metrics().snapshot_received.increment(received);
        let Some(part) = decode_part(&part, replica.geometry().block_bytes()).ok_or_else(malformed)? else {
            return Ok(());
        };
        replica.store().prepare(key).await?;
        replica.store().import(key, &part).map_err(io::Error::other)?;
        match part.next {
            Some(next) if next > from => from = next,
            Some(_) => return Err(malformed()),
            None => return Ok(()),
        }
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the leader sent a malformed part of a snapshot")
}
