//! A mount's change: the short way through the partition's log, and the long way for what needs other partitions or meets
//! what is under way.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use curve_kv::KvError;
use curve_multiraft::Role;
use curvefs_meta::{Outcome, Route};
use curvefs_proto::{Refusal, error_in, outcome_bytes};
use curvefs_types::keys::Key;
use curvefs_types::{Answer, Dentry, FsError, InodeId, Name, NameOp, Op, PartitionId, Query, Request, Wire};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{Leadership, Start, key_of, recall};
use crate::context::Context;
use crate::peers::Target;
use crate::replica::{Replica, not_leader, propose_refusal, read_refusal, server_ask};
use crate::room::grows;
use crate::systems::FileSystem;

/// How long a request waits here for what is under way, before the mount is asked to repeat it.
pub(super) const BUSY_PATIENCE: Duration = Duration::from_millis(1500);
/// How long the answer of an operation over several partitions is waited for. It goes on after that, and whoever repeats the
/// request waits for the same answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// How long a look at a rename's source may take.
const SOURCE_PATIENCE: Duration = Duration::from_secs(2);
const PAUSE_MIN: Duration = Duration::from_millis(4);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// Makes a mount's change, once. The outcome is in its bytes.
pub async fn change(
    context: &Arc<Context>,
    replica: &Arc<Replica>,
    mut request: Request,
) -> Result<Bytes, Refusal> {
    request.now_ns = context.clock.now_ns();
    if grows(&request.op) && context.is_full(replica) {
        check_under_way(context, replica, &request).await?;
    }
    let is_name = matches!(request.op, Op::Name { .. });
    if !is_name || is_likely_alone(replica, &request.op) {
        let outcome = propose(context, replica, &request).await?;
        let settled = !is_name || is_settled(replica, &request);
        if settled && !must_wait(context, replica, error_in(&outcome)) {
            return Ok(outcome);
        }
    }
    wait_for_change(context, replica, request).await
}

/// What another metaserver's coordinator asks for. Without room for it the vote is no.
pub async fn peer_change(
    context: &Context,
    replica: &Arc<Replica>,
    request: &Request,
) -> Result<Bytes, Refusal> {
    if grows(&request.op) && context.is_full(replica) && replica.led_term().is_some() {
        context.metrics.no_space.increment(1);
        return Ok(outcome_bytes::<curvefs_types::Reply>(&Err(FsError::NoSpace)));
    }
    let outcome = propose(context, replica, request).await?;
    if must_wait(context, replica, error_in(&outcome)) {
        return Ok(outcome_bytes::<curvefs_types::Reply>(&Err(FsError::Busy)));
    }
    Ok(outcome)
}

/// For whoever waits the same: something is in the way.
pub(super) fn as_busy(error: FsError) -> FsError {
    if matches!(error, FsError::Delegated { .. }) { FsError::Busy } else { error }
}

/// Whether something is in the way, which will go. A delegated directory is asked for.
fn must_wait(context: &Context, replica: &Replica, error: Option<FsError>) -> bool {
    recall::note(context, replica, error);
    error.map(as_busy) == Some(FsError::Busy)
}

/// Without room only that goes on which was begun when there was some, or which was done and is asked for again: a mount
/// that is told that there is no space must be sure that nothing was done. So must who opens what is there.
async fn check_under_way(
    context: &Context,
    replica: &Arc<Replica>,
    request: &Request,
) -> Result<(), Refusal> {
    let barrier = replica.barrier().await;
    barrier.map_err(|error| read_refusal(error, |node| context.address(node)))?;
    let runs =
        replica.leadership().is_some_and(|leadership| leadership.running().contains_key(&key_of(request)));
    let known = replica.partition().known(request).map_err(|error| unreadable(replica, &error))?;
    if runs || known.is_some() || finds(replica, &request.op) {
        return Ok(());
    }
    context.metrics.no_space.increment(1);
    Err(Refusal::NoSpace)
}

/// Whether a file that may be made is there already.
fn finds(replica: &Replica, op: &Op) -> bool {
    let Op::Name { op: NameOp::Create { parent, name, or_open: true, .. } } = op else { return false };
    let key = Key::Dentry { dir: *parent, name: name.clone() }.encode();
    replica.partition().store().get(&key).is_ok_and(|row| row.is_some())
}

