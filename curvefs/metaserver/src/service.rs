//! The framed port: requests of mounts, requests of other metaservers, and Raft's messages.
//!
//! What mounts send is checked at the edge: they may not say what only servers say. What servers send is answered at once,
//! `Busy` included: a coordinator that asks holds locks elsewhere, and nobody waits while holding a lock.

mod inflight;

use std::future::Future;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};

use bytes::Bytes;
use curve_io::{Handler, Message, Reply};
use curve_multiraft::MultiRaft;
use curve_proto::methods;
use curvefs_proto::{Refusal, call_of, outcome_bytes, outcome_frame, refusal_frame};
use curvefs_types::limits::REQUEST_BYTES_MAX;
use curvefs_types::{Ask, MountId, Op, PartitionId, Query, Request};
use tokio::time::Instant;

pub use inflight::Inflight;

use crate::context::Context;
use crate::leader;
use crate::metrics::{Metrics, OpMetrics};
use crate::replica::Replica;

/// Servers' requests are bounded by what coordinators and workers have under way. This only keeps a broken one out.
pub const PEERS_INFLIGHT_MAX: usize = 65_536;

/// Routes the messages of the framed port.
pub struct Service {
    context: Arc<Context>,
    raft: Arc<MultiRaft>,
    mounts: Arc<Inflight>,
    servers: Arc<Inflight>,
}

/// Where a request is counted.
type Counted = fn(&Metrics) -> &OpMetrics;

/// A request that waits for its answer. It is answered exactly once.
struct Call {
    context: Arc<Context>,
    reply: Box<dyn Reply>,
    method: u16,
    of: Counted,
    started: Instant,
}

impl Call {
    fn finish(self, outcome: Result<Bytes, Refusal>) {
        let metrics = (self.of)(&self.context.metrics);
        let frame = match outcome {
            Ok(outcome) => {
                metrics.done.increment(1);
                metrics.seconds.record(self.started.elapsed().as_secs_f64());
                outcome_frame(self.method, outcome)
            }
            Err(refusal) => {
                metrics.refused.increment(1);
                tracing::debug!(method = self.method, %refusal, "refused a request");
                refusal_frame(self.method, &refusal)
            }
        };
        self.reply.send(frame);
    }

    /// Serves in place what needs not wait, and in a task of its own what does.
    fn run<F>(self, serve: F)
    where
        F: Future<Output = Result<Bytes, Refusal>> + Send + 'static,
    {
        let mut serve = Box::pin(serve);
        match serve.as_mut().poll(&mut TaskContext::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => self.finish(outcome),
            // The task polls again and so leaves its own waker.
            Poll::Pending => drop(tokio::spawn(async move { self.finish(serve.await) })),
        }
    }
}

/// What a call must fit into, and what it may say.
struct Rules<'a, C> {
    room: &'a Arc<Inflight>,
    check: fn(&C) -> Result<(), Refusal>,
    /// Where it is counted, if not as its method says.
    counted: fn(&C) -> Option<Counted>,
}

impl Service {
    /// Serves, beside the Raft runtime, at most so much of mounts at a time.
    pub fn new(context: Arc<Context>, raft: Arc<MultiRaft>, mounts: Arc<Inflight>) -> Self {
        let servers = Inflight::new(PEERS_INFLIGHT_MAX, PEERS_INFLIGHT_MAX * 4096);
        Self { context, raft, mounts, servers }
    }

    fn begin(&self, reply: Box<dyn Reply>, method: u16, of: Counted) -> Call {
        Call { context: self.context.clone(), reply, method, of, started: Instant::now() }
    }

    /// Checks a call at the edge and has it run, if there is room and the replica is here.
    fn serve<C, R>(
        &self,
        request: &Message,
        mut call: Call,
        Rules { room, check, counted }: Rules<'_, C>,
        run: impl FnOnce(Arc<Context>, Arc<Replica>, C) -> R,
    ) where
        C: curvefs_proto::Call,
        R: Future<Output = Result<Bytes, Refusal>> + Send + 'static,
    {
        let checked = self.room(room, request).and_then(|permit| {
            let (partition, what) = decode::<C>(request)?;
            check(&what)?;
            Ok((permit, self.replica(partition)?, what))
        });
        match checked {
            Ok((permit, replica, what)) => {
                call.of = counted(&what).unwrap_or(call.of);
                let running = run(self.context.clone(), replica, what);
                call.run(async move {
                    let _permit = permit;
                    running.await
                });
            }
            Err(refusal) => call.finish(Err(refusal)),
        }
    }

