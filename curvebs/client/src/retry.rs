//! How long to wait between tries, and for each of them. Pure.
//!
//! Two waits grow: the pause between tries, so that an election is not stormed, and the time one try is given, so
//! that a slow disk is not asked the same thing every second. A refusal that names the leader is followed at once.

use std::time::Duration;

/// Limits of the waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryLimits {
    /// Pause after the first refusal.
    pub pause_min: Duration,
    /// Longest pause.
    pub pause_max: Duration,
    /// Time given to the first try.
    pub try_min: Duration,
    /// Longest time given to a try.
    pub try_max: Duration,
}

impl Default for RetryLimits {
    fn default() -> Self {
        Self {
            pause_min: Duration::from_millis(5),
            pause_max: Duration::from_millis(100),
            try_min: Duration::from_millis(1000),
            try_max: Duration::from_secs(8),
        }
    }
}

/// The waits of one operation.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    limits: RetryLimits,
    pauses: u32,
    timeouts: u32,
    redirects: u32,
}

impl Backoff {
    /// An operation that was not tried yet.
    pub fn new(limits: RetryLimits) -> Self {
        Self { limits, pauses: 0, timeouts: 0, redirects: 0 }
    }

    /// Time to give the next try.
    pub fn try_for(&self) -> Duration {
        self.limits.try_min.saturating_mul(1 << self.timeouts.min(10)).min(self.limits.try_max)
    }

    /// The last try ran out of time.
    pub fn timed_out(&mut self) {
        self.timeouts += 1;
    }

    /// The last try was sent to somebody else. Returns the pause before following: none, unless two members keep
    /// pointing at each other, as they do while an election is under way.
    pub fn redirected(&mut self) -> Option<Duration> {
        self.redirects += 1;
        if self.redirects <= 2 { None } else { Some(self.pause()) }
    }

    /// Pause before the next try.
    pub fn pause(&mut self) -> Duration {
        let pause = self.limits.pause_min.saturating_mul(1 << self.pauses.min(10)).min(self.limits.pause_max);
        self.pauses += 1;
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_limits() {
        let limits = RetryLimits::default();
        let mut backoff = Backoff::new(limits);
        let pauses: Vec<_> = (0..7).map(|_| backoff.pause().as_millis()).collect();
        assert_eq!(pauses, [5, 10, 20, 40, 80, 100, 100]);
        assert_eq!(backoff.try_for(), limits.try_min);
        for _ in 0..20 {
            backoff.timed_out();
        }
        assert_eq!(backoff.try_for(), limits.try_max);
    }

    #[test]
    fn a_redirect_is_followed_at_once_but_not_for_ever() {
        let mut backoff = Backoff::new(RetryLimits::default());
        assert_eq!(backoff.redirected(), None);
        assert_eq!(backoff.redirected(), None);
        assert!(backoff.redirected().is_some());
    }
}
