//! Bytes of the record a copyset saves at each checkpoint: what was applied, and what decides on the operations after.
//!
//! One record holds both, so that they can never be of different moments: with a fence or a window newer than the
//! applied index, a replay would refuse what the first run had done. All numbers are little-endian.
//!
//! ```text
//! state record
//!  at  bytes  what
//!   0      4  magic "CvSt"
//!   4      2  version: 3 if the table ends with differences, 2 otherwise
//!   6      2  0
//!   8      8  index of the last applied entry
//!  16      4  n, bytes of the runtime's marker (opaque here)
//!  20      4  t, bytes of the volume table
//!  24    n+t  marker, table
//!   …      4  CRC-32 of everything before it
//!
//! volume table
//!   0      4  number of volumes
//!   then for each: u64 volume, u64 fence, u32 number of holders that it keeps
//!     then for each: u64 client, u64 epoch
//!     then u32 number of clients
//!     then for each: u64 client, u64 epoch, u64 answered below, u64 last used index, u32 n, n × u64 sequence
//!   then, if any of those were comparisons that found a difference: u32 number of them,
//!     then for each: u64 volume, u64 client, u64 sequence, u32 first byte that differed
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use curve_types::{ClientId, Epoch, HOLDERS_MAX, LogIndex, VolumeId};
use thiserror::Error;

use super::fence::Fence;
use super::volumes::{CLIENTS_MAX, VolumeState, VolumeTable, WINDOW_MAX, Window};

const MAGIC: [u8; 4] = *b"CvSt";
/// Of a record without differences, which programs that know of none can read.
const VERSION_PLAIN: u16 = 2;
const VERSION: u16 = 3;
const HEADER_BYTES: usize = 24;

/// What a checkpoint keeps.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StateRecord {
    /// The last applied entry.
    pub index: LogIndex,
    /// The runtime's own marker of the same moment.
    pub marker: Bytes,
    /// Fences and windows of the same moment.
    pub volumes: VolumeTable,
}

/// Why a record cannot be used.
#[derive(Debug, Error, PartialEq, Eq, Clone, Copy)]
pub enum RecordError {
    /// Not a state record.
    #[error("not a copyset state record")]
    Magic,
    /// Written by a newer program.
    #[error("copyset state record of version {0}; this program knows 2 and 3")]
    Version(u16),
    /// The checksum does not match.
    #[error("copyset state record is corrupt (checksum)")]
    Checksum,
    /// The lengths in it do not fit.
    #[error("copyset state record is corrupt (lengths)")]
    Length,
}

impl StateRecord {
    /// The name under which it is saved beside the chunks.
    pub const NAME: &str = "state";

    /// Encodes the record.
    pub fn encode(&self) -> Bytes {
        let table = encode_table(&self.volumes);
        let mut out = BytesMut::with_capacity(HEADER_BYTES + self.marker.len() + table.len() + 4);
        out.put_slice(&MAGIC);
        let plain = differences(&self.volumes).next().is_none();
        out.put_u16_le(if plain { VERSION_PLAIN } else { VERSION });
        out.put_u16_le(0);
        out.put_u64_le(self.index.get());
        out.put_u32_le(self.marker.len() as u32);
        out.put_u32_le(table.len() as u32);
        out.put_slice(&self.marker);
        out.put_slice(&table);
        let crc = crc32fast::hash(&out);
        out.put_u32_le(crc);
        out.freeze()
    }

    /// Decodes a record.
    pub fn decode(bytes: &Bytes) -> Result<Self, RecordError> {
        if bytes.len() < HEADER_BYTES + 4 || bytes[..4] != MAGIC {
            return Err(RecordError::Magic);
        }
        let mut body = bytes.slice(..bytes.len() - 4);
        let stored = (&bytes[bytes.len() - 4..]).get_u32_le();
        if crc32fast::hash(&body) != stored {
            return Err(RecordError::Checksum);
        }
        body.advance(4);
        let version = body.get_u16_le();
        if version != VERSION && version != VERSION_PLAIN {
            return Err(RecordError::Version(version));
        }
        body.advance(2);
        let index = LogIndex(body.get_u64_le());
        let marker_len = body.get_u32_le() as usize;
        let table_len = body.get_u32_le() as usize;
        if marker_len.checked_add(table_len) != Some(body.len()) {
            return Err(RecordError::Length);
        }
        let marker = body.split_to(marker_len);
        Ok(Self { index, marker, volumes: decode_table(&body)? })
    }
}

