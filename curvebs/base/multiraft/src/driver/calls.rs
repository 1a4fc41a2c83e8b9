//! What a group's task has begun and waits for: calls of peers, reads of the log, writes of votes.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use curve_io::{BoxFuture, Message as Frame, RpcError};
use curve_types::{FRAME_PAYLOAD_BYTES_MAX, NodeId};
use futures::FutureExt;

use crate::engine::{AppendReply, Message, Sent, VoteReply, VoteRequest};
use crate::group::Inner;
use crate::placer::{self, Placer};
use crate::source::SourceGuard;
use crate::store::Store;
use crate::types::Entry;
use crate::wire::{
    AppendReply as WireAppendReply, Outcome, SNAPSHOT_OFFER, SnapshotOffer, SnapshotOfferReply,
    VoteReply as WireVoteReply, decode, encode_append, message, vote_ask,
};

/// How long an append may take: it waits for the follower's disk.
const APPEND_DEADLINE: Duration = Duration::from_millis(2000);
/// A follower answers an offer within a second, if only that it is not done.
const OFFER_DEADLINE: Duration = Duration::from_millis(3000);
/// Entries read for a peer, or to be applied, at once.
const READ_ENTRIES_MAX: u64 = 256;
/// Bytes read from the log to be applied at once.
const APPLY_READ_BYTES: usize = 4 << 20;

/// What has ended.
pub(super) enum Done {
    Append {
        peer: u64,
        sent: Sent,
        reply: Option<AppendReply>,
    },
    Vote {
        peer: u64,
        request: VoteRequest,
        reply: Option<VoteReply>,
    },
    Fetched {
        peer: u64,
        term: u64,
        entries: io::Result<Vec<Entry>>,
    },
    /// The next entry for a peer has placed what is not there any more.
    Lost {
        peer: u64,
        term: u64,
    },
    ToApply {
        from: u64,
        entries: io::Result<Vec<Entry>>,
    },
    Written {
        io: u64,
        result: io::Result<()>,
    },
    /// A transfer to a peer has ended; what it has installed, or the higher term it knows.
    Snapshot {
        peer: u64,
        term: u64,
        result: Result<u64, Option<u64>>,
    },
}

type Call = BoxFuture<'static, Result<Frame, RpcError>>;

/// Something that is waited for. A call of a peer is a variant of its own, so that it needs no second box.
pub(super) enum Waiting {
    Append { peer: u64, sent: Sent, call: Call },
    Vote { peer: u64, request: VoteRequest, call: Call },
    Other(BoxFuture<'static, Done>),
}

impl Future for Waiting {
    type Output = Done;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Done> {
        Poll::Ready(match self.get_mut() {
            Self::Append { peer, sent, call } => {
                let reply = ready!(call.poll_unpin(cx)).ok();
                let reply = reply.and_then(|reply| decode::<WireAppendReply>(reply.header).ok());
                let reply = reply.and_then(WireAppendReply::to_engine);
                Done::Append { peer: *peer, sent: *sent, reply }
            }
            Self::Vote { peer, request, call } => {
                let reply = ready!(call.poll_unpin(cx)).ok();
                let reply = reply.and_then(|reply| decode::<WireVoteReply>(reply.header).ok());
                let reply = reply.and_then(WireVoteReply::to_engine);
                Done::Vote { peer: *peer, request: *request, reply }
            }
            Self::Other(other) => return other.poll_unpin(cx),
        })
    }
}

/// Sends a message now.
pub(super) fn send(group: &Inner, to: NodeId, message: Message) -> Waiting {
    let route = group.caller.route(group.id, to);
    let peer = to.get();
    match message {
        Message::Append(request, sent) => {
            let deadline =
                if request.entries.is_empty() { group.options.election_min } else { APPEND_DEADLINE };
            Waiting::Append {
                peer,
                sent,
                call: group.caller.call(to, encode_append(route, &request), deadline),
            }
        }
        Message::Vote(request) => {
            let call = group.caller.call(to, vote_ask(route, &request), group.options.election_min);
            Waiting::Vote { peer, request, call }
        }
    }
}

/// Waits for a write that has begun.
pub(super) fn write(io: u64, durable: BoxFuture<'static, io::Result<()>>) -> Waiting {
    Waiting::Other(durable.map(move |result| Done::Written { io, result }).boxed())
}

/// Reads entries for a peer.
pub(super) fn fetch(
    store: &Store,
    placer: Option<&Arc<dyn Placer>>,
    peer: u64,
    term: u64,
    from: u64,
) -> Waiting {
    let entries = store.read(from, READ_ENTRIES_MAX, FRAME_PAYLOAD_BYTES_MAX);
    let placer = placer.cloned();
    let fetched = async move {
        let entries = match entries.await {
            Ok(entries) => entries,
            Err(error) => return Done::Fetched { peer, term, entries: Err(error) },
        };
        let some = !entries.is_empty();
        match placer::restore(placer.as_deref(), entries, FRAME_PAYLOAD_BYTES_MAX).await {
            Ok(entries) if some && entries.is_empty() => Done::Lost { peer, term },
            entries => Done::Fetched { peer, term, entries },
        }
    };
    Waiting::Other(fetched.boxed())
}

/// Reads entries to be applied.
pub(super) fn read_to_apply(store: &Store, from: u64, upto: u64) -> Waiting {
    let entries = store.read(from, (upto - from + 1).min(READ_ENTRIES_MAX), APPLY_READ_BYTES);
    Waiting::Other(entries.map(move |entries| Done::ToApply { from, entries }).boxed())
}

/// Offers a snapshot to a peer until it has installed it or says why not. The guard lives as long as the peer may read.
pub(super) fn offer(group: &Arc<Inner>, peer: u64, term: u64, last: u64, source: SourceGuard) -> Waiting {
    let group = group.clone();
    let offered = async move {
        let offer = SnapshotOffer {
            route: group.caller.route(group.id, NodeId(peer)),
            term,
            session: source.id(),
            marker: source.marker(),
        };
        let result = loop {
            let call = group.caller.call(NodeId(peer), message(SNAPSHOT_OFFER, &offer), OFFER_DEADLINE);
            let reply = call.await.ok().and_then(|reply| decode::<SnapshotOfferReply>(reply.header).ok());
            match reply.as_ref().map(|reply| (reply.outcome(), reply.term)) {
                Some((Outcome::Pending, _)) => {}
                Some((Outcome::Ok, _)) => break Ok(last),
                Some((Outcome::HigherTerm, term)) => break Err(Some(term)),
                _ => {
                    tracing::debug!(group = %group.id, peer, ?reply, "a snapshot was not installed");
                    break Err(None);
                }
            }
        };
        Done::Snapshot { peer, term, result }
    };
    Waiting::Other(offered.boxed())
}
