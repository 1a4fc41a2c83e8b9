//! One request on its way: what it needs to be answered and counted.

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use curve_io::{Message, Reply};
use curve_multiraft::{DiskState, Group, ReadError};
use curve_proto::ChunkError;
use curve_proto::pb::data::ChunkReply;
use curve_types::{ClientId, CopysetId, Epoch, NodeId, VolumeId};
use prost::Message as _;
use tokio::time::Instant;

use super::ServiceState;
use super::inflight::InflightPermit;
use crate::copyset::Replica;
use crate::metrics::{Metrics, OpMetrics};

/// What goes into a reply beside its status.
#[derive(Default)]
pub struct Answer {
    /// The header; its status is OK.
    pub header: ChunkReply,
    /// The payload in parts.
    pub payload: Vec<Bytes>,
    /// Payload bytes moved by the request, for the counters.
    pub bytes: u64,
}

impl Answer {
    /// Success of a change of `bytes`.
    pub fn changed(bytes: u64) -> Self {
        Self { bytes, ..Self::default() }
    }
}

/// A request that waits for its answer. It is answered exactly once.
pub struct Call {
    pub(super) state: Arc<ServiceState>,
    reply: Box<dyn Reply>,
    method: u16,
    of: fn(&Metrics) -> &OpMetrics,
    started: Instant,
}

impl Call {
    /// Begins to serve a request that has just arrived.
    pub fn begin(
        state: Arc<ServiceState>,
        reply: Box<dyn Reply>,
        method: u16,
        of: fn(&Metrics) -> &OpMetrics,
    ) -> Self {
        Self { state, reply, method, of, started: Instant::now() }
    }

    /// Answers.
    pub fn finish(self, outcome: Result<Answer, ChunkError>) {
        let metrics = (self.of)(&self.state.metrics);
        let (header, payload) = match outcome {
            Ok(answer) => {
                metrics.done.increment(1);
                metrics.bytes.increment(answer.bytes);
                metrics.seconds.record(self.started.elapsed().as_secs_f64());
                (answer.header, answer.payload)
            }
            Err(error) => {
                metrics.failed.increment(1);
                if matches!(error, ChunkError::Busy { .. }) {
                    self.state.metrics.busy.increment(1);
                }
                tracing::debug!(method = self.method, %error, "refused a request");
                (ChunkReply::error(&error), Vec::new())
            }
        };
        let header = header.encode_to_vec().into();
        self.reply.send(Message { method: self.method, header, payload });
    }

    /// Answers a request of a newer version.
    pub fn refuse_unknown(self, method: u16) {
        self.finish(Err(ChunkError::BadRequest { message: format!("unknown method {method:#x}") }));
    }

    /// Serves in a task of its own.
    pub fn spawn<F>(self, serve: F)
    where
        F: Future<Output = Result<Answer, ChunkError>> + Send + 'static,
    {
        tokio::spawn(async move {
            let outcome = serve.await;
            self.finish(outcome);
        });
    }

    /// Serves at once when `serve` can finish without waiting, as a read under a lease from the page cache can, and in
    /// a task of its own otherwise.
    pub fn run<F>(self, serve: F)
    where
        F: Future<Output = Result<Answer, ChunkError>> + Send + 'static,
    {
        let mut serve = Box::pin(serve);
        match serve.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => self.finish(outcome),
            // The task polls again and so leaves its own waker.
            Poll::Pending => self.spawn(serve),
        }
    }
}

impl ServiceState {
    /// The replica and its group, or who should be asked instead.
    pub fn replica(&self, copyset: u32) -> Result<Arc<Replica>, ChunkError> {
        self.replicas.get(CopysetId(copyset)).ok_or(ChunkError::NoCopyset)
    }

    /// Room for a request, or BUSY.
    pub fn enter(&self, bytes: usize) -> Result<InflightPermit, ChunkError> {
        self.inflight.enter(bytes).ok_or_else(|| ChunkError::Busy {
            message: "too many requests in flight on this chunkserver".into(),
        })
    }
}

/// The open group of a replica.
pub fn group(replica: &Replica) -> Result<&Group, ChunkError> {
    replica.group().ok_or_else(|| ChunkError::Stopped { message: "the replica is being opened".into() })
}

/// Where to go instead, with the address if it is known.
pub fn not_leader(replica: &Replica, hint: Option<NodeId>) -> ChunkError {
    let hint = hint
        .filter(|node| *node != replica.peers().node())
        .map(|node| (node, replica.peers().address(node).unwrap_or_default()));
    ChunkError::NotLeader { hint }
}

/// Waits until a read of this replica sees every acknowledged write, and checks the reader against the fence after that.
pub async fn may_read(
    replica: &Replica,
    volume: VolumeId,
    client: ClientId,
    epoch: Epoch,
) -> Result<(), ChunkError> {
    group(replica)?.read_barrier().await.map_err(|error| read_error(replica, error))?;
    // After the barrier every fence that was acknowledged is applied here.
    match replica.fences().refused(volume, client, epoch) {
        Some(held) => Err(ChunkError::Fenced { held }),
        None => Ok(()),
    }
}

fn read_error(replica: &Replica, error: ReadError) -> ChunkError {
    match error {
        ReadError::NotLeader { hint } => not_leader(replica, hint),
        ReadError::Unavailable => {
            ChunkError::Busy { message: "leadership could not be confirmed in time".into() }
        }
        ReadError::Stopped => stopped(replica),
    }
}

/// What waits for the disk and changes nothing. When it turns out that the disk hangs, whoever asked is sent away: another replica
/// leads soon. Who comes later waits: if nobody else can lead, what is in memory is still served.
pub async fn unless_disk_hangs<T>(
    replica: &Replica,
    work: impl Future<Output = Result<T, ChunkError>>,
) -> Result<T, ChunkError> {
    let mut disk = group(replica)?.watch_disk();
    let hangs =
        async { while disk.changed().await.is_ok() && *disk.borrow_and_update() != DiskState::Hangs {} };
    tokio::select! {
        biased;
        done = work => done,
        () = hangs => Err(not_leader(replica, None)),
    }
}

/// The answer of a replica whose group or store has stopped.
pub fn stopped(replica: &Replica) -> ChunkError {
    ChunkError::Stopped { message: format!("the replica of {} has stopped", replica.id()) }
}

/// Decodes a request's header.
pub fn decode<T: prost::Message + Default>(request: &Message) -> Result<T, ChunkError> {
    T::decode(&*request.header).map_err(|error| bad_request(format!("malformed header: {error}")))
}

/// A request that makes no sense.
pub fn bad_request(message: impl Into<String>) -> ChunkError {
    ChunkError::BadRequest { message: message.into() }
}
