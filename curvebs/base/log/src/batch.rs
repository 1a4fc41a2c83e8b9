//! What is written and synced together: records laid out for one place in one segment, as whole pages.

use bytes::Bytes;
use curve_io::{AlignedBuf, PAGE_BYTES};
use curve_types::GroupId;

use crate::format::{Kind, RECORD_ALIGN, RECORDS_START, RecordHeader, RecordPlace, SegmentHeader};

/// A batch keeps at most this much memory from one to the next.
const KEPT_BYTES: usize = 8 << 20;
/// And so much while nothing is written.
const IDLE_BYTES: usize = 64 << 10;

/// Where an entry is on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) segment: u64,
    pub(crate) offset: u32,
    pub(crate) len: u32,
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

/// A batch under construction.
///
/// It is written as whole pages, so that it can go around the page cache and the kernel never has to read a page in order
/// to change it. So it begins with what is durable already of the page it begins in. Writing that again is harmless: a
/// torn write leaves each sector old or new, and both have the same durable records.
pub(crate) struct Batch {
    segment: u64,
    incarnation: u32,
    /// Where the durable records end; 0 in a new segment, whose header is part of the batch.
    durable: u32,
    first_record: u32,
    end: u32,
    /// The bytes from the page on in which `durable` lies.
    pages: AlignedBuf,
}

impl Batch {
    /// An empty batch that goes to `tail` of a segment; `prefix` is what its page holds before.
    pub(crate) fn new(segment: u64, incarnation: u32, tail: u32, prefix: &[u8]) -> Self {
        assert_eq!(prefix.len(), tail as usize % PAGE_BYTES, "the page up to the tail");
        let mut pages = AlignedBuf::new();
        pages.extend_from_slice(prefix);
        Self { segment, incarnation, durable: tail, first_record: tail, end: tail, pages }
    }

    /// Starts over behind what was laid out, which is durable now.
    pub(crate) fn clear(&mut self) {
        let len = self.end - self.start() as u32;
        self.pages.truncate(len as usize);
        self.pages.keep_from(len as usize / PAGE_BYTES * PAGE_BYTES);
        self.pages.shrink_to(KEPT_BYTES);
        self.durable = self.end;
        self.first_record = self.end;
    }

    /// Gives memory back when no more is coming for a while.
    pub(crate) fn rest(&mut self) {
        self.pages.shrink_to(IDLE_BYTES);
    }

    /// Starts over at the begin of a new segment, whose header is written with the first records.
    pub(crate) fn begin_segment(&mut self, header: &SegmentHeader) {
        assert!(self.is_empty(), "records of the old segment must be flushed first");
        self.segment = header.sequence;
        self.pages.truncate(0);
        self.pages.extend_from_slice(&header.encode());
        self.pages.extend_from_slice(&[0; RECORDS_START as usize][self.pages.len()..]);
        self.durable = 0;
        self.first_record = RECORDS_START;
        self.end = RECORDS_START;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.end == self.durable
    }

    /// Where the pages go.
    pub(crate) fn start(&self) -> u64 {
        u64::from(self.durable) / PAGE_BYTES as u64 * PAGE_BYTES as u64
    }

    /// Where the next record goes.
    pub(crate) fn end(&self) -> u32 {
        self.end
    }

    /// Bytes that are not durable yet.
    pub(crate) fn len(&self) -> u64 {
        u64::from(self.end - self.durable)
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
        self.pages.extend_from_slice(&header.encode(place, content));
        self.pages.extend_from_slice(record.meta);
        for part in &record.payload {
            self.pages.extend_from_slice(part);
        }
        let len = header.record_len() as u32;
        let end = (self.end + len) as usize - self.start() as usize;
        self.pages.extend_from_slice(&[0; RECORD_ALIGN][..end - self.pages.len()]);
        self.end += len;
        Place { segment: self.segment, offset: place.offset, len }
    }

    /// Lends the pages out to be written; [`give_back`](Self::give_back) follows.
    pub(crate) fn lend(&mut self) -> AlignedBuf {
        self.pages.fill_page();
        std::mem::take(&mut self.pages)
    }

    /// Takes the pages back.
    pub(crate) fn give_back(&mut self, pages: AlignedBuf) {
        self.pages = pages;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::decode_record;

    #[test]
    fn a_batch_is_its_records_in_whole_pages() {
        let prefix = [9; 8];
        let mut batch = Batch::new(4, 2, 8200, &prefix);
        let parts = vec![Bytes::from("ab"), Bytes::from(vec![7; 300]), Bytes::from("c")];
        let record =
            NewRecord { kind: Kind::Append, group: GroupId(1), index: 5, meta: b"m", payload: parts };
        let first = batch.push(record);
        let second = batch.push(NewRecord::small(Kind::Vote, GroupId(2), 0, b"vote"));
        assert_eq!((first.offset, second.offset), (8200, 8200 + first.len));
        assert_eq!((batch.start(), batch.len()), (8192, u64::from(first.len + second.len)));
        let pages = batch.lend();
        assert_eq!((pages.len(), &pages[..8]), (PAGE_BYTES, &prefix[..]));
        let place = RecordPlace { sequence: 4, offset: 8200 };
        let record = decode_record(&pages[8..], place).unwrap();
        assert_eq!(record.payload.len(), 303);
        let place = RecordPlace { sequence: 4, offset: second.offset };
        let record = decode_record(&pages[8 + first.len as usize..], place).unwrap();
        assert_eq!((record.meta, record.header.batch_start), (&b"vote"[..], 8200));
        batch.give_back(pages);
        batch.clear();
        assert!(batch.is_empty() && batch.end() == second.offset + second.len);

        let third = NewRecord::small(Kind::Append, GroupId(1), 6, b"m");
        batch.push(NewRecord { payload: vec![Bytes::from(vec![1; 3 * PAGE_BYTES])], ..third });
        let pages = batch.lend();
        assert_eq!(
            (batch.start(), pages.len()),
            (8192, 4 * PAGE_BYTES),
            "the page is written again from its begin"
        );
        assert_eq!(
            decode_record(&pages[8..], RecordPlace { sequence: 4, offset: 8200 }).unwrap().payload.len(),
            303
        );
        batch.give_back(pages);
        batch.clear();
        assert_eq!(batch.start(), 8192 + 3 * PAGE_BYTES as u64);
        batch.begin_segment(&SegmentHeader { sequence: 5, ..SegmentHeader::default() });
        assert!(!batch.is_empty() && batch.start() == 0);
        assert_eq!(batch.lend().len() as u32, RECORDS_START.next_multiple_of(PAGE_BYTES as u32));
    }
}
