//! Shutting a former holder out of every copyset of a volume.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use curve_kv::{KvError, Reader};
use curve_proto::methods;
use curve_proto::pb::data::{FenceRequest, KeptHolder};
use curve_types::CopysetId;
use futures::StreamExt;
use futures::stream;
use prost::Message;
use tokio::time::Instant;

use super::rules::kept;
use super::sessions::sessions_of;
use crate::copyset_call::CopysetCaller;
use crate::placement::copysets_of;

const PARALLEL: usize = 32;
/// Volumes whose progress is remembered; forgetting one only repeats requests.
const REMEMBERED_MAX: usize = 1024;

/// How far a fence has come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FenceProgress {
    /// Every copyset refuses whoever was shut out.
    Done,
    /// At least this one has not confirmed yet.
    Waiting(String),
}

/// Raises the lowest epoch that a volume's copysets accept, for all but the sessions that go on. Repeating is harmless, so nothing of it is durable: the
/// volume's row says up to which epoch all have confirmed.
pub(crate) struct Fencer {
    caller: Arc<CopysetCaller>,
    /// Copysets that have confirmed, by volume and epoch, so that a retried open does not start over.
    confirmed: Mutex<BTreeMap<(u64, u64), BTreeSet<u32>>>,
}

impl Fencer {
    pub(crate) fn new(caller: Arc<CopysetCaller>) -> Self {
        Self { caller, confirmed: Mutex::default() }
    }

    /// Fences a volume's copysets, until `until` at the latest. The volume's row must have the new epoch already, so
    /// that no further copyset can get a chunk for a holder that was shut out.
    pub(crate) async fn fence(
        &self,
        rows: &dyn Reader,
        volume: u64,
        epoch: u64,
        until: Instant,
    ) -> Result<FenceProgress, KvError> {
        let sessions = sessions_of(rows, volume)?;
        let kept: Vec<KeptHolder> =
            kept(sessions.iter().map(|session| (session.client, session.epoch)), epoch)
                .into_iter()
                .map(|(client, epoch)| KeptHolder { client, epoch })
                .collect();
        let kept = &kept;
        let known = self.lock().get(&(volume, epoch)).cloned().unwrap_or_default();
        let left: Vec<u32> =
            copysets_of(rows, volume)?.into_iter().filter(|copyset| !known.contains(copyset)).collect();
        let outcomes: Vec<Result<(), String>> = stream::iter(left)
            .map(|copyset| async move {
                let fence = FenceRequest { copyset, volume, epoch, kept: kept.clone() };
                let header = fence.encode_to_vec().into();
                self.caller.call(CopysetId(copyset), methods::FENCE, header, until).await?;
                self.confirm(volume, epoch, copyset);
                Ok(())
            })
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        match outcomes.into_iter().find_map(Result::err) {
            Some(why) => Ok(FenceProgress::Waiting(why)),
            None => {
                self.lock().remove(&(volume, epoch));
                Ok(FenceProgress::Done)
            }
        }
    }

    fn confirm(&self, volume: u64, epoch: u64, copyset: u32) {
        let mut confirmed = self.lock();
        if confirmed.len() >= REMEMBERED_MAX && !confirmed.contains_key(&(volume, epoch)) {
            confirmed.pop_first();
        }
        confirmed.entry((volume, epoch)).or_default().insert(copyset);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(u64, u64), BTreeSet<u32>>> {
        self.confirmed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
