//! What the engine knows of its log: whose the entries are, who the members are, how much is durable, and the last
//! entries themselves, for sending and applying without reading them back.

use std::collections::VecDeque;

use crate::types::{Entry, LeaderId, LogId, Payload, StoredMembership};

/// Bytes of applied entries that are kept for slow followers, at most.
const KEPT_BYTES_MAX: usize = 4 << 20;
/// Bytes of entries that are kept whatever they wait for, at most; more is read back from the log.
const TAIL_BYTES_MAX: usize = 32 << 20;

/// A log without its old entries.
pub(crate) struct LogView {
    /// The last entry that is only in snapshots.
    purged: LogId,
    /// Runs of entries of one leader: where each begins, and whose it is.
    runs: Vec<(u64, LeaderId)>,
    last: u64,
    /// The last entries, without holes, up to `last`.
    tail: VecDeque<Entry>,
    tail_bytes: usize,
    /// Who the members are, were before changes that may yet be undone, in order. Never empty.
    memberships: Vec<StoredMembership>,
    /// Durable up to here.
    flushed: u64,
    /// Writes that are not durable, and where the log is durable up to once they are.
    pending: VecDeque<(u64, u64)>,
}

impl LogView {
    /// A durable log: what was purged, the runs of what is there, where it ends, and its members.
    pub(crate) fn new(
        purged: LogId,
        runs: Vec<(u64, LeaderId)>,
        last: u64,
        memberships: Vec<StoredMembership>,
    ) -> Self {
        assert!(!memberships.is_empty() && last >= purged.index);
        Self {
            purged,
            runs,
            last,
            tail: VecDeque::new(),
            tail_bytes: 0,
            memberships,
            flushed: last,
            pending: VecDeque::new(),
        }
    }

    pub(crate) fn purged(&self) -> LogId {
        self.purged
    }

    pub(crate) fn last_index(&self) -> u64 {
        self.last
    }

    pub(crate) fn last_id(&self) -> LogId {
        self.id_at(self.last).expect("the last entry's leader is known")
    }

    /// How far the log is durable.
    pub(crate) fn flushed(&self) -> u64 {
        self.flushed
    }

    /// Whether something was written and is not durable yet.
    pub(crate) fn is_writing(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The entry at an index, unless it is purged or not there. Index 0 stands for the place before the first.
    pub(crate) fn id_at(&self, index: u64) -> Option<LogId> {
        if index == self.purged.index {
            return Some(self.purged);
        }
        if index < self.purged.index || index > self.last {
            return None;
        }
        let run = self.runs.partition_point(|(first, _)| *first <= index).checked_sub(1)?;
        Some(LogId { leader_id: self.runs[run].1, index })
    }

    /// The last entry before the run that has this one: where a leader may look next after a conflict.
    pub(crate) fn before_run_of(&self, index: u64) -> u64 {
        let run = self.runs.partition_point(|(first, _)| *first <= index).checked_sub(1);
        run.map_or(0, |run| self.runs[run].0 - 1).max(self.purged.index)
    }

    /// The members in force: of the last entry that names them, committed or not.
    pub(crate) fn membership(&self) -> &StoredMembership {
        self.memberships.last().expect("never empty")
    }

    /// Adds an entry, which follows the last one.
    pub(crate) fn push(&mut self, entry: Entry) {
        assert_eq!(entry.id.index, self.last + 1, "entries follow each other");
        if self.runs.last().is_none_or(|(_, leader)| *leader != entry.id.leader_id) {
            self.runs.push((entry.id.index, entry.id.leader_id));
        }
        if let Payload::Membership(membership) = &entry.payload {
            self.memberships.push(StoredMembership { log_id: entry.id, membership: membership.clone() });
        }
        self.last = entry.id.index;
        self.tail_bytes += weight(&entry);
        self.tail.push_back(entry);
    }

    /// Notes that a write begins, after which the log is as it is now.
    pub(crate) fn begin_io(&mut self, io: u64) {
        match self.pending.back_mut() {
            Some((known, last)) if *known == io => *last = self.last,
            _ => self.pending.push_back((io, self.last)),
        }
    }

    /// Notes that a write, and with it all before it, is durable.
    pub(crate) fn end_io(&mut self, io: u64) {
        while let Some((_, last)) = self.pending.pop_front_if(|(begun, _)| *begun <= io) {
            self.flushed = self.flushed.max(last);
        }
    }

    /// Removes all entries after `kept`.
    pub(crate) fn truncate(&mut self, kept: u64) {
        assert!(kept >= self.purged.index, "what is purged is committed");
        self.last = self.last.min(kept);
        self.runs.truncate(self.runs.partition_point(|(first, _)| *first <= kept));
        while let Some(entry) = self.tail.pop_back_if(|entry| entry.id.index > kept) {
            self.tail_bytes -= weight(&entry);
        }
        while self.memberships.len() > 1 && self.membership().log_id.index > kept {
            self.memberships.pop();
        }
        // What was written of the removed entries says nothing about those that take their place.
        self.flushed = self.flushed.min(kept);
        self.pending.iter_mut().for_each(|(_, last)| *last = (*last).min(kept));
    }

    /// Forgets entries up to `upto`, which may lie behind the last one (then all are forgotten).
    pub(crate) fn purge(&mut self, upto: LogId) {
        if upto.index <= self.purged.index {
            return;
        }
        self.purged = upto;
        let keep = self.runs.partition_point(|(first, _)| *first <= upto.index).saturating_sub(1);
        self.runs.drain(..keep);
        if upto.index >= self.last {
            self.last = upto.index;
            self.runs.clear();
            self.tail.clear();
            self.tail_bytes = 0;
        } else if let Some((first, _)) = self.runs.first_mut() {
            *first = (*first).max(upto.index + 1);
            let ends = self.runs.get(1).is_some_and(|(second, _)| *second <= upto.index + 1);
            if ends {
                self.runs.remove(0);
            }
        }
        self.flushed = self.flushed.max(upto.index);
        while self.tail.front().is_some_and(|entry| entry.id.index <= upto.index) {
            self.drop_front();
        }
    }

    /// The members as of a snapshot that is further than the log.
    pub(crate) fn reset_membership(&mut self, membership: StoredMembership) {
        let from = membership.log_id;
        self.memberships.retain(|later| later.log_id > from);
        self.memberships.insert(0, membership);
    }

    /// Forgets memberships before the one that is in force at the commit point: it cannot be undone.
    pub(crate) fn settle_memberships(&mut self, commit: u64) {
        let settled = self.memberships.iter().rposition(|stored| stored.log_id.index <= commit);
        self.memberships.drain(..settled.unwrap_or(0));
    }

    /// The entries from `from` on that fit one message; `None` if the first is not in memory.
    pub(crate) fn in_memory(&self, from: u64, upto: u64, limits: Limits) -> Option<Vec<Entry>> {
        let at = from.checked_sub(self.tail.front()?.id.index)? as usize;
        let (mut heads, mut payloads) = (0, 0);
        let fits = self.tail.iter().skip(at).take_while(|entry| {
            heads += entry.head_bytes();
            payloads += entry.payload_bytes();
            entry.id.index == from
                || (entry.id.index <= upto && heads <= limits.head_bytes && payloads <= limits.payload_bytes)
        });
        let entries: Vec<Entry> = fits.take(limits.entries).cloned().collect();
        (!entries.is_empty()).then_some(entries)
    }

    /// Lets go of entries up to `needed`, except a few that are recent; and of more when there are too many.
    pub(crate) fn trim(&mut self, applied: u64, needed: u64) {
        while let Some(front) = self.tail.front() {
            let index = front.id.index;
            let applied = index <= applied && (index <= needed || self.tail_bytes > KEPT_BYTES_MAX);
            if !applied && (self.tail_bytes <= TAIL_BYTES_MAX || index > self.flushed) {
                break;
            }
            self.drop_front();
        }
    }

    fn drop_front(&mut self) {
        if let Some(entry) = self.tail.pop_front() {
            self.tail_bytes -= weight(&entry);
        }
    }
}

/// What fits one message, or one call of the state machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) head_bytes: usize,
    pub(crate) payload_bytes: usize,
    pub(crate) entries: usize,
}

