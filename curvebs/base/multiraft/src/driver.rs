//! The task of one group: everything that happens to a replica happens here, one thing after the other.

mod appends;
mod calls;
mod work;

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use curve_io::{BoxFuture, Reply};
use curve_types::{FRAME_PAYLOAD_BYTES_MAX, NodeId};
use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Sleep, sleep_until};

use appends::{Appends, Ready, Step};
use calls::{Done, Waiting as Call};
use work::{Slot, Worked};

use crate::engine::{
    AppendRequest, Change, ChangeRefused, Core, Limits, Reply as EngineReply, Time, Token, TransferRequest,
    VoteRequest, WriteKind,
};
use crate::errors::{MembershipError, ReadError};
use crate::group::Inner;
use crate::lifecycle;
use crate::machine::Machine;
use crate::proposer::{Proposals, Waiting};
use crate::state_machine::SnapshotFetch;
use crate::store::Store;
use crate::types::{LogId, StoredMembership};
use crate::view::{Lease, View};
use crate::wire::{
    APPEND, APPEND_HEADS_BYTES_MAX, Outcome, PRE_VOTE, TRANSFER, TransferReply, VOTE, VoteReply,
    append_reply, message,
};

/// What one append to a peer holds, at most.
pub(crate) const MESSAGE: Limits =
    Limits { head_bytes: APPEND_HEADS_BYTES_MAX, payload_bytes: FRAME_PAYLOAD_BYTES_MAX, entries: 256 };
/// Inputs taken at once, at most.
const INPUTS_MAX: usize = 256;

/// What comes in.
pub(crate) enum Input {
    Append(AppendRequest, Box<dyn Reply>),
    Vote(VoteRequest, Box<dyn Reply>),
    Transfer(TransferRequest, Box<dyn Reply>),
    Propose(Waiting),
    /// The log's writer has finished a write.
    Flushed(u64, io::Result<()>),
    Read(oneshot::Sender<Result<(), ReadError>>),
    Change(Change, oneshot::Sender<Result<(), MembershipError>>),
    /// No round of proposals begins while leadership is handed over.
    Pause(bool),
    /// The group slept, and somebody woke it.
    Woken,
    /// The disk has room again.
    Room,
    /// Stand for election at once: the first leader of a new group.
    StandFirst,
    /// Make what is applied durable.
    Checkpoint(oneshot::Sender<()>),
    /// Forget the log up to here.
    Purge(u64),
    /// A leader offers a snapshot; the answer is the own term when that leader's is over.
    Offered {
        term: u64,
        leader: u64,
        tell: oneshot::Sender<Result<(), u64>>,
    },
    Install(Install),
    Stop,
}

/// A snapshot to be installed.
pub(crate) struct Install {
    pub(crate) fetch: Arc<dyn SnapshotFetch>,
    pub(crate) marker: Bytes,
    pub(crate) tell: oneshot::Sender<Result<(), String>>,
}

