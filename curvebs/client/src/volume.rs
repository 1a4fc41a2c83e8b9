//! An open volume as a [`BlockDevice`].
//!
//! [`Volume`] composes four things and adds nothing but their order: [`split`](crate::split) cuts a range into pieces,
//! [`route`](crate::route) finds the copyset of each, [`sequence`](crate::sequence) numbers mutations, and
//! [`call`](crate::call) sends until answered. A [`session`](crate::session) keeps the lease in the background; its end
//! is only seen here as a flag.
//!
//! **Invariants.** Every mutation carries `(client, sequence, epoch)`, the same in all its tries. An operation
//! completes after all of its pieces did. After a fence nothing succeeds any more. Pieces in flight are bounded by the
//! window, whatever the frontend does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use curve_blockdev::{
    Allocation, BlockDevice, BlockError, BlockFuture, Compared, DeviceShape, Extent, ZeroMode,
};
use curve_io::Message;
use curve_proto::methods;
use curve_proto::pb::data::{
    BlockStatusRequest, CompareAndWriteRequest, DiscardRequest, ReadRequest, WriteRequest, WriteZeroesRequest,
};
use curve_types::{
    BLOCK_BYTES, BlockRange, COMPARE_BYTES_MAX, ChunkIndex, ClientId, CopysetId, Epoch,
    FRAME_PAYLOAD_BYTES_MAX, Geometry, VolumeId,
};
use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::Semaphore;

use crate::call::Caller;
use crate::error::ClientError;
use crate::known::Turn;
use crate::local::{Ask, LocalFiles, Taken};
use crate::payload::{Parts, block_crcs, blocks_match, cut, total_len, zeros};
use crate::route::Place;
use crate::sequence::Sequences;
use crate::session::Session;
use crate::split::{Piece, chunk_pieces, payload_pieces};
use crate::together::Together;

/// Chunks that one `block_status` looks at; a longer question gets a shorter answer, as the trait allows.
const STATUS_CHUNKS_MAX: u64 = 64;
/// Chunks that one operation over many of them works on at a time.
const WIDTH_MAX: usize = 32;
/// Tries of a read whose payload does not match its checksums, before the range counts as corrupt.
const READ_TRIES_MAX: u32 = 4;
/// How long `close` waits for operations in flight before it gives the volume up with them unanswered.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// What an open volume is, as its parts share it.
#[derive(Debug)]
pub struct Opened {
    /// The volume.
    pub volume: VolumeId,
    /// This opener, new for each open.
    pub client: ClientId,
    /// How the volume is cut.
    pub geometry: Geometry,
    /// Smallest unit the device may be addressed in.
    pub block_min: u32,
    /// Whether writes are refused.
    pub read_only: bool,
    /// The opener's epoch.
    pub epoch: AtomicU64,
    /// Bytes; grows while open.
    pub size: AtomicU64,
    /// Another holder took over, or a copyset said so.
    pub fenced: AtomicBool,
    /// Given up in order.
    pub closed: AtomicBool,
    /// Files of chunkservers on this machine, if reads may use them.
    pub local: Option<LocalFiles>,
}

/// An open volume. See the module for how it is made of its parts.
pub struct Volume {
    opened: Arc<Opened>,
    caller: Caller,
    sequences: Sequences,
    window: Semaphore,
    window_slots: u32,
    io_timeout: Option<Duration>,
    session: Session,
    /// Whether we still hold the volume, for those who ask a copyset at the same time.
    held: Together,
}

/// A kind of mutation without a payload.
#[derive(Clone, Copy)]
enum Clear {
    Discard,
    Zero { keep_allocated: bool },
}

impl Volume {
    pub(crate) fn new(
        opened: Arc<Opened>,
        caller: Caller,
        session: Session,
        inflight_max: u32,
        io_timeout: Option<Duration>,
    ) -> Self {
        let window_slots = inflight_max.clamp(1, 1 << 16);
        Self {
            opened,
            caller,
            sequences: Sequences::default(),
            window: Semaphore::new(window_slots as usize),
            window_slots,
            io_timeout,
            session,
            held: Together::default(),
        }
    }

    /// The volume's id.
    pub fn id(&self) -> VolumeId {
        self.opened.volume
    }

