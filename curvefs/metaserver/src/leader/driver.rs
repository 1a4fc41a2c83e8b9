//! The loop around a [`Coordinator`]: does what it says and tells it what came of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use curve_io::BoxFuture;
use curvefs_meta::{Action, Coordinator, Outcome, server_request};
use curvefs_types::{Attr, FsError, Op, PartitionId, TxId, TxNumber};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::{Leadership, RUNNING_MAX, RequestKey, Start, actions, key_of};
use crate::context::Context;
use crate::replica::Replica;

/// Rows of ended transactions wait so long for others to go with.
const FORGET_AFTER: Duration = Duration::from_millis(50);

/// What came of an action.
pub(super) enum Event {
    /// A participant has voted.
    Voted { tx: TxId, from: PartitionId, vote: Result<Vec<Attr>, FsError> },
    /// Somebody cannot be reached before the decision.
    GivenUp { tx: TxId },
    /// The walks were made.
    Walked { tx: TxId, result: Result<(), FsError> },
    /// The own partition has decided.
    Decided { tx: TxId, outcome: Outcome, committed: bool },
    /// A participant has finished.
    Finished { tx: TxId, from: PartitionId },
    /// Rows of what has ended everywhere are to be removed now.
    ForgetNow,
    /// Nothing to tell.
    Nothing,
    /// This node does not lead any more, or not in this term; what was proposed last may be decided or not.
    TermOver,
}

/// Owns the coordinator of a term. Its loop: requests begin, actions end, the coordinator says what is next. Actions are
/// futures of this task, each of which repeats its message until there is an answer or it is pointless, so nothing has
/// to be sent again from here, and all end with the term.
struct Driver<'a> {
    context: &'a Arc<Context>,
    replica: &'a Arc<Replica>,
    leadership: &'a Leadership,
    coordinator: Coordinator,
    tickets: BTreeMap<u64, RequestKey>,
    next_ticket: u64,
    /// Transactions that have ended everywhere and have rows yet. They cost nothing while they wait for others.
    ended: Vec<TxNumber>,
    doing: FuturesUnordered<BoxFuture<'a, Event>>,
}

/// Coordinates until the term is over.
pub(super) async fn run(
    context: &Arc<Context>,
    replica: &Arc<Replica>,
    leadership: &Leadership,
    (coordinator, left_over): (Coordinator, Vec<Action>),
    mut starts: mpsc::Receiver<Start>,
) {
    let mut driver = Driver {
        context,
        replica,
        leadership,
        coordinator,
        tickets: BTreeMap::new(),
        next_ticket: 1,
        ended: Vec::new(),
        doing: FuturesUnordered::new(),
    };
    driver.act(left_over);
    loop {
        tokio::select! {
            Some(start) = starts.recv() => driver.start(start),
            Some(event) = driver.doing.next() => if !driver.take(event) { break },
        }
        leadership.set_recovering(driver.coordinator.is_recovering());
    }
    // Whoever waits finds that nobody will answer, and asks the next leader.
    leadership.running().clear();
}

impl Driver<'_> {
    fn start(&mut self, start: Start) {
        let Start { request, plan, system, answer } = start;
        let key = key_of(&request);
        {
            let mut running = self.leadership.running();
            if let Some(waiting) = running.get_mut(&key) {
                waiting.push(answer);
                return;
            }
            if running.len() >= RUNNING_MAX {
                // The caller may have gone.
                let _ = answer.send(Err(FsError::Busy));
                return;
            }
            running.insert(key, vec![answer]);
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.tickets.insert(ticket, key);
        self.context.metrics.transactions.increment(1);
        let actions = self.coordinator.start(ticket, request, plan, |inode| system.map.partition_of(inode));
        self.act(actions);
    }

    /// Whether the term goes on.
    fn take(&mut self, event: Event) -> bool {
        let actions = match event {
            Event::Voted { tx, from, vote } => self.coordinator.voted(tx, from, vote),
            Event::GivenUp { tx } => self.coordinator.abort(tx, FsError::Busy),
            Event::Walked { tx, result } => self.coordinator.walked(tx, result),
            Event::Decided { tx, outcome, committed } => self.coordinator.decided(tx, outcome, committed),
            Event::Finished { tx, from } => self.coordinator.finished(tx, from),
            Event::ForgetNow => {
                self.forget();
                Vec::new()
            }
            Event::Nothing => Vec::new(),
            Event::TermOver => return false,
        };
        self.act(actions);
        true
    }

    fn act(&mut self, actions: Vec<Action>) {
        let (context, replica) = (self.context, self.replica);
        for action in actions {
            let doing: BoxFuture<'_, Event> = match action {
                Action::Prepare { to, tx, request } => {
                    Box::pin(actions::prepare(context, replica.fs(), to, tx, request))
                }
                Action::Walk { tx, walks } => Box::pin(actions::walk(context, replica.fs(), tx, walks)),
                Action::Decide { tx, request } => Box::pin(actions::decide(replica, tx, request)),
                Action::Finish { to, tx, request } => {
                    Box::pin(actions::finish(context, replica.fs(), to, tx, request))
                }
                Action::Forget { request } => {
                    let Op::Forget { numbers } = request.op else { continue };
                    let waits = !self.ended.is_empty();
                    self.ended.extend(numbers);
                    if waits {
                        continue;
                    }
                    Box::pin(async {
                        sleep(FORGET_AFTER).await;
                        Event::ForgetNow
                    })
                }
                Action::Answer { ticket, outcome } => {
                    self.answer(ticket, outcome);
                    continue;
                }
            };
            self.doing.push(doing);
        }
    }

    fn forget(&mut self) {
        let numbers = std::mem::take(&mut self.ended);
        let request = server_request(self.context.clock.now_ns(), Op::Forget { numbers });
        self.doing.push(Box::pin(actions::forget(self.replica, request)));
    }

    fn answer(&mut self, ticket: u64, outcome: Outcome) {
        let Some(key) = self.tickets.remove(&ticket) else { return };
        if outcome == Err(FsError::Busy) {
            self.context.metrics.transactions_again.increment(1);
        }
        for waiting in self.leadership.running().remove(&key).into_iter().flatten() {
            // The caller may have gone.
            let _ = waiting.send(outcome.clone());
        }
    }
}
