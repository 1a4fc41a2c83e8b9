//! The I/O service: requests of clients, of the MDS (fences, deletions) and of other replicas (repair reads).
//!
//! A request is decoded and checked at the edge, finds its replica, and then either enters the log through
//! `Group::propose` or reads the store after `Group::read_barrier`. What a reply says is decided there: by the state
//! machine at apply for changes, by the leader's store for reads.

mod call;
mod change;
mod compare;
mod discard;
mod inflight;
mod merge;
mod read;
mod repair_read;
mod status;
mod table;
mod write;
mod zeroes;

use std::sync::Arc;

use curve_io::{Handler, Message, Reply};
use curve_multiraft::MultiRaft;
use curve_proto::methods;
use curve_types::Geometry;

pub use inflight::{Inflight, InflightLimits};
pub use table::ReplicaTable;

use crate::metrics::Metrics;
use call::Call;

/// What all requests share.
pub struct ServiceState {
    /// The replicas of this chunkserver.
    pub replicas: Arc<ReplicaTable>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// What bounds the requests in flight.
    pub inflight: Arc<Inflight>,
    /// The sizes of the pool.
    pub geometry: Geometry,
}

/// Routes the messages of the framed port: Raft's to the runtime, the chunk service's to their handlers.
pub struct Service {
    state: Arc<ServiceState>,
    raft: Arc<MultiRaft>,
}

impl Service {
    /// Serves `state`, beside the Raft runtime.
    pub fn new(state: Arc<ServiceState>, raft: Arc<MultiRaft>) -> Self {
        Self { state, raft }
    }
}

impl Handler for Service {
    fn handle(&self, request: Message, reply: Box<dyn Reply>) {
        if methods::RAFT.contains(&request.method) {
            return self.raft.handle(request, reply);
        }
        let state = &self.state;
        let method = request.method;
        let call = |of| Call::begin(state.clone(), reply, method, of);
        match method {
            methods::WRITE => write::serve(request, call(|m| &m.write)),
            methods::READ => read::serve(request, call(|m| &m.read)),
            methods::DISCARD => discard::serve(request, call(|m| &m.discard)),
            methods::DELETE_CHUNKS => discard::serve_delete_chunks(request, call(|m| &m.discard)),
            methods::WRITE_ZEROES => zeroes::serve(request, call(|m| &m.write_zeroes)),
            methods::BLOCK_STATUS => status::serve(request, call(|m| &m.other)),
            methods::FENCE => change::serve_fence(request, call(|m| &m.other)),
            methods::DELETE_VOLUME => change::serve_delete_volume(request, call(|m| &m.other)),
            methods::COMPARE_AND_WRITE => compare::serve(request, call(|m| &m.write)),
            methods::REPAIR_READ => repair_read::serve(request, call(|m| &m.other)),
            unknown => call(|m| &m.other).refuse_unknown(unknown),
        }
    }
}
