//! The segment maps of volumes.

use std::collections::BTreeSet;

use curve_kv::{KvError, Txn};
use curve_proto::MdsError;
use curve_proto::pb::mds as pb;
use curve_proto::pb::mds::mds_response::Result as Answer;
use curve_proto::pb::mds_state as state;
use curve_proto::pb::mds_state::{SegmentRow, VolumeRow};

use crate::keys;
use crate::lease;
use crate::rows::{Refusal, Rows, all, cluster, get, put};

/// The volume of a request for a segment, when `holder`, a client and its epoch, may have it.
fn checked(
    rows: &(impl Rows + ?Sized),
    volume: u64,
    index: u32,
    holder: (u64, u64),
) -> Result<VolumeRow, Refusal> {
    let missing = || MdsError::NotFound { what: format!("volume {volume}") };
    let volume: VolumeRow = get(rows, &keys::volume(volume))?.ok_or_else(missing)?;
    let (client, epoch) = holder;
    lease::may_go_on(rows, &volume, client, epoch)?;
    let segments = volume.size.div_ceil(cluster(rows)?.segment_bytes);
    if u64::from(index) >= segments {
        let why = format!("volume {} has {segments} segments, asked for was {index}", volume.id);
        return Err(MdsError::BadRequest { why }.into());
    }
    Ok(volume)
}

/// The map of a segment; empty when it is not allocated.
pub(crate) fn segment(rows: &(impl Rows + ?Sized), op: &pb::Segment) -> Result<pb::SegmentMap, Refusal> {
    checked(rows, op.volume, op.index, (op.client, op.epoch))?;
    let row = get::<SegmentRow>(rows, &keys::segment(op.volume, op.index))?;
    Ok(pb::SegmentMap { copysets: row.unwrap_or_default().copysets })
}

/// Allocates a segment, or returns the map of one that is allocated.
pub(crate) fn allocate(txn: &mut Txn<'_>, op: &state::Allocate) -> Result<Answer, Refusal> {
    let mut volume = checked(txn, op.volume, op.index, (op.client, op.epoch))?;
    let key = keys::segment(op.volume, op.index);
    if let Some(row) = get::<SegmentRow>(txn, &key)? {
        return Ok(Answer::SegmentMap(pb::SegmentMap { copysets: row.copysets }));
    }
    if op.copysets.is_empty() {
        return Err(MdsError::BadRequest { why: "an allocation without copysets".into() }.into());
    }
    put(txn, key, &SegmentRow { copysets: op.copysets.clone() });
    volume.segments_allocated += 1;
    put(txn, keys::volume(volume.id), &volume);
    Ok(Answer::SegmentMap(pb::SegmentMap { copysets: op.copysets.clone() }))
}

/// Every copyset that holds a chunk of a volume.
pub(crate) fn copysets_of(rows: &(impl Rows + ?Sized), volume: u64) -> Result<BTreeSet<u32>, KvError> {
    let segments: Vec<SegmentRow> = all(rows, &keys::segments(volume))?;
    Ok(segments.into_iter().flat_map(|row| row.copysets).collect())
}
