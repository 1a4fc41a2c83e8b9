//! Publishing: bytes first, then batches of files, one batch of a slot at a time.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use curvefs_types::limits::BORN_PER_REQUEST_MAX;
use curvefs_types::{FsError, InodeId, Op, Reply};
use futures::StreamExt;
use tokio::sync::{OwnedMutexGuard, oneshot};

use super::Delegations;
use super::pack::{self, Packed, Packs};
use super::table::{Batch, Wrote};
use crate::shared::Core;

/// What was made is published after about so long.
const AGE_MAX: Duration = Duration::from_millis(500);
/// How long names wait for bytes that the store does not take.
const STORE_PATIENCE: Duration = Duration::from_secs(3);
/// Files whose bytes are stored at once.
const STORED_AT_ONCE: usize = 32;
/// Batches of one call; more than the files that may be unpublished need.
const ROUNDS_MAX: usize = 256;

/// What is stored by itself.
enum Job {
    File(InodeId, u64),
    Slice(Vec<Packed>),
}

impl Delegations {
    /// Publishes a file, so that it is durable, with its names. Its bytes are the caller's to store before.
    pub async fn sync(&self, inode: InodeId) -> Result<(), FsError> {
        for _ in 0..ROUNDS_MAX {
            let (dir, was_lazy) = {
                let mut table = self.table();
                if let Some(error) = table.lost.get(&inode) {
                    return Err(*error);
                }
                match table.births.get_mut(&inode) {
                    Some(birth) => (birth.dir, !birth.sent && birth.lazy.take().is_some()),
                    None => match table.moving.get(&inode).and_then(|lines| lines.first()) {
                        Some(line) => (line.dir, false),
                        None => return table.undone.remove(&inode).map_or(Ok(()), Err),
                    },
                }
            };
            if was_lazy {
                // Bytes that came meanwhile follow at once.
                self.core()?.set_due(inode);
            }
            self.round(dir.slot(), Some(dir), &[], Packs::new()).await?;
        }
        Err(FsError::Busy)
    }

    /// Publishes a directory, for somebody who is told of what was lost.
    pub async fn sync_dir(&self, dir: InodeId) -> Result<(), FsError> {
        self.publish_dir(dir).await?;
        self.table().undone.remove(&dir).map_or(Ok(()), Err)
    }

    /// Publishes names that were moved or removed.
    pub(super) async fn publish_moves(&self, slot: u32) -> Result<(), FsError> {
        self.round(slot, None, &[], Packs::new()).await.map(drop)
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
        Ok(self.step_lazies(slot, only, until).await? || self.round(slot, only, &[], Packs::new()).await?)
    }

