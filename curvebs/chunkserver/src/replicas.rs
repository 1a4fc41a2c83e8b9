//! Opening, making and dropping the replicas of this chunkserver.

use std::sync::Arc;

use curve_chunkstore::{ChunkStore, CopysetError, CopysetStore};
use curve_io::Board;
use curve_log::Log;
use curve_multiraft::{Group, GroupError, MultiRaft};
use curve_types::{CopysetId, GroupId, NodeId};
use thiserror::Error;
use tokio::sync::Notify;

use crate::copyset::{CopysetMachine, Replica, StateRecord};
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::service::ReplicaTable;

/// The record that marks a replica whose removal has begun; it is finished at the next start if need be.
const DROPPED: &str = "dropped";

/// Why a replica cannot be had.
#[derive(Debug, Error)]
pub enum ReplicaError {
    /// The store does not have it or cannot make it.
    #[error(transparent)]
    Store(#[from] CopysetError),
    /// The Raft runtime does not take it.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// Its saved state is damaged, or the disk failed.
    #[error("{copyset}: {cause}")]
    State {
        /// Which.
        copyset: CopysetId,
        /// What was seen.
        cause: std::io::Error,
    },
}

enum Entry<'a> {
    Create(&'a [NodeId]),
    Join,
    Open,
}

/// The owner of all replicas: the only one that changes the table. Its methods are called by one task at a time for
/// one copyset.
pub struct ReplicaHost {
    store: Arc<ChunkStore>,
    log: Log,
    raft: Arc<MultiRaft>,
    table: Arc<ReplicaTable>,
    metrics: Arc<Metrics>,
    peers: Peers,
    /// Where replicas pledge to readers on this machine.
    board: Option<Arc<Board>>,
    /// Rung when a replica appears or goes, or its leader changes.
    changed: Arc<Notify>,
}

impl ReplicaHost {
    /// A host without open replicas.
    pub fn new(
        store: Arc<ChunkStore>,
        log: Log,
        raft: Arc<MultiRaft>,
        table: Arc<ReplicaTable>,
        metrics: Arc<Metrics>,
        peers: Peers,
        board: Option<Arc<Board>>,
    ) -> Self {
        Self { store, log, raft, table, metrics, peers, board, changed: Arc::default() }
    }

    /// The Raft runtime of the replicas.
    pub fn raft(&self) -> &MultiRaft {
        &self.raft
    }

    /// Rung when a replica appears or goes, or its leader changes.
    pub fn changed(&self) -> &Arc<Notify> {
        &self.changed
    }

    /// Opens every replica that the disk holds. A copyset that was made in the store but never reached the log is left
    /// for the order that made it, which is repeated. If one cannot be opened, none goes on.
    pub async fn open_all(&self, logged: &[GroupId]) -> Result<usize, ReplicaError> {
        let opened = self.open_each(logged).await;
        if opened.is_err() {
            // Those that were opened would go on without a server, and lead groups that cannot reach them.
            self.raft.halt().await;
        }
        opened
    }

    async fn open_each(&self, logged: &[GroupId]) -> Result<usize, ReplicaError> {
        let mut opened = 0;
        for id in self.store.list_copysets() {
            let store = self.store.copyset(id)?;
            let dropped = store.load_record(DROPPED).await.map_err(|e| state_error(id, e))?.is_some();
            if dropped {
                self.log.remove_group(GroupId::from(id)).await.map_err(|e| state_error(id, e))?;
                drop(store);
                self.store.remove_copyset(id).await?;
            } else if logged.contains(&GroupId::from(id)) {
                self.enter(store, &Entry::Open).await?;
                opened += 1;
            } else if store.load_record(StateRecord::NAME).await.map_err(|e| state_error(id, e))?.is_some() {
                // It has applied something, so it had a log, with votes in it that must not be given a second time.
                return Err(state_error(id, "its chunks are here and its log is gone"));
            }
        }
        Ok(opened)
    }

    /// Makes this chunkserver's replica of a new copyset. Harmless when it is there.
    pub async fn create(&self, id: CopysetId, members: &[NodeId]) -> Result<(), ReplicaError> {
        if self.table.get(id).is_none() {
            let store = self.store.create_copyset(id).await?;
            self.enter(store, &Entry::Create(members)).await?;
            tracing::info!(copyset = %id, ?members, "created a replica");
        }
        Ok(())
    }

    /// Makes an empty replica that waits for the leader to add it. Harmless when it is there.
    pub async fn join(&self, id: CopysetId) -> Result<(), ReplicaError> {
        if self.table.get(id).is_none() {
            let store = self.store.create_copyset(id).await?;
            self.enter(store, &Entry::Join).await?;
            tracing::info!(copyset = %id, "made an empty replica that waits to be added");
        }
        Ok(())
    }

    /// Removes a replica and its data. Harmless when it is not there.
    pub async fn drop_replica(&self, id: CopysetId) -> Result<(), ReplicaError> {
        let Some(replica) = self.table.remove(id) else {
            return Ok(());
        };
        // From here on the removal is finished even if the process dies: without its log the chunks are worthless, and
        // without its chunks the log must not come back.
        replica.store().save_record(DROPPED, b"1").await.map_err(|e| state_error(id, e))?;
        drop(replica);
        self.raft.remove_group(GroupId::from(id)).await?;
        self.store.remove_copyset(id).await?;
        tracing::info!(copyset = %id, "dropped a replica");
        self.changed.notify_one();
        Ok(())
    }

    async fn enter(&self, store: Arc<CopysetStore>, entry: &Entry<'_>) -> Result<(), ReplicaError> {
        let id = store.id();
        let pledge = self.board.as_ref().and_then(Board::pledge).map(Arc::new);
        let (metrics, peers) = (self.metrics.clone(), self.peers.clone());
        let replica = Replica::new(store, self.store.geometry(), metrics, peers, pledge);
        let machine = CopysetMachine::open(replica.clone()).await.map_err(|e| state_error(id, e))?;
        let machine = Box::new(machine);
        let group_id = GroupId::from(id);
        let group = match entry {
            Entry::Create(members) => self.raft.create_group(group_id, members, machine).await?,
            Entry::Join => self.raft.join_group(group_id, machine).await?,
            Entry::Open => self.raft.open_group(group_id, machine).await?,
        };
        replica.set_group(group.clone());
        self.table.insert(replica);
        self.changed.notify_one();
        tokio::spawn(watch_leader(group, self.changed.clone()));
        Ok(())
    }
}

/// Rings when the leader changes; ends with the group.
async fn watch_leader(group: Group, changed: Arc<Notify>) {
    let mut leader = group.watch_leader();
    drop(group);
    while leader.changed().await.is_ok() {
        changed.notify_one();
    }
}

fn state_error(
    copyset: CopysetId,
    cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> ReplicaError {
    ReplicaError::State { copyset, cause: std::io::Error::other(cause) }
}
