//! What this crate stores: in the log beside each entry, and in the marker a state machine keeps. Little-endian.
//!
//! In memory, entries count from 1, so that 0 means "none". The tables below say `raft index` where the stored number
//! is one less, as the engine of the first versions counted.
//!
//! Entry meta, 18 bytes, kept by the log for each entry (its index is the log's own):
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 1 | version, 1 |
//! | 1 | 1 | kind: 0 blank, 1 operations, 2 membership, 3 operations of which the state machine has placed payloads (in
//! the log only) |
//! | 2 | 8 | term |
//! | 10 | 8 | node that led the term |
//!
//! Log id, 25 bytes (commit point): version 1, raft index u64, term u64, node u64.
//!
//! Vote, 18 bytes: version 1, committed u8 (0 or 1), term u64, node u64.
//!
//! Membership: count of voter sets u16; per set: count u16 and that many node ids u64; then the count of all nodes u16
//! and their ids u64. Two sets mean that a change is half way (joint consensus).
//!
//! Marker: version 1; flags u8 (bit 0: a log id follows, bit 1: the membership has a log id); applied (raft index, term,
//! node) if bit 0; the membership's log id likewise if bit 1; the membership.
//!
//! Body of an entry with operations: a head, then the payloads of all operations without gaps.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | bytes of the head, these included |
//! | 4 | 4 | count of operations, n |
//! | 8 | 8 n | per operation: bytes of its header u32, bytes of its payload u32 |
//! | 8 + 8 n | | headers of all operations without gaps |
//!
//! Of kind 3, headers and payloads are as the state machine's placer gave them.

use std::collections::BTreeSet;
use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::op::Op;
use crate::types::{Batch, LeaderId, LogId, Membership, StoredMembership, Vote};

const VERSION: u8 = 1;
/// Bytes of an operation's row in the head, and of the head's fixed part.
const ROW_BYTES: usize = 8;

/// What an entry holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum EntryKind {
    Blank,
    Ops,
    Membership,
    Placed,
}

impl EntryKind {
    pub(crate) fn to_u8(self) -> u8 {
        match self {
            Self::Blank => 0,
            Self::Ops => 1,
            Self::Membership => 2,
            Self::Placed => 3,
        }
    }

    pub(crate) fn from_u8(byte: u8) -> io::Result<Self> {
        match byte {
            0 => Ok(Self::Blank),
            1 => Ok(Self::Ops),
            2 => Ok(Self::Membership),
            3 => Ok(Self::Placed),
            _ => Err(bad("entry kind")),
        }
    }
}

/// Bytes from disk or wire that make no sense.
pub(crate) fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed {what}"))
}

fn take_version(from: &mut &[u8], what: &str) -> io::Result<()> {
    match from.try_get_u8() {
        Ok(VERSION) => Ok(()),
        _ => Err(bad(what)),
    }
}

fn take_u64(from: &mut &[u8], what: &str) -> io::Result<u64> {
    from.try_get_u64_le().map_err(|_| bad(what))
}

fn end(from: &[u8], what: &str) -> io::Result<()> {
    if from.is_empty() { Ok(()) } else { Err(bad(what)) }
}

/// Encodes what the log keeps beside an entry.
pub(crate) fn encode_meta(leader: LeaderId, kind: EntryKind) -> Bytes {
    let mut to = BytesMut::with_capacity(18);
    to.put_u8(VERSION);
    to.put_u8(kind.to_u8());
    to.put_u64_le(leader.term);
    to.put_u64_le(leader.node_id);
    to.freeze()
}

/// Decodes what the log keeps beside an entry.
pub(crate) fn decode_meta(mut from: &[u8]) -> io::Result<(LeaderId, EntryKind)> {
    const WHAT: &str = "entry meta";
    take_version(&mut from, WHAT)?;
    let kind = EntryKind::from_u8(from.try_get_u8().map_err(|_| bad(WHAT))?)?;
    let leader = LeaderId { term: take_u64(&mut from, WHAT)?, node_id: take_u64(&mut from, WHAT)? };
    end(from, WHAT)?;
    Ok((leader, kind))
}

fn put_log_id(to: &mut BytesMut, id: LogId) {
    to.put_u64_le(id.index.checked_sub(1).expect("an entry, not the place before the first"));
    to.put_u64_le(id.leader_id.term);
    to.put_u64_le(id.leader_id.node_id);
}

fn take_log_id(from: &mut &[u8], what: &str) -> io::Result<LogId> {
    let index = take_u64(from, what)?.checked_add(1).ok_or_else(|| bad(what))?;
    let leader_id = LeaderId { term: take_u64(from, what)?, node_id: take_u64(from, what)? };
    Ok(LogId { leader_id, index })
}

