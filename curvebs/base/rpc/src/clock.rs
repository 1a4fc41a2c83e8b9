//! The server's clock, by which requests that come too late are known.
//!
//! A request may be held up anywhere between its caller and the server: in a process that is stopped, in a socket, on the
//! way. So that it is not executed when its caller has gone on in another way, it says by when it must arrive, on the clock of
//! the one who looks: the server's. Each frame of the server brings its time; the client reckons from it.
//!
//! What the client takes for the server's time is never ahead of it, whatever happens on the way and however often either
//! side is stopped: a frame is received after it was stamped, and the client's clock, which does not run while its machine is
//! suspended, is not ahead of the server's, which does. Only drift can make it so: what is reckoned from is at most
//! `KEPT_MAX` old where there is traffic.

use std::time::Duration;

use curve_io::since_boot;
use tokio::time::Instant;

/// Milliseconds on a clock that wraps after 49 days.
pub(crate) type Millis = u32;

/// How long a stamp is reckoned from while later ones, which took longer on their way, are heard. At 500 ppm of drift the
/// error is 30 ms.
const KEPT_MAX: Duration = Duration::from_secs(60);

/// How far a stamp must be ahead of what was expected for the difference to be no delay: making a connection, after which the first
/// time is known, takes less (`RpcConfig::connect_timeout`).
const LEAP_MIN: Duration = Duration::from_secs(3);

/// The farthest a time can be ahead: half of where the clock wraps, less what a request may take.
const AHEAD_MAX: Duration = Duration::from_secs(12 * 24 * 3600);

/// This machine's time, which goes on while it is suspended.
pub(crate) fn now() -> Millis {
    since_boot().as_millis() as Millis
}

/// Whether `a` is after `b`; they are less than 24 days apart.
pub(crate) fn is_after(a: Millis, b: Millis) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}

/// A server's clock as its client knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerClock {
    heard_at: Instant,
    stamp: Millis,
}

impl ServerClock {
    /// The server's time was `stamp` some time before `heard_at`.
    pub(crate) fn new(heard_at: Instant, stamp: Millis) -> Self {
        Self { heard_at, stamp }
    }

    /// Another stamp; kept when it took less time on its way than the last one. True: the server's clock has leapt ahead of this
    /// machine's, which therefore stood still, as those of a virtual machine do that its host freezes.
    pub(crate) fn hear(&mut self, heard_at: Instant, stamp: Millis) -> bool {
        let expected = self.at(heard_at);
        if !is_after(expected, stamp) || heard_at.duration_since(self.heard_at) > KEPT_MAX {
            *self = Self { heard_at, stamp };
        }
        is_after(stamp, expected.wrapping_add(LEAP_MIN.as_millis() as Millis))
    }

    /// The server's time at `instant`, or somewhat before it.
    pub(crate) fn at(&self, instant: Instant) -> Millis {
        let ahead = instant.saturating_duration_since(self.heard_at).min(AHEAD_MAX).as_millis() as Millis;
        let behind = self.heard_at.saturating_duration_since(instant).min(AHEAD_MAX).as_millis() as Millis;
        self.stamp.wrapping_add(ahead).wrapping_sub(behind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn times_are_compared_across_the_wrap() {
        assert!(is_after(5, 4) && !is_after(4, 5) && !is_after(4, 4));
        assert!(is_after(3, u32::MAX - 3) && !is_after(u32::MAX - 3, 3));
        let begun = Instant::now();
        let clock = ServerClock::new(begun, u32::MAX - 10);
        assert_eq!(clock.at(begun + 20 * MS), 9);
        assert_eq!(clock.at(begun + Duration::from_secs(1 << 40)), clock.at(begun + AHEAD_MAX));
    }

    #[test]
    fn the_stamp_that_was_fastest_is_kept_for_a_while() {
        let begun = Instant::now() + Duration::from_secs(1);
        let mut clock = ServerClock::new(begun, 1000);
        assert_eq!((clock.at(begun + 7 * MS), clock.at(begun - 7 * MS)), (1007, 993));
        assert!(!clock.hear(begun + 100 * MS, 1090));
        assert_eq!(clock.at(begun + 100 * MS), 1100, "that one took 10 ms longer");
        assert!(!clock.hear(begun + 200 * MS, 1230));
        assert_eq!(clock.at(begun + 200 * MS), 1230, "and that one 30 ms less");
        assert!(!clock.hear(begun + 200 * MS + KEPT_MAX, 2000));
        assert_eq!(clock.at(begun + 200 * MS), 1230);
        assert!(!clock.hear(begun + 201 * MS + KEPT_MAX, 2000));
        assert_eq!(clock.at(begun + 201 * MS + KEPT_MAX), 2000, "the clock of the server is slower");
    }

    #[test]
    fn a_machine_that_stood_still_sees_the_other_clock_leap() {
        let begun = Instant::now();
        let mut clock = ServerClock::new(begun, 1000);
        assert!(!clock.hear(begun + 10 * MS, 4010), "a connection may take so long");
        assert!(clock.hear(begun + 20 * MS, 7021));
        assert!(!clock.hear(begun + 30 * MS, 7031), "once");
        assert!(!clock.hear(begun + 10_000 * MS, 7035), "a frame that waited here");
        assert!(!clock.hear(begun + 10_001 * MS, 17_000));
    }

    #[test]
    fn the_machine_has_a_clock() {
        let begun = now();
        assert!(!is_after(begun, now()));
    }
}
