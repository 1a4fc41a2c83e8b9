//! Metaservers as they are applied.

use std::collections::BTreeSet;

use curve_kv::Txn;
use curve_proto::MdsError;
use curve_proto::pb::fs::fs_response::Result as Answer;
use curve_proto::pb::fs::{MetaRegister, MetaRegistered, MetaRemove};
use curve_proto::pb::mds_state::{FsIdRow, FsMetaserverMoved, FsMetaserverRow, FsPartitionRow};
use curve_rows::{all, get, put};

use crate::apply::{Ids, done};
use crate::file_systems::{map_changed, next_u64};
use crate::keys;
use crate::query::metaserver;
use crate::refusal::Refusal;

const TOKEN_BYTES: usize = 16;

/// Registers a metaserver. The same token gets the same id, whatever the address; a new one gets a new id.
pub(crate) fn register(
    txn: &mut Txn<'_>,
    now_ms: u64,
    ids: &mut Ids,
    op: &MetaRegister,
) -> Result<Answer, Refusal> {
    if op.token.len() != TOKEN_BYTES || op.address.is_empty() {
        let why = "a token of 16 bytes and an address are needed".to_owned();
        return Err(MdsError::BadRequest { why }.into());
    }
    let token_key = keys::token(&op.token);
    let known = get::<FsIdRow>(txn, &token_key)?.map(|row| row.id);
    let node = match known {
        Some(node) => node,
        None => {
            let node = next_u64(&mut ids.next_node)?;
            put(txn, token_key, &FsIdRow { id: node });
            node
        }
    };
    take_address(txn, node, &op.address, known.is_none())?;
    let before = metaserver(txn, node)?;
    if before.as_ref().is_some_and(|row| row.address != op.address) {
        maps_changed(txn, node)?;
    }
    let row = FsMetaserverRow {
        node,
        token: op.token.clone(),
        address: op.address.clone(),
        zone: op.zone.clone(),
        total_bytes: op.total_bytes,
        registered_at_ms: before.as_ref().map_or(now_ms, |row| row.registered_at_ms),
        leaving: before.is_some_and(|row| row.leaving),
        version: op.version.clone(),
    };
    put(txn, keys::metaserver(node), &row);
    let cluster = ids.cluster_name.clone();
    Ok(Answer::Registered(MetaRegistered { node, cluster, heartbeat_interval_ms: 0 }))
}

/// Whoever had the address before is not there any more. When a new metaserver has it, the old one's directory was moved
/// aside: it will not come back, and its replicas are rebuilt without waiting.
fn take_address(txn: &mut Txn<'_>, node: u64, address: &str, replaced: bool) -> Result<(), Refusal> {
    for mut other in all::<FsMetaserverRow>(txn, &keys::metaservers())? {
        if other.node != node && other.address == address {
            other.address.clear();
            other.leaving |= replaced;
            put(txn, keys::metaserver(other.node), &other);
            maps_changed(txn, other.node)?;
        }
    }
    Ok(())
}

/// Where a metaserver's replicas are has changed: mounts must hear of it.
fn maps_changed(txn: &mut Txn<'_>, node: u64) -> Result<(), Refusal> {
    let partitions: Vec<FsPartitionRow> = all(txn, &keys::partitions())?;
    let touched = partitions.iter().filter(|row| row.members.contains(&node)).map(|row| row.fs);
    for fs in touched.collect::<BTreeSet<u32>>() {
        map_changed(txn, fs)?;
    }
    Ok(())
}

fn existing(txn: &Txn<'_>, node: u64) -> Result<FsMetaserverRow, Refusal> {
    let missing = || MdsError::NotFound { what: format!("metaserver {node}") };
    metaserver(txn, node)?.ok_or_else(|| missing().into())
}

/// A metaserver reported from another address.
pub(crate) fn moved(txn: &mut Txn<'_>, op: &FsMetaserverMoved) -> Result<Answer, Refusal> {
    let mut row = existing(txn, op.node)?;
    if row.address != op.address && !op.address.is_empty() {
        take_address(txn, op.node, &op.address, false)?;
        row.address.clone_from(&op.address);
        put(txn, keys::metaserver(op.node), &row);
        maps_changed(txn, op.node)?;
    }
    Ok(done())
}

/// Takes a metaserver out of service: its partitions move to others, and then it is forgotten.
pub(crate) fn remove(txn: &mut Txn<'_>, op: &MetaRemove) -> Result<Answer, Refusal> {
    let mut row = existing(txn, op.node)?;
    row.leaving = true;
    put(txn, keys::metaserver(op.node), &row);
    Ok(done())
}

/// Forgets a metaserver that leaves and has nothing. Its token gets a new id if it ever comes back.
pub(crate) fn forget(txn: &mut Txn<'_>, op: &MetaRemove) -> Result<Answer, Refusal> {
    let row = existing(txn, op.node)?;
    let partitions: Vec<FsPartitionRow> = all(txn, &keys::partitions())?;
    let uses = |row: &FsPartitionRow| row.members.contains(&op.node) || row.learners.contains(&op.node);
    if !row.leaving || partitions.iter().any(uses) {
        return Err(MdsError::Conflict { why: format!("metaserver {} still has replicas", op.node) }.into());
    }
    txn.delete(keys::token(&row.token));
    txn.delete(keys::metaserver(op.node));
    Ok(done())
}
