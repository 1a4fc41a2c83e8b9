//! Notices that this process did not run for a while.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use curve_io::since_boot;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How long a request may be on its way. With a stall that is just too short to be noticed before it, this is still less than
/// what initiators wait (5 s as Linux has it).
const ARRIVAL_MAX: Duration = Duration::from_millis(1500);

/// Notices that this process did not run for a while: it was stopped, its container frozen, its machine asleep.
///
/// Where hosts reach a volume through several servers, whoever waited for this one has given up by then, has repeated its writes
/// elsewhere and perhaps written more: what is left here from before must not be sent any more. So who has received
/// something, or is about to send something, compares [`stalls`](Self::stalls) with what it was when that began. The
/// question itself notices: it does not matter which thread runs first after a stall.
///
/// A virtual machine that its host freezes has no clock that goes on. Others have: see [`count_too`](Self::count_too).
pub struct Pulse {
    limit: Duration,
    clock: Box<dyn Fn() -> Duration + Send + Sync>,
    seen: Mutex<Seen>,
    noticed: OnceLock<Box<dyn Fn() -> u64 + Send + Sync>>,
}

#[derive(Clone, Copy)]
struct Seen {
    /// When anybody asked last.
    at: Duration,
    stalls: u64,
}

impl Pulse {
    /// Watches this process, in a task that ends with the last user. Not to run for `limit` is a stall. Must be called inside
    /// a tokio runtime.
    pub fn start(limit: Duration) -> Arc<Self> {
        let pulse = Arc::new(Self::with_clock(limit, since_boot));
        let watched = Arc::downgrade(&pulse);
        tokio::spawn(async move {
            let mut ticks = interval(limit / 8);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let Some(pulse) = watched.upgrade() else { return };
                pulse.stalls();
            }
        });
        pulse
    }

    /// Notices nothing but what a clock says to those who ask; for tests.
    pub fn with_clock(limit: Duration, clock: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        let seen = Mutex::new(Seen { at: clock(), stalls: 0 });
        Self { limit, clock: Box::new(clock), seen, noticed: OnceLock::new() }
    }

    /// Stalls that something else notices, and counts, are stalls too: what a network hears of other machines' clocks. One
    /// source; a second one is not asked.
    pub fn count_too(&self, noticed: impl Fn() -> u64 + Send + Sync + 'static) {
        self.noticed.get_or_init(|| Box::new(noticed));
    }

    /// How many stalls there were until now.
    pub fn stalls(&self) -> u64 {
        self.own_stalls() + self.noticed.get().map_or(0, |noticed| noticed())
    }

    fn own_stalls(&self) -> u64 {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // Read under the lock: times of two threads do not pass each other.
        let now = (self.clock)();
        let gap = now.saturating_sub(seen.at);
        seen.at = now;
        if gap > self.limit {
            seen.stalls += 1;
            tracing::warn!(
                seconds = gap.as_secs_f64(),
                "this process did not run; what was under way is given up"
            );
        }
        seen.stalls
    }
}

impl fmt::Debug for Pulse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pulse").field("limit", &self.limit).finish_non_exhaustive()
    }
}

/// What began when there had been so many stalls, and is void after another.
#[derive(Clone, Debug)]
pub(crate) struct Alive {
    pulse: Arc<Pulse>,
    born: u64,
}

impl Alive {
    pub(crate) fn now(pulse: Arc<Pulse>) -> Self {
        let born = pulse.stalls();
        Self { pulse, born }
    }

    /// By when a request that is made now must arrive; `None` when it must not be made any more. Between this and the
    /// moment when the request is written into a socket the process may be stopped, too: nobody but its receiver can tell.
    pub(crate) fn arrives_by(&self) -> Option<Instant> {
        // Before the question: the limit holds from the last moment at which there was no stall.
        let by = Instant::now() + ARRIVAL_MAX;
        (self.pulse.stalls() == self.born).then_some(by)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn gaps_are_counted_once_by_whoever_asks_first() {
        let now = Arc::new(AtomicU64::new(5));
        let clock = now.clone();
        let pulse = Pulse::with_clock(Duration::from_secs(3), move || {
            Duration::from_secs(clock.load(Ordering::Relaxed))
        });
        for (at, stalls) in [(5, 0), (8, 0), (11, 0), (15, 1), (15, 1), (18, 1), (100, 2)] {
            now.store(at, Ordering::Relaxed);
            assert_eq!(pulse.stalls(), stalls, "at {at}");
        }
        let noticed = Arc::new(AtomicU64::new(0));
        let counted = noticed.clone();
        pulse.count_too(move || counted.load(Ordering::Relaxed));
        assert_eq!(pulse.stalls(), 2);
        noticed.store(3, Ordering::Relaxed);
        assert_eq!(pulse.stalls(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_running_process_does_not_stall() {
        let pulse = Pulse::start(Duration::from_secs(60));
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(pulse.stalls(), 0);
        assert!(since_boot() > Duration::ZERO);
    }
}