/// Encodes a volume table; also carried in a snapshot's manifest.
pub fn encode_table(table: &VolumeTable) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u32_le(table.volumes.len() as u32);
    for (volume, state) in &table.volumes {
        out.put_u64_le(volume.get());
        out.put_u64_le(state.fence.lowest.get());
        out.put_u32_le(state.fence.kept.len() as u32);
        for (client, epoch) in &state.fence.kept {
            out.put_u64_le(client.get());
            out.put_u64_le(epoch.get());
        }
        out.put_u32_le(state.clients.len() as u32);
        for (client, window) in &state.clients {
            out.put_u64_le(client.get());
            out.put_u64_le(window.epoch.get());
            out.put_u64_le(window.answered_below);
            out.put_u64_le(window.last_used.get());
            out.put_u32_le(window.done.len() as u32);
            for sequence in &window.done {
                out.put_u64_le(*sequence);
            }
        }
    }
    let count = differences(table).count();
    if count > 0 {
        out.put_u32_le(count as u32);
    }
    for (volume, client, sequence, at) in differences(table) {
        out.put_u64_le(volume.get());
        out.put_u64_le(client.get());
        out.put_u64_le(sequence);
        out.put_u32_le(at);
    }
    out.freeze()
}

/// All remembered comparisons that found a difference.
fn differences(table: &VolumeTable) -> impl Iterator<Item = (VolumeId, ClientId, u64, u32)> {
    table.volumes.iter().flat_map(|(volume, state)| {
        state.clients.iter().flat_map(|(client, window)| {
            window.differed.iter().map(|(sequence, at)| (*volume, *client, *sequence, *at))
        })
    })
}

/// Decodes a volume table.
pub fn decode_table(mut bytes: &[u8]) -> Result<VolumeTable, RecordError> {
    let mut table = VolumeTable::default();
    let volumes = u32_of(&mut bytes)?;
    for _ in 0..volumes {
        let volume = VolumeId(u64_of(&mut bytes)?);
        let mut state = VolumeState { fence: fence_of(&mut bytes)?, ..VolumeState::default() };
        let clients = u32_of(&mut bytes)? as usize;
        if clients > CLIENTS_MAX {
            return Err(RecordError::Length);
        }
        for _ in 0..clients {
            let client = ClientId(u64_of(&mut bytes)?);
            state.clients.insert(client, window_of(&mut bytes)?);
        }
        table.volumes.insert(volume, state);
    }
    if !bytes.is_empty() {
        take_differences(&mut bytes, &mut table)?;
    }
    if bytes.is_empty() { Ok(table) } else { Err(RecordError::Length) }
}

fn take_differences(bytes: &mut &[u8], table: &mut VolumeTable) -> Result<(), RecordError> {
    for _ in 0..u32_of(bytes)? {
        let volume = VolumeId(u64_of(bytes)?);
        let client = ClientId(u64_of(bytes)?);
        let (sequence, at) = (u64_of(bytes)?, u32_of(bytes)?);
        let window = table.volumes.get_mut(&volume).and_then(|state| state.clients.get_mut(&client));
        // Each is one of those that are remembered as done; so there are no more of them than of those.
        match window.filter(|window| window.done.binary_search(&sequence).is_ok()) {
            Some(window) => window.differed.insert(sequence, at),
            None => return Err(RecordError::Length),
        };
    }
    Ok(())
}

