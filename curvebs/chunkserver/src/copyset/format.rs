//! Bytes of an operation in a copyset's log, and of its result.
//!
//! The payload of a write travels beside the header, never inside it. All numbers are little-endian.
//!
//! ```text
//! operation header
//!  at  bytes  what
//!   0      1  version, 1
//!   1      1  kind: 1 write, 2 discard, 3 write zeroes, 4 write zeroes and keep them allocated, 5 fence,
//!             6 delete volume, 7 marker (changes nothing), 8 write of which parts were placed (see `placed`),
//!             9 a comparison that found a difference (changes nothing but what is remembered of the client)
//!   2      1  flags: bit 0 another part of the same client operation follows, bit 1 `read in term` is set
//!   3      1  0
//!   4      4  chunk of the volume
//!   8      8  volume
//!  16      8  epoch (5: the lowest that is accepted from now on)
//!  24      8  client
//!  32      8  sequence
//!  40      8  answered below: the client knows the results of all smaller sequences
//!  48      8  read in term: the term in which the leader read what it merged into a part of a block
//!  56      4  offset in the chunk, a multiple of the block
//!  60      4  length, a multiple of the block
//!  64    4*n  write: the checksum of each block
//!  64      4  9: the first byte that differed, counted from the begin of what the client compared
//!
//! result
//!   0      1  0 applied, 1 fenced, 2 stale, 3 another term, 4 malformed, 5 differs
//!   1      8  1: the epoch that is held
//!   1      4  5: the first byte that differed
//! ```
//!
//! Kinds 5 to 7 end after 64 bytes too; the fields they do not use are 0. There is no checksum here: the log and the
//! frames have their own.
//!
//! The payload of a fence names the holders of lower epochs that go on: for each u64 client, u64 epoch.

use bytes::{BufMut, Bytes, BytesMut};
use curve_chunkstore::Append;
use curve_types::{ChunkKey, ClientId, Epoch, Geometry, HOLDERS_MAX, Sequence, Term, VolumeId};

const VERSION: u8 = 1;
/// Bytes of the header before the checksums.
pub const HEADER_BYTES: usize = 64;
const FLAG_MORE: u8 = 1;
const FLAG_TERM: u8 = 2;

/// What a mutation does to its range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Puts whole blocks there; the payload and the checksums travel with it.
    Write,
    /// Gives the blocks back; they read as zeros.
    Discard,
    /// Makes the range read as zeros.
    WriteZeroes {
        /// Whether the blocks must stay allocated.
        keep_allocated: bool,
    },
    /// Nothing: the leader compared the range with what a client expected, and they differ. See `service::compare`.
    Miscompare {
        /// The first byte that differs, counted from the begin of what the client compared.
        at: u32,
    },
}

/// One change of a range of one chunk, asked for by one client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mutation {
    /// The chunk.
    pub key: ChunkKey,
    /// The opener's epoch.
    pub epoch: Epoch,
    /// The opener.
    pub client: ClientId,
    /// The client's number for this operation.
    pub sequence: Sequence,
    /// All smaller sequences were answered to the client, so it never sends them again.
    pub answered_below: Sequence,
    /// First byte in the chunk; block-aligned.
    pub offset: u32,
    /// Bytes; whole blocks.
    pub len: u32,
    /// Set when the leader merged a part of a block with what it had read: valid only in the term of that read.
    pub read_in: Option<Term>,
    /// Another part of the same client operation follows, so this one does not finish it.
    pub more: bool,
    /// What to do.
    pub action: Action,
}

/// A decoded operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopysetOp {
    /// A client's change.
    Mutation(Mutation),
    /// Refuse operations of the volume with a lower epoch from now on, but for the holders that the payload names.
    Fence {
        /// The volume.
        volume: VolumeId,
        /// The lowest epoch that is still accepted.
        epoch: Epoch,
    },
    /// Remove the volume's chunks for good.
    DeleteVolume {
        /// The volume.
        volume: VolumeId,
    },
    /// Nothing; its commit shows that everything proposed before it was applied.
    Marker,
}

