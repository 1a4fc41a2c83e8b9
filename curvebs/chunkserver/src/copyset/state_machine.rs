//! What a committed entry of a copyset means.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use curve_chunkstore::{CopysetStore, PlacedRun, WriteError};
use curve_io::BoxFuture;
use curve_multiraft::{Applied, Op, Placer, SnapshotFetch, SnapshotSource, StateMachine};
use curve_types::{Geometry, LogIndex, Term};

use super::format::{Action, CopysetOp, Mutation, Outcome, decode_kept};
use super::install;
use super::placed;
use super::placer::CopysetPlacer;
use super::record::StateRecord;
use super::replica::Replica;
use super::snapshot::Source;
use super::volumes::{Decision, VolumeTable};

/// Deletions that are remembered one by one for replicas that are away. With more, the ones before the last checkpoint
/// are forgotten, and a replica that missed them is sent the list of all chunks instead.
const TOMBSTONES_MAX: usize = 16_384;

/// Writes of this size and above are asked whether this replica serves reads.
const LARGE_BYTES_MIN: u32 = 64 << 10;

/// Applies the log of one copyset to its chunks.
///
/// It owns the volume table (fences and windows) and is the only writer of the copyset's store. It decides on each
/// operation when it is applied, never earlier: what the service checked before it proposed is a courtesy.
///
/// # Crash protocol
///
/// Chunk writes land in the page cache. A checkpoint takes the table and the marker as they are at that moment,
/// makes the chunk files durable, and then saves table and marker as one record; only then may the log be purged. So
/// after a crash the chunks may be newer than the record, never older, and the table is exactly of the record's
/// moment: a replay decides each operation as the first run did and overwrites the chunks with the same contents.
/// No operation reads a chunk, so a chunk that is ahead changes no decision. That is also why a comparison is not made here but
/// by the leader, who logs what came of it (see `service::compare`): a replay would compare with what was written later, and
/// a replica whose block is damaged could not compare at all.
///
/// Large writes have put their payload into the chunk's other plane before they were logged (see `CopysetPlacer`);
/// when such a write is applied, and not refused, the plane is turned around.
///
/// A store that fails while applying stops the replica: replicas must not diverge.
pub struct CopysetMachine {
    replica: Arc<Replica>,
    store: Arc<CopysetStore>,
    geometry: Geometry,
    state: StateRecord,
    has_marker: bool,
    /// The index of the checkpoint before the next one.
    checkpointed: LogIndex,
    /// Checksums of the write at hand; kept to spare an allocation for each.
    crcs: Vec<u32>,
}

impl CopysetMachine {
    /// Opens the machine of `replica` with what the last checkpoint saved.
    pub async fn open(replica: Arc<Replica>) -> io::Result<Self> {
        let store = replica.store().clone();
        let saved = store.load_record(StateRecord::NAME).await.map_err(io::Error::other)?;
        let has_marker = saved.is_some();
        let state = match saved {
            Some(bytes) => StateRecord::decode(&bytes)
                .map_err(|cause| io::Error::new(io::ErrorKind::InvalidData, cause))?,
            None => StateRecord::default(),
        };
        replica.fences().replace(&state.volumes);
        let geometry = replica.geometry();
        let checkpointed = state.index;
        store.begin_appends(state.index);
        Ok(Self { replica, store, geometry, state, has_marker, checkpointed, crcs: Vec::new() })
    }

    /// The table that decides; for tests and offline readers.
    pub fn volumes(&self) -> &VolumeTable {
        &self.state.volumes
    }

    async fn apply_entries(&mut self, entries: Vec<Applied>, marker: Bytes) -> io::Result<Vec<Vec<Bytes>>> {
        let mut results = Vec::with_capacity(entries.len());
        for entry in entries {
            let mut of_entry = Vec::with_capacity(entry.ops.len());
            for (n, op) in entry.ops.iter().enumerate() {
                of_entry.push(self.apply_op(n, op, entry.index, entry.term).await?.encode());
            }
            self.store.note_applied(entry.index);
            self.state.index = entry.index;
            results.push(of_entry);
        }
        self.state.marker = marker;
        self.has_marker = true;
        Ok(results)
    }

    /// Applies the `n`th operation of an entry.
    async fn apply_op(&mut self, n: usize, op: &Op, index: LogIndex, term: Term) -> io::Result<Outcome> {
        let (header, runs) = placed::split(&op.header);
        let placed_len = runs.as_deref().map_or(0, |runs| placed::bytes(runs, self.geometry));
        let payload_len = placed_len + op.payload.iter().map(Bytes::len).sum::<usize>();
        let decoded = match CopysetOp::decode(&header, payload_len, self.geometry, &mut self.crcs) {
            Ok(decoded) => decoded,
            Err(error) => {
                tracing::error!(copyset = %self.replica.id(), %index, %error, "a logged operation is malformed");
                return Ok(Outcome::Malformed);
            }
        };
        match decoded {
            CopysetOp::Mutation(m) => match self.state.volumes.decide(&m, index, term) {
                Decision::Answer(outcome) => {
                    self.replica.metrics().refused(outcome);
                    Ok(outcome)
                }
                Decision::Apply if m.action == Action::Write => {
                    let placed = match runs {
                        Some(runs) => Some((runs, op.payload.clone())),
                        None => self.store.take_placed(index, n, m.offset, &op.payload),
                    };
                    self.write(&m, placed, &op.payload, index).await
                }
                Decision::Apply => self.mutate(&m, index).await,
            },
            CopysetOp::Fence { volume, epoch } => {
                let fence = self.state.volumes.fence(volume, epoch, &decode_kept(&op.payload));
                self.replica.fences().set(volume, fence.clone());
                Ok(Outcome::Applied)
            }
            CopysetOp::DeleteVolume { volume } => {
                let fence = self.state.volumes.delete(volume);
                self.replica.fences().set(volume, fence.clone());
                self.store.delete_volume(volume, index).map_err(store_error)?;
                Ok(Outcome::Applied)
            }
            CopysetOp::Marker => Ok(Outcome::Applied),
        }
    }

