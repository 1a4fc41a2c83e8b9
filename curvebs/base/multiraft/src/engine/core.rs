//! The state of one replica, and its timers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::log::{Limits, LogView};
use super::message::{Actions, AppendReply, Message, Reply, Time, Token, Write, WriteKind};
use super::progress::Progress;
use crate::types::{Entry, LeaderId, LogId, StoredMembership, Vote};

/// What a replica is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    Learner,
    Follower,
    /// Asks whether an election would succeed.
    PreCandidate,
    Candidate,
    Leader,
}

/// Times and limits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) heartbeat: Duration,
    pub(crate) election_min: Duration,
    pub(crate) election_max: Duration,
    pub(crate) clock_margin: Duration,
    /// How long a commit notice waits for entries to go with.
    pub(crate) notice_delay: Duration,
    /// Messages with entries to one peer that wait for their reply.
    pub(crate) in_flight_max: usize,
    /// What one message holds.
    pub(crate) message: Limits,
}

/// What a replica finds at its start.
pub(crate) struct Recovered {
    pub(crate) vote: Vote,
    pub(crate) log: LogView,
    /// Known to be committed before the restart.
    pub(crate) commit: u64,
    pub(crate) applied: LogId,
    /// No vote is given before: a leader may still read under a lease this node promised.
    pub(crate) votes_from: Time,
}

/// Something that leaves once a write is durable.
#[derive(Debug)]
pub(super) enum Gated {
    Reply(Token, Reply),
    Send(u64, Message),
}

/// A read by message that waits for a majority.
#[derive(Debug)]
pub(super) struct PendingRead {
    pub(super) id: u64,
    /// A majority must answer a message that is not older than this one.
    pub(super) seq: u64,
}

/// One replica of one group: Raft without I/O.
///
/// # How it is driven
///
/// Its owner hands over what has come in, each with the time: requests ([`append`](Self::append), [`vote`](Self::vote),
/// [`transfer`](Self::transfer)), replies, [`flushed`](Self::flushed) writes, proposals, [`tick`](Self::tick) when
/// [`deadline`](Self::deadline) has passed. Then it calls [`finish`](Self::finish) once, which decides what a leader
/// sends, so that whatever came in together leaves together. Then it takes the [`Actions`] and carries them out in
/// order: writes begin first, then replies and messages leave. Committed entries are applied by the owner, who says how
/// far it is ([`applied`](Self::applied)).
///
/// # Invariants
///
/// - A term has at most one leader: a vote is durable before anyone hears of it, and one is given per term.
/// - What a reply claims is durable before the reply is handed out. A claim to a leader of an earlier term is withdrawn
///   when the term changes, since the entries may be replaced.
/// - An entry is committed when a majority of each set of voters has it durably and it is of the leader's own term, or
///   lies before such an entry. A committed entry is never truncated.
/// - The lease: a follower votes for nobody for `election_max` after it has *received* a leader's message. A leader
///   counts from the moment it *sent* what a majority answered, and stops `clock_margin` earlier. A leader votes for
///   nobody while it leads. A hand-over ignores promises, so the owner stops using the lease before it asks for one. A
///   restarted replica votes for nobody until promises it has forgotten have ended (`votes_from`).
/// - A read by message is served after a majority has answered something that was sent after the read came, and once
///   what was committed then, and an entry of the leader's own term, is applied.
/// - An election is preceded by a question that changes nothing (pre-vote), so that a replica which cannot win does not
///   raise the term. A leader that hears no majority for twice `election_max` resigns.
/// - Members change by one voter at a time, and only after the change before, and an entry of the leader's own term,
///   are committed; so any two majorities that may decide overlap.
/// - Random draws come from the seed, and peers are visited in the order of their ids.
///
/// # Rejected
///
/// Votes that a larger node id takes over within a term, as the engine before had: two leaders in one term, and terms
/// that are no fences. Joint consensus for a change by one: two entries where one does. Entries by reference into the
/// log: sending and applying would wait for reads.
pub(crate) struct Core {
    pub(super) node: u64,
    pub(super) timing: Timing,
    rng: StdRng,
    pub(super) term: u64,
    /// Whom this node has voted for in this term, or follows; 0 for nobody.
    pub(super) voted: u64,
    pub(super) log: LogView,
    pub(super) commit: u64,
    pub(super) applied: LogId,
    pub(super) role: Role,
    /// Who leads this term, as far as is known; 0 for nobody.
    pub(super) leader: u64,
    /// When the leader was heard last.
    pub(super) heard: Option<Time>,
    pub(super) votes_from: Time,
    /// When to stand for election.
    pub(super) stand_at: Time,
    /// The random part of the wait before it.
    pub(super) jitter: Duration,
    /// Elections to be tried in quick succession.
    pub(super) eager: u32,
    /// Who answered this candidate, and how.
    pub(super) votes: BTreeMap<u64, bool>,
    pub(super) transferring: bool,
    pub(super) peers: BTreeMap<u64, Progress>,
    pub(super) seq: u64,
    /// The first entry of the term this node leads.
    pub(super) own_first: u64,
    pub(super) reads: VecDeque<PendingRead>,
    pub(super) notice_at: Option<Time>,
    /// A majority must have been heard since, or this leader resigns after a while.
    pub(super) check_from: Time,
    pub(super) last_tick: Time,
    io_issued: u64,
    io_durable: u64,
    /// The write of the vote in force.
    io_vote: u64,
    gated: VecDeque<(u64, Gated)>,
    pub(super) actions: Actions,
}