    /// The id of this opener's session.
    pub fn client(&self) -> ClientId {
        self.opened.client
    }

    /// The epoch of this opener.
    pub fn epoch(&self) -> Epoch {
        Epoch(self.opened.epoch.load(Ordering::Acquire))
    }

    /// Whether another holder has taken the volume over.
    pub fn is_fenced(&self) -> bool {
        self.opened.fenced.load(Ordering::Acquire)
    }

    fn check(&self, offset: u64, len: u64, mutation: bool) -> Result<(), BlockError> {
        if self.opened.closed.load(Ordering::Acquire) {
            return Err(BlockError::Closed);
        }
        if self.is_fenced() {
            return Err(BlockError::Fenced);
        }
        if mutation && self.opened.read_only {
            return Err(BlockError::ReadOnly);
        }
        let size = self.opened.size.load(Ordering::Acquire);
        BlockRange::checked(offset, len, size, u64::from(self.opened.block_min))
            .map(|_| ())
            .map_err(|_| BlockError::BadRange { offset, len, size })
    }

    /// Bounds an operation by `io_timeout` and gives its error the block device's words.
    async fn bounded<T>(
        &self,
        offset: u64,
        len: u64,
        operation: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, BlockError> {
        let result = match self.io_timeout {
            None => operation.await,
            Some(limit) => match tokio::time::timeout(limit, operation).await {
                Ok(result) => result,
                Err(_) => return Err(BlockError::TimedOut { seconds: limit.as_secs() }),
            },
        };
        let result = result.map_err(|error| error.into_block_error(offset, len));
        if matches!(result, Err(BlockError::Fenced)) {
            self.opened.fenced.store(true, Ordering::Release);
        }
        result
    }

    /// The copyset of a piece. Waits as long as no MDS answers; `None` when nothing was ever written there, by anybody.
    async fn copyset(&self, piece: Piece, allocate: bool) -> Result<Option<CopysetId>, ClientError> {
        let mut backoff = crate::retry::Backoff::new(self.caller.limits);
        loop {
            match self.caller.router.place_of(piece.chunk, allocate).await {
                Ok(Place::In(copyset)) => return Ok(Some(copyset)),
                Ok(Place::Nowhere) => return Ok(None),
                Ok(Place::NowhereIfHeld { witness }) => {
                    self.held.ask(self.ask_if_held(witness)).await?;
                    return Ok(None);
                }
                Err(error) if error.is_passing() => tokio::time::sleep(backoff.pause()).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks a copyset of the volume whether it still accepts us.
    async fn ask_if_held(&self, witness: CopysetId) -> Result<(), ClientError> {
        let smallest = Piece { chunk: ChunkIndex(0), offset: 0, len: BLOCK_BYTES as u32 };
        self.caller.call(witness, || self.status_message(witness, smallest)).await.map(drop)
    }

    /// Asks the MDS what became of the volume, until one answers.
    async fn ask_mds(&self) -> Result<(), ClientError> {
        let mut backoff = crate::retry::Backoff::new(self.caller.limits);
        loop {
            match self.session.ask(&self.opened).await.map_err(ClientError::from) {
                Err(error) if error.is_passing() => tokio::time::sleep(backoff.pause()).await,
                result => return result,
            }
        }
    }

    /// Checks an operation. One beyond the end asks the MDS whether the volume has grown, before it is refused.
    async fn admit(&self, offset: u64, len: u64, mutation: bool) -> Result<(), BlockError> {
        let checked = self.check(offset, len, mutation);
        let size = self.opened.size.load(Ordering::Acquire);
        if !matches!(checked, Err(BlockError::BadRange { .. })) || offset.saturating_add(len) <= size {
            return checked;
        }
        self.bounded(offset, len, self.ask_mds()).await?;
        self.check(offset, len, mutation)
    }

    async fn write_piece(&self, piece: Piece, payload: Vec<Bytes>) -> Result<(), ClientError> {
        let _slot = self.window.acquire().await.expect("the window is never closed");
        let copyset = self.copyset(piece, true).await?.expect("an allocating lookup finds a copyset");
        let crcs = block_crcs(piece.offset, &payload);
        let change = self.changes(piece, false);
        let ticket = self.sequences.begin();
        let build = || {
            let header = WriteRequest {
                copyset: copyset.get(),
                volume: self.opened.volume.get(),
                chunk: piece.chunk.0,
                offset: piece.offset,
                epoch: self.epoch().get(),
                client: self.opened.client.get(),
                sequence: ticket.sequence().get(),
                answered_below: self.sequences.answered_below().get(),
                crcs: crcs.clone(),
            };
            message(methods::WRITE, &header, payload.clone())
        };
        self.caller.call(copyset, build).await?;
        match change {
            Some(change) if piece.whole_blocks() == (piece.offset, piece.len) => change.written(&crcs),
            change => ended(change),
        }
        Ok(())
    }

    /// Forgets what is known of the blocks of a piece that is about to change.
    fn changes(&self, piece: Piece, moves: bool) -> Option<Turn<'_>> {
        let known = self.opened.local.as_ref()?.known()?;
        Some(known.change(piece.chunk, piece.offset, piece.len, moves))
    }

    async fn compare_piece(
        &self,
        piece: Piece,
        expected: Vec<Bytes>,
        data: Vec<Bytes>,
    ) -> Result<Compared, ClientError> {
        let _slot = self.window.acquire().await.expect("the window is never closed");
        let copyset = self.copyset(piece, true).await?.expect("an allocating lookup finds a copyset");
        let expected_crcs = block_crcs(piece.offset, &expected);
        let crcs = block_crcs(piece.offset, &data);
        let payload = [expected, data].concat();
        let change = self.changes(piece, false);
        let ticket = self.sequences.begin();
        let build = || {
            let header = CompareAndWriteRequest {
                copyset: copyset.get(),
                volume: self.opened.volume.get(),
                chunk: piece.chunk.0,
                offset: piece.offset,
                epoch: self.epoch().get(),
                client: self.opened.client.get(),
                sequence: ticket.sequence().get(),
                answered_below: self.sequences.answered_below().get(),
                expected_crcs: expected_crcs.clone(),
                crcs: crcs.clone(),
            };
            message(methods::COMPARE_AND_WRITE, &header, payload.clone())
        };
        let answer = self.caller.call(copyset, build).await?;
        ended(change);
        Ok(answer.reply.differs_at.map_or(Compared::Written, |at| Compared::Differs { at: at.into() }))
    }

    async fn clear_piece(&self, piece: Piece, kind: Clear) -> Result<(), ClientError> {
        let _slot = self.window.acquire().await.expect("the window is never closed");
        let allocate = matches!(kind, Clear::Zero { keep_allocated: true });
        let Some(copyset) = self.copyset(piece, allocate).await? else { return Ok(()) };
        let change = self.changes(piece, true);
        let ticket = self.sequences.begin();
        let build = || self.clear_message(copyset, piece, kind, ticket.sequence().get());
        self.caller.call(copyset, build).await?;
        ended(change);
        Ok(())
    }

    fn clear_message(&self, copyset: CopysetId, piece: Piece, kind: Clear, sequence: u64) -> Message {
        let (copyset, volume, chunk) = (copyset.get(), self.opened.volume.get(), piece.chunk.0);
        let (offset, len) = (piece.offset, piece.len);
        let (epoch, client) = (self.epoch().get(), self.opened.client.get());
        let answered_below = self.sequences.answered_below().get();
        match kind {
            Clear::Discard => {
                let header = DiscardRequest {
                    copyset,
                    volume,
                    chunk,
                    offset,
                    len,
                    epoch,
                    client,
                    sequence,
                    answered_below,
                };
                message(methods::DISCARD, &header, Vec::new())
            }
            Clear::Zero { keep_allocated } => {
                let header = WriteZeroesRequest {
                    copyset,
                    volume,
                    chunk,
                    offset,
                    len,
                    epoch,
                    client,
                    sequence,
                    answered_below,
                    keep_allocated,
                };
                message(methods::WRITE_ZEROES, &header, Vec::new())
            }
        }
    }

    /// Reads the blocks around a piece and returns the piece of them.
    async fn read_piece(&self, piece: Piece) -> Result<Vec<Bytes>, ClientError> {
        let _slot = self.window.acquire().await.expect("the window is never closed");
        let (first, len) = piece.whole_blocks();
        let start = (piece.offset - first) as usize;
        if let Some(local) = &self.opened.local
            && let Some(parts) = local.take_unasked(piece.chunk, first, len).await
        {
            return Ok(cut(parts, start, piece.len as usize));
        }
        let Some(copyset) = self.copyset(piece, false).await? else { return Ok(zeros(u64::from(piece.len))) };
        let known = self.opened.local.as_ref().and_then(LocalFiles::known);
        let mut question = known.map(|known| known.question(piece.chunk, first, len));
        let mut ask = self.opened.local.as_ref().map_or(Ask::Bytes, |local| local.ask(copyset, piece.chunk));
        let mut tries = 0;
        while tries < READ_TRIES_MAX {
            let window = question.as_ref().map_or((0, 0), Turn::window);
            let build = || self.read_message(copyset, piece, ask, window);
            let answer = self.caller.call(copyset, build).await?;
            if let (Some(place), Some(local)) = (&answer.reply.place, &self.opened.local) {
                // A place in answer to a question for bytes is a mistake, which must not go on for ever.
                tries += u32::from(ask == Ask::Bytes);
                if let Some(question) = question.take() {
                    local.learn(question, place);
                }
                ask = match local.take(copyset, piece.chunk, ask, place, &answer.reply.crcs).await {
                    Taken::Bytes(parts) if total_len(&parts) == u64::from(len) => {
                        return Ok(cut(parts, start, piece.len as usize));
                    }
                    Taken::Bytes(_) => Ask::Bytes,
                    Taken::Nothing(next) => next,
                };
                continue;
            }
            if answer.payload.is_empty() && answer.reply.crcs.iter().all(|&crc| crc == 0) {
                return Ok(zeros(u64::from(piece.len)));
            }
            if answer.payload.len() == len as usize && blocks_match(&answer.payload, &answer.reply.crcs) {
                return Ok(vec![answer.payload.slice(start..start + piece.len as usize)]);
            }
            tries += 1;
            metrics::counter!("curve_client_read_mismatch_total").increment(1);
        }
        Err(ClientError::Corrupt {
            message: format!("{copyset} {} answers bytes that do not match their checksums", piece.chunk),
        })
    }

    fn read_message(&self, copyset: CopysetId, piece: Piece, ask: Ask, around: (u32, u32)) -> Message {
        let (offset, len) = piece.whole_blocks();
        let machine = self.opened.local.as_ref().map_or(0, LocalFiles::machine);
        let (machine, path) = match ask {
            Ask::Bytes => (0, false),
            Ask::Place { path } => (machine, path),
        };
        let header = ReadRequest {
            copyset: copyset.get(),
            volume: self.opened.volume.get(),
            chunk: piece.chunk.0,
            offset,
            len,
            epoch: self.epoch().get(),
            client: self.opened.client.get(),
            machine,
            path,
            around: around.0,
            around_len: around.1,
        };
        message(methods::READ, &header, Vec::new())
    }

    async fn status_piece(&self, piece: Piece) -> Result<Vec<Extent>, ClientError> {
        let _slot = self.window.acquire().await.expect("the window is never closed");
        let Some(copyset) = self.copyset(piece, false).await? else {
            return Ok(vec![Extent { len: u64::from(piece.len), allocation: Allocation::Hole }]);
        };
        let (first, _) = piece.whole_blocks();
        let answer = self.caller.call(copyset, || self.status_message(copyset, piece)).await?;
        let extents = answer.reply.extents.iter().map(|extent| Extent {
            len: u64::from(extent.len),
            allocation: if extent.allocated { Allocation::Data } else { Allocation::Hole },
        });
        Ok(clip(extents, u64::from(piece.offset - first), u64::from(piece.len)))
    }

    fn status_message(&self, copyset: CopysetId, piece: Piece) -> Message {
        let (offset, len) = piece.whole_blocks();
        let header = BlockStatusRequest {
            copyset: copyset.get(),
            volume: self.opened.volume.get(),
            chunk: piece.chunk.0,
            offset,
            len,
            epoch: self.epoch().get(),
            client: self.opened.client.get(),
        };
        message(methods::BLOCK_STATUS, &header, Vec::new())
    }

    async fn write_all(&self, offset: u64, data: Vec<Bytes>) -> Result<(), ClientError> {
        let len = total_len(&data);
        let mut parts = Parts::new(data);
        let mut pieces = payload_pieces(offset, len, self.opened.geometry);
        let Some(first) = pieces.next() else { return Ok(()) };
        if u64::from(first.len) == len {
            return self.write_piece(first, parts.take(first.len as usize)).await;
        }
        let writes = std::iter::once(first)
            .chain(pieces)
            .map(|piece| self.write_piece(piece, parts.take(piece.len as usize)))
            .collect::<Vec<_>>();
        futures::future::try_join_all(writes).await.map(drop)
    }

    async fn read_all(&self, offset: u64, len: u64) -> Result<Vec<Bytes>, ClientError> {
        let mut pieces = payload_pieces(offset, len, self.opened.geometry);
        let Some(first) = pieces.next() else { return Ok(Vec::new()) };
        if u64::from(first.len) == len {
            return self.read_piece(first).await;
        }
        let reads: Vec<_> =
            std::iter::once(first).chain(pieces).map(|piece| self.read_piece(piece)).collect();
        Ok(futures::future::try_join_all(reads).await?.concat())
    }

    async fn clear_all(&self, offset: u64, len: u64, kind: Clear) -> Result<(), ClientError> {
        stream::iter(chunk_pieces(offset, len, self.opened.geometry).map(Ok))
            .try_for_each_concurrent(WIDTH_MAX, |piece| self.clear_piece(piece, kind))
            .await
    }

    async fn status_all(&self, offset: u64, len: u64) -> Result<Vec<Extent>, ClientError> {
        let len = len.min(STATUS_CHUNKS_MAX * u64::from(self.opened.geometry.chunk_bytes()));
        let pieces: Vec<_> = chunk_pieces(offset, len, self.opened.geometry).collect();
        let answers: Vec<Vec<Extent>> =
            stream::iter(pieces.into_iter().map(|piece| self.status_piece(piece)))
                .buffered(WIDTH_MAX)
                .try_collect()
                .await?;
        Ok(merge(answers.into_iter().flatten()))
    }

    /// Zeroing keeps every byte outside the range, so it cannot be rounded; discarding may be, and is rounded inwards.
    fn whole_blocks(offset: u64, len: u64) -> Option<(u64, u64)> {
        let first = offset.next_multiple_of(BLOCK_BYTES);
        let end = (offset + len) / BLOCK_BYTES * BLOCK_BYTES;
        (end > first).then(|| (first, end - first))
    }
}

fn ended(change: Option<Turn<'_>>) {
    if let Some(change) = change {
        change.changed();
    }
}

fn message(method: u16, header: &impl prost::Message, payload: Vec<Bytes>) -> Message {
    Message { method, header: header.encode_to_vec().into(), payload }
}

/// The part of `extents` from `skip` on, `len` bytes long.
fn clip(extents: impl Iterator<Item = Extent>, skip: u64, len: u64) -> Vec<Extent> {
    let (mut at, end) = (0, skip + len);
    let mut clipped = Vec::new();
    for extent in extents {
        let (from, to) = (at.max(skip), (at + extent.len).min(end));
        at += extent.len;
        if from < to {
            clipped.push(Extent { len: to - from, ..extent });
        }
    }
    if at < end {
        // A short answer says nothing of the rest; "data" is always a safe thing to say.
        clipped.push(Extent { len: end - at.max(skip), allocation: Allocation::Data });
    }
    clipped
}

/// Joins neighbours of one kind.
fn merge(extents: impl Iterator<Item = Extent>) -> Vec<Extent> {
    let mut merged: Vec<Extent> = Vec::new();
    for extent in extents {
        match merged.last_mut() {
            Some(last) if last.allocation == extent.allocation => last.len += extent.len,
            _ => merged.push(extent),
        }
    }
    merged
}

impl BlockDevice for Volume {
    fn shape(&self) -> DeviceShape {
        DeviceShape {
            size: self.opened.size.load(Ordering::Acquire),
            block_min: self.opened.block_min,
            block_preferred: BLOCK_BYTES as u32,
            request_max: 32 * FRAME_PAYLOAD_BYTES_MAX as u32,
            read_only: self.opened.read_only,
        }
    }

    fn read(&self, offset: u64, len: u32) -> BlockFuture<'_, Vec<Bytes>> {
        Box::pin(async move {
            let len = u64::from(len);
            self.admit(offset, len, false).await?;
            self.bounded(offset, len, self.read_all(offset, len)).await
        })
    }

    fn write(&self, offset: u64, data: Vec<Bytes>) -> BlockFuture<'_, ()> {
        Box::pin(async move {
            let len = total_len(&data);
            self.admit(offset, len, true).await?;
            self.bounded(offset, len, self.write_all(offset, data)).await
        })
    }

    /// Nothing to do: a write completes only once it is durable on a majority, so all completed writes are.
    fn flush(&self) -> BlockFuture<'_, ()> {
        Box::pin(async move { self.check(0, 0, false) })
    }

