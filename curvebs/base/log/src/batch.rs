//! What is written and synced together: records laid out for one place in one segment, payload by reference.

use std::io::IoSlice;

use bytes::Bytes;
use curve_types::GroupId;

use crate::format::{Kind, RECORDS_START, RecordHeader, RecordPlace, SegmentHeader};

/// Parts up to this long are copied next to the header: that costs less than a slice of their own in the system call.
const COPY_BYTES_MAX: usize = 256;
/// A batch is filled up to a whole page, so that the kernel never has to read one in order to change it.
const PAGE: usize = 4096;
static ZEROS: [u8; PAGE] = [0; PAGE];

/// Where an entry is on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) segment: u64,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

enum Piece {
    /// A range of the arena, up to this end; it begins where the last such piece ended.
    Arena(usize),
    Payload(Bytes),
}

/// One record to be laid out.
pub(crate) struct NewRecord<'a> {
    pub(crate) kind: Kind,
    pub(crate) group: GroupId,
    pub(crate) index: u64,
    pub(crate) meta: &'a [u8],
    pub(crate) payload: Vec<Bytes>,
}

impl<'a> NewRecord<'a> {
    /// A record without payload.
    pub(crate) fn small(kind: Kind, group: GroupId, index: u64, meta: &'a [u8]) -> Self {
        Self { kind, group, index, meta, payload: Vec::new() }
    }
}

/// A batch under construction. Its buffers are kept from batch to batch.
pub(crate) struct Batch {
    segment: u64,
    incarnation: u32,
    /// Where the write begins: that of the first record, or 0 with the segment's header.
    start: u32,
    first_record: u32,
    end: u32,
    arena: Vec<u8>,
    pieces: Vec<Piece>,
}

impl Batch {
    /// An empty batch that goes to `tail` of a segment.
    pub(crate) fn new(segment: u64, incarnation: u32, tail: u32) -> Self {
        let (arena, pieces) = (Vec::new(), Vec::new());
        Self { segment, incarnation, start: tail, first_record: tail, end: tail, arena, pieces }
    }

    /// Starts over behind what was laid out.
    pub(crate) fn clear(&mut self) {
        self.start = self.end;
        self.first_record = self.end;
        self.arena.clear();
        self.pieces.clear();
    }

    /// Starts over at the begin of a new segment, whose header is written with the first records.
    pub(crate) fn begin_segment(&mut self, header: &SegmentHeader) {
        assert!(self.is_empty(), "records of the old segment must be flushed first");
        self.segment = header.sequence;
        self.arena.extend_from_slice(&header.encode());
        self.arena.resize(RECORDS_START as usize, 0);
        self.pieces.push(Piece::Arena(self.arena.len()));
        self.start = 0;
        self.first_record = RECORDS_START;
        self.end = RECORDS_START;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.end == self.start
    }

    pub(crate) fn start(&self) -> u64 {
        u64::from(self.start)
    }

    /// Where the next record goes.
    pub(crate) fn end(&self) -> u32 {
        self.end
    }

    pub(crate) fn len(&self) -> u64 {
        u64::from(self.end - self.start)
    }

    /// Lays a record out behind the others.
    pub(crate) fn push(&mut self, record: NewRecord<'_>) -> Place {
        let header = RecordHeader {
            kind: record.kind,
            meta_len: record.meta.len() as u32,
            payload_len: record.payload.iter().map(Bytes::len).sum::<usize>() as u32,
            batch_start: self.first_record,
            incarnation: self.incarnation,
            group: record.group,
            index: record.index,
        };
        let place = RecordPlace { sequence: self.segment, offset: self.end };
        let content = std::iter::once(record.meta).chain(record.payload.iter().map(|part| &part[..]));
        let fixed = header.encode(place, content);
        self.copy(&fixed);
        self.copy(record.meta);
        for part in record.payload {
            if part.len() <= COPY_BYTES_MAX {
                self.copy(&part)
            } else {
                self.pieces.push(Piece::Payload(part))
            }
        }
        let len = header.record_len() as u32;
        let unpadded = (fixed.len() as u32) + header.meta_len + header.payload_len;
        self.copy(&ZEROS[..(len - unpadded) as usize]);
        self.end += len;
        Place { segment: self.segment, offset: place.offset, len }
    }

    /// Calls `write` with all pieces, filled up to a whole page.
    pub(crate) fn with_slices<T>(&self, write: impl FnOnce(&[IoSlice<'_>]) -> T) -> T {
        let mut slices = Vec::with_capacity(self.pieces.len() + 1);
        let mut begin = 0;
        for piece in &self.pieces {
            match piece {
                Piece::Arena(end) => {
                    slices.push(IoSlice::new(&self.arena[begin..*end]));
                    begin = *end;
                }
                Piece::Payload(part) => slices.push(IoSlice::new(part)),
            }
        }
        let fill = (self.end as usize).next_multiple_of(PAGE) - self.end as usize;
        slices.push(IoSlice::new(&ZEROS[..fill]));
        write(&slices)
    }

    fn copy(&mut self, bytes: &[u8]) {
        self.arena.extend_from_slice(bytes);
        match self.pieces.last_mut() {
            Some(Piece::Arena(end)) => *end = self.arena.len(),
            _ => self.pieces.push(Piece::Arena(self.arena.len())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::decode_record;

    fn bytes_of(batch: &Batch) -> Vec<u8> {
        batch.with_slices(|slices| slices.iter().flat_map(|slice| slice.to_vec()).collect())
    }

    #[test]
    fn a_batch_is_its_records_and_zeros_up_to_a_page() {
        let mut batch = Batch::new(4, 2, 8200);
        let large = Bytes::from(vec![7; 300]);
        let parts = vec![Bytes::from("ab"), large.clone(), Bytes::from("c")];
        let record =
            NewRecord { kind: Kind::Append, group: GroupId(1), index: 5, meta: b"m", payload: parts };
        let first = batch.push(record);
        let second = batch.push(NewRecord::small(Kind::Vote, GroupId(2), 0, b"vote"));
        assert_eq!((first.offset, second.offset), (8200, 8200 + first.len));
        assert!(
            batch
                .pieces
                .iter()
                .any(|piece| matches!(piece, Piece::Payload(part) if part.as_ptr() == large.as_ptr())),
            "large parts are not copied"
        );
        let bytes = bytes_of(&batch);
        assert_eq!((8200 + bytes.len()) % PAGE, 0);
        let place = RecordPlace { sequence: 4, offset: 8200 };
        let record = decode_record(&bytes, place).unwrap();
        assert_eq!(record.payload.len(), 303);
        let place = RecordPlace { sequence: 4, offset: second.offset };
        let record = decode_record(&bytes[first.len as usize..], place).unwrap();
        assert_eq!((record.meta, record.header.batch_start), (&b"vote"[..], 8200));
        batch.clear();
        assert!(batch.is_empty() && batch.end() == second.offset + second.len);
    }
}
