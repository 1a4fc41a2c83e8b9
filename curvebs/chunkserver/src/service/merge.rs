//! Changes that depend on what is stored: writes of parts of blocks, for volumes with 512-byte sectors, and comparisons
//! (see [`compare`](super::compare)).
//!
//! The leader reads the blocks that are touched in part, merges the new bytes and logs whole blocks. Between the read
//! and the apply nothing else may change those blocks:
//!
//! - in this term, because the range is held exclusively until the fate of the operation is known;
//! - in another term, because the operation carries the term of the read and is refused when it was logged in another
//!   one. The read barrier comes after the term was noted, so in that term this node led and had applied everything
//!   older.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use curve_chunkstore::{ReadError, block_crc};
use curve_proto::ChunkError;
use curve_types::Term;

use super::call::{group, may_read, stopped, unless_disk_hangs};
use super::change::{Part, Requester, split, submit};
use super::compare;
use super::write::Checked;
use crate::copyset::{Action, Mutation, Outcome};

/// How often a merge is tried again after the leader changed or a block was healed.
const ATTEMPTS: usize = 8;

/// Writes sectors: merges under the exclusive lock of the blocks touched, until the operation was logged in the term
/// in which it was merged. `more` says that another operation finishes the client's request.
pub async fn write(write: &Checked, more: bool) -> Result<Outcome, ChunkError> {
    decide(write, Change::Sectors { more }).await
}

/// What is made of the stored blocks and a request.
#[derive(Clone, Copy)]
pub enum Change<'a> {
    /// The blocks with the request's sectors in them.
    Sectors {
        /// Another operation finishes the client's request.
        more: bool,
    },
    /// The same if they hold these bytes, and a miscompare if not.
    Compared {
        /// As long as the request's own.
        expected: &'a Bytes,
    },
}

/// Has a change decided that is made of what is stored, under the exclusive lock of the blocks touched, until it was
/// logged in the term in which they were read.
pub async fn decide(write: &Checked, change: Change<'_>) -> Result<Outcome, ChunkError> {
    let replica = &write.replica;
    for _ in 0..ATTEMPTS {
        let permit = replica.guards().exclusive(write.key, blocks_touched(write)).await;
        let term = group(replica)?.status().term;
        let Requester { client, epoch, .. } = write.requester;
        may_read(replica, write.key.volume, client, epoch).await?;
        let made = match change {
            Change::Sectors { more } => merge_ends(write, term, more).await,
            Change::Compared { expected } => compare::compare(write, expected, term).await,
        };
        match made {
            Ok(parts) => match submit(replica, parts, permit).await? {
                Outcome::AnotherTerm => {}
                decided => return Ok(decided),
            },
            Err(Unmerged::Fails(error)) => return Err(error),
            Err(Unmerged::Corrupt { bad }) => {
                // Healing locks the whole chunk, so it must not be done under the lock of a part of it.
                drop(permit);
                let healed = replica.heal(write.key, &bad).await;
                healed.map_err(|error| ChunkError::Corrupt { message: error.to_string() })?;
            }
        }
    }
    Err(ChunkError::Busy { message: "the leader keeps changing".into() })
}

/// Why the stored blocks could not be had.
pub enum Unmerged {
    /// Damaged here: another replica has to help first.
    Corrupt {
        /// Which.
        bad: Vec<curve_chunkstore::BadBlock>,
    },
    /// For good.
    Fails(ChunkError),
}

/// The whole blocks that a write touches.
pub fn blocks_touched(write: &Checked) -> Range<u32> {
    let block = write.replica.geometry().block_bytes();
    let end = write.offset + write.payload.len() as u32;
    write.offset - write.offset % block..end.next_multiple_of(block)
}

/// The write as whole blocks: the first and the last are completed with what is stored, those between stay as they are.
async fn merge_ends(write: &Checked, term: Term, more: bool) -> Result<Vec<Part>, Unmerged> {
    let block = write.replica.geometry().block_bytes();
    let range = blocks_touched(write);
    let (offset, end) = (write.offset, write.offset + write.payload.len() as u32);
    let mut payload = Vec::with_capacity(3);
    let mut crcs = write.crcs.clone();
    let mut rest = write.payload.clone();
    if offset != range.start || end < range.start + block {
        let piece = rest.split_to((range.start + block - offset).min(end - offset) as usize);
        let merged = merge_block(write, range.start, offset - range.start, &piece).await?;
        crcs[0] = block_crc(&merged);
        payload.push(merged);
    }
    let tail = rest.split_off(rest.len() - rest.len() % block as usize);
    if !rest.is_empty() {
        payload.push(rest);
    }
    if !tail.is_empty() {
        let merged = merge_block(write, range.end - block, 0, &tail).await?;
        *crcs.last_mut().expect("one checksum for each block") = block_crc(&merged);
        payload.push(merged);
    }
    let plain = write.requester.mutation(write.key, range.start, range.end - range.start, Action::Write);
    let mutation = Mutation { read_in: Some(term), more, ..plain };
    Ok(split(Part { mutation, payload, crcs }, block))
}

async fn merge_block(write: &Checked, block_at: u32, at: u32, piece: &Bytes) -> Result<Bytes, Unmerged> {
    let block = write.replica.geometry().block_bytes();
    let mut merged = read_blocks(write, block_at..block_at + block).await?;
    merged[at as usize..at as usize + piece.len()].copy_from_slice(piece);
    Ok(merged.freeze())
}

/// What is stored in whole blocks, verified.
pub async fn read_blocks(write: &Checked, blocks: Range<u32>) -> Result<BytesMut, Unmerged> {
    let len = blocks.end - blocks.start;
    let read = async { Ok(write.replica.store().read(write.key, blocks.start, len).await) };
    let stored = match unless_disk_hangs(&write.replica, read).await.map_err(Unmerged::Fails)? {
        Ok(stored) => stored,
        Err(ReadError::Corrupt { bad, .. }) => return Err(Unmerged::Corrupt { bad }),
        Err(error) => {
            tracing::error!(copyset = %write.replica.id(), %error, "cannot read blocks that a change depends on");
            return Err(Unmerged::Fails(stopped(&write.replica)));
        }
    };
    let mut bytes = BytesMut::with_capacity(len as usize);
    stored.parts.iter().for_each(|part| bytes.extend_from_slice(part));
    Ok(bytes)
}
