//! Which complaints about clients reach the log.
//!
//! Whoever can connect can make a server complain as fast as the network carries it. So a cause is told once for a peer,
//! and again only a minute later, then with the number of times that were not told; counters have all of them. And there
//! is a bound on the peers that are told apart.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::admission::Peer;

/// How long the same complaint is not told again.
pub const QUIET: Duration = Duration::from_secs(60);
/// Pairs of peer and cause that are told apart within that time; all others count as one peer.
const TOLD_APART_MAX: usize = 512;

/// What was complained about, whose fault it was, when it was told, and how often it was not.
///
/// Pure but for the time, which comes with each call.
#[derive(Debug, Default)]
pub struct Complaints {
    told: HashMap<(Option<Peer>, &'static str), Told>,
}

#[derive(Debug)]
struct Told {
    at: Instant,
    untold: u64,
}

impl Complaints {
    /// Whether to tell that `peer` gave cause for a complaint, and if so, how many like it were not told before.
    pub fn tell(&mut self, peer: Peer, cause: &'static str, now: Instant) -> Option<u64> {
        let mut key = (Some(peer), cause);
        if !self.told.contains_key(&key) && self.told.len() >= TOLD_APART_MAX {
            self.told.retain(|_, told| now < told.at + QUIET);
            if self.told.len() >= TOLD_APART_MAX {
                key.0 = None;
            }
        }
        match self.told.get_mut(&key) {
            Some(told) if now < told.at + QUIET => {
                told.untold += 1;
                None
            }
            Some(told) => {
                told.at = now;
                Some(std::mem::take(&mut told.untold))
            }
            None => {
                self.told.insert(key, Told { at: now, untold: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn host(number: u32) -> Peer {
        Peer::Host(Ipv4Addr::from(number).into())
    }

    #[tokio::test(start_paused = true)]
    async fn each_cause_is_told_once_for_a_peer() {
        let mut complaints = Complaints::default();
        let now = Instant::now();
        assert_eq!(complaints.tell(host(1), "a", now), Some(0));
        for _ in 0..1000 {
            assert_eq!(complaints.tell(host(1), "a", now + QUIET / 2), None);
        }
        assert_eq!(complaints.tell(host(1), "b", now), Some(0));
        assert_eq!(complaints.tell(host(2), "a", now), Some(0));
        assert_eq!(complaints.tell(host(1), "a", now + QUIET), Some(1000));
        assert_eq!(complaints.tell(host(1), "a", now + QUIET), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_is_one_peer() {
        let mut complaints = Complaints::default();
        let now = Instant::now();
        let told = (0..100_000).filter(|number| complaints.tell(host(*number), "a", now).is_some()).count();
        assert_eq!(told, TOLD_APART_MAX + 1);
        assert!(complaints.told.len() <= TOLD_APART_MAX + 1);
        // Those that are quiet again make room.
        assert_eq!(complaints.tell(host(1 << 20), "a", now + QUIET), Some(0));
        assert_eq!(complaints.told.len(), 1);
    }
}
