//! The bytes of a log, version 1. All numbers are little-endian.
//!
//! A log is a directory of segment files `segment-000001`, … of equal length, made once and reused. A file's number
//! means nothing; the order is that of the sequence numbers in the headers.
//!
//! Segment header, one 512-byte sector at offset 0 (so that a crash leaves either the old or the new one):
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `CURVELOG` |
//! | 8 | 2 | format version, 1 |
//! | 10 | 2 | zero |
//! | 12 | 4 | CRC-32 of the other 508 bytes of the sector; the same place in every version |
//! | 16 | 8 | sequence: 1, 2, 3, … without holes; 0 in a file that was never used |
//! | 24 | 4 | incarnation of the writer that started the segment; 1 for the first open of a log, then growing |
//! | 28 | 4 | offset where the records of the segment before this one end; 0 in the first |
//! | 32 | 8 | oldest sequence that was needed when the segment was started; files with a lower one are free |
//! | 40 | 8 | length of the file |
//! | 48 | 464 | zero |
//!
//! Records follow from offset 4096 on, each at a multiple of 8:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | CRC-32 of: sequence (8 bytes), offset of the record in the file (8 bytes), bytes 4.. of the record without padding |
//! | 4 | 2 | magic `0xC5A7` |
//! | 6 | 1 | kind |
//! | 7 | 1 | zero |
//! | 8 | 4 | length of the meta |
//! | 12 | 4 | length of the payload |
//! | 16 | 4 | offset of the first record of the batch, which is what was written and synced together |
//! | 20 | 4 | incarnation |
//! | 24 | 8 | group; 0 where the kind has none |
//! | 32 | 8 | index |
//! | 40 | … | meta, payload, zeros up to a multiple of 8 |
//!
//! | kind | | index | meta |
//! |---|---|---|---|
//! | 1 | append | of the entry | the caller's; the payload is the entry's |
//! | 2 | vote | 0 | the vote |
//! | 3 | committed | 0 | the commit point |
//! | 4 | truncate | first entry that is removed | empty |
//! | 5 | purge | last entry that is removed | the caller's |
//! | 6 | remove group | 0 | empty |
//! | 7 | state | last purged entry | see [`GroupRecord`]; all that a segment before this one may say of the group but entries |
//! | 8 | opened | 0 | empty; a new incarnation begins, and what is left of older ones behind it is void |
//! | 9 | floor | oldest sequence that is needed from now on | empty |
//! | 10 | settled | 0 | empty; says by its batch offset that everything before it was durable |
//!
//! Why a stale record never looks valid: the CRC covers the segment's sequence and the record's own offset, which keeps
//! out what a reused file held before and what a payload may contain; the incarnation keeps out what a crash left
//! behind the point where an earlier writer was cut. It is durable (alone) before anything is written under it.
//!
//! What tells a torn tail from corruption: a batch is written only when all before it is durable, and every record
//! names where its batch began. So if a valid record of the same incarnation follows a bad one, the bad one belonged to
//! the same batch (torn, never acknowledged) or to an earlier one (durable once, corrupt now). And a segment's header
//! says where its predecessor ends. A damaged record in the very last batch cannot be told from a torn one; the writer
//! keeps that window short by a `settled` record when it falls idle.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use curve_types::GroupId;
use thiserror::Error;

/// First bytes of every segment.
pub const SEGMENT_MAGIC: [u8; 8] = *b"CURVELOG";
/// The version this program reads and writes.
pub const FORMAT_VERSION: u16 = 1;
/// Bytes of a segment header.
pub const SEGMENT_HEADER_BYTES: usize = 512;
/// Offset of the first record.
pub const RECORDS_START: u32 = 4096;
/// Bytes of a record before its meta.
pub const RECORD_HEADER_BYTES: usize = 40;
/// Records begin at multiples of this.
pub const RECORD_ALIGN: usize = 8;
const RECORD_MAGIC: u16 = 0xC5A7;

/// The header of a segment file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SegmentHeader {
    /// Place in the order of segments; 0 in a file that was never used.
    pub sequence: u64,
    /// The writer's incarnation when the segment was started.
    pub incarnation: u32,
    /// Where the records of the segment before this one end.
    pub previous_end: u32,
    /// The oldest sequence that was needed.
    pub oldest: u64,
    /// Length of the file.
    pub segment_bytes: u64,
}

