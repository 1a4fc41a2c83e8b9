//! Single records of the log and the hello of a connection, with damage behind their checksums too.

use bytes::Bytes;
use curve_log::format::{
    GroupRecord, Kind, RECORD_HEADER_BYTES, RecordHeader, RecordPlace, SEGMENT_HEADER_BYTES, SegmentHeader,
    decode_record,
};
use curve_rpc::format::{HELLO_BYTES, Hello, Verdict, decode_hello, encode_hello};
use curve_types::GroupId;
use rand::rngs::StdRng;
use rand::{Rng, RngCore};

use crate::damage::{damage, damage_in_place};

const PLACE: RecordPlace = RecordPlace { sequence: 3, offset: 4096 };

pub fn case(random: &mut StdRng) -> &'static str {
    let accepted = match random.random_range(0..4) {
        0 => record(random),
        1 => segment_header(random),
        2 => group_record(random),
        _ => hello(random),
    };
    if accepted { "accepted" } else { "refused" }
}

fn noise(random: &mut StdRng, longest: usize) -> Vec<u8> {
    let mut bytes = vec![0; random.random_range(0..=longest)];
    random.fill_bytes(&mut bytes);
    bytes
}

fn crc(parts: &[&[u8]]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().to_le_bytes()
}

fn record(random: &mut StdRng) -> bool {
    let (meta, payload) = (noise(random, 40), noise(random, 3000));
    let header = RecordHeader {
        kind: [Kind::Append, Kind::Vote, Kind::State, Kind::Purge][random.random_range(0..4)],
        meta_len: meta.len() as u32,
        payload_len: payload.len() as u32,
        batch_start: 4096,
        incarnation: random.random(),
        group: GroupId(random.random()),
        index: random.random(),
    };
    let mut bytes = header.encode(PLACE, [&meta[..], &payload].into_iter()).to_vec();
    bytes.extend([meta, payload].concat());
    damage(random, &mut bytes);
    let _ = decode_record(&bytes, PLACE);
    seal_record(&mut bytes);
    let Ok(record) = decode_record(&bytes, PLACE) else { return false };
    let again = record.header.encode(PLACE, [record.meta, record.payload].into_iter());
    assert_eq!(again[..], bytes[..RECORD_HEADER_BYTES], "a record has one encoding");
    if record.header.kind == Kind::State {
        let _ = GroupRecord::decode(record.header.index, record.meta);
    }
    true
}

/// Makes the checksum right where the record is whole.
fn seal_record(bytes: &mut [u8]) {
    let Ok(header) = RecordHeader::decode_unchecked(bytes) else { return };
    let end = RECORD_HEADER_BYTES as u64 + u64::from(header.meta_len) + u64::from(header.payload_len);
    if end <= bytes.len() as u64 {
        let (sequence, offset) = (PLACE.sequence.to_le_bytes(), u64::from(PLACE.offset).to_le_bytes());
        let right = crc(&[&sequence, &offset, &bytes[4..end as usize]]);
        bytes[..4].copy_from_slice(&right);
    }
}

fn segment_header(random: &mut StdRng) -> bool {
    let header = SegmentHeader {
        sequence: random.random(),
        incarnation: random.random(),
        previous_end: random.random(),
        oldest: random.random(),
        segment_bytes: random.random(),
    };
    let mut bytes = header.encode();
    damage_in_place(random, &mut bytes);
    let _ = SegmentHeader::decode(&bytes);
    let right = crc(&[&bytes[..12], &bytes[16..SEGMENT_HEADER_BYTES]]);
    bytes[12..16].copy_from_slice(&right);
    let Ok(header) = SegmentHeader::decode(&bytes) else { return false };
    assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
    true
}

fn group_record(random: &mut StdRng) -> bool {
    let part = |random: &mut StdRng| random.random::<bool>().then(|| Bytes::from(noise(random, 40)));
    let record = GroupRecord {
        purged: part(random).map(|meta| (random.random(), meta)),
        vote: part(random),
        committed: part(random),
    };
    let (index, meta) = record.encode();
    let mut bytes = meta.to_vec();
    damage(random, &mut bytes);
    let Some(record) = GroupRecord::decode(index, &bytes) else { return false };
    assert_eq!(record.encode().1, bytes, "a group record has one encoding");
    true
}

fn hello(random: &mut StdRng) -> bool {
    const VERDICTS: [Verdict; 3] = [Verdict::GoOn, Verdict::TlsRequired, Verdict::Stopping];
    let mut bytes: [u8; HELLO_BYTES] = encode_hello(&Hello {
        version: random.random(),
        verdict: VERDICTS[random.random_range(0..VERDICTS.len())],
        inflight_max: random.random(),
        inflight_bytes_max: random.random(),
        clock: random.random(),
    });
    damage_in_place(random, &mut bytes);
    let _ = decode_hello(&bytes);
    let right = crc(&[&bytes[..28]]);
    bytes[28..].copy_from_slice(&right);
    let Ok(hello) = decode_hello(&bytes) else { return false };
    assert_eq!(decode_hello(&encode_hello(&hello)), Ok(hello));
    true
}
