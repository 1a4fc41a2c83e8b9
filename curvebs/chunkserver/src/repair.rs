//! Replacing bad blocks by the copy of another replica.
//!
//! # Why it is safe against writes
//!
//! Let this replica have applied up to `a`.
//!
//! *Not older:* a peer's copy is taken only if the peer had applied at least `a` when it read it, and the store
//! installs it only if the block still has the checksum that was reported as bad. So no write that this replica has
//! applied is undone: one before `a` is in the copy, one after `a` changed the checksum and healed the block anyway.
//!
//! *Not newer in a way that can be seen:* on the leader the chunk is locked against changes, and the lock is granted
//! when all changes in flight are applied; so nothing of this chunk is in the log after `a`, and the copy cannot be
//! ahead. On a follower the copy may be ahead; nobody reads there, the log is replayed over it, and before the
//! follower may serve as leader it has applied everything that the copy could contain. A leader that was deposed
//! without knowing it is such a follower: the read that found the damage began before it was deposed, so it may return
//! newer committed contents, and the next read has to confirm the leadership first.

use std::time::Duration;

use bytes::Bytes;
use curve_chunkstore::{BadBlock, BlockRepair, HOLE, block_crc};
use curve_multiraft::{Group, GroupStatus, Op};
use curve_proto::ChunkError;
use curve_types::{ChunkKey, LogIndex, NodeId};
use thiserror::Error;
use tokio::time::Instant;

use crate::copyset::{CopysetOp, Replica};
use crate::peers::{BlockCopy, CopyRequest};

/// Blocks fetched with one request.
const RUN_BLOCKS_MAX: u32 = 64;
/// How long a repair goes on looking for a copy.
const DEADLINE: Duration = Duration::from_secs(5);
/// The pause before the peers are asked again.
const PAUSE: Duration = Duration::from_millis(20);

/// Why bad blocks were not healed.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum HealError {
    /// No other replica could give a good copy in time.
    #[error("no other replica has a good copy of block {block}: {cause}")]
    NoCopy {
        /// The block of the chunk.
        block: u32,
        /// What the last peer said.
        cause: String,
    },
    /// The group is not open.
    #[error("the replica is stopped")]
    Stopped,
    /// The store did not take the copy.
    #[error("the store refused the copy: {0}")]
    Store(String),
}

/// Heals `bad` blocks of a chunk and returns how many the store took. The caller sees to it that only one repair of
/// a replica runs.
pub async fn heal(replica: &Replica, key: ChunkKey, bad: &[BadBlock]) -> Result<usize, HealError> {
    let group = replica.group().ok_or(HealError::Stopped)?;
    let _frozen = replica.guards().exclusive(key, 0..replica.geometry().chunk_bytes()).await;
    let mut healed = 0;
    for run in runs(bad) {
        healed += heal_run(replica, group, key, run).await?;
    }
    Ok(healed)
}

/// Cuts the list where blocks are not neighbours and where a run gets too long.
fn runs(bad: &[BadBlock]) -> impl Iterator<Item = &[BadBlock]> {
    bad.chunk_by(|a, b| a.block + 1 == b.block).flat_map(|run| run.chunks(RUN_BLOCKS_MAX as usize))
}

async fn heal_run(
    replica: &Replica,
    group: &Group,
    key: ChunkKey,
    run: &[BadBlock],
) -> Result<usize, HealError> {
    match fetch(replica, group, key, run).await {
        Ok(repairs) => replica.store().repair(key, &repairs).map_err(|e| HealError::Store(e.to_string())),
        // Each peer may have its own bad block in this run: ask for one at a time.
        Err(HealError::NoCopy { .. }) if run.len() > 1 => {
            let mut healed = 0;
            for one in run.chunks(1) {
                let repairs = fetch(replica, group, key, one).await?;
                healed +=
                    replica.store().repair(key, &repairs).map_err(|e| HealError::Store(e.to_string()))?;
            }
            Ok(healed)
        }
        Err(error) => Err(error),
    }
}

