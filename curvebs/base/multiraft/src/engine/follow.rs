//! What a follower does with a leader's messages.

use super::core::{Core, Gated, Role};
use super::message::{AppendReply, AppendRequest, Reply, Time, Token};
use crate::types::{Entry, LogId, Payload};

impl Core {
    /// Takes a leader's message. The reply leaves once what it claims is durable.
    pub(crate) fn append(&mut self, token: Token, request: AppendRequest, now: Time) {
        if !self.hear(request.term, request.leader, now) {
            let reply = AppendReply::Higher { term: self.term };
            return self.hand_out(Gated::Reply(token, Reply::Append(reply)), false);
        }
        if let Err(hint) = self.check_prev(request.prev) {
            let reply = AppendReply::Conflict { hint };
            return self.hand_out(Gated::Reply(token, Reply::Append(reply)), false);
        }
        let (last, commit) = (request.last_index(), request.commit);
        let empty = request.entries.is_empty();
        if let Err(kept) = self.take_entries(request.entries) {
            // A leader that would undo what is committed is no leader; nothing is taken from it.
            let reply = AppendReply::Conflict { hint: kept };
            return self.hand_out(Gated::Reply(token, Reply::Append(reply)), false);
        }
        self.advance_follower(commit.min(last));
        let flushed = self.log.flushed();
        let durable = last <= flushed;
        let matched = if empty { last.min(flushed) } else { last };
        let reply = Reply::Append(AppendReply::Ok { matched });
        self.hand_out(Gated::Reply(token, reply), !empty && !durable);
    }

    /// Notes a sign of life of a leader; false if its term is over.
    pub(crate) fn hear(&mut self, term: u64, leader: u64, now: Time) -> bool {
        let own = term == self.term && self.role == Role::Leader;
        if term < self.term || own || leader == self.node {
            return false;
        }
        if term > self.term || self.leader != leader {
            if term == self.term && self.leader != 0 {
                tracing::error!(
                    term,
                    leader,
                    known = self.leader,
                    "two leaders in one term; the second is ignored"
                );
                return false;
            }
            self.follow(term, leader, now);
        }
        self.eager = 0;
        self.heard = Some(now);
        self.last_tick = now;
        self.wait_for_leader(now);
        true
    }

    /// Whether the log has `prev`; if not, up to where it may be the same as the leader's.
    fn check_prev(&self, prev: LogId) -> Result<(), u64> {
        // What is committed is the same everywhere.
        if prev.index <= self.commit {
            return Ok(());
        }
        match self.log.id_at(prev.index) {
            Some(id) if id == prev => Ok(()),
            Some(_) => Err(self.log.before_run_of(prev.index).max(self.commit)),
            None => Err(self.log.last_index()),
        }
    }

    /// Appends what the log lacks, in place of what differs. Refuses to replace what is committed, and says how far
    /// that is.
    fn take_entries(&mut self, entries: Vec<Entry>) -> Result<(), u64> {
        let mut changed = false;
        for entry in entries {
            let index = entry.id.index;
            if index <= self.log.purged().index || self.log.id_at(index) == Some(entry.id) {
                continue;
            }
            if index <= self.log.last_index() {
                if index <= self.commit {
                    tracing::error!(index, commit = self.commit, "a leader would undo what is committed");
                    return Err(self.commit);
                }
                self.write_truncate(index - 1);
                changed = true;
            }
            changed |= matches!(entry.payload, Payload::Membership(_));
            self.write_entry(entry);
        }
        if changed || self.role == Role::Learner {
            self.adopt_role();
        }
        Ok(())
    }

    fn advance_follower(&mut self, commit: u64) {
        if commit > self.commit {
            self.commit = commit.min(self.log.last_index());
            self.log.settle_memberships(self.commit);
        }
    }
}
