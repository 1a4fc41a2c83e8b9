//! What a leader knows of one peer.

use std::time::Duration;

use super::message::Time;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// It is not known where the logs part: one message at a time.
    Probe,
    /// The logs are the same up to `next`: several messages at a time.
    Replicate,
    /// It needs entries that are purged; a snapshot is on its way.
    Snapshot,
}

/// What a leader knows of one peer.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    pub(crate) state: State,
    /// The first entry to be sent next.
    pub(crate) next: u64,
    /// The logs are the same up to here, durably.
    pub(crate) matched: u64,
    /// Messages with entries that wait for their reply.
    pub(crate) in_flight: usize,
    /// Replies to messages before this one say nothing about `next` and `in_flight` any more.
    floor: u64,
    /// When something was sent last.
    pub(crate) sent_at: Option<Time>,
    /// When the latest message it has answered was sent, and which one that was.
    pub(crate) acked: Option<(Time, u64)>,
    /// It has been told that this is committed.
    pub(crate) told: u64,
    /// It answered the last time it was asked.
    pub(crate) answers: bool,
    /// A message with entries was not answered: nothing but signs of life until it is heard again, since reading and
    /// encoding entries for a peer that is gone would cost as much as for one that is there.
    pub(crate) lost: bool,
    /// Entries for it are being read from the log.
    pub(crate) fetching: bool,
    /// Nothing but signs of life before this.
    pub(crate) retry_at: Time,
    /// A sign of life is due now.
    pub(crate) poked: bool,
}

impl Progress {
    pub(crate) fn new(next: u64) -> Self {
        Self {
            state: State::Probe,
            next,
            matched: 0,
            in_flight: 0,
            floor: 0,
            sent_at: None,
            acked: None,
            told: 0,
            answers: false,
            lost: false,
            fetching: false,
            retry_at: Duration::ZERO,
            poked: true,
        }
    }

    /// Whether entries may be sent.
    pub(crate) fn may_send(&self, now: Time, in_flight_max: usize) -> bool {
        let room = match self.state {
            State::Probe => self.in_flight == 0,
            State::Replicate => self.in_flight < in_flight_max,
            State::Snapshot => false,
        };
        room && !self.fetching && !self.lost && now >= self.retry_at
    }

    /// Whether a reply says something about `next` and `in_flight`.
    pub(crate) fn is_current(&self, seq: u64) -> bool {
        seq >= self.floor
    }

    /// Starts over from what is known for sure, or a guess above it. `seq` is the next message's.
    pub(crate) fn probe(&mut self, guess: u64, seq: u64, retry_at: Time) {
        self.next = guess.max(self.matched + 1);
        self.in_flight = 0;
        self.floor = seq;
        self.retry_at = retry_at;
        if self.state != State::Snapshot {
            self.state = State::Probe;
        }
    }

    /// Starts over from what is known for sure. Where nothing is known the peer may have everything up to `last`: to begin with
    /// the first entry would have it given a snapshot that it does not need.
    pub(crate) fn start_over(&mut self, last: u64, seq: u64, retry_at: Time) {
        let known = if self.matched == 0 { last } else { self.matched };
        self.probe(known + 1, seq, retry_at);
    }

    /// The peer has answered `seq`, sent at `at`.
    pub(crate) fn heard(&mut self, at: Time, seq: u64) {
        self.answers = true;
        self.lost = false;
        if self.acked.is_none_or(|(_, known)| known < seq) {
            self.acked = Some((at, seq));
        }
    }

    /// The logs are the same up to `matched`. `sent_last` is where the answered message ended.
    pub(crate) fn matches(&mut self, matched: u64, sent_last: u64, current: bool) {
        self.matched = self.matched.max(matched);
        self.next = self.next.max(self.matched + 1);
        if current && self.state == State::Probe && sent_last + 1 >= self.next {
            self.state = State::Replicate;
            self.retry_at = Duration::ZERO;
        }
    }

    /// The end of a transfer; `installed` is what the peer has now, `last` the end of the leader's log.
    pub(crate) fn snapshot_ended(&mut self, installed: Option<u64>, last: u64, seq: u64, retry_at: Time) {
        if self.state != State::Snapshot {
            return;
        }
        self.state = State::Probe;
        self.matched = self.matched.max(installed.unwrap_or(0));
        self.start_over(last, seq, if installed.is_some() { Duration::ZERO } else { retry_at });
    }
}