    /// Writes a payload, or turns to what was placed of it before and writes the rest.
    async fn write(
        &mut self,
        m: &Mutation,
        placed: Option<(Vec<PlacedRun>, Vec<Bytes>)>,
        payload: &[Bytes],
        index: LogIndex,
    ) -> io::Result<Outcome> {
        self.store.prepare(m.key).await?;
        if let Some((runs, rest)) = placed {
            self.store.write_placed(m.key, m.offset, &runs, &rest, &self.crcs, index)
        } else if m.len >= LARGE_BYTES_MIN && !self.replica.leads() {
            self.store.write_unread(m.key, m.offset, payload, &self.crcs, index)
        } else {
            self.store.write(m.key, m.offset, payload, &self.crcs, index)
        }
        .map_err(store_error)?;
        Ok(Outcome::Applied)
    }

    async fn mutate(&mut self, m: &Mutation, index: LogIndex) -> io::Result<Outcome> {
        if let Action::Miscompare { at } = m.action {
            return Ok(Outcome::Differs { at });
        }
        // A chunk that was not touched for long has to be looked up on the disk, which must not hold up the thread.
        self.store.prepare(m.key).await?;
        let whole_chunk = m.offset == 0 && m.len == self.geometry.chunk_bytes();
        match m.action {
            Action::Write | Action::Miscompare { .. } => unreachable!("neither comes here"),
            Action::Discard if whole_chunk => self.store.delete_chunk(m.key, index),
            Action::Discard => self.store.discard(m.key, m.offset, m.len, index),
            Action::WriteZeroes { keep_allocated: false } if whole_chunk => {
                self.store.delete_chunk(m.key, index)
            }
            Action::WriteZeroes { keep_allocated } => {
                self.store.write_zeroes(m.key, m.offset, m.len, keep_allocated, index)
            }
        }
        .map_err(store_error)?;
        Ok(Outcome::Applied)
    }
}

/// The range was checked when the operation was decoded, so whatever is left is the disk.
fn store_error(error: WriteError) -> io::Error {
    match error {
        WriteError::Io(error) => error,
        other => io::Error::other(other),
    }
}

impl StateMachine for CopysetMachine {
    fn recovered(&self) -> Option<Bytes> {
        self.has_marker.then(|| self.state.marker.clone())
    }

    fn placer(&self) -> Option<Arc<dyn Placer>> {
        Some(Arc::new(CopysetPlacer::new(self.replica.clone())))
    }

    fn apply(&mut self, entries: Vec<Applied>, marker: Bytes) -> BoxFuture<'_, io::Result<Vec<Vec<Bytes>>>> {
        Box::pin(self.apply_entries(entries, marker))
    }

    fn checkpoint(&mut self) -> BoxFuture<'static, io::Result<()>> {
        if !self.has_marker {
            return Box::pin(async { Ok(()) });
        }
        let (replica, store) = (self.replica.clone(), self.store.clone());
        let index = self.state.index;
        let record = self.state.encode();
        let forget = std::mem::replace(&mut self.checkpointed, index);
        Box::pin(async move {
            store.sync().await?;
            replica.save_state(index, &record).await?;
            store.note_checkpoint(index);
            if store.stats().tombstones > TOMBSTONES_MAX {
                store.forget_deletions(forget);
            }
            Ok(())
        })
    }

    fn snapshot(&mut self) -> BoxFuture<'_, io::Result<Arc<dyn SnapshotSource>>> {
        let source = Source::new(self.replica.clone(), self.state.index, &self.state.volumes);
        Box::pin(async move { Ok(Arc::new(source) as Arc<dyn SnapshotSource>) })
    }

    fn install(&mut self, fetch: Arc<dyn SnapshotFetch>, marker: Bytes) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            let since = self.state.index;
            // Chunk files may be given away.
            let _still = self.store.hold_placing().await;
            let (index, volumes) = install::pull(&self.replica, &*fetch, since).await?;
            let state = StateRecord { index, marker, volumes };
            self.store.sync().await?;
            self.replica.save_state(index, &state.encode()).await?;
            self.store.note_applied(index);
            self.store.note_checkpoint(index);
            self.replica.fences().replace(&state.volumes);
            self.state = state;
            self.has_marker = true;
            Ok(())
        })
    }
}
