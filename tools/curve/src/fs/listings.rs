//! File systems and mounts, as tables and as JSON.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use curve_proto::pb::fs::{
    FsMountInfo, FsPartition, FsPartitions, FsRecord, FsUsage, MountState, PartitionHealth, S3Backend,
};
use curve_telemetry::say;
use curve_types::{ByteSize, HumanDuration};
use serde_json::{Value, json};

use crate::output;

fn seconds(duration: Duration) -> String {
    HumanDuration(Duration::from_secs(duration.as_secs())).to_string()
}

fn since(unix_ms: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    seconds(now.saturating_sub(Duration::from_millis(unix_ms)))
}

fn parts(record: &FsRecord) -> (S3Backend, FsUsage) {
    (record.s3.clone().unwrap_or_default(), record.usage.unwrap_or_default())
}

const fn state(record: &FsRecord) -> &'static str {
    if record.deleting { "deleting" } else { "active" }
}

/// A file system as JSON: never with its secret.
pub(super) fn record_json(record: &FsRecord) -> Value {
    let (s3, usage) = parts(record);
    json!({
        "id": record.id,
        "name": record.name,
        "state": state(record),
        "created_at_ms": record.created_at_ms,
        "version": record.version,
        "backend": {
            "kind": "s3",
            "endpoint": s3.endpoint,
            "region": s3.region,
            "buckets": s3.buckets,
            "access_key": s3.access_key,
            "object_bytes": s3.object_bytes,
        },
        "partition_count": record.partitions,
        "mounts": record.mounts,
        "usage": usage_json(usage),
    })
}

fn usage_json(usage: FsUsage) -> Value {
    json!({ "files": usage.files, "directories": usage.directories, "bytes": usage.bytes })
}

/// All file systems.
pub(super) fn file_systems(records: &[FsRecord], json: bool) {
    if json {
        output::json(&records.iter().map(record_json).collect::<Vec<_>>());
        return;
    }
    let rows = records.iter().map(|record| {
        let (s3, usage) = parts(record);
        vec![
            record.name.clone(),
            record.id.to_string(),
            state(record).to_owned(),
            record.partitions.to_string(),
            record.mounts.to_string(),
            usage.files.to_string(),
            ByteSize(usage.bytes).to_string(),
            format!("{} at {}", s3.buckets.join(","), s3.endpoint),
        ]
    });
    output::table(&["NAME", "ID", "STATE", "PARTITIONS", "MOUNTS", "FILES", "BYTES", "DATA"], rows);
}

/// One file system with its partitions.
pub(super) fn file_system(record: &FsRecord, partitions: &FsPartitions, json: bool) {
    if json {
        let mut value = record_json(record);
        value["map_version"] = partitions.version.into();
        value["partitions"] = partitions.partitions.iter().map(partition_json).collect();
        output::json(&value);
        return;
    }
    let (s3, usage) = parts(record);
    say!("{}: file system {}, {}", record.name, record.id, state(record));
    say!("  files        {}", usage.files);
    say!("  directories  {}", usage.directories);
    say!("  bytes        {} ({})", ByteSize(usage.bytes), usage.bytes);
    say!("  mounts       {}", record.mounts);
    say!("  store        {} (region {}, access key {})", s3.endpoint, s3.region, s3.access_key);
    say!("  buckets      {}", s3.buckets.join(", "));
    say!("  objects      {} at most", ByteSize(s3.object_bytes.into()));
    say!("  created      {} ago", since(record.created_at_ms));
    let rows = partitions.partitions.iter().map(|partition| {
        let members = partition.members.iter().map(|member| match member.up {
            true => member.node.to_string(),
            false => format!("{} (down)", member.node),
        });
        let usage = partition.usage.unwrap_or_default();
        vec![
            partition.id.to_string(),
            health_name(partition.health()).to_owned(),
            leader(partition).map_or_else(|| "-".to_owned(), |node| node.to_string()),
            members.collect::<Vec<_>>().join(","),
            partition.first_inodes.first().map_or_else(String::new, |inode| format!("{inode:#x}")),
            usage.files.to_string(),
            usage.directories.to_string(),
            partition.applied.to_string(),
        ]
    });
    let header =
        ["PARTITION", "HEALTH", "LEADER", "MEMBERS", "INODES FROM", "FILES", "DIRECTORIES", "APPLIED"];
    output::table(&header, rows);
}

fn leader(partition: &FsPartition) -> Option<u64> {
    Some(partition.leader).filter(|&node| node != 0)
}

fn partition_json(partition: &FsPartition) -> Value {
    let members = partition
        .members
        .iter()
        .map(|member| json!({ "id": member.node, "address": member.address, "up": member.up }));
    json!({
        "id": partition.id,
        "health": health_name(partition.health()),
        "leader": leader(partition),
        "members": members.collect::<Vec<_>>(),
        "first_inodes": partition.first_inodes,
        "term": partition.term,
        "applied": partition.applied,
        "usage": usage_json(partition.usage.unwrap_or_default()),
    })
}

const fn health_name(health: PartitionHealth) -> &'static str {
    match health {
        PartitionHealth::PartitionCreating => "creating",
        PartitionHealth::PartitionOk => "ok",
        PartitionHealth::PartitionDegraded => "degraded",
        PartitionHealth::PartitionNoQuorum => "no-quorum",
    }
}

const fn mount_state(state: MountState) -> &'static str {
    match state {
        MountState::MountActive => "active",
        MountState::MountLapsed => "lapsed",
        MountState::MountEnding => "ending",
    }
}

/// Mounts, with the names of their file systems.
pub(super) fn mounts(mounts: &[FsMountInfo], systems: &[FsRecord], json: bool) {
    let system = |fs: u32| systems.iter().find(|record| record.id == fs).map_or("", |record| &record.name);
    if json {
        let each = mounts.iter().map(|mount| {
            let key = mount.key.unwrap_or_default();
            json!({
                "mount": format!("mount-{:x}", key.mount),
                "id": key.mount,
                "file_system": system(key.fs),
                "file_system_id": key.fs,
                "epoch": key.epoch,
                "host": mount.host,
                "process": mount.process,
                "directory": mount.directory,
                "options": mount.options,
                "read_only": mount.read_only,
                "mounted_at_ms": mount.mounted_at_ms,
                "lease_left_ms": mount.lease_left_ms,
                "state": mount_state(mount.state()),
            })
        });
        output::json(&each.collect::<Vec<_>>());
        return;
    }
    if mounts.is_empty() {
        say!("nothing is mounted");
        return;
    }
    let rows = mounts.iter().map(|mount| {
        let key = mount.key.unwrap_or_default();
        vec![
            format!("mount-{:x}", key.mount),
            system(key.fs).to_owned(),
            mount.host.clone(),
            mount.process.to_string(),
            mount.directory.clone(),
            if mount.read_only { "ro" } else { "rw" }.to_owned(),
            mount_state(mount.state()).to_owned(),
            since(mount.mounted_at_ms),
            seconds(Duration::from_millis(mount.lease_left_ms)),
        ]
    });
    let header = [
        "MOUNT",
        "FILE SYSTEM",
        "HOST",
        "PROCESS",
        "DIRECTORY",
        "MODE",
        "STATE",
        "MOUNTED FOR",
        "LEASE LEFT",
    ];
    output::table(&header, rows);
}
