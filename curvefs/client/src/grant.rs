//! What the MDS tells a mount, in our own types.

use std::time::Duration;

use curve_proto::mds::BadReply;
use curve_proto::pb::fs as pb;
use curve_types::{Epoch, NodeId};
use curvefs_data::SecretKey;
use curvefs_types::{FsId, InodeId, MountId, PartitionId, WriterId, wire_struct};

use crate::router::{Member, PartitionInfo, Partitions};

/// Names a mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MountKey {
    /// Of which file system.
    pub fs: FsId,
    /// Which mount.
    pub mount: MountId,
    /// What its requests carry.
    pub epoch: Epoch,
}

/// What a process needs to go on with another's mount, beside what the MDS tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// Which mount.
    pub key: MountKey,
    /// The writer's half of slices' names.
    pub writer: WriterId,
}

wire_struct!(MountKey { fs, mount, epoch });
wire_struct!(Held { key, writer });

/// Where a file system's data is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct S3Record {
    /// `http://host:port` or `https://…`.
    pub endpoint: String,
    /// The region requests are signed for.
    pub region: String,
    /// In their order, which never changes.
    pub buckets: Vec<String>,
    /// The access key.
    pub access_key: String,
    /// The secret key.
    pub secret_key: SecretKey,
    /// Bytes of an object; 0 for the default.
    pub object_bytes: u32,
}

/// A file system's record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileSystem {
    /// Which.
    pub id: FsId,
    /// Its name.
    pub name: String,
    /// Grows with each change of the record.
    pub version: u64,
    /// Where its data is.
    pub store: S3Record,
}

/// What a mount is given at its begin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// Which mount.
    pub key: MountKey,
    /// The writer's half of slices' names.
    pub writer: WriterId,
    /// How long the mount lives without a refresh.
    pub lease: Duration,
    /// The file system.
    pub file_system: FileSystem,
    /// Its partitions.
    pub partitions: Partitions,
}

/// News of a refresh.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Refreshed {
    pub lease: Duration,
    pub file_system: Option<FileSystem>,
    pub partitions: Option<Partitions>,
}

/// Shorter leases would be refreshed without a pause.
const LEASE_MIN: Duration = Duration::from_millis(300);

fn lease(ms: u64) -> Duration {
    Duration::from_millis(ms).max(LEASE_MIN)
}

impl From<MountKey> for pb::FsMountKey {
    fn from(key: MountKey) -> Self {
        Self { fs: key.fs.get(), mount: key.mount.get(), epoch: key.epoch.get() }
    }
}

impl TryFrom<pb::FsMountKey> for MountKey {
    type Error = BadReply;

    fn try_from(key: pb::FsMountKey) -> Result<Self, BadReply> {
        let mount = MountId(key.mount);
        // The servers' own number must never be taken for a mount's.
        if mount == MountId::SERVERS {
            return Err(BadReply("mount"));
        }
        Ok(Self { fs: FsId(key.fs), mount, epoch: Epoch(key.epoch) })
    }
}

impl TryFrom<pb::FsRecord> for FileSystem {
    type Error = BadReply;

    fn try_from(record: pb::FsRecord) -> Result<Self, BadReply> {
        let store = record.s3.ok_or(BadReply("store of the file system"))?;
        let secret = String::from_utf8(store.secret_key.to_vec()).map_err(|_| BadReply("secret key"))?;
        if store.buckets.is_empty() {
            return Err(BadReply("bucket of the file system"));
        }
        let store = S3Record {
            endpoint: store.endpoint,
            region: store.region,
            buckets: store.buckets,
            access_key: store.access_key,
            secret_key: SecretKey::new(secret),
            object_bytes: store.object_bytes,
        };
        Ok(Self { id: FsId(record.id), name: record.name, version: record.version, store })
    }
}

fn known(node: u64) -> Option<NodeId> {
    (node != 0).then_some(NodeId(node))
}