/// The group is over on this node.
enum End {
    Stopped,
    Failed(String),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// One replica at work.
///
/// # The loop
///
/// It sleeps until something has come: inputs, replies of peers, the end of a write, of the state machine's work or of
/// a time. It takes all there is, lets the engine step for each, and then acts once: rounds of proposals begin, one
/// append goes to the log for all new entries, one message goes to each peer with all it lacks, what is committed is
/// applied, and the proposers are answered from here. So however much comes at once, it costs one wake-up.
///
/// # Invariants
///
/// - Nothing but this task touches engine and state machine. Others see the [`View`], which is told of a loss of
///   leadership before any message leaves that could let another node lead.
/// - Writes reach the log in the engine's order, and an entry only after what it places is durable. A failed write ends
///   the group.
/// - The state machine does one thing at a time; the task goes on with messages meanwhile.
pub(crate) struct Driver {
    group: Arc<Inner>,
    core: Core,
    store: Store,
    inbox: mpsc::UnboundedReceiver<Input>,
    /// The engine's time counts from here.
    base: Instant,
    calls: FuturesUnordered<Call>,
    timer: Pin<Box<Sleep>>,
    /// When the timer rings; later than needed never, earlier now and then.
    armed: Option<Instant>,
    replies: BTreeMap<Token, (u16, Box<dyn Reply>)>,
    tokens: Token,
    proposals: Proposals,
    appends: Appends,
    slot: Slot,
    /// Entries to apply are being read from the log.
    reading: bool,
    installs: VecDeque<Install>,
    /// Peers that wait for a snapshot, and the term they were promised it in.
    snapshots: VecDeque<(u64, u64)>,
    checkpoint: Option<(BoxFuture<'static, io::Result<()>>, LogId)>,
    checkpoint_wanted: Vec<(LogId, oneshot::Sender<()>)>,
    checkpointed: LogId,
    reads: BTreeMap<u64, oneshot::Sender<Result<(), ReadError>>>,
    /// Reads that wait for this entry to be applied.
    ready: Vec<(u64, oneshot::Sender<Result<(), ReadError>>)>,
    changes: Vec<(LogId, oneshot::Sender<Result<(), MembershipError>>)>,
    shown: (bool, u64, Option<u64>),
    membership: Arc<StoredMembership>,
}

/// What has come since the last look.
#[derive(Default)]
struct News {
    inputs: Vec<Input>,
    done: Vec<Done>,
    worked: Option<(Machine, Worked)>,
    placed: Option<io::Result<()>>,
    checkpointed: Option<io::Result<()>>,
    rang: bool,
}

impl Driver {
    pub(crate) fn new(
        group: Arc<Inner>,
        core: Core,
        store: Store,
        machine: Machine,
        inbox: mpsc::UnboundedReceiver<Input>,
        base: Instant,
    ) -> Self {
        let proposals = Proposals::new(&group.options);
        let membership = group.view.lock().membership.clone();
        Self {
            core,
            store,
            inbox,
            base,
            calls: FuturesUnordered::new(),
            timer: Box::pin(sleep_until(base)),
            armed: Some(base),
            replies: BTreeMap::new(),
            tokens: 0,
            proposals,
            checkpointed: machine.applied(),
            appends: Appends::new(machine.placer()),
            slot: Slot::Idle(machine),
            reading: false,
            installs: VecDeque::new(),
            snapshots: VecDeque::new(),
            checkpoint: None,
            checkpoint_wanted: Vec::new(),
            reads: BTreeMap::new(),
            ready: Vec::new(),
            changes: Vec::new(),
            shown: (false, 0, None),
            membership,
            group,
        }
    }

    /// Works until the group is stopped or fails. The state machine finishes what it does, and is dropped.
    pub(crate) async fn run(mut self) {
        let mut news = News::default();
        let end = loop {
            poll_fn(|cx| self.poll_news(cx, &mut news)).await;
            if let Err(end) = self.round(&mut news).await {
                break end;
            }
        };
        match end {
            End::Failed(cause) => lifecycle::failed(&self.group, cause),
            End::Stopped => lifecycle::ended(&self.group),
        }
        self.inbox.close();
        // Both must have ended when the group is gone; one may wait for the other.
        let Self { slot, appends, .. } = self;
        let work = async {
            if let Slot::Busy(work) = slot {
                drop(work.await);
            }
        };
        futures::join!(work, appends.settle());
    }

    fn now(&self) -> Time {
        self.base.elapsed()
    }

