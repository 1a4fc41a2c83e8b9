//! Chunkservers as they are applied.

use bytes::Bytes;
use curve_kv::Txn;
use curve_proto::MdsError;
use curve_proto::pb::mds as pb;
use curve_proto::pb::mds::mds_response::Result as Answer;
use curve_proto::pb::mds_state as state;
use curve_proto::pb::mds_state::ChunkserverRow;

use crate::keys;
use crate::rows::{Refusal, all, cluster, get, put};

fn node_of(value: &Bytes) -> u64 {
    u64::from_be_bytes(value[..].try_into().expect("a token's row is a node id"))
}

/// Registers a chunkserver. The same token gets the same id, whatever the address; a new one gets a new id.
pub(crate) fn register(txn: &mut Txn<'_>, now_ms: u64, op: &pb::Register) -> Result<Answer, Refusal> {
    let mut cluster = cluster(txn)?;
    let (theirs, ours) = (
        (op.block_bytes, op.chunk_bytes, op.segment_bytes),
        (cluster.block_bytes, cluster.chunk_bytes, cluster.segment_bytes),
    );
    if theirs != ours {
        let why = format!(
            "its store was made with block, chunk and segment sizes {theirs:?}, the cluster has {ours:?}; format it anew"
        );
        return Err(MdsError::Conflict { why }.into());
    }
    if op.token.len() != 16 || op.address.is_empty() {
        return Err(
            MdsError::BadRequest { why: "a token of 16 bytes and an address are needed".into() }.into()
        );
    }
    let token_key = keys::token(&op.token);
    let known = txn.get(&token_key)?.map(|value| node_of(&value));
    let node = known.unwrap_or(cluster.next_node);
    if known.is_none() {
        cluster.next_node += 1;
        put(txn, keys::cluster(), &cluster);
        txn.put(token_key, node.to_be_bytes().to_vec());
    }
    take_address(txn, node, &op.address, known.is_none())?;
    let before = get::<ChunkserverRow>(txn, &keys::chunkserver(node))?;
    let row = ChunkserverRow {
        node,
        token: op.token.clone(),
        address: op.address.clone(),
        zone: op.zone.clone(),
        total_bytes: op.total_bytes,
        registered_at_ms: before.as_ref().map_or(now_ms, |row| row.registered_at_ms),
        leaving: before.is_some_and(|row| row.leaving),
        version: op.version.clone(),
    };
    put(txn, keys::chunkserver(node), &row);
    Ok(Answer::Registered(pb::Registered { node, cluster: cluster_name(&cluster), heartbeat_interval_ms: 0 }))
}

/// The name that chunkservers remember: the operator's, and the id that keeps two clusters of one name apart.
pub(crate) fn cluster_name(cluster: &state::ClusterRow) -> String {
    format!("{}-{:016x}", cluster.name, cluster.id)
}

/// Whoever had the address before is not there any more. When a new chunkserver has it, the old one's disk was replaced
/// or moved aside: it will not come back, and its replicas are rebuilt without waiting.
fn take_address(txn: &mut Txn<'_>, node: u64, address: &str, replaced: bool) -> Result<(), Refusal> {
    for mut other in all::<ChunkserverRow>(txn, &keys::chunkservers())? {
        if other.node != node && other.address == address {
            other.address.clear();
            other.leaving |= replaced;
            put(txn, keys::chunkserver(other.node), &other);
        }
    }
    Ok(())
}

/// A chunkserver reported from another address.
pub(crate) fn moved(txn: &mut Txn<'_>, op: &state::Moved) -> Result<Answer, Refusal> {
    let mut row = existing(txn, op.node)?;
    take_address(txn, op.node, &op.address, false)?;
    row.address.clone_from(&op.address);
    put(txn, keys::chunkserver(op.node), &row);
    Ok(Answer::Done(pb::Empty {}))
}

/// Takes a chunkserver out of service: the scheduler empties it, and then it is forgotten.
pub(crate) fn remove(txn: &mut Txn<'_>, op: &pb::RemoveChunkserver) -> Result<Answer, Refusal> {
    let mut row = existing(txn, op.node)?;
    row.leaving = true;
    put(txn, keys::chunkserver(op.node), &row);
    Ok(Answer::Done(pb::Empty {}))
}

/// Forgets a chunkserver that leaves and is empty. Its token gets a new id if it ever comes back.
pub(crate) fn forget(txn: &mut Txn<'_>, op: &state::ForgetChunkserver) -> Result<Answer, Refusal> {
    let row = existing(txn, op.node)?;
    let copysets: Vec<state::CopysetRow> = all(txn, &keys::copysets())?;
    if !row.leaving || copysets.iter().any(|copyset| copyset.members.contains(&op.node)) {
        return Err(MdsError::Conflict { why: format!("chunkserver {} still has replicas", op.node) }.into());
    }
    txn.delete(keys::token(&row.token));
    txn.delete(keys::chunkserver(op.node));
    Ok(Answer::Done(pb::Empty {}))
}

fn existing(txn: &Txn<'_>, node: u64) -> Result<ChunkserverRow, Refusal> {
    let missing = || MdsError::NotFound { what: format!("chunkserver {node}") };
    get(txn, &keys::chunkserver(node))?.ok_or_else(|| missing().into())
}
