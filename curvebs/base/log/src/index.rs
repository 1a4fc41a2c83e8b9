//! What is known in memory of one group: where its entries are, its vote, its commit and purge points.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use curve_types::GroupId;

use crate::batch::Place;
use crate::group::{Entry, GroupState};

/// A group as its handles and the writer share it. The lock is held for memory operations only.
pub(crate) struct GroupCore {
    pub(crate) id: GroupId,
    index: Mutex<GroupIndex>,
}

impl GroupCore {
    pub(crate) fn new(id: GroupId, index: GroupIndex) -> Self {
        Self { id, index: Mutex::new(index) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, GroupIndex> {
        self.index.lock().expect("no panic while a group is locked")
    }
}

/// Where an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Whereabouts {
    /// In the queue under this ticket; its payload is in memory.
    Queued(u64),
    /// On disk; its payload may be in memory too.
    Written(Place),
}

struct Slot {
    meta: Bytes,
    at: Whereabouts,
    payload: Option<Vec<Bytes>>,
    payload_len: u32,
}

/// An entry to be read: from memory, or from disk.
pub(crate) enum Found {
    Cached(Entry),
    OnDisk(u64, Place),
}

/// One group's entries and points, as callers see them.
#[derive(Default)]
pub(crate) struct GroupIndex {
    first: u64,
    slots: VecDeque<Slot>,
    purged: Option<(u64, Bytes)>,
    vote: Option<Bytes>,
    committed: Option<Bytes>,
    next_ticket: u64,
    /// A commit point is in the queue; a newer one need not be queued as well.
    pub(crate) committed_queued: bool,
    /// The group was removed: its handles refuse everything.
    pub(crate) removed: bool,
}

impl GroupIndex {
    pub(crate) fn state(&self) -> GroupState {
        GroupState {
            purged: self.purged.clone(),
            last: self.slots.back().map(|slot| (self.end() - 1, slot.meta.clone())),
            first: (!self.slots.is_empty()).then_some(self.first),
            vote: self.vote.clone(),
            committed: self.committed.clone(),
        }
    }

    pub(crate) fn vote(&self) -> Option<&Bytes> {
        self.vote.as_ref()
    }

    pub(crate) fn committed(&self) -> Option<&Bytes> {
        self.committed.as_ref()
    }

    pub(crate) fn purged(&self) -> Option<&(u64, Bytes)> {
        self.purged.as_ref()
    }

    pub(crate) fn set_vote(&mut self, vote: Bytes) {
        self.vote = Some(vote);
    }

    pub(crate) fn set_committed(&mut self, meta: Bytes) {
        self.committed = Some(meta);
    }

    pub(crate) fn entries(&self) -> u64 {
        self.slots.len() as u64
    }

    /// Adds entries that wait for the writer; returns the ticket of the first, the others have the following.
    pub(crate) fn append(&mut self, entries: &[Entry]) -> u64 {
        let ticket = self.next_ticket;
        for entry in entries {
            self.expect_next(entry.index);
            let payload_len = entry.payload.iter().map(Bytes::len).sum::<usize>() as u32;
            // The meta lives as long as the entry, so it must not keep a whole network frame with it.
            let meta = Bytes::copy_from_slice(&entry.meta);
            let at = Whereabouts::Queued(self.next_ticket);
            self.slots.push_back(Slot { meta, at, payload: Some(entry.payload.clone()), payload_len });
            self.next_ticket += 1;
        }
        ticket
    }

    /// Adds an entry found on disk; false if it leaves a hole.
    pub(crate) fn recover(&mut self, index: u64, meta: &[u8], place: Place, payload_len: u32) -> bool {
        if self.purged.as_ref().is_some_and(|(purged, _)| index <= *purged) {
            return true;
        }
        if self.slots.is_empty() {
            self.first = index;
        } else if index != self.end() {
            return false;
        }
        let meta = Bytes::copy_from_slice(meta);
        self.slots.push_back(Slot { meta, at: Whereabouts::Written(place), payload: None, payload_len });
        true
    }

