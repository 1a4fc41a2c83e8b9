//! Small facts of one group that several of its tasks share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use crate::trail::Trail;
use crate::types::LeaderId;
use crate::wire::Sleep;

/// Small facts of one group that several of its tasks share.
#[derive(Default)]
pub(crate) struct GroupFlags {
    no_lease_reads: Mutex<Option<LeaderId>>,
    installing: AtomicBool,
    stopping: AtomicBool,
    trail: Mutex<Trail>,
    /// Grows with each operation that needs the group awake.
    touches: AtomicU64,
    /// Whether `rest` is a kind of sleep.
    asleep: AtomicBool,
    rest: Mutex<Rest>,
}

/// Whether a group's timers are on.
#[derive(Default)]
enum Rest {
    #[default]
    Awake,
    /// This node leads it, and this is what it tells the members.
    Leading(Sleep),
    /// Another node leads it, and has said so last at this time.
    Following(LeaderId, Instant),
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

    /// Notes an operation that needs the group awake; tells whether it sleeps.
    pub(crate) fn touch(&self) -> bool {
        self.touches.fetch_add(1, Ordering::SeqCst);
        self.is_asleep()
    }

    pub(crate) fn touches(&self) -> u64 {
        self.touches.load(Ordering::SeqCst)
    }

    pub(crate) fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::SeqCst)
    }

    fn rest(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().expect("never poisoned")
    }

    /// Marks that the group sleeps and that this node leads it.
    pub(crate) fn sleep_leading(&self, sleep: Sleep) {
        *self.rest() = Rest::Leading(sleep);
        self.asleep.store(true, Ordering::SeqCst);
    }

    /// Marks that the group sleeps and was just named by its leader.
    pub(crate) fn sleep_following(&self, leader: LeaderId) {
        *self.rest() = Rest::Following(leader, Instant::now());
        self.asleep.store(true, Ordering::SeqCst);
    }

    /// Marks that the group is awake; false if it was already.
    pub(crate) fn wake(&self) -> bool {
        let mut rest = self.rest();
        let slept = matches!(*rest, Rest::Leading(_) | Rest::Following(..));
        if slept {
            *rest = Rest::Awake;
            self.asleep.store(false, Ordering::SeqCst);
        }
        slept
    }

    /// What a sleeping group's leader tells the members.
    pub(crate) fn led_asleep(&self) -> Option<Sleep> {
        match &*self.rest() {
            Rest::Leading(sleep) => Some(*sleep),
            Rest::Awake | Rest::Following(..) => None,
        }
    }

    /// Notes that a sleeping group was named by the leader it sleeps under; false if it does not.
    pub(crate) fn hear(&self, leader: LeaderId) -> bool {
        match &mut *self.rest() {
            Rest::Following(known, heard) if *known == leader => {
                *heard = Instant::now();
                true
            }
            _ => false,
        }
    }

    /// Whether a sleeping group was named by its leader within this time.
    pub(crate) fn heard_within(&self, time: Duration) -> bool {
        matches!(&*self.rest(), Rest::Following(_, heard) if heard.elapsed() < time)
    }
}