fn fence_of(bytes: &mut &[u8]) -> Result<Fence, RecordError> {
    let mut fence = Fence { lowest: Epoch(u64_of(bytes)?), ..Fence::default() };
    let kept = u32_of(bytes)? as usize;
    if kept > HOLDERS_MAX {
        return Err(RecordError::Length);
    }
    for _ in 0..kept {
        let client = ClientId(u64_of(bytes)?);
        fence.kept.insert(client, Epoch(u64_of(bytes)?));
    }
    Ok(fence)
}

fn window_of(bytes: &mut &[u8]) -> Result<Window, RecordError> {
    let mut window = Window {
        epoch: Epoch(u64_of(bytes)?),
        answered_below: u64_of(bytes)?,
        last_used: LogIndex(u64_of(bytes)?),
        ..Window::default()
    };
    let count = u32_of(bytes)? as usize;
    if count > WINDOW_MAX {
        return Err(RecordError::Length);
    }
    for _ in 0..count {
        let sequence = u64_of(bytes)?;
        if window.done.back().is_some_and(|last| *last >= sequence) {
            return Err(RecordError::Length);
        }
        window.done.push_back(sequence);
    }
    Ok(window)
}

fn u64_of(bytes: &mut &[u8]) -> Result<u64, RecordError> {
    bytes.try_get_u64_le().map_err(|_| RecordError::Length)
}

fn u32_of(bytes: &mut &[u8]) -> Result<u32, RecordError> {
    bytes.try_get_u32_le().map_err(|_| RecordError::Length)
}

#[cfg(test)]
mod tests {
    use curve_types::{ChunkKey, Sequence, Term};
    use proptest::prelude::*;

    use super::*;
    use crate::copyset::format::{Action, Mutation};

    fn record() -> StateRecord {
        let mut volumes = VolumeTable::default();
        volumes.fence(VolumeId(3), Epoch(4), &[(ClientId(9), Epoch(2))]);
        for (sequence, action) in
            [(5, Action::Discard), (7, Action::Miscompare { at: 515 }), (6, Action::Discard)]
        {
            let m = Mutation {
                key: ChunkKey { volume: VolumeId(3), index: 1 },
                epoch: Epoch(4),
                client: ClientId(8),
                sequence: Sequence(sequence),
                answered_below: Sequence(5),
                offset: 0,
                len: 4096,
                read_in: None,
                more: false,
                action,
            };
            volumes.decide(&m, LogIndex(9), Term(1));
        }
        StateRecord { index: LogIndex(9), marker: Bytes::from_static(b"marker"), volumes }
    }

    #[test]
    fn a_record_round_trips() {
        let bytes = record().encode();
        assert_eq!(StateRecord::decode(&bytes), Ok(record()));
        let empty = StateRecord::default();
        assert_eq!(StateRecord::decode(&empty.encode()), Ok(empty));
    }

    #[test]
    fn a_record_without_differences_is_as_it_was_before_there_were_any() {
        let mut record = record();
        assert_eq!(record.encode()[4], 3);
        let state = record.volumes.volumes.get_mut(&VolumeId(3)).unwrap();
        state.clients.get_mut(&ClientId(8)).unwrap().differed.clear();
        let bytes = record.encode();
        assert_eq!(bytes[4], 2);
        assert_eq!(StateRecord::decode(&bytes), Ok(record));
    }

    #[test]
    fn a_difference_of_an_operation_that_was_not_done_is_refused() {
        let mut stray = record();
        let state = stray.volumes.volumes.get_mut(&VolumeId(3)).unwrap();
        state.clients.get_mut(&ClientId(8)).unwrap().differed.insert(99, 1);
        assert_eq!(StateRecord::decode(&stray.encode()), Err(RecordError::Length));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = record().encode();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(StateRecord::decode(&flipped.into()).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(StateRecord::decode(&bytes.slice(..len)).is_err(), "cut to {len}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoders_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode_table(&bytes);
            let mut sealed = bytes;
            sealed.splice(0..0, MAGIC);
            sealed.extend(crc32fast::hash(&sealed).to_le_bytes());
            let _ = StateRecord::decode(&sealed.into());
        }
    }
}
