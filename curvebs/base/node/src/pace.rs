//! How often a server reports to the MDS.

use std::time::Duration;

/// The time between heartbeats. The MDS asks for more of them while there is something to do.
#[derive(Debug)]
pub struct HeartbeatPace {
    usual: Duration,
    now: Duration,
}

impl HeartbeatPace {
    /// The shortest time between two heartbeats, so that many changes make one.
    pub const SPACING: Duration = Duration::from_millis(50);

    /// `usual` is what is configured, and the slowest pace.
    pub fn new(usual: Duration) -> Self {
        let usual = usual.max(Self::SPACING);
        Self { usual, now: usual }
    }

    /// The MDS has said how long the next one should be away; zero if it does not care.
    pub fn told(&mut self, interval: Duration) {
        let asked = Some(interval).filter(|interval| !interval.is_zero());
        self.now = asked.unwrap_or(self.usual).clamp(Self::SPACING, self.usual);
    }

    /// How long after the last one the next heartbeat is due.
    pub fn interval(&self) -> Duration {
        self.now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_quick_only_as_long_as_the_mds_says_so() {
        let millis = Duration::from_millis;
        let mut pace = HeartbeatPace::new(millis(1000));
        assert_eq!(pace.interval(), millis(1000));
        for (told, interval) in [(200, 200), (1000, 1000), (200, 200), (0, 1000), (5000, 1000), (1, 50)] {
            pace.told(millis(told));
            assert_eq!(pace.interval(), millis(interval), "told {told}");
        }
        assert_eq!(HeartbeatPace::new(Duration::ZERO).interval(), HeartbeatPace::SPACING);
    }
}
