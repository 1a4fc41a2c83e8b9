//! Typed calls of the control plane over any transport.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use curve_types::{ClientId, CopysetId, Epoch, NodeId, SegmentIndex, VolumeId};
use tokio::time::{Instant, sleep};

use crate::mds::wire::{BadReply, required};
use crate::mds::{
    ChunkserverInfo, ClusterStatus, CopysetInfo, Created, DiskUsage, Entry, Heartbeat, HeartbeatReply,
    MdsError, OpenRequest, Opened, Refreshed, Registered, Registration, SessionKey, VolumeRecord,
};
use crate::pb::fs;
use crate::pb::mds as pb;
use crate::pb::mds::mds_request::Op;
use crate::pb::mds::mds_response::Result as Answer;
use crate::transport::MdsTransport;

/// Entries asked for in one page of a listing.
const PAGE: u32 = 1000;

/// Typed calls of the control plane. Each waits at most `deadline`; mutations carry this caller's own sequence, so that
/// the transport may repeat them.
pub struct MdsApi {
    transport: Arc<dyn MdsTransport>,
    client: ClientId,
    sequence: AtomicU64,
    deadline: Duration,
}

macro_rules! answer {
    ($response:expr, $variant:ident) => {
        match $response {
            Answer::$variant(value) => Ok(value),
            _ => Err(MdsError::from(BadReply("answer to the question asked"))),
        }
    };
}

mod iscsi;

impl MdsApi {
    /// Calls over `transport`. `client` is random and identifies this caller's mutations.
    pub fn new(transport: Arc<dyn MdsTransport>, client: ClientId, deadline: Duration) -> Self {
        Self { transport, client, sequence: AtomicU64::new(1), deadline }
    }

