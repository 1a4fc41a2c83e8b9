//! Elections: as candidate and as voter.

use super::core::{Core, Gated, Role};
use super::message::{Message, Reply, Time, Token, TransferRequest, VoteReply, VoteRequest};

impl Core {
    /// Stands for election at once, and a few times more in quick succession: the first leader of a new group, whose
    /// other members may not be there yet.
    pub(crate) fn stand_first(&mut self, tries: u32, now: Time) {
        self.eager = tries;
        self.campaign(false, now);
    }

    pub(super) fn campaign(&mut self, transfer: bool, now: Time) {
        self.transferring = transfer;
        let membership = &self.log.membership().membership;
        if !membership.is_voter(self.node) || (!transfer && self.votes_wait(now)) {
            return;
        }
        let alone = membership.is_alone(self.node);
        self.leader = 0;
        let (min, max) = match self.eager {
            0 => (self.timing.election_min / 2, self.timing.election_min),
            _ => (self.timing.heartbeat / 4, self.timing.heartbeat / 4),
        };
        self.eager = self.eager.saturating_sub(1);
        self.stand_at = now + self.random_between(min, max);
        if transfer || alone {
            self.stand(now);
            return;
        }
        self.role = Role::PreCandidate;
        self.votes = [(self.node, true)].into();
        self.ask(self.term + 1, true);
    }

    /// Becomes a candidate in the next term.
    fn stand(&mut self, now: Time) {
        self.term += 1;
        self.voted = self.node;
        self.role = Role::Candidate;
        self.leader = 0;
        self.votes.clear();
        self.write_vote();
        self.ask(self.term, false);
        self.count_votes(now);
    }

    fn ask(&mut self, term: u64, pre: bool) {
        let last = self.log.last_id();
        let request = VoteRequest { term, candidate: self.node, last, transfer: self.transferring, pre };
        for voter in self.others() {
            if self.log.membership().membership.is_voter(voter) {
                self.hand_out(Gated::Send(voter, Message::Vote(request)), !pre);
            }
        }
    }

    /// This node's own vote counts once it is durable.
    pub(super) fn count_own_vote(&mut self, now: Time) {
        if self.role == Role::Candidate && !self.votes.contains_key(&self.node) && self.vote_is_durable() {
            self.votes.insert(self.node, true);
            self.count_votes(now);
        }
    }

    /// A voter has answered `request`, or could not be asked (`None`).
    pub(crate) fn vote_reply(
        &mut self,
        from: u64,
        request: &VoteRequest,
        reply: Option<VoteReply>,
        now: Time,
    ) {
        let Some(reply) = reply else { return };
        if reply.term > self.term && !(request.pre && reply.granted) {
            self.follow(reply.term, 0, now);
            return;
        }
        let current = match self.role {
            Role::PreCandidate => request.pre && request.term == self.term + 1,
            Role::Candidate => !request.pre && request.term == self.term,
            Role::Leader | Role::Follower | Role::Learner => false,
        };
        if current {
            self.votes.insert(from, reply.granted);
            self.count_votes(now);
        }
    }

    fn count_votes(&mut self, now: Time) {
        let granted = |voter| self.votes.get(&voter) == Some(&true);
        if self.log.membership().membership.agreed(granted) != Some(true) {
            return;
        }
        match self.role {
            Role::PreCandidate => self.stand(now),
            Role::Candidate => self.lead(now),
            Role::Leader | Role::Follower | Role::Learner => {}
        }
    }

    /// Answers a candidate. The owner refuses on its own while the group sleeps under a leader that is well.
    pub(crate) fn vote(&mut self, token: Token, request: &VoteRequest, now: Time) {
        let granted = self.grants(request, now);
        let reply = VoteReply { term: self.term, granted };
        // A refusal promises nothing.
        self.hand_out(Gated::Reply(token, Reply::Vote(reply)), granted && !request.pre);
    }

    fn grants(&mut self, request: &VoteRequest, now: Time) -> bool {
        if !request.transfer {
            if self.role == Role::Leader {
                // It does not know who leads, so it is told.
                self.poke();
                return false;
            }
            let promised = self.heard.is_some_and(|heard| now < heard + self.timing.election_max);
            if promised || self.votes_wait(now) {
                return false;
            }
        }
        let level = request.last >= self.log.last_id();
        if request.pre {
            return level && request.term > self.term;
        }
        if request.term > self.term {
            self.follow(request.term, 0, now);
        }
        let free = self.voted == 0 || self.voted == request.candidate;
        if request.term < self.term || !level || !free || self.leader != 0 {
            return false;
        }
        if self.voted == 0 {
            self.voted = request.candidate;
            self.write_vote();
        }
        self.draw_jitter();
        self.stand_at = now + self.jitter;
        true
    }

    /// The leader asks this node to take over; tells whether it stands.
    pub(crate) fn transfer(&mut self, request: &TransferRequest, now: Time) -> bool {
        let fits = request.term == self.term
            && self.role == Role::Follower
            && self.leader == request.leader
            && self.log.last_id() >= request.last;
        if fits {
            self.eager = 0;
            self.campaign(true, now);
        }
        fits
    }
}