    fn discard(&self, offset: u64, len: u64) -> BlockFuture<'_, ()> {
        Box::pin(async move {
            self.admit(offset, len, true).await?;
            let Some((first, whole)) = Self::whole_blocks(offset, len) else { return Ok(()) };
            self.bounded(offset, len, self.clear_all(first, whole, Clear::Discard)).await
        })
    }

    fn write_zeroes(&self, offset: u64, len: u64, mode: ZeroMode) -> BlockFuture<'_, ()> {
        Box::pin(async move {
            self.admit(offset, len, true).await?;
            if mode.fast_only && mode.keep_allocated {
                return Err(BlockError::Unsupported("zeroing in place is as slow as writing"));
            }
            let kind = Clear::Zero { keep_allocated: mode.keep_allocated };
            self.bounded(offset, len, self.clear_all(offset, len, kind)).await
        })
    }

    fn block_status(&self, offset: u64, len: u64) -> BlockFuture<'_, Vec<Extent>> {
        Box::pin(async move {
            self.admit(offset, len, false).await?;
            self.bounded(offset, len, self.status_all(offset, len)).await
        })
    }

    fn compare_and_write(
        &self,
        offset: u64,
        expected: Vec<Bytes>,
        data: Vec<Bytes>,
    ) -> BlockFuture<'_, Compared> {
        Box::pin(async move {
            let len = total_len(&data);
            self.admit(offset, len, true).await?;
            if total_len(&expected) != len || len > u64::from(COMPARE_BYTES_MAX) {
                return Err(BlockError::Unsupported("a comparison of more than 64 KiB or of two lengths"));
            }
            let mut pieces = chunk_pieces(offset, len, self.opened.geometry);
            match (pieces.next(), pieces.next()) {
                (None, _) => Ok(Compared::Written),
                (Some(piece), None) => {
                    self.bounded(offset, len, self.compare_piece(piece, expected, data)).await
                }
                // Two copysets cannot decide together.
                (Some(_), Some(_)) => Err(BlockError::Unsupported("a comparison across a border of chunks")),
            }
        })
    }

    fn close(&self) -> BlockFuture<'_, ()> {
        Box::pin(async move {
            if self.opened.closed.swap(true, Ordering::AcqRel) {
                return Ok(());
            }
            let drained =
                tokio::time::timeout(DRAIN_MAX, self.window.acquire_many(self.window_slots)).await.is_ok();
            self.session.close(drained).await.map_err(|error| BlockError::Io(error.to_string()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(len: u64) -> Extent {
        Extent { len, allocation: Allocation::Data }
    }

    fn hole(len: u64) -> Extent {
        Extent { len, allocation: Allocation::Hole }
    }

    #[test]
    fn extents_are_clipped_and_merged() {
        assert_eq!(clip([data(4096), hole(8192)].into_iter(), 512, 8192), [data(3584), hole(4608)]);
        assert_eq!(clip([hole(4096)].into_iter(), 0, 8192), [hole(4096), data(4096)]);
        assert_eq!(
            merge([data(1), data(2), hole(3), hole(4), data(5)].into_iter()),
            [data(3), hole(7), data(5)]
        );
    }

    #[test]
    fn a_discard_is_rounded_inwards() {
        assert_eq!(Volume::whole_blocks(512, 8192), Some((4096, 4096)));
        assert_eq!(Volume::whole_blocks(512, 4096), None);
        assert_eq!(Volume::whole_blocks(4096, 4096), Some((4096, 4096)));
    }
}
