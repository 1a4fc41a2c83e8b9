//! What the state machine does for a group's task, one thing at a time.

use std::io;

use curve_io::BoxFuture;
use futures::FutureExt;
use tokio::sync::oneshot;

use super::appends::Step;
use super::calls::{self, Done};
use super::{Driver, End, Install, answer};
use crate::engine::{AppendReply, Limits, WriteKind};
use crate::machine::{Machine, Results};
use crate::source::SourceGuard;
use crate::types::{Entry, LogId};

/// What is given to the user's `apply` at once, at most (one entry may go over it).
const APPLY: Limits = Limits { head_bytes: usize::MAX, payload_bytes: 4 << 20, entries: 64 };

/// Entries that a follower leaves unapplied while its log is being written, at most.
const POSTPONED_MAX: u64 = 16;

/// Where the state machine is.
pub(super) enum Slot {
    Idle(Machine),
    Busy(BoxFuture<'static, (Machine, Worked)>),
    /// It is being handed over.
    Away,
}

/// What the state machine has done.
pub(super) enum Worked {
    Applied(io::Result<Vec<Results>>),
    Opened {
        peer: u64,
        term: u64,
        source: io::Result<SourceGuard>,
    },
    /// Whether it was behind the snapshot.
    Installed(io::Result<bool>, oneshot::Sender<Result<(), String>>),
}

impl Driver {
    /// Lets the state machine do what is next, if it is free; tells whether it has done it already.
    pub(super) async fn work(&mut self) -> Result<bool, End> {
        if self.group.stall.holds_changes() {
            return Ok(false);
        }
        let Slot::Idle(machine) = &mut self.slot else { return Ok(false) };
        let due = self.checkpoint_wanted.iter().any(|(wanted, _)| *wanted > self.checkpointed);
        if due && self.checkpoint.is_none() {
            let mut done = machine.checkpoint();
            let of = machine.applied();
            let ready = futures::poll!(&mut done).into_option();
            self.checkpoint = Some((done, of));
            if let Some(result) = ready {
                self.checkpoint_done(result)?;
            }
            return Ok(true);
        }
        self.answer_checkpoints();
        let Some(work) = self.next_work() else { return Ok(false) };
        let mut work = work;
        match futures::poll!(&mut work).into_option() {
            None => {
                self.slot = Slot::Busy(work);
                Ok(false)
            }
            Some((machine, worked)) => {
                self.slot = Slot::Idle(machine);
                self.worked(worked).await?;
                Ok(true)
            }
        }
    }

    fn next_work(&mut self) -> Option<BoxFuture<'static, (Machine, Worked)>> {
        if let Some(install) = self.installs.pop_front() {
            return self.begin(move |mut machine| {
                async move {
                    let Install { fetch, marker, tell } = install;
                    let result = machine.install(fetch, marker).await;
                    (machine, Worked::Installed(result, tell))
                }
                .boxed()
            });
        }
        if let Some((peer, term)) = self.snapshots.pop_front() {
            return self.begin(move |mut machine| {
                async move {
                    let source = machine.open().await;
                    (machine, Worked::Opened { peer, term, source })
                }
                .boxed()
            });
        }
        let (from, upto) = self.core.to_apply().filter(|_| !self.reading)?;
        // A leader waits for what a follower writes, and nobody for what it applies. The write's end brings it back here.
        let awaited = !self.core.is_leader() && self.core.log().is_writing();
        if awaited && upto - from < POSTPONED_MAX {
            return None;
        }
        match self.core.entries(from, upto, APPLY) {
            Some(entries) => self.begin_apply(entries),
            None => {
                self.reading = true;
                self.calls.push(calls::read_to_apply(&self.store, from, upto));
                None
            }
        }
    }