impl Core {
    /// A replica as it was left.
    pub(crate) fn new(node: u64, seed: u64, timing: Timing, found: Recovered, now: Time) -> Self {
        let commit = found.commit.min(found.log.last_index()).max(found.applied.index);
        let mut this = Self {
            node,
            timing,
            rng: StdRng::seed_from_u64(seed),
            term: found.vote.leader_id.term,
            voted: found.vote.leader_id.node_id,
            log: found.log,
            commit,
            applied: found.applied,
            role: Role::Learner,
            leader: 0,
            heard: None,
            votes_from: found.votes_from,
            stand_at: now,
            jitter: Duration::ZERO,
            eager: 0,
            votes: BTreeMap::new(),
            transferring: false,
            peers: BTreeMap::new(),
            seq: 0,
            own_first: u64::MAX,
            reads: VecDeque::new(),
            notice_at: None,
            check_from: now,
            last_tick: now,
            io_issued: 0,
            io_durable: 0,
            io_vote: 0,
            gated: VecDeque::new(),
            actions: Actions::default(),
        };
        this.log.settle_memberships(commit);
        this.draw_jitter();
        this.adopt_role();
        if !this.log.membership().membership.is_alone(node) {
            this.wait_for_leader(now);
        }
        this
    }

    /// Takes what is to be done now.
    pub(crate) fn take_actions(&mut self) -> Actions {
        std::mem::take(&mut self.actions)
    }

    /// When [`tick`](Self::tick) is to be called, if nothing else happens.
    pub(crate) fn deadline(&self) -> Option<Time> {
        match self.role {
            Role::Learner => None,
            Role::Leader => {
                let beat =
                    |peer: &Progress| peer.sent_at.map_or(Duration::ZERO, |at| at + self.timing.heartbeat);
                self.peers.values().map(beat).chain(self.notice_at).min()
            }
            Role::Follower | Role::PreCandidate | Role::Candidate => {
                Some(if self.transferring { self.stand_at } else { self.stand_at.max(self.votes_from) })
            }
        }
    }

    /// Time has passed. A call too many is harmless.
    pub(crate) fn tick(&mut self, now: Time) {
        let paused = now.saturating_sub(self.last_tick) > self.timing.election_max;
        self.last_tick = now;
        match self.role {
            Role::Leader => {
                if paused {
                    self.check_from = now;
                }
                self.check_majority(now);
            }
            Role::Learner => {}
            Role::Follower | Role::PreCandidate | Role::Candidate => {
                if self.deadline().is_some_and(|at| at <= now) {
                    self.campaign(false, now);
                }
            }
        }
    }

