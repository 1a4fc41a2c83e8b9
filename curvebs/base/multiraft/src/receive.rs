//! Requests of other nodes, as they arrive.
//!
//! Appends and votes are queued for their group's task before `handle` returns, so that they keep the order of the
//! connection; the group's task replies.

use std::io;
use std::sync::Arc;

use curve_io::{Message, Reply};
use curve_types::GroupId;

use crate::driver::Input;
use crate::group::Inner;
use crate::node::MultiRaft;
use crate::stall::DiskState;
use crate::wire::{
    APPEND, Append, AppendReply, Outcome, PING, PRE_VOTE, Ping, Route, SNAPSHOT_OFFER, SNAPSHOT_READ,
    SnapshotOffer, SnapshotOfferReply, SnapshotRead, SnapshotReadReply, TRANSFER, Transfer, TransferReply,
    VOTE, VoteAsk, VoteReply, decode, decode_append, message,
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

fn append(node: &MultiRaft, request: Message, reply: Box<dyn Reply>) -> io::Result<()> {
    let append: Append = decode(request.header)?;
    let Some(group) = find(node, append.route) else {
        let header = AppendReply { outcome: Outcome::NotHere.into(), ..AppendReply::default() };
        reply.send(message(APPEND, &header));
        return Ok(());
    };
    group.tell(Input::Append(decode_append(append, &request.payload)?, reply));
    Ok(())
}

fn vote(node: &MultiRaft, request: Message, reply: Box<dyn Reply>) -> io::Result<()> {
    let method = request.method;
    let ask: VoteAsk = decode(request.header)?;
    let Some(group) = find(node, ask.route) else {
        let header = VoteReply { outcome: Outcome::NotHere.into(), ..VoteReply::default() };
        reply.send(message(method, &header));
        return Ok(());
    };
    group.tell(Input::Vote(ask.to_engine(method == PRE_VOTE), reply));
    Ok(())
}

fn transfer(node: &MultiRaft, request: Message, reply: Box<dyn Reply>) -> io::Result<()> {
    let ask: Transfer = decode(request.header)?;
    let Some(group) = find(node, ask.route).filter(|_| node.disk() == DiskState::Fine) else {
        reply.send(message(TRANSFER, &TransferReply { outcome: Outcome::NotHere.into() }));
        return Ok(());
    };
    group.tell(Input::Transfer(ask.to_engine(), reply));
    Ok(())
}

fn snapshot_offer(node: &MultiRaft, request: Message, reply: Box<dyn Reply>) -> io::Result<()> {
    let offer: SnapshotOffer = decode(request.header)?;
    let Some(group) = find(node, offer.route) else {
        let header = SnapshotOfferReply { outcome: Outcome::NotHere.into(), ..SnapshotOfferReply::default() };
        reply.send(message(SNAPSHOT_OFFER, &header));
        return Ok(());
    };
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
