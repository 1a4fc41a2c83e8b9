//! A command on its way through the device server, and how it is aborted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::cdb::{Command, Decoded};
use crate::execute::DataOut;
use crate::sense::Sense;
use crate::status::{Response, Status};
use crate::target::Destination;

const STARTED: u8 = 1;
const ENDED: u8 = 1 << 1;
const ABORTED: u8 = 1 << 2;
/// Aborted by another nexus: with TAS = 1 the initiator is told.
const BY_ANOTHER: u8 = 1 << 3;
/// It touches no block any more, however long it may still take.
const HARMLESS: u8 = 1 << 4;

/// How a task ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ended {
    /// Send this.
    Completed(Response),
    /// It was aborted: send nothing.
    Aborted,
}

/// A command in the task set of its nexus and logical unit, from its arrival to its end.
///
/// Made by [`Attachment::task`](crate::Attachment::task) when the command arrives, so that an abort reaches it while the
/// transport still waits for its data. A task that is aborted or dropped before [`execute`](Task::execute) has no effect.
///
/// **The future of `execute` must be polled to its end.** What it has sent to the device cannot be called back, and an
/// abort completes only when the task has ended; dropping the future would end the task while its write may still land.
/// A connection that dies leaves its running tasks to a runtime and drops their answers.
#[derive(Debug)]
pub struct Task {
    decoded: Result<Decoded, Sense>,
    destination: Destination,
    state: Arc<TaskState>,
    expected: Option<u64>,
}

impl Task {
    pub(crate) fn new(cdb: &[u8], destination: Destination, state: Arc<TaskState>) -> Self {
        Self { decoded: Command::decode(cdb), destination, state, expected: None }
    }

    /// Says how many bytes of data-out the initiator announced (iSCSI: the expected data transfer length of a command with
    /// the W bit). COMPARE AND WRITE, WRITE SAME and their like insist on exactly what they need; without this they only
    /// see what came.
    pub fn with_expected_len(mut self, bytes: u64) -> Self {
        self.expected = Some(bytes);
        self
    }

    /// Bytes of data-out that the command asks for; 0 for a command that is going to be refused. An initiator that
    /// sends less has written less, and what it sends beyond is not looked at.
    pub fn data_out_len(&self) -> u64 {
        match (&self.decoded, self.destination.block_bytes()) {
            (Ok(decoded), Some(block_bytes)) => decoded.command.data_out_len(block_bytes),
            _ => 0,
        }
    }

    /// A handle that aborts it.
    pub fn abort_handle(&self) -> AbortHandle {
        AbortHandle(self.state.clone())
    }

    /// Executes the command with what was sent for it. Runs at once: tasks of one logical unit run concurrently, and a
    /// transport that honours ORDERED and HEAD OF QUEUE waits before it calls this.
    ///
    /// Completes at once, without effect, for a task that is aborted already.
    pub async fn execute(self, data_out: Vec<Bytes>) -> Ended {
        if self.state.start() {
            let data_out = DataOut { parts: data_out, expected: self.expected };
            let response = self.destination.execute(self.decoded, &self.state, data_out).await;
            if !self.state.is_aborted() {
                return Ended::Completed(response);
            }
        }
        // TAS = 1: who was aborted by somebody else is told.
        match self.state.bits() & BY_ANOTHER {
            0 => Ended::Aborted,
            _ => Ended::Completed(Response::status(Status::TaskAborted)),
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.destination.leave(&self.state);
        self.state.end();
    }
}

/// Aborts one task. Outlives it.
#[derive(Clone, Debug)]
pub struct AbortHandle(Arc<TaskState>);

impl AbortHandle {
    /// Aborts the task for its own initiator (ABORT TASK). When this completes, the task cannot reach the device any more;
    /// one that had been started may have taken effect. Says whether there was anything left to abort.
    pub async fn abort(&self) -> bool {
        let found = self.0.abort(Aborter::OwnNexus);
        self.0.gone().await;
        found
    }

    /// Completes when somebody has aborted the task. For a transport that waits for the task's data: it then stops
    /// waiting and calls `execute` without data to learn the answer.
    pub async fn aborted(&self) {
        self.0.aborted().await;
    }
}

/// Who aborts a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Aborter {
    /// The nexus that sent it, or a reset.
    OwnNexus,
    /// Another nexus.
    OtherNexus,
}

/// Where a task is in its life: waiting, started, ended; aborted or not.
#[derive(Debug, Default)]
pub(crate) struct TaskState {
    bits: AtomicU8,
    changed: Notify,
}

impl TaskState {
    fn bits(&self) -> u8 {
        self.bits.load(Ordering::SeqCst)
    }

    pub(crate) fn is_aborted(&self) -> bool {
        self.bits() & ABORTED != 0
    }

    /// Whether it may start.
    fn start(&self) -> bool {
        self.bits.fetch_or(STARTED, Ordering::SeqCst) & ABORTED == 0
    }

    fn end(&self) {
        self.bits.fetch_or(ENDED, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    /// Marks it; says whether it had not ended.
    pub(crate) fn abort(&self, aborter: Aborter) -> bool {
        let by = if aborter == Aborter::OtherNexus { BY_ANOTHER } else { 0 };
        let before = self.bits.fetch_or(ABORTED | by, Ordering::SeqCst);
        self.changed.notify_waiters();
        before & ENDED == 0
    }

    /// Says that the task will not touch a block any more. A change of reservations waits for tasks of others, and must
    /// not be waited for in turn.
    pub(crate) fn renounce(&self) {
        self.bits.fetch_or(HARMLESS, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    /// Completes when an aborted task cannot reach the device any more: it ended, or it had not started, or it has
    /// nothing to do with the device. Of a task that is not aborted it says the same, and that what it does from now on is
    /// decided by the reservations of now.
    pub(crate) async fn gone(&self) {
        self.wait_for(|bits| bits & (ENDED | HARMLESS) != 0 || bits & STARTED == 0).await;
    }

    /// Completes when somebody has aborted it.
    pub(crate) async fn aborted(&self) {
        self.wait_for(|bits| bits & ABORTED != 0).await;
    }

    async fn wait_for(&self, reached: impl Fn(u8) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if reached(self.bits()) {
                return;
            }
            changed.await;
        }
    }
}
