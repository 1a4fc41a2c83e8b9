//! COMPARE AND WRITE, ORWRITE and WRITE ATOMIC (SBC-3 5.2, 5.21; SBC-4 5.48): commands that no other write may interleave.

use bytes::Bytes;
use curve_blockdev::{COMPARE_BYTES_MAX, Compared};

use crate::cdb::Blocks;
use crate::execute::Job;
use crate::failure::Failure;
use crate::read_write::split_off;
use crate::sense::{AdditionalSense, Sense};
use crate::status::Response;
use crate::verify::miscompare;

/// MAXIMUM COMPARE AND WRITE LENGTH in blocks.
pub(crate) fn compare_max(block_bytes: u32) -> u8 {
    u8::try_from(COMPARE_BYTES_MAX / block_bytes).unwrap_or(u8::MAX)
}

/// COMPARE AND WRITE. One that crosses a chunk of the volume (16 MiB) concerns two copysets, which cannot decide it together:
/// the device refuses it, and the initiator hears INVALID FIELD IN CDB. What is no longer than a block never does.
pub(crate) async fn compare_and_write(mut job: Job<'_>, blocks: Blocks) -> Result<Response, Failure> {
    if blocks.count > u32::from(compare_max(job.geometry.block_bytes)) {
        return Err(Sense::invalid_field(13).into());
    }
    let range = job.geometry.range(blocks)?;
    let mut expected = exactly(&mut job, 2 * range.len)?;
    if range.len == 0 {
        return Ok(Response::good());
    }
    let data = split_off(&mut expected, range.len);
    match job.store().compare_and_write(range.offset, expected, data).await? {
        Compared::Written => Ok(Response::good()),
        Compared::Differs { at } => Err(miscompare(at).into()),
    }
}

/// ORWRITE
pub(crate) async fn or_write(mut job: Job<'_>, blocks: Blocks) -> Result<Response, Failure> {
    let range = job.geometry.transfer(blocks, 10)?;
    let data = exactly(&mut job, range.len)?;
    if range.len > 0 {
        job.store().or_write(range.offset, data).await?;
    }
    Ok(Response::good())
}

/// WRITE ATOMIC. Any alignment and granularity will do that crosses no multiple of 1 MiB, and no write is ever split, so a
/// boundary is not offered.
pub(crate) async fn write_atomic(
    mut job: Job<'_>,
    blocks: Blocks,
    boundary: u16,
) -> Result<Response, Failure> {
    let longest = job.store().atomic_write_max() / job.geometry.block_bytes;
    if longest == 0 {
        return Err(Sense::illegal(AdditionalSense::INVALID_COMMAND_OPERATION_CODE).into());
    }
    if boundary != 0 {
        return Err(Sense::invalid_field(10).into());
    }
    let range = job.geometry.range(blocks)?;
    if blocks.count > longest {
        return Err(Sense::invalid_field(12).into());
    }
    let data = exactly(&mut job, range.len)?;
    if range.len > 0 {
        job.store().write_atomic(range.offset, data).await?;
    }
    Ok(Response::good())
}

/// Data-out of exactly this length: half a comparison would be none, so nothing less and nothing more will do.
pub(crate) fn exactly(job: &mut Job<'_>, len: u64) -> Result<Vec<Bytes>, Sense> {
    let came = job.data_out.len();
    if job.data_out.expected.unwrap_or(came) != len || came != len {
        return Err(Sense::illegal(AdditionalSense::INVALID_FIELD_IN_CDB));
    }
    Ok(std::mem::take(&mut job.data_out.parts))
}
