//! What the records written so far say of each group: the writer's own view, behind that of the callers.
//!
//! It answers two questions: what a new segment must repeat so that no older one is needed for it, and which segment is
//! the oldest that still holds an entry of somebody.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use curve_types::GroupId;

use crate::format::GroupRecord;

/// Entries of one group within one segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Span {
    segment: u64,
    first: u64,
    last: u64,
}

#[derive(Default)]
struct GroupLedger {
    known: GroupRecord,
    /// By index and by segment at once: later entries are never in earlier segments.
    spans: VecDeque<Span>,
}

/// The writer's view of all groups.
#[derive(Default)]
pub(crate) struct Ledger {
    groups: BTreeMap<GroupId, GroupLedger>,
}

impl Ledger {
    pub(crate) fn append(&mut self, group: GroupId, index: u64, segment: u64) {
        let ledger = self.groups.entry(group).or_default();
        // A purge may be written ahead of the entries it covers when the log is short of space.
        if ledger.known.purged.as_ref().is_some_and(|(purged, _)| index <= *purged) {
            return;
        }
        match ledger.spans.back_mut() {
            Some(span) if span.segment == segment => span.last = index,
            _ => ledger.spans.push_back(Span { segment, first: index, last: index }),
        }
    }

    pub(crate) fn vote(&mut self, group: GroupId, vote: Bytes) {
        self.groups.entry(group).or_default().known.vote = Some(vote);
    }

    pub(crate) fn committed(&mut self, group: GroupId, meta: Bytes) {
        self.groups.entry(group).or_default().known.committed = Some(meta);
    }

    pub(crate) fn truncate_from(&mut self, group: GroupId, first_removed: u64) {
        let Some(ledger) = self.groups.get_mut(&group) else { return };
        while ledger.spans.back().is_some_and(|span| span.first >= first_removed) {
            ledger.spans.pop_back();
        }
        if let Some(span) = ledger.spans.back_mut() {
            span.last = span.last.min(first_removed - 1);
        }
    }

    pub(crate) fn purge(&mut self, group: GroupId, upto: u64, meta: Bytes) {
        let ledger = self.groups.entry(group).or_default();
        while ledger.spans.front().is_some_and(|span| span.last <= upto) {
            ledger.spans.pop_front();
        }
        if let Some(span) = ledger.spans.front_mut() {
            span.first = span.first.max(upto + 1);
        }
        ledger.known.purged = Some((upto, meta));
    }

    pub(crate) fn remove(&mut self, group: GroupId) {
        self.groups.remove(&group);
    }

    /// Takes over what recovery found of a group.
    pub(crate) fn restore(&mut self, group: GroupId, known: GroupRecord) {
        self.groups.entry(group).or_default().known = known;
    }

    /// The oldest segment with an entry that is needed.
    pub(crate) fn oldest_needed(&self) -> Option<u64> {
        self.groups.values().filter_map(|ledger| ledger.spans.front()).map(|span| span.segment).min()
    }

    /// What a new segment repeats, by group.
    pub(crate) fn states(&self) -> impl Iterator<Item = (GroupId, &GroupRecord)> {
        self.groups.iter().map(|(id, ledger)| (*id, &ledger.known)).filter(|(_, known)| !known.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: GroupId = GroupId(1);
    const B: GroupId = GroupId(2);

    #[test]
    fn the_oldest_needed_segment_follows_purges_truncates_and_removals() {
        let mut ledger = Ledger::default();
        (1..=10).for_each(|index| ledger.append(A, index, 1 + index / 4));
        ledger.append(B, 1, 2);
        assert_eq!(ledger.oldest_needed(), Some(1));
        ledger.purge(A, 3, Bytes::new());
        assert_eq!(ledger.oldest_needed(), Some(2));
        ledger.truncate_from(A, 6);
        ledger.purge(A, 5, Bytes::new());
        assert_eq!(ledger.oldest_needed(), Some(2));
        ledger.remove(B);
        assert_eq!(ledger.oldest_needed(), None);
        ledger.append(A, 5, 9);
        assert_eq!(ledger.oldest_needed(), None, "an entry below the purge point needs nothing");
        ledger.append(A, 6, 9);
        assert_eq!(ledger.oldest_needed(), Some(9));
        ledger.truncate_from(A, 0);
        assert_eq!(ledger.oldest_needed(), None);
        assert_eq!(ledger.states().count(), 1);
    }
}
