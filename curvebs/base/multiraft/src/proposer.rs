//! From many callers' operations to few log entries.
//!
//! One task per group takes what waits in the queue, puts it into one entry, and proposes it. A round costs the same
//! whatever it carries, so small operations gather while one is in flight; only when much has gathered
//! ([`WORTH_A_ROUND_BYTES`]) does the next round begin before that. Nothing waits for a timer: without load an operation
//! goes at once. What is queued or in flight is bounded in operations and bytes; callers wait for room.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use curve_types::{LogIndex, NodeId};
use openraft::errors::{ClientWriteError, ForwardReason, ForwardToLeader};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::errors::ProposeError;
use crate::format::{encode_ops, op_head_bytes};
use crate::group::Inner;
use crate::op::{Op, Proposed};
use crate::options::RaftOptions;
use crate::types::{Batch, C, OnComplete, WriteResult, public_index};
use crate::wire::ENTRY_HEAD_BYTES_MAX;

/// With this much waiting a round begins although others are in flight.
const WORTH_A_ROUND_BYTES: usize = 128 << 10;

type Answer = oneshot::Sender<Result<Proposed, ProposeError>>;

/// One operation in the queue, with the room it takes.
struct Waiting {
    op: Op,
    answer: Answer,
    room: OwnedSemaphorePermit,
}

/// An entry on its way: who waits for it and what it occupies.
struct Round {
    answers: Vec<(Answer, OwnedSemaphorePermit)>,
    _permit: OwnedSemaphorePermit,
}

/// An entry that openraft refused only since the leader's lease had lapsed.
struct Retry {
    batch: Batch,
    round: Round,
    since: Instant,
}

/// The callers' end.
pub(crate) struct Proposals {
    queue: mpsc::UnboundedSender<Waiting>,
    room: Arc<Semaphore>,
    op_cost: usize,
    entry_bytes_max: usize,
    gate: watch::Sender<bool>,
    rounds: Arc<Semaphore>,
    rounds_max: usize,
}

impl Proposals {
    /// Makes both ends.
    pub(crate) fn new(options: &RaftOptions) -> (Self, ProposerInput) {
        let (queue, waiting) = mpsc::unbounded_channel();
        let (retry, retries) = mpsc::unbounded_channel();
        let gate = watch::Sender::new(true);
        let rounds = Arc::new(Semaphore::new(options.rounds_in_flight_max));
        let input = ProposerInput {
            waiting,
            gathered: VecDeque::new(),
            gathered_bytes: 0,
            retry,
            retries,
            gate: gate.subscribe(),
            rounds: rounds.clone(),
            rounds_max: u32::try_from(options.rounds_in_flight_max).expect("few rounds"),
            ops_max: options.entry_ops_max,
            bytes_max: options.entry_bytes_max,
        };
        let op_cost = options.queue_bytes_max / options.queue_ops_max;
        let proposals = Self {
            queue,
            // An operation of the largest size must fit, whatever the limits are.
            room: Arc::new(Semaphore::new(
                options.queue_bytes_max.max(options.entry_bytes_max + op_cost + ENTRY_HEAD_BYTES_MAX),
            )),
            op_cost,
            entry_bytes_max: options.entry_bytes_max,
            gate,
            rounds,
            rounds_max: options.rounds_in_flight_max,
        };
        (proposals, input)
    }

    /// Queues one operation and waits for its result.
    pub(crate) async fn propose(&self, op: Op) -> Result<Proposed, ProposeError> {
        let payload = op.len() - op.header.len();
        let head = op_head_bytes(&op);
        if payload > self.entry_bytes_max || head > ENTRY_HEAD_BYTES_MAX / 2 {
            return Err(ProposeError::TooLarge { len: op.len(), max: self.entry_bytes_max });
        }
        let cost = u32::try_from(op.len() + self.op_cost).expect("checked above");
        let room = self.room.clone().acquire_many_owned(cost).await.map_err(|_| ProposeError::Stopped)?;
        let (answer, result) = oneshot::channel();
        self.queue.send(Waiting { op, answer, room }).map_err(|_| ProposeError::Stopped)?;
        result.await.unwrap_or(Err(ProposeError::Stopped))
    }

    /// Lets no new entry start, and waits until none is in flight, for at most `patience`.
    pub(crate) async fn pause(&self, patience: Duration) -> bool {
        self.gate.send_replace(false);
        let all = self.rounds.acquire_many(u32::try_from(self.rounds_max).expect("few rounds"));
        tokio::time::timeout(patience, all).await.is_ok()
    }

    /// Ends [`pause`](Self::pause).
    pub(crate) fn resume(&self) {
        self.gate.send_replace(true);
    }
}

