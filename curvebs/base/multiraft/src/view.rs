//! What a group's task lets others see.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use curve_io::Pledge;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::engine::Role;
use crate::flags::GroupFlags;
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

/// The view, a bell for those who wait for it to change, and what others on this machine see of it.
pub(crate) struct Published {
    view: Mutex<View>,
    changed: watch::Sender<()>,
    flags: Arc<GroupFlags>,
    lease_reads: bool,
    pledge: OnceLock<Arc<Pledge>>,
    /// The term of the last pledge. Changed with the view locked only.
    pledged_term: AtomicU64,
}

/// The group's task has ended.
#[derive(Debug)]
pub(crate) struct Ended;

impl Published {
    /// Without `lease_reads` no lease serves reads.
    pub(crate) fn new(view: View, flags: Arc<GroupFlags>, lease_reads: bool) -> Self {
        Self {
            view: Mutex::new(view),
            changed: watch::Sender::new(()),
            flags,
            lease_reads,
            pledge: OnceLock::new(),
            pledged_term: AtomicU64::new(0),
        }
    }

    /// Tells readers on this machine from now on until when this node may serve reads. Once.
    pub(crate) fn pledge_on(&self, pledge: Arc<Pledge>) {
        assert!(self.pledge.set(pledge).is_ok(), "a group pledges in one place");
        self.update(|_| {});
    }

    /// Whoever leads, serves and may read under its lease pledges that lease. The end of a term ends what was answered in it.
    fn pledge(&self, view: &View) {
        let Some(pledge) = self.pledge.get() else { return };
        let lease = view.leading().map_or(Lease::None, |leader| self.lease(view, leader));
        if lease != Lease::None && self.pledged_term.swap(view.term, Ordering::Relaxed) != view.term {
            pledge.change();
        }
        match lease {
            Lease::None => pledge.hold(None),
            Lease::Until(until) => pledge.hold(Some(until)),
            Lease::Always => pledge.hold_always(),
        }
    }

    /// The lease under which this node, which leads, may serve reads.
    pub(crate) fn lease(&self, view: &View, leader: LeaderId) -> Lease {
        match view.lease {
            // Without an entry of its own term applied, entries that an earlier leader acknowledged may be missing.
            _ if !view.serves => Lease::None,
            Lease::Until(_) if !self.lease_reads || !self.flags.lease_reads_allowed(leader) => Lease::None,
            lease => lease,
        }
    }

    /// No reads under the lease of this leader any more, by nobody.
    pub(crate) fn stop_lease_reads(&self, leader: LeaderId) {
        self.flags.stop_lease_reads(leader);
        self.update(|_| {});
    }

    /// Locked for reading a few fields only.
    pub(crate) fn lock(&self) -> MutexGuard<'_, View> {
        self.view.lock().expect("never poisoned")
    }

    /// Changes the view, and rings if anyone waits.
    pub(crate) fn update(&self, change: impl FnOnce(&mut View)) {
        let mut view = self.lock();
        change(&mut view);
        self.pledge(&view);
        drop(view);
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