/// Encodes a log id.
pub(crate) fn encode_log_id(id: LogId) -> Bytes {
    let mut to = BytesMut::with_capacity(25);
    to.put_u8(VERSION);
    put_log_id(&mut to, id);
    to.freeze()
}

/// Decodes a log id.
pub(crate) fn decode_log_id(mut from: &[u8]) -> io::Result<LogId> {
    const WHAT: &str = "log id";
    take_version(&mut from, WHAT)?;
    let id = take_log_id(&mut from, WHAT)?;
    end(from, WHAT)?;
    Ok(id)
}

/// Encodes a vote.
pub(crate) fn encode_vote(vote: &Vote) -> Bytes {
    let mut to = BytesMut::with_capacity(18);
    to.put_u8(VERSION);
    to.put_u8(u8::from(vote.committed));
    to.put_u64_le(vote.leader_id.term);
    to.put_u64_le(vote.leader_id.node_id);
    to.freeze()
}

/// Decodes a vote.
pub(crate) fn decode_vote(mut from: &[u8]) -> io::Result<Vote> {
    const WHAT: &str = "vote";
    take_version(&mut from, WHAT)?;
    let committed = match from.try_get_u8() {
        Ok(0) => false,
        Ok(1) => true,
        _ => return Err(bad(WHAT)),
    };
    let leader_id = LeaderId { term: take_u64(&mut from, WHAT)?, node_id: take_u64(&mut from, WHAT)? };
    end(from, WHAT)?;
    Ok(Vote { leader_id, committed })
}

fn put_ids(to: &mut BytesMut, ids: impl ExactSizeIterator<Item = u64>) {
    to.put_u16_le(u16::try_from(ids.len()).expect("a group has few members"));
    ids.for_each(|id| to.put_u64_le(id));
}

fn take_ids(from: &mut &[u8]) -> io::Result<Vec<u64>> {
    let count = from.try_get_u16_le().map_err(|_| bad("membership"))?;
    if from.len() < usize::from(count) * 8 {
        return Err(bad("membership"));
    }
    (0..count).map(|_| take_u64(from, "membership")).collect()
}

fn put_membership(to: &mut BytesMut, membership: &Membership) {
    let sets = membership.sets();
    to.put_u16_le(u16::try_from(sets.len()).expect("at most two voter sets"));
    for set in sets {
        put_ids(to, set.iter().copied());
    }
    put_ids(to, membership.nodes().iter().copied());
}

fn take_membership(from: &mut &[u8]) -> io::Result<Membership> {
    let sets = from.try_get_u16_le().map_err(|_| bad("membership"))?;
    if sets > 8 {
        return Err(bad("membership"));
    }
    let sets = (0..sets)
        .map(|_| Ok(take_ids(from)?.into_iter().collect::<BTreeSet<_>>()))
        .collect::<io::Result<Vec<_>>>()?;
    let nodes = take_ids(from)?.into_iter().collect();
    Membership::new(sets, nodes).ok_or_else(|| bad("membership"))
}

/// Encodes the members of a group.
pub(crate) fn encode_membership(membership: &Membership) -> Bytes {
    let mut to = BytesMut::with_capacity(64);
    put_membership(&mut to, membership);
    to.freeze()
}

/// Decodes the members of a group.
pub(crate) fn decode_membership(mut from: &[u8]) -> io::Result<Membership> {
    let membership = take_membership(&mut from)?;
    end(from, "membership")?;
    Ok(membership)
}

/// Encodes how far a state machine is and who the members are then.
pub(crate) fn encode_marker(applied: LogId, membership: &StoredMembership) -> Bytes {
    let (applied, changed) = (applied.some(), membership.log_id.some());
    let mut to = BytesMut::with_capacity(128);
    to.put_u8(VERSION);
    to.put_u8(u8::from(applied.is_some()) | (u8::from(changed.is_some()) << 1));
    applied.into_iter().chain(changed).for_each(|id| put_log_id(&mut to, id));
    put_membership(&mut to, &membership.membership);
    to.freeze()
}

/// Decodes what [`encode_marker`] made.
pub(crate) fn decode_marker(mut from: &[u8]) -> io::Result<(LogId, StoredMembership)> {
    const WHAT: &str = "marker";
    take_version(&mut from, WHAT)?;
    let flags = from.try_get_u8().map_err(|_| bad(WHAT))?;
    if flags > 3 {
        return Err(bad(WHAT));
    }
    let applied = (flags & 1 != 0).then(|| take_log_id(&mut from, WHAT)).transpose()?;
    let changed = (flags & 2 != 0).then(|| take_log_id(&mut from, WHAT)).transpose()?;
    let membership = take_membership(&mut from)?;
    end(from, WHAT)?;
    let log_id = changed.unwrap_or_default();
    Ok((applied.unwrap_or_default(), StoredMembership { log_id, membership }))
}

