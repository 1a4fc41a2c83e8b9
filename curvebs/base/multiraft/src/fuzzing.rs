//! Valid bytes, and decoders that take any bytes, of the formats that only this crate reads. For `tests/fuzz`, which
//! damages the former and gives them to the latter; not an API.

use bytes::{Buf, Bytes};
use prost::Message as _;

use crate::engine::AppendRequest;
use crate::format::{
    EntryKind, decode_log_id, decode_marker, decode_membership, decode_meta, decode_ops, decode_vote,
    encode_log_id, encode_marker, encode_membership, encode_meta, encode_ops, encode_vote, split_body,
};
use crate::op::Op;
use crate::types::{Entry, LeaderId, LogId, Membership, Payload, StoredMembership, Vote};
use crate::wire::{self, Append, Route, decode, decode_append, encode_append};

/// A format: its name, valid bytes from a seed, and whether any bytes are accepted.
pub type Format = (&'static str, fn(u64) -> Vec<u8>, fn(&[u8]) -> bool);

/// Everything that comes from the log or from a peer.
pub const FORMATS: [Format; 8] = [
    ("entry meta", |seed| encode_meta(leader(seed), kind(seed)).into(), take_meta),
    ("log id", |seed| encode_log_id(log_id(seed)).into(), take_log_id),
    ("vote", |seed| encode_vote(&vote(seed)).into(), take_vote),
    ("membership", |seed| encode_membership(&membership(seed)).into(), take_membership),
    ("marker", sample_marker, take_marker),
    ("operations", sample_ops, take_ops),
    ("append", sample_append, take_append),
    ("other messages", sample_message, take_message),
];

fn leader(seed: u64) -> LeaderId {
    LeaderId { term: seed % 1000, node_id: seed % 5 }
}

fn log_id(seed: u64) -> LogId {
    LogId { leader_id: leader(seed), index: (seed >> 32) + 1 }
}

fn vote(seed: u64) -> Vote {
    Vote { leader_id: leader(seed), committed: seed.is_multiple_of(2) }
}

fn kind(seed: u64) -> EntryKind {
    [EntryKind::Blank, EntryKind::Ops, EntryKind::Membership, EntryKind::Placed][(seed % 4) as usize]
}

fn membership(seed: u64) -> Membership {
    let sets: &[&[u64]] = if seed.is_multiple_of(2) { &[&[1, 2, 3]] } else { &[&[1, 2, 3], &[2, 3, 4]] };
    let sets = sets.iter().map(|set| set.iter().copied().collect()).collect();
    Membership::new(sets, (1..=5).collect()).expect("all voters are nodes")
}

fn ops(seed: u64) -> Vec<Op> {
    let part = |len: u64| Bytes::from(vec![seed as u8; len as usize]);
    (0..seed % 6)
        .map(|n| Op { header: part(n * 13), payload: vec![part((seed >> n) % 700), part(n)] })
        .collect()
}

fn sample_marker(seed: u64) -> Vec<u8> {
    let id = |bit: u64| if seed & bit != 0 { log_id(seed / bit) } else { LogId::NONE };
    let stored = StoredMembership { log_id: id(2), membership: membership(seed >> 2) };
    encode_marker(id(1), &stored).into()
}

fn sample_ops(seed: u64) -> Vec<u8> {
    let batch = encode_ops(&ops(seed));
    [&batch.head[..], &batch.payload.concat()].concat()
}

/// Bytes of the header, header, payload.
fn sample_append(seed: u64) -> Vec<u8> {
    let first = seed % 100 + 1;
    let entry = |n: u64| Entry {
        id: LogId { leader_id: leader(seed), index: first + n },
        payload: match kind(seed.wrapping_add(n)) {
            EntryKind::Blank => Payload::Blank,
            EntryKind::Ops | EntryKind::Placed => Payload::Ops(encode_ops(&ops(seed.wrapping_add(n)))),
            EntryKind::Membership => Payload::Membership(membership(seed)),
        },
    };
    let prev = if first > 1 { LogId { leader_id: leader(seed), index: first - 1 } } else { LogId::NONE };
    let entries = (0..seed % 5).map(entry).collect();
    let request = AppendRequest { term: seed % 1000, leader: 1, prev, entries, commit: seed >> 32 };
    let message = encode_append(Route { group: 1, from: 1, to: 2 }, &request);
    let header_len = (message.header.len() as u32).to_le_bytes();
    [&header_len[..], &message.header, &message.payload.concat()].concat()
}

fn sample_message(seed: u64) -> Vec<u8> {
    let route = Route { group: seed, from: 1, to: 2 };
    let (term, last) = (seed % 1000, log_id(seed).into());
    match seed % 5 {
        0 => wire::VoteAsk { route, term, last, transfer: true }.encode_to_vec(),
        1 => wire::Transfer { route, term, last }.encode_to_vec(),
        2 => wire::SnapshotOffer { route, term, session: 4, marker: sample_marker(seed).into() }
            .encode_to_vec(),
        3 => wire::SnapshotRead { route, session: 4, request: Bytes::from_static(b"r") }.encode_to_vec(),
        _ => {
            let sleep = wire::Sleep { group: seed, term, last };
            wire::Ping { route, sleep: vec![sleep; (seed % 9) as usize] }.encode_to_vec()
        }
    }
}

fn take_meta(bytes: &[u8]) -> bool {
    let Ok((leader, kind)) = decode_meta(bytes) else { return false };
    assert_eq!(encode_meta(leader, kind), bytes);
    true
}

fn take_log_id(bytes: &[u8]) -> bool {
    let Ok(id) = decode_log_id(bytes) else { return false };
    assert_eq!(encode_log_id(id), bytes);
    true
}

fn take_vote(bytes: &[u8]) -> bool {
    let Ok(vote) = decode_vote(bytes) else { return false };
    assert_eq!(encode_vote(&vote), bytes);
    true
}

fn take_membership(bytes: &[u8]) -> bool {
    let Ok(membership) = decode_membership(bytes) else { return false };
    // Ids may have been repeated in the bytes, not in what is made of them.
    let again = decode_membership(&encode_membership(&membership)).expect("own bytes are accepted");
    assert_eq!(again, membership);
    true
}

fn take_marker(bytes: &[u8]) -> bool {
    let Ok((applied, membership)) = decode_marker(bytes) else { return false };
    let again = decode_marker(&encode_marker(applied, &membership)).expect("own bytes are accepted");
    assert_eq!(again, (applied, membership));
    true
}

/// As the log gives a body back: in parts that are cut anywhere.
fn take_ops(bytes: &[u8]) -> bool {
    let body = Bytes::copy_from_slice(bytes);
    let cut = bytes.iter().map(|byte| usize::from(*byte)).sum::<usize>() % (bytes.len() + 1);
    let parts = vec![body.slice(..cut), body.slice(cut..)];
    let Ok(ops) = split_body(parts).and_then(|batch| decode_ops(&batch)) else { return false };
    let batch = encode_ops(&ops);
    assert_eq!([&batch.head[..], &batch.payload.concat()].concat(), bytes);
    true
}

fn take_append(bytes: &[u8]) -> bool {
    let mut rest = Bytes::copy_from_slice(bytes);
    let Ok(header_len) = rest.try_get_u32_le() else { return false };
    let header = rest.split_to(rest.len().min(header_len as usize));
    let Ok(append) = decode::<Append>(header) else { return false };
    let payload_len = rest.len();
    let Ok(request) = decode_append(append, &[rest]) else { return false };
    let taken = request.entries.iter().map(|entry| match &entry.payload {
        Payload::Ops(batch) => {
            // The state machine takes it apart later; that must not panic either.
            let _ = decode_ops(batch);
            batch.payload_len()
        }
        Payload::Blank | Payload::Placed(_) | Payload::Membership(_) => 0,
    });
    assert!(taken.sum::<usize>() <= payload_len);
    true
}

fn take_message(bytes: &[u8]) -> bool {
    let header = || Bytes::copy_from_slice(bytes);
    let offered = decode::<wire::SnapshotOffer>(header()).map(|offer| decode_marker(&offer.marker).is_ok());
    let asked = decode::<wire::VoteAsk>(header()).map(|ask| ask.to_engine(true));
    let replies = decode::<wire::AppendReply>(header()).is_ok()
        | decode::<wire::VoteReply>(header()).is_ok()
        | decode::<wire::TransferReply>(header()).is_ok()
        | decode::<wire::SnapshotOfferReply>(header()).is_ok()
        | decode::<wire::SnapshotReadReply>(header()).is_ok()
        | decode::<wire::PingReply>(header()).is_ok();
    let requests = decode::<wire::Transfer>(header()).is_ok()
        | decode::<wire::SnapshotRead>(header()).is_ok()
        | decode::<wire::Ping>(header()).is_ok();
    asked.is_ok() | offered.is_ok() | replies | requests
}
