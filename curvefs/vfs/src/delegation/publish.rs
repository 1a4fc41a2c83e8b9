//! Publishing: bytes first, then batches of files, one batch of a slot at a time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use curvefs_types::limits::BORN_PER_REQUEST_MAX;
use curvefs_types::{FsError, InodeId, Op, Reply};
use futures::StreamExt;
use tokio::sync::{OwnedMutexGuard, oneshot};

use super::Delegations;
use super::table::Batch;
use crate::shared::Core;

/// What was made is published after about so long.
const AGE_MAX: Duration = Duration::from_millis(500);
/// How long names wait for bytes that the store does not take.
const STORE_PATIENCE: Duration = Duration::from_secs(3);
/// Files whose bytes are stored at once.
const STORED_AT_ONCE: usize = 32;
/// Batches of one call; more than the files that may be unpublished need.
const ROUNDS_MAX: usize = 256;

impl Delegations {
    /// The lane of a slot.
    pub(super) fn lane(&self, slot: u32) -> Arc<tokio::sync::Mutex<()>> {
        crate::shared::locked(&self.lanes).entry(slot).or_default().clone()
    }

    /// Publishes a file, so that it is durable, with its name. Its bytes are the caller's to store before.
    pub async fn sync(&self, inode: InodeId) -> Result<(), FsError> {
        for _ in 0..ROUNDS_MAX {
            let dir = {
                let mut table = self.table();
                if let Some(error) = table.lost.get(&inode) {
                    return Err(*error);
                }
                let Some(birth) = table.births.get_mut(&inode) else { return Ok(()) };
                if !birth.sent {
                    birth.lazy = None;
                }
                birth.dir
            };
            self.round(dir.slot(), Some(dir), &[]).await?;
        }
        Err(FsError::Busy)
    }