fn unreadable(replica: &Replica, error: &KvError) -> Refusal {
    tracing::error!(partition = %replica.id(), %error, "rows cannot be read");
    Refusal::Stopped
}

async fn propose(context: &Context, replica: &Replica, request: &Request) -> Result<Bytes, Refusal> {
    let proposed = replica.propose(request).await;
    proposed.map_err(|error| propose_refusal(&error, |node| context.address(node)))
}

/// Whether the answer that a partition remembers of a change of names is about something that has ended everywhere.
fn is_settled(replica: &Replica, request: &Request) -> bool {
    let leadership = replica.leadership();
    leadership.is_some_and(|leadership| {
        !leadership.is_recovering() && !leadership.running().contains_key(&key_of(request))
    })
}

/// A guess from few rows whether the partition can do a change of names alone. A wrong one costs a round of the log.
fn is_likely_alone(replica: &Replica, op: &Op) -> bool {
    let Op::Name { op } = op else { return true };
    let holds = |inode: InodeId| {
        replica.birth().ranges.iter().any(|range| (range.first..=range.last).contains(&inode))
    };
    let names_ours = |dir: &InodeId, name: &Name| {
        let row = replica.partition().store().get(&Key::Dentry { dir: *dir, name: name.clone() }.encode());
        match row.map(|row| row.map(|row| Dentry::from_row(&row))) {
            Ok(Some(Ok(dentry))) => holds(dentry.inode),
            _ => true,
        }
    };
    match op {
        NameOp::Create { .. } => true,
        NameOp::Mkdir { place, .. } => place.is_none_or(|place| place == replica.id()),
        NameOp::Unlink { parent, name } | NameOp::Rmdir { parent, name } => names_ours(parent, name),
        NameOp::Link { inode, .. } => holds(*inode),
        NameOp::Rename { parent, name, new_parent, new_name, .. } => {
            holds(*parent) && names_ours(parent, name) && names_ours(new_parent, new_name)
        }
    }
}

/// How a try ended.
enum Try {
    Done(Bytes),
    /// Something is in the way, or the leader has changed: again in a while.
    Again,
}

impl Try {
    fn of(context: &Context, replica: &Replica, outcome: &Outcome) -> Self {
        if must_wait(context, replica, outcome.as_ref().err().copied()) {
            return Self::Again;
        }
        Self::Done(outcome_bytes(outcome))
    }
}

