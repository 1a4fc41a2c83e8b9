//! VERIFY and WRITE AND VERIFY (SBC-3 5.32–5.35, 5.44–5.46).

use bytes::Bytes;
use curve_blockdev::first_difference;

use crate::cdb::{Blocks, ByteCheck};
use crate::execute::Job;
use crate::failure::Failure;
use crate::read_write::{cut, split_off, write_range};
use crate::sense::{AdditionalSense, Sense, SenseKey};
use crate::status::Response;
use crate::unit::ByteRange;

/// Read in one piece.
const PIECE_BYTES: u64 = 1 << 20;

/// VERIFY: reads, so that what cannot be read is found, and compares if asked to.
pub(crate) async fn verify(job: &Job<'_>, blocks: Blocks, check: ByteCheck) -> Result<Response, Failure> {
    let mut range = match check {
        ByteCheck::All => job.geometry.transfer(blocks, 7)?,
        ByteCheck::None | ByteCheck::One => job.geometry.range(blocks)?,
    };
    let data = &job.data_out.parts;
    match check {
        ByteCheck::None => for_each_piece(job, range, |_, _| Ok(())).await?,
        ByteCheck::All => {
            // What did not come is not compared.
            range.len = range.len.min(job.data_out.len() / job.block() * job.block());
            compare(job, range, cut(data.clone(), range.len)).await?;
        }
        ByteCheck::One if blocks.count > 0 => {
            let block = cut(data.clone(), job.block()).concat();
            if block.len() as u64 != job.block() {
                return Err(Sense::illegal(AdditionalSense::INVALID_FIELD_IN_CDB).into());
            }
            for_each_piece(job, range, |at, found| compare_each(at, &found.concat(), &block)).await?;
        }
        ByteCheck::One => {}
    }
    Ok(Response::good())
}

/// WRITE AND VERIFY: writes, then reads and, if asked to, compares.
pub(crate) async fn write_and_verify(
    mut job: Job<'_>,
    blocks: Blocks,
    compared: bool,
) -> Result<Response, Failure> {
    let mut range = job.geometry.transfer(blocks, 7)?;
    let data = cut(std::mem::take(&mut job.data_out.parts), range.len);
    write_range(&job, range, data.clone()).await?;
    let came: u64 = data.iter().map(|part| part.len() as u64).sum();
    range.len = came / job.block() * job.block();
    if compared {
        compare(&job, range, cut(data, range.len)).await?;
    } else {
        for_each_piece(&job, range, |_, _| Ok(())).await?;
    }
    Ok(Response::good())
}

async fn compare(job: &Job<'_>, range: ByteRange, mut expected: Vec<Bytes>) -> Result<(), Failure> {
    for_each_piece(job, range, |at, found| {
        let rest = split_off(&mut expected, found.iter().map(|part| part.len() as u64).sum());
        let here = std::mem::replace(&mut expected, rest);
        first_difference(&found, &here).map_or(Ok(()), |differs| Err(miscompare(at + differs)))
    })
    .await
}

fn compare_each(at: u64, found: &[u8], block: &[u8]) -> Result<(), Sense> {
    for (index, one) in found.chunks(block.len()).enumerate() {
        if let Some(differs) = one.iter().zip(block).position(|(x, y)| x != y) {
            return Err(miscompare(at + (index * block.len() + differs) as u64));
        }
    }
    Ok(())
}

/// MISCOMPARE with the offset of the first byte that differs (SBC-3 4.15).
pub(crate) fn miscompare(at: u64) -> Sense {
    Sense::new(SenseKey::Miscompare, AdditionalSense::MISCOMPARE_DURING_VERIFY).with_information(at)
}

/// Reads a range piece by piece; `look` gets the offset in the range and the data.
async fn for_each_piece(
    job: &Job<'_>,
    range: ByteRange,
    mut look: impl FnMut(u64, Vec<Bytes>) -> Result<(), Sense>,
) -> Result<(), Failure> {
    let mut at = 0;
    while at < range.len {
        job.check_aborted()?;
        let len = PIECE_BYTES.min(range.len - at);
        look(at, job.store().read(range.offset + at, len as u32).await?)?;
        at += len;
    }
    Ok(())
}

impl Job<'_> {
    /// Bytes of a logical block.
    pub(crate) fn block(&self) -> u64 {
        u64::from(self.geometry.block_bytes)
    }
}