async fn fetch(
    replica: &Replica,
    group: &Group,
    key: ChunkKey,
    run: &[BadBlock],
) -> Result<Vec<BlockRepair>, HealError> {
    let block_bytes = replica.geometry().block_bytes();
    let until = Instant::now() + DEADLINE;
    let request = CopyRequest {
        copyset: replica.id(),
        key,
        offset: run[0].block * block_bytes,
        len: run.len() as u32 * block_bytes,
    };
    loop {
        let status = group.status();
        let mut cause = "there is no other member".to_owned();
        let mut behind = false;
        let mut corrupt = 0;
        let order = sources(&status, replica.peers().node());
        for peer in &order {
            match replica.peers().copy(*peer, request).await {
                Ok(copy) if copy.applied >= status.applied => match verified(&copy, run, block_bytes) {
                    Some(repairs) => return Ok(repairs),
                    None => cause = format!("{peer} sent a damaged copy"),
                },
                Ok(copy) => {
                    behind = true;
                    cause = format!("{peer} has applied {} of {}", copy.applied, status.applied);
                }
                Err(ChunkError::Corrupt { message }) => {
                    corrupt += 1;
                    cause = format!("{peer}: {message}");
                }
                Err(error) => cause = format!("{peer}: {error}"),
            }
        }
        if Instant::now() >= until || corrupt == order.len() {
            return Err(HealError::NoCopy { block: run[0].block, cause });
        }
        if behind {
            nudge(group, status.applied).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// An idle follower may not know yet that the last entries are committed; an empty operation tells it.
async fn nudge(group: &Group, applied: LogIndex) {
    let marker = Op { header: CopysetOp::Marker.encode(&[]), payload: Vec::new() };
    // Without a majority nobody can be told; whoever waits for the block waits for the deadline then.
    match tokio::time::timeout(DEADLINE, group.propose(marker)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(group = %group.id(), %applied, %error, "cannot propose a marker"),
        Err(_) => tracing::debug!(group = %group.id(), %applied, "a marker was not committed in time"),
    }
}

/// Whom to ask: the leader first, then the other members.
fn sources(status: &GroupStatus, me: NodeId) -> Vec<NodeId> {
    let leader = status.leader.filter(|leader| *leader != me);
    let others = status.members.iter().copied().filter(|node| *node != me && Some(*node) != leader);
    leader.into_iter().chain(others).collect()
}

fn verified(copy: &BlockCopy, run: &[BadBlock], block_bytes: u32) -> Option<Vec<BlockRepair>> {
    let block_len = block_bytes as usize;
    if copy.crcs.len() != run.len() {
        return None;
    }
    let all_holes = copy.crcs.iter().all(|crc| *crc == HOLE) && copy.data.is_empty();
    if !all_holes && copy.data.len() != run.len() * block_len {
        return None;
    }
    let mut repairs = Vec::with_capacity(run.len());
    for (i, (bad, crc)) in run.iter().zip(&copy.crcs).enumerate() {
        let data =
            if *crc == HOLE { Bytes::new() } else { copy.data.slice(i * block_len..(i + 1) * block_len) };
        if *crc != HOLE && block_crc(&data) != *crc {
            return None;
        }
        repairs.push(BlockRepair { block: bad.block, reported: bad.reported, crc: *crc, data });
    }
    Some(repairs)
}

#[cfg(test)]
mod tests {
    use curve_chunkstore::BadCause;

    use super::*;

    fn bad(block: u32) -> BadBlock {
        BadBlock { block, reported: 5, cause: BadCause::Checksum }
    }

    #[test]
    fn runs_are_cut_at_gaps_and_at_the_limit() {
        let mut blocks: Vec<BadBlock> = [1, 2, 5].map(bad).to_vec();
        blocks.extend((100..100 + RUN_BLOCKS_MAX + 1).map(bad));
        let lens: Vec<usize> = runs(&blocks).map(<[BadBlock]>::len).collect();
        assert_eq!(lens, [2, 1, RUN_BLOCKS_MAX as usize, 1]);
    }

    #[test]
    fn a_copy_is_taken_only_whole_and_verified() {
        let block = Bytes::from(vec![7u8; 4096]);
        let crc = block_crc(&block);
        let copy = |crcs: Vec<u32>, data: Bytes| BlockCopy { applied: LogIndex(1), crcs, data };
        let good = verified(&copy(vec![crc], block.clone()), &[bad(3)], 4096).unwrap();
        assert_eq!(good, [BlockRepair { block: 3, reported: 5, crc, data: block.clone() }]);
        let hole = verified(&copy(vec![HOLE], Bytes::new()), &[bad(3)], 4096).unwrap();
        assert_eq!(hole[0].data, Bytes::new());
        for (crcs, data) in
            [(vec![crc + 1], block.clone()), (vec![], block.clone()), (vec![crc], block.slice(1..))]
        {
            assert_eq!(verified(&copy(crcs, data), &[bad(3)], 4096), None);
        }
    }
}