impl From<pb::FsPartition> for PartitionInfo {
    fn from(partition: pb::FsPartition) -> Self {
        let member =
            |member: pb::PartitionMember| Member { node: NodeId(member.node), address: member.address };
        Self {
            id: PartitionId(partition.id),
            first_inodes: partition.first_inodes.into_iter().map(InodeId).collect(),
            members: partition.members.into_iter().map(member).collect(),
            leader: known(partition.leader),
        }
    }
}

impl From<pb::FsPartitions> for Partitions {
    fn from(partitions: pb::FsPartitions) -> Self {
        let all = partitions.partitions.into_iter().map(PartitionInfo::from);
        Self { version: partitions.version, partitions: all.collect() }
    }
}

impl TryFrom<pb::FsGrant> for Grant {
    type Error = BadReply;

    fn try_from(grant: pb::FsGrant) -> Result<Self, BadReply> {
        Ok(Self {
            key: grant.mount.ok_or(BadReply("mount"))?.try_into()?,
            writer: WriterId(grant.writer),
            lease: lease(grant.lease_ms),
            file_system: grant.file_system.ok_or(BadReply("file system"))?.try_into()?,
            partitions: grant.partitions.ok_or(BadReply("list of partitions"))?.into(),
        })
    }
}

impl TryFrom<pb::FsRefreshed> for Refreshed {
    type Error = BadReply;

    fn try_from(refreshed: pb::FsRefreshed) -> Result<Self, BadReply> {
        Ok(Self {
            lease: lease(refreshed.lease_ms),
            file_system: refreshed.file_system.map(FileSystem::try_from).transpose()?,
            partitions: refreshed.partitions.map(Partitions::from),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant() -> pb::FsGrant {
        let s3 = pb::S3Backend {
            endpoint: "http://s3:1".into(),
            buckets: vec!["b".into()],
            access_key: "a".into(),
            secret_key: "s".into(),
            ..Default::default()
        };
        let partition = pb::FsPartition { id: 4, first_inodes: vec![0], leader: 2, ..Default::default() };
        pb::FsGrant {
            mount: Some(pb::FsMountKey { fs: 1, mount: 7, epoch: 1 }),
            writer: 9,
            lease_ms: 30_000,
            file_system: Some(pb::FsRecord { id: 1, version: 3, s3: Some(s3), ..Default::default() }),
            partitions: Some(pb::FsPartitions { version: 5, partitions: vec![partition] }),
        }
    }

    #[test]
    fn a_grant_is_taken_over_and_its_secret_is_not_printed() {
        let grant = Grant::try_from(grant()).unwrap();
        assert_eq!((grant.key.mount, grant.writer, grant.lease.as_secs()), (MountId(7), WriterId(9), 30));
        assert_eq!(grant.partitions.partitions[0].leader, Some(NodeId(2)));
        assert_eq!(pb::FsMountKey::from(grant.key), pb::FsMountKey { fs: 1, mount: 7, epoch: 1 });
        assert!(!format!("{grant:?}").contains("\"s\""));
    }

    #[test]
    fn what_lacks_a_part_is_refused() {
        let mut bad: Vec<pb::FsGrant> = (0..6).map(|_| grant()).collect();
        bad[0].mount = None;
        bad[1].mount.as_mut().unwrap().mount = 0;
        bad[2].file_system = None;
        bad[3].file_system.as_mut().unwrap().s3.as_mut().unwrap().buckets.clear();
        bad[4].file_system.as_mut().unwrap().s3.as_mut().unwrap().secret_key = vec![0xff].into();
        bad[5].partitions = None;
        for grant in bad {
            assert!(Grant::try_from(grant.clone()).is_err(), "{grant:?}");
        }
        let mut short = grant();
        short.lease_ms = 0;
        assert_eq!(Grant::try_from(short).unwrap().lease, LEASE_MIN);
    }
}
