//! Publishing what was written: bytes into the store, then extents into the metadata; never the other way round.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use curvefs_types::limits::EXTENTS_PER_REQUEST_MAX;
use curvefs_types::{
    Attr, DataBackend, Durable, Extent, FsError, InodeId, Metering, Op, Place, Reply, SetAttr, Staged,
};
use futures::StreamExt;
use futures::stream::{FuturesOrdered, FuturesUnordered};
use tokio::sync::{MutexGuard, RwLockWriteGuard};
use tokio::time::Instant;

use crate::buffers;
use crate::delegation::Delegations;
use crate::inode::{Flushing, Inode};
use crate::shared::Core;

/// Bytes of one file that make the background begin without waiting.
pub(crate) const STREAM_BYTES: u64 = 8 << 20;
/// Bytes of one batch: a quarter of a chunk.
const BATCH_BYTES: u64 = 16 << 20;
/// Batches of a file whose bytes are on their way to the store at once. They are published one after the other.
const BATCHES_AT_ONCE: usize = 4;
/// Runs of a file that are written to the store at once.
const RUNS_AT_ONCE: usize = 32;
/// Files that the background flushes at once.
pub(crate) const FILES_AT_ONCE: usize = 16;
/// Written bytes wait at most about so long.
const AGE_MAX: Duration = Duration::from_secs(3);
/// How often the background looks.
const TICK: Duration = Duration::from_millis(500);
/// After a failure.
const RETRY: Duration = Duration::from_secs(1);
/// How long a file is kept held after its last close.
pub(crate) const HELD_IDLE: Duration = Duration::from_secs(5);
/// Files that are given up in one change.
const CLOSES_AT_ONCE: usize = 512;

/// The way of bytes that are published.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Through the metadata, if they are few: somebody waits.
    Short,
    /// Through the store at once.
    Long,
}

/// What is published of a batch: extents, and those of their bytes that come along because the store has not got them.
struct Stored {
    extents: Vec<Extent>,
    staged: Vec<Staged>,
}

/// Batches that are published together: what is published of them, each one's measurement with its bytes, and what came of storing.
struct Batches<'a> {
    flushing: Flushing,
    meterings: Vec<(Metering<'a>, u64)>,
    stored: Result<Stored, FsError>,
}

impl Batches<'_> {
    /// Takes in what is published of the batch that follows, if one change can publish it too.
    fn join(&mut self, next: &Self) -> bool {
        let (Ok(stored), Ok(later)) = (&mut self.stored, &next.stored) else { return false };
        let few = stored.extents.len() + later.extents.len() <= EXTENTS_PER_REQUEST_MAX;
        let lie_in_store = stored.staged.is_empty() && later.staged.is_empty();
        let joins = few && lie_in_store && self.flushing.join(&next.flushing);
        if joins {
            stored.extents.extend_from_slice(&later.extents);
        }
        joins
    }
}

/// The first of the batches that are stored, with those behind it that can be published with it: a change takes as long as the
/// metaservers' disks do, and a stream would wait for one after the other.
fn together<'a>(stored: &mut VecDeque<Batches<'a>>) -> Option<Batches<'a>> {
    let mut batches = stored.pop_front()?;
    while let Some(next) = stored.pop_front_if(|next| batches.join(next)) {
        batches.meterings.extend(next.meterings);
    }
    Some(batches)
}

/// The file after a change, where appended bytes went, and the extents with their places in the file.
type Published = (Attr, u64, Vec<Extent>);

/// Whether trying again can never help: what could not be published is gone. Otherwise it is kept and tried again.
pub(crate) fn is_final(error: FsError) -> bool {
    matches!(
        error,
        FsError::Fenced
            | FsError::Revoked
            | FsError::Stale
            | FsError::NotFound
            | FsError::TooBig
            | FsError::IsDir
    )
}

impl Core {
    /// Publishes what was written before the call, for somebody who waits for it.
    pub async fn flush(&self, inode: &Inode) -> Result<(), FsError> {
        self.flush_by(inode, Way::Short).await
    }