/// Why a sector is no segment header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum HeaderError {
    /// It is damaged, or something else.
    #[error("the segment header's magic or checksum is wrong")]
    Damaged,
    /// It is intact and of another version.
    #[error("format version {0}")]
    Version(u16),
}

impl SegmentHeader {
    /// The header as a sector.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut sector = [0; SEGMENT_HEADER_BYTES];
        let mut out = &mut sector[..];
        out.put_slice(&SEGMENT_MAGIC);
        out.put_u16_le(FORMAT_VERSION);
        out.put_u16_le(0);
        out.put_u32_le(0);
        out.put_u64_le(self.sequence);
        out.put_u32_le(self.incarnation);
        out.put_u32_le(self.previous_end);
        out.put_u64_le(self.oldest);
        out.put_u64_le(self.segment_bytes);
        let crc = header_crc(&sector);
        sector[12..16].copy_from_slice(&crc.to_le_bytes());
        sector
    }

    /// Reads a header from the first bytes of a file.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let sector: &[u8; SEGMENT_HEADER_BYTES] = bytes.first_chunk().ok_or(HeaderError::Damaged)?;
        let crc = (&sector[12..16]).get_u32_le();
        if sector[..8] != SEGMENT_MAGIC || crc != header_crc(sector) {
            return Err(HeaderError::Damaged);
        }
        let version = (&sector[8..10]).get_u16_le();
        if version != FORMAT_VERSION {
            return Err(HeaderError::Version(version));
        }
        let mut fields = &sector[16..];
        Ok(Self {
            sequence: fields.get_u64_le(),
            incarnation: fields.get_u32_le(),
            previous_end: fields.get_u32_le(),
            oldest: fields.get_u64_le(),
            segment_bytes: fields.get_u64_le(),
        })
    }
}

fn header_crc(sector: &[u8; SEGMENT_HEADER_BYTES]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&sector[..12]);
    crc.update(&sector[16..]);
    crc.finalize()
}

/// What a record says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// One entry.
    Append = 1,
    /// The group's vote.
    Vote = 2,
    /// The group's commit point.
    Committed = 3,
    /// Entries from an index on are gone.
    Truncate = 4,
    /// Entries up to an index are gone.
    Purge = 5,
    /// All of the group is gone.
    RemoveGroup = 6,
    /// Vote, commit point and purge point of a group, repeated.
    State = 7,
    /// A writer took over.
    Opened = 8,
    /// Older segments are free.
    Floor = 9,
    /// Everything before is durable.
    Settled = 10,
}

impl Kind {
    fn decode(byte: u8) -> Option<Self> {
        use Kind::{Append, Committed, Floor, Opened, Purge, RemoveGroup, Settled, State, Truncate, Vote};
        [Append, Vote, Committed, Truncate, Purge, RemoveGroup, State, Opened, Floor, Settled]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// Where a record is; goes into its checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordPlace {
    /// Sequence of the segment.
    pub sequence: u64,
    /// Offset in the file.
    pub offset: u32,
}

/// The fixed part of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordHeader {
    /// What it says.
    pub kind: Kind,
    /// Bytes of the meta.
    pub meta_len: u32,
    /// Bytes of the payload.
    pub payload_len: u32,
    /// Where its batch began.
    pub batch_start: u32,
    /// The writer's incarnation.
    pub incarnation: u32,
    /// The group.
    pub group: GroupId,
    /// The index.
    pub index: u64,
}

/// A record with its content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// The fixed part.
    pub header: RecordHeader,
    /// The meta.
    pub meta: &'a [u8],
    /// The payload.
    pub payload: &'a [u8],
}

/// Why bytes are no record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum RecordError {
    /// Nothing but zeros where the header would be.
    #[error("nothing was written here")]
    Blank,
    /// The bytes end before the record does.
    #[error("the record is cut short")]
    Short,
    /// The magic, the kind or a reserved field is wrong.
    #[error("this is not the start of a record")]
    Unknown,
    /// The checksum does not match.
    #[error("the record's checksum is wrong")]
    Checksum,
}

impl RecordHeader {
    /// Bytes of the record in the file, padding included.
    pub fn record_len(&self) -> usize {
        record_len(self.meta_len as usize, self.payload_len as usize)
    }