/// Bytes that an operation adds to the head.
pub(crate) fn op_head_bytes(op: &Op) -> usize {
    ROW_BYTES + op.header.len()
}

/// Puts operations into one body. Headers are copied into the head, payloads are not copied.
pub(crate) fn encode_ops(ops: &[Op]) -> Batch {
    let head_bytes = ROW_BYTES + ops.iter().map(op_head_bytes).sum::<usize>();
    let parts = ops.iter().map(|op| op.payload.len()).sum();
    let mut head = BytesMut::with_capacity(head_bytes);
    let mut payload = Vec::with_capacity(parts);
    let len32 = |len: usize| u32::try_from(len).expect("limited by entry_bytes_max");
    head.put_u32_le(len32(head_bytes));
    head.put_u32_le(len32(ops.len()));
    for op in ops {
        head.put_u32_le(len32(op.header.len()));
        head.put_u32_le(len32(op.payload.iter().map(Bytes::len).sum()));
    }
    for op in ops {
        head.put_slice(&op.header);
        payload.extend(op.payload.iter().filter(|part| !part.is_empty()).cloned());
    }
    debug_assert_eq!(head.len(), head_bytes);
    Batch::new(head.freeze(), payload)
}

/// Takes operations out of a body, without copying.
pub(crate) fn decode_ops(batch: &Batch) -> io::Result<Vec<Op>> {
    const WHAT: &str = "operations";
    let mut table = &batch.head[..];
    let (Ok(head_bytes), Ok(count)) = (table.try_get_u32_le(), table.try_get_u32_le()) else {
        return Err(bad(WHAT));
    };
    let count = count as usize;
    let rows_end = count.checked_mul(ROW_BYTES).and_then(|rows| rows.checked_add(ROW_BYTES));
    if head_bytes as usize != batch.head.len() || rows_end.is_none_or(|end| end > batch.head.len()) {
        return Err(bad(WHAT));
    }
    let mut headers = batch.head.slice(ROW_BYTES + count * ROW_BYTES..);
    let mut payloads = Parts::new(&batch.payload);
    let mut ops = Vec::with_capacity(count);
    for _ in 0..count {
        let (header, payload) = (table.get_u32_le() as usize, table.get_u32_le() as usize);
        if header > headers.len() {
            return Err(bad(WHAT));
        }
        ops.push(Op {
            header: headers.split_to(header),
            payload: payloads.take(payload).ok_or_else(|| bad(WHAT))?,
        });
    }
    if !headers.is_empty() || !payloads.is_at_end() {
        return Err(bad(WHAT));
    }
    Ok(ops)
}

/// The headers of the operations in a body, each with the bytes of its payload; of a malformed one, those that are there.
pub(crate) fn heads(batch: &Batch) -> impl Iterator<Item = (Bytes, usize)> + '_ {
    let count = batch.head.get(4..ROW_BYTES).map_or(0, |mut bytes| bytes.get_u32_le() as usize);
    let rows = batch.head.get(ROW_BYTES..).unwrap_or_default();
    let rows = rows.get(..count.saturating_mul(ROW_BYTES)).unwrap_or_default();
    let mut at = ROW_BYTES + rows.len();
    rows.chunks_exact(ROW_BYTES).map_while(move |mut row| {
        let end = at.checked_add(row.get_u32_le() as usize).filter(|end| *end <= batch.head.len())?;
        let header = batch.head.slice(at..end);
        at = end;
        Some((header, row.get_u32_le() as usize))
    })
}

/// Splits a body as the log returns it into head and payload.
pub(crate) fn split_body(mut parts: Vec<Bytes>) -> io::Result<Batch> {
    const WHAT: &str = "operations";
    let gathered = |parts: &[Bytes]| Bytes::from(parts.concat());
    if parts.first().is_some_and(|first| first.len() < 4) {
        parts = vec![gathered(&parts)];
    }
    let first = parts.first().ok_or_else(|| bad(WHAT))?;
    let head_bytes = (&first[..]).try_get_u32_le().map_err(|_| bad(WHAT))? as usize;
    if first.len() < head_bytes {
        parts = vec![gathered(&parts)];
    }
    let first = &mut parts[0];
    if first.len() < head_bytes {
        return Err(bad(WHAT));
    }
    let head = first.split_to(head_bytes);
    if first.is_empty() {
        parts.remove(0);
    }
    Ok(Batch::new(head, parts))
}

/// Cuts runs of bytes out of parts that follow each other.
pub(crate) struct Parts<'a> {
    parts: &'a [Bytes],
    offset: usize,
}

impl<'a> Parts<'a> {
    pub(crate) fn new(parts: &'a [Bytes]) -> Self {
        Self { parts, offset: 0 }
    }

