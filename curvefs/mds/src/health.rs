//! What is not well with metaservers and partitions, with cause and remedy.

use std::collections::BTreeMap;

use curve_proto::health::{item, listed, placed};
use curve_proto::mds::{HealthItem, HealthLevel};
use curve_proto::pb::fs::{MetaserverState, PartitionHealth};
use curve_proto::pb::mds_state::FsPartitionRow;
use curve_sched::REPLICAS;
use curve_types::{ByteSize, NodeId};

use crate::memory::Memory;
use crate::messages;
use crate::picture::Picture;
use crate::times::Times;

/// How well a partition is.
pub fn partition(picture: &Picture, row: &FsPartitionRow) -> PartitionHealth {
    let up = row.members.iter().filter(|&&node| picture.is_heard(node)).count();
    let has_replica = |&node: &u64| picture.has_replica(row.id, node);
    let whole = up == row.members.len() && up >= REPLICAS && row.members.iter().all(has_replica);
    if up <= row.members.len() / 2 {
        PartitionHealth::PartitionNoQuorum
    } else if !row.created {
        PartitionHealth::PartitionCreating
    } else if whole && picture.leader(row.id).is_some() {
        PartitionHealth::PartitionOk
    } else {
        PartitionHealth::PartitionDegraded
    }
}

/// Everything that is not well.
pub fn items(picture: &Picture, memory: &Memory, times: &Times) -> Vec<HealthItem> {
    let mut items = metaservers(picture, times);
    items.extend(full(picture));
    items.extend(partitions(picture));
    items.extend(repairing(memory));
    items
}

fn metaservers(picture: &Picture, times: &Times) -> Vec<HealthItem> {
    let names = |state: MetaserverState| -> Vec<String> {
        let rows = picture.metaservers.values().filter(|row| picture.state(row.node) == state);
        rows.map(|row| placed(row.node, &row.address)).collect()
    };
    let mut items = Vec::new();
    let mut add = |state, code, what: &str, cause: String, remedy| {
        let names = names(state);
        if !names.is_empty() {
            let summary = format!("{} metaservers {what}: {}", names.len(), listed(&names));
            items.push(item(HealthLevel::Warn, code, summary, cause, remedy));
        }
    };
    add(
        MetaserverState::MetaserverDown,
        "METASERVER_DOWN",
        "are down",
        format!("No heartbeat for more than {:?}.", times.down_after),
        "Start the process again, or look at its log and at the network. Without it for long enough its partitions are \
         rebuilt on others.",
    );
    add(
        MetaserverState::MetaserverDead,
        "METASERVER_DEAD",
        "are dead",
        format!(
            "No heartbeat for more than {:?}, or it was removed; its partitions are rebuilt where there are others.",
            times.dead_after
        ),
        "Start them again, or add others and then take these out with `curve cluster remove-metaserver`.",
    );
    add(
        MetaserverState::MetaserverLeaving,
        "METASERVER_LEAVING",
        "are being emptied",
        "The operator removed them.".into(),
        "Wait until they are no longer listed, then stop them.",
    );
    items
}

fn full(picture: &Picture) -> Option<HealthItem> {
    let nodes = messages::no_space(picture);
    let text = |node: &u64| {
        let disk = &picture.view.disks[&NodeId(*node)];
        format!(
            "{} with {} free",
            placed(*node, &picture.metaservers[node].address),
            ByteSize(disk.free_bytes)
        )
    };
    let texts: Vec<String> = nodes.iter().map(text).collect();
    (!texts.is_empty()).then(|| {
        item(
            HealthLevel::Err,
            "METASERVER_FULL",
            format!("{} metaservers are full: {}", texts.len(), listed(&texts)),
            "Their free space is below their `reserve`. What would grow in the partitions there fails with ENOSPC; reads \
             and removals work."
                .into(),
            "Make room on these disks, delete files, or add metaservers and then take these out with `curve cluster \
             remove-metaserver`.",
        )
    })
}

fn partitions(picture: &Picture) -> Vec<HealthItem> {
    let mut by_health: BTreeMap<i32, Vec<String>> = BTreeMap::new();
    for row in picture.partitions.values().filter(|row| !picture.is_doomed(row)) {
        let system = &picture.systems[&row.fs].name;
        let names = by_health.entry(partition(picture, row) as i32).or_default();
        names.push(format!("{} of {system}", row.id));
    }
    let mut items = Vec::new();
    let mut add = |health: PartitionHealth, level, code, what: &str, cause: &str, remedy| {
        if let Some(names) = by_health.get(&(health as i32)) {
            let summary = format!("{} partitions {what}: {}", names.len(), listed(names));
            items.push(item(level, code, summary, cause.into(), remedy));
        }
    };
    add(
        PartitionHealth::PartitionNoQuorum,
        HealthLevel::Err,
        "PARTITION_NO_QUORUM",
        "have no majority",
        "More than half of their metaservers are down, so what concerns their files waits.",
        "Bring the metaservers that are down back; nothing is lost while their disks are.",
    );
    add(
        PartitionHealth::PartitionDegraded,
        HealthLevel::Warn,
        "PARTITION_DEGRADED",
        "are not whole",
        "A replica is missing, or no leader is known yet. Everything goes on as long as a majority is up.",
        "Bring the metaservers that are down back, or add one so that the replicas can be rebuilt.",
    );
    add(
        PartitionHealth::PartitionCreating,
        HealthLevel::Warn,
        "PARTITION_CREATING",
        "are being made",
        "Not every member has made its replica yet.",
        "Wait a few seconds; if it stays, look at the log of the metaservers.",
    );
    items
}

fn repairing(memory: &Memory) -> Option<HealthItem> {
    let moving =
        memory.running.iter().filter(|(_, running)| !matches!(running.step, curve_sched::Step::Transfer(_)));
    let ids: Vec<u32> = moving.map(|(&id, _)| id).collect();
    (!ids.is_empty()).then(|| {
        item(
            HealthLevel::Warn,
            "PARTITION_REPAIRING",
            format!("{} partitions are being rebuilt or moved: {}", ids.len(), listed(&ids)),
            "A metaserver is dead, leaves, or has lost a replica.".into(),
            "Nothing to do: it ends by itself.",
        )
    })
}