    /// The header as bytes, with the checksum over it and the content, which follows in parts.
    pub fn encode<'a>(
        &self,
        place: RecordPlace,
        content: impl Iterator<Item = &'a [u8]>,
    ) -> [u8; RECORD_HEADER_BYTES] {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        let mut out = &mut bytes[4..];
        out.put_u16_le(RECORD_MAGIC);
        out.put_u8(self.kind as u8);
        out.put_u8(0);
        out.put_u32_le(self.meta_len);
        out.put_u32_le(self.payload_len);
        out.put_u32_le(self.batch_start);
        out.put_u32_le(self.incarnation);
        out.put_u64_le(self.group.get());
        out.put_u64_le(self.index);
        let mut crc = seeded_crc(place);
        crc.update(&bytes[4..]);
        content.for_each(|part| crc.update(part));
        bytes[..4].copy_from_slice(&crc.finalize().to_le_bytes());
        bytes
    }

    /// Reads the fixed part without looking at the checksum.
    pub fn decode_unchecked(bytes: &[u8]) -> Result<Self, RecordError> {
        let fixed: &[u8; RECORD_HEADER_BYTES] = bytes.first_chunk().ok_or(RecordError::Short)?;
        if fixed.iter().all(|byte| *byte == 0) {
            return Err(RecordError::Blank);
        }
        let mut fields = &fixed[4..];
        let magic = fields.get_u16_le();
        let kind = Kind::decode(fields.get_u8());
        let zero = fields.get_u8();
        let Some(kind) = kind.filter(|_| magic == RECORD_MAGIC && zero == 0) else {
            return Err(RecordError::Unknown);
        };
        Ok(Self {
            kind,
            meta_len: fields.get_u32_le(),
            payload_len: fields.get_u32_le(),
            batch_start: fields.get_u32_le(),
            incarnation: fields.get_u32_le(),
            group: GroupId(fields.get_u64_le()),
            index: fields.get_u64_le(),
        })
    }
}

/// Bytes that a record takes in the file.
pub fn record_len(meta_len: usize, payload_len: usize) -> usize {
    (RECORD_HEADER_BYTES + meta_len + payload_len).next_multiple_of(RECORD_ALIGN)
}

/// Reads the record at the start of `bytes`, which lie at `place`. Pure; any bytes give a record or an error.
pub fn decode_record(bytes: &[u8], place: RecordPlace) -> Result<Record<'_>, RecordError> {
    let header = RecordHeader::decode_unchecked(bytes)?;
    let meta_end = RECORD_HEADER_BYTES as u64 + u64::from(header.meta_len);
    let end = meta_end + u64::from(header.payload_len);
    if end > bytes.len() as u64 {
        return Err(RecordError::Short);
    }
    let mut crc = seeded_crc(place);
    crc.update(&bytes[4..end as usize]);
    if crc.finalize() != (&bytes[..4]).get_u32_le() {
        return Err(RecordError::Checksum);
    }
    let meta = &bytes[RECORD_HEADER_BYTES..meta_end as usize];
    Ok(Record { header, meta, payload: &bytes[meta_end as usize..end as usize] })
}

fn seeded_crc(place: RecordPlace) -> crc32fast::Hasher {
    let mut seed = [0; 16];
    seed[..8].copy_from_slice(&place.sequence.to_le_bytes());
    seed[8..].copy_from_slice(&u64::from(place.offset).to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&seed);
    crc
}

/// The meta of a `State` record: what is known of a group besides its entries. The purged index is the record's index.
///
/// One byte of flags (1 purged, 2 vote, 4 committed), then for each of the three that is there, in this order, a
/// length (4 bytes) and the bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GroupRecord {
    /// Last purged index and its meta.
    pub purged: Option<(u64, Bytes)>,
    /// The vote.
    pub vote: Option<Bytes>,
    /// The commit point.
    pub committed: Option<Bytes>,
}

