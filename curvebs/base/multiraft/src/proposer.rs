//! From many callers' operations to few log entries.
//!
//! The group's task puts what waits into one entry. A round costs the same whatever it carries, so small operations
//! gather while one is in flight; only when much has gathered ([`WORTH_A_ROUND_BYTES`]) does the next round begin before
//! that. Nothing waits for a timer: without load an operation goes at once. What is queued or in flight is bounded in
//! operations and bytes; callers wait for room.

use std::collections::VecDeque;
use std::sync::Arc;

use curve_types::{LogIndex, NodeId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::errors::ProposeError;
use crate::format::op_head_bytes;
use crate::machine::Results;
use crate::op::{Op, Proposed};
use crate::options::RaftOptions;
use crate::types::LogId;
use crate::wire::ENTRY_HEAD_BYTES_MAX;

/// With this much waiting a round begins although others are in flight.
const WORTH_A_ROUND_BYTES: usize = 128 << 10;

type Answer = oneshot::Sender<Result<Proposed, ProposeError>>;

/// One operation in the queue, with the room it takes.
pub(crate) struct Waiting {
    op: Op,
    answer: Answer,
    room: OwnedSemaphorePermit,
}

/// Lets callers in as long as there is room.
pub(crate) struct Room {
    room: Arc<Semaphore>,
    op_cost: usize,
    entry_bytes_max: usize,
}

impl Room {
    pub(crate) fn new(options: &RaftOptions) -> Self {
        let op_cost = options.queue_bytes_max / options.queue_ops_max;
        // An operation of the largest size must fit, whatever the limits are.
        let bytes = options.queue_bytes_max.max(options.entry_bytes_max + op_cost + ENTRY_HEAD_BYTES_MAX);
        Self { room: Arc::new(Semaphore::new(bytes)), op_cost, entry_bytes_max: options.entry_bytes_max }
    }

    /// Waits for room for one operation; what is returned is to be queued, and the result waited for.
    pub(crate) async fn admit(
        &self,
        op: Op,
    ) -> Result<(Waiting, oneshot::Receiver<Result<Proposed, ProposeError>>), ProposeError> {
        let payload = op.len() - op.header.len();
        let head = op_head_bytes(&op);
        if payload > self.entry_bytes_max || head > ENTRY_HEAD_BYTES_MAX / 2 {
            return Err(ProposeError::TooLarge { len: op.len(), max: self.entry_bytes_max });
        }
        let cost = u32::try_from(op.len() + self.op_cost).expect("checked above");
        let room = self.room.clone().acquire_many_owned(cost).await.map_err(|_| ProposeError::Stopped)?;
        let (answer, result) = oneshot::channel();
        Ok((Waiting { op, answer, room }, result))
    }
}

/// An entry on its way, and who waits for it.
struct Round {
    id: LogId,
    answers: Vec<(Answer, OwnedSemaphorePermit)>,
}

/// What waits to be proposed, and what is proposed and not yet applied.
pub(crate) struct Proposals {
    gathered: VecDeque<Waiting>,
    gathered_bytes: usize,
    rounds: VecDeque<Round>,
    rounds_max: usize,
    ops_max: usize,
    bytes_max: usize,
    /// No round begins while leadership is handed over.
    pub(crate) paused: bool,
}

impl Proposals {
    pub(crate) fn new(options: &RaftOptions) -> Self {
        Self {
            gathered: VecDeque::new(),
            gathered_bytes: 0,
            rounds: VecDeque::new(),
            rounds_max: options.rounds_in_flight_max,
            ops_max: options.entry_ops_max,
            bytes_max: options.entry_bytes_max,
            paused: false,
        }
    }

    pub(crate) fn put(&mut self, waiting: Waiting) {
        self.gathered_bytes += waiting.op.len();
        self.gathered.push_back(waiting);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.gathered.is_empty()
    }

    /// Entries in flight.
    pub(crate) fn rounds(&self) -> usize {
        self.rounds.len()
    }

    /// Whether a round is to begin now, the log being committed up to `commit`.
    pub(crate) fn may_begin(&self, commit: u64) -> bool {
        let under_way = self.rounds.back().is_some_and(|round| round.id.index > commit);
        let worth = self.gathered_bytes >= WORTH_A_ROUND_BYTES;
        !self.gathered.is_empty()
            && !self.paused
            && (!under_way || worth)
            && self.rounds.len() < self.rounds_max
    }

    /// Begins a round with what fits one entry; `propose` gives the entry its place.
    pub(crate) fn begin(&mut self, propose: impl FnOnce(&[Op]) -> LogId) {
        let (mut head, mut payload) = (0, 0);
        let (mut ops, mut answers) = (Vec::new(), Vec::new());
        while let Some(waiting) = self.gathered.front() {
            head += op_head_bytes(&waiting.op);
            payload += waiting.op.len() - waiting.op.header.len();
            let full = ops.len() == self.ops_max || head > ENTRY_HEAD_BYTES_MAX || payload > self.bytes_max;
            if full && !ops.is_empty() {
                break;
            }
            let waiting = self.gathered.pop_front().expect("looked at above");
            self.gathered_bytes -= waiting.op.len();
            ops.push(waiting.op);
            answers.push((waiting.answer, waiting.room));
        }
        self.rounds.push_back(Round { id: propose(&ops), answers });
    }

    /// Answers those whose entry was applied. Nobody may wait any more, so that nothing is lost when they do not hear it.
    pub(crate) fn applied(&mut self, results: Vec<Results>) {
        for (id, results) in results {
            while self.rounds.front().is_some_and(|round| round.id.index < id.index) {
                self.rounds.pop_front();
            }
            let Some(round) = self.rounds.pop_front_if(|round| round.id == id) else { continue };
            let index = LogIndex(id.index);
            for ((answer, _room), result) in round.answers.into_iter().zip(results) {
                let _ = answer.send(Ok(Proposed { index, result }));
            }
        }
    }

    /// Refuses what waits.
    pub(crate) fn refuse(&mut self, hint: Option<NodeId>) {
        self.gathered_bytes = 0;
        for waiting in self.gathered.drain(..) {
            let _ = waiting.answer.send(Err(ProposeError::NotLeader { hint }));
        }
    }

    /// Gives up what is in flight: whether it is committed will be known to another leader only.
    pub(crate) fn give_up(&mut self, hint: Option<NodeId>) {
        for (answer, _room) in self.rounds.drain(..).flat_map(|round| round.answers) {
            let _ = answer.send(Err(ProposeError::NotLeader { hint }));
        }
    }
}