    fn change(&self, request: &Message, call: Call) {
        let rules = Rules { room: &self.mounts, check: check_change, counted: |_| None };
        self.serve(request, call, rules, |context, replica, change| async move {
            leader::change(&context, &replica, change).await
        });
    }

    fn query(&self, request: &Message, call: Call) {
        let rules = Rules { room: &self.mounts, check: check_query, counted: counted_query };
        self.serve(request, call, rules, |context, replica, ask: Ask| async move {
            leader::query(&context, &replica, ask).await
        });
    }

    fn peer_change(&self, request: &Message, call: Call) {
        let rules = Rules { room: &self.servers, check: check_peer_change, counted: |_| None };
        self.serve(request, call, rules, |context, replica, change| async move {
            leader::peer_change(&context, &replica, &change).await
        });
    }

    fn peer_query(&self, request: &Message, call: Call) {
        let rules = Rules { room: &self.servers, check: check_peer_query, counted: |_| None };
        self.serve(request, call, rules, |context, replica, ask: Ask| async move {
            leader::peer_query(&context, &replica, &ask).await.map(|outcome| outcome_bytes(&outcome))
        });
    }

    fn replica(&self, partition: PartitionId) -> Result<Arc<Replica>, Refusal> {
        self.context.table.get(partition).ok_or(Refusal::NoPartition)
    }

    fn room(&self, inflight: &Arc<Inflight>, request: &Message) -> Result<inflight::Permit, Refusal> {
        let bytes = request.payload_len();
        if bytes > REQUEST_BYTES_MAX {
            return Err(bad_request(format!("{bytes} bytes are more than {REQUEST_BYTES_MAX}")));
        }
        inflight.enter(bytes).ok_or_else(|| {
            self.context.metrics.busy.increment(1);
            Refusal::Unavailable { why: "too many requests in flight on this metaserver".into() }
        })
    }
}

fn decode<C: curvefs_proto::Call>(request: &Message) -> Result<(PartitionId, C), Refusal> {
    call_of(request).map_err(bad_request)
}

fn bad_request(why: String) -> Refusal {
    Refusal::BadRequest { why }
}

fn check_change(request: &Request) -> Result<(), Refusal> {
    if request.mount == MountId::SERVERS || request.op.is_internal() {
        return Err(bad_request("only servers may ask for this".into()));
    }
    Ok(())
}

fn check_peer_change(request: &Request) -> Result<(), Refusal> {
    let known =
        matches!(request.op, Op::Prepare { .. } | Op::Finish { .. } | Op::Resolve { .. } | Op::Tell { .. });
    if request.mount != MountId::SERVERS || !known {
        return Err(bad_request("no server asks another one for this".into()));
    }
    Ok(())
}

fn check_query(ask: &Ask) -> Result<(), Refusal> {
    let internal = matches!(
        ask.query,
        Query::Garbage { .. }
            | Query::StagedSlices { .. }
            | Query::Untold { .. }
            | Query::PreparedTxs { .. }
            | Query::CommittedTxs { .. }
    );
    if ask.mount == MountId::SERVERS || internal {
        return Err(bad_request("only servers may ask this".into()));
    }
    Ok(())
}

/// What waits for others is not to be taken for slow.
fn counted_query(ask: &Ask) -> Option<Counted> {
    matches!(ask.query, Query::Recalls { .. }).then_some(|metrics| &metrics.recall_poll)
}

fn check_peer_query(ask: &Ask) -> Result<(), Refusal> {
    if ask.mount != MountId::SERVERS || !matches!(ask.query, Query::Lookup { .. } | Query::GetAttr { .. }) {
        return Err(bad_request("no server asks another one this".into()));
    }
    Ok(())
}

impl Handler for Service {
    fn handle(&self, request: Message, reply: Box<dyn Reply>) {
        if methods::RAFT.contains(&request.method) {
            return self.raft.handle(request, reply);
        }
        let method = request.method;
        match method {
            methods::META_CHANGE => self.change(&request, self.begin(reply, method, |m| &m.change)),
            methods::META_QUERY => {
                let call = self.begin(reply, method, |m| &m.query);
                self.query(&request, call);
            }
            methods::META_PEER_CHANGE => {
                self.peer_change(&request, self.begin(reply, method, |m| &m.peer_change));
            }
            methods::META_PEER_QUERY => {
                let call = self.begin(reply, method, |m| &m.peer_query);
                self.peer_query(&request, call);
            }
            unknown => {
                let call = self.begin(reply, method, |m| &m.peer_query);
                call.finish(Err(bad_request(format!("method {unknown} is not known"))));
            }
        }
    }
}
