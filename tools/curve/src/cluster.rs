//! `curve cluster`: health, copysets, chunkservers and metaservers.

mod metaservers;

use std::path::Path;

use curve_client::mds::{
    ChunkserverInfo, ChunkserverState, ClusterStatus, CopysetHealth, CopysetInfo, HealthLevel,
};
use curve_telemetry::say;
use curve_types::{ByteSize, NodeId};
use serde_json::{Value, json};

use crate::api::{Api, mds_failure};
use crate::cli::{ClusterCommand, DestroyArgs};
use crate::confirm::confirm;
use crate::failure::{Code, Failure};
use crate::output;

/// Runs one `curve cluster` command.
pub async fn run(config: Option<&Path>, command: ClusterCommand) -> Result<(), Failure> {
    let api = Api::connect(config).await?;
    match command {
        ClusterCommand::Status { json, check } => {
            let status = api.mds().status().await.map_err(|error| mds_failure(&error))?;
            if json {
                output::json(&status_json(&status))
            } else {
                print_status(&status)
            }
            match status.level {
                HealthLevel::Warn | HealthLevel::Err if check => {
                    Err(Failure::new(Code::Unhealthy, format!("health is {}", level_name(status.level)))
                        .try_this("follow the remedies that `curve cluster status` prints"))
                }
                _ => Ok(()),
            }
        }
        ClusterCommand::Copysets { json } => {
            let copysets = api.mds().copysets(&[]).await.map_err(|error| mds_failure(&error))?;
            if json {
                output::json(&copysets.iter().map(copyset_json).collect::<Vec<_>>());
            } else {
                print_copysets(&copysets);
            }
            Ok(())
        }
        ClusterCommand::Metaservers { json } => metaservers::list(&api, json).await,
        ClusterCommand::RemoveMetaserver { id, destroy } => metaservers::remove(&api, id, destroy).await,
        ClusterCommand::RemoveChunkserver { id, destroy } => remove(&api, NodeId(id), destroy).await,
        ClusterCommand::Chunkservers { json } => {
            let chunkservers = api.mds().chunkservers().await.map_err(|error| mds_failure(&error))?;
            if json {
                output::json(&chunkservers.iter().map(chunkserver_json).collect::<Vec<_>>());
            } else {
                print_chunkservers(&chunkservers);
            }
            Ok(())
        }
    }
}

async fn remove(api: &Api, node: NodeId, destroy: DestroyArgs) -> Result<(), Failure> {
    let chunkservers = api.mds().chunkservers().await.map_err(|error| mds_failure(&error))?;
    let found = chunkservers.iter().find(|chunkserver| chunkserver.node == node).ok_or_else(|| {
        Failure::new(Code::NotFound, format!("there is no chunkserver {}", node.get()))
            .try_this("`curve cluster chunkservers` lists them")
    })?;
    let (address, copysets) = (&found.address, found.copysets);
    let what = format!(
        "moves {copysets} replicas away from chunkserver {} at {address}, then forgets it",
        node.get()
    );
    if destroy.dry_run {
        say!("would: {what}");
        return Ok(());
    }
    confirm(&what, &node.get().to_string(), destroy.yes)?;
    api.mds().remove_chunkserver(node).await.map_err(|error| mds_failure(&error))?;
    say!("chunkserver {} is being removed; `curve cluster chunkservers` shows the progress", node.get());
    Ok(())
}

fn print_status(status: &ClusterStatus) {
    say!("health: {}", level_name(status.level));
    for item in &status.health {
        say!("  {} {}: {}", level_name(item.level), item.code, item.summary);
        say!("    cause:  {}", item.cause);
        say!("    remedy: {}", item.remedy);
    }
    say!("cluster: {}", status.cluster);
    let leader =
        status.mds.iter().find(|member| member.leader).map_or("none", |member| member.address.as_str());
    let up = status.mds.iter().filter(|member| member.up).count();
    say!("MDSs: {up} of {} up, leader {leader}", status.mds.len());
    say!("chunkservers: {} of {} up", status.chunkservers_up, status.chunkservers);
    say!("copysets: {} of {} with all replicas up", status.copysets_ok, status.copysets);
    say!("disks: {} free of {}", ByteSize(status.free_bytes), ByteSize(status.total_bytes));
    let (sizes, allocated) = (ByteSize(status.volume_bytes), ByteSize(status.allocated_bytes));
    say!("volumes: {}, {sizes} in all, {allocated} allocated; {} open", status.volumes, status.sessions);
    let fs = &status.fs;
    if fs.metaservers > 0 {
        say!("metaservers: {} of {} up", fs.metaservers_up, fs.metaservers);
        say!("partitions: {} of {} with all replicas up", fs.partitions_ok, fs.partitions);
        say!("file systems: {}; {} mounts", fs.file_systems, fs.mounts);
    }
    if status.volumes_deleting > 0 {
        say!("being deleted: {} volumes", status.volumes_deleting);
    }
}