    async fn call_within(&self, op: Op, deadline: Duration) -> Result<Answer, MdsError> {
        let request = pb::MdsRequest {
            deadline_ms: u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX),
            client: self.client.get(),
            sequence: self.sequence.fetch_add(1, Ordering::Relaxed),
            op: Some(op),
        };
        let response = self.transport.call(request, deadline).await;
        let response = response.map_err(|error| MdsError::Unavailable { why: error.to_string() })?;
        match required(response.result, "result")? {
            Answer::Error(error) => Err(error.into()),
            answer => Ok(answer),
        }
    }

    async fn call(&self, op: Op) -> Result<Answer, MdsError> {
        self.call_within(op, self.deadline).await
    }

    /// An operation of CurveFS. `Error` never comes back as a result.
    pub async fn fs(&self, op: fs::fs_request::Op) -> Result<fs::fs_response::Result, MdsError> {
        let op = Op::Fs(fs::FsRequest { op: Some(op) });
        required(answer!(self.call(op).await?, Fs)?.result, "result of a file system's operation")
            .map_err(MdsError::from)
    }

    /// The same, asked again and again while it is in progress, until it is done or `deadline` is over.
    pub async fn fs_until_done(
        &self,
        op: fs::fs_request::Op,
        deadline: Duration,
    ) -> Result<fs::fs_response::Result, MdsError> {
        let op = Op::Fs(fs::FsRequest { op: Some(op) });
        let answer = answer!(self.call_until_done(op, deadline).await?, Fs)?;
        required(answer.result, "result of a file system's operation").map_err(MdsError::from)
    }

    /// Creates a volume of `size` bytes. Nothing is allocated yet.
    pub async fn create_volume(&self, path: &str, size: u64) -> Result<Created, MdsError> {
        let op = Op::CreateVolume(pb::CreateVolume { path: path.into(), size });
        let created = answer!(self.call(op).await?, Created)?;
        let warning = Some(created.warning).filter(|text| !text.is_empty());
        Ok(Created { volume: required(created.volume, "volume")?.try_into()?, warning })
    }

    /// Makes a directory; with `parents` also the missing ones above it, and an existing one is no error.
    pub async fn make_directory(&self, path: &str, parents: bool) -> Result<(), MdsError> {
        let op = Op::MakeDirectory(pb::MakeDirectory { path: path.into(), parents });
        answer!(self.call(op).await?, Done).map(drop)
    }

    /// What a path names.
    pub async fn stat(&self, path: &str) -> Result<Entry, MdsError> {
        let entry = answer!(self.call(Op::Stat(pb::Path { path: path.into() })).await?, Entry)?;
        Ok(entry.try_into()?)
    }

    /// Everything in a directory, sorted by name. A volume lists itself.
    pub async fn list(&self, path: &str) -> Result<Vec<Entry>, MdsError> {
        let mut all: Vec<Entry> = Vec::new();
        loop {
            let after = all.last().map(|entry| entry.name.clone()).unwrap_or_default();
            let op = Op::List(pb::List { path: path.into(), after, limit: PAGE });
            let page = answer!(self.call(op).await?, Entries)?;
            let end = !page.more || page.entries.is_empty();
            for entry in page.entries {
                all.push(entry.try_into()?);
            }
            if end {
                return Ok(all);
            }
        }
    }

    /// Deletes a volume that nobody has open, or an empty directory.
    pub async fn delete(&self, path: &str) -> Result<(), MdsError> {
        answer!(self.call(Op::Delete(pb::Path { path: path.into() })).await?, Done).map(drop)
    }

    /// Renames a volume or a directory. The new name must be free.
    pub async fn rename(&self, from: &str, to: &str) -> Result<(), MdsError> {
        let op = Op::Rename(pb::Rename { from: from.into(), to: to.into() });
        answer!(self.call(op).await?, Done).map(drop)
    }

    /// Grows a volume.
    pub async fn resize(&self, path: &str, size: u64) -> Result<VolumeRecord, MdsError> {
        let op = Op::Resize(pb::Resize { path: path.into(), size });
        Ok(answer!(self.call(op).await?, Volume)?.try_into()?)
    }

    /// Sums over a directory tree, or over one volume.
    pub async fn disk_usage(&self, path: &str) -> Result<DiskUsage, MdsError> {
        let op = Op::DiskUsage(pb::Path { path: path.into() });
        Ok(answer!(self.call(op).await?, DiskUsage)?.into())
    }

    /// Opens a volume. Waits, up to the deadline, for a former holder to be shut out everywhere.
    pub async fn open(&self, request: &OpenRequest) -> Result<Opened, MdsError> {
        let op = Op::Open(pb::Open {
            path: request.path.clone(),
            mode: pb::OpenMode::from(request.mode).into(),
            client: request.client.get(),
            host: request.host.clone(),
            process: request.process,
            takeover: request.takeover,
            displaced: request.displaced.iter().map(|client| client.get()).collect(),
            volume: request.volume.map_or(0, VolumeId::get),
        });
        let opened = answer!(self.call_until_done(op, self.deadline).await?, Opened)?;
        Ok(Opened {
            volume: required(opened.volume, "volume")?.try_into()?,
            epoch: Epoch(opened.epoch),
            lease: Duration::from_millis(opened.lease_ms),
        })
    }

    /// Calls again and again what is in progress, until it is done or `deadline` is over.
    async fn call_until_done(&self, op: Op, deadline: Duration) -> Result<Answer, MdsError> {
        let until = Instant::now() + deadline;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.call_within(op.clone(), left).await {
                Err(MdsError::InProgress { retry_after, .. }) if retry_after < left => {
                    sleep(retry_after).await;
                }
                other => return other,
            }
        }
    }

    /// Keeps sessions alive, and learns of new sizes and lost sessions.
    pub async fn refresh(&self, sessions: &[SessionKey]) -> Result<Refreshed, MdsError> {
        let sessions = sessions.iter().map(|&session| session.into()).collect();
        let refreshed = answer!(self.call(Op::Refresh(pb::Refresh { sessions })).await?, Refreshed)?;
        let sessions = refreshed.sessions.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
        Ok(Refreshed { sessions, lease: Duration::from_millis(refreshed.lease_ms) })
    }

    /// Ends a session. `drained` says that every request of it was answered, so that the next opener needs no fence.
    pub async fn close(&self, session: SessionKey, drained: bool) -> Result<(), MdsError> {
        let op = Op::Close(pb::Close { session: Some(session.into()), drained });
        answer!(self.call(op).await?, Done).map(drop)
    }

    /// Ends sessions of a volume without asking their holders, and returns once every copyset of the volume refuses
    /// them. A client that holds it no longer is no error: whoever was ended before is waited for, too. After `deadline`
    /// the holders are ended, but may not be shut out everywhere; asking again goes on.
    pub async fn break_sessions(
        &self,
        path: &str,
        clients: &[ClientId],
        deadline: Duration,
    ) -> Result<(), MdsError> {
        let clients = clients.iter().map(|client| client.get()).collect();
        let op = Op::BreakSessions(pb::BreakSessions { path: path.into(), clients });
        answer!(self.call_until_done(op, deadline).await?, Done).map(drop)
    }

    /// The copysets of a segment's chunks, one for each chunk. `None`: not allocated, and `allocate` was false.
    pub async fn segment(
        &self,
        session: SessionKey,
        segment: SegmentIndex,
        allocate: bool,
    ) -> Result<Option<Vec<CopysetId>>, MdsError> {
        let op = Op::Segment(pb::Segment {
            volume: session.volume.get(),
            index: segment.0,
            epoch: session.epoch.get(),
            allocate,
            client: session.client.get(),
        });
        let map = answer!(self.call(op).await?, SegmentMap)?;
        Ok((!map.copysets.is_empty()).then(|| map.copysets.into_iter().map(CopysetId).collect()))
    }

    /// Where copysets are; all of them when `ids` is empty. Unknown ids are left out.
    pub async fn copysets(&self, ids: &[CopysetId]) -> Result<Vec<CopysetInfo>, MdsError> {
        let op = Op::GetCopysets(pb::GetCopysets { ids: ids.iter().map(|id| id.get()).collect() });
        let copysets = answer!(self.call(op).await?, Copysets)?;
        Ok(copysets.copysets.into_iter().map(Into::into).collect())
    }

    /// Registers a chunkserver at its start, also after a restart or with a new address.
    pub async fn register(&self, registration: Registration) -> Result<Registered, MdsError> {
        Ok(answer!(self.call(Op::Register(registration.into())).await?, Registered)?.into())
    }

    /// Reports a chunkserver's state and receives orders.
    pub async fn heartbeat(&self, heartbeat: Heartbeat) -> Result<HeartbeatReply, MdsError> {
        Ok(answer!(self.call(Op::Heartbeat(heartbeat.into())).await?, Heartbeat)?.try_into()?)
    }

    /// The whole cluster in one page, with its health.
    pub async fn status(&self) -> Result<ClusterStatus, MdsError> {
        Ok(answer!(self.call(Op::Status(pb::Empty {})).await?, Status)?.into())
    }

    /// All chunkservers.
    pub async fn chunkservers(&self) -> Result<Vec<ChunkserverInfo>, MdsError> {
        let list = answer!(self.call(Op::ListChunkservers(pb::Empty {})).await?, Chunkservers)?;
        Ok(list.chunkservers.into_iter().map(Into::into).collect())
    }

    /// Moves all replicas away from a chunkserver and then forgets it.
    pub async fn remove_chunkserver(&self, node: NodeId) -> Result<(), MdsError> {
        let op = Op::RemoveChunkserver(pb::RemoveChunkserver { node: node.get() });
        answer!(self.call(op).await?, Done).map(drop)
    }
}
