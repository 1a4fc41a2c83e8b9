//! The follower's side of snapshot transfers.
//!
//! The leader offers a snapshot and repeats the offer until it is told how it ended. The follower's state machine pulls
//! what it lacks, durably, before the engine hears of the snapshot: until then this replica's log and vote are what they
//! were, so that a transfer which fails or is cut short by a crash leaves an ordinary, if slow, follower.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use curve_io::BoxFuture;
use curve_types::NodeId;
use tokio::sync::{Semaphore, oneshot, watch};

use crate::driver::{Input, Install};
use crate::group::Inner;
use crate::state_machine::{SnapshotFetch, SnapshotPart};
use crate::wire::{
    Outcome, Route, SNAPSHOT_READ, SnapshotOffer, SnapshotOfferReply, SnapshotRead, SnapshotReadReply,
    decode, message,
};

/// How long an offer is held before it is answered with "pending".
const ANSWER_WITHIN: Duration = Duration::from_millis(1000);
const READ_DEADLINE: Duration = Duration::from_secs(10);
const READ_TRIES: u32 = 5;

type Fate = Option<Result<(), String>>;

/// The transfer this replica takes part in, or the last one.
#[derive(Default)]
pub(crate) struct Progress {
    current: Option<Transfer>,
}

struct Transfer {
    session: u64,
    /// Who offered it, and in which term.
    leader: (u64, u64),
    fate: watch::Receiver<Fate>,
    /// Tells the transfer that another leader offers one.
    overtaken: watch::Sender<bool>,
}

/// Answers an offer: begins the install, or tells how far it is.
pub(crate) async fn answer(
    group: Arc<Inner>,
    offer: SnapshotOffer,
    fetches: Arc<Semaphore>,
) -> SnapshotOfferReply {
    let (tell, heard) = oneshot::channel();
    group.tell(Input::Offered { term: offer.term, leader: offer.route.from, tell });
    match heard.await {
        Ok(Ok(())) => {}
        Ok(Err(term)) => return SnapshotOfferReply { term, ..reply(Outcome::HigherTerm, String::new()) },
        Err(_) => return reply(Outcome::NotHere, String::new()),
    }
    let Some(mut fate) = join_or_begin(&group, offer, fetches) else {
        return reply(Outcome::NotNow, "another transfer is in progress".into());
    };
    let ended = tokio::time::timeout(ANSWER_WITHIN, fate.wait_for(Option::is_some)).await;
    match ended {
        Err(_) => reply(Outcome::Pending, String::new()),
        Ok(Err(_)) => reply(Outcome::Failed, "the transfer was given up".into()),
        Ok(Ok(fate)) => match fate.clone().expect("waited for it") {
            Ok(()) => reply(Outcome::Ok, String::new()),
            Err(cause) => reply(Outcome::Failed, cause),
        },
    }
}

fn reply(outcome: Outcome, cause: String) -> SnapshotOfferReply {
    SnapshotOfferReply { outcome: outcome.into(), term: 0, cause }
}

fn join_or_begin(
    group: &Arc<Inner>,
    offer: SnapshotOffer,
    fetches: Arc<Semaphore>,
) -> Option<watch::Receiver<Fate>> {
    let mut progress = group.install.lock().expect("never poisoned");
    let leader = (offer.term, offer.route.from);
    if let Some(current) = &progress.current {
        if current.session == offer.session {
            return Some(current.fate.clone());
        }
        if group.flags.is_installing() {
            // The old leader may never answer again, and the new one may need this replica for its majority.
            if leader > current.leader {
                current.overtaken.send_replace(true);
            }
            return None;
        }
    }
    let began = group.flags.begin_install();
    debug_assert!(began, "guarded by the lock on progress");
    let (tell, fate) = watch::channel(None);
    let (overtaken, overtaking) = watch::channel(false);
    progress.current = Some(Transfer { session: offer.session, leader, fate: fate.clone(), overtaken });
    let group = group.clone();
    tokio::spawn(async move {
        let result = install(&group, offer, fetches, overtaking).await;
        if let Err(cause) = &result {
            tracing::info!(group = %group.id, cause, "snapshot was not installed");
        }
        group.flags.end_install();
        tell.send_replace(Some(result));
    });
    Some(fate)
}

async fn install(
    group: &Arc<Inner>,
    offer: SnapshotOffer,
    fetches: Arc<Semaphore>,
    overtaken: watch::Receiver<bool>,
) -> Result<(), String> {
    let leader = NodeId(offer.route.from);
    let fetch = Arc::new(Fetch {
        route: group.caller.route(group.id, leader),
        group: group.clone(),
        leader,
        session: offer.session,
        fetches,
        overtaken,
    });
    let (tell, installed) = oneshot::channel();
    group.tell(Input::Install(Install { fetch, marker: offer.marker, tell }));
    installed.await.map_err(|_| "the group is stopped".to_owned())?
}

/// Pulls parts from the leader.
struct Fetch {
    group: Arc<Inner>,
    leader: NodeId,
    route: Route,
    session: u64,
    fetches: Arc<Semaphore>,
    overtaken: watch::Receiver<bool>,
}

impl SnapshotFetch for Fetch {
    fn read(&self, request: Bytes) -> BoxFuture<'_, io::Result<SnapshotPart>> {
        Box::pin(async move {
            let mut overtaken = self.overtaken.clone();
            tokio::select! {
                part = self.read_patiently(request) => part,
                _ = overtaken.wait_for(|overtaken| *overtaken) => {
                    Err(io::Error::other("another leader offers its snapshot"))
                }
            }
        })
    }
}

impl Fetch {
    async fn read_patiently(&self, request: Bytes) -> io::Result<SnapshotPart> {
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
    }

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
