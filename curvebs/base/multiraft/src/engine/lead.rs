//! What a leader does: replicate, commit, confirm that it still leads, change the members.

use std::time::Duration;

use super::core::{Core, PendingRead, Role};
use super::message::{AppendReply, AppendRequest, Change, Message, Sent, Time};
use super::progress::{Progress, State};
use crate::types::{Entry, LeaderId, LogId, Membership, Payload, StoredMembership};

/// For how many election times a leader stands back that has an entry nobody can be given.
const RESIGNED_FOR: u32 = 8;

/// Why the members were not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChangeRefused {
    NotLeader,
    /// The change before, or the first entry of this leader, is not committed.
    InProgress,
    LastMember,
    /// It is so already.
    Nothing,
}

impl Core {
    pub(super) fn lead(&mut self, now: Time) {
        self.role = Role::Leader;
        self.leader = self.node;
        self.eager = 0;
        self.transferring = false;
        self.votes.clear();
        self.check_from = now;
        self.last_tick = now;
        self.notice_at = None;
        self.own_first = self.log.last_index() + 1;
        let next = self.own_first;
        self.peers = self.others().into_iter().map(|peer| (peer, Progress::new(next))).collect();
        self.append_own(Payload::Blank);
    }

    /// Puts an entry at the end of the log; `None` if this node does not lead.
    pub(crate) fn propose(&mut self, payload: Payload) -> Option<LogId> {
        self.is_leader().then(|| self.append_own(payload))
    }

    /// Changes the members; their new number is in force at once. Says which entry must be committed for it to last.
    pub(crate) fn change(&mut self, change: Change) -> Result<LogId, ChangeRefused> {
        if !self.is_leader() {
            return Err(ChangeRefused::NotLeader);
        }
        let StoredMembership { log_id, membership } = self.log.membership();
        let changed = match change {
            Change::AddLearner(node) if membership.nodes().contains(&node) => {
                return Err(ChangeRefused::Nothing);
            }
            Change::Promote(node) if membership.is_voter(node) => return Err(ChangeRefused::Nothing),
            Change::Remove(node) if !membership.nodes().contains(&node) => {
                return Err(ChangeRefused::Nothing);
            }
            Change::AddLearner(node) => membership.with_learner(node),
            Change::Promote(node) => membership.with_voter(node),
            Change::Remove(node) => membership.without(node).ok_or(ChangeRefused::LastMember)?,
        };
        let settled = self.commit >= self.own_first && log_id.index <= self.commit && !membership.is_joint();
        if !settled {
            return Err(ChangeRefused::InProgress);
        }
        Ok(self.append_members(changed))
    }

    fn append_members(&mut self, members: Membership) -> LogId {
        let id = self.append_own(Payload::Membership(members));
        let others = self.others();
        self.peers.retain(|peer, _| others.contains(peer));
        let next = self.log.last_index();
        for peer in others {
            self.peers.entry(peer).or_insert_with(|| Progress::new(next));
        }
        id
    }

    fn append_own(&mut self, payload: Payload) -> LogId {
        let leader_id = LeaderId { term: self.term, node_id: self.node };
        let id = LogId { leader_id, index: self.log.last_index() + 1 };
        self.write_entry(Entry { id, payload });
        id
    }

    /// Asks a majority whether this node leads. [`super::Actions::reads`] names the read when they agree; nothing does
    /// if this node stops leading before. False if it does not lead.
    pub(crate) fn read(&mut self, id: u64) -> bool {
        if self.is_leader() {
            self.reads.push_back(PendingRead { id, seq: self.seq });
            self.poke();
        }
        self.is_leader()
    }

    /// Sends a sign of life to all peers with the next [`finish`](Self::finish).
    pub(crate) fn poke(&mut self) {
        self.peers.values_mut().for_each(|peer| peer.poked = true);
    }

    /// Until when this leader may serve reads without asking; `None` if it may not. For ever if it is the only voter.
    pub(crate) fn lease_until(&self) -> Option<Time> {
        if !self.is_leader() {
            return None;
        }
        if self.log.membership().membership.is_alone(self.node) {
            return Some(Duration::MAX);
        }
        let majority = self.majority_acked()?;
        Some(majority.0 + self.timing.election_max.saturating_sub(self.timing.clock_margin))
    }

    /// When, and with which number, the latest message was sent that is not later than what a majority has answered.
    fn majority_acked(&self) -> Option<(Time, u64)> {
        let acked = |voter: u64| match voter == self.node {
            true => Some((Duration::MAX, u64::MAX)),
            false => self.peers.get(&voter).and_then(|peer| peer.acked),
        };
        self.log.membership().membership.agreed(acked).flatten()
    }

