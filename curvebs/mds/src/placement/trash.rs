//! Deleted volumes, until no copyset has their data.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use curve_kv::{KvError, Reader, Txn};
use curve_proto::methods;
use curve_proto::pb::data::DeleteVolumeRequest;
use curve_proto::pb::mds as pb;
use curve_proto::pb::mds::mds_response::Result as Answer;
use curve_proto::pb::mds_state as state;
use curve_proto::pb::mds_state::{SegmentRow, TrashRow, VolumeRow};
use curve_types::CopysetId;
use futures::StreamExt;
use futures::stream;
use prost::Message;
use tokio::time::Instant;

use crate::copyset_call::CopysetCaller;
use crate::keys;
use crate::placement::copysets_of;
use crate::rows::{Refusal, all, get, put, scan};

const PARALLEL: usize = 8;
const ROUND: Duration = Duration::from_secs(5);
const COPYSETS_PER_ROUND: usize = 64;

/// Moves a volume to the trash: its data is to be removed from every copyset that has some.
pub(crate) fn discard_volume(txn: &mut Txn<'_>, volume: &VolumeRow, now_ms: u64) -> Result<(), Refusal> {
    let copysets: Vec<u32> = copysets_of(txn, volume.id)?.into_iter().collect();
    if !copysets.is_empty() {
        let row = TrashRow { volume: volume.id, copysets, deleted_at_ms: now_ms };
        put(txn, keys::trash(volume.id), &row);
    }
    Ok(())
}

/// Some copysets have confirmed that a volume's data is gone. After the last one nothing reminds of the volume.
pub(crate) fn purged(txn: &mut Txn<'_>, op: &state::Purged) -> Result<Answer, Refusal> {
    let key = keys::trash(op.volume);
    if let Some(mut row) = get::<TrashRow>(txn, &key)? {
        row.copysets.retain(|copyset| !op.copysets.contains(copyset));
        if row.copysets.is_empty() {
            txn.delete(key);
            for (key, _) in scan::<SegmentRow>(txn, &keys::segments(op.volume), usize::MAX)? {
                txn.delete(key);
            }
        } else {
            put(txn, key, &row);
        }
    }
    Ok(Answer::Done(pb::Empty {}))
}

/// Tells copysets to remove the data of deleted volumes. The rows remember what is left to do, so it may stop and
/// start at any time, on any leader.
pub(crate) struct Purger {
    caller: Arc<CopysetCaller>,
}

impl Purger {
    pub(crate) fn new(caller: Arc<CopysetCaller>) -> Self {
        Self { caller }
    }

    /// Works on the first of what is left, and returns, per volume, the copysets that confirmed.
    pub(crate) async fn round(&self, rows: &dyn Reader) -> Result<Vec<state::Purged>, KvError> {
        let trash: Vec<TrashRow> = all(rows, &keys::trashes())?;
        let left = trash.iter().flat_map(|row| row.copysets.iter().map(|&copyset| (row.volume, copyset)));
        let work: Vec<(u64, u32)> = left.take(COPYSETS_PER_ROUND).collect();
        let until = Instant::now() + ROUND;
        let confirmed: Vec<Option<(u64, u32)>> = stream::iter(work)
            .map(|(volume, copyset)| async move {
                let header = DeleteVolumeRequest { copyset, volume }.encode_to_vec().into();
                let reply = self.caller.call(CopysetId(copyset), methods::DELETE_VOLUME, header, until).await;
                match reply {
                    Ok(_) => Some((volume, copyset)),
                    Err(why) => {
                        tracing::debug!(
                            volume,
                            copyset,
                            why,
                            "a copyset has not removed a deleted volume yet"
                        );
                        None
                    }
                }
            })
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        let mut by_volume: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        for (volume, copyset) in confirmed.into_iter().flatten() {
            by_volume.entry(volume).or_default().push(copyset);
        }
        Ok(by_volume.into_iter().map(|(volume, copysets)| state::Purged { volume, copysets }).collect())
    }
}
