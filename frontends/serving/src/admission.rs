//! Who may connect, and who has to make room.
//!
//! Whoever reaches the port can open connections; a place is what they must not be able to take from others. So
//! connections that have not proved themselves yet (no login, no export chosen) have few places of their own, in which a
//! new one makes the oldest of the greediest peer go; and no peer has more than a share of all places.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard};

use thiserror::Error;
use tokio::sync::oneshot;

/// Whom connections are counted by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Peer {
    /// Somebody on this host, through a socket file: the file's permissions say who, and no share is kept.
    Local,
    /// A host.
    Host(IpAddr),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.pad("this host"),
            Self::Host(address) => address.fmt(f),
        }
    }
}

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        // A socket for both versions shows IPv4 addresses as IPv6 ones.
        Self::Host(address.to_canonical())
    }
}

/// How many connections there may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// In all; further ones wait in the listen queue.
    pub connections: usize,
    /// Of one host.
    pub of_peer: usize,
    /// That have not proved themselves.
    pub newcomers: usize,
}

impl Limits {
    /// Limits that fit each other: one host never takes all places, and newcomers leave room for the rest.
    pub fn new(connections: usize, newcomers: usize) -> Self {
        let half = (connections / 2).max(1);
        Self { connections: connections.max(1), of_peer: half, newcomers: newcomers.clamp(1, half) }
    }

    /// Another share for a host, at most all there is.
    #[must_use]
    pub fn with_share(mut self, of_peer: Option<usize>) -> Self {
        self.of_peer = of_peer.unwrap_or(self.of_peer).clamp(1, self.connections);
        self
    }
}

/// Connections that the kernel keeps until they are accepted, if the system allows as many (`net.core.somaxconn`). When
/// they are more, it drops what comes, and honest clients try again only after a second.
const WAITING_MAX: i32 = 4096;

/// Lets more connections wait for a listening socket than it was bound with.
pub fn lengthen_queue(listener: impl AsFd) -> io::Result<()> {
    Ok(rustix::net::listen(listener, WAITING_MAX)?)
}

/// A host has its share already.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("it has {0} connections already, as many as one host may have")]
pub struct TooMany(pub usize);

/// Counts connections. Owned by whoever accepts them; connections only give their places back.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    /// Taken when a connection begins and when it ends.
    places: Arc<Mutex<Places>>,
    /// Of each host, the oldest first. Those that have proved themselves, or are gone, are taken out when room is needed.
    newcomers: HashMap<Peer, VecDeque<oneshot::Sender<()>>>,
    /// How many those are.
    newcomers_held: usize,
}

#[derive(Debug, Default)]
struct Places {
    all: usize,
    of: HashMap<Peer, usize>,
}

/// A connection's place, given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    peer: Peer,
    places: Arc<Mutex<Places>>,
}

/// Tells a newcomer to go. To be dropped once it has proved itself.
pub type Evicted = oneshot::Receiver<()>;

impl Admission {
    /// An admission with nobody in.
    pub fn new(limits: Limits) -> Self {
        Self { limits, places: Arc::default(), newcomers: HashMap::new(), newcomers_held: 0 }
    }

    /// Whether one more may be accepted.
    pub fn has_room(&self) -> bool {
        lock(&self.places).all < self.limits.connections
    }

    /// Lets one more in, if its host has not got its share already.
    pub fn enter(&mut self, peer: Peer) -> Result<(Place, Evicted), TooMany> {
        let mut places = lock(&self.places);
        let of_peer = places.of.get(&peer).copied().unwrap_or(0);
        if peer != Peer::Local && of_peer >= self.limits.of_peer {
            return Err(TooMany(of_peer));
        }
        places.all += 1;
        places.of.insert(peer, of_peer + 1);
        drop(places);
        self.make_room();
        let (evict, evicted) = oneshot::channel();
        self.newcomers.entry(peer).or_default().push_back(evict);
        self.newcomers_held += 1;
        Ok((Place { peer, places: self.places.clone() }, evicted))
    }

    /// In a flood this happens for each connection: it looks at hosts, and at the connections of one.
    fn make_room(&mut self) {
        while self.newcomers_held >= self.limits.newcomers {
            let greediest = self.newcomers.iter().max_by_key(|(_, waiting)| waiting.len());
            let peer = *greediest.expect("there are some if there are too many").0;
            let waiting = self.newcomers.get_mut(&peer).expect("it was just found");
            let before = waiting.len();
            waiting.retain(|newcomer| !newcomer.is_closed());
            if waiting.len() == before
                && let Some(oldest) = waiting.pop_front()
            {
                // If it is gone by now, that is as well.
                let _ = oldest.send(());
            }
            self.newcomers_held -= before - waiting.len();
            if waiting.is_empty() {
                self.newcomers.remove(&peer);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = lock(&self.places);
        places.all -= 1;
        if let Some(count) = places.of.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                places.of.remove(&self.peer);
            }
        }
    }
}

fn lock(places: &Mutex<Places>) -> MutexGuard<'_, Places> {
    places.lock().expect("no panic under the lock")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(last: u8) -> Peer {
        Peer::from(IpAddr::from([10, 0, 0, last]))
    }

    #[test]
    fn the_oldest_newcomer_of_the_greediest_makes_room() {
        let mut admission = Admission::new(Limits { connections: 100, of_peer: 100, newcomers: 4 });
        let mut waiting: Vec<_> =
            [1, 2, 2, 2].map(|last| admission.enter(host(last)).expect("room")).into_iter().collect();
        // Who has proved itself is not in the way.
        let (place, evicted) = waiting.remove(1);
        drop(evicted);
        waiting.push(admission.enter(host(3)).expect("room"));
        let evicted = |waiting: &mut Vec<(Place, Evicted)>| -> Vec<bool> {
            waiting.iter_mut().map(|(_, evicted)| evicted.try_recv().is_ok()).collect()
        };
        assert_eq!(evicted(&mut waiting), [false; 4]);
        waiting.push(admission.enter(host(2)).expect("room"));
        // Not the one of host 1, which is the oldest.
        assert_eq!(evicted(&mut waiting), [false, true, false, false, false]);
        drop(place);
    }

    #[test]
    fn a_host_has_a_share_and_gives_it_back() {
        let mut admission = Admission::new(Limits::new(4, 9));
        assert_eq!(admission.limits, Limits { connections: 4, of_peer: 2, newcomers: 2 });
        let first = admission.enter(host(1)).expect("room");
        let mapped = Peer::from("::ffff:10.0.0.1".parse::<IpAddr>().expect("an address"));
        let second = admission.enter(mapped).expect("room");
        assert_eq!(admission.enter(host(1)).err(), Some(TooMany(2)));
        let others = [admission.enter(host(2)), admission.enter(Peer::Local)];
        assert!(others.iter().all(Result::is_ok) && !admission.has_room());
        drop((first, second));
        assert!(admission.has_room() && admission.enter(host(1)).is_ok());
        // Nobody is counted by a name that it has left.
        drop(others);
        assert!(lock(&admission.places).of.is_empty());
    }

    #[test]
    fn limits_fit_each_other() {
        assert_eq!(Limits::new(1, 512), Limits { connections: 1, of_peer: 1, newcomers: 1 });
        assert_eq!(Limits::new(1024, 512).with_share(Some(4000)).of_peer, 1024);
        assert_eq!(Limits::new(1024, 512).with_share(Some(0)).of_peer, 1);
    }
}