impl GroupRecord {
    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.purged.is_none() && self.vote.is_none() && self.committed.is_none()
    }

    /// The record's index and meta.
    pub fn encode(&self) -> (u64, Bytes) {
        let (index, purged) = match &self.purged {
            Some((index, meta)) => (*index, Some(meta)),
            None => (0, None),
        };
        let fields = [purged, self.vote.as_ref(), self.committed.as_ref()];
        let mut out = BytesMut::new();
        out.put_u8(fields.iter().enumerate().map(|(n, field)| u8::from(field.is_some()) << n).sum());
        for field in fields.into_iter().flatten() {
            out.put_u32_le(field.len() as u32);
            out.put_slice(field);
        }
        (index, out.freeze())
    }

    /// Reads a record's index and meta; `None` if the meta is malformed.
    pub fn decode(index: u64, mut meta: &[u8]) -> Option<Self> {
        let flags = meta.try_get_u8().ok().filter(|flags| *flags < 8)?;
        let mut fields = [None, None, None];
        for (n, field) in fields.iter_mut().enumerate() {
            if flags & (1 << n) != 0 {
                let len = meta.try_get_u32_le().ok()? as usize;
                *field = Some(Bytes::copy_from_slice(meta.get(..len)?));
                meta = &meta[len..];
            }
        }
        let [purged, vote, committed] = fields;
        meta.is_empty().then(|| Self { purged: purged.map(|meta| (index, meta)), vote, committed })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLACE: RecordPlace = RecordPlace { sequence: 3, offset: 4096 };

    fn sample() -> Vec<u8> {
        let header = RecordHeader {
            kind: Kind::Append,
            meta_len: 2,
            payload_len: 3,
            batch_start: 4096,
            incarnation: 7,
            group: GroupId(9),
            index: 11,
        };
        let mut bytes = header.encode(PLACE, [&b"me"[..], b"pay"].into_iter()).to_vec();
        bytes.extend_from_slice(b"mepay\0\0\0");
        assert_eq!(bytes.len(), header.record_len());
        bytes
    }

    #[test]
    fn a_record_is_read_back_only_where_it_was_written() {
        let bytes = sample();
        let record = decode_record(&bytes, PLACE).unwrap();
        assert_eq!((record.meta, record.payload), (&b"me"[..], &b"pay"[..]));
        assert_eq!(
            (record.header.group, record.header.index, record.header.incarnation),
            (GroupId(9), 11, 7)
        );
        for wrong in [RecordPlace { sequence: 2, ..PLACE }, RecordPlace { offset: 4104, ..PLACE }] {
            assert_eq!(decode_record(&bytes, wrong), Err(RecordError::Checksum));
        }
        assert_eq!(decode_record(&[0; 64], PLACE), Err(RecordError::Blank));
        assert_eq!(decode_record(&bytes[..44], PLACE), Err(RecordError::Short));
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let golden_record = "25b91e88a7c50100020000000300000000100000070000000900000000000000\
                             0b000000000000006d65706179000000";
        let hex: String = sample().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(&hex[8..], &golden_record[8..]);
        let header = SegmentHeader {
            sequence: 5,
            incarnation: 2,
            previous_end: 8192,
            oldest: 4,
            segment_bytes: 1 << 20,
        };
        let sector = header.encode();
        let hex: String = sector[16..48].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "0500000000000000020000000020000004000000000000000000100000000000");
        assert_eq!(SegmentHeader::decode(&sector), Ok(header));
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed_and_another_version_is_named() {
        let sector = SegmentHeader { sequence: 5, ..SegmentHeader::default() }.encode();
        for at in 0..SEGMENT_HEADER_BYTES {
            let mut damaged = sector;
            damaged[at] ^= 0x10;
            assert_eq!(SegmentHeader::decode(&damaged), Err(HeaderError::Damaged), "byte {at}");
        }
        let mut newer = sector;
        newer[8] = 2;
        let crc = header_crc(&newer);
        newer[12..16].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&newer), Err(HeaderError::Version(2)));
    }

    #[test]
    fn every_flipped_bit_of_a_record_is_noticed() {
        let bytes = sample();
        for at in 0..45 {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert!(decode_record(&damaged, PLACE).is_err(), "byte {at} bit {bit}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_record_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_record(&bytes, PLACE);
            let _ = SegmentHeader::decode(&bytes);
            let _ = GroupRecord::decode(1, &bytes);
        }

        #[test]
        fn group_records_are_read_back(purged in any::<Option<(u64, Vec<u8>)>>(), vote in any::<Option<Vec<u8>>>()) {
            let record = GroupRecord {
                purged: purged.map(|(index, meta)| (index, meta.into())),
                vote: vote.map(Bytes::from),
                committed: None,
            };
            let (index, meta) = record.encode();
            prop_assert_eq!(GroupRecord::decode(index, &meta), Some(record));
        }
    }
}
