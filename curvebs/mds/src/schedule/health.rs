//! What is not well, with cause and remedy.

use std::collections::BTreeMap;

use curve_proto::health::{item, listed, placed};
use curve_proto::mds::{ChunkserverState, CopysetHealth, HealthItem, HealthLevel};
use curve_sched::{REPLICAS, Step};
use curve_types::{ByteSize, CopysetId, NodeId};

use crate::config::MdsConfig;
use crate::memory::{Memory, Running};
use crate::schedule::Picture;

/// How well a copyset is.
pub(crate) fn copyset_health(picture: &Picture, id: CopysetId) -> CopysetHealth {
    let row = &picture.copysets[&id];
    let up = row.members.iter().filter(|&&node| picture.is_heard(NodeId(node))).count();
    let has_replica = |&node: &u64| picture.has_replica(id, NodeId(node));
    let whole = up == row.members.len() && up >= REPLICAS && row.members.iter().all(has_replica);
    if up <= row.members.len() / 2 {
        CopysetHealth::NoQuorum
    } else if !row.created {
        CopysetHealth::Creating
    } else if whole && picture.leader(id).is_some() {
        CopysetHealth::Ok
    } else {
        CopysetHealth::Degraded
    }
}

/// Everything that is not well, except the MDSs themselves.
pub(crate) fn health(picture: &Picture, memory: &Memory, config: &MdsConfig) -> Vec<HealthItem> {
    let mut items = Vec::new();
    items.extend(not_enough(picture));
    items.extend(silent(picture, config));
    items.extend(copysets(picture));
    items.extend(capacity(picture, config));
    items.extend(repairing(&memory.running));
    items.extend(corrupt(picture));
    items
}

fn not_enough(picture: &Picture) -> Option<HealthItem> {
    let up = picture.up();
    (up < REPLICAS && picture.copysets.is_empty()).then(|| {
        item(
            HealthLevel::Err,
            "NOT_ENOUGH_CHUNKSERVERS",
            format!("{up} of the {REPLICAS} chunkservers that are needed at least are up"),
            "Every chunk has three replicas on three chunkservers.".into(),
            "Start more chunkservers; volumes can be created, but not written, until then.",
        )
    })
}

fn silent(picture: &Picture, config: &MdsConfig) -> Vec<HealthItem> {
    let names = |state: ChunkserverState| -> Vec<String> {
        let nodes = picture.chunkservers.iter().filter(|(node, _)| picture.state(**node) == state);
        nodes.map(|(node, row)| placed(*node, &row.address)).collect()
    };
    let (down, dead, leaving) =
        (names(ChunkserverState::Down), names(ChunkserverState::Dead), names(ChunkserverState::Leaving));
    let mut items = Vec::new();
    if !down.is_empty() {
        items.push(item(
            HealthLevel::Warn,
            "CHUNKSERVER_DOWN",
            format!("{} chunkservers are down: {}", down.len(), listed(&down)),
            format!("No heartbeat for more than {}.", config.down_after),
            "Start the process again, or look at its log, its disk (a server whose disk hangs is silent) and the \
             network. Without it for long enough its data is rebuilt on others.",
        ));
    }
    if !dead.is_empty() {
        let spare = picture.up() >= REPLICAS && picture.up() < picture.chunkservers.len();
        items.push(item(
            HealthLevel::Warn,
            "CHUNKSERVER_DEAD",
            format!("{} chunkservers are dead: {}", dead.len(), listed(&dead)),
            format!(
                "No heartbeat for more than {}; their replicas are rebuilt{}.",
                config.dead_after,
                if spare { " where other chunkservers have room" } else { " as soon as there are three others" }
            ),
            "Start them again, or add others and then take these out with `curve cluster remove-chunkserver`.",
        ));
    }
    if !leaving.is_empty() {
        items.push(item(
            HealthLevel::Warn,
            "CHUNKSERVER_LEAVING",
            format!("{} chunkservers are being emptied: {}", leaving.len(), listed(&leaving)),
            "The operator removed them.".into(),
            "Wait until they are no longer listed, then stop them.",
        ));
    }
    items
}