    fn begin_apply(&mut self, entries: Vec<Entry>) -> Option<BoxFuture<'static, (Machine, Worked)>> {
        if let Some(last) = entries.last() {
            self.store.save_committed(last.id);
        }
        self.begin(move |mut machine| {
            async move {
                let results = machine.apply(entries).await;
                (machine, Worked::Applied(results))
            }
            .boxed()
        })
    }

    fn begin(
        &mut self,
        work: impl FnOnce(Machine) -> BoxFuture<'static, (Machine, Worked)>,
    ) -> Option<BoxFuture<'static, (Machine, Worked)>> {
        match std::mem::replace(&mut self.slot, Slot::Away) {
            Slot::Idle(machine) => Some(work(machine)),
            busy => {
                self.slot = busy;
                None
            }
        }
    }

    /// Something that was begun has ended.
    pub(super) fn done(&mut self, done: Done) -> Result<(), End> {
        let now = self.now();
        match done {
            Done::Append { peer, sent, reply } => self.core.append_reply(peer, &sent, reply, now),
            Done::Vote { peer, request, reply } => self.core.vote_reply(peer, &request, reply, now),
            Done::Fetched { peer, term, entries } => {
                let mut entries = entries?;
                cut_to_message(&mut entries);
                self.core.fetched(peer, term, entries, now);
            }
            Done::Lost { peer, term } => {
                self.core.lost(peer, term, now);
            }
            Done::ToApply { from, entries } => self.apply_read(from, entries?)?,
            Done::Written { io, result } => {
                result?;
                self.core.flushed(io, now);
            }
            Done::Snapshot { peer, term, result: Err(Some(higher)) } => {
                self.core.snapshot_ended(peer, term, None, now);
                self.higher_term(peer, higher);
            }
            Done::Snapshot { peer, term, result } => self.core.snapshot_ended(peer, term, result.ok(), now),
        }
        Ok(())
    }

    fn apply_read(&mut self, from: u64, entries: Vec<Entry>) -> Result<(), End> {
        self.reading = false;
        // An install may have overtaken the read, or the disk have run out of room.
        let due = self.core.to_apply().filter(|(next, _)| *next == from);
        let Some((next, upto)) = due.filter(|_| !self.group.stall.holds_changes()) else {
            return Ok(());
        };
        if entries.first().is_none_or(|first| first.id.index != next) {
            return Err(End::Failed(format!("the log has lost its entry {next}")));
        }
        let fits = entries.last().is_some_and(|last| last.id.index <= upto);
        if let Some(work) = fits.then(|| self.begin_apply(entries)).flatten() {
            self.slot = Slot::Busy(work);
        }
        Ok(())
    }

    fn higher_term(&mut self, peer: u64, term: u64) {
        let sent = crate::engine::Sent { term: 0, seq: 0, at: self.now(), prev: 0, last: 0 };
        self.core.append_reply(peer, &sent, Some(AppendReply::Higher { term }), self.now());
    }

    pub(super) async fn worked(&mut self, worked: Worked) -> Result<(), End> {
        match worked {
            Worked::Applied(results) => {
                let results = results?;
                let Slot::Idle(machine) = &self.slot else { unreachable!("it was just given back") };
                self.core.applied(machine.applied());
                self.proposals.applied(results);
                self.answer_applied();
            }
            Worked::Opened { peer, term, source } => match source {
                Ok(source) => {
                    let Slot::Idle(machine) = &self.slot else { unreachable!("it was just given back") };
                    let last = machine.applied().index;
                    self.calls.push(calls::offer(&self.group, peer, term, last, source));
                }
                Err(error) => {
                    tracing::warn!(group = %self.group.id, peer, %error, "the state machine gave no snapshot");
                    self.core.snapshot_ended(peer, term, None, self.now());
                }
            },
            Worked::Installed(Err(error), tell) => answer(tell, Err(error.to_string())),
            Worked::Installed(Ok(behind), tell) => {
                if behind {
                    self.adopt_snapshot().await;
                }
                answer(tell, Ok(()));
            }
        }
        Ok(())
    }

    /// Lets the log begin where the snapshot ends.
    async fn adopt_snapshot(&mut self) {
        let Slot::Idle(machine) = &self.slot else { unreachable!("it was just given back") };
        let last = machine.applied();
        if let Some(kept) = self.core.installed(last, machine.membership().clone()) {
            self.change_log(Step::Write(0, WriteKind::Truncate(kept))).await;
        }
        self.change_log(Step::Purge(last)).await;
        self.checkpointed = last;
        self.answer_applied();
    }

    /// Answers whoever waited for an entry to be applied.
    pub(super) fn answer_applied(&mut self) {
        let applied = self.core.applied_id().index;
        if !self.ready.is_empty() {
            for (_, tell) in self.ready.extract_if(.., |(commit, _)| *commit <= applied) {
                answer(tell, Ok(()));
            }
        }
        if !self.changes.is_empty() {
            for (_, tell) in self.changes.extract_if(.., |(id, _)| id.index <= applied) {
                answer(tell, Ok(()));
            }
        }
    }

    pub(super) fn checkpoint_done(&mut self, result: io::Result<()>) -> Result<(), End> {
        if let Some((_, of)) = self.checkpoint.take() {
            result?;
            self.checkpointed = self.checkpointed.max(of);
            self.answer_checkpoints();
        }
        Ok(())
    }

    fn answer_checkpoints(&mut self) {
        if self.checkpoint_wanted.is_empty() {
            return;
        }
        for (_, tell) in self.checkpoint_wanted.extract_if(.., |(wanted, _)| *wanted <= self.checkpointed) {
            answer(tell, ());
        }
    }

    /// Forgets the log up to `upto`, as far as a checkpoint holds it.
    pub(super) fn purge(&mut self, upto: u64) {
        let upto = upto.min(self.checkpointed.index).min(self.core.applied_id().index);
        let id: Option<LogId> =
            self.core.log().id_at(upto).filter(|id| id.index > self.core.log().purged().index);
        if let Some(id) = id {
            self.store.purge(id);
            self.core.purged(id);
        }
    }
}

/// Leaves what fits one message.
fn cut_to_message(entries: &mut Vec<Entry>) {
    let limits = super::MESSAGE;
    let (mut heads, mut payloads) = (0, 0);
    let fits = entries
        .iter()
        .take_while(|entry| {
            heads += entry.head_bytes();
            payloads += entry.payload_bytes();
            heads <= limits.head_bytes && payloads <= limits.payload_bytes
        })
        .count();
    entries.truncate(fits.max(1));
}

/// What is ready, if anything is.
trait IntoOption<T> {
    fn into_option(self) -> Option<T>;
}

impl<T> IntoOption<T> for std::task::Poll<T> {
    fn into_option(self) -> Option<T> {
        match self {
            Self::Ready(value) => Some(value),
            Self::Pending => None,
        }
    }
}
