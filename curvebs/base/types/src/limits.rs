//! Default sizes and hard limits. The sizes are stored per pool and refused on mismatch.

/// The unit of checksums, allocation and discard: 4 KiB.
pub const BLOCK_BYTES: u64 = 4096;
/// The smallest unit a device may address: 512 bytes.
pub const SECTOR_BYTES: u64 = 512;
/// The unit of placement: 16 MiB.
pub const CHUNK_BYTES: u64 = 16 << 20;
/// The unit of allocation by the MDS: 1 GiB, 64 chunks spread over copysets.
pub const SEGMENT_BYTES: u64 = 1 << 30;
/// A volume's size is a multiple of this: 1 MiB.
pub const VOLUME_BYTES_UNIT: u64 = 1 << 20;
/// The largest volume: 64 TiB.
pub const VOLUME_BYTES_MAX: u64 = 64 << 40;
/// The largest payload of one data-plane frame: 1 MiB.
pub const FRAME_PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// The largest encoded header of one data-plane frame: 64 KiB.
pub const FRAME_HEADER_BYTES_MAX: usize = 64 << 10;
/// The longest range that is compared and written as one: 64 KiB. Such a change is one operation of a copyset's log.
pub const COMPARE_BYTES_MAX: u32 = 64 << 10;
/// Sessions of one volume at a time. A fence names those that go on, in one header and one operation of a log.
pub const HOLDERS_MAX: usize = 128;

const _: () = assert!(32 * HOLDERS_MAX < FRAME_HEADER_BYTES_MAX, "a fence fits a header");
const _: () = assert!(CHUNK_BYTES.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(CHUNK_BYTES.is_multiple_of(COMPARE_BYTES_MAX as u64));
const _: () =
    assert!(2 * COMPARE_BYTES_MAX as usize <= FRAME_PAYLOAD_BYTES_MAX, "both sides travel in one frame");
const _: () = assert!(SEGMENT_BYTES.is_multiple_of(CHUNK_BYTES));
const _: () = assert!(VOLUME_BYTES_UNIT.is_multiple_of(BLOCK_BYTES));
