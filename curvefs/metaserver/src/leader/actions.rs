//! What a coordinator wants done. Each repeats its message until there is an answer, or until it is pointless.

use std::sync::Arc;
use std::time::Duration;

use curve_multiraft::ProposeError;
use curvefs_meta::Walk;
use curvefs_types::keys::Key;
use curvefs_types::limits::DEPTH_MAX;
use curvefs_types::{
    Answer, Decision, FsError, FsId, InodeId, Op, PartitionId, Query, Reply, Request, TxId, Wire,
};
use tokio::time::{Instant, sleep};

use super::driver::Event;
use crate::context::Context;
use crate::peers::Target;
use crate::replica::{Replica, server_ask};

/// How long a participant may take to vote. After that its locks elsewhere are given back, and all begins again.
const VOTE_PATIENCE: Duration = Duration::from_secs(3);
/// How long all walks of an operation may take.
const WALK_PATIENCE: Duration = Duration::from_secs(5);
/// How long one try to finish may take.
const FINISH_TRY: Duration = Duration::from_secs(5);
/// How long a participant is told that something was aborted. It will find out by itself what it does not hear.
const ABORT_PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_LONG: Duration = Duration::from_secs(1);

/// Asks a participant for its vote.
pub(super) async fn prepare(
    context: &Context,
    fs: FsId,
    to: PartitionId,
    tx: TxId,
    request: Request,
) -> Event {
    let target = Target { fs, partition: to, until: Instant::now() + VOTE_PATIENCE };
    let vote = match context.change_at(target, &request).await {
        Ok(Ok(Reply::Prepared { attrs })) => Ok(attrs),
        Ok(Ok(_)) => Err(FsError::Corrupt),
        Ok(Err(FsError::NotHere { .. } | FsError::Stopped)) => {
            // The map was old. Everything begins again with a new one.
            context.systems.note_stale(fs);
            Err(FsError::Busy)
        }
        Ok(Err(error)) => Err(error),
        Err(error) => {
            tracing::debug!(%tx, %to, %error, "no vote");
            return Event::GivenUp { tx };
        }
    };
    Event::Voted { tx, from: to, vote }
}

/// Looks whether ways up to the root meet what they must not.
pub(super) async fn walk(context: &Context, fs: FsId, tx: TxId, walks: Vec<Walk>) -> Event {
    let until = Instant::now() + WALK_PATIENCE;
    for walk in walks {
        let mut at = walk.from;
        for depth in 0.. {
            if at == walk.avoid || depth > DEPTH_MAX {
                return Event::Walked { tx, result: Err(FsError::Invalid) };
            }
            if at == InodeId::ROOT {
                break;
            }
            match parent(context, fs, at, until).await {
                Some(Ok(parent)) => at = parent,
                Some(Err(error)) => return Event::Walked { tx, result: Err(error) },
                None => return Event::GivenUp { tx },
            }
        }
    }
    Event::Walked { tx, result: Ok(()) }
}

/// The directory above one; `None` if it is not found out in time.
async fn parent(
    context: &Context,
    fs: FsId,
    inode: InodeId,
    until: Instant,
) -> Option<Result<InodeId, FsError>> {
    let ask = server_ask(Query::GetAttr { inode });
    while Instant::now() < until {
        let system = context.systems.get(fs).await.ok()?;
        let target = Target { fs, partition: system.map.partition_of(inode), until };
        match context.ask_at(target, &ask).await.ok()? {
            Ok(Answer::Attrs { attrs }) => {
                return Some(attrs.first().map(|attr| attr.parent).ok_or(FsError::Corrupt));
            }
            Ok(_) => return Some(Err(FsError::Corrupt)),
            Err(FsError::NotHere { .. }) => context.systems.note_stale(fs),
            Err(FsError::Busy | FsError::Stopped) => {}
            Err(error) => return Some(Err(error)),
        }
        sleep(PAUSE).await;
    }
    None
}

/// Has the own partition decide.
pub(super) async fn decide(replica: &Arc<Replica>, tx: TxId, request: Request) -> Event {
    loop {
        match replica.change(&request).await {
            Ok(outcome) => match is_committed(replica, tx) {
                Some(committed) => return Event::Decided { tx, outcome, committed },
                None => return Event::TermOver,
            },
            // It may still be applied, so nothing else can be said of it. The same request again finds its answer.
            Err(ProposeError::Unavailable) => sleep(PAUSE).await,
            Err(ProposeError::TooLarge { .. }) => {
                return Event::Decided { tx, outcome: Err(FsError::Invalid), committed: false };
            }
            Err(ProposeError::NotLeader { .. } | ProposeError::Stopped) => return Event::TermOver,
        }
    }
}

fn is_committed(replica: &Replica, tx: TxId) -> Option<bool> {
    let row = match replica.partition().store().get(&Key::Decided { number: tx.number }.encode()) {
        Ok(row) => row,
        Err(error) => {
            tracing::error!(partition = %replica.id(), %error, "cannot read what was decided");
            return None;
        }
    };
    let decision = row.map(|row| Decision::from_row(&row));
    Some(matches!(decision, Some(Ok(Decision::Committed { .. }))))
}

/// Tells a participant what was decided. A commit until it has heard; whoever leads after us goes on with that.
pub(super) async fn finish(
    context: &Context,
    fs: FsId,
    to: PartitionId,
    tx: TxId,
    request: Request,
) -> Event {
    let commit = matches!(request.op, Op::Finish { commit: true, .. });
    let given_up = Instant::now() + ABORT_PATIENCE;
    // What was aborted has no row here. A participant that still holds something for it asks, and is told so.
    while commit || Instant::now() < given_up {
        let target = Target { fs, partition: to, until: Instant::now() + FINISH_TRY };
        match context.change_at(target, &request).await {
            Ok(Ok(_)) => break,
            Ok(Err(FsError::Busy)) => sleep(context.random_time(PAUSE)).await,
            Ok(Err(error)) => {
                tracing::error!(%tx, %to, %error, "a participant cannot finish; trying on");
                sleep(PAUSE_LONG).await;
            }
            Err(error) => {
                tracing::debug!(%tx, %to, %error, "a participant has not finished yet");
                sleep(PAUSE).await;
            }
        }
    }
    Event::Finished { tx, from: to }
}

/// Removes a decided row that nobody needs any more.
pub(super) async fn forget(replica: &Arc<Replica>, request: Request) -> Event {
    if let Err(error) = replica.change(&request).await {
        // The next leader finds the row and finishes again, which does nothing.
        tracing::debug!(partition = %replica.id(), %error, "a decided row stays for now");
    }
    Event::Nothing
}