/// Why an operation's header cannot be used. It is a bug of the proposer or a newer version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpError {
    /// Shorter than a header, or the checksums do not match the length.
    #[error("operation header of {0} bytes has the wrong length")]
    Length(usize),
    /// Written by a newer program.
    #[error("operation version {0} is not known")]
    Version(u8),
    /// Unknown kind.
    #[error("operation kind {0} is not known")]
    Kind(u8),
    /// The range is not made of whole blocks of one chunk, or the payload has another length.
    #[error("range {offset}+{len} is not made of whole blocks of a chunk")]
    Range {
        /// First byte.
        offset: u32,
        /// Bytes.
        len: u32,
    },
}

impl CopysetOp {
    /// Encodes the header; `crcs` has one checksum per block of a write and is empty otherwise.
    pub fn encode(&self, crcs: &[u32]) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER_BYTES + 4 * crcs.len());
        let (kind, mutation) = match self {
            Self::Mutation(m) => (mutation_kind(m.action), Some(m)),
            Self::Fence { .. } => (5, None),
            Self::DeleteVolume { .. } => (6, None),
            Self::Marker => (7, None),
        };
        let flags = mutation.map_or(0, |m| {
            (if m.more { FLAG_MORE } else { 0 }) | (if m.read_in.is_some() { FLAG_TERM } else { 0 })
        });
        let (volume, epoch) = match self {
            Self::Mutation(m) => (m.key.volume, m.epoch),
            Self::Fence { volume, epoch } => (*volume, *epoch),
            Self::DeleteVolume { volume } => (*volume, Epoch(0)),
            Self::Marker => (VolumeId(0), Epoch(0)),
        };
        out.put_u8(VERSION);
        out.put_u8(kind);
        out.put_u8(flags);
        out.put_u8(0);
        out.put_u32_le(mutation.map_or(0, |m| m.key.index));
        out.put_u64_le(volume.get());
        out.put_u64_le(epoch.get());
        out.put_u64_le(mutation.map_or(0, |m| m.client.get()));
        out.put_u64_le(mutation.map_or(0, |m| m.sequence.get()));
        out.put_u64_le(mutation.map_or(0, |m| m.answered_below.get()));
        out.put_u64_le(mutation.and_then(|m| m.read_in).map_or(0, Term::get));
        out.put_u32_le(mutation.map_or(0, |m| m.offset));
        out.put_u32_le(mutation.map_or(0, |m| m.len));
        for crc in crcs {
            out.put_u32_le(*crc);
        }
        if let Some(Action::Miscompare { at }) = mutation.map(|m| m.action) {
            out.put_u32_le(at);
        }
        out.freeze()
    }

    /// Decodes a header and checks it against the geometry and the payload's length. A write's checksums replace the
    /// contents of `crcs`, which is passed in so that no operation allocates.
    pub fn decode(
        header: &[u8],
        payload_len: usize,
        geometry: Geometry,
        crcs: &mut Vec<u32>,
    ) -> Result<Self, OpError> {
        crcs.clear();
        if header.len() < HEADER_BYTES {
            return Err(OpError::Length(header.len()));
        }
        if header[0] != VERSION {
            return Err(OpError::Version(header[0]));
        }
        let volume = VolumeId(u64_at(header, 8));
        let op = match header[1] {
            1 => Self::Mutation(mutation_at(header, Action::Write)),
            2 => Self::Mutation(mutation_at(header, Action::Discard)),
            3 => Self::Mutation(mutation_at(header, Action::WriteZeroes { keep_allocated: false })),
            4 => Self::Mutation(mutation_at(header, Action::WriteZeroes { keep_allocated: true })),
            5 => Self::Fence { volume, epoch: Epoch(u64_at(header, 16)) },
            6 => Self::DeleteVolume { volume },
            7 => Self::Marker,
            9 if header.len() == HEADER_BYTES + 4 => {
                Self::Mutation(mutation_at(header, Action::Miscompare { at: u32_at(header, HEADER_BYTES) }))
            }
            9 => return Err(OpError::Length(header.len())),
            other => return Err(OpError::Kind(other)),
        };
        let Self::Mutation(m) = &op else {
            if matches!(op, Self::Fence { .. }) && !is_kept_length(payload_len) {
                return Err(OpError::Length(payload_len));
            }
            return if header.len() == HEADER_BYTES { Ok(op) } else { Err(OpError::Length(header.len())) };
        };
        check_range(m.offset, m.len, geometry)?;
        let blocks = (m.len / geometry.block_bytes()) as usize;
        let (words, payload_expected) = match m.action {
            Action::Write => (blocks, m.len as usize),
            Action::Miscompare { .. } => (1, 0),
            Action::Discard | Action::WriteZeroes { .. } => (0, 0),
        };
        if header.len() != HEADER_BYTES + 4 * words {
            return Err(OpError::Length(header.len()));
        }
        if payload_len != payload_expected {
            return Err(OpError::Range { offset: m.offset, len: m.len });
        }
        if m.action == Action::Write {
            let tail = header[HEADER_BYTES..].as_chunks::<4>().0;
            crcs.extend(tail.iter().map(|bytes| u32::from_le_bytes(*bytes)));
        }
        Ok(op)
    }
}