    /// Whether nothing is missing between the purge point and the first entry.
    pub(crate) fn is_whole(&self) -> bool {
        match &self.purged {
            Some((purged, _)) => self.slots.is_empty() || self.first == purged + 1,
            None => true,
        }
    }

    pub(crate) fn truncate_from(&mut self, first_removed: u64) {
        let kept = first_removed.saturating_sub(self.first).min(self.slots.len() as u64);
        self.slots.truncate(kept as usize);
    }

    /// Drops entries up to `upto`; false if they were purged before.
    pub(crate) fn purge(&mut self, upto: u64, meta: Bytes) -> bool {
        if self.purged.as_ref().is_some_and(|(purged, _)| upto <= *purged) {
            return false;
        }
        let gone = (upto + 1).saturating_sub(self.first).min(self.slots.len() as u64);
        self.slots.drain(..gone as usize);
        self.first = self.first.max(upto + 1);
        self.purged = Some((upto, meta));
        true
    }

    /// Notes that an entry was written, unless it was truncated or purged meanwhile.
    pub(crate) fn written(&mut self, index: u64, ticket: u64, place: Place) {
        if let Some(slot) = self.slot_mut(index)
            && slot.at == Whereabouts::Queued(ticket)
        {
            slot.at = Whereabouts::Written(place);
        }
    }

    /// Lets an entry's payload go from memory, if it is still the entry at that place.
    pub(crate) fn evict(&mut self, index: u64, place: Place) {
        if let Some(slot) = self.slot_mut(index)
            && slot.at == Whereabouts::Written(place)
        {
            slot.payload = None;
        }
    }

    /// The entries to read for a request; stops after the one that fills `bytes_max`.
    pub(crate) fn find(&self, start: u64, end: u64, bytes_max: usize) -> Vec<Found> {
        let mut found = Vec::new();
        let mut bytes = 0;
        for index in start..end.min(self.end()) {
            let Some(slot) = self.slot(index) else { break };
            if !found.is_empty() && bytes + slot.payload_len as usize > bytes_max {
                break;
            }
            bytes += slot.payload_len as usize;
            found.push(match (&slot.payload, slot.at) {
                (Some(payload), _) => {
                    Found::Cached(Entry { index, meta: slot.meta.clone(), payload: payload.clone() })
                }
                (None, Whereabouts::Written(place)) => Found::OnDisk(index, place),
                (None, Whereabouts::Queued(_)) => unreachable!("only written entries are evicted"),
            });
        }
        found
    }

    /// What was given with an entry.
    pub(crate) fn meta(&self, index: u64) -> Option<Bytes> {
        self.slot(index).map(|slot| slot.meta.clone())
    }

    /// Where an entry is on disk now.
    pub(crate) fn place(&self, index: u64) -> Option<Place> {
        match self.slot(index)?.at {
            Whereabouts::Written(place) => Some(place),
            Whereabouts::Queued(_) => None,
        }
    }

    /// The oldest segment with an entry of the group, the first index and the last index in that segment.
    pub(crate) fn oldest(&self) -> Option<(u64, u64, u64)> {
        let segment = self.place(self.first)?.segment;
        let within = self.slots.partition_point(
            |slot| matches!(slot.at, Whereabouts::Written(place) if place.segment == segment),
        );
        Some((segment, self.first, self.first + within as u64 - 1))
    }

    /// The spans of entries by segment, for the writer's ledger.
    pub(crate) fn written_places(&self) -> impl Iterator<Item = (u64, Place)> {
        self.slots.iter().enumerate().filter_map(|(n, slot)| match slot.at {
            Whereabouts::Written(place) => Some((self.first + n as u64, place)),
            Whereabouts::Queued(_) => None,
        })
    }

    fn end(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    fn expect_next(&mut self, index: u64) {
        if !self.slots.is_empty() {
            assert_eq!(index, self.end(), "entries follow each other without holes");
        } else if let Some((purged, _)) = &self.purged {
            assert_eq!(index, purged + 1, "entries follow the purge point without holes");
        }
        if self.slots.is_empty() {
            self.first = index;
        }
    }

    fn slot(&self, index: u64) -> Option<&Slot> {
        self.slots.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        let at = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.slots.get_mut(at)
    }
}
