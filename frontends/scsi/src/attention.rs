//! Unit attentions pending for one nexus (SAM-5 5.14).

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::reservations::Attention;
use crate::sense::AdditionalSense;

/// Kept for one nexus and unit; the oldest goes first when there are more (the count is ours to choose).
const ATTENTIONS_MAX: usize = 16;

/// Unit attentions in the order in which they were established.
#[derive(Debug)]
pub(crate) struct Attentions {
    /// Whether the queue is not empty: what every command asks, without taking the lock.
    any: AtomicBool,
    queue: Mutex<VecDeque<AdditionalSense>>,
}

impl Attentions {
    /// Those of a new nexus: it hears that the unit was switched on.
    pub(crate) fn of_new_nexus() -> Self {
        let queue = VecDeque::from([AdditionalSense::POWER_ON_OR_RESET]);
        Self { any: AtomicBool::new(true), queue: Mutex::new(queue) }
    }

    /// Establishes one; what is pending already is not doubled.
    pub(crate) fn raise(&self, code: AdditionalSense) {
        let mut queue = self.queue.lock().expect("no panic under the lock");
        if queue.contains(&code) {
            return;
        }
        if queue.len() == ATTENTIONS_MAX {
            queue.pop_front();
        }
        queue.push_back(code);
        self.any.store(true, Ordering::Release);
    }

    /// Takes the oldest.
    pub(crate) fn take(&self) -> Option<AdditionalSense> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let mut queue = self.queue.lock().expect("no panic under the lock");
        let code = queue.pop_front();
        self.any.store(!queue.is_empty(), Ordering::Release);
        code
    }

    /// Clears one wherever it is in the queue: its message was delivered in another way.
    pub(crate) fn clear(&self, code: AdditionalSense) {
        let mut queue = self.queue.lock().expect("no panic under the lock");
        queue.retain(|pending| *pending != code);
        self.any.store(!queue.is_empty(), Ordering::Release);
    }
}

/// The code of an attention that a change of reservations causes.
pub(crate) fn attention_code(attention: Attention) -> AdditionalSense {
    match attention {
        Attention::ReservationsPreempted => AdditionalSense::RESERVATIONS_PREEMPTED,
        Attention::ReservationsReleased => AdditionalSense::RESERVATIONS_RELEASED,
        Attention::RegistrationsPreempted => AdditionalSense::REGISTRATIONS_PREEMPTED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attentions_come_once_each_and_in_order() {
        let attentions = Attentions::of_new_nexus();
        let codes = [AdditionalSense::CAPACITY_DATA_HAS_CHANGED, AdditionalSense::MODE_PARAMETERS_CHANGED];
        for code in codes.into_iter().chain(codes) {
            attentions.raise(code);
        }
        attentions.clear(AdditionalSense::CAPACITY_DATA_HAS_CHANGED);
        assert_eq!(attentions.take(), Some(AdditionalSense::POWER_ON_OR_RESET));
        assert_eq!(attentions.take(), Some(AdditionalSense::MODE_PARAMETERS_CHANGED));
        assert_eq!(attentions.take(), None);
    }

    #[test]
    fn the_oldest_makes_room() {
        let attentions = Attentions::of_new_nexus();
        for qualifier in 0..ATTENTIONS_MAX as u8 {
            attentions.raise(AdditionalSense { code: 0x80, qualifier });
        }
        assert_eq!(attentions.take(), Some(AdditionalSense { code: 0x80, qualifier: 0 }));
    }
}
