//! Delegated directories that other mounts wait for: what a partition's leader does, in one process.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use curvefs_types::{InodeId, MountId};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::locked;

/// How long a holder is asked when nothing is waited for.
const POLL_WAIT: Duration = Duration::from_secs(1);
/// A holder that does not give back within this is taken for dead.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is waited for.
#[derive(Default)]
pub struct Recalls {
    wanted: Mutex<BTreeMap<InodeId, (MountId, Instant)>>,
    /// Something is waited for, or was given back.
    news: watch::Sender<()>,
}

impl Recalls {
    /// Something has changed.
    pub fn ring(&self) {
        self.news.send_replace(());
    }

    /// Follows what changes from now on.
    pub fn follow(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    /// Waits until something has changed, but no longer than the holder's time. True: its time is over.
    pub async fn wait_for(&self, dir: InodeId, holder: MountId, mut news: watch::Receiver<()>) -> bool {
        let now = Instant::now();
        let (since, is_new) = {
            let mut wanted = locked(&self.wanted);
            let known = wanted.get(&dir).copied().filter(|(known, _)| *known == holder);
            let (_, since) = known.unwrap_or((holder, now));
            wanted.insert(dir, (holder, since));
            (since, known.is_none())
        };
        if is_new {
            // This wakes us too, once: the holder may have given back before it was noted.
            self.ring();
        }
        // The sender is ours.
        timeout_at(since + PATIENCE, news.changed()).await.is_err()
    }

    /// Nobody has the directory any more.
    pub fn done(&self, dir: InodeId) {
        locked(&self.wanted).remove(&dir);
        self.ring();
    }

    /// What of a mount's is waited for, when there is something that it does not know, or after a while.
    pub async fn of(&self, mount: MountId, known: &[InodeId]) -> Vec<InodeId> {
        let until = Instant::now() + POLL_WAIT;
        let mut news = self.news.subscribe();
        loop {
            news.borrow_and_update();
            let wanted: Vec<InodeId> = {
                let wanted = locked(&self.wanted);
                wanted.iter().filter(|(_, (holder, _))| *holder == mount).map(|(dir, _)| *dir).collect()
            };
            let has_new = wanted.iter().any(|dir| !known.contains(dir));
            if has_new || timeout_at(until, news.changed()).await.is_err() {
                return wanted;
            }
        }
    }
}