    /// The same if bytes of closed files wait; false: there are none.
    async fn step_lazies(&self, slot: u32, only: Option<InodeId>, until: u64) -> Result<bool, FsError> {
        // One at a time: each takes files for itself, and two would wait for what the other has.
        let storing = self.storing.of(slot);
        let _one = storing.lock().await;
        match self.store_lazies(slot, only, until).await {
            Some(packs) => self.round(slot, only, &[], packs).await.map(|_| true),
            None => Ok(false),
        }
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
            while self.step_lazies(dir.slot(), Some(dir), u64::MAX).await? {}
            self.round(dir.slot(), Some(dir), &[dir], Packs::new()).await?;
        }
        Err(FsError::Busy)
    }

    /// Gives everything back: at the end of the mount, or of this process's part of it.
    pub async fn give_all_back(&self) -> Result<(), FsError> {
        let dirs: Vec<InodeId> = {
            let mut table = self.table();
            table.fresh.retain(|_, fresh| fresh.asked);
            table.wishes.clear();
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

    /// Stores the bytes of some files that were closed: those of small ones together, which are named with the next batch. `None`: there
    /// are none. What the store does not take in a while is not waited for.
    async fn store_lazies(&self, slot: u32, only: Option<InodeId>, until: u64) -> Option<Packs> {
        let core = self.core().ok()?;
        let lazies: Vec<_> = {
            let table = self.table();
            let some = table.lazies(slot, only, until).into_iter().take(BORN_PER_REQUEST_MAX);
            some.map(|(id, lazy)| (id, lazy, table.may_pack(id))).collect()
        };
        if lazies.is_empty() {
            return None;
        }
        let (mut small, mut others) = (Vec::new(), Vec::new());
        for (id, lazy, may_pack) in &lazies {
            let file = core.known(*id).filter(|_| *may_pack);
            match file.and_then(|inode| Packed::begin(&core, inode, *lazy)) {
                Some(packed) => small.push(packed),
                None => others.push((*id, *lazy)),
            }
        }
        let jobs = pack::slices(small).into_iter().map(Job::Slice);
        let jobs = jobs.chain(others.into_iter().map(|(id, lazy)| Job::File(id, lazy)));
        let jobs = jobs.map(|job| self.store_job(&core, job));
        let mut packs = Packs::new();
        let all = futures::stream::iter(jobs).buffer_unordered(STORED_AT_ONCE).for_each(|stored| {
            packs.extend(stored.into_iter().map(|file| (file.id(), file)));
            std::future::ready(())
        });
        let is_slow = tokio::time::timeout(STORE_PATIENCE, all).await.is_err();
        if is_slow {
            tracing::warn!(files = lazies.len(), "the store is slow: names are published before their bytes");
            let mut table = self.table();
            let left = lazies.into_iter().filter(|(id, ..)| !packs.contains_key(id));
            left.for_each(|(id, lazy, _)| table.stored(id, lazy));
        }
        Some(packs)
    }

    /// Gives the files that share a slice, if they are stored.
    async fn store_job(&self, core: &Core, job: Job) -> Vec<Packed> {
        let files = match job {
            Job::Slice(files) => files,
            Job::File(id, lazy) => {
                self.store_one(core, id, lazy).await;
                return Vec::new();
            }
        };
        let ids: Vec<_> = files.iter().map(|file| (file.id(), file.lazy)).collect();
        if let Ok(stored) = pack::store(core, files).await {
            return stored;
        }
        // Each by itself, which keeps its failure.
        for (id, lazy) in ids {
            self.store_one(core, id, lazy).await;
        }
        Vec::new()
    }

    async fn store_one(&self, core: &Core, id: InodeId, lazy: u64) {
        if let Some(inode) = core.known(id) {
            // The failure is kept in the inode, for whoever syncs it.
            let _ = core.flush(&inode).await;
        }
        self.table().stored(id, lazy);
    }

    /// Publishes one batch of a slot; false: there was nothing.
    async fn round(
        &self,
        slot: u32,
        first: Option<InodeId>,
        give: &[InodeId],
        packs: Packs,
    ) -> Result<bool, FsError> {
        let core = self.core()?;
        let lane = self.lanes.of(slot).lock_owned().await;
        let taken = {
            let packed = packs.iter().map(|(id, file)| (*id, (file.lazy, file.written()))).collect();
            self.table().take(slot, first, give, &packed, |inode| core.still_held(inode))
        };
        match taken {
            Some((op, batch)) => self.send(&core, lane, op, batch, packs).await.map(|()| true),
            None => Ok(false),
        }
    }

    /// Gets numbers for new files of a slot.
    pub(super) async fn get_numbers(&self, id: InodeId) -> Result<(), FsError> {
        let core = self.core()?;
        let lane = self.lanes.of(id.slot()).lock_owned().await;
        let (op, batch) = self.table().numbers_only(id);
        self.send(&core, lane, op, batch, Packs::new()).await?;
        let mut table = self.table();
        if !table.has_numbers(id)
            && let Some(dir) = table.dirs.get_mut(&id)
        {
            // The partition has none to give: it makes the files itself.
            dir.closing = true;
            table.shun(id);
        }
        Ok(())
    }

    /// Gives back directories that are used least, if there are many.
    pub(super) async fn make_room(&self, slot: u32, limit: usize, give: usize) -> Result<(), FsError> {
        let old = self.table().too_many(slot, limit, give);
        if !old.is_empty() {
            self.round(slot, old.first().copied(), &old, Packs::new()).await?;
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
        packs: Packs,
    ) -> Result<(), FsError> {
        let (tell, told) = oneshot::channel();
        let (inner, meta) = (self.inner.clone(), core.meta.clone());
        let weak = Arc::downgrade(core);
        core.spawn(async move {
            let outcome = inner.change(op).await;
            meta.totals.batches.fetch_add(1, Ordering::Relaxed);
            let wrote = batch.wrote.clone();
            let lost = meta.table().end(batch, &outcome);
            drop(lane);
            meta.gone.send_replace(());
            let is_lost: HashSet<InodeId> = lost.iter().map(|(inode, _)| *inode).collect();
            for (id, file) in packs {
                match wrote.get(&id).filter(|_| outcome.is_ok() && !is_lost.contains(&id)) {
                    Some(Wrote { attr, base, .. }) => file.published(*attr, *base),
                    None => drop(file),
                }
            }
            if let Some(core) = weak.upgrade() {
                meta.tell_lost(&core, lost);
                meta.tell_undone(&core);
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

    /// Names are what they were: what the kernel knows of their files and directories is wrong.
    fn tell_undone(&self, core: &Core) {
        let undone = std::mem::take(&mut self.table().untold);
        if undone.is_empty() {
            return;
        }
        tracing::error!(inodes = undone.len(), "changes of names that were not synced are lost");
        for inode in undone {
            if let Some(known) = core.known(inode) {
                known.state().stale();
            }
            if let Some(kernel) = core.kernel.get() {
                kernel.forget_inode(inode);
            }
        }
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
