//! Requests of other nodes, as they arrive.
//!
//! Appends reach their group's engine before `handle` returns, so that they keep the order of the connection; only
//! their replies are waited for in tasks.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::task::{Context, Waker};

use curve_io::{Message, Reply};
use curve_types::GroupId;
use openraft::raft::{AppendEntriesResponse, TransferLeaderRequest};
use tokio::time::Instant;

use crate::group::Inner;
use crate::node::MultiRaft;
use crate::types::{LogId, Vote};
use crate::wire::{
    APPEND, Append, AppendReply, Outcome, PING, PRE_VOTE, Ping, Route, SNAPSHOT_OFFER, SNAPSHOT_READ,
    SnapshotOffer, SnapshotOfferReply, SnapshotRead, SnapshotReadReply, TRANSFER, Transfer, TransferReply,
    VOTE, VoteAsk, VoteReply, decode, decode_append, message, vote_reply,
};
use crate::{install, quiesce};

/// Takes one request. A malformed one, or one of an unknown method, breaks the call.
pub(crate) fn dispatch(node: &MultiRaft, request: Message, reply: Box<dyn Reply>) {
    let method = request.method;
    let taken = match method {
        APPEND => append(node, request, reply),
        VOTE | PRE_VOTE => vote(node, request, reply),
        TRANSFER => transfer(node, request, reply),
        SNAPSHOT_OFFER => snapshot_offer(node, request, reply),
        SNAPSHOT_READ => snapshot_read(node, request, reply),
        PING => ping(node, request, reply),
        _ => Err(io::Error::other("no such method")),
    };
    if let Err(error) = taken {
        tracing::warn!(method, %error, "refused a message");
    }
}

fn find(node: &MultiRaft, route: Route) -> Option<Arc<Inner>> {
    let group = (route.to == node.node().get()).then(|| node.group(GroupId(route.group))).flatten()?;
    (!group.inner.is_stopped()).then_some(group.inner)
}

/// Polls once, so that what the future sends first is sent in order, and leaves the rest to a task.
fn start(future: impl Future<Output = ()> + Send + 'static) {
    let mut future = Box::pin(tokio::task::unconstrained(future));
    if future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
        tokio::spawn(future);
    }
}

fn append(node: &MultiRaft, request: Message, reply: Box<dyn Reply>) -> io::Result<()> {
    let append: Append = decode(request.header)?;
    let Some(group) = find(node, append.route) else {
        let header = AppendReply { outcome: Outcome::NotHere.into(), vote: None };
        reply.send(message(APPEND, &header));
        return Ok(());
    };
    let request = decode_append(append, &request.payload)?;
    group.rouse();
    start(async move {
        let (outcome, vote) = match group.raft.append_entries(request).await {
            Ok(AppendEntriesResponse::Success | AppendEntriesResponse::PartialSuccess(_)) => {
                (Outcome::Ok, None)
            }
            Ok(AppendEntriesResponse::Conflict) => (Outcome::Conflict, None),
            Ok(AppendEntriesResponse::HigherVote(vote)) => (Outcome::HigherVote, Some(vote.into())),
            Err(_) => (Outcome::NotHere, None),
        };
        reply.send(message(APPEND, &AppendReply { outcome: outcome.into(), vote }));
    });
    Ok(())
}

fn vote(node: &MultiRaft, request: Message, reply: Box<dyn Reply>) -> io::Result<()> {
    let method = request.method;
    let ask: VoteAsk = decode(request.header)?;
    let refusal = |outcome: Outcome| VoteReply { outcome: outcome.into(), ..VoteReply::default() };
    let Some(group) = find(node, ask.route) else {
        reply.send(message(method, &refusal(Outcome::NotHere)));
        return Ok(());
    };
    // A leader asks for its successor's election itself, whatever this node had promised before a restart.
    if Instant::now() < group.votes_from && !ask.transfer {
        reply.send(message(method, &refusal(Outcome::NotNow)));
        return Ok(());
    }
    start(async move {
        if !ask.transfer && quiesce::refuses_votes(&group).await {
            reply.send(message(method, &refusal(Outcome::NotNow)));
            return;
        }
        group.rouse();
        let response = match method {
            VOTE => group.raft.vote(ask.into()).await,
            _ => group.raft.pre_vote(ask.into()).await,
        };
        let header = response.map_or_else(|_| refusal(Outcome::NotHere), |response| vote_reply(&response));
        reply.send(message(method, &header));
    });
    Ok(())
}

fn transfer(node: &MultiRaft, request: Message, reply: Box<dyn Reply>) -> io::Result<()> {
    let ask: Transfer = decode(request.header)?;
    let answer = |outcome: Outcome| message(TRANSFER, &TransferReply { outcome: outcome.into() });
    let Some(group) = find(node, ask.route) else {
        reply.send(answer(Outcome::NotHere));
        return Ok(());
    };
    let request = TransferLeaderRequest::new(Vote::from(ask.vote), ask.successor, ask.last.map(LogId::from));
    group.rouse();
    start(async move {
        let outcome = match group.raft.handle_transfer_leader(request).await {
            Ok(Ok(())) => Outcome::Ok,
            Ok(Err(_)) => Outcome::NotNow,
            Err(_) => Outcome::NotHere,
        };
        reply.send(answer(outcome));
    });
    Ok(())
}

fn snapshot_offer(node: &MultiRaft, request: Message, reply: Box<dyn Reply>) -> io::Result<()> {
    let offer: SnapshotOffer = decode(request.header)?;
    let Some(group) = find(node, offer.route) else {
        let header = SnapshotOfferReply { outcome: Outcome::NotHere.into(), ..SnapshotOfferReply::default() };
        reply.send(message(SNAPSHOT_OFFER, &header));
        return Ok(());
    };
    group.rouse();
    let fetches = node.fetches();
    tokio::spawn(async move {
        let header = install::answer(group, offer, fetches).await;
        reply.send(message(SNAPSHOT_OFFER, &header));
    });
    Ok(())
}

fn snapshot_read(node: &MultiRaft, request: Message, reply: Box<dyn Reply>) -> io::Result<()> {
    let read: SnapshotRead = decode(request.header)?;
    let source = find(node, read.route).and_then(|group| group.sources.get(read.session));
    let Some(source) = source else {
        let header = SnapshotReadReply { outcome: Outcome::NotHere.into(), ..SnapshotReadReply::default() };
        reply.send(message(SNAPSHOT_READ, &header));
        return Ok(());
    };
    let throttle = node.throttle();
    tokio::spawn(async move {
        let (header, payload) = match source.read(read.request).await {
            Ok(part) => {
                throttle.admit(part.payload.iter().map(bytes::Bytes::len).sum()).await;
                let header = SnapshotReadReply {
                    outcome: Outcome::Ok.into(),
                    header: part.header,
                    cause: String::new(),
                };
                (header, part.payload)
            }
            Err(error) => {
                let header = SnapshotReadReply {
                    outcome: Outcome::Failed.into(),
                    cause: error.to_string(),
                    ..SnapshotReadReply::default()
                };
                (header, Vec::new())
            }
        };
        reply.send(Message { payload, ..message(SNAPSHOT_READ, &header) });
    });
    Ok(())
}

fn ping(node: &MultiRaft, request: Message, reply: Box<dyn Reply>) -> io::Result<()> {
    let ping: Ping = decode(request.header)?;
    let header = quiesce::answer(node, &ping);
    reply.send(message(PING, &header));
    Ok(())
}