    /// Publishes everything that was made in a directory until now.
    pub async fn publish_dir(&self, dir: InodeId) -> Result<(), FsError> {
        let until = self.table().now();
        for _ in 0..ROUNDS_MAX {
            let quiet = self.table().dirs.get(&dir).is_none_or(|dir| dir.is_quiet());
            if quiet || !self.step(dir.slot(), Some(dir), until).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Publishes everything of a slot that was made until now.
    pub async fn drain(&self, slot: u32) -> Result<(), FsError> {
        let until = self.table().now();
        for _ in 0..ROUNDS_MAX {
            if !self.step(slot, None, until).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Publishes a batch of a slot, the bytes of closed files first; false: there is nothing more.
    pub(super) async fn step(&self, slot: u32, only: Option<InodeId>, until: u64) -> Result<bool, FsError> {
        let stored = self.store_lazies(slot, only, until).await;
        let sent = self.round(slot, only, &[]).await?;
        Ok(stored || sent)
    }

    /// Publishes everything.
    pub async fn publish_all(&self) -> Result<(), FsError> {
        let slots = self.table().slots();
        let drained = slots.into_iter().map(|slot| self.drain(slot));
        futures::future::join_all(drained).await.into_iter().collect()
    }

    /// Gives a directory back. Without its being there nothing is to be done.
    pub async fn give_back(&self, dir: InodeId) -> Result<(), FsError> {
        for _ in 0..ROUNDS_MAX {
            match self.table().dirs.get_mut(&dir) {
                Some(dir) => dir.closing = true,
                None => return Ok(()),
            }
            while self.store_lazies(dir.slot(), Some(dir), u64::MAX).await {}
            self.round(dir.slot(), Some(dir), &[dir]).await?;
        }
        Err(FsError::Busy)
    }

    /// Gives everything back: at the end of the mount, or of this process's part of it.
    pub async fn give_all_back(&self) -> Result<(), FsError> {
        let dirs: Vec<InodeId> = {
            let mut table = self.table();
            table.fresh.retain(|_, fresh| fresh.asked);
            table.dirs.values_mut().for_each(|dir| dir.closing = true);
            table.dirs.keys().copied().collect()
        };
        let mut result = Ok(());
        for dir in dirs {
            result = result.and(self.give_back(dir).await);
        }
        self.gone.send_replace(());
        result
    }

    /// Stores the bytes of some files that were closed; false: there are none. What the store does not take in a while is not
    /// waited for.
    async fn store_lazies(&self, slot: u32, only: Option<InodeId>, until: u64) -> bool {
        let lazies = self.table().lazies(slot, only, until);
        let Ok(core) = self.core() else { return false };
        if lazies.is_empty() {
            return false;
        }
        let store = |(id, lazy): (InodeId, u64)| {
            let core = &core;
            async move {
                if let Some(inode) = core.known(id) {
                    // The failure is kept in the inode, for whoever syncs it.
                    let _ = core.flush(&inode).await;
                }
                self.table().stored(id, lazy);
            }
        };
        let some = lazies.iter().copied().take(BORN_PER_REQUEST_MAX);
        let all = futures::stream::iter(some).for_each_concurrent(STORED_AT_ONCE, store);
        if tokio::time::timeout(STORE_PATIENCE, all).await.is_err() {
            tracing::warn!(files = lazies.len(), "the store is slow: names are published before their bytes");
            let mut table = self.table();
            lazies.into_iter().for_each(|(id, lazy)| table.stored(id, lazy));
        }
        true
    }

    /// Publishes one batch of a slot; false: there was nothing.
    async fn round(&self, slot: u32, first: Option<InodeId>, give: &[InodeId]) -> Result<bool, FsError> {
        let core = self.core()?;
        let lane = self.lane(slot).lock_owned().await;
        let taken = self.table().take(slot, first, give, |inode| core.still_held(inode));
        match taken {
            Some((op, batch)) => self.send(&core, lane, op, batch).await.map(|()| true),
            None => Ok(false),
        }
    }

    /// Gets numbers for new files of a slot.
    pub(super) async fn get_numbers(&self, dir: InodeId) -> Result<(), FsError> {
        let core = self.core()?;
        let lane = self.lane(dir.slot()).lock_owned().await;
        let (op, batch) = self.table().numbers_only(dir);
        self.send(&core, lane, op, batch).await?;
        let mut table = self.table();
        if !table.has_numbers(dir)
            && let Some(dir) = table.dirs.get_mut(&dir)
        {
            // The partition has none to give: it makes the files itself.
            dir.closing = true;
        }
        Ok(())
    }

    /// Gives back directories that are used least, if there are many.
    pub(super) async fn make_room(&self, slot: u32, limit: usize, give: usize) -> Result<(), FsError> {
        let old = self.table().too_many(slot, limit, give);
        if !old.is_empty() {
            self.round(slot, old.first().copied(), &old).await?;
        }
        Ok(())
    }

    /// Sends a batch, in a task of its own: it must not be dropped half-way, or nobody knew what became of it.
    async fn send(
        &self,
        core: &Arc<Core>,
        lane: OwnedMutexGuard<()>,
        op: Op,
        batch: Batch,
    ) -> Result<(), FsError> {
        let (tell, told) = oneshot::channel();
        let (inner, meta) = (self.inner.clone(), core.meta.clone());
        let weak = Arc::downgrade(core);
        core.spawn(async move {
            let outcome = inner.change(op).await;
            meta.totals.batches.fetch_add(1, Ordering::Relaxed);
            let lost = meta.table().end(batch, &outcome);
            drop(lane);
            meta.gone.send_replace(());
            if let Some(core) = weak.upgrade() {
                meta.tell_lost(&core, lost);
            }
            // Whoever waited may have gone.
            let _ = tell.send(outcome.map(|_: Reply| ()));
        });
        told.await.unwrap_or(Err(FsError::Stopped))
    }

    fn tell_lost(&self, core: &Core, lost: Vec<(InodeId, FsError)>) {
        if lost.is_empty() {
            return;
        }
        self.totals.lost.fetch_add(lost.len() as u64, Ordering::Relaxed);
        tracing::error!(files = lost.len(), error = %lost[0].1, "files that were not synced are lost");
        lost.into_iter().for_each(|(inode, error)| core.lose(inode, error));
    }

    /// What the background does: publishes what is old or much, a task for each slot.
    pub fn publish_due(core: &Arc<Core>) {
        let due = {
            let mut table = core.meta.table();
            if table.dirs.is_empty() {
                return;
            }
            let due = table.due(AGE_MAX);
            table.busy.extend(&due);
            due
        };
        for slot in due {
            let meta = core.meta.clone();
            core.spawn(async move {
                if let Err(error) = meta.drain(slot).await {
                    tracing::warn!(%error, code = error.code(), "cannot publish new files");
                }
                let closing = meta.table().closing(slot);
                for dir in closing {
                    // It is tried again.
                    let _ = meta.give_back(dir).await;
                }
                let is_much = {
                    let mut table = meta.table();
                    table.busy.remove(&slot);
                    table.is_much(slot)
                };
                if let (true, Ok(core)) = (is_much, meta.core()) {
                    core.work.notify_one();
                }
            });
        }
    }
}
