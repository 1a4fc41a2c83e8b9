//! The way from callers to the writer: one queue in order, bounded by bytes.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::group::{Done, Entry};
use crate::index::GroupCore;

/// What is accounted for a job besides its payload.
const JOB_BYTES: usize = 64;

/// What the writer is to record.
pub(crate) enum Work {
    /// Entries, the first with this ticket and each other with the next one.
    Append {
        entries: Vec<Entry>,
        ticket: u64,
    },
    Vote(Bytes),
    Committed(Bytes),
    Truncate {
        first_removed: u64,
    },
    Purge {
        upto: u64,
        meta: Bytes,
    },
    Remove,
}

impl Work {
    /// Nobody waits for it: it is written with the next thing somebody waits for, or when the log settles.
    fn is_lazy(&self) -> bool {
        matches!(self, Work::Committed(_) | Work::Purge { .. })
    }

    fn bytes(&self) -> usize {
        let entry_bytes = |entry: &Entry| JOB_BYTES + entry.meta.len() + payload_len(entry);
        match self {
            Work::Append { entries, .. } => entries.iter().map(entry_bytes).sum(),
            Work::Vote(meta) | Work::Committed(meta) | Work::Purge { meta, .. } => JOB_BYTES + meta.len(),
            Work::Truncate { .. } | Work::Remove => JOB_BYTES,
        }
    }
}

pub(crate) fn payload_len(entry: &Entry) -> usize {
    entry.payload.iter().map(Bytes::len).sum()
}

/// One call of a group's handle.
pub(crate) struct Job {
    pub(crate) core: Arc<GroupCore>,
    pub(crate) work: Work,
    pub(crate) done: Option<Done>,
    pub(crate) bytes: usize,
}

impl Job {
    pub(crate) fn new(core: Arc<GroupCore>, work: Work, done: Option<Done>) -> Self {
        let bytes = work.bytes();
        Self { core, work, done, bytes }
    }
}

/// Why nothing is taken any more.
#[derive(Clone, Debug)]
enum Closed {
    /// `close` was called, or the last handle was dropped.
    Orderly,
    Failed {
        kind: io::ErrorKind,
        message: String,
    },
}

impl Closed {
    fn error(&self) -> io::Error {
        match self {
            Closed::Orderly => io::Error::new(io::ErrorKind::BrokenPipe, "the log is closed"),
            Closed::Failed { kind, message } => io::Error::new(*kind, message.clone()),
        }
    }
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Jobs in the queue that somebody waits for.
    urgent: usize,
    /// Bytes of jobs in the queue and with the writer.
    bytes: usize,
    /// The writer sleeps without a timer, so that even a lazy job must wake it.
    parked: bool,
    closed: Option<Closed>,
}

/// What the writer finds.
pub(crate) enum Taken {
    /// Jobs, at least one of them urgent.
    Jobs(VecDeque<Job>),
    /// Only jobs that can wait.
    OnlyLazy,
    /// Nothing.
    Nothing,
}

/// The queue.
pub(crate) struct Queue {
    state: Mutex<State>,
    work: Notify,
    room: Notify,
    bytes_max: usize,
}

impl Queue {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { state: Mutex::default(), work: Notify::new(), room: Notify::new(), bytes_max }
    }

    /// Waits until there is room, or the queue is closed.
    pub(crate) async fn admit(&self) {
        loop {
            let room = self.room.notified();
            {
                let state = self.lock();
                if state.bytes < self.bytes_max || state.closed.is_some() {
                    return;
                }
            }
            // A `Notified` counts notifications from its creation on, so none is missed in between.
            room.await;
        }
    }

    /// Puts a job at the end; gives it back with the reason when the log takes nothing any more.
    pub(crate) fn push(&self, job: Job) -> Result<(), (Job, io::Error)> {
        let mut state = self.lock();
        if let Some(closed) = &state.closed {
            let error = closed.error();
            return Err((job, error));
        }
        let lazy = job.work.is_lazy();
        state.urgent += usize::from(!lazy);
        state.bytes += job.bytes;
        state.jobs.push_back(job);
        let wake = !lazy || std::mem::take(&mut state.parked);
        drop(state);
        if wake {
            self.work.notify_one();
        }
        Ok(())
    }

    /// The writer's own way to put a lazy job at the end; works in a closed queue too.
    pub(crate) fn requeue(&self, job: Job) {
        let mut state = self.lock();
        state.bytes += job.bytes;
        state.jobs.push_back(job);
    }

    /// Takes jobs in order, about `bytes_max` bytes of them; nothing if none is urgent.
    pub(crate) fn take(&self, bytes_max: usize) -> Taken {
        let mut state = self.lock();
        state.parked = state.jobs.is_empty();
        if state.urgent > 0 {
            Taken::Jobs(state.take_front(bytes_max))
        } else if state.jobs.is_empty() {
            Taken::Nothing
        } else {
            Taken::OnlyLazy
        }
    }

    /// Takes everything, lazy or not.
    pub(crate) fn take_all(&self) -> VecDeque<Job> {
        self.lock().take_front(usize::MAX)
    }

    /// Waits for the next push that wakes.
    pub(crate) async fn wait(&self) {
        self.work.notified().await;
    }

    /// The writer is done with jobs of this many bytes.
    pub(crate) fn release(&self, bytes: usize) {
        let mut state = self.lock();
        let was_full = state.bytes >= self.bytes_max;
        state.bytes -= bytes;
        let wake = was_full && state.bytes < self.bytes_max;
        drop(state);
        if wake {
            self.room.notify_waiters();
        }
    }

    /// Takes nothing from now on; what is queued is still written.
    pub(crate) fn close(&self) {
        self.lock().closed.get_or_insert(Closed::Orderly);
        self.work.notify_one();
        self.room.notify_waiters();
    }

    /// Takes nothing from now on; gives back what is queued and will never be written.
    pub(crate) fn fail(&self, error: &io::Error) -> VecDeque<Job> {
        let mut state = self.lock();
        state.closed =
            Some(Closed::Failed { kind: error.kind(), message: format!("the log has failed: {error}") });
        let jobs = state.take_front(usize::MAX);
        drop(state);
        self.room.notify_waiters();
        jobs
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed.is_some()
    }

    pub(crate) fn has_failed(&self) -> bool {
        matches!(self.lock().closed, Some(Closed::Failed { .. }))
    }

    pub(crate) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the queue is locked")
    }
}

impl State {
    fn take_front(&mut self, bytes_max: usize) -> VecDeque<Job> {
        let mut bytes = 0;
        let n = self
            .jobs
            .iter()
            .take_while(|job| {
                let fits = bytes < bytes_max;
                bytes = bytes.saturating_add(job.bytes);
                fits
            })
            .count();
        let rest = self.jobs.split_off(n);
        let taken = std::mem::replace(&mut self.jobs, rest);
        self.urgent -= taken.iter().filter(|job| !job.work.is_lazy()).count();
        taken
    }
}
