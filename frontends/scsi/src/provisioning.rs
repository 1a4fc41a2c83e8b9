//! Thin provisioning: UNMAP, WRITE SAME and GET LBA STATUS (SBC-3 5.31, 5.47, 5.48, 5.6).

use bytes::Bytes;
use curve_blockdev::{Allocation, BlockError, Extent, ZeroMode};

use crate::cdb::Blocks;
use crate::execute::Job;
use crate::failure::Failure;
use crate::sense::{AdditionalSense, Sense};
use crate::status::Response;
use crate::unit::ByteRange;

/// MAXIMUM UNMAP LBA COUNT, in blocks, of one UNMAP command.
pub(crate) const UNMAP_BLOCKS_MAX: u32 = 1 << 20;
/// MAXIMUM UNMAP BLOCK DESCRIPTOR COUNT
pub(crate) const UNMAP_DESCRIPTORS_MAX: u32 = 256;
/// MAXIMUM WRITE SAME LENGTH, in bytes. Longer ones would keep a task busy for too long, and an initiator may expect to
/// write in one transfer what it may fill with one WRITE SAME.
pub(crate) const WRITE_SAME_BYTES_MAX: u64 = crate::unit::TRANSFER_BYTES_MAX as u64;
/// The range that one GET LBA STATUS looks at, in bytes. The initiator asks again from where the answer ends.
const STATUS_BYTES_MAX: u64 = 4 << 30;
/// Descriptors that one GET LBA STATUS answers with at most.
const STATUS_DESCRIPTORS_MAX: usize = 1024;
/// A pattern is written in pieces of this length.
const PATTERN_BYTES: u64 = 1 << 20;

const PARAMETER_LIST_LENGTH: Sense = Sense::illegal(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);

/// UNMAP. Everything is checked before anything is unmapped.
pub(crate) async fn unmap(job: &Job<'_>, anchor: bool, parameter_len: u32) -> Result<Response, Failure> {
    // Anchored blocks would stay allocated; we do not keep that promise (ANC_SUP = 0).
    if anchor {
        return Err(Sense::invalid_bit(1, 0).into());
    }
    if parameter_len == 0 {
        return Ok(Response::good());
    }
    let list = job.parameter_list(parameter_len)?;
    let mut ranges = Vec::new();
    let mut total = 0;
    for blocks in unmap_descriptors(&list)? {
        ranges.push(job.geometry.range(blocks)?);
        total += u64::from(blocks.count);
    }
    if total > u64::from(UNMAP_BLOCKS_MAX) {
        return Err(Sense::illegal(AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST).into());
    }
    for range in ranges.into_iter().filter(|range| range.len > 0) {
        job.check_aborted()?;
        give_back(job, range).await?;
    }
    Ok(Response::good())
}

/// Unmaps a range, which reads as zeros afterwards: that is what LBPRZ promises. A device gives whole blocks of its own
/// back and may keep the parts at the ends as they were, so those are zeroed.
async fn give_back(job: &Job<'_>, range: ByteRange) -> Result<(), Failure> {
    let whole = u64::from(job.geometry.preferred_blocks * job.geometry.block_bytes);
    if range.offset.is_multiple_of(whole) && range.len.is_multiple_of(whole) {
        return Ok(job.store().discard(range.offset, range.len).await?);
    }
    let mode = ZeroMode { keep_allocated: false, fast_only: false };
    Ok(job.store().write_zeroes(range.offset, range.len, mode).await?)
}

/// A header of eight bytes with two lengths, then 16 bytes for each range: LBA, count, reserved.
fn unmap_descriptors(list: &[u8]) -> Result<Vec<Blocks>, Sense> {
    let (header, rest) = list.split_first_chunk::<8>().ok_or(PARAMETER_LIST_LENGTH)?;
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    // A descriptor that is not whole is left out (SBC-3 5.31.2).
    let descriptors = rest[..len.min(rest.len())].chunks_exact(16);
    if descriptors.len() > UNMAP_DESCRIPTORS_MAX as usize {
        return Err(Sense::illegal(AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST));
    }
    let blocks = |bytes: &[u8]| Blocks {
        lba: u64::from_be_bytes(std::array::from_fn(|i| bytes[i])),
        count: u32::from_be_bytes(std::array::from_fn(|i| bytes[8 + i])),
    };
    Ok(descriptors.map(blocks).collect())
}

/// WRITE SAME. A count of 0 would mean to the end of the unit; WSNZ says that it is refused.
pub(crate) async fn write_same(
    job: &Job<'_>,
    blocks: Blocks,
    unmap: bool,
    anchor: bool,
    no_data_out: bool,
) -> Result<Response, Failure> {
    let range = job.geometry.range(blocks)?;
    if blocks.count == 0 || range.len > WRITE_SAME_BYTES_MAX {
        return Err(Sense::invalid_field(7).into());
    }
    if anchor {
        return Err(Sense::invalid_bit(1, 4).into());
    }
    let pattern = pattern(job, no_data_out)?;
    if pattern.iter().any(|byte| *byte != 0) {
        write_pattern(job, range, &pattern).await?;
    } else if unmap {
        give_back(job, range).await?;
    } else {
        // Without UNMAP the blocks are to be mapped afterwards: their space must be there when they are written.
        let mode = ZeroMode { keep_allocated: true, fast_only: false };
        match job.store().write_zeroes(range.offset, range.len, mode).await {
            Err(BlockError::Unsupported(_)) => write_pattern(job, range, &pattern).await?,
            done => done?,
        }
    }
    Ok(Response::good())
}

