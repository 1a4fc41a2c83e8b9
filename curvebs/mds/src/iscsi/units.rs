//! How a change of a unit's reservations comes to hold on every gateway. Pure: who serves the unit, which version of
//! the reservations each of them enforces, and what follows from that.
//!
//! # Words
//!
//! A *unit* is a volume served to initiators. Its *state* (registrations, reservation) has a *version*. A gateway that
//! serves the unit has a *seat*: the session of the volume that it serves through, and the version that it *enforces*.
//! A version is *settled* when every seat enforces it, or a later one.
//!
//! # The protocol
//!
//! | who | does |
//! |---|---|
//! | gateway, before it lets the first command in | opens the volume, takes a seat; gets state and version in the same step, and decides by them from then on |
//! | gateway that wants a change | makes the new state from the one that it enforces; asks for a swap that names the version it came from |
//! | MDS | makes the swap if nothing is unsettled and the version is that one; tells all gateways |
//! | every gateway, the asking one too | decides new commands by the new state; aborts what the change aborts; waits until nothing that the new state forbids is under way; then confirms the version |
//! | MDS | answers the asking gateway when the version is settled |
//! | MDS, when a seat does not confirm and its gateway's lease has run out | ends the seat's session, raises the volume's epoch, waits until every copyset refuses that session; only then vacates the seat |
//! | gateway whose seat is gone | its session is refused everywhere; drains, opens the volume anew, takes a new seat |
//!
//! # Invariants
//!
//! 1. Whoever can still write has a seat: a seat is taken before the first command, and vacated only after its session is
//!    refused by all copysets, or by the gateway itself, which then has nothing under way.
//! 2. A seat's `enforced` is never more than what its gateway confirmed, or was given with the seat.
//! 3. So once a version is settled, no command that its state forbids is accepted by a copyset: neither through a seated
//!    gateway (2 and the gateway's rule), nor through another (1). This is what `model` checks.
//! 4. There is at most one unsettled version, and the next state is made from a settled one: each gateway sees each
//!    change, in order, with the state that it was made from. Taking a unit away from its target is the exception: it
//!    replaces the state by an empty one at any time, which forbids nobody anything.
//! 5. A change is identified by a random number: a repeated request finds that it was made. A late copy of a request
//!    that was never made names an old version and changes nothing.
//!
//! No clock is trusted: that a lease has run out only allows the fence, as everywhere in the MDS.
//!
//! # Rejected
//!
//! *Deciding reservations in the copysets*: every command of every initiator would carry a nexus, and the data plane
//! would know SCSI. *A lease for each gateway's view, waited out*: as long as the lease for each change while a gateway
//! is away, and a paused gateway writes after its lease all the same.
//!
//! # Cost
//!
//! A change is one logged command and one more for each gateway; commands of initiators cost nothing.

#[cfg(test)]
mod model;

use std::collections::{BTreeMap, VecDeque};

/// Changes that are remembered for repeated requests. A gateway has one change of a unit in progress at a time.
const MADE_MAX: usize = 32;

/// A gateway that serves a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Seat {
    /// Which life of the gateway.
    pub incarnation: u64,
    /// Its session of the volume.
    pub client: u64,
    /// The version that it enforces.
    pub enforced: u64,
}

/// Who serves a unit, and the versions of its reservations.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Unit {
    /// The version; 0: never reserved.
    pub version: u64,
    /// The version before.
    pub before: u64,
    /// By number of the gateway.
    pub seats: BTreeMap<u16, Seat>,
    /// Changes by their ids, with the versions that they made; the newest last.
    pub made: VecDeque<(u64, u64)>,
}

/// An earlier session has the gateway's seat: it must be shut out first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Occupied {
    /// The session.
    pub client: u64,
}

/// The outcome of a swap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Swap {
    /// Made, now or by an earlier copy of the request.
    Made(u64),
    /// The state has this version.
    Stale(u64),
}

/// Why a request of a gateway was not done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Refused {
    /// It has no seat with that session.
    NotSeated,
    /// These gateways do not enforce the present version yet.
    Unsettled(Vec<u16>),
}

impl Unit {
    /// Takes a seat. Asking again with the same session changes nothing.
    pub(crate) fn serve(&mut self, gateway: u16, incarnation: u64, client: u64) -> Result<Seat, Occupied> {
        match self.seats.get(&gateway) {
            Some(seat) if seat.client == client => Ok(*seat),
            Some(seat) => Err(Occupied { client: seat.client }),
            None => {
                let seat = Seat { incarnation, client, enforced: self.version };
                self.seats.insert(gateway, seat);
                Ok(seat)
            }
        }
    }

    /// Gives a seat up, if that session has it.
    pub(crate) fn vacate(&mut self, gateway: u16, client: u64) -> bool {
        let has = self.seats.get(&gateway).is_some_and(|seat| seat.client == client);
        if has {
            self.seats.remove(&gateway);
        }
        has
    }

