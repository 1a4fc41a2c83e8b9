//! The leader of one partition in one term: what a partition's state machine cannot do by itself.
//!
//! | file | what |
//! |---|---|
//! | `change`, `query` | requests of mounts: the short way, and waiting for what is under way |
//! | `driver`, `actions` | the coordinator of operations over several partitions |
//! | `settle`, `drain`, `garbage`, `resolve` | the workers |
//! | `shut_out` | fencing mounts |
//! | `recall` | delegated directories that others wait for |
//!
//! Everything of a term is one task, [`run`], and ends with the term. What it knows must not survive: a new leader begins with
//! the partition's rows.

mod actions;
mod change;
mod drain;
mod driver;
mod garbage;
mod passes;
mod query;
mod recall;
mod resolve;
mod settle;
mod shut_out;
mod stage;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use curve_types::{Epoch, NodeId, Sequence, Term};
use curvefs_meta::{Coordinator, Outcome, Plan};
use curvefs_types::{Answer, MountId, Query, Request};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;

use crate::context::Context;
use crate::replica::Replica;
use crate::systems::FileSystem;

pub use change::{change, peer_change};
pub use query::{peer_query, query};
pub use shut_out::shut_out;

/// Operations over several partitions that one leader has under way; more wait outside.
const RUNNING_MAX: usize = 4096;
/// How often it is looked whether the term is still the same, beside being told that the leader has changed.
const TERM_CHECK: Duration = Duration::from_millis(200);
/// The pause after a term that ended early.
const PAUSE: Duration = Duration::from_millis(20);

/// A request by its mount and number.
type RequestKey = (MountId, Sequence);

fn key_of(request: &Request) -> RequestKey {
    (request.mount, request.sequence)
}

/// An operation over several partitions that is to begin.
struct Start {
    request: Request,
    plan: Plan,
    system: Arc<FileSystem>,
    answer: oneshot::Sender<Outcome>,
}

/// What requests see of the leader's side of a term.
pub struct Leadership {
    term: Term,
    starts: mpsc::Sender<Start>,
    /// Requests that are coordinated, with those who wait for their answers. In here before anything of them is decided.
    running: Mutex<BTreeMap<RequestKey, Vec<oneshot::Sender<Outcome>>>>,
    /// Something that an earlier leader decided is not finished everywhere.
    recovering: watch::Sender<bool>,
    is_recovering: AtomicBool,
    /// Delegated directories that others wait for.
    recalls: recall::Recalls,
    /// Mounts that were shut out as ordered.
    shut_out: Mutex<BTreeMap<MountId, Epoch>>,
}

impl Leadership {
    fn new(term: Term, recovering: bool) -> (Arc<Self>, mpsc::Receiver<Start>) {
        let (starts, begun) = mpsc::channel(RUNNING_MAX);
        let leadership = Self {
            term,
            starts,
            running: Mutex::default(),
            recovering: watch::Sender::new(recovering),
            is_recovering: AtomicBool::new(recovering),
            recalls: recall::Recalls::default(),
            shut_out: Mutex::default(),
        };
        (Arc::new(leadership), begun)
    }

    /// The term.
    pub fn term(&self) -> Term {
        self.term
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<RequestKey, Vec<oneshot::Sender<Outcome>>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The coming answer of a request, if it is coordinated.
    fn join(&self, key: RequestKey) -> Option<oneshot::Receiver<Outcome>> {
        let mut running = self.running();
        let waiting = running.get_mut(&key)?;
        let (answer, coming) = oneshot::channel();
        waiting.push(answer);
        Some(coming)
    }

    fn is_recovering(&self) -> bool {
        self.is_recovering.load(Ordering::Acquire)
    }

    fn set_recovering(&self, recovering: bool) {
        if self.is_recovering.swap(recovering, Ordering::AcqRel) != recovering {
            self.recovering.send_replace(recovering);
        }
    }

    /// Mounts that were shut out as ordered, with the epochs.
    pub fn shut_outs(&self) -> Vec<(MountId, Epoch)> {
        let done = self.shut_out.lock().unwrap_or_else(PoisonError::into_inner);
        done.iter().map(|(mount, epoch)| (*mount, *epoch)).collect()
    }
}

/// Leads whenever this node is the leader; ends with the replica's group.
pub async fn run(
    context: Weak<Context>,
    replica: Weak<Replica>,
    mut leader: watch::Receiver<Option<NodeId>>,
) {
    loop {
        let known = *leader.borrow_and_update();
        let parts = context.upgrade().zip(replica.upgrade());
        let Some((context, replica)) = parts else { return };
        if known == Some(context.node) {
            lead(&context, &replica, &mut leader).await;
            replica.set_leadership(None);
            drop((context, replica));
            sleep(PAUSE).await;
        } else {
            drop((context, replica));
            if leader.changed().await.is_err() {
                return;
            }
        }
    }
}

/// One term, from what its predecessors left to its end.
async fn lead(context: &Arc<Context>, replica: &Arc<Replica>, leader: &mut watch::Receiver<Option<NodeId>>) {
    let Some(term) = replica.led_term() else { return };
    if replica.barrier().await.is_err() || replica.led_term() != Some(term) {
        return;
    }
    let committed = match replica.look_as_server(Query::CommittedTxs { limit: u32::MAX }) {
        Ok(Answer::CommittedTxs { txs }) => txs,
        other => {
            tracing::error!(partition = %replica.id(), ?other, "cannot read what was decided");
            return;
        }
    };
    let begun = Coordinator::new(replica.id(), term, committed, context.clock.now_ns());
    let (leadership, starts) = Leadership::new(term, begun.0.is_recovering());
    tracing::info!(partition = %replica.id(), %term, left_over = begun.1.len(), "leads");
    replica.set_leadership(Some(leadership.clone()));
    context.news.notify_one();
    let workers = async {
        tokio::join!(
            settle::run(context, replica),
            drain::run(context, replica),
            garbage::run(context, replica),
            stage::run(context, replica),
            resolve::run(context, replica),
            recall::run(context, replica, &leadership),
        )
    };
    tokio::select! {
        () = driver::run(context, replica, &leadership, begun, starts) => {}
        _ = workers => {}
        () = term_over(replica, term, leader) => {}
    }
    tracing::info!(partition = %replica.id(), %term, "leads no longer");
}

async fn term_over(replica: &Replica, term: Term, leader: &mut watch::Receiver<Option<NodeId>>) {
    while replica.led_term() == Some(term) {
        tokio::select! {
            changed = leader.changed() => if changed.is_err() { return },
            () = sleep(TERM_CHECK) => {}
        }
    }
}