/// The block to write. NDOB means zeros.
fn pattern(job: &Job<'_>, no_data_out: bool) -> Result<Bytes, Sense> {
    let block = job.block() as usize;
    if no_data_out {
        return Ok(Bytes::from(vec![0; block]));
    }
    let came = job.data_out.len();
    if came != block as u64 || job.data_out.expected.is_some_and(|expected| expected != came) {
        return Err(Sense::illegal(AdditionalSense::INVALID_FIELD_IN_CDB));
    }
    Ok(Bytes::from(job.data_out.parts.concat()))
}

async fn write_pattern(job: &Job<'_>, range: ByteRange, pattern: &Bytes) -> Result<(), Failure> {
    let longest = PATTERN_BYTES.min(range.len);
    let piece = Bytes::from(pattern.repeat(longest as usize / pattern.len()));
    let mut at = 0;
    while at < range.len {
        job.check_aborted()?;
        let len = longest.min(range.len - at);
        job.store().write(range.offset + at, vec![piece.slice(..len as usize)]).await?;
        at += len;
    }
    Ok(())
}

/// GET LBA STATUS
pub(crate) async fn get_lba_status(job: &Job<'_>, lba: u64, allocation: u32) -> Result<Response, Failure> {
    if lba >= job.geometry.blocks {
        return Err(Sense::illegal(AdditionalSense::LBA_OUT_OF_RANGE).into());
    }
    let descriptors_max = (allocation as usize).saturating_sub(8) / 16;
    let rest = job.geometry.blocks - lba;
    let len = STATUS_BYTES_MAX.min(rest * job.block());
    let extents = job.store().block_status(lba * job.block(), len).await?;
    let runs = block_runs(&extents, job.block());
    let mut out = vec![0; 8];
    let mut at = lba;
    for run in runs.iter().take(descriptors_max.clamp(1, STATUS_DESCRIPTORS_MAX)) {
        out.extend_from_slice(&at.to_be_bytes());
        out.extend_from_slice(&run.count.to_be_bytes());
        let deallocated = u8::from(run.allocation == Allocation::Hole);
        out.extend_from_slice(&[deallocated, 0, 0, 0]);
        at += u64::from(run.count);
    }
    let len = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&len.to_be_bytes());
    Ok(job.parameter_data(Bytes::from(out), allocation))
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct BlockRun {
    count: u32,
    allocation: Allocation,
}

/// Extents in bytes as runs of whole blocks. A block that is partly a hole is data; a block whose end was not looked at is
/// left out, unless it is the only one.
fn block_runs(extents: &[Extent], block: u64) -> Vec<BlockRun> {
    let mut runs: Vec<BlockRun> = Vec::new();
    let mut push = |blocks: u64, allocation| {
        if blocks == 0 {
            return;
        }
        let count = u32::try_from(blocks).unwrap_or(u32::MAX);
        match runs.last_mut() {
            Some(last) if last.allocation == allocation => last.count = last.count.saturating_add(count),
            _ => runs.push(BlockRun { count, allocation }),
        }
    };
    // Bytes into a block that extents before have begun, and whether any of them are data.
    let (mut begun, mut data) = (0, false);
    for extent in extents {
        let mut len = extent.len;
        let is_data = extent.allocation == Allocation::Data;
        if begun > 0 {
            let taken = len.min(block - begun);
            begun += taken;
            len -= taken;
            data |= is_data;
            if begun < block {
                continue;
            }
            push(1, if data { Allocation::Data } else { Allocation::Hole });
        }
        push(len / block, extent.allocation);
        begun = len % block;
        data = is_data;
    }
    if runs.is_empty() {
        runs.push(BlockRun { count: 1, allocation: Allocation::Data });
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unmap_lists_are_read() {
        let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
        list.extend([0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 3, 0, 0, 0, 0]);
        assert_eq!(unmap_descriptors(&list), Ok(vec![Blocks { lba: 0x102, count: 3 }]));
        list.truncate(23);
        assert_eq!(unmap_descriptors(&list), Ok(vec![]));
        assert_eq!(unmap_descriptors(&list[..7]), Err(PARAMETER_LIST_LENGTH));
        let many = [vec![0, 0, 0x10, 0x10, 0, 0, 0, 0], vec![0; 16 * 257]].concat();
        assert!(unmap_descriptors(&many).is_err());
    }

    #[test]
    fn a_block_that_is_partly_data_is_data() {
        let data = |len| Extent { len, allocation: Allocation::Data };
        let hole = |len| Extent { len, allocation: Allocation::Hole };
        let runs = |extents: &[Extent]| {
            block_runs(extents, 4096)
                .iter()
                .map(|run| (run.count, run.allocation == Allocation::Data))
                .collect::<Vec<_>>()
        };
        assert_eq!(runs(&[data(8192), hole(4096)]), [(2, true), (1, false)]);
        assert_eq!(
            runs(&[hole(4096 + 512), data(512), hole(3072 + 4096)]),
            [(1, false), (1, true), (1, false)]
        );
        assert_eq!(runs(&[hole(4096 * 3 + 512)]), [(3, false)]);
        assert_eq!(runs(&[hole(512), data(512)]), [(1, true)]);
        assert_eq!(runs(&[data(512), hole(3584), data(4096)]), [(2, true)]);
    }
}
