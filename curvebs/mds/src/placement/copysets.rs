//! Copysets as they are applied.

use std::collections::BTreeSet;

use curve_kv::Txn;
use curve_proto::MdsError;
use curve_proto::pb::mds as pb;
use curve_proto::pb::mds::mds_response::Result as Answer;
use curve_proto::pb::mds_state as state;
use curve_proto::pb::mds_state::{ChunkserverRow, CopysetRow};

use crate::keys;
use crate::rows::{Refusal, cluster, get, put};

/// Records new copysets; their members are told by the answers to their heartbeats.
pub(crate) fn create_copysets(txn: &mut Txn<'_>, op: &state::CreateCopysets) -> Result<Answer, Refusal> {
    let mut cluster = cluster(txn)?;
    for members in &op.copysets {
        let distinct: BTreeSet<u64> = members.nodes.iter().copied().collect();
        if distinct.is_empty() || distinct.len() != members.nodes.len() {
            return Err(MdsError::BadRequest { why: "a copyset needs distinct members".into() }.into());
        }
        for &node in &distinct {
            if get::<ChunkserverRow>(txn, &keys::chunkserver(node))?.is_none() {
                return Err(MdsError::NotFound { what: format!("chunkserver {node}") }.into());
            }
        }
        let row = CopysetRow {
            id: cluster.next_copyset,
            members: distinct.into_iter().collect(),
            version: 1,
            ..CopysetRow::default()
        };
        cluster.next_copyset += 1;
        put(txn, keys::copyset(row.id), &row);
    }
    put(txn, keys::cluster(), &cluster);
    Ok(Answer::Done(pb::Empty {}))
}

/// Follows what the copysets' leaders report. A report of an older term, or of an older index in the same term, is
/// from a leader that has been deposed, or late, and changes nothing.
pub(crate) fn change_copysets(txn: &mut Txn<'_>, op: &state::CopysetChanges) -> Result<Answer, Refusal> {
    for change in &op.changes {
        let key = keys::copyset(change.id);
        let Some(mut row) = get::<CopysetRow>(txn, &key)? else { continue };
        row.created |= change.created;
        let newer = (change.term, change.members_index) >= (row.term, row.members_index);
        if newer && !change.members.is_empty() {
            if row.members != change.members {
                row.version += 1;
            }
            row.members.clone_from(&change.members);
            row.learners.clone_from(&change.learners);
            (row.term, row.members_index) = (change.term, change.members_index);
        }
        put(txn, key, &row);
    }
    Ok(Answer::Done(pb::Empty {}))
}