/// The proposer's end of the queue.
pub(crate) struct ProposerInput {
    waiting: mpsc::UnboundedReceiver<Waiting>,
    /// Taken from the queue, for the next rounds.
    gathered: VecDeque<Waiting>,
    gathered_bytes: usize,
    retry: mpsc::UnboundedSender<Retry>,
    retries: mpsc::UnboundedReceiver<Retry>,
    gate: watch::Receiver<bool>,
    rounds: Arc<Semaphore>,
    rounds_max: u32,
    ops_max: usize,
    bytes_max: usize,
}

impl ProposerInput {
    fn put(&mut self, waiting: Waiting) {
        self.gathered_bytes += waiting.op.len();
        self.gathered.push_back(waiting);
    }

    /// More would not fit one entry anyway.
    fn is_full(&self) -> bool {
        self.gathered.len() >= self.ops_max || self.gathered_bytes >= self.bytes_max
    }

    /// Waits for the right to begin a round: any free one if much has gathered, otherwise that none is in flight.
    async fn slot(rounds: Arc<Semaphore>, wanted: u32) -> OwnedSemaphorePermit {
        let mut all = rounds.acquire_many_owned(wanted).await.expect("never closed");
        all.split(1).expect("at least one was taken")
    }

    fn slots_wanted(&self) -> u32 {
        if self.gathered_bytes >= WORTH_A_ROUND_BYTES { 1 } else { self.rounds_max }
    }

    /// Takes what fits one entry of what has gathered.
    fn take(&mut self) -> (Vec<Op>, Vec<(Answer, OwnedSemaphorePermit)>) {
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
        (ops, answers)
    }
}

/// The proposer of one group. Ends when the group stops.
pub(crate) async fn run(group: Arc<Inner>, mut input: ProposerInput) {
    loop {
        let open = *input.gate.borrow_and_update();
        let (has_room, may_begin) = (!input.is_full(), open && !input.gathered.is_empty());
        let slot = ProposerInput::slot(input.rounds.clone(), input.slots_wanted());
        tokio::select! {
            biased;
            () = group.stopped() => return,
            Some(retry) = input.retries.recv() => {
                group.wait_for_lease().await;
                propose(&group, &input.retry, retry).await;
            }
            Ok(()) = input.gate.changed(), if !open => {}
            waiting = input.waiting.recv(), if has_room => match waiting {
                Some(waiting) => input.put(waiting),
                None => return,
            },
            permit = slot, if may_begin => {
                group.wake().await;
                let (ops, answers) = input.take();
                let round = Round { answers, _permit: permit };
                let entry = Retry { batch: encode_ops(&ops), round, since: Instant::now() };
                propose(&group, &input.retry, entry).await;
            }
        }
    }
}

async fn propose(group: &Arc<Inner>, retries: &mpsc::UnboundedSender<Retry>, what: Retry) {
    let Retry { batch, round, since } = what;
    let again = batch.clone();
    let retry = retries.clone();
    let patience = group.options.election_max * 2;
    let hint = group.hint();
    let responder = OnComplete::<WriteResult>::new(move |result| match result {
        Err(ClientWriteError::ForwardToLeader(ForwardToLeader {
            reason: ForwardReason::LeaseExpired,
            ..
        })) if since.elapsed() < patience => {
            let _ = retry.send(Retry { batch: again, round, since });
        }
        result => complete(result, round, hint),
    });
    // On failure the responder is dropped, and with it the answers: their callers see that the group has stopped.
    let _ = group.raft.client_write_ff(batch, Some(responder)).await;
}

fn complete(result: WriteResult, round: Round, hint: Option<NodeId>) {
    match result {
        Ok(response) => {
            let index = LogIndex(public_index(response.log_id.index));
            let results = response.data.0;
            debug_assert_eq!(results.len(), round.answers.len());
            for ((answer, _room), result) in round.answers.into_iter().zip(results) {
                let _ = answer.send(Ok(Proposed { index, result }));
            }
        }
        Err(error) => {
            let error = propose_error(&error, hint);
            for (answer, _room) in round.answers {
                let _ = answer.send(Err(error.clone()));
            }
        }
    }
}

/// What a refusal by openraft means to the caller.
fn propose_error(error: &ClientWriteError<C>, hint: Option<NodeId>) -> ProposeError {
    match error {
        ClientWriteError::ForwardToLeader(ForwardToLeader {
            reason: ForwardReason::LeaseExpired, ..
        }) => ProposeError::Unavailable,
        ClientWriteError::ForwardToLeader(forward) | ClientWriteError::LogEntryDiscarded(forward) => {
            ProposeError::NotLeader { hint: forward.leader_id.map(NodeId).or(hint) }
        }
        ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_) => {
            ProposeError::Unavailable
        }
    }
}
