//! What a log is told at start and what it tells about itself.

use std::time::Duration;

use curve_types::GroupId;

use crate::error::LogError;

/// The smallest and the largest segment: offsets are 32-bit, and the states of all groups must fit several times.
const SEGMENT_BYTES_MIN: u64 = 64 << 10;
const SEGMENT_BYTES_MAX: u64 = 2 << 30;
const PAGE_BYTES: u64 = 4096;

/// Sizes and limits of a log.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Bytes of one segment file. An entry may be a quarter of it.
    pub segment_bytes: u64,
    /// Payload bytes of recent entries that are kept in memory, over all groups.
    pub cache_bytes: usize,
    /// Bytes that may wait for the writer before [`crate::GroupLog::admit`] holds callers back.
    pub queue_bytes_max: usize,
    /// Bytes written and synced at once, at most (one entry more may go over it).
    pub batch_bytes_max: usize,
    /// Free segments that are kept for reuse; further ones are deleted.
    pub spare_segments_max: usize,
    /// Bytes of the disk that new segments leave free: what is in the log needs room where it goes from there.
    pub keep_free_bytes: u64,
    /// How long after the last write the lazily durable records (commit points, purges) are made durable.
    pub settle_after: Duration,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            cache_bytes: 16 << 20,
            queue_bytes_max: 64 << 20,
            batch_bytes_max: 4 << 20,
            spare_segments_max: 8,
            keep_free_bytes: 16 << 20,
            settle_after: Duration::from_millis(500),
        }
    }
}

impl LogConfig {
    /// The largest entry (meta and payload together) that is accepted.
    pub fn entry_bytes_max(&self) -> usize {
        (self.segment_bytes / 4) as usize
    }

    pub(crate) fn check(&self) -> Result<(), LogError> {
        let sizes = SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX;
        if sizes.contains(&self.segment_bytes) && self.segment_bytes.is_multiple_of(PAGE_BYTES) {
            return Ok(());
        }
        let (bytes, least, most) = (self.segment_bytes, sizes.start(), sizes.end());
        Err(LogError::Config(format!(
            "segment_bytes is {bytes}; it must be a multiple of 4096 from {least} to {most}"
        )))
    }
}

/// What `Log::open` found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// All groups with something in the log, sorted.
    pub groups: Vec<GroupId>,
    /// Bytes of records that were cut off the end because a crash had torn them; none was acknowledged.
    pub truncated_tail_bytes: u64,
    /// Segments that were read.
    pub segments: usize,
    /// Entries that are in the log now.
    pub entries: u64,
}

/// A group that keeps an old segment from being reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The group.
    pub group: GroupId,
    /// Its first entry; purging up to the last entry of the segment frees it.
    pub first_index: u64,
    /// Its last entry within the oldest segment: purging up to here lets the segment go.
    pub last_index_in_segment: u64,
    /// How many segments the group keeps, counted from its first entry to the newest segment.
    pub segments: u64,
}

/// Counters and sizes since `Log::open`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// `fdatasync`s done by the writer.
    pub flushes: u64,
    /// Entries appended and durable.
    pub appended_entries: u64,
    /// Bytes of records written, headers included.
    pub appended_bytes: u64,
    /// Entries served from memory.
    pub cache_hits: u64,
    /// Entries read back from disk.
    pub cache_misses: u64,
    /// Bytes that wait for the writer now.
    pub queued_bytes: usize,
    /// Segments that hold something needed, the active one included.
    pub live_segments: usize,
    /// Prepared segments that wait for use.
    pub spare_segments: usize,
    /// No spare segment could be made: the disk is full. New work should be refused, entries be purged.
    pub space_low: bool,
    /// Groups by the age of the oldest segment they keep, oldest first; only those not in the active segment.
    pub pinning: Vec<Pin>,
}