    /// What was written before the call is published; in the background, as long as nobody else waits to change the bytes, what is
    /// written meanwhile, too, so that a stream of bytes never lets the store rest.
    async fn flush_by(&self, inode: &Inode, way: Way) -> Result<(), FsError> {
        if !inode.state().is_dirty() {
            return Ok(());
        }
        let _one = inode.publishing().await;
        let mut left = inode.state().unpublished() as i64;
        let sets = inode.state().has_deferred();
        let _started = Started { core: self, inode };
        let (mut storing, mut stored) = (FuturesOrdered::new(), VecDeque::new());
        let mut publishing = FuturesUnordered::new();
        loop {
            while storing.len() < BATCHES_AT_ONCE {
                let flushing = {
                    let mut state = inode.state();
                    let streams = way == Way::Long && !inode.is_wanted() && state.pending() >= STREAM_BYTES;
                    if left <= 0 && !(sets && state.has_deferred()) && !streams {
                        break;
                    }
                    state.begin(BATCH_BYTES)
                };
                let Some(flushing) = flushing else { break };
                left -= flushing.batch.bytes() as i64;
                storing.push_back(self.store_batch(inode.id, flushing, way));
            }
            if publishing.is_empty()
                && let Some(batches) = together(&mut stored)
            {
                publishing.push(self.publish_batches(inode, batches));
            }
            // The store does not rest meanwhile.
            tokio::select! {
                biased;
                Some((meterings, published)) = publishing.next() => {
                    let (attr, base, extents) = match published {
                        Ok(published) => published,
                        Err(error) => return Err(self.publish_failed(inode, error)),
                    };
                    let freed = inode.state().end(attr, base, &extents, meterings.len());
                    meterings.into_iter().for_each(|(metering, bytes)| metering.done(bytes));
                    self.budget.free(freed);
                    self.tell_kernel(inode);
                }
                Some(one) = storing.next() => stored.push_back(one),
                else => break,
            }
        }
        Ok(())
    }

    /// Stores the bytes that a new file was closed with, before something publishes it: whoever sees it then expects them. A failure is kept
    /// in the inode, and keeps no name back.
    pub async fn store_closed(&self, id: InodeId) {
        if let (true, Some(inode)) = (self.meta.is_lazy(id), self.known(id)) {
            let _ = self.flush(&inode).await;
        }
    }

