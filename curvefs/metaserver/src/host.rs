//! Opening, making and dropping the replicas of this metaserver.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use curve_io::{Disk, make_dirs_durable};
use curve_kv::KvError;
use curve_log::Log;
use curve_multiraft::{Group, GroupError, MultiRaft};
use curve_types::{GroupId, NodeId};
use curvefs_meta::{Birth, Partition};
use curvefs_types::PartitionId;
use thiserror::Error;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::context::Context;
use crate::generations::{GenerationStore, StoreFactory};
use crate::leader;
use crate::machine::{Bells, PartitionMachine};
use crate::record::ReplicaRecord;
use crate::replica::{Replica, group_of};

/// The subdirectory of the replicas.
pub const PARTITIONS_DIR: &str = "partitions";

/// Why a replica cannot be had.
#[derive(Debug, Error)]
pub enum ReplicaError {
    /// Its rows cannot be opened.
    #[error("{partition}: {cause}")]
    Rows {
        /// Which.
        partition: PartitionId,
        /// What was seen.
        cause: KvError,
    },
    /// The Raft runtime does not take it.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// Its record is damaged, or the disk failed.
    #[error("{partition}: {cause}")]
    State {
        /// Which.
        partition: PartitionId,
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
/// one partition.
pub struct ReplicaHost {
    context: Arc<Context>,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    factory: Arc<dyn StoreFactory>,
    log: Log,
    raft: Arc<MultiRaft>,
    /// Rung when a replica appears or goes, its leader changes, or a leader has something to report.
    changed: Arc<Notify>,
}

impl ReplicaHost {
    /// A host without open replicas; those that `dir` holds are for [`open_all`](Self::open_all).
    pub fn new(
        context: Arc<Context>,
        disk: Arc<dyn Disk>,
        dir: &Path,
        factory: Arc<dyn StoreFactory>,
        log: Log,
        raft: Arc<MultiRaft>,
    ) -> Self {
        let changed = context.news.clone();
        Self { context, disk, dir: dir.join(PARTITIONS_DIR), factory, log, raft, changed }
    }

    /// The Raft runtime of the replicas.
    pub(crate) fn raft(&self) -> &MultiRaft {
        &self.raft
    }

    fn dir_of(&self, id: PartitionId) -> PathBuf {
        self.dir.join(id.0.to_string())
    }

    /// Opens every replica that the disk holds. What was made but never reached the log is left for the order that made it,
    /// which is repeated. If one cannot be opened, none goes on.
    pub async fn open_all(&self, logged: &[GroupId]) -> Result<usize, ReplicaError> {
        let opened = self.open_each(logged).await;
        if opened.is_err() {
            // Those that were opened would go on without a server, and lead groups that cannot reach them.
            self.raft.halt().await;
        }
        opened
    }

    async fn open_each(&self, logged: &[GroupId]) -> Result<usize, ReplicaError> {
        let none = PartitionId(0);
        make_dirs_durable(&*self.disk, &self.dir).await.map_err(|e| state_error(none, e))?;
        let entries = self.disk.list(&self.dir).map_err(|e| state_error(none, e))?;
        let mut opened = 0;
        for id in entries.iter().filter_map(|entry| entry.name.parse().ok().map(PartitionId)) {
            let dir = self.dir_of(id);
            let record = ReplicaRecord::load(&*self.disk, &dir).await.map_err(|e| state_error(id, e))?;
            match record {
                Some(record) if record.dropped => {
                    self.log.remove_group(group_of(id)).await.map_err(|e| state_error(id, e))?;
                    self.disk.remove_dir_all(&dir).map_err(|e| state_error(id, e))?;
                }
                Some(record) if logged.contains(&group_of(id)) => {
                    self.enter(record.birth, &Entry::Open).await?;
                    opened += 1;
                }
                Some(_) | None => self.check_unused(id, &dir).await?,
            }
        }
        Ok(opened)
    }

    /// A replica that is not in the log must never have been: it would have forgotten its votes.
    async fn check_unused(&self, id: PartitionId, dir: &Path) -> Result<(), ReplicaError> {
        use curve_kv::Reader as _;
        let rows_error = |cause| ReplicaError::Rows { partition: id, cause };
        let store = GenerationStore::open(self.disk.clone(), dir.to_owned(), self.factory.clone()).await;
        if store.map_err(rows_error)?.applied().map_err(rows_error)?.is_some() {
            return Err(state_error(id, std::io::Error::other("its rows are here and its log is gone")));
        }
        Ok(())
    }

    /// Makes this metaserver's replica of a new partition. Harmless when it is there.
    pub async fn create(&self, birth: Birth, members: &[NodeId]) -> Result<(), ReplicaError> {
        self.make(birth, &Entry::Create(members)).await
    }

    /// Makes an empty replica that waits for the leader to add it. Harmless when it is there.
    pub async fn join(&self, birth: Birth) -> Result<(), ReplicaError> {
        self.make(birth, &Entry::Join).await
    }

    async fn make(&self, birth: Birth, entry: &Entry<'_>) -> Result<(), ReplicaError> {
        let id = birth.partition;
        if self.context.table.get(id).is_some() {
            return Ok(());
        }
        let dir = self.dir_of(id);
        make_dirs_durable(&*self.disk, &dir).await.map_err(|e| state_error(id, e))?;
        let record = ReplicaRecord { birth: birth.clone(), dropped: false };
        record.save(&*self.disk, &dir).await.map_err(|e| state_error(id, e))?;
        self.enter(birth, entry).await?;
        tracing::info!(partition = %id, joins = matches!(entry, Entry::Join), "made a replica");
        Ok(())
    }

    /// Removes a replica and its rows. Harmless when it is not there.
    pub async fn drop_replica(&self, id: PartitionId) -> Result<(), ReplicaError> {
        let Some(replica) = self.context.table.remove(id) else {
            return Ok(());
        };
        // From here on the removal is finished even if the process dies: without its log the rows are worthless, and
        // without its rows the log must not come back.
        let dir = self.dir_of(id);
        let record = ReplicaRecord { birth: replica.birth().clone(), dropped: true };
        record.save(&*self.disk, &dir).await.map_err(|e| state_error(id, e))?;
        drop(replica);
        self.raft.remove_group(group_of(id)).await?;
        self.disk.remove_dir_all(&dir).map_err(|e| state_error(id, e))?;
        tracing::info!(partition = %id, "dropped a replica");
        self.changed.notify_one();
        Ok(())
    }

    async fn enter(&self, birth: Birth, entry: &Entry<'_>) -> Result<(), ReplicaError> {
        let id = birth.partition;
        let rows_error = |cause| ReplicaError::Rows { partition: id, cause };
        let store = GenerationStore::open(self.disk.clone(), self.dir_of(id), self.factory.clone()).await;
        let store = Arc::new(store.map_err(rows_error)?);
        let partition = Partition::open(store.clone(), &birth).map_err(rows_error)?;
        let bells = Arc::new(Bells::default());
        let machine = PartitionMachine::new(partition.clone(), store, bells.clone());
        let machine = Box::new(machine.map_err(|e| state_error(id, e))?);
        let replica = Arc::new(Replica::new(birth, partition, bells));
        let group = match entry {
            Entry::Create(members) => self.raft.create_group(group_of(id), members, machine).await?,
            Entry::Join => self.raft.join_group(group_of(id), machine).await?,
            Entry::Open => self.raft.open_group(group_of(id), machine).await?,
        };
        replica.set_group(group.clone());
        self.context.table.insert(replica.clone());
        self.changed.notify_one();
        self.watch(group, &replica);
        Ok(())
    }

    /// Two tasks that end with the group: one tells the heartbeat that the leader has changed, one leads.
    fn watch(&self, group: Group, replica: &Arc<Replica>) -> JoinHandle<()> {
        tokio::spawn(watch_leader(group.clone(), self.changed.clone()));
        tokio::spawn(leader::run(
            Arc::downgrade(&self.context),
            Arc::downgrade(replica),
            group.watch_leader(),
        ))
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

fn state_error(partition: PartitionId, cause: std::io::Error) -> ReplicaError {
    ReplicaError::State { partition, cause }
}