    fn poll_news(&mut self, cx: &mut Context<'_>, news: &mut News) -> Poll<()> {
        let _ = self.inbox.poll_recv_many(cx, &mut news.inputs, INPUTS_MAX);
        while !self.calls.is_empty() && news.done.len() < INPUTS_MAX {
            match self.calls.poll_next_unpin(cx) {
                Poll::Ready(Some(done)) => news.done.push(done),
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        if let Slot::Busy(work) = &mut self.slot
            && let Poll::Ready(worked) = work.poll_unpin(cx)
        {
            self.slot = Slot::Away;
            news.worked = Some(worked);
        }
        if let Poll::Ready(placed) = self.appends.poll(cx) {
            news.placed = Some(placed);
        }
        if let Some((checkpoint, _)) = &mut self.checkpoint
            && let Poll::Ready(result) = checkpoint.poll_unpin(cx)
        {
            news.checkpointed = Some(result);
        }
        if self.armed.is_some() && self.timer.as_mut().poll(cx).is_ready() {
            self.armed = None;
            news.rang = true;
        }
        let something = !news.inputs.is_empty()
            || !news.done.is_empty()
            || news.worked.is_some()
            || news.placed.is_some()
            || news.checkpointed.is_some()
            || news.rang;
        if something { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Takes what has come, and acts on it.
    async fn round(&mut self, news: &mut News) -> Result<(), End> {
        if std::mem::take(&mut news.rang) && !self.group.flags.is_asleep() {
            self.core.tick(self.now());
        }
        for done in news.done.drain(..) {
            self.done(done)?;
        }
        if let Some((machine, worked)) = news.worked.take() {
            self.slot = Slot::Idle(machine);
            self.worked(worked).await?;
        }
        if let Some(placed) = news.placed.take() {
            placed?;
            while let Some(ready) = self.appends.pop() {
                self.issue(ready).await;
            }
        }
        if let Some(result) = news.checkpointed.take() {
            self.checkpoint_done(result)?;
        }
        for input in news.inputs.drain(..) {
            self.take(input)?;
        }
        loop {
            self.begin_rounds();
            self.core.finish(self.now());
            if self.act().await? {
                // What was sent leaves before the state machine takes the thread.
                tokio::task::yield_now().await;
            }
            if !self.work().await? {
                break;
            }
        }
        self.publish();
        self.arm();
        Ok(())
    }

    fn take(&mut self, input: Input) -> Result<(), End> {
        let now = self.now();
        match input {
            Input::Append(request, reply) => {
                self.rouse();
                let token = self.token(APPEND, reply);
                self.core.append(token, request, now);
            }
            Input::Vote(request, reply) => self.take_vote(&request, reply),
            Input::Transfer(request, reply) => {
                self.rouse();
                let outcome = if self.core.transfer(&request, now) { Outcome::Ok } else { Outcome::NotNow };
                reply.send(message(TRANSFER, &TransferReply { outcome: outcome.into() }));
            }
            Input::Propose(waiting) => self.proposals.put(waiting),
            Input::Flushed(io, result) => {
                result?;
                self.core.flushed(io, now);
            }
            Input::Read(tell) => self.take_read(tell),
            Input::Change(change, tell) => {
                self.rouse();
                match self.core.change(change) {
                    Ok(id) => self.changes.push((id, tell)),
                    Err(refused) => answer(tell, self.change_refused(refused)),
                }
            }
            Input::Pause(paused) => self.proposals.paused = paused,
            Input::Woken => self.core.wake(now),
            // What was held is looked at with whatever comes.
            Input::Room => {}
            Input::StandFirst => self.core.stand_first(10, now),
            Input::Checkpoint(tell) => self.checkpoint_wanted.push((self.core.applied_id(), tell)),
            Input::Purge(upto) => self.purge(upto),
            Input::Offered { term, leader, tell } => {
                self.rouse();
                let heard = self.core.hear(term, leader, now);
                answer(tell, if heard { Ok(()) } else { Err(self.core.term()) });
            }
            Input::Install(install) => self.installs.push_back(install),
            Input::Stop => return Err(End::Stopped),
        }
        Ok(())
    }

    /// A sleeping member does not vote against a leader it hears of.
    fn take_vote(&mut self, request: &VoteRequest, reply: Box<dyn Reply>) {
        let method = if request.pre { PRE_VOTE } else { VOTE };
        let asleep = self.group.flags.is_asleep() && !self.core.is_leader();
        if asleep && !request.transfer && self.group.flags.heard_within(self.group.options.election_max) {
            let refusal = VoteReply { outcome: Outcome::NotNow.into(), ..VoteReply::default() };
            reply.send(message(method, &refusal));
            return;
        }
        self.rouse();
        let token = self.token(method, reply);
        self.core.vote(token, request, self.now());
    }

    fn take_read(&mut self, tell: oneshot::Sender<Result<(), ReadError>>) {
        self.rouse();
        self.tokens += 1;
        match self.core.read(self.tokens) {
            true => drop(self.reads.insert(self.tokens, tell)),
            false => answer(tell, Err(ReadError::NotLeader { hint: self.hint() })),
        }
    }

    fn token(&mut self, method: u16, reply: Box<dyn Reply>) -> Token {
        self.tokens += 1;
        self.replies.insert(self.tokens, (method, reply));
        self.tokens
    }

    /// Turns the timers on if the group sleeps.
    fn rouse(&mut self) {
        if self.group.flags.is_asleep() && self.group.flags.wake() {
            self.core.wake(self.now());
        }
    }

    fn begin_rounds(&mut self) {
        if !self.proposals.is_empty() && !self.core.is_leader() {
            self.proposals.refuse(self.hint());
        }
        while self.proposals.may_begin(self.core.commit_index()) {
            self.group.flags.touch();
            self.rouse();
            let core = &mut self.core;
            self.proposals.begin(|ops| {
                let payload = crate::types::Payload::Ops(crate::format::encode_ops(ops));
                core.propose(payload).expect("checked to lead")
            });
        }
    }

    /// Carries out what the engine wants; tells whether somebody waits for something that it sent.
    async fn act(&mut self) -> Result<bool, End> {
        let actions = self.core.take_actions();
        let sent = !actions.replies.is_empty() || !actions.sends.is_empty();
        if actions.resigned {
            self.resign();
        }
        if self.shown != self.standing() {
            self.publish();
        }
        for write in actions.writes {
            self.change_log(Step::Write(write.io, write.kind)).await;
        }
        for (token, reply) in actions.replies {
            self.reply(token, reply);
        }
        let term = self.core.term();
        for (peer, message) in actions.sends {
            let call = calls::send(&self.group, NodeId(peer), message);
            self.calls.push(call);
        }
        for (peer, from) in actions.fetches {
            self.calls.push(calls::fetch(&self.store, self.appends.placer(), peer, term, from));
        }
        self.snapshots.extend(actions.snapshots.into_iter().map(|peer| (peer, term)));
        for (read, commit) in actions.reads {
            if let Some(tell) = self.reads.remove(&read) {
                self.ready.push((commit, tell));
            }
        }
        self.answer_applied();
        Ok(sent)
    }

    /// Changes the log now, or once what comes before is done.
    async fn change_log(&mut self, step: Step) {
        let begun = self.appends.begin(step);
        if self.appends.placer().is_some_and(|placer| placer.wants_checkpoint()) {
            self.group.flags.trail().want_checkpoint();
        }
        if let Some(ready) = begun {
            self.issue(ready).await;
        }
    }

    async fn issue(&mut self, (step, placed): Ready) {
        let (io, kind) = match step {
            Step::Write(io, kind) => (io, kind),
            Step::Purge(upto) => return self.store.purge(upto),
        };
        match kind {
            WriteKind::Append(entries) => {
                self.store.admit().await;
                let inbox = self.group.inbox.clone();
                // A task that has ended does not want to know.
                let done = move |result| drop(inbox.send(Input::Flushed(io, result)));
                self.store.append(&entries, placed, Box::new(done));
            }
            WriteKind::Vote(vote) => self.calls.push(calls::write(io, self.store.save_vote(&vote))),
            WriteKind::Truncate(kept) => self.calls.push(calls::write(io, self.store.truncate(kept))),
        }
    }

    fn reply(&mut self, token: Token, reply: EngineReply) {
        let Some((method, to)) = self.replies.remove(&token) else { return };
        to.send(match reply {
            EngineReply::Append(reply) => message(method, &append_reply(reply)),
            EngineReply::Vote(reply) => {
                let outcome = Outcome::Ok.into();
                message(method, &VoteReply { outcome, term: reply.term, granted: reply.granted })
            }
        });
    }

    /// Answers those who waited for this node's lead that it is over.
    fn resign(&mut self) {
        let hint = self.hint();
        self.proposals.give_up(hint);
        let reads = std::mem::take(&mut self.reads).into_values();
        for tell in reads.chain(self.ready.drain(..).map(|(_, tell)| tell)) {
            answer(tell, Err(ReadError::NotLeader { hint }));
        }
        for (_, tell) in self.changes.drain(..) {
            answer(tell, Err(MembershipError::NotLeader { hint }));
        }
    }

    fn hint(&self) -> Option<NodeId> {
        let other = self.core.leader().map(NodeId).filter(|leader| *leader != self.group.node());
        other.or_else(|| self.group.hint())
    }

    fn change_refused(&self, refused: ChangeRefused) -> Result<(), MembershipError> {
        match refused {
            ChangeRefused::Nothing => Ok(()),
            ChangeRefused::NotLeader => Err(MembershipError::NotLeader { hint: self.hint() }),
            ChangeRefused::InProgress => Err(MembershipError::InProgress),
            ChangeRefused::LastMember => Err(MembershipError::LastMember),
        }
    }

    /// Whether this node leads, in which term, and who else does.
    fn standing(&self) -> (bool, u64, Option<u64>) {
        (self.core.is_leader(), self.core.term(), self.core.leader())
    }

    fn publish(&mut self) {
        self.shown = self.standing();
        let core = &self.core;
        if core.log().membership().log_id != self.membership.log_id {
            self.membership = Arc::new(core.log().membership().clone());
        }
        self.group.view.update(|view| {
            fill(view, core, self.base);
            view.checkpointed = self.checkpointed.index;
            view.rounds = self.proposals.rounds();
            if !Arc::ptr_eq(&view.membership, &self.membership) {
                view.membership = self.membership.clone();
            }
        });
        let leader = match core.is_leader() {
            true => core.serves().then_some(self.group.node()),
            false => core.leader().map(NodeId),
        };
        let changed = *self.group.leader.borrow() != leader;
        if changed && !self.group.is_stopped() {
            tracing::debug!(group = %self.group.id, ?leader, "leader changed");
            self.group.leader.send_replace(leader);
        }
    }

    /// Sets the timer, unless it rings early enough anyway.
    fn arm(&mut self) {
        if self.group.flags.is_asleep() {
            return;
        }
        let Some(deadline) = self.core.deadline() else { return };
        let at = self.base + deadline;
        if self.armed.is_none_or(|armed| at < armed) {
            self.timer.as_mut().reset(at);
            self.armed = Some(at);
        }
    }
}

/// What others see before the group's task begins.
pub(crate) fn view_of(core: &Core, machine: &Machine, base: Instant) -> View {
    let mut view = View {
        role: core.role(),
        term: 0,
        leader: None,
        serves: false,
        lease: Lease::None,
        last: LogId::NONE,
        committed: 0,
        applied: LogId::NONE,
        purged: 0,
        checkpointed: machine.applied().index,
        membership: Arc::new(core.log().membership().clone()),
        peers: Vec::new(),
        rounds: 0,
    };
    fill(&mut view, core, base);
    view
}

/// Copies what others may see.
fn fill(view: &mut View, core: &Core, base: Instant) {
    view.role = core.role();
    view.term = core.term();
    view.leader = core.leader();
    view.serves = core.serves();
    view.lease = match core.lease_until() {
        None => Lease::None,
        Some(Time::MAX) => Lease::Always,
        Some(until) => Lease::Until(base + until),
    };
    view.last = core.log().last_id();
    view.committed = core.commit_index();
    view.applied = core.applied_id();
    view.purged = core.log().purged().index;
    view.peers.clear();
    view.peers.extend(core.matched());
}

/// Answers somebody who may have gone away.
fn answer<T>(tell: oneshot::Sender<T>, value: T) {
    let _ = tell.send(value);
}