    /// Keeps writes out while the whole file is changed. Attributes that wait for bytes are published before, since the change may
    /// drop the bytes.
    pub async fn alone<'a>(&self, inode: &'a Inode) -> Result<RwLockWriteGuard<'a, ()>, FsError> {
        let order = inode.order.write().await;
        if inode.state().has_deferred() {
            self.flush(inode).await?;
        }
        Ok(order)
    }

    /// The first half of publishing a batch: its bytes become durable, or are to come along.
    async fn store_batch(&self, inode: InodeId, flushing: Flushing, way: Way) -> Batches<'_> {
        let meterings = vec![(self.counters.publishes.begin(), flushing.batch.bytes())];
        let staged = if way == Way::Short { self.stage(inode, &flushing) } else { None };
        let stored = match staged {
            Some((extents, staged)) => Ok(Stored { extents, staged }),
            None => self.store_all(inode, &flushing).await,
        };
        Batches { flushing, meterings, stored }
    }

    async fn store_all(&self, inode: InodeId, flushing: &Flushing) -> Result<Stored, FsError> {
        let stored = self.store_runs(inode, flushing.batch.runs()).await?;
        let extents = stored.into_iter().flat_map(Durable::into_inner).collect();
        Ok(Stored { extents, staged: Vec::new() })
    }

    /// The second half, in the order of the batches. The caller holds `publish`.
    async fn publish_batches<'a>(
        &'a self,
        inode: &Inode,
        Batches { flushing, meterings, stored }: Batches<'a>,
    ) -> (Vec<(Metering<'a>, u64)>, Result<Published, FsError>) {
        let published = match stored {
            Ok(stored) => self.publish_stored(inode, &flushing, stored).await,
            Err(error) => Err(error),
        };
        (meterings, published)
    }

    async fn publish_stored(
        &self,
        inode: &Inode,
        flushing: &Flushing,
        Stored { extents, staged }: Stored,
    ) -> Result<Published, FsError> {
        match self.publish(inode.id, flushing, extents, &staged).await {
            Err(FsError::StageFull) => {
                let stored = self.store_all(inode.id, flushing).await?;
                self.publish(inode.id, flushing, stored.extents, &[]).await
            }
            Ok(published) => {
                if !staged.is_empty() {
                    self.keep_staged(inode.id, staged);
                }
                Ok(published)
            }
            failed => failed,
        }
    }

    fn publish_failed(&self, inode: &Inode, error: FsError) -> FsError {
        let mut state = inode.state();
        let mut freed = state.fail(error);
        if is_final(error) {
            let lost = state.discard();
            self.counters.lost(lost);
            freed += lost;
        }
        state.retry_at = Some(Instant::now() + RETRY);
        drop(state);
        self.budget.free(freed);
        tracing::warn!(inode = %inode.id, %error, code = error.code(), kept = !is_final(error), "cannot publish written data");
        error
    }

    async fn store_runs(
        &self,
        id: InodeId,
        runs: Vec<(u64, Vec<Bytes>)>,
    ) -> Result<Vec<Durable<Vec<Extent>>>, FsError> {
        let writes = runs.into_iter().map(|(offset, run)| self.store(id, offset, run));
        let mut writes = futures::stream::iter(writes).buffered(RUNS_AT_ONCE);
        let mut stored = Vec::new();
        while let Some(extents) = writes.next().await {
            stored.push(extents?);
        }
        Ok(stored)
    }

    /// Writes to the store; without `soft` it waits for a store that does not answer.
    async fn store(
        &self,
        id: InodeId,
        offset: u64,
        run: Vec<Bytes>,
    ) -> Result<Durable<Vec<Extent>>, FsError> {
        self.in_time(async {
            loop {
                match self.data.write(id, offset, run.clone()).await {
                    Err(FsError::TimedOut) => tokio::time::sleep(RETRY).await,
                    other => return other,
                }
            }
        })
        .await
    }

    /// Names in the metadata bytes that are durable, or that come along; few enough for one request.
    async fn publish(
        &self,
        inode: InodeId,
        flushing: &Flushing,
        mut extents: Vec<Extent>,
        staged: &[Staged],
    ) -> Result<Published, FsError> {
        let place = flushing.batch.place();
        if place == Place::AtEnd && extents.len() > EXTENTS_PER_REQUEST_MAX {
            return Err(FsError::TooBig);
        }
        let mut last = None;
        let parts = extents.len().div_ceil(EXTENTS_PER_REQUEST_MAX);
        for (number, part) in extents.chunks(EXTENTS_PER_REQUEST_MAX).enumerate() {
            let op = Op::Write {
                inode,
                place,
                extents: part.to_vec(),
                length: 0,
                mtime: flushing.mtime,
                expect: None,
                kill_priv: flushing.kill_priv,
                set: if number + 1 == parts { flushing.set } else { SetAttr::default() },
                staged: staged.to_vec(),
            };
            let Reply::Written { attr, base } = self.change(op).await? else { return Err(FsError::Corrupt) };
            last = Some((attr, base));
        }
        let (attr, base) = last.ok_or(FsError::Corrupt)?;
        if place == Place::AtEnd {
            // They counted from an end that was not known yet.
            extents.iter_mut().for_each(|extent| extent.offset = extent.offset.saturating_add(base));
        }
        Ok((attr, base, extents))
    }

    /// What the background does until the mount ends or rests.
    pub async fn run_background(core: Weak<Self>, turn: u64) {
        loop {
            let Some(strong) = core.upgrade() else { return };
            // A mount that is dropped wakes nobody: the wait has an end.
            let _ = tokio::time::timeout(TICK, strong.work.notified()).await;
            if !strong.is_turn(turn) {
                return;
            }
            buffers::trim();
            Delegations::publish_due(&strong);
            Self::flush_due(&strong);
            strong.close_idle().await;
        }
    }

    fn flush_due(core: &Arc<Self>) {
        let due = core.take_due();
        let tight = core.budget.is_tight();
        let now = Instant::now();
        let is_due = |inode: &Arc<Inode>| {
            let state = inode.state();
            let rests = state.retry_at.is_some_and(|at| at > now);
            let old = state.dirty_since.is_some_and(|since| now - since >= AGE_MAX);
            state.is_dirty() && !rests && (tight || old || due.contains(&inode.id))
        };
        for inode in core.watched().into_iter().filter(is_due) {
            if std::mem::replace(&mut inode.state().queued, true) {
                continue;
            }
            let strong = core.clone();
            core.spawn(async move {
                let permit = strong.flushers.acquire().await;
                // The failure is kept in the inode, for whoever closes or syncs it.
                let _ = strong.flush_by(&inode, Way::Long).await;
                drop(permit);
                inode.state().queued = false;
                let id = inode.id;
                drop(inode);
                strong.release_inode(id);
            });
        }
    }

    /// Gives up holds of files that nobody has opened for a while.
    async fn close_idle(&self) {
        let now = Instant::now();
        let is_idle = |inode: &Arc<Inode>| {
            let state = inode.state();
            let idle = state.idle_since.is_some_and(|since| now - since >= HELD_IDLE);
            state.held && state.opens == 0 && !state.is_dirty() && idle
        };
        let idle: Vec<Arc<Inode>> = self.watched().into_iter().filter(is_idle).collect();
        for some in idle.chunks(CLOSES_AT_ONCE) {
            // Whoever is publishing has it open, or is about to be done. None is waited for, lest two wait for each other.
            let free = some.iter().filter_map(|inode| Some((&**inode, inode.try_publishing()?)));
            if let Err(error) = self.close_holds(free.collect()).await {
                tracing::debug!(files = some.len(), %error, "cannot give up idle files now");
            }
        }
        // Only now nobody here refers to them: those that the kernel has forgotten meanwhile nobody else releases.
        let closed: Vec<InodeId> = idle.into_iter().map(|inode| inode.id).collect();
        closed.into_iter().for_each(|inode| self.release_inode(inode));
    }

    /// Tells the partition that this mount does not hold a file any more, if nobody has it open.
    pub async fn close_hold(&self, inode: &Inode) -> Result<(), FsError> {
        self.close_holds(vec![(inode, inode.publishing().await)]).await
    }

    /// The same of several files in one change, of which nothing is being published.
    async fn close_holds(&self, mut files: Vec<(&Inode, MutexGuard<'_, ()>)>) -> Result<(), FsError> {
        files.retain(|(inode, _)| {
            let mut state = inode.state();
            let closes = state.held && state.opens == 0 && !state.is_dirty();
            if closes {
                // An open that comes now waits for `publish`, and holds it anew.
                state.held = false;
                state.idle_since = None;
            }
            closes
        });
        if files.is_empty() {
            return Ok(());
        }
        let closed =
            self.change(Op::Close { inodes: files.iter().map(|(inode, _)| inode.id).collect() }).await;
        if let Err(error) = closed
            && !is_final(error)
        {
            for (inode, _) in files {
                let mut state = inode.state();
                state.held = true;
                state.idle_since = Some(Instant::now());
                drop(state);
                self.watch(inode.id);
            }
            return Err(error);
        }
        Ok(())
    }
}

/// Puts what is under way back when the future is dropped half-way.
struct Started<'a> {
    core: &'a Core,
    inode: &'a Inode,
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        let mut state = self.inode.state();
        if state.is_under_way() {
            let covered = state.fail(FsError::Interrupted);
            drop(state);
            self.core.budget.free(covered);
        }
    }
}
