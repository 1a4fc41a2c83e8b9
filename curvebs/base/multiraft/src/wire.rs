//! What travels between the processes: one prost header per message, entry payloads as raw bytes after it.
//!
//! | method | request | reply | payload |
//! |---|---|---|---|
//! | `APPEND` | [`Append`] | [`AppendReply`] | payloads of all entries, one after the other |
//! | `VOTE`, `PRE_VOTE` | [`VoteAsk`] | [`VoteReply`] | |
//! | `TRANSFER` | [`Transfer`] | [`TransferReply`] | |
//! | `SNAPSHOT_OFFER` | [`SnapshotOffer`] | [`SnapshotOfferReply`] | |
//! | `SNAPSHOT_READ` | [`SnapshotRead`] | [`SnapshotReadReply`] | the part's payload |
//! | `PING` | [`Ping`] | [`PingReply`] | |
//!
//! Every request names group, sender and receiver: a process that got another's address refuses.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use curve_io::Message;
use prost::Message as _;

use crate::engine::{
    AppendReply as EngineAppendReply, AppendRequest, TransferRequest, VoteReply as EngineVoteReply,
    VoteRequest,
};
use crate::format::{EntryKind, Parts, bad, decode_membership};
use crate::store::encode_payload;
use crate::types::{Batch, Entry, LeaderId, LogId, Payload};

pub(crate) const APPEND: u16 = 0x100;
pub(crate) const VOTE: u16 = 0x101;
pub(crate) const PRE_VOTE: u16 = 0x102;
pub(crate) const TRANSFER: u16 = 0x103;
pub(crate) const SNAPSHOT_OFFER: u16 = 0x104;
pub(crate) const SNAPSHOT_READ: u16 = 0x105;
pub(crate) const PING: u16 = 0x106;

/// Bytes of entry heads in one append, at most: they travel in the frame's header.
pub(crate) const APPEND_HEADS_BYTES_MAX: usize = 56 << 10;
/// Bytes of one entry's head, at most.
pub(crate) const ENTRY_HEAD_BYTES_MAX: usize = 32 << 10;

const _: () = assert!(ENTRY_HEAD_BYTES_MAX + 1024 < APPEND_HEADS_BYTES_MAX);
const _: () = assert!(APPEND_HEADS_BYTES_MAX + 4096 < curve_types::FRAME_HEADER_BYTES_MAX);

/// Who speaks to whom about what.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct Route {
    #[prost(uint64, tag = "1")]
    pub(crate) group: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) from: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) to: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct LogIdMessage {
    #[prost(uint64, tag = "1")]
    pub(crate) index: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) node: u64,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct EntryHead {
    #[prost(message, required, tag = "1")]
    pub(crate) id: LogIdMessage,
    #[prost(uint32, tag = "2")]
    pub(crate) kind: u32,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) head: Bytes,
    #[prost(uint64, tag = "4")]
    pub(crate) payload_bytes: u64,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Append {
    #[prost(message, required, tag = "1")]
    pub(crate) route: Route,
    /// The sender leads it.
    #[prost(uint64, tag = "2")]
    pub(crate) term: u64,
    /// The entry before the first.
    #[prost(message, required, tag = "3")]
    pub(crate) prev: LogIdMessage,
    #[prost(uint64, tag = "4")]
    pub(crate) commit: u64,
    #[prost(message, repeated, tag = "5")]
    pub(crate) entries: Vec<EntryHead>,
}