fn weight(entry: &Entry) -> usize {
    entry.head_bytes() + entry.payload_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { head_bytes: 1 << 10, payload_bytes: 1 << 10, entries: 3 };

    fn entry(term: u64, index: u64) -> Entry {
        Entry { id: LogId { leader_id: LeaderId { term, node_id: term }, index }, payload: Payload::Blank }
    }

    fn filled(terms: &[u64]) -> LogView {
        let mut log = LogView::new(LogId::NONE, Vec::new(), 0, vec![StoredMembership::default()]);
        for (term, index) in terms.iter().zip(1..) {
            log.push(entry(*term, index));
        }
        log
    }

    fn terms(log: &LogView) -> Vec<u64> {
        (log.purged().index..=log.last_index()).map(|i| log.id_at(i).unwrap().leader_id.term).collect()
    }

    #[test]
    fn whose_entries_are_is_known_after_truncate_and_purge() {
        let mut log = filled(&[1, 1, 2, 2, 4]);
        assert_eq!(terms(&log), [0, 1, 1, 2, 2, 4]);
        assert_eq!((log.before_run_of(5), log.before_run_of(4), log.before_run_of(1)), (4, 2, 0));
        log.truncate(3);
        assert_eq!((terms(&log), log.id_at(4)), (vec![0, 1, 1, 2], None));
        log.push(entry(5, 4));
        log.purge(entry(1, 2).id);
        assert_eq!((terms(&log), log.id_at(1)), (vec![1, 2, 5], None));
        log.purge(entry(2, 3).id);
        assert_eq!(terms(&log), [2, 5]);
        log.purge(entry(9, 9).id);
        assert_eq!((terms(&log), log.last_index(), log.in_memory(4, 9, LIMITS)), (vec![9], 9, None));
        log.push(entry(9, 10));
        assert_eq!(terms(&log), [9, 9]);
    }

    #[test]
    fn what_is_durable_is_not_what_was_truncated() {
        let mut log = filled(&[1, 1, 1]);
        log.begin_io(1);
        log.truncate(1);
        log.begin_io(2);
        log.push(entry(2, 2));
        log.begin_io(3);
        log.end_io(1);
        assert_eq!(log.flushed(), 1, "the entry at 2 is another one now");
        log.end_io(3);
        assert_eq!(log.flushed(), 2);
    }

    #[test]
    fn memory_is_for_what_is_needed() {
        let mut log = filled(&[1, 1, 1, 1, 1]);
        let indices = |log: &LogView, from, upto| {
            let entries = log.in_memory(from, upto, LIMITS)?;
            Some(entries.iter().map(|entry| entry.id.index).collect::<Vec<_>>())
        };
        assert_eq!(indices(&log, 1, 9), Some(vec![1, 2, 3]));
        assert_eq!(indices(&log, 2, 3), Some(vec![2, 3]));
        log.trim(3, 2);
        assert_eq!((indices(&log, 2, 9), indices(&log, 3, 9)), (None, Some(vec![3, 4, 5])));
        assert_eq!(indices(&log, 6, 9), None);
    }
}
