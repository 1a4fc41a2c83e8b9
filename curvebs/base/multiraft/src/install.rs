//! The follower's side of snapshot transfers.
//!
//! The leader offers a snapshot and repeats the offer until it is told how it ended. The follower's state machine pulls
//! what it lacks, durably, before openraft hears of the snapshot: until then this replica's log and vote are what they
//! were, so that a transfer which fails or is cut short by a crash leaves an ordinary, if slow, follower.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use curve_io::BoxFuture;
use curve_types::NodeId;
use openraft_rt::WatchReceiver;
use tokio::sync::{Semaphore, watch};

use crate::format::decode_marker;
use crate::group::Inner;
use crate::machine::{Machine, SnapshotData};
use crate::state_machine::{SnapshotFetch, SnapshotPart};
use crate::types::{Snapshot, SnapshotMeta, Vote};
use crate::wire::{
    Outcome, Route, SNAPSHOT_READ, SnapshotOffer, SnapshotOfferReply, SnapshotRead, SnapshotReadReply,
    decode, message,
};

/// How long an offer is held before it is answered with "pending".
const ANSWER_WITHIN: Duration = Duration::from_millis(1000);
const READ_DEADLINE: Duration = Duration::from_secs(10);
const READ_TRIES: u32 = 5;

type Fate = Option<Result<Vote, String>>;

/// The transfer this replica takes part in, or the last one.
#[derive(Default)]
pub(crate) struct Progress {
    current: Option<(u64, watch::Receiver<Fate>)>,
}

/// Answers an offer: begins the install, or tells how far it is.
pub(crate) async fn answer(
    group: Arc<Inner>,
    offer: SnapshotOffer,
    fetches: Arc<Semaphore>,
) -> SnapshotOfferReply {
    let known = group.metrics.borrow_watched().vote;
    if Vote::from(offer.vote) < known {
        return reply(Outcome::HigherVote, Some(known), String::new());
    }
    let Some(mut fate) = join_or_begin(&group, offer, fetches) else {
        return reply(Outcome::NotNow, None, "another transfer is in progress".into());
    };
    let ended = tokio::time::timeout(ANSWER_WITHIN, fate.wait_for(Option::is_some)).await;
    match ended {
        Err(_) => reply(Outcome::Pending, None, String::new()),
        Ok(Err(_)) => reply(Outcome::Failed, None, "the transfer was given up".into()),
        Ok(Ok(fate)) => match fate.clone().expect("waited for it") {
            Ok(vote) => reply(Outcome::Ok, Some(vote), String::new()),
            Err(cause) => reply(Outcome::Failed, None, cause),
        },
    }
}

fn reply(outcome: Outcome, vote: Option<Vote>, cause: String) -> SnapshotOfferReply {
    SnapshotOfferReply { outcome: outcome.into(), vote: vote.map(Into::into), cause }
}

fn join_or_begin(
    group: &Arc<Inner>,
    offer: SnapshotOffer,
    fetches: Arc<Semaphore>,
) -> Option<watch::Receiver<Fate>> {
    let mut progress = group.install.lock().expect("never poisoned");
    if let Some((session, fate)) = &progress.current {
        if *session == offer.session {
            return Some(fate.clone());
        }
        if group.flags.is_installing() {
            return None;
        }
    }
    let began = group.flags.begin_install();
    debug_assert!(began, "guarded by the lock on progress");
    let (tell, fate) = watch::channel(None);
    progress.current = Some((offer.session, fate.clone()));
    let group = group.clone();
    tokio::spawn(async move {
        let result = install(&group, offer, fetches).await;
        if let Err(cause) = &result {
            tracing::info!(group = %group.id, cause, "snapshot was not installed");
        }
        group.flags.end_install();
        tell.send_replace(Some(result));
    });
    Some(fate)
}

async fn install(group: &Arc<Inner>, offer: SnapshotOffer, fetches: Arc<Semaphore>) -> Result<Vote, String> {
    let (last_log_id, last_membership) = decode_marker(&offer.marker).map_err(|error| error.to_string())?;
    let leader = NodeId(offer.route.from);
    let fetch = Arc::new(Fetch {
        route: group.caller.route(group.id, leader),
        group: group.clone(),
        leader,
        session: offer.session,
        fetches,
    });
    let marker = offer.marker.clone();
    let fetched = group
        .raft
        .with_state_machine(move |machine: &mut Machine| {
            Box::pin(async move { machine.install(fetch, marker).await })
        })
        .await;
    match fetched {
        Err(fatal) => return Err(fatal.to_string()),
        Ok(Err(error)) => return Err(error.to_string()),
        Ok(Ok(())) => {}
    }
    let meta = SnapshotMeta { last_log_id, last_membership };
    let snapshot = Snapshot { meta, snapshot: SnapshotData::Installed };
    match group.raft.install_full_snapshot(offer.vote.into(), snapshot).await {
        Ok(response) => Ok(response.vote),
        Err(error) => Err(error.to_string()),
    }
}

/// Pulls parts from the leader.
struct Fetch {
    group: Arc<Inner>,
    leader: NodeId,
    route: Route,
    session: u64,
    fetches: Arc<Semaphore>,
}

impl SnapshotFetch for Fetch {
    fn read(&self, request: Bytes) -> BoxFuture<'_, io::Result<SnapshotPart>> {
        Box::pin(async move {
            let _permit = self.fetches.acquire().await.map_err(io::Error::other)?;
            let mut tries = 0;
            loop {
                if self.group.is_stopped() {
                    return Err(io::Error::other("the group is stopped"));
                }
                match self.try_read(request.clone()).await {
                    Ok(part) => return part,
                    Err(error) if tries == READ_TRIES => return Err(error),
                    Err(_) => tries += 1,
                }
                tokio::time::sleep(self.group.options.heartbeat * tries).await;
            }
        })
    }
}

impl Fetch {
    /// The outer error is worth another try.
    async fn try_read(&self, request: Bytes) -> io::Result<io::Result<SnapshotPart>> {
        let read = SnapshotRead { route: self.route, session: self.session, request };
        let reply = self.group.caller.call(self.leader, message(SNAPSHOT_READ, &read), READ_DEADLINE).await;
        let reply = reply.map_err(io::Error::other)?;
        let header: SnapshotReadReply = decode(reply.header)?;
        match header.outcome() {
            Outcome::Ok => Ok(Ok(SnapshotPart { header: header.header, payload: reply.payload })),
            Outcome::NotNow => Err(io::Error::other("the leader is busy")),
            outcome => Ok(Err(io::Error::other(format!("the leader answered {outcome:?} {}", header.cause)))),
        }
    }
}
