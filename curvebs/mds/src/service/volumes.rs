//! Requests about names, volumes and segments.

use std::time::Duration;

use curve_proto::MdsError;
use curve_proto::mds::Holder;
use curve_proto::pb::mds as pb;
use curve_proto::pb::mds::mds_response::Result as Answer;
use curve_proto::pb::mds_state as state;
use curve_proto::pb::mds_state::VolumeRow;
use curve_sched::{REPLICAS, SegmentError, choose_segment_copysets};
use curve_types::ByteSize;
use tokio::time::Instant;

use crate::leader::picture;
use crate::rows::{Refusal, all, cluster};
use crate::schedule::Picture;
use crate::service::{Call, store_failed};
use crate::{keys, lease, namespace, placement};

/// When to ask again for a segment that cannot be placed yet.
const PLACEMENT_RETRY: Duration = Duration::from_millis(250);

impl Call<'_> {
    /// What is left of a session's lease; zero when it has run out.
    fn lease_left(&self, volume: u64, client: u64) -> Duration {
        let lease = self.shared.config.lease.0;
        self.shared.memory.with(self.term, |memory| memory.lease_left(volume, client, lease, Instant::now()))
    }

    /// The sessions of the volume at a path whose lease has run out; none when there is no such volume.
    pub(super) fn lapsed_at(&self, path: &str) -> Result<Vec<u64>, MdsError> {
        match namespace::volume_at(self.shared.rows(), &namespace::NamePath::parse(path)?) {
            Ok(volume) => self.lapsed_of(volume.id),
            Err(Refusal::No(_)) => Ok(Vec::new()),
            Err(store) => Err(store.into()),
        }
    }

    /// The sessions of a volume whose lease has run out.
    pub(super) fn lapsed_of(&self, volume: u64) -> Result<Vec<u64>, MdsError> {
        let sessions = lease::sessions_of(self.shared.rows(), volume).map_err(store_failed)?;
        let clients = sessions.into_iter().map(|session| session.client);
        Ok(clients.filter(|&client| self.lease_left(volume, client).is_zero()).collect())
    }

    fn holders(&self, volume: u64) -> Result<Vec<Holder>, Refusal> {
        let sessions = lease::sessions_of(self.shared.rows(), volume)?;
        Ok(lease::holders(sessions, |client| self.lease_left(volume, client.get())))
    }
}

pub(super) async fn create(call: Call<'_>, op: pb::CreateVolume) -> Result<Answer, MdsError> {
    let answer = call.mutate(state::command::Op::CreateVolume(op)).await?;
    let Answer::Created(mut created) = answer else { return Ok(answer) };
    created.warning = overcommitted(call)?.unwrap_or_default();
    Ok(Answer::Created(created))
}

/// Volumes are thin, so their sizes may exceed the disks; whoever creates one should know.
fn overcommitted(call: Call<'_>) -> Result<Option<String>, MdsError> {
    let picture = picture(call.shared, call.term).map_err(store_failed)?;
    if picture.chunkservers.len() < REPLICAS {
        return Ok(Some(
            "fewer than three chunkservers are registered: the volume cannot be written yet".into(),
        ));
    }
    let volumes: Vec<VolumeRow> = all(call.shared.rows(), &keys::volumes()).map_err(store_failed)?;
    let promised: u64 = volumes.iter().map(|volume| volume.size).sum();
    let room = picture.chunkservers.values().map(|row| row.total_bytes).sum::<u64>() / REPLICAS as u64;
    Ok((promised > room).then(|| {
        format!(
            "volumes of {} in all are promised and the disks hold {} of them at most; watch `curve cluster status`",
            ByteSize(promised),
            ByteSize(room)
        )
    }))
}

pub(super) fn stat(call: Call<'_>, op: &pb::Path) -> Result<Answer, MdsError> {
    Ok(Answer::Entry(namespace::stat(call.shared.rows(), &op.path, &|volume| call.holders(volume))?))
}

pub(super) fn list(call: Call<'_>, op: &pb::List) -> Result<Answer, MdsError> {
    Ok(Answer::Entries(namespace::list(call.shared.rows(), op, &|volume| call.holders(volume))?))
}

pub(super) fn disk_usage(call: Call<'_>, op: &pb::Path) -> Result<Answer, MdsError> {
    Ok(Answer::DiskUsage(namespace::disk_usage(call.shared.rows(), &op.path)?))
}

pub(super) async fn delete(call: Call<'_>, op: pb::Path) -> Result<Answer, MdsError> {
    let lapsed = call.lapsed_at(&op.path)?;
    call.mutate(state::command::Op::Delete(state::Delete { path: op.path, lapsed })).await
}

pub(super) async fn segment(call: Call<'_>, op: pb::Segment) -> Result<Answer, MdsError> {
    let map = placement::segment(call.shared.rows(), &op)?;
    if !map.copysets.is_empty() || !op.allocate {
        return Ok(Answer::SegmentMap(map));
    }
    let copysets = choose(call)?;
    let pb::Segment { volume, index, epoch, client, .. } = op;
    let allocate = state::Allocate { volume, index, epoch, copysets, client };
    call.command(state::command::Op::Allocate(allocate)).await
}

fn choose(call: Call<'_>) -> Result<Vec<u32>, MdsError> {
    let cluster = cluster(call.shared.rows())?;
    let chunks = (cluster.segment_bytes / u64::from(cluster.chunk_bytes)) as usize;
    let picture = picture(call.shared, call.term).map_err(store_failed)?;
    let mut view = picture.view.clone();
    view.copysets.retain(|id, _| picture.copysets[id].created);
    let chosen =
        call.shared.memory.with(call.term, |memory| choose_segment_copysets(&view, chunks, &mut memory.rng));
    let refuse = |error: SegmentError| refusal(&picture, error);
    Ok(chosen.map_err(refuse)?.into_iter().map(|copyset| copyset.get()).collect())
}

fn refusal(picture: &Picture, error: SegmentError) -> MdsError {
    let up = picture.up();
    match error {
        SegmentError::NoSpace { .. } => MdsError::NoSpace { why: error.to_string() },
        SegmentError::NoCopyset if up < REPLICAS && picture.copysets.is_empty() => {
            MdsError::NotEnoughChunkservers { have: up as u32, need: REPLICAS as u32 }
        }
        SegmentError::NoCopyset if picture.copysets.values().all(|row| !row.created) => {
            MdsError::InProgress { why: "copysets are being made".into(), retry_after: PLACEMENT_RETRY }
        }
        SegmentError::NoCopyset => {
            MdsError::InProgress { why: error.to_string(), retry_after: PLACEMENT_RETRY }
        }
    }
}