/// Tries again and again, when something has become free or after a random while: nobody who waits here holds a lock.
async fn wait_for_change(
    context: &Arc<Context>,
    replica: &Arc<Replica>,
    request: Request,
) -> Result<Bytes, Refusal> {
    let until = Instant::now() + BUSY_PATIENCE;
    let mut pause = PAUSE_MIN;
    let mut freed = replica.bells().freed.subscribe();
    loop {
        freed.borrow_and_update();
        if let Try::Done(outcome) = try_change(context, replica, &request, until).await? {
            return Ok(outcome);
        }
        if Instant::now() >= until {
            return Ok(outcome_bytes::<curvefs_types::Reply>(&Err(FsError::Busy)));
        }
        context.metrics.waits.increment(1);
        // The bell cannot end, since the replica has it.
        let _ = timeout(pause, freed.changed()).await;
        sleep(context.random_time(pause)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn try_change(
    context: &Arc<Context>,
    replica: &Arc<Replica>,
    request: &Request,
    until: Instant,
) -> Result<Try, Refusal> {
    if !matches!(request.op, Op::Name { .. }) {
        return alone(context, replica, request).await;
    }
    let Some(leadership) = wait_for_leadership(context, replica, until).await? else {
        return Ok(Try::Again);
    };
    if let Some(coming) = leadership.join(key_of(request)) {
        return answer(context, replica, coming).await;
    }
    let barrier = replica.barrier().await;
    barrier.map_err(|error| read_refusal(error, |node| context.address(node)))?;
    let mut route = route(replica, request, None)?;
    if route == Route::NeedsSource {
        route = match source(context, replica, request).await {
            Some(Ok(dentry)) => self::route(replica, request, Some(dentry))?,
            Some(Err(error)) => return Ok(Try::of(context, replica, &Err(error))),
            None => return Ok(Try::Again),
        };
    }
    match route {
        // It may have been decided since we looked.
        Route::Known(outcome) => match leadership.join(key_of(request)) {
            Some(coming) => answer(context, replica, coming).await,
            None => Ok(Try::of(context, replica, &outcome)),
        },
        Route::Alone => alone(context, replica, request).await,
        Route::NeedsSource => Ok(Try::Again),
        Route::Across(plan) => {
            let Some(system) = system(context, replica).await else { return Ok(Try::Again) };
            let (tell, coming) = oneshot::channel();
            let start = Start { request: request.clone(), plan, system, answer: tell };
            if leadership.starts.send(start).await.is_err() {
                return Ok(Try::Again);
            }
            answer(context, replica, coming).await
        }
    }
}

async fn alone(context: &Context, replica: &Replica, request: &Request) -> Result<Try, Refusal> {
    let outcome = propose(context, replica, request).await?;
    if must_wait(context, replica, error_in(&outcome)) {
        return Ok(Try::Again);
    }
    if matches!(request.op, Op::Name { .. }) && !is_settled(replica, request) {
        return Ok(Try::Again);
    }
    Ok(Try::Done(outcome))
}

/// The answer of what is coordinated. Nobody will send it if the term ends before.
async fn answer(
    context: &Context,
    replica: &Replica,
    coming: oneshot::Receiver<Outcome>,
) -> Result<Try, Refusal> {
    match timeout(ANSWER_PATIENCE, coming).await {
        Ok(Ok(outcome)) => Ok(Try::of(context, replica, &outcome)),
        Ok(Err(_)) => Ok(Try::Again),
        Err(_) => Err(Refusal::Unavailable { why: "another partition does not answer".into() }),
    }
}

fn route(replica: &Replica, request: &Request, source: Option<Dentry>) -> Result<Route, Refusal> {
    replica.partition().route(request, source).map_err(|error| unreadable(replica, &error))
}

/// The leader's side of the term, once what was left over is finished; `None` if that takes long.
async fn wait_for_leadership(
    context: &Context,
    replica: &Replica,
    until: Instant,
) -> Result<Option<Arc<Leadership>>, Refusal> {
    let mut watch = replica.watch_leadership();
    let status = replica.group().ok_or(Refusal::Stopped)?.status();
    let elsewhere =
        || not_leader(status.leader.filter(|node| *node != context.node), |node| context.address(node));
    if status.role != Role::Leader {
        return Err(elsewhere());
    }
    // What is borrowed of the watch must not be held while anything is waited for.
    let leadership = match timeout_at(until, watch.wait_for(Option::is_some)).await {
        Ok(Ok(leadership)) => leadership.clone(),
        Ok(Err(_)) => return Err(Refusal::Stopped),
        Err(_) => None,
    };
    let Some(leadership) = leadership else { return Err(elsewhere()) };
    let mut recovering = leadership.recovering.subscribe();
    let ended = matches!(timeout_at(until, recovering.wait_for(|recovering| !recovering)).await, Ok(Ok(_)));
    Ok(ended.then_some(leadership))
}

async fn system(context: &Context, replica: &Replica) -> Option<Arc<FileSystem>> {
    match context.systems.get(replica.fs()).await {
        Ok(system) => Some(system),
        Err(error) => {
            tracing::warn!(fs = %replica.fs(), %error, "where the partitions are is not known yet");
            None
        }
    }
}

/// What a rename's source names, in another partition; `None` if it is locked or not found out.
async fn source(context: &Context, replica: &Replica, request: &Request) -> Option<Result<Dentry, FsError>> {
    let Op::Name { op: NameOp::Rename { parent, name, .. } } = &request.op else { return None };
    let system = system(context, replica).await?;
    let partition: PartitionId = system.map.partition_of(*parent);
    let target = Target { fs: replica.fs(), partition, until: Instant::now() + SOURCE_PATIENCE };
    let ask = server_ask(Query::Lookup { parent: *parent, name: name.clone() });
    match context.ask_at(target, &ask).await.ok()? {
        Ok(Answer::Entry { dentry, .. }) => Some(Ok(dentry)),
        Ok(_) => Some(Err(FsError::Corrupt)),
        Err(FsError::NotHere { .. }) => {
            context.systems.note_stale(replica.fs());
            None
        }
        Err(error) if error.is_transient() => None,
        Err(error) => Some(Err(error)),
    }
}
