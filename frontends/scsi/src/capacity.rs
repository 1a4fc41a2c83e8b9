//! READ CAPACITY (SBC-3 5.15, 5.16).

use bytes::Bytes;

use crate::execute::Job;
use crate::status::Response;

/// Bytes of READ CAPACITY(16) parameter data.
const CAPACITY16_BYTES: usize = 32;
/// LBPME and LBPRZ: thin, and what is unmapped reads as zeros.
const THIN_READS_ZEROS: u8 = 0xc0;

/// READ CAPACITY(10): the last LBA, all ones if it does not fit, and the block size.
pub(crate) fn read_capacity10(job: &Job<'_>) -> Response {
    let last = u32::try_from(job.geometry.blocks.saturating_sub(1)).unwrap_or(u32::MAX);
    let data = [last.to_be_bytes(), job.geometry.block_bytes.to_be_bytes()].concat();
    Response::data(vec![Bytes::from(data)])
}

/// READ CAPACITY(16)
///
/// The logical blocks per physical block stay 1 also where the device likes larger writes better: a 512-byte write is
/// atomic here and needs no read-modify-write of the initiator's. Preferences are in the block limits page.
pub(crate) fn read_capacity16(job: &Job<'_>, allocation: u32) -> Response {
    let mut data = [0; CAPACITY16_BYTES];
    data[..8].copy_from_slice(&job.geometry.blocks.saturating_sub(1).to_be_bytes());
    data[8..12].copy_from_slice(&job.geometry.block_bytes.to_be_bytes());
    data[14] = THIN_READS_ZEROS;
    job.parameter_data(Bytes::copy_from_slice(&data), allocation)
}
