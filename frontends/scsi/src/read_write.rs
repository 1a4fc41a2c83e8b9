//! READ, WRITE, SYNCHRONIZE CACHE and PRE-FETCH (SBC-3 5).
//!
//! DPO is a hint about a cache that is not here, and every write is durable when it ends, so FUA asks for nothing more.

use bytes::{Bytes, BytesMut};
use curve_blockdev::Compared;

use crate::cdb::Blocks;
use crate::execute::Job;
use crate::failure::Failure;
use crate::sense::{AdditionalSense, Sense, SenseKey};
use crate::status::Response;
use crate::unit::ByteRange;

/// Byte of the transfer length in a CDB of ten bytes; where the others have it hardly matters to anyone.
const LENGTH_FIELD: u16 = 7;
/// Tries to patch a block that others write meanwhile.
const PATCH_TRIES: u32 = 64;

/// READ
pub(crate) async fn read(job: &Job<'_>, blocks: Blocks) -> Result<Response, Failure> {
    let range = job.geometry.transfer(blocks, LENGTH_FIELD)?;
    if range.len == 0 {
        return Ok(Response::good());
    }
    Ok(Response::data(job.store().read(range.offset, range.len as u32).await?))
}

/// WRITE
pub(crate) async fn write(mut job: Job<'_>, blocks: Blocks) -> Result<Response, Failure> {
    let range = job.geometry.transfer(blocks, LENGTH_FIELD)?;
    let data = std::mem::take(&mut job.data_out.parts);
    write_range(&job, range, data).await?;
    Ok(Response::good())
}

/// Writes what came of a range: at most all of it. An initiator that announces less than the CDB asks for has it written
/// as far as it goes (FCP-4 9.4.2, which iSCSI's residuals follow), also if it ends within a block.
pub(crate) async fn write_range(job: &Job<'_>, range: ByteRange, data: Vec<Bytes>) -> Result<(), Failure> {
    let mut data = cut(data, range.len);
    let len: u64 = data.iter().map(|part| part.len() as u64).sum();
    let odd = len % u64::from(job.geometry.block_bytes);
    let whole = len - odd;
    let rest = split_off(&mut data, whole);
    if whole > 0 {
        job.store().write(range.offset, data).await?;
    }
    if odd > 0 {
        patch(job, range.offset + whole, &rest).await?;
    }
    Ok(())
}

/// Overwrites the begin of a block, and keeps what others write to the rest of it.
async fn patch(job: &Job<'_>, offset: u64, begin: &[Bytes]) -> Result<(), Failure> {
    let block_bytes = job.geometry.block_bytes;
    for _ in 0..PATCH_TRIES {
        let before = job.store().read(offset, block_bytes).await?;
        let mut after = BytesMut::with_capacity(block_bytes as usize);
        begin.iter().for_each(|part| after.extend_from_slice(part));
        let mut skip = after.len();
        for part in &before {
            let from = skip.min(part.len());
            after.extend_from_slice(&part[from..]);
            skip -= from;
        }
        if job.store().compare_and_write(offset, before, vec![after.freeze()]).await? == Compared::Written {
            return Ok(());
        }
    }
    Err(Sense::new(SenseKey::AbortedCommand, AdditionalSense::INTERNAL_TARGET_FAILURE).into())
}

/// The first `len` bytes of parts, or all if there are fewer.
pub(crate) fn cut(mut data: Vec<Bytes>, len: u64) -> Vec<Bytes> {
    split_off(&mut data, len);
    data
}

/// Leaves the first `len` bytes and returns the rest.
pub(crate) fn split_off(data: &mut Vec<Bytes>, len: u64) -> Vec<Bytes> {
    let mut left = len;
    for at in 0..data.len() {
        let part_len = data[at].len() as u64;
        if part_len > left {
            let rest = data[at].split_off(left as usize);
            let mut tail = data.split_off(at + 1);
            tail.insert(0, rest);
            if left == 0 {
                data.pop();
            }
            return tail;
        }
        left -= part_len;
    }
    Vec::new()
}

/// SYNCHRONIZE CACHE. A count of 0 means to the end of the unit.
pub(crate) async fn synchronize_cache(job: &Job<'_>, blocks: Blocks) -> Result<Response, Failure> {
    job.geometry.range(blocks)?;
    job.store().flush().await?;
    Ok(Response::good())
}

/// PRE-FETCH: there is no cache to fetch into. GOOD says just that: not everything fits.
pub(crate) fn prefetch(job: &Job<'_>, blocks: Blocks) -> Result<Response, Failure> {
    job.geometry.range(blocks)?;
    Ok(Response::good())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_split_where_asked() {
        let parts = || vec![Bytes::from_static(b"abc"), Bytes::from_static(b"de"), Bytes::from_static(b"f")];
        for len in 0..=8 {
            let mut left = parts();
            let right = split_off(&mut left, len);
            let at = (len as usize).min(6);
            assert_eq!(left.concat(), b"abcdef"[..at], "{len}");
            assert_eq!(right.concat(), b"abcdef"[at..], "{len}");
            assert!(left.iter().chain(&right).all(|part| !part.is_empty()));
        }
    }
}