/// What a logged operation will do to chunks, without looking at its checksums; nothing for a header that `encode` never
/// makes.
pub fn append_of(header: &[u8]) -> Option<Append> {
    if header.len() < HEADER_BYTES {
        return None;
    }
    let volume = VolumeId(u64_at(header, 8));
    let key = ChunkKey { volume, index: u32_at(header, 4) };
    Some(match header[1] {
        1 => Append::Write { key, offset: u32_at(header, 56), len: u32_at(header, 60) },
        2..=4 => Append::Clear(key),
        6 => Append::ClearVolume(volume),
        _ => Append::Nothing,
    })
}

/// Accepts a range of at least one whole block inside a chunk.
pub fn check_range(offset: u32, len: u32, geometry: Geometry) -> Result<(), OpError> {
    let block = geometry.block_bytes();
    let aligned = offset.is_multiple_of(block) && len.is_multiple_of(block) && len > 0;
    match offset.checked_add(len) {
        Some(end) if aligned && end <= geometry.chunk_bytes() => Ok(()),
        _ => Err(OpError::Range { offset, len }),
    }
}

/// Bytes of one holder that a fence keeps.
const KEPT_BYTES: usize = 16;

fn is_kept_length(bytes: usize) -> bool {
    bytes.is_multiple_of(KEPT_BYTES) && bytes <= KEPT_BYTES * HOLDERS_MAX
}

/// Encodes the holders that a fence keeps: its payload.
pub fn encode_kept(kept: &[(ClientId, Epoch)]) -> Bytes {
    let mut out = BytesMut::with_capacity(KEPT_BYTES * kept.len());
    for (client, epoch) in kept {
        out.put_u64_le(client.get());
        out.put_u64_le(epoch.get());
    }
    out.freeze()
}

/// Decodes the payload of a fence whose length was checked.
pub fn decode_kept(payload: &[Bytes]) -> Vec<(ClientId, Epoch)> {
    let joined = payload.concat();
    let pairs = joined.as_chunks::<KEPT_BYTES>().0.iter();
    pairs.map(|pair| (ClientId(u64_at(pair, 0)), Epoch(u64_at(pair, 8)))).collect()
}

fn mutation_kind(action: Action) -> u8 {
    match action {
        Action::Write => 1,
        Action::Discard => 2,
        Action::WriteZeroes { keep_allocated: false } => 3,
        Action::WriteZeroes { keep_allocated: true } => 4,
        Action::Miscompare { .. } => 9,
    }
}

