//! What a mount can find out about the servers it depends on, each in bounded time.

use std::time::Duration;

use curve_proto::mds::BadReply;
use curve_proto::pb::fs as pb;
use curve_proto::pb::fs::fs_request::Op;
use curve_proto::pb::fs::fs_response::Result as Answer;
use curve_proto::{MdsError, mds::MdsApi};
use curve_types::NodeId;
use curvefs_types::{FsError, PartitionId};
use tokio::time::Instant;

use crate::grant::MountKey;
use crate::mount::Mount;

/// How a partition answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionPing {
    /// Which.
    pub id: PartitionId,
    /// Who is asked first: its leader, if that is known.
    pub asked: Option<NodeId>,
    /// How long its leader took, or why there was no answer.
    pub answer: Result<Duration, FsError>,
}

/// What the MDSs say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MdsSaid {
    /// How long the first of these answers took.
    pub took: Duration,
    /// Partitions that are not whole, each in words.
    pub ailing: Vec<(PartitionId, &'static str)>,
    /// When the MDS's clock says that this mount began, in milliseconds since 1970.
    pub mounted_at_ms: Option<u64>,
}

impl Mount {
    /// How long the mount has not heard that its lease goes on.
    pub fn lease_age(&self) -> Duration {
        self.refreshed().elapsed()
    }

    /// Asks the MDSs for what they know of this file system.
    pub async fn ask_mds(&self) -> Result<MdsSaid, MdsError> {
        let (mds, key) = (self.mds(), self.grant().key);
        let begun = Instant::now();
        let partitions = match mds.fs(Op::Partitions(pb::FsGetPartitions { fs: key.fs.get() })).await? {
            Answer::Partitions(partitions) => partitions.partitions,
            _ => return Err(confused()),
        };
        let took = begun.elapsed();
        let ailing =
            partitions.iter().filter_map(|partition| Some((partition.id.into(), ailment(partition)?)));
        let mounted_at_ms = mounted_at(mds, key, &self.grant().file_system.name).await?;
        Ok(MdsSaid { took, ailing: ailing.collect(), mounted_at_ms })
    }

    /// Asks the leader of each partition a question, all at the same time.
    pub async fn ping(&self, within: Duration) -> Vec<PartitionPing> {
        self.metadata().ping(within).await
    }
}

fn confused() -> MdsError {
    BadReply("answer to the question asked").into()
}

fn ailment(partition: &pb::FsPartition) -> Option<&'static str> {
    match partition.health() {
        pb::PartitionHealth::PartitionOk => None,
        pb::PartitionHealth::PartitionCreating => Some("is being created"),
        pb::PartitionHealth::PartitionDegraded => Some("lacks a replica"),
        pb::PartitionHealth::PartitionNoQuorum => Some("has no majority of its replicas"),
    }
}

async fn mounted_at(mds: &MdsApi, key: MountKey, name: &str) -> Result<Option<u64>, MdsError> {
    let name = pb::FsName { name: name.to_owned(), ..pb::FsName::default() };
    let Answer::Mounts(mounts) = mds.fs(Op::Mounts(name)).await? else { return Err(confused()) };
    let own =
        mounts.mounts.iter().find(|mount| mount.key.is_some_and(|other| other.mount == key.mount.get()));
    Ok(own.map(|mount| mount.mounted_at_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_partitions_are_not_mentioned() {
        for (health, said) in [
            (pb::PartitionHealth::PartitionOk, false),
            (pb::PartitionHealth::PartitionDegraded, true),
            (pb::PartitionHealth::PartitionNoQuorum, true),
        ] {
            let mut partition = pb::FsPartition::default();
            partition.set_health(health);
            assert_eq!(ailment(&partition).is_some(), said, "{health:?}");
        }
    }
}
