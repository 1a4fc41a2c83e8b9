//! Valid bytes, and decoders that take any bytes, of a copyset's formats and of the chunkserver's small files. For
//! `tests/fuzz`, which damages the former and gives them to the latter; not an API.
//!
//! Damage rarely gets past a checksum. So what ends with one is tried twice: as it is, and with the checksum made right.

use bytes::{BufMut, Bytes, BytesMut};
use curve_chunkstore::{Changes, ChunkChange, ChunkPart, ExtentIndex, HOLE, PlacedRun, VolumeDeletion};
use curve_multiraft::SnapshotPart;
use curve_node::fuzzing::{accepts_identity, accepts_peers, sample_identity, sample_peers};
use curve_types::{ChunkKey, ClientId, Epoch, Geometry, LogIndex, Sequence, Term, VolumeId};

use super::format::{Action, CopysetOp, Mutation, Outcome};
use super::placed;
use super::record::StateRecord;
use super::snapshot::{Outline, Request, decode_part, encode_part};
use super::volumes::VolumeTable;

/// A format: its name, valid bytes from a seed, and whether any bytes are accepted.
pub type Format = (&'static str, fn(u64) -> Vec<u8>, fn(&[u8]) -> bool);

/// What travels in a copyset's log and snapshots, and what a chunkserver keeps beside its chunks.
pub const FORMATS: [Format; 9] = [
    ("operation", sample_op, take_op),
    ("placed operation", sample_placed, take_placed),
    ("outcome", |seed| outcome(seed).encode().into(), take_outcome),
    ("state record", sample_record, take_record),
    ("snapshot request", |seed| request(seed).encode().into(), take_request),
    ("snapshot outline", sample_outline, take_outline),
    ("snapshot part", sample_part, take_part),
    ("identity", sample_identity, |bytes| accepts_identity(bytes) | accepts_identity(&sealed(bytes))),
    ("peers", sample_peers, |bytes| accepts_peers(bytes) | accepts_peers(&sealed(bytes))),
];

fn key(seed: u64) -> ChunkKey {
    ChunkKey { volume: VolumeId(seed % 3), index: seed as u32 % 100 }
}

fn op(seed: u64) -> (CopysetOp, Vec<u32>) {
    let blocks = 1 + (seed >> 8) as u32 % 20;
    let action = match seed % 8 {
        0 => Action::Write,
        1 => Action::Discard,
        2 | 3 => Action::WriteZeroes { keep_allocated: seed.is_multiple_of(2) },
        4 => return (CopysetOp::Fence { volume: VolumeId(1), epoch: Epoch(seed) }, Vec::new()),
        7 => Action::Miscompare { at: (seed >> 20) as u32 },
        5 => return (CopysetOp::DeleteVolume { volume: VolumeId(seed) }, Vec::new()),
        _ => return (CopysetOp::Marker, Vec::new()),
    };
    let mutation = Mutation {
        key: key(seed),
        epoch: Epoch(seed % 4),
        client: ClientId(seed % 5),
        sequence: Sequence(seed >> 40),
        answered_below: Sequence(seed >> 41),
        offset: (seed >> 16) as u32 % 2048 * 4096,
        len: blocks * 4096,
        read_in: (seed & 16 != 0).then_some(Term(seed >> 50)),
        more: seed & 32 != 0,
        action,
    };
    let crcs = if action == Action::Write { vec![seed as u32; blocks as usize] } else { Vec::new() };
    (CopysetOp::Mutation(mutation), crcs)
}

fn sample_op(seed: u64) -> Vec<u8> {
    let (op, crcs) = op(seed);
    op.encode(&crcs).into()
}

fn take_op(bytes: &[u8]) -> bool {
    let mut crcs = Vec::new();
    // A write's payload is as long as the header says; any other length must be refused.
    let said = bytes.get(60..64).map_or(0, |len| u32::from_le_bytes(len.try_into().expect("4 bytes")));
    let payload = if bytes.get(1) == Some(&1) { said as usize } else { 0 };
    let Ok(op) = CopysetOp::decode(bytes, payload, Geometry::default(), &mut crcs) else { return false };
    let again = op.encode(&crcs);
    let got = CopysetOp::decode(&again, payload, Geometry::default(), &mut crcs);
    assert_eq!(got, Ok(op), "what is encoded again means the same");
    true
}

/// A write as the log holds it when parts of it were placed.
fn sample_placed(seed: u64) -> Vec<u8> {
    // Seeds that are multiples of 8 are writes.
    let (op, crcs) = op(seed / 8 * 8);
    let run = |n: u64| PlacedRun {
        first: (seed >> (n * 3)) as u32 % 256,
        extents: 1 + (seed >> (n * 5)) as u32 % 4,
        second: (seed >> n) & 1 == 1,
    };
    let runs: Vec<PlacedRun> = (0..seed % 4).map(run).collect();
    placed::encode(&op.encode(&crcs), &runs).into()
}

fn take_placed(bytes: &[u8]) -> bool {
    let (header, Some(runs)) = placed::split(&Bytes::copy_from_slice(bytes)) else { return false };
    let said = u32::from_le_bytes(header[60..64].try_into().expect("4 bytes")) as usize;
    let mut crcs = Vec::new();
    let Ok(op) = CopysetOp::decode(&header, said, Geometry::default(), &mut crcs) else { return false };
    let again = placed::encode(&op.encode(&crcs), &runs);
    assert_eq!(placed::split(&again).1, Some(runs), "what is encoded again means the same");
    true
}

fn outcome(seed: u64) -> Outcome {
    match seed % 6 {
        5 => Outcome::Differs { at: seed as u32 },
        0 => Outcome::Applied,
        1 => Outcome::Fenced { held: Epoch(seed) },
        2 => Outcome::Stale,
        3 => Outcome::AnotherTerm,
        _ => Outcome::Malformed,
    }
}

fn take_outcome(bytes: &[u8]) -> bool {
    let Some(outcome) = Outcome::decode(bytes) else { return false };
    assert_eq!(Outcome::decode(&outcome.encode()), Some(outcome));
    true
}

fn table(seed: u64) -> VolumeTable {
    let mut table = VolumeTable::default();
    for n in 0..seed % 12 {
        if let (CopysetOp::Mutation(mutation), _) = op(seed.rotate_left(n as u32 * 7) / 8 * 8 + n % 2 * 7) {
            let _ = table.decide(&mutation, LogIndex(n), Term(1));
        }
    }
    table
}

fn sample_record(seed: u64) -> Vec<u8> {
    let marker = Bytes::from(vec![seed as u8; seed as usize % 60]);
    StateRecord { index: LogIndex(seed), marker, volumes: table(seed) }.encode().into()
}

fn take_record(bytes: &[u8]) -> bool {
    let accepted = |bytes: Vec<u8>| {
        let Ok(record) = StateRecord::decode(&Bytes::from(bytes)) else { return false };
        assert_eq!(StateRecord::decode(&record.encode()), Ok(record));
        true
    };
    accepted(bytes.to_vec()) | accepted(sealed(bytes))
}

fn request(seed: u64) -> Request {
    let since = LogIndex(seed >> 7);
    if seed.is_multiple_of(2) {
        return Request::Outline { since, offset: seed as u32 };
    }
    Request::Extents { since, key: key(seed), from: ExtentIndex(seed as u32 % 300) }
}

fn take_request(bytes: &[u8]) -> bool {
    let Some(request) = Request::decode(bytes) else { return false };
    assert_eq!(request.encode(), bytes);
    true
}

fn sample_outline(seed: u64) -> Vec<u8> {
    let change = |n| ChunkChange { key: key(n), last_changed: LogIndex(n), deleted: n.is_multiple_of(3) };
    let changes = Changes {
        horizon: LogIndex(seed >> 3),
        full: seed.is_multiple_of(2),
        chunks: (0..seed % 8).map(change).collect(),
        volumes: (0..seed % 3).map(|n| VolumeDeletion { volume: VolumeId(n), index: LogIndex(n) }).collect(),
    };
    Outline { index: LogIndex(seed), volumes: table(seed >> 5), changes }.encode().into()
}

fn take_outline(bytes: &[u8]) -> bool {
    let Some(outline) = Outline::decode(bytes) else { return false };
    assert_eq!(Outline::decode(&outline.encode()), Some(outline));
    true
}

/// Bytes of the part's header, header, payload.
fn sample_part(seed: u64) -> Vec<u8> {
    let crcs: Vec<u32> = (0..seed % 5).map(|n| if (seed >> n) & 1 == 0 { HOLE } else { 7 }).collect();
    let stored = crcs.iter().filter(|crc| **crc != HOLE).count();
    let part = encode_part((!seed.is_multiple_of(9)).then(|| ChunkPart {
        first_block: seed as u32 % 4096,
        data: vec![Bytes::from(vec![1; stored * 512])],
        changed: vec![LogIndex(seed); crcs.len()],
        next: seed.is_multiple_of(2).then_some(ExtentIndex(9)),
        crcs,
    }));
    [&(part.header.len() as u32).to_le_bytes()[..], &part.header, &part.payload.concat()].concat()
}

fn take_part(bytes: &[u8]) -> bool {
    let Some((len, rest)) = bytes.split_first_chunk::<4>() else { return false };
    let (header, payload) = rest.split_at(rest.len().min(u32::from_le_bytes(*len) as usize));
    let part = SnapshotPart {
        header: Bytes::copy_from_slice(header),
        payload: vec![Bytes::copy_from_slice(payload)],
    };
    let Some(decoded) = decode_part(&part, 512) else { return false };
    if let Some(part) = decoded {
        let stored = part.crcs.iter().filter(|crc| **crc != HOLE).count();
        assert_eq!(part.data.iter().map(Bytes::len).sum::<usize>(), stored * 512);
    }
    true
}

/// With the checksum in the last four bytes made right.
fn sealed(bytes: &[u8]) -> Vec<u8> {
    let body = &bytes[..bytes.len().saturating_sub(4)];
    let mut out = BytesMut::from(body);
    out.put_u32_le(crc32fast::hash(body));
    out.into()
}
