//! What this metaserver knows of file systems: which partition holds which inodes, where partitions are, and where the data
//! is. The MDS has the truth, and heartbeats say when it is newer. Where partitions are is kept on disk, too (`maps`); the
//! data's keys are not, since they are secret, and only deleting what nobody needs waits for them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use curve_proto::MdsApi;
use curve_proto::mds::MdsError;
use curve_proto::pb::fs as pb;
use curve_proto::pb::fs::fs_request::Op;
use curve_proto::pb::fs::fs_response::Result as Answer;
use curve_types::NodeId;
use curvefs_types::{DataBackend, FsId, InodeId, MapLine, PartitionId, PartitionMap};
use tokio::time::{Instant, sleep_until};

use crate::data::{DataFactory, StoreAccess};
use crate::maps::{MapFiles, lasting};

/// The shortest time between two questions to the MDS about one file system.
const SPACING: Duration = Duration::from_millis(200);
/// For so long after no MDS answered, what is known must do.
const PAUSE: Duration = Duration::from_secs(1);

/// A replica's place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The metaserver.
    pub node: NodeId,
    /// Its address as the MDS said; heartbeats may have taught a newer one.
    pub address: String,
}

/// A file system as the MDS described it.
#[derive(Clone, Debug)]
pub struct FileSystem {
    /// Which partition holds which inodes.
    pub map: PartitionMap,
    /// Where the replicas are, the leader first.
    pub places: BTreeMap<PartitionId, Vec<Place>>,
}

/// Why the MDS could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum SystemError {
    /// No MDS answers, or it does not know the file system.
    #[error(transparent)]
    Mds(#[from] MdsError),
    /// Its answer makes no sense.
    #[error("the MDS's answer about {0} makes no sense")]
    Answer(FsId),
    /// The data store cannot be used as it is described.
    #[error("the data store of {fs} cannot be used: {why}")]
    Data {
        /// Whose.
        fs: FsId,
        /// What does not fit.
        why: String,
    },
}

#[derive(Default)]
struct Known {
    system: Option<Arc<FileSystem>>,
    /// What the disk has of it.
    saved: Option<pb::FsPartitions>,
    data: Option<Arc<dyn DataBackend>>,
    /// The versions that a heartbeat told.
    map_heard: u64,
    record_heard: u64,
    record_version: u64,
    /// Somebody found that it is old.
    stale: bool,
    asked: Option<Instant>,
    failed: Option<Instant>,
}

impl Known {
    fn is_current(&self) -> Option<Arc<FileSystem>> {
        let system = self.system.as_ref()?;
        let waits = self.failed.is_some_and(|at| at.elapsed() < PAUSE);
        let current = !self.stale && system.map.version() >= self.map_heard;
        (current || waits).then(|| system.clone())
    }
}

#[derive(Default)]
struct Entry {
    known: Mutex<Known>,
    /// One question at a time.
    asking: tokio::sync::Mutex<()>,
}

impl Entry {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All file systems that this metaserver has to do with.
pub struct FileSystems {
    api: Arc<MdsApi>,
    factory: Arc<dyn DataFactory>,
    files: MapFiles,
    entries: Mutex<BTreeMap<FsId, Arc<Entry>>>,
}

impl FileSystems {
    /// What the disk has is known until the MDS says something newer.
    pub async fn open(api: Arc<MdsApi>, factory: Arc<dyn DataFactory>, files: MapFiles) -> Self {
        let kept = files.load().await;
        let this = Self { api, factory, files, entries: Mutex::default() };
        for (fs, map) in kept {
            let entry = this.entry(fs);
            let mut known = entry.lock();
            known.system = system_of(map.clone()).map(Arc::new);
            known.saved = Some(map);
        }
        this
    }

