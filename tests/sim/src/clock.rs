//! Clocks that run fast or slow.
//!
//! Production code reads `tokio::time` alone, keeps nothing but elapsed time, and never compares the clocks of two
//! processes; so what a wrong clock can do to it is to run at another rate. All processes of a simulation share tokio's
//! clock. A process with a clock of its own rate is therefore one whose durations are divided by that rate: a timer
//! of 800 ms on a clock that is 5 % fast rings after 762 ms. This reaches every duration that is in the options of a
//! process: heartbeats, elections, leases and their promises, the margin, sessions, down and dead times. The few that are
//! constants in the code (deadlines of calls, pauses before another try) keep the true rate; no safety rests on them.

use std::time::Duration;

use curve_chunkserver::ChunkserverConfig;
use curve_mds::MdsConfig;
use curve_multiraft::RaftOptions;
use curve_types::HumanDuration;
use rand::Rng;
use rand::rngs::StdRng;

/// How far a clock's rate may be off. A lease ends an eighth before the promises it rests on, so two clocks may differ
/// by 8/7; this stays just below. (Quartz is off by 0.01 %.)
const RATE_ERROR_MAX: f64 = 0.06;

/// Seconds that a process's clock counts in a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClockRate(f64);

impl ClockRate {
    /// A clock that is right.
    pub const TRUE: Self = Self(1.0);

    /// A clock that is wrong by as much as the leases must bear, at most.
    pub fn draw(rng: &mut StdRng) -> Self {
        Self(1.0 + rng.random_range(-RATE_ERROR_MAX..RATE_ERROR_MAX))
    }

    /// Whether the clock is wrong.
    pub fn is_wrong(self) -> bool {
        self != Self::TRUE
    }

    fn scale(self, times: &mut [&mut Duration]) {
        for time in times {
            **time = time.div_f64(self.0);
        }
    }

    fn scale_human(self, times: &mut [&mut HumanDuration]) {
        for time in times {
            time.0 = time.0.div_f64(self.0);
        }
    }

    /// The times of a chunkserver with this clock.
    pub fn chunkserver(self, mut config: ChunkserverConfig) -> ChunkserverConfig {
        self.scale_human(&mut [
            &mut config.heartbeat_interval,
            &mut config.raft_heartbeat,
            &mut config.lease,
            &mut config.disk_timeout,
            &mut config.quiesce_after,
            &mut config.scrub_interval,
        ]);
        config
    }

    /// The times of an MDS with this clock.
    pub fn mds(self, mut config: MdsConfig) -> MdsConfig {
        self.scale_human(&mut [
            &mut config.lease,
            &mut config.heartbeat_interval,
            &mut config.down_after,
            &mut config.dead_after,
            &mut config.grace_after_failover,
            &mut config.lost_replica_after,
        ]);
        config
    }

    /// The times of replication with this clock.
    pub fn raft(self, mut options: RaftOptions) -> RaftOptions {
        self.scale(&mut [
            &mut options.heartbeat,
            &mut options.election_min,
            &mut options.election_max,
            &mut options.clock_margin,
            &mut options.disk_timeout,
            &mut options.purge_interval,
            &mut options.catch_up_deadline,
        ]);
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_bear_the_worst_pair_of_clocks() {
        let options = |rate| ClockRate(rate).raft(RaftOptions::default());
        let (slow, fast) = (options(1.0 - RATE_ERROR_MAX), options(1.0 + RATE_ERROR_MAX));
        // The engine counts in whole milliseconds.
        assert!(slow.election_max - slow.clock_margin < fast.election_max - Duration::from_millis(1));
        let lease = |rate| ClockRate(rate).chunkserver(ChunkserverConfig::default()).lease.0;
        assert!(lease(1.05) < lease(1.0) && lease(1.0) < lease(0.95));
    }
}
