//! Walks over the records of one segment: for recovery, and for tools that read a log offline. Pure.

use crate::format::{
    Kind, RECORD_ALIGN, RECORD_HEADER_BYTES, RECORDS_START, Record, RecordError, RecordHeader, RecordPlace,
    SegmentHeader, decode_record,
};

/// The records of a segment, in order, up to the first bytes that are no record of it.
///
/// ```no_run
/// # fn show(bytes: &[u8]) -> Result<(), curve_log::format::HeaderError> {
/// let header = curve_log::format::SegmentHeader::decode(bytes)?;
/// let mut records = curve_log::Records::new(bytes, &header);
/// for (offset, record) in records.by_ref() {
///     println!("{offset}: {:?}", record.header);
/// }
/// println!("ends at {} because: {}", records.offset(), records.end().expect("it has ended"));
/// # Ok(()) }
/// ```
pub struct Records<'a> {
    bytes: &'a [u8],
    sequence: u64,
    incarnation: u32,
    offset: u32,
    end: Option<RecordError>,
}

impl<'a> Records<'a> {
    /// The records in `bytes`, which is a segment file from its first byte on.
    pub fn new(bytes: &'a [u8], header: &SegmentHeader) -> Self {
        let incarnation = header.incarnation;
        Self { bytes, sequence: header.sequence, incarnation, offset: RECORDS_START, end: None }
    }

    /// Where the next record would be.
    pub fn offset(&self) -> u32 {
        self.offset
    }

    /// The incarnation of the last record, or of the segment.
    pub fn incarnation(&self) -> u32 {
        self.incarnation
    }

    /// Why there are no more records, once that is known.
    pub fn end(&self) -> Option<RecordError> {
        self.end
    }

    fn decode(&self, offset: u32) -> Result<Record<'a>, RecordError> {
        let bytes = self.bytes.get(offset as usize..).ok_or(RecordError::Short)?;
        decode_record(bytes, RecordPlace { sequence: self.sequence, offset })
    }

    /// A record that an earlier writer left behind the point where it was cut is none of the log's.
    fn belongs(&self, header: &RecordHeader) -> bool {
        header.incarnation == self.incarnation
            || (header.kind == Kind::Opened && header.incarnation > self.incarnation)
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = (u32, Record<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.end.is_some() {
            return None;
        }
        match self.decode(self.offset) {
            Ok(record) if self.belongs(&record.header) => {
                let offset = self.offset;
                self.incarnation = record.header.incarnation;
                self.offset += record.header.record_len() as u32;
                Some((offset, record))
            }
            Ok(_) => {
                self.end = Some(RecordError::Unknown);
                None
            }
            Err(error) => {
                self.end = Some(error);
                None
            }
        }
    }
}

/// What lies behind the last good record of the newest segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tail {
    /// Nothing of the last writer's.
    Clean,
    /// Remains of this many bytes of a batch that was never durable as a whole.
    Torn(u64),
    /// A later record proves that what should be at the end was durable once.
    Corrupt {
        /// Where the record is that proves it.
        witness: u32,
    },
}

/// Judges what lies behind the last good record, for the newest segment only.
pub fn judge_tail(records: &Records<'_>) -> Tail {
    let end = records.offset();
    let mut torn_end = claimed_end(records);
    let last = records.bytes.len().saturating_sub(RECORD_HEADER_BYTES) as u64;
    let mut at = u64::from(end) + RECORD_ALIGN as u64;
    while at <= last {
        let offset = at as u32;
        at += RECORD_ALIGN as u64;
        if !may_begin_record(&records.bytes[offset as usize..], records.incarnation) {
            continue;
        }
        let Ok(record) = records.decode(offset) else { continue };
        if record.header.batch_start > end {
            return Tail::Corrupt { witness: offset };
        }
        at = u64::from(offset) + record.header.record_len() as u64;
        torn_end = torn_end.max(at);
    }
    if torn_end > u64::from(end) { Tail::Torn(torn_end - u64::from(end)) } else { Tail::Clean }
}

/// Where the bad record at the end would end if its header can be believed.
fn claimed_end(records: &Records<'_>) -> u64 {
    let offset = records.offset();
    let bytes = records.bytes.get(offset as usize..).unwrap_or(&[]);
    match RecordHeader::decode_unchecked(bytes) {
        Ok(header) if header.incarnation == records.incarnation && header.batch_start <= offset => {
            u64::from(offset) + header.record_len().min(bytes.len()) as u64
        }
        _ => u64::from(offset),
    }
}

/// A cheap test before the checksum is computed.
fn may_begin_record(bytes: &[u8], incarnation: u32) -> bool {
    RecordHeader::decode_unchecked(bytes).is_ok_and(|header| header.incarnation >= incarnation)
}
