//! Asking for directories, and giving back those that others wait for.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use curvefs_types::limits::DELEGATIONS_PER_MOUNT_MAX;
use curvefs_types::{Answer, FsError, InodeId, Op, Query, Reply};
use tokio::sync::oneshot;

use super::Delegations;
use super::table::of_nothing;
use crate::shared::Core;

/// Numbers that come with the first directory.
const NUMBERS: u32 = 1024;
/// Directories of a slot that are given back when there are as many as there may be.
const GIVEN_BACK: usize = 64;
/// A directory with more names is not listed.
const LISTED_MAX: u32 = 16 << 10;
/// Names of one question.
const LISTED_AT_ONCE: u32 = 2048;
/// After a question that was not answered.
const PAUSE: Duration = Duration::from_millis(200);

impl Delegations {
    /// Asks for a directory, once. Whatever comes of it, files can be made.
    pub(super) async fn ask_for(&self, dir: InodeId) -> Result<(), FsError> {
        let core = self.core()?;
        let Some((knows, reserve)) = self.table().ask(dir, NUMBERS) else { return Ok(()) };
        self.make_room(dir.slot(), DELEGATIONS_PER_MOUNT_MAX - 1, GIVEN_BACK).await?;
        let is_foreign = knows.is_none();
        let (tell, told) = oneshot::channel();
        let (inner, meta, weak) = (self.inner.clone(), core.meta.clone(), Arc::downgrade(&core));
        // Of its own: a grant that nobody heard of would be in the way of others.
        core.spawn(async move {
            match inner.change(Op::Delegate { dir, knows, reserve }).await {
                Ok(Reply::Delegated { attr, reserved }) => {
                    // Somebody else may have changed it before, if this mount did not make it just now.
                    let known = weak.upgrade().and_then(|core| core.known(dir));
                    if let Some(inode) = known.filter(|_| is_foreign) {
                        inode.state().default_acl = None;
                    }
                    if meta.table().granted(dir, attr, reserved) {
                        meta.begin_polling(&weak, dir.slot());
                        meta.begin_listing(&weak, dir);
                    } else {
                        let _ = meta.give_back(dir).await;
                    }
                }
                Ok(_) => meta.refused(dir),
                Err(error) => {
                    tracing::debug!(%dir, %error, "not delegated");
                    meta.refused(dir);
                }
            }
            // Whoever asked may have gone.
            let _ = tell.send(());
        });
        told.await.map_err(|_| FsError::Stopped)
    }

    fn refused(&self, dir: InodeId) {
        let mut table = self.table();
        table.fresh.remove(&dir);
        table.shun(dir);
    }

    fn begin_polling(&self, core: &Weak<Core>, slot: u32) {
        if let (true, Some(strong)) = (self.table().polling.insert(slot), core.upgrade()) {
            strong.spawn(poll(core.clone(), slot));
        }
    }

    /// Learns which names are in a directory, unless it is known.
    fn begin_listing(&self, core: &Weak<Core>, dir: InodeId) {
        let unlisted = self.table().dirs.get(&dir).filter(|dir| !dir.listed).map(|dir| dir.since);
        if let (Some(since), Some(strong)) = (unlisted, core.upgrade()) {
            let meta = strong.meta.clone();
            strong.spawn(async move {
                if let Err(error) = meta.list(dir, since).await {
                    tracing::debug!(%dir, %error, "not listed");
                }
            });
        }
    }

    /// Without it names are asked for one by one.
    async fn list(&self, dir: InodeId, since: u64) -> Result<(), FsError> {
        let mut after = None;
        for _ in 0..LISTED_MAX / LISTED_AT_ONCE {
            let query = Query::ReadDir { inode: dir, after, limit: LISTED_AT_ONCE, plus: false };
            let moment = self.table().moment(&query);
            let answer = self.inner.query(query).await;
            let mut table = self.table();
            if let Some(moment) = moment {
                table.learn(moment, &answer);
            }
            let Answer::Page { entries, end } = answer? else { return Err(FsError::Corrupt) };
            if table.list(dir, since, &entries, end).is_none() || end {
                return Ok(());
            }
            after = entries.last().map(|entry| entry.name.clone());
        }
        Ok(())
    }

    /// Others wait for a directory.
    fn recalled(&self, core: &Arc<Core>, dir: InodeId) {
        self.totals.recalls.fetch_add(1, Ordering::Relaxed);
        let is_known = {
            let mut table = self.table();
            table.shun(dir);
            if let Some(fresh) = table.fresh.get_mut(&dir).filter(|fresh| fresh.asked) {
                fresh.recalled = true;
                return;
            }
            table.dirs.get_mut(&dir).map(|dir| dir.closing = true).is_some()
        };
        let meta = core.meta.clone();
        core.spawn(async move {
            let given = if is_known {
                meta.give_back(dir).await
            } else {
                // Of a process before this one.
                let none = of_nothing(dir, 0, true);
                let op = Op::Publish { dirs: vec![none], lowest: InodeId(0), reserve: 0 };
                meta.inner.change(op).await.map(drop)
            };
            if let Err(error) = given {
                tracing::warn!(%dir, %error, code = error.code(), "cannot give a directory back now");
            }
        });
    }
}

/// Asks for recalls of a slot as long as something there is delegated.
async fn poll(core: Weak<Core>, slot: u32) {
    loop {
        let Some(strong) = core.upgrade() else { return };
        let meta = strong.meta.clone();
        drop(strong);
        let mut gone = meta.gone.subscribe();
        let Some((inode, known)) = meta.table().poll_for(slot) else { return };
        let asking = meta.inner.query(Query::Recalls { inode, known: known.clone() });
        let answer = tokio::select! {
            answer = asking => answer,
            // The sender lives as long as `meta`.
            _ = gone.wait_for(|()| !meta.table().has_slot(slot)) => continue,
        };
        match answer {
            Ok(Answer::Recalls { dirs }) => {
                let Some(core) = core.upgrade() else { return };
                dirs.into_iter().filter(|dir| !known.contains(dir)).for_each(|dir| meta.recalled(&core, dir));
            }
            Err(error @ (FsError::Fenced | FsError::Stopped)) => {
                meta.table().polling.remove(&slot);
                tracing::debug!(%error, "nobody is asked for recalls any more");
                return;
            }
            other => {
                tracing::debug!(?other, "no recalls are told");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