    fn entry(&self, fs: FsId) -> Arc<Entry> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).entry(fs).or_default().clone()
    }

    /// A heartbeat told which versions are current. File systems without a replica here are forgotten.
    pub fn heard(&self, versions: &[pb::FsVersions], here: &BTreeSet<FsId>) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|fs, _| {
            let stays = here.contains(fs);
            if !stays {
                self.files.remove(*fs);
            }
            stays
        });
        drop(entries);
        for version in versions.iter().filter(|version| here.contains(&FsId(version.fs))) {
            let entry = self.entry(FsId(version.fs));
            let mut known = entry.lock();
            known.map_heard = version.map_version;
            known.record_heard = version.record_version;
        }
    }

    /// Asks for what heartbeats said is newer, so that it is known should every MDS be gone when it is needed. To be called
    /// now and then.
    pub async fn keep_up(&self) {
        let entries: Vec<(FsId, Arc<Entry>)> = {
            let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            entries.iter().map(|(fs, entry)| (*fs, entry.clone())).collect()
        };
        for (fs, entry) in entries {
            let is_current = entry.lock().is_current().is_some();
            // Whoever is asking already does it.
            let is_asked = entry.asking.try_lock().is_err();
            if !is_current
                && !is_asked
                && let Err(error) = self.get(fs).await
            {
                tracing::debug!(%fs, %error, "where its partitions are is not known yet");
            }
        }
    }

    /// What is known was found to be old.
    pub fn note_stale(&self, fs: FsId) {
        self.entry(fs).lock().stale = true;
    }

    /// The file system: as it is known, or asked for anew if that is old. While no MDS answers, the old one.
    pub async fn get(&self, fs: FsId) -> Result<Arc<FileSystem>, SystemError> {
        let entry = self.entry(fs);
        if let Some(system) = entry.lock().is_current() {
            return Ok(system);
        }
        let _asking = entry.asking.lock().await;
        let asked = {
            let known = entry.lock();
            if let Some(system) = known.is_current() {
                return Ok(system);
            }
            known.asked
        };
        if let Some(asked) = asked {
            sleep_until(asked + SPACING).await;
        }
        let answer = self.ask(fs).await;
        if let Ok((_, map)) = &answer {
            self.save(fs, &entry, map).await;
        }
        let mut known = entry.lock();
        known.asked = Some(Instant::now());
        match answer {
            Ok((system, _)) => {
                let system = Arc::new(system);
                known.system = Some(system.clone());
                known.stale = false;
                known.failed = None;
                // Should a heartbeat of an older leader have told more, that was not so.
                known.map_heard = known.map_heard.min(system.map.version());
                Ok(system)
            }
            Err(error) => {
                known.failed = Some(Instant::now());
                known.system.clone().ok_or(error)
            }
        }
    }

    async fn ask(&self, fs: FsId) -> Result<(FileSystem, pb::FsPartitions), SystemError> {
        let answer = self.api.fs(Op::Partitions(pb::FsGetPartitions { fs: fs.0 })).await?;
        let Answer::Partitions(partitions) = answer else { return Err(SystemError::Answer(fs)) };
        let map = lasting(&partitions);
        let system = system_of(partitions).ok_or(SystemError::Answer(fs))?;
        Ok((system, map))
    }

    /// Keeps what is new on disk. If that fails it is known nevertheless.
    async fn save(&self, fs: FsId, entry: &Entry, map: &pb::FsPartitions) {
        if entry.lock().saved.as_ref() == Some(map) {
            return;
        }
        match self.files.save(fs, map).await {
            Ok(()) => entry.lock().saved = Some(map.clone()),
            Err(error) => tracing::warn!(%fs, %error, "cannot keep where its partitions are"),
        }
    }

    /// The file system's data store, with the keys of the moment.
    pub async fn data(&self, fs: FsId) -> Result<Arc<dyn DataBackend>, SystemError> {
        let entry = self.entry(fs);
        {
            let known = entry.lock();
            if let Some(data) = &known.data
                && known.record_version >= known.record_heard
            {
                return Ok(data.clone());
            }
        }
        let name = pb::FsName { id: fs.0, with_secret: true, ..pb::FsName::default() };
        let Answer::FileSystem(record) = self.api.fs(Op::Get(name)).await? else {
            return Err(SystemError::Answer(fs));
        };
        let s3 = record.s3.ok_or(SystemError::Answer(fs))?;
        let opened = self.factory.open(fs, StoreAccess::from(s3));
        let data = opened.map_err(|why| SystemError::Data { fs, why })?;
        let mut known = entry.lock();
        known.record_version = record.version;
        known.record_heard = known.record_heard.min(record.version);
        known.data = Some(data.clone());
        Ok(data)
    }
}

fn system_of(answer: pb::FsPartitions) -> Option<FileSystem> {
    let mut lines = Vec::new();
    let mut places = BTreeMap::new();
    for partition in answer.partitions {
        let id = PartitionId(partition.id);
        lines.extend(
            partition.first_inodes.iter().map(|first| MapLine { first: InodeId(*first), partition: id }),
        );
        let mut at: Vec<Place> = partition
            .members
            .into_iter()
            .map(|member| Place { node: NodeId(member.node), address: member.address })
            .collect();
        at.sort_by_key(|place| place.node.get() != partition.leader);
        places.insert(id, at);
    }
    lines.sort_by_key(|line| line.first);
    Some(FileSystem { map: PartitionMap::new(answer.version, lines)?, places })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_becomes_a_map_with_leaders_first() {
        let member = |node| pb::PartitionMember { node, address: format!("m{node}:1"), up: true };
        let partition = |id: u32, first: u64, leader| pb::FsPartition {
            id,
            first_inodes: vec![first],
            members: vec![member(1), member(2), member(3)],
            leader,
            ..pb::FsPartition::default()
        };
        let answer =
            pb::FsPartitions { version: 4, partitions: vec![partition(9, 1 << 40, 3), partition(8, 0, 0)] };
        let system = system_of(answer.clone()).unwrap();
        assert_eq!(system.map.version(), 4);
        assert_eq!(system.map.partition_of(InodeId(5)), PartitionId(8));
        assert_eq!(system.map.partition_of(InodeId(1 << 41)), PartitionId(9));
        assert_eq!(system.places[&PartitionId(9)][0].node, NodeId(3));
        let hole = pb::FsPartitions { partitions: answer.partitions[..1].to_vec(), ..answer };
        assert!(system_of(hole).is_none());
    }
}