    /// The owner's clock goes on after it was stopped: a leader tells that it is there, a follower that was not told so
    /// (`overdue`) stands for election soon.
    pub(crate) fn wake(&mut self, now: Time) {
        self.last_tick = now;
        match self.role {
            Role::Leader => {
                self.check_from = now;
                self.poke();
            }
            Role::Learner => {}
            Role::Follower | Role::PreCandidate | Role::Candidate => {
                let soon = self.random_between(self.timing.election_min / 4, self.timing.election_min);
                self.stand_at = now + soon;
            }
        }
    }

    /// Writes up to this one are durable.
    pub(crate) fn flushed(&mut self, io: u64, now: Time) {
        self.io_durable = self.io_durable.max(io);
        self.log.end_io(io);
        while let Some((_, gated)) = self.gated.pop_front_if(|(needs, _)| *needs <= self.io_durable) {
            self.release(gated);
        }
        self.count_own_vote(now);
    }

    /// The owner has applied up to here.
    pub(crate) fn applied(&mut self, upto: LogId) {
        self.applied = self.applied.max(upto);
    }

    /// What may be applied now, as indices: the entries from the first up to the second. Only what is durable here is.
    pub(crate) fn to_apply(&self) -> Option<(u64, u64)> {
        let upto = self.commit.min(self.log.flushed());
        (upto > self.applied.index).then_some((self.applied.index + 1, upto))
    }

    /// Entries from memory, as many as `limits` allow; `None` if the first is not there.
    pub(crate) fn entries(&self, from: u64, upto: u64, limits: Limits) -> Option<Vec<Entry>> {
        self.log.in_memory(from, upto, limits)
    }

    /// The owner has installed a snapshot and made it durable. Says what entries remain: the log must be truncated
    /// after the second value, if there is one, and then purged up to the snapshot's end.
    pub(crate) fn installed(&mut self, last: LogId, membership: StoredMembership) -> Option<u64> {
        let differs = self.log.last_index() > last.index && self.log.id_at(last.index) != Some(last);
        let truncate = differs.then(|| self.log.purged().index);
        if let Some(kept) = truncate {
            self.log.truncate(kept);
        }
        self.log.purge(last);
        self.log.reset_membership(membership);
        self.commit = self.commit.max(last.index);
        self.applied = self.applied.max(last);
        self.log.settle_memberships(self.commit);
        self.adopt_role();
        truncate
    }

    /// The owner has purged the log up to here.
    pub(crate) fn purged(&mut self, upto: LogId) {
        assert!(upto.index <= self.applied.index, "only what is applied is purged");
        self.log.purge(upto);
    }

    pub(crate) fn role(&self) -> Role {
        self.role
    }

    pub(crate) fn term(&self) -> u64 {
        self.term
    }

    /// Who leads this term, as far as is known.
    pub(crate) fn leader(&self) -> Option<u64> {
        (self.leader != 0).then_some(self.leader)
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.role == Role::Leader
    }

    pub(crate) fn commit_index(&self) -> u64 {
        self.commit
    }

    pub(crate) fn applied_id(&self) -> LogId {
        self.applied
    }

    pub(crate) fn log(&self) -> &LogView {
        &self.log
    }

    /// Whether no vote may be given yet because of what may have been promised before a restart.
    pub(crate) fn votes_wait(&self, now: Time) -> bool {
        now < self.votes_from
    }

    /// What this node has promised.
    fn vote_in_force(&self) -> Vote {
        let leader_id = LeaderId { term: self.term, node_id: self.voted };
        Vote { leader_id, committed: self.leader != 0 && self.leader == self.voted }
    }

