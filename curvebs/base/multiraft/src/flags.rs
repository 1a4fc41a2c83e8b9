//! Small facts of one group that several of its tasks share.

use std::sync::{Mutex, MutexGuard};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::trail::Trail;
use crate::types::LeaderId;

/// Small facts of one group that several of its tasks share.
#[derive(Default)]
pub(crate) struct GroupFlags {
    no_lease_reads: Mutex<Option<LeaderId>>,
    installing: AtomicBool,
    stopping: AtomicBool,
    trail: Mutex<Trail>,
}

impl GroupFlags {
    /// No reads under the lease of this leader any more: it has asked another node to take over, whose election does
    /// not wait for the lease to end. The message may arrive late, so the leader keeps to reads by message.
    pub(crate) fn stop_lease_reads(&self, leader: LeaderId) {
        *self.no_lease_reads.lock().expect("never poisoned") = Some(leader);
    }

    /// Whether the lease of this leader may serve reads.
    pub(crate) fn lease_reads_allowed(&self, leader: LeaderId) -> bool {
        *self.no_lease_reads.lock().expect("never poisoned") != Some(leader)
    }

    /// Marks that a snapshot is being installed; false if one is already.
    pub(crate) fn begin_install(&self) -> bool {
        !self.installing.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn end_install(&self) {
        self.installing.store(false, Ordering::Release);
    }

    pub(crate) fn is_installing(&self) -> bool {
        self.installing.load(Ordering::Acquire)
    }

    /// Where the bytes of the group's log are.
    pub(crate) fn trail(&self) -> MutexGuard<'_, Trail> {
        self.trail.lock().expect("never poisoned")
    }

    /// Marks that the group is stopped on purpose.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}