    /// Whether an entry of this leader's own term is applied: what earlier leaders acknowledged is too, then.
    pub(crate) fn serves(&self) -> bool {
        self.is_leader() && self.applied.index >= self.own_first
    }

    /// The peers, and up to where their logs are known to be the same.
    pub(crate) fn matched(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.peers.iter().map(|(peer, progress)| (*peer, progress.matched))
    }

    /// A peer has answered an append, or has not (`None`).
    pub(crate) fn append_reply(&mut self, from: u64, sent: &Sent, reply: Option<AppendReply>, now: Time) {
        if let Some(AppendReply::Higher { term }) = reply
            && term > self.term
        {
            return self.follow(term, 0, now);
        }
        if self.role != Role::Leader || sent.term != self.term {
            return;
        }
        let (seq, last_index, beat) = (self.seq, self.log.last_index(), self.timing.heartbeat);
        let Some(peer) = self.peers.get_mut(&from) else { return };
        let current = peer.is_current(sent.seq);
        if current && sent.last > sent.prev {
            peer.in_flight = peer.in_flight.saturating_sub(1);
        }
        match reply {
            None | Some(AppendReply::Higher { .. }) => {
                peer.answers = false;
                if current && sent.last > sent.prev {
                    peer.lost = true;
                    peer.start_over(sent.prev, seq, now);
                }
            }
            Some(AppendReply::Ok { matched }) => {
                peer.heard(sent.at, sent.seq);
                peer.matches(matched.min(last_index), sent.last, current);
            }
            Some(AppendReply::Conflict { hint }) => {
                peer.heard(sent.at, sent.seq);
                if current && sent.prev > peer.matched {
                    peer.probe(hint.min(sent.prev - 1) + 1, seq, Duration::ZERO);
                } else if current {
                    // Either a message overtook the one before it, or the peer has lost what it had.
                    peer.retry_at = now + beat;
                }
            }
        }
    }

    /// A peer's snapshot has been installed up to `installed`, or the transfer has failed.
    pub(crate) fn snapshot_ended(&mut self, peer: u64, term: u64, installed: Option<u64>, now: Time) {
        let (seq, last, current) = (self.seq, self.log.last_index(), self.is_leader() && term == self.term);
        if let Some(peer) = self.peers.get_mut(&peer).filter(|_| current) {
            let installed = installed.map(|index| index.min(last));
            peer.snapshot_ended(installed, last, seq, now + self.timing.heartbeat);
        }
    }

    /// Entries for a peer have been read; none if they could not be.
    pub(crate) fn fetched(&mut self, to: u64, term: u64, entries: Vec<Entry>, now: Time) {
        if !self.is_leader() || term != self.term {
            return;
        }
        let Some(mut peer) = self.peers.remove(&to) else { return };
        peer.fetching = false;
        let fits = peer.may_send(now, self.timing.in_flight_max)
            && self.log.id_at(peer.next - 1).is_some()
            && entries.first().is_some_and(|first| first.id.index == peer.next)
            && entries.last().is_some_and(|last| self.log.id_at(last.id.index) == Some(last.id));
        if fits {
            self.send(to, &mut peer, entries, now);
        } else if entries.is_empty() {
            peer.retry_at = peer.retry_at.max(now + self.timing.heartbeat / 4);
        }
        self.peers.insert(to, peer);
    }

    /// The next entry for a peer cannot be sent any more, as if it were purged. If it is not applied, no snapshot has it either,
    /// and nothing after it can be committed: then this node makes room for a leader that does without it, and stands again only
    /// when none was found.
    pub(crate) fn lost(&mut self, to: u64, term: u64, now: Time) {
        if !self.is_leader() || term != self.term {
            return;
        }
        let beat = self.timing.heartbeat;
        let Some(peer) = self.peers.get_mut(&to) else { return };
        peer.fetching = false;
        if peer.next > self.applied.index {
            self.follow(self.term, 0, now);
            self.stand_at = now + RESIGNED_FOR * self.timing.election_max;
        } else if peer.answers {
            peer.state = State::Snapshot;
            self.actions.snapshots.push(to);
        } else {
            peer.retry_at = peer.retry_at.max(now + beat);
        }
    }

    /// Commits and sends what has come together. Called after each round of inputs.
    pub(crate) fn finish(&mut self, now: Time) {
        if self.role == Role::Leader {
            self.advance_leader(now);
            self.replicate(now);
            self.confirm_reads();
            self.leave_if_removed(now);
        }
        let live = self.peers.values().filter(|peer| peer.answers);
        let needed = live.map(|peer| peer.matched).min().unwrap_or(u64::MAX);
        self.log.trim(self.applied.index, needed);
    }