    /// The next `len` bytes, sharing memory; `None` when there are fewer.
    pub(crate) fn take(&mut self, mut len: usize) -> Option<Vec<Bytes>> {
        let mut taken = Vec::new();
        while len > 0 {
            let part = self.parts.first()?;
            let step = len.min(part.len() - self.offset);
            if step > 0 {
                taken.push(part.slice(self.offset..self.offset + step));
            }
            len -= step;
            self.offset += step;
            if self.offset == part.len() {
                self.parts = &self.parts[1..];
                self.offset = 0;
            }
        }
        Some(taken)
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.parts.iter().map(Bytes::len).sum::<usize>() == self.offset
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};

    use super::*;

    fn log_id(term: u64, node_id: u64, index: u64) -> LogId {
        LogId { leader_id: LeaderId { term, node_id }, index }
    }

    #[test]
    fn golden_bytes_of_version_1() {
        let leader = LeaderId { term: 2, node_id: 3 };
        assert_eq!(
            encode_meta(leader, EntryKind::Ops)[..],
            [1, 1, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]
        );
        let vote = Vote { leader_id: leader, committed: true };
        assert_eq!(encode_vote(&vote)[..], [1, 1, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(
            encode_log_id(log_id(2, 3, 5))[..],
            [1, 4, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]
        );
        let members = Membership::new(vec![BTreeSet::from([1])], BTreeSet::from([1, 2])).unwrap();
        assert_eq!(
            encode_membership(&members)[..],
            [1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]
        );
        let op = Op { header: Bytes::from_static(b"ab"), payload: vec![Bytes::from_static(b"xyz")] };
        let batch = encode_ops(&[op]);
        assert_eq!(batch.head[..], [18, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, b'a', b'b']);
        assert_eq!(batch.payload[..], [Bytes::from_static(b"xyz")]);
    }

    #[test]
    fn values_round_trip() {
        let leader = LeaderId { term: 7, node_id: 9 };
        for kind in [EntryKind::Blank, EntryKind::Ops, EntryKind::Membership, EntryKind::Placed] {
            assert_eq!(decode_meta(&encode_meta(leader, kind)).unwrap(), (leader, kind));
        }
        let members = Membership::new(
            vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 3])],
            BTreeSet::from([1, 2, 3, 4]),
        )
        .unwrap();
        for (applied, stored) in [
            (LogId::NONE, StoredMembership::default()),
            (log_id(1, 2, 1), StoredMembership { log_id: LogId::NONE, membership: members.clone() }),
            (log_id(1, 2, 3), StoredMembership { log_id: log_id(1, 1, 1), membership: members }),
        ] {
            assert_eq!(decode_marker(&encode_marker(applied, &stored)).unwrap(), (applied, stored));
        }
    }

    fn ops() -> impl proptest::strategy::Strategy<Value = Vec<(Vec<u8>, Vec<Vec<u8>>)>> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..20);
        prop::collection::vec((bytes(), prop::collection::vec(bytes(), 0..4)), 1..10)
    }

    proptest! {
        #[test]
        fn operations_survive_any_cut_into_parts(ops in ops(), cuts in prop::collection::vec(1..30usize, 0..40)) {
            let ops: Vec<Op> = ops
                .into_iter()
                .map(|(header, payload)| Op { header: header.into(), payload: payload.into_iter().map(Bytes::from).collect() })
                .collect();
            let batch = encode_ops(&ops);
            let mut whole = Bytes::from([&batch.head[..], &batch.payload.concat()].concat());
            let mut parts = Vec::new();
            for cut in cuts {
                parts.push(whole.split_to(cut.min(whole.len())));
            }
            parts.push(whole);
            let body = split_body(parts).unwrap();
            let heads = heads(&body).collect::<Vec<_>>();
            let back = decode_ops(&body).unwrap();
            let expected = |op: &Op| (op.header.clone(), op.payload.iter().map(Bytes::len).sum());
            prop_assert_eq!(heads, back.iter().map(expected).collect::<Vec<_>>());
            prop_assert_eq!(back.len(), ops.len());
            for (back, op) in back.iter().zip(&ops) {
                prop_assert_eq!(&back.header, &op.header);
                prop_assert_eq!(back.payload.concat(), op.payload.concat());
            }
        }

        #[test]
        fn decoders_refuse_or_accept_and_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), split in 0..80usize) {
            let _ = decode_meta(&bytes);
            let _ = decode_vote(&bytes);
            let _ = decode_log_id(&bytes);
            let _ = decode_membership(&bytes);
            let _ = decode_marker(&bytes);
            let mut whole = Bytes::from(bytes);
            let first = whole.split_to(split.min(whole.len()));
            if let Ok(batch) = split_body(vec![first, whole]) {
                let _ = heads(&batch).count();
                let _ = decode_ops(&batch);
            }
        }
    }
}
