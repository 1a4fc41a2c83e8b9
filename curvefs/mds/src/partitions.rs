//! Partitions as they are applied.

use std::collections::BTreeSet;

use curve_kv::Txn;
use curve_proto::MdsError;
use curve_proto::pb::fs::PartitionBirth;
use curve_proto::pb::fs::fs_response::Result as Answer;
use curve_proto::pb::mds_state::{FsCountersRow, FsMembers, FsPartitionChanges, FsPartitionRow, FsSystemRow};
use curve_rows::{get, put};
use curve_sched::REPLICAS;
use curvefs_types::SERIAL_BITS;

use crate::apply::done;
use crate::file_systems::{map_changed, next_u32};
use crate::keys;
use crate::query::metaserver;
use crate::refusal::Refusal;

/// Partitions of one file system.
pub(crate) const PARTITIONS_MAX: usize = 256;

/// Records the partitions of a new file system. Partition `n` has slot `n`, and holds the inodes of that.
pub(crate) fn make(
    txn: &mut Txn<'_>,
    now_ms: u64,
    system: &FsSystemRow,
    counters: &mut FsCountersRow,
    partitions: &[FsMembers],
) -> Result<(), Refusal> {
    if !(1..=PARTITIONS_MAX).contains(&partitions.len()) {
        let why = format!("a file system has 1 to {PARTITIONS_MAX} partitions, not {}", partitions.len());
        return Err(MdsError::BadRequest { why }.into());
    }
    for (slot, members) in partitions.iter().enumerate() {
        let distinct: BTreeSet<u64> = members.nodes.iter().copied().collect();
        if distinct.len() != REPLICAS || distinct.len() != members.nodes.len() {
            return Err(MdsError::BadRequest { why: "a partition has three different members".into() }.into());
        }
        for &node in &distinct {
            if metaserver(txn, node)?.is_none() {
                return Err(MdsError::NotFound { what: format!("metaserver {node}") }.into());
            }
        }
        let first_inode = (slot as u64) << SERIAL_BITS;
        let row = FsPartitionRow {
            id: next_u32(&mut counters.next_partition)?,
            fs: system.id,
            slot: slot as u32,
            first_inode,
            last_inode: first_inode | ((1 << SERIAL_BITS) - 1),
            born_ns: i64::try_from(u128::from(now_ms) * 1_000_000).unwrap_or(i64::MAX),
            members: distinct.into_iter().collect(),
            version: 1,
            ..FsPartitionRow::default()
        };
        put(txn, keys::partition(row.fs, row.id), &row);
    }
    Ok(())
}

/// What a partition's replicas are born with: the same on all of them.
pub(crate) fn birth(system: &FsSystemRow, row: &FsPartitionRow) -> PartitionBirth {
    PartitionBirth {
        fs: row.fs,
        slot: row.slot,
        first_inode: row.first_inode,
        last_inode: row.last_inode,
        now_ns: row.born_ns,
        root_uid: system.root_uid,
        root_gid: system.root_gid,
        root_mode: system.root_mode,
        members: row.members.clone(),
    }
}

/// Follows what the partitions' leaders report. A report of an older term, or of an older index in the same term, is from a
/// leader that has been deposed, or late, and changes nothing.
pub(crate) fn change(txn: &mut Txn<'_>, op: &FsPartitionChanges) -> Result<Answer, Refusal> {
    for change in &op.changes {
        let key = keys::partition(change.fs, change.id);
        let Some(mut row) = get::<FsPartitionRow>(txn, &key)? else { continue };
        row.created |= change.created;
        let newer = (change.term, change.members_index) >= (row.term, row.members_index);
        if newer && !change.members.is_empty() {
            if row.members != change.members {
                row.version += 1;
                map_changed(txn, row.fs)?;
            }
            row.members.clone_from(&change.members);
            row.learners.clone_from(&change.learners);
            (row.term, row.members_index) = (change.term, change.members_index);
        }
        put(txn, key, &row);
    }
    Ok(done())
}

#[cfg(test)]
mod tests {
    use curvefs_meta::Birth;
    use curvefs_types::{FsId, PartitionId};

    use super::*;

    #[test]
    fn ranges_are_those_of_a_partition_with_one_slot() {
        for slot in [0, 1, 7, 255] {
            let first = u64::from(slot) << SERIAL_BITS;
            let born = Birth::of_slot(FsId(1), PartitionId(1), slot).ranges;
            assert_eq!(born.len(), 1);
            assert_eq!((born[0].first.0, born[0].last.0), (first, first | ((1 << SERIAL_BITS) - 1)));
        }
    }
}
