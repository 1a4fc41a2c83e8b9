//! Rows and what was heard, as requests are answered.

use std::time::Duration;

use curve_proto::mds::FsCounts;
use curve_proto::pb::fs::{
    FsMountInfo, FsMounts, FsPartition, FsPartitions, FsRecord, FsUsage, FsVersions, MetaAddress,
    MetaHeartbeat, Metaserver, Metaservers, MountState, PartitionHealth, PartitionMember,
};
use curve_proto::pb::mds_state::{FsMountRow, FsPartitionRow, FsSystemRow};
use curve_types::NodeId;

use crate::health;
use crate::memory::Memory;
use crate::picture::Picture;
use crate::query::key_of;
use crate::times::Times;

/// A file system, without its secret, and without what only [`crate::plan::is_emptied`] knows.
pub fn record(picture: &Picture, row: &FsSystemRow) -> FsRecord {
    let mut usage = FsUsage::default();
    let mut partitions = 0;
    for partition in picture.partitions_of(row.id) {
        partitions += 1;
        let told = picture.best.get(&partition.id).and_then(|(_, report)| report.usage).unwrap_or_default();
        usage.files += told.files;
        usage.directories += told.directories;
        usage.bytes += told.bytes;
    }
    FsRecord {
        id: row.id,
        name: row.name.clone(),
        s3: row.s3.clone(),
        created_at_ms: row.created_at_ms,
        version: row.version,
        partitions,
        mounts: picture.mounts_of(row.id).filter(|mount| !mount.ending).count() as u32,
        usage: Some(usage),
        deleting: row.deleting,
        emptied: false,
    }
}

/// The partitions of a file system, with where they are.
pub fn partitions(picture: &Picture, row: &FsSystemRow) -> FsPartitions {
    let partitions = picture.partitions_of(row.id).map(|row| partition(picture, row)).collect();
    FsPartitions { version: row.map_version, partitions }
}

fn partition(picture: &Picture, row: &FsPartitionRow) -> FsPartition {
    let member = |&node: &u64| PartitionMember {
        node,
        address: picture.metaservers.get(&node).map(|row| row.address.clone()).unwrap_or_default(),
        up: picture.is_heard(node),
    };
    let report = picture.best.get(&row.id).map(|(_, report)| report);
    FsPartition {
        id: row.id,
        fs: row.fs,
        first_inodes: vec![row.first_inode],
        members: row.members.iter().map(member).collect(),
        leader: picture.leader(row.id).unwrap_or_default(),
        health: health::partition(picture, row).into(),
        usage: Some(report.and_then(|report| report.usage).unwrap_or_default()),
        term: report.map_or(0, |report| report.term),
        applied: report.map_or(0, |report| report.applied),
    }
}

/// Mounts: of one file system, or all.
pub fn mounts(picture: &Picture, memory: &Memory, times: &Times, fs: Option<u32>) -> FsMounts {
    let wanted = picture.mounts.values().filter(|row| fs.is_none_or(|fs| row.fs == fs));
    let info = |row: &FsMountRow| {
        let left = memory.lease_left(row.id, times.mount_lease, picture.now);
        let state = match (row.ending, left) {
            (true, _) => MountState::MountEnding,
            (false, Duration::ZERO) => MountState::MountLapsed,
            (false, _) => MountState::MountActive,
        };
        FsMountInfo {
            key: Some(key_of(row)),
            host: row.host.clone(),
            process: row.process,
            directory: row.directory.clone(),
            options: row.options.clone(),
            read_only: row.read_only,
            mounted_at_ms: row.mounted_at_ms,
            lease_left_ms: if row.ending { 0 } else { left.as_millis() as u64 },
            state: state.into(),
        }
    };
    FsMounts { mounts: wanted.map(info).collect() }
}

/// All metaservers.
pub fn metaservers(picture: &Picture, memory: &Memory) -> Metaservers {
    let each = picture.metaservers.values().map(|row| {
        let node = row.node;
        let seen = memory.seen.get(&node).map(|seen| &seen.heartbeat);
        let partitions = picture.partitions.values().filter(|row| row.members.contains(&node)).count();
        let leaders = picture.partitions.keys().filter(|&&id| picture.leader(id) == Some(node)).count();
        Metaserver {
            node,
            address: row.address.clone(),
            zone: row.zone.clone(),
            state: picture.state(node).into(),
            total_bytes: seen.map_or(row.total_bytes, |seen| seen.total_bytes),
            free_bytes: seen.map_or(0, |seen| seen.free_bytes),
            partitions: partitions as u32,
            leaders: leaders as u32,
            heartbeat_age_ms: memory.silence(node, picture.now).as_millis() as u64,
        }
    });
    Metaservers { metaservers: each.collect() }
}

/// The metaservers whose disks are full up to the reserve, as far as they are heard from. Who is silent takes nothing
/// anyway.
pub fn no_space(picture: &Picture) -> Vec<u64> {
    let full = |node: &u64| {
        let disk = picture.view.disks.get(&NodeId(*node));
        picture.is_heard(*node) && disk.is_some_and(|disk| disk.reserve_low)
    };
    picture.metaservers.keys().copied().filter(full).collect()
}

/// How many there are of what.
pub fn counts(picture: &Picture) -> FsCounts {
    let ok = |row: &&FsPartitionRow| health::partition(picture, row) == PartitionHealth::PartitionOk;
    FsCounts {
        file_systems: picture.systems.len() as u32,
        mounts: picture.mounts.values().filter(|row| !row.ending).count() as u32,
        metaservers: picture.metaservers.len() as u32,
        metaservers_up: picture.up() as u32,
        partitions: picture.partitions.len() as u32,
        partitions_ok: picture.partitions.values().filter(ok).count() as u32,
    }
}

/// Where every metaserver is.
pub fn addresses(picture: &Picture) -> Vec<MetaAddress> {
    let known = picture.metaservers.values().filter(|row| !row.address.is_empty());
    known.map(|row| MetaAddress { node: row.node, address: row.address.clone() }).collect()
}

/// The versions of the file systems that the sender of a heartbeat has replicas of.
pub fn versions(picture: &Picture, heartbeat: &MetaHeartbeat) -> Vec<FsVersions> {
    let has = |fs: u32| {
        let of = |id: &u32| picture.partitions.get(id).is_some_and(|row| row.fs == fs);
        heartbeat.replicas.iter().any(|replica| of(&replica.partition))
    };
    let held = picture.systems.values().filter(|system| has(system.id));
    held.map(|row| FsVersions { fs: row.id, record_version: row.version, map_version: row.map_version })
        .collect()
}
