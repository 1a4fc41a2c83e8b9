//! How many bytes of log each part of a group's log is: needed to decide what to purge.

use std::collections::VecDeque;

/// Bytes between two samples.
const STEP_BYTES: u64 = 1 << 20;

/// Sums of appended bytes by index, sampled. An index is the log's own.
#[derive(Default, Debug)]
pub(crate) struct Trail {
    total: u64,
    samples: VecDeque<(u64, u64)>,
    /// The sum when the last checkpoint began.
    checkpoint: u64,
    /// The state machine wants one.
    wanted: bool,
}

impl Trail {
    /// Notes an appended entry.
    pub(crate) fn append(&mut self, index: u64, bytes: u64) {
        while self.samples.back().is_some_and(|(last, _)| *last >= index) {
            self.samples.pop_back();
        }
        self.total += bytes;
        if self.samples.back().is_none_or(|(_, sum)| self.total - sum >= STEP_BYTES) {
            self.samples.push_back((index, self.total));
        }
    }

    /// Notes that a checkpoint begins.
    pub(crate) fn checkpoint(&mut self) {
        self.checkpoint = self.total;
        self.wanted = false;
    }

    /// Notes that the state machine wants a checkpoint.
    pub(crate) fn want_checkpoint(&mut self) {
        self.wanted = true;
    }

    /// Whether a checkpoint is wanted, or this much was appended since the last one began.
    pub(crate) fn is_checkpoint_due(&self, bytes: u64) -> bool {
        self.wanted || self.since_checkpoint() >= bytes
    }

    /// Bytes appended since the last checkpoint began.
    fn since_checkpoint(&self) -> u64 {
        self.total - self.checkpoint
    }

    /// The last index before which at least `keep` bytes follow; 0 if there is none. Forgets samples before it.
    pub(crate) fn index_before_last(&mut self, keep: u64) -> u64 {
        let old = self.total.saturating_sub(keep);
        while self.samples.get(1).is_some_and(|(_, sum)| *sum <= old) {
            self.samples.pop_front();
        }
        self.samples.front().filter(|(_, sum)| *sum <= old).map_or(0, |(index, _)| *index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_was_asked_to_be_kept() {
        let mut trail = Trail::default();
        for index in 1..=100 {
            trail.append(index, STEP_BYTES / 2);
        }
        assert_eq!(trail.since_checkpoint(), 50 * STEP_BYTES);
        let index = trail.index_before_last(10 * STEP_BYTES);
        assert!((78..=80).contains(&index), "{index}");
        assert_eq!(trail.index_before_last(1000 * STEP_BYTES), 0);
        trail.checkpoint();
        assert_eq!(trail.since_checkpoint(), 0);
        // A truncated tail is counted again when it is appended again.
        trail.append(90, 10);
        assert_eq!(trail.since_checkpoint(), 10);
        assert!(trail.is_checkpoint_due(10) && !trail.is_checkpoint_due(11));
        trail.want_checkpoint();
        assert!(trail.is_checkpoint_due(11));
        trail.checkpoint();
        assert!(!trail.is_checkpoint_due(1));
    }
}
