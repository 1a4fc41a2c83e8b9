//! openraft's network over `curve_io::Network`: ordered, pipelined appends; votes; snapshot offers.
//!
//! Appends to one peer are sent in order, and several are in flight; the network keeps the order of calls. If
//! messages are lost or overtake each other all the same, the receiver reports a conflict and openraft probes again.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use curve_io::{BoxFuture, Message, Network, RpcError};
use curve_types::{GroupId, NodeId};
use futures::future::{Either, FutureExt, select};
use futures::stream::{BoxStream, Stream, StreamExt};
use openraft::RPCTypes;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};

use crate::flags::GroupFlags;
use crate::machine::SnapshotData;
use crate::node::AddressBook;
use crate::pipeline::pipeline;
use crate::types::{C, LogId, Snapshot, Vote};
use crate::wire::{
    AppendReply, Outcome, PRE_VOTE, Route, SNAPSHOT_OFFER, SnapshotOffer, SnapshotOfferReply, TRANSFER,
    Transfer, TransferReply, VOTE, VoteReply, decode, encode_append, message, vote_ask,
};

/// How long an append may take: it waits for the follower's disk.
const APPEND_DEADLINE: Duration = Duration::from_millis(2000);
/// A follower answers an offer within a second, if only that it is not done.
const OFFER_DEADLINE: Duration = Duration::from_millis(3000);

/// How one node calls others.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) node: NodeId,
    pub(crate) network: Arc<dyn Network>,
    pub(crate) addresses: Arc<dyn AddressBook>,
}

impl Caller {
    /// Sends a request now; the future waits for the reply.
    pub(crate) fn call(
        &self,
        to: NodeId,
        request: Message,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Message, RpcError>> {
        match self.addresses.address(to) {
            Some(address) => self.network.call(&address, request, deadline),
            None => {
                let error =
                    RpcError::Unreachable { address: to.to_string(), cause: "no address known".into() };
                async move { Err(error) }.boxed()
            }
        }
    }

    pub(crate) fn route(&self, group: GroupId, to: NodeId) -> Route {
        Route { group: group.get(), from: self.node.get(), to: to.get() }
    }
}

/// Makes the connections of one group.
pub(crate) struct Transport {
    caller: Caller,
    group: GroupId,
    flags: Arc<GroupFlags>,
}

impl Transport {
    pub(crate) fn new(caller: Caller, group: GroupId, flags: Arc<GroupFlags>) -> Self {
        Self { caller, group, flags }
    }
}

impl RaftNetworkFactory<C> for Transport {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, _node: &()) -> Peer {
        let to = NodeId(target);
        Peer {
            route: self.caller.route(self.group, to),
            caller: self.caller.clone(),
            flags: self.flags.clone(),
            append_deadline: Some(APPEND_DEADLINE),
        }
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &()) -> Peer {
        Peer { append_deadline: None, ..self.new_client(target, node).await }
    }
}

/// One group's way to one other member.
pub(crate) struct Peer {
    caller: Caller,
    route: Route,
    flags: Arc<GroupFlags>,
    /// `None` takes openraft's own, which is short, for heartbeats.
    append_deadline: Option<Duration>,
}

impl Peer {
    fn target(&self) -> NodeId {
        NodeId(self.route.to)
    }

    fn call<R: prost::Message + Default>(
        &self,
        request: Message,
        deadline: Duration,
        action: RPCTypes,
    ) -> impl Future<Output = Result<R, RPCError<C>>> + Send + use<R> {
        let route = self.route;
        let reply = self.caller.call(self.target(), request, deadline);
        async move {
            let reply = reply.await.map_err(|error| rpc_error(error, route, action))?;
            decode(reply.header).map_err(|error| RPCError::Network(NetworkError::new(&error)))
        }
    }

    fn append(
        &self,
        request: &AppendEntriesRequest<C>,
        deadline: Duration,
    ) -> impl Future<Output = Result<StreamAppendResult<C>, RPCError<C>>> + Send + use<> {
        let prev = request.prev_log_id;
        let last = request.entries.last().map(|entry| entry.log_id).or(prev);
        let reply =
            self.call::<AppendReply>(encode_append(self.route, request), deadline, RPCTypes::AppendEntries);
        async move {
            let reply = reply.await?;
            append_result(reply, prev, last)
        }
    }
}

fn append_result(
    reply: AppendReply,
    prev: Option<LogId>,
    last: Option<LogId>,
) -> Result<StreamAppendResult<C>, RPCError<C>> {
    match (reply.outcome(), prev, reply.vote) {
        (Outcome::Ok, _, _) => Ok(Ok(last)),
        (Outcome::Conflict, Some(prev), _) => Ok(Err(StreamAppendError::Conflict(prev))),
        (Outcome::HigherVote, _, Some(vote)) => Ok(Err(StreamAppendError::HigherVote(vote.into()))),
        (outcome, _, _) => Err(refused(outcome)),
    }
}