    /// A gateway enforces a version. An older one than it has confirmed says nothing new.
    pub(crate) fn confirm(&mut self, gateway: u16, client: u64, version: u64) -> Result<(), Refused> {
        let newest = self.version;
        let seat = self.seat(gateway, client)?;
        seat.enforced = seat.enforced.max(version.min(newest));
        Ok(())
    }

    /// Makes a change, whose version is going to be `next`.
    pub(crate) fn swap(
        &mut self,
        gateway: u16,
        client: u64,
        id: u64,
        expected: u64,
        next: u64,
    ) -> Result<Swap, Refused> {
        if let Some((_, version)) = self.made.iter().find(|(made, _)| *made == id) {
            return Ok(Swap::Made(*version));
        }
        self.seat(gateway, client)?;
        if expected != self.version {
            return Ok(Swap::Stale(self.version));
        }
        let waiting = self.waiting(self.version);
        if !waiting.is_empty() {
            return Err(Refused::Unsettled(waiting));
        }
        self.advance(next);
        self.made.push_back((id, next));
        if self.made.len() > MADE_MAX {
            self.made.pop_front();
        }
        Ok(Swap::Made(next))
    }

    /// Begins anew with an empty state, whatever is in progress.
    pub(crate) fn reset(&mut self, next: u64) {
        self.advance(next);
        self.made.clear();
    }

    fn advance(&mut self, next: u64) {
        assert!(next > self.version, "versions grow: {next} after {}", self.version);
        (self.before, self.version) = (self.version, next);
    }

    /// Gateways that do not enforce a version yet. None: it is settled.
    pub(crate) fn waiting(&self, version: u64) -> Vec<u16> {
        let behind = self.seats.iter().filter(|(_, seat)| seat.enforced < version);
        behind.map(|(gateway, _)| *gateway).collect()
    }

    fn seat(&mut self, gateway: u16, client: u64) -> Result<&mut Seat, Refused> {
        self.seats.get_mut(&gateway).filter(|seat| seat.client == client).ok_or(Refused::NotSeated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Unit {
        let mut unit = Unit::default();
        unit.serve(1, 11, 101).unwrap();
        unit.serve(2, 12, 102).unwrap();
        unit
    }

    #[test]
    fn a_change_waits_for_every_seat() {
        let mut unit = two();
        assert_eq!(unit.swap(1, 101, 7, 0, 5), Ok(Swap::Made(5)));
        assert_eq!(unit.waiting(5), [1, 2]);
        assert_eq!(unit.swap(2, 102, 8, 5, 6), Err(Refused::Unsettled(vec![1, 2])));
        unit.confirm(1, 101, 5).unwrap();
        unit.confirm(2, 102, 4).unwrap();
        assert_eq!(unit.waiting(5), [2], "an older version is not this one");
        assert!(unit.vacate(2, 102), "fenced");
        assert_eq!(unit.waiting(5), [0u16; 0]);
        assert_eq!(unit.swap(1, 101, 8, 5, 9), Ok(Swap::Made(9)));
    }

    #[test]
    fn a_repeated_change_is_found_and_a_late_copy_does_nothing() {
        let mut unit = two();
        assert_eq!(unit.swap(1, 101, 7, 0, 5), Ok(Swap::Made(5)));
        assert_eq!(unit.swap(1, 101, 7, 0, 6), Ok(Swap::Made(5)));
        assert_eq!(unit.swap(2, 102, 8, 0, 6), Ok(Swap::Stale(5)));
        unit.vacate(1, 101);
        assert_eq!(unit.swap(1, 101, 9, 5, 6), Err(Refused::NotSeated));
        assert_eq!(
            unit.swap(1, 101, 7, 0, 6),
            Ok(Swap::Made(5)),
            "also when its gateway was shut out meanwhile"
        );
    }

    #[test]
    fn a_seat_belongs_to_a_session() {
        let mut unit = two();
        assert_eq!(unit.serve(1, 13, 103), Err(Occupied { client: 101 }));
        assert!(!unit.vacate(1, 103) && unit.vacate(1, 101));
        assert_eq!(unit.confirm(1, 101, 1), Err(Refused::NotSeated));
        unit.swap(2, 102, 1, 0, 4).unwrap();
        assert_eq!(unit.serve(1, 13, 103).unwrap().enforced, 4, "it is given the newest state");
        assert_eq!(unit.waiting(4), [2]);
    }

    #[test]
    fn a_late_copy_of_serve_confirms_nothing() {
        let mut unit = two();
        unit.swap(2, 102, 1, 0, 4).unwrap();
        assert_eq!(unit.serve(1, 11, 101).unwrap().enforced, 0);
        assert_eq!(unit.waiting(4), [1, 2]);
    }

    #[test]
    fn the_memory_of_changes_is_bounded() {
        let mut unit = Unit::default();
        unit.serve(1, 1, 1).unwrap();
        for version in 1..100 {
            unit.swap(1, 1, version, unit.version, version).unwrap();
            unit.confirm(1, 1, version).unwrap();
        }
        assert_eq!(unit.made.len(), MADE_MAX);
    }
}