    /// Adopts a term, and perhaps its leader; ends all that was tied to the term before.
    pub(super) fn follow(&mut self, term: u64, leader: u64, now: Time) {
        assert!(term >= self.term, "terms grow");
        let led = self.role == Role::Leader;
        let newer = term > self.term;
        self.leader = leader;
        if newer {
            self.term = term;
            self.voted = leader;
            self.write_vote();
            self.withdraw_claims();
        }
        if led {
            self.actions.resigned = true;
            self.peers.clear();
            self.reads.clear();
            self.notice_at = None;
            self.own_first = u64::MAX;
        }
        self.votes.clear();
        self.transferring = false;
        self.role = Role::Follower;
        self.adopt_role();
        self.draw_jitter();
        if leader != 0 || led {
            self.wait_for_leader(now);
        } else if newer {
            self.stand_at = self.stand_at.max(now + self.jitter);
        }
    }

    /// What was about to be claimed to an earlier leader may not be true for long.
    fn withdraw_claims(&mut self) {
        let term = self.term;
        for (_, gated) in &mut self.gated {
            if let Gated::Reply(_, reply @ Reply::Append(_)) = gated {
                *reply = Reply::Append(AppendReply::Higher { term });
            }
        }
    }

    /// Voter or learner, as the members in force have it.
    pub(super) fn adopt_role(&mut self) {
        let voter = self.log.membership().membership.is_voter(self.node);
        match (self.role, voter) {
            (Role::Learner, true) => self.role = Role::Follower,
            (Role::Follower | Role::PreCandidate | Role::Candidate, false) => self.role = Role::Learner,
            _ => {}
        }
    }

    /// Stands for election unless the leader is heard.
    pub(super) fn wait_for_leader(&mut self, now: Time) {
        self.stand_at = now + self.timing.election_max + self.jitter;
    }

    pub(super) fn draw_jitter(&mut self) {
        self.jitter = self.random_between(self.timing.election_min, self.timing.election_max);
    }

    pub(super) fn random_between(&mut self, min: Duration, max: Duration) -> Duration {
        let span = u64::try_from(max.saturating_sub(min).as_micros()).unwrap_or(u64::MAX);
        min + Duration::from_micros(self.rng.random_range(0..=span))
    }

    pub(super) fn write_vote(&mut self) {
        self.io_issued += 1;
        self.io_vote = self.io_issued;
        self.log.begin_io(self.io_issued);
        let kind = WriteKind::Vote(self.vote_in_force());
        self.actions.writes.push(Write { io: self.io_issued, kind });
    }

    pub(super) fn write_truncate(&mut self, kept: u64) {
        self.log.truncate(kept);
        self.io_issued += 1;
        self.log.begin_io(self.io_issued);
        self.actions.writes.push(Write { io: self.io_issued, kind: WriteKind::Truncate(kept) });
    }

    /// Appends; entries that are appended before the actions are taken become one write.
    pub(super) fn write_entry(&mut self, entry: Entry) {
        self.log.push(entry.clone());
        match self.actions.writes.last_mut() {
            Some(Write { kind: WriteKind::Append(entries), .. }) => entries.push(entry),
            _ => {
                self.io_issued += 1;
                let kind = WriteKind::Append(vec![entry]);
                self.actions.writes.push(Write { io: self.io_issued, kind });
            }
        }
        self.log.begin_io(self.io_issued);
    }

    /// Hands out a reply or a message once the vote in force is durable, and all writes so far if `all`.
    pub(super) fn hand_out(&mut self, what: Gated, all: bool) {
        let needs = if all { self.io_issued } else { self.io_vote };
        if needs <= self.io_durable {
            self.release(what);
            return;
        }
        // In order of need, so that looking at the first is enough.
        let at = self.gated.partition_point(|(other, _)| *other <= needs);
        self.gated.insert(at, (needs, what));
    }

    fn release(&mut self, what: Gated) {
        match what {
            Gated::Reply(token, reply) => self.actions.replies.push((token, reply)),
            Gated::Send(peer, message) => self.actions.sends.push((peer, message)),
        }
    }

    /// Whether this node's vote for itself is durable.
    pub(super) fn vote_is_durable(&self) -> bool {
        self.io_vote <= self.io_durable
    }

    pub(super) fn others(&self) -> BTreeSet<u64> {
        let mut others = self.log.membership().membership.nodes().clone();
        others.remove(&self.node);
        others
    }
}