/// How a request ended, for all replies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Outcome {
    /// Never sent.
    Unknown = 0,
    Ok = 1,
    /// The log does not match at `prev`.
    Conflict = 2,
    /// The receiver knows a higher term, which is in the reply.
    HigherTerm = 3,
    /// The group is not open at the receiver, or the receiver is another node.
    NotHere = 4,
    /// The receiver cannot serve this now; try again.
    NotNow = 5,
    /// A long request goes on; ask again.
    Pending = 6,
    /// It failed at the receiver; the cause is in the reply.
    Failed = 7,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct AppendReply {
    #[prost(enumeration = "Outcome", tag = "1")]
    pub(crate) outcome: i32,
    /// With `HigherTerm`.
    #[prost(uint64, tag = "2")]
    pub(crate) term: u64,
    /// With `Ok`: the logs are the same up to here, durably. With `Conflict`: they may be.
    #[prost(uint64, tag = "3")]
    pub(crate) index: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct VoteAsk {
    #[prost(message, required, tag = "1")]
    pub(crate) route: Route,
    /// The term the sender would lead.
    #[prost(uint64, tag = "2")]
    pub(crate) term: u64,
    #[prost(message, required, tag = "3")]
    pub(crate) last: LogIdMessage,
    #[prost(bool, tag = "4")]
    pub(crate) transfer: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct VoteReply {
    #[prost(enumeration = "Outcome", tag = "1")]
    pub(crate) outcome: i32,
    /// The voter's.
    #[prost(uint64, tag = "2")]
    pub(crate) term: u64,
    #[prost(bool, tag = "3")]
    pub(crate) granted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct Transfer {
    #[prost(message, required, tag = "1")]
    pub(crate) route: Route,
    /// The sender leads it; the receiver is to lead the next.
    #[prost(uint64, tag = "2")]
    pub(crate) term: u64,
    /// What the receiver's log must hold.
    #[prost(message, required, tag = "3")]
    pub(crate) last: LogIdMessage,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct TransferReply {
    #[prost(enumeration = "Outcome", tag = "1")]
    pub(crate) outcome: i32,
}

/// The leader offers a snapshot; repeated until the follower has installed it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct SnapshotOffer {
    #[prost(message, required, tag = "1")]
    pub(crate) route: Route,
    /// The sender leads it.
    #[prost(uint64, tag = "2")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) session: u64,
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) marker: Bytes,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct SnapshotOfferReply {
    #[prost(enumeration = "Outcome", tag = "1")]
    pub(crate) outcome: i32,
    /// With `HigherTerm`.
    #[prost(uint64, tag = "2")]
    pub(crate) term: u64,
    #[prost(string, tag = "3")]
    pub(crate) cause: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct SnapshotRead {
    #[prost(message, required, tag = "1")]
    pub(crate) route: Route,
    #[prost(uint64, tag = "2")]
    pub(crate) session: u64,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) request: Bytes,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct SnapshotReadReply {
    #[prost(enumeration = "Outcome", tag = "1")]
    pub(crate) outcome: i32,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) header: Bytes,
    #[prost(string, tag = "3")]
    pub(crate) cause: String,
}

/// One message per pair of nodes says for all quiescent groups that the sender lives and leads them still.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Ping {
    #[prost(message, required, tag = "1")]
    pub(crate) route: Route,
    /// Groups the sender leads and wants to put to sleep, or to keep asleep.
    #[prost(message, repeated, tag = "2")]
    pub(crate) sleep: Vec<Sleep>,
}

/// A group whose leader has nothing to do: all members have everything.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct Sleep {
    #[prost(uint64, tag = "1")]
    pub(crate) group: u64,
    /// The sender leads it.
    #[prost(uint64, tag = "2")]
    pub(crate) term: u64,
    #[prost(message, required, tag = "3")]
    pub(crate) last: LogIdMessage,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct PingReply {
    #[prost(enumeration = "Outcome", tag = "1")]
    pub(crate) outcome: i32,
    /// Of the groups in `sleep`, those that agree.
    #[prost(uint64, repeated, tag = "2")]
    pub(crate) asleep: Vec<u64>,
}

impl From<LogId> for LogIdMessage {
    fn from(id: LogId) -> Self {
        Self { index: id.index, term: id.leader_id.term, node: id.leader_id.node_id }
    }
}

impl From<LogIdMessage> for LogId {
    fn from(id: LogIdMessage) -> Self {
        Self { leader_id: LeaderId { term: id.term, node_id: id.node }, index: id.index }
    }
}

/// A message without payload.
pub(crate) fn message(method: u16, header: &impl prost::Message) -> Message {
    Message { method, header: Bytes::from(header.encode_to_vec()), payload: Vec::new() }
}

/// Decodes a header; a malformed one is an error of the peer, not ours.
pub(crate) fn decode<H: prost::Message + Default>(header: Bytes) -> io::Result<H> {
    H::decode(header).map_err(|_| bad("message"))
}

/// Encodes an append. Payload parts are shared, not copied.
pub(crate) fn encode_append(route: Route, request: &AppendRequest) -> Message {
    let mut payload = Vec::new();
    let entries = request.entries.iter().map(|entry| {
        let (kind, body) = encode_payload(&entry.payload);
        payload.extend(body.payload.iter().cloned());
        EntryHead {
            id: entry.id.into(),
            kind: u32::from(kind.to_u8()),
            payload_bytes: body.payload_len() as u64,
            head: body.head,
        }
    });
    let entries = entries.collect();
    let header =
        Append { route, term: request.term, prev: request.prev.into(), commit: request.commit, entries };
    Message { method: APPEND, header: Bytes::from(header.encode_to_vec()), payload }
}

/// Decodes the part of an append that the engine takes. Payloads share memory with the message.
pub(crate) fn decode_append(append: Append, payload: &[Bytes]) -> io::Result<AppendRequest> {
    let mut parts = Parts::new(payload);
    let entries = append.entries.into_iter().map(|entry| decode_entry(entry, &mut parts));
    let entries = entries.collect::<io::Result<Vec<_>>>()?;
    let prev = LogId::from(append.prev);
    let first = prev.index.checked_add(1).filter(|first| first.checked_add(entries.len() as u64).is_some());
    let first = first.ok_or_else(|| bad("append"))?;
    let consecutive = entries.iter().zip(first..).all(|(entry, index)| entry.id.index == index);
    if !parts.is_at_end() || !consecutive {
        return Err(bad("append"));
    }
    Ok(AppendRequest { term: append.term, leader: append.route.from, prev, entries, commit: append.commit })
}

fn decode_entry(entry: EntryHead, parts: &mut Parts<'_>) -> io::Result<Entry> {
    let len = usize::try_from(entry.payload_bytes).map_err(|_| bad("append"))?;
    let payload = parts.take(len).ok_or_else(|| bad("append"))?;
    let kind = u8::try_from(entry.kind).map_err(|_| bad("entry kind"))?;
    let payload = match EntryKind::from_u8(kind)? {
        EntryKind::Blank => Payload::Blank,
        EntryKind::Membership => Payload::Membership(decode_membership(&entry.head)?),
        // Where a node has placed what it logged is of no use to another.
        EntryKind::Placed => return Err(bad("entry kind")),
        EntryKind::Ops => Payload::Ops(Batch { head: entry.head, payload: Arc::new(payload) }),
    };
    Ok(Entry { id: entry.id.into(), payload })
}

/// The answer to an append.
pub(crate) fn append_reply(reply: EngineAppendReply) -> AppendReply {
    let (outcome, term, index) = match reply {
        EngineAppendReply::Ok { matched } => (Outcome::Ok, 0, matched),
        EngineAppendReply::Conflict { hint } => (Outcome::Conflict, 0, hint),
        EngineAppendReply::Higher { term } => (Outcome::HigherTerm, term, 0),
    };
    AppendReply { outcome: outcome.into(), term, index }
}

impl AppendReply {
    /// What it says to the engine; `None` when the peer could not answer.
    pub(crate) fn to_engine(self) -> Option<EngineAppendReply> {
        match self.outcome() {
            Outcome::Ok => Some(EngineAppendReply::Ok { matched: self.index }),
            Outcome::Conflict => Some(EngineAppendReply::Conflict { hint: self.index }),
            Outcome::HigherTerm => Some(EngineAppendReply::Higher { term: self.term }),
            Outcome::Unknown | Outcome::NotHere | Outcome::NotNow | Outcome::Pending | Outcome::Failed => {
                None
            }
        }
    }
}

/// The question of a candidate.
pub(crate) fn vote_ask(route: Route, request: &VoteRequest) -> Message {
    let ask = VoteAsk { route, term: request.term, last: request.last.into(), transfer: request.transfer };
    message(if request.pre { PRE_VOTE } else { VOTE }, &ask)
}

impl VoteAsk {
    /// What it asks the engine.
    pub(crate) fn to_engine(self, pre: bool) -> VoteRequest {
        let Self { route, term, last, transfer } = self;
        VoteRequest { term, candidate: route.from, last: last.into(), transfer, pre }
    }
}

impl VoteReply {
    /// What it says to the engine; `None` when the peer could not answer.
    pub(crate) fn to_engine(self) -> Option<EngineVoteReply> {
        (self.outcome() == Outcome::Ok).then_some(EngineVoteReply { term: self.term, granted: self.granted })
    }
}

impl Transfer {
    /// What it asks the engine.
    pub(crate) fn to_engine(self) -> TransferRequest {
        TransferRequest { term: self.term, leader: self.route.from, last: self.last.into() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::*;
    use crate::format::encode_ops;
    use crate::op::Op;

    fn log_id(term: u64, node_id: u64, index: u64) -> LogId {
        LogId { leader_id: LeaderId { term, node_id }, index }
    }

    #[test]
    fn an_append_keeps_entries_and_shares_payload_bytes() {
        let op =
            |n: u8| Op { header: vec![n; 5].into(), payload: vec![vec![n; 4096].into(), vec![n; 10].into()] };
        let entries: Vec<Entry> = (0..3u8)
            .map(|n| Entry {
                id: log_id(3, 1, 7 + u64::from(n)),
                payload: Payload::Ops(encode_ops(&[op(n), op(n + 100)])),
            })
            .collect();
        let request =
            AppendRequest { term: 3, leader: 1, prev: log_id(2, 2, 6), entries: entries.clone(), commit: 5 };
        let message = encode_append(Route { group: 1, from: 1, to: 2 }, &request);
        let Payload::Ops(batch) = &entries[0].payload else { unreachable!() };
        assert_eq!(message.payload[0].as_ptr(), batch.payload[0].as_ptr());

        let received = [Bytes::from(message.payload.concat())];
        let back = decode_append(decode(message.header).unwrap(), &received).unwrap();
        assert_eq!((back.term, back.leader, back.prev), (request.term, request.leader, request.prev));
        assert_eq!(back.commit, request.commit);
        for (back, entry) in back.entries.iter().zip(&entries) {
            assert_eq!(back.id, entry.id);
            let (Payload::Ops(back), Payload::Ops(sent)) = (&back.payload, &entry.payload) else {
                panic!("kind changed");
            };
            assert_eq!(back.head, sent.head);
            assert_eq!(back.payload.concat(), sent.payload.concat());
        }
        let Payload::Ops(batch) = &back.entries[0].payload else { unreachable!() };
        assert_eq!(batch.payload[0].as_ptr(), received[0].as_ptr());
    }

    #[test]
    fn an_append_with_a_hole_or_a_wrong_length_is_refused() {
        let head = |index| EntryHead {
            id: log_id(1, 1, index).into(),
            kind: 0,
            head: Bytes::new(),
            payload_bytes: 0,
        };
        let append = |entries| Append { prev: log_id(1, 1, 4).into(), entries, ..Append::default() };
        assert!(decode_append(append(vec![head(5), head(6)]), &[]).is_ok());
        assert!(decode_append(append(vec![head(5), head(7)]), &[]).is_err());
        assert!(decode_append(append(vec![head(4)]), &[]).is_err());
        assert!(decode_append(append(vec![head(5)]), &[Bytes::from_static(b"x")]).is_err());
        let longer = EntryHead { payload_bytes: u64::MAX, ..head(5) };
        assert!(decode_append(append(vec![longer]), &[]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(append) = decode::<Append>(Bytes::from(bytes.clone())) {
                let _ = decode_append(append, &[]);
            }
            let _ = decode::<Ping>(Bytes::from(bytes));
        }
    }
}
