//! Numbers a client's mutations, and knows below which number all of them are answered.
//!
//! The server keeps the outcome of each applied mutation until the client says that it needs it no longer. It says so
//! with `answered_below`, which travels with every mutation: all lower sequences have been answered (or given up), so
//! a copy of one of them that arrives late is stale and must be refused.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use curve_types::Sequence;

/// The outstanding mutations of one client.
#[derive(Debug)]
pub struct Sequences {
    state: Mutex<Outstanding>,
}

#[derive(Debug)]
struct Outstanding {
    /// The lowest sequence that is not finished, or the next one.
    low: u64,
    /// Whether `low + i` is finished.
    finished: VecDeque<bool>,
}

/// One mutation's number. Dropping it says that its client no longer waits for the outcome.
#[derive(Debug)]
pub struct Ticket<'a> {
    sequences: &'a Sequences,
    sequence: u64,
}

impl Default for Sequences {
    fn default() -> Self {
        Self { state: Mutex::new(Outstanding { low: 1, finished: VecDeque::new() }) }
    }
}

impl Sequences {
    /// Starts a mutation.
    pub fn begin(&self) -> Ticket<'_> {
        let mut state = self.lock();
        let sequence = state.low + state.finished.len() as u64;
        state.finished.push_back(false);
        Ticket { sequences: self, sequence }
    }

    /// All mutations with a lower number are finished.
    pub fn answered_below(&self) -> Sequence {
        Sequence(self.lock().low)
    }

    fn finish(&self, sequence: u64) {
        let mut state = self.lock();
        let at = (sequence - state.low) as usize;
        state.finished[at] = true;
        while state.finished.front() == Some(&true) {
            state.finished.pop_front();
            state.low += 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Outstanding> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket<'_> {
    /// The mutation's number.
    pub fn sequence(&self) -> Sequence {
        Sequence(self.sequence)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.sequences.finish(self.sequence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watermark_waits_for_the_oldest() {
        let sequences = Sequences::default();
        let (a, b, c) = (sequences.begin(), sequences.begin(), sequences.begin());
        assert_eq!((a.sequence().0, b.sequence().0, c.sequence().0), (1, 2, 3));
        assert_eq!(sequences.answered_below(), Sequence(1));
        drop(b);
        assert_eq!(sequences.answered_below(), Sequence(1));
        drop(a);
        assert_eq!(sequences.answered_below(), Sequence(3));
        drop(c);
        assert_eq!(sequences.answered_below(), Sequence(4));
        assert_eq!(sequences.begin().sequence(), Sequence(4));
    }
}