fn copysets(picture: &Picture) -> Vec<HealthItem> {
    let mut by_health: BTreeMap<u8, Vec<CopysetId>> = BTreeMap::new();
    for &id in picture.copysets.keys() {
        by_health.entry(copyset_health(picture, id) as u8).or_default().push(id);
    }
    let of = |health: CopysetHealth| by_health.get(&(health as u8)).map(Vec::as_slice).unwrap_or_default();
    let mut items = Vec::new();
    let mut add = |level, code, ids: &[CopysetId], what: &str, cause: &str, remedy| {
        if !ids.is_empty() {
            items.push(item(
                level,
                code,
                format!("{} copysets {what}: {}", ids.len(), listed(ids)),
                cause.into(),
                remedy,
            ));
        }
    };
    add(
        HealthLevel::Err,
        "COPYSET_NO_QUORUM",
        of(CopysetHealth::NoQuorum),
        "have no majority",
        "More than half of their chunkservers are down, so I/O to them waits.",
        "Bring the chunkservers that are down back; nothing is lost while their disks are.",
    );
    add(
        HealthLevel::Warn,
        "COPYSET_DEGRADED",
        of(CopysetHealth::Degraded),
        "are not whole",
        "A replica is missing, or no leader is known yet. I/O goes on as long as a majority is up.",
        "Bring the chunkservers that are down back, or add one so that the replicas can be rebuilt.",
    );
    add(
        HealthLevel::Warn,
        "COPYSET_CREATING",
        of(CopysetHealth::Creating),
        "are being made",
        "Not every member has made its replica yet.",
        "Wait a few seconds; if it stays, look at the log of the members that `curve cluster copysets` shows.",
    );
    items
}

fn capacity(picture: &Picture, config: &MdsConfig) -> Vec<HealthItem> {
    let (mut low, mut full) = (Vec::new(), Vec::new());
    for (&node, disk) in &picture.view.disks {
        if !picture.heard.contains(&node) {
            continue;
        }
        let total = picture.chunkservers[&node].total_bytes.max(1);
        let text = format!("{node} has {} free", ByteSize(disk.free_bytes));
        if disk.usable_bytes() == 0 {
            full.push(text);
        } else if u128::from(disk.free_bytes) * 100
            < u128::from(total) * u128::from(config.capacity_low_percent)
        {
            low.push(text);
        }
    }
    let remedy = "Delete volumes, discard unused blocks (fstrim), or add chunkservers.";
    let mut items = Vec::new();
    if !full.is_empty() {
        items.push(item(
            HealthLevel::Err,
            "CAPACITY_FULL",
            format!("{} chunkservers are full: {}", full.len(), listed(&full)),
            "Their free space is below the reserve, so nothing new is allocated on them. Reads and deletes work.".into(),
            remedy,
        ));
    }
    if !low.is_empty() {
        items.push(item(
            HealthLevel::Warn,
            "CAPACITY_LOW",
            format!("{} chunkservers are nearly full: {}", low.len(), listed(&low)),
            format!("Less than {} % of their disks is free.", config.capacity_low_percent),
            remedy,
        ));
    }
    items
}

fn repairing(running: &BTreeMap<CopysetId, Running>) -> Option<HealthItem> {
    let moving = |running: &&Running| !matches!(running.step, Step::Transfer(_));
    let ids: Vec<CopysetId> = running.iter().filter(|(_, r)| moving(r)).map(|(&id, _)| id).collect();
    (!ids.is_empty()).then(|| {
        item(
            HealthLevel::Warn,
            "REPAIRING",
            format!("{} copysets are being rebuilt or moved: {}", ids.len(), listed(&ids)),
            "A chunkserver is dead, leaves, or has lost a replica.".into(),
            "Nothing to do: it ends by itself. `curve cluster copysets` shows the steps.",
        )
    })
}

fn corrupt(picture: &Picture) -> Option<HealthItem> {
    let bad: Vec<String> = picture
        .best
        .iter()
        .filter(|(_, (_, report))| report.corrupt_blocks > 0)
        .map(|(id, (node, report))| format!("{} blocks of {id} on {node}", report.corrupt_blocks))
        .collect();
    (!bad.is_empty()).then(|| {
        item(
            HealthLevel::Err,
            "CORRUPT_BLOCKS",
            format!("blocks are bad and could not be healed: {}", listed(&bad)),
            "They do not match their checksums on any replica that could be asked.".into(),
            "Bring all replicas of these copysets up; then read the blocks again or overwrite them.",
        )
    })
}
