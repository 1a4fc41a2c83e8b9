//! One replica of one copyset on this chunkserver: what the service, the repair and the state machine share.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex as SyncMutex, MutexGuard, OnceLock, PoisonError};

use curve_chunkstore::{BadBlock, CopysetStore};
use curve_io::Pledge;
use curve_multiraft::Group;
use curve_types::{ChunkKey, CopysetId, Geometry, LogIndex};
use tokio::sync::Mutex;

use super::fences::FenceView;
use super::guards::BlockGuards;
use super::record::StateRecord;
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::repair::{self, HealError};

/// What all parts of the chunkserver know of one replica.
///
/// The state machine decides and writes; this holds what others need beside it: the store for reads, the fences as
/// published, the guards against conflicting changes, and the way to the other replicas. The group is set once, right
/// after it was opened, since the group owns the machine and the machine knows the replica; removing the group ends
/// that circle.
pub struct Replica {
    id: CopysetId,
    geometry: Geometry,
    store: Arc<CopysetStore>,
    fences: FenceView,
    /// What readers on this machine are promised, if they can be.
    pledge: Option<Arc<Pledge>>,
    guards: Arc<BlockGuards>,
    metrics: Arc<Metrics>,
    peers: Peers,
    group: OnceLock<Group>,
    /// Index of the last state record saved; a checkpoint that was overtaken by an install must not save an older one.
    saved: Mutex<LogIndex>,
    healing: Mutex<()>,
    /// Bad blocks that were found and could not be healed.
    unhealed: SyncMutex<BTreeSet<(ChunkKey, u32)>>,
}

impl Replica {
    /// A replica whose group is not open yet.
    pub fn new(
        store: Arc<CopysetStore>,
        geometry: Geometry,
        metrics: Arc<Metrics>,
        peers: Peers,
        pledge: Option<Arc<Pledge>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id: store.id(),
            geometry,
            store,
            fences: FenceView::new(pledge.clone()),
            pledge,
            guards: Arc::default(),
            metrics,
            peers,
            group: OnceLock::new(),
            saved: Mutex::new(LogIndex(0)),
            healing: Mutex::new(()),
            unhealed: SyncMutex::default(),
        })
    }

    /// Tells the replica its group, once.
    pub fn set_group(&self, group: Group) {
        if let Some(pledge) = &self.pledge {
            group.pledge_on(pledge.clone());
        }
        assert!(self.group.set(group).is_ok(), "a replica is opened once");
    }

    /// Which copyset.
    pub fn id(&self) -> CopysetId {
        self.id
    }

    /// The sizes of the pool.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The chunks.
    pub fn store(&self) -> &Arc<CopysetStore> {
        &self.store
    }

    /// The fences as applied here.
    pub fn fences(&self) -> &FenceView {
        &self.fences
    }

    /// What readers on this machine are promised: until when this replica serves reads. Each fence ends what was answered
    /// before.
    pub fn pledge(&self) -> Option<&Pledge> {
        self.pledge.as_deref()
    }

    /// The exclusion between changes.
    pub fn guards(&self) -> &Arc<BlockGuards> {
        &self.guards
    }

    /// The chunkserver's counters.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The other chunkservers.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// The Raft group; `None` only while it is being opened.
    pub fn group(&self) -> Option<&Group> {
        self.group.get()
    }

    /// Whether this replica serves reads, as far as it knows.
    pub fn leads(&self) -> bool {
        self.group.get().is_some_and(|group| *group.watch_leader().borrow() == Some(group.node()))
    }

    /// Bad blocks that were found and could not be healed so far.
    pub fn unhealed_blocks(&self) -> u64 {
        self.unhealed().len() as u64
    }

    /// Forgets what could not be healed; scrub calls it before it looks at everything again.
    pub fn forget_unhealed(&self) {
        self.unhealed().clear();
    }

    fn unhealed(&self) -> MutexGuard<'_, BTreeSet<(ChunkKey, u32)>> {
        self.unhealed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Saves a checkpoint's record, unless an install saved a newer one meanwhile.
    pub async fn save_state(&self, index: LogIndex, record: &[u8]) -> io::Result<()> {
        let mut saved = self.saved.lock().await;
        if index < *saved {
            return Ok(());
        }
        self.store.save_record(StateRecord::NAME, record).await?;
        *saved = index;
        Ok(())
    }

    /// Replaces bad blocks by another replica's copy; see `repair.rs`. One repair at a time.
    pub async fn heal(&self, key: ChunkKey, bad: &[BadBlock]) -> Result<(), HealError> {
        self.metrics.corrupt_found.increment(bad.len() as u64);
        let _one = self.healing.lock().await;
        let healed = repair::heal(self, key, bad).await;
        let blocks = bad.iter().map(|block| (key, block.block));
        match &healed {
            Ok(count) => {
                self.unhealed().retain(|known| !blocks.clone().any(|block| block == *known));
                self.metrics.corrupt_repaired.increment(*count as u64);
                tracing::warn!(copyset = %self.id, chunk = %key, blocks = bad.len(), healed = count, "healed damaged blocks");
            }
            Err(error) => {
                self.unhealed().extend(blocks);
                self.metrics.repair_failed.increment(1);
                tracing::error!(copyset = %self.id, chunk = %key, blocks = bad.len(), %error, "cannot heal damaged blocks");
            }
        }
        healed.map(|_| ())
    }
}