/// Turns a conflict below what the same stream has matched already into a passing failure. It means that a request
/// overtook the one before it and was refused for that; openraft would take it for a follower that lost its log.
fn in_order(
    matched: &mut Option<LogId>,
    result: Result<StreamAppendResult<C>, RPCError<C>>,
) -> Result<StreamAppendResult<C>, RPCError<C>> {
    match &result {
        Ok(Ok(last)) => *matched = (*matched).max(*last),
        Ok(Err(StreamAppendError::Conflict(prev))) if Some(*prev) <= *matched => {
            let error = io::Error::other("an append overtook the one before it");
            return Err(RPCError::Network(NetworkError::new(&error)));
        }
        _ => {}
    }
    result
}

fn refused(outcome: Outcome) -> RPCError<C> {
    RPCError::Unreachable(Unreachable::new(&io::Error::other(format!("peer answered {outcome:?}"))))
}

fn rpc_error(error: RpcError, route: Route, action: RPCTypes) -> RPCError<C> {
    match error {
        RpcError::Deadline { deadline_ms, .. } => RPCError::Timeout(Timeout {
            action,
            id: route.from,
            target: route.to,
            timeout: Duration::from_millis(deadline_ms),
        }),
        RpcError::Unreachable { .. } | RpcError::UnknownMethod { .. } => {
            RPCError::Unreachable(Unreachable::new(&error))
        }
        RpcError::Broken { .. } | RpcError::TooLarge { .. } => RPCError::Network(NetworkError::new(&error)),
    }
}

fn vote_response(reply: VoteReply) -> Result<VoteResponse<C>, RPCError<C>> {
    match (reply.outcome(), reply.vote) {
        (Outcome::Ok, Some(vote)) => {
            Ok(VoteResponse::new(Vote::from(vote), reply.last.map(LogId::from), reply.granted))
        }
        (outcome, _) => Err(refused(outcome)),
    }
}

impl RaftNetworkV2<C> for Peer {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<C>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<C>, RPCError<C>> {
        let deadline = self.append_deadline.unwrap_or(option.hard_ttl());
        self.append(&request, deadline).await.map(AppendEntriesResponse::from)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<C>, RPCError<C>>>, RPCError<C>>>
    where
        S: Stream<Item = AppendEntriesRequest<C>> + Send + Unpin + 'static,
    {
        let deadline = self.append_deadline.unwrap_or(option.hard_ttl());
        let mut matched = None;
        let replies = pipeline(input, move |request| self.append(&request, deadline))
            .map(move |result| in_order(&mut matched, result));
        async move { Ok(replies.boxed()) }.boxed()
    }

    async fn vote(
        &mut self,
        request: VoteRequest<C>,
        option: RPCOption,
    ) -> Result<VoteResponse<C>, RPCError<C>> {
        let ask = message(VOTE, &vote_ask(self.route, &request));
        vote_response(self.call(ask, option.hard_ttl(), RPCTypes::Vote).await?)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<C>,
        option: RPCOption,
    ) -> Result<VoteResponse<C>, RPCError<C>> {
        let ask = message(PRE_VOTE, &vote_ask(self.route, &request));
        vote_response(self.call(ask, option.hard_ttl(), RPCTypes::Vote).await?)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<C>, StreamingError<C>> {
        let SnapshotData::Source(source) = snapshot.snapshot else {
            let error = io::Error::other("the state machine gave no source");
            return Err(StreamingError::Network(NetworkError::new(&error)));
        };
        let offer = SnapshotOffer {
            route: self.route,
            vote: vote.into(),
            session: source.id(),
            marker: source.marker(),
        };
        // The guard lives as long as the follower may read.
        match select(pin!(cancel), pin!(self.offer_until_installed(offer))).await {
            Either::Left((closed, _)) => Err(StreamingError::Closed(closed)),
            Either::Right((result, _)) => Ok(result?),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<C>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<C>, RPCError<C>> {
        self.flags.stop_lease_reads(request.from_leader().leader_id);
        let transfer = Transfer {
            route: self.route,
            vote: (*request.from_leader()).into(),
            successor: *request.to_node_id(),
            last: request.last_log_id().map(|id| (*id).into()),
        };
        let reply: TransferReply =
            self.call(message(TRANSFER, &transfer), option.hard_ttl(), RPCTypes::TransferLeader).await?;
        match reply.outcome() {
            Outcome::Ok => Ok(Ok(())),
            outcome => Err(refused(outcome)),
        }
    }
}

impl Peer {
    async fn offer_until_installed(&self, offer: SnapshotOffer) -> Result<SnapshotResponse<C>, RPCError<C>> {
        loop {
            let request = message(SNAPSHOT_OFFER, &offer);
            let reply: SnapshotOfferReply =
                self.call(request, OFFER_DEADLINE, RPCTypes::InstallSnapshot).await?;
            match (reply.outcome(), reply.vote) {
                (Outcome::Pending, _) => {}
                (Outcome::Ok | Outcome::HigherVote, Some(vote)) => {
                    return Ok(SnapshotResponse::new(vote.into()));
                }
                (outcome, _) => {
                    let cause = format!("peer answered {outcome:?} {}", reply.cause);
                    return Err(RPCError::Unreachable(Unreachable::new(&io::Error::other(cause))));
                }
            }
        }
    }
}
