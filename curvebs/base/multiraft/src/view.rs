//! What a group's task lets others see.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;
use tokio::time::Instant;

use crate::engine::Role;
use crate::types::{LeaderId, LogId, StoredMembership};

/// Until when this node may serve reads without asking anyone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lease {
    None,
    Until(Instant),
    /// It is the only voter.
    Always,
}

/// A replica as its task saw it last.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) role: Role,
    pub(crate) term: u64,
    /// Who leads this term, as far as is known.
    pub(crate) leader: Option<u64>,
    /// This node leads, and an entry of its own term is applied.
    pub(crate) serves: bool,
    pub(crate) lease: Lease,
    pub(crate) last: LogId,
    pub(crate) committed: u64,
    pub(crate) applied: LogId,
    pub(crate) purged: u64,
    /// What the last checkpoint made durable.
    pub(crate) checkpointed: u64,
    pub(crate) membership: Arc<StoredMembership>,
    /// The others, and up to where their logs are known to be the same; empty unless this node leads.
    pub(crate) peers: Vec<(u64, u64)>,
    /// Proposed entries that are not yet applied.
    pub(crate) rounds: usize,
}

impl View {
    /// The term this node leads, if it does.
    pub(crate) fn leading(&self) -> Option<LeaderId> {
        (self.role == Role::Leader).then(|| self.followed()).flatten()
    }

    /// The leader this node follows, or is.
    pub(crate) fn followed(&self) -> Option<LeaderId> {
        self.leader.map(|node_id| LeaderId { term: self.term, node_id })
    }

    /// How far another member is.
    pub(crate) fn matched(&self, node: u64) -> Option<u64> {
        self.peers.iter().find(|(peer, _)| *peer == node).map(|(_, matched)| *matched)
    }
}

/// The view, and a bell for those who wait for it to change.
pub(crate) struct Published {
    view: Mutex<View>,
    changed: watch::Sender<()>,
}

/// The group's task has ended.
#[derive(Debug)]
pub(crate) struct Ended;

impl Published {
    pub(crate) fn new(view: View) -> Self {
        Self { view: Mutex::new(view), changed: watch::Sender::new(()) }
    }

    /// Locked for reading a few fields only.
    pub(crate) fn lock(&self) -> MutexGuard<'_, View> {
        self.view.lock().expect("never poisoned")
    }

    /// Changes the view, and rings if anyone waits.
    pub(crate) fn update(&self, change: impl FnOnce(&mut View)) {
        change(&mut self.lock());
        if self.changed.receiver_count() > 0 {
            self.changed.send_replace(());
        }
    }

    /// Waits until the view is as wanted, for ever if it never is.
    pub(crate) async fn wait_until(&self, mut wanted: impl FnMut(&View) -> bool) -> Result<(), Ended> {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if wanted(&self.lock()) {
                return Ok(());
            }
            changed.changed().await.map_err(|_| Ended)?;
        }
    }
}