fn mutation_at(header: &[u8], action: Action) -> Mutation {
    Mutation {
        key: ChunkKey { volume: VolumeId(u64_at(header, 8)), index: u32_at(header, 4) },
        epoch: Epoch(u64_at(header, 16)),
        client: ClientId(u64_at(header, 24)),
        sequence: Sequence(u64_at(header, 32)),
        answered_below: Sequence(u64_at(header, 40)),
        offset: u32_at(header, 56),
        len: u32_at(header, 60),
        read_in: (header[2] & FLAG_TERM != 0).then(|| Term(u64_at(header, 48))),
        more: header[2] & FLAG_MORE != 0,
        action,
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

/// What became of an operation, decided when it was applied; the same on every replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Done, now or by the first try of the same operation.
    Applied,
    /// The epoch is too low; nothing was done.
    Fenced {
        /// The lowest epoch the copyset accepts for the volume.
        held: Epoch,
    },
    /// The sequence was answered long ago, so this is a late copy; nothing was done.
    Stale,
    /// A merged write was read in another term than it was logged in; nothing was done and it may be tried again.
    AnotherTerm,
    /// The operation cannot be understood; nothing was done.
    Malformed,
    /// The comparison found a difference, now or at the first try of the same operation; nothing was done.
    Differs {
        /// The first byte that differed, counted from the begin of what the client compared.
        at: u32,
    },
}

impl Outcome {
    /// The bytes that travel from the state machine to the proposer. Does not allocate unless it says more than a word.
    pub fn encode(self) -> Bytes {
        match self {
            Self::Applied => Bytes::from_static(&[0]),
            Self::Stale => Bytes::from_static(&[2]),
            Self::AnotherTerm => Bytes::from_static(&[3]),
            Self::Malformed => Bytes::from_static(&[4]),
            Self::Differs { at } => {
                let mut out = BytesMut::with_capacity(5);
                out.put_u8(5);
                out.put_u32_le(at);
                out.freeze()
            }
            Self::Fenced { held } => {
                let mut out = BytesMut::with_capacity(9);
                out.put_u8(1);
                out.put_u64_le(held.get());
                out.freeze()
            }
        }
    }

    /// Reverses `encode`; `None` for bytes that it never makes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match (bytes.first()?, bytes.len()) {
            (0, 1) => Some(Self::Applied),
            (1, 9) => Some(Self::Fenced { held: Epoch(u64_at(bytes, 1)) }),
            (2, 1) => Some(Self::Stale),
            (3, 1) => Some(Self::AnotherTerm),
            (4, 1) => Some(Self::Malformed),
            (5, 5) => Some(Self::Differs { at: u32_at(bytes, 1) }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mutation(action: Action) -> Mutation {
        Mutation {
            key: ChunkKey { volume: VolumeId(7), index: 3 },
            epoch: Epoch(2),
            client: ClientId(0xfeed),
            sequence: Sequence(9),
            answered_below: Sequence(5),
            offset: 8192,
            len: 8192,
            read_in: Some(Term(4)),
            more: true,
            action,
        }
    }

    #[test]
    fn operations_round_trip() {
        let geometry = Geometry::default();
        let mut crcs = Vec::new();
        let write = CopysetOp::Mutation(mutation(Action::Write));
        let bytes = write.encode(&[11, 22]);
        assert_eq!(bytes.len(), HEADER_BYTES + 8);
        assert_eq!(CopysetOp::decode(&bytes, 8192, geometry, &mut crcs), Ok(write));
        assert_eq!(crcs, [11, 22]);
        for op in [
            CopysetOp::Mutation(mutation(Action::Discard)),
            CopysetOp::Mutation(mutation(Action::WriteZeroes { keep_allocated: false })),
            CopysetOp::Mutation(mutation(Action::WriteZeroes { keep_allocated: true })),
            CopysetOp::Mutation(mutation(Action::Miscompare { at: 515 })),
            CopysetOp::Fence { volume: VolumeId(1), epoch: Epoch(3) },
            CopysetOp::DeleteVolume { volume: VolumeId(1) },
            CopysetOp::Marker,
        ] {
            assert_eq!(CopysetOp::decode(&op.encode(&[]), 0, geometry, &mut crcs), Ok(op));
            assert!(crcs.is_empty());
            let cleared = Append::Clear(ChunkKey { volume: VolumeId(7), index: 3 });
            let expected = match op {
                CopysetOp::Mutation(m) if matches!(m.action, Action::Miscompare { .. }) => Append::Nothing,
                CopysetOp::Mutation(_) => cleared,
                CopysetOp::DeleteVolume { volume } => Append::ClearVolume(volume),
                _ => Append::Nothing,
            };
            assert_eq!(append_of(&op.encode(&[])), Some(expected));
        }
    }

    #[test]
    fn the_bytes_are_as_documented() {
        let bytes = CopysetOp::Mutation(mutation(Action::Write)).encode(&[0x0403_0201, 5]);
        let mut expected = vec![1, 1, 3, 0, 3, 0, 0, 0];
        for n in [7u64, 2, 0xfeed, 9, 5, 4] {
            expected.extend(n.to_le_bytes());
        }
        expected.extend([0, 32, 0, 0, 0, 32, 0, 0, 1, 2, 3, 4, 5, 0, 0, 0]);
        assert_eq!(bytes, expected);
    }

    #[test]
    fn wrong_ranges_and_lengths_are_refused() {
        let geometry = Geometry::default();
        let mut crcs = Vec::new();
        let good = CopysetOp::Mutation(mutation(Action::Write)).encode(&[1, 2]);
        assert_eq!(
            CopysetOp::decode(&good, 4096, geometry, &mut crcs),
            Err(OpError::Range { offset: 8192, len: 8192 })
        );
        assert!(matches!(
            CopysetOp::decode(&good[..good.len() - 4], 8192, geometry, &mut crcs),
            Err(OpError::Length(_))
        ));
        for (offset, len) in [(1, 4096), (0, 0), (0, 512), (16 << 20, 4096), (u32::MAX - 4095, 4096)] {
            assert!(check_range(offset, len, geometry).is_err(), "{offset}+{len}");
        }
    }

    #[test]
    fn a_fence_names_whom_it_keeps() {
        let fence = CopysetOp::Fence { volume: VolumeId(1), epoch: Epoch(3) };
        let kept = [(ClientId(5), Epoch(1)), (ClientId(6), Epoch(2))];
        let payload = encode_kept(&kept);
        let decode = |len| CopysetOp::decode(&fence.encode(&[]), len, Geometry::default(), &mut Vec::new());
        assert_eq!(decode(payload.len()), Ok(fence));
        assert_eq!(decode_kept(&[payload.slice(..7), payload.slice(7..)]), kept);
        assert_eq!(decode_kept(&[]), []);
        for len in [8, 16 * (HOLDERS_MAX + 1)] {
            assert_eq!(decode(len), Err(OpError::Length(len)));
        }
    }

    #[test]
    fn outcomes_round_trip() {
        for outcome in [
            Outcome::Applied,
            Outcome::Fenced { held: Epoch(77) },
            Outcome::Stale,
            Outcome::AnotherTerm,
            Outcome::Malformed,
        ] {
            assert_eq!(Outcome::decode(&outcome.encode()), Some(outcome));
        }
        assert_eq!(Outcome::decode(&[]), None);
        assert_eq!(Outcome::decode(&[1, 2]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), len in 0usize..9000) {
            let mut crcs = Vec::new();
            let _ = CopysetOp::decode(&bytes, len, Geometry::default(), &mut crcs);
            let _ = Outcome::decode(&bytes);
        }
    }
}