fn print_copysets(copysets: &[CopysetInfo]) {
    let rows = copysets.iter().map(|copyset| {
        let leader = copyset.leader.map_or_else(|| "-".to_owned(), |node| node.get().to_string());
        let members: Vec<String> =
            copyset.members.iter().map(|member| member.node.get().to_string()).collect();
        vec![
            copyset.id.get().to_string(),
            copyset_health_name(copyset.health).to_owned(),
            leader,
            members.join(","),
            copyset.applied.get().to_string(),
            copyset.operation.clone(),
        ]
    });
    output::table(&["ID", "HEALTH", "LEADER", "MEMBERS", "APPLIED", "OPERATION"], rows);
}

fn print_chunkservers(chunkservers: &[ChunkserverInfo]) {
    let rows = chunkservers.iter().map(|chunkserver| {
        vec![
            chunkserver.node.get().to_string(),
            state_name(chunkserver.state).to_owned(),
            chunkserver.address.clone(),
            chunkserver.zone.clone(),
            format!("{}/{}", ByteSize(chunkserver.free_bytes), ByteSize(chunkserver.total_bytes)),
            chunkserver.copysets.to_string(),
            chunkserver.leaders.to_string(),
        ]
    });
    output::table(&["ID", "STATE", "ADDRESS", "ZONE", "FREE/TOTAL", "COPYSETS", "LEADERS"], rows);
}

fn status_json(status: &ClusterStatus) -> Value {
    let items = status.health.iter().map(|item| {
        json!({
            "level": level_name(item.level),
            "code": item.code,
            "summary": item.summary,
            "cause": item.cause,
            "remedy": item.remedy,
        })
    });
    let mds = status.mds.iter().map(|member| {
        json!({
            "id": member.node.get(),
            "address": member.address,
            "leader": member.leader,
            "up": member.up,
            "lag": member.lag,
        })
    });
    json!({
        "cluster": status.cluster,
        "health": level_name(status.level),
        "items": items.collect::<Vec<_>>(),
        "mds": mds.collect::<Vec<_>>(),
        "chunkservers": { "total": status.chunkservers, "up": status.chunkservers_up },
        "copysets": { "total": status.copysets, "ok": status.copysets_ok },
        "bytes": { "total": status.total_bytes, "free": status.free_bytes },
        "volumes": {
            "count": status.volumes,
            "size": status.volume_bytes,
            "allocated": status.allocated_bytes,
            "deleting": status.volumes_deleting,
        },
        "sessions": status.sessions,
        "file_systems": status.fs.file_systems,
        "mounts": status.fs.mounts,
        "metaservers": { "total": status.fs.metaservers, "up": status.fs.metaservers_up },
        "partitions": { "total": status.fs.partitions, "ok": status.fs.partitions_ok },
    })
}

fn copyset_json(copyset: &CopysetInfo) -> Value {
    let members = copyset.members.iter().map(|member| {
        json!({ "id": member.node.get(), "address": member.address, "zone": member.zone, "up": member.up })
    });
    json!({
        "id": copyset.id.get(),
        "health": copyset_health_name(copyset.health),
        "leader": copyset.leader.map(NodeId::get),
        "members": members.collect::<Vec<_>>(),
        "version": copyset.version,
        "term": copyset.term.get(),
        "applied": copyset.applied.get(),
        "operation": copyset.operation,
    })
}

fn chunkserver_json(chunkserver: &ChunkserverInfo) -> Value {
    json!({
        "id": chunkserver.node.get(),
        "state": state_name(chunkserver.state),
        "address": chunkserver.address,
        "zone": chunkserver.zone,
        "bytes": { "total": chunkserver.total_bytes, "free": chunkserver.free_bytes },
        "copysets": chunkserver.copysets,
        "leaders": chunkserver.leaders,
        "heartbeat_age_ms": chunkserver.heartbeat_age.as_millis() as u64,
    })
}

const fn level_name(level: HealthLevel) -> &'static str {
    match level {
        HealthLevel::Ok => "OK",
        HealthLevel::Warn => "WARN",
        HealthLevel::Err => "ERR",
    }
}

const fn copyset_health_name(health: CopysetHealth) -> &'static str {
    match health {
        CopysetHealth::Creating => "creating",
        CopysetHealth::Ok => "ok",
        CopysetHealth::Degraded => "degraded",
        CopysetHealth::NoQuorum => "no-quorum",
    }
}

const fn state_name(state: ChunkserverState) -> &'static str {
    match state {
        ChunkserverState::Up => "up",
        ChunkserverState::Down => "down",
        ChunkserverState::Dead => "dead",
        ChunkserverState::Leaving => "leaving",
    }
}