    fn advance_leader(&mut self, now: Time) {
        let matched = |voter: u64| match voter == self.node {
            true => self.log.flushed(),
            false => self.peers.get(&voter).map_or(0, |peer| peer.matched),
        };
        let agreed = self.log.membership().membership.agreed(matched).unwrap_or(0);
        if agreed <= self.commit || agreed < self.own_first {
            return;
        }
        self.commit = agreed;
        self.log.settle_memberships(agreed);
        if !self.peers.is_empty() {
            self.notice_at.get_or_insert(now + self.timing.notice_delay);
        }
        let StoredMembership { log_id, membership } = self.log.membership();
        if membership.is_joint() && log_id.index <= agreed {
            // An earlier version left a change half way.
            self.append_members(membership.settled());
        }
    }

    fn replicate(&mut self, now: Time) {
        let notice = self.notice_at.is_some_and(|at| at <= now);
        if notice {
            self.notice_at = None;
        }
        let mut peers = std::mem::take(&mut self.peers);
        for (id, peer) in &mut peers {
            self.replicate_to(*id, peer, notice, now);
        }
        let told = |peer: &Progress| !peer.answers || peer.told >= self.commit.min(peer.next - 1);
        if self.notice_at.is_some() && peers.values().all(told) {
            self.notice_at = None;
        }
        self.peers = peers;
    }

    fn replicate_to(&mut self, id: u64, peer: &mut Progress, notice: bool, now: Time) {
        let before = self.seq;
        while peer.next <= self.log.last_index() && peer.may_send(now, self.timing.in_flight_max) {
            if self.log.id_at(peer.next - 1).is_none() {
                // What comes before is purged. A peer that does not answer would get no snapshot either.
                if peer.answers {
                    peer.state = State::Snapshot;
                    self.actions.snapshots.push(id);
                }
                break;
            }
            match self.log.in_memory(peer.next, u64::MAX, self.timing.message) {
                Some(entries) => self.send(id, peer, entries, now),
                None => {
                    peer.fetching = true;
                    self.actions.fetches.push((id, peer.next));
                }
            }
        }
        let silent = peer.sent_at.is_none_or(|at| now >= at + self.timing.heartbeat);
        let untold = notice && peer.answers && peer.told < self.commit.min(peer.next - 1);
        if self.seq == before && (silent || untold || peer.poked) {
            self.send(id, peer, Vec::new(), now);
        }
        peer.poked = false;
    }

    fn send(&mut self, to: u64, peer: &mut Progress, entries: Vec<Entry>, now: Time) {
        let prev = match peer.state {
            State::Snapshot => LogId::NONE,
            State::Probe | State::Replicate => self.log.id_at(peer.next - 1).unwrap_or(LogId::NONE),
        };
        let last = prev.index + entries.len() as u64;
        let sent = Sent { term: self.term, seq: self.seq, at: now, prev: prev.index, last };
        self.seq += 1;
        if !entries.is_empty() {
            peer.in_flight += 1;
            peer.next = last + 1;
        }
        peer.sent_at = Some(now);
        peer.told = peer.told.max(self.commit.min(last));
        let request =
            AppendRequest { term: self.term, leader: self.node, prev, entries, commit: self.commit };
        self.actions.sends.push((to, Message::Append(request, sent)));
    }

    fn confirm_reads(&mut self) {
        if self.reads.is_empty() || self.commit < self.own_first {
            return;
        }
        let alone = self.log.membership().membership.is_alone(self.node);
        let acked = self.majority_acked().map(|(_, seq)| seq);
        while let Some(read) = self.reads.front() {
            if !alone && acked.is_none_or(|acked| acked < read.seq) {
                break;
            }
            self.actions.reads.push((read.id, self.commit));
            self.reads.pop_front();
        }
    }

    /// Resigns when no majority has been heard for long.
    pub(super) fn check_majority(&mut self, now: Time) {
        if self.log.membership().membership.is_alone(self.node) {
            return;
        }
        let heard = self.majority_acked().map_or(self.check_from, |(at, _)| at.max(self.check_from));
        if now > heard + self.timing.election_max * 2 {
            self.follow(self.term, 0, now);
        }
    }

    /// A leader that is no voter any more has done its duty once that is committed.
    fn leave_if_removed(&mut self, now: Time) {
        let StoredMembership { log_id, membership } = self.log.membership();
        if !membership.is_voter(self.node) && log_id.index <= self.commit {
            self.poke();
            self.replicate(now);
            self.follow(self.term, 0, now);
        }
    }
}
