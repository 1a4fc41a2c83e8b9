//! Keys of the state store. Numbers are big-endian, so that rows sort by them; values are messages of `state.proto`.
//!
//! | key | row |
//! |-----|-----|
//! | `C` | the cluster: its name, sizes and next ids |
//! | `c` copyset (4) | a copyset and its members |
//! | `e` parent directory (8) name | what a name in a directory stands for; the root directory is 0 |
//! | `f` … | CurveFS: see `keys.rs` of curvefs-mds |
//! | `g` volume (8) segment (4) | the copysets of a segment's chunks |
//! | `i` `S` | iSCSI: the number of the last change, and of the last gateway |
//! | `i` `g` gateway (2) | a gateway |
//! | `i` `r` volume (8) | the reservations of a unit |
//! | `i` `s` volume (8) gateway (2) | a gateway serves a unit |
//! | `i` `t` name | a target with its units, its list of initiators and its sealed secrets |
//! | `i` `u` volume (8) | which unit of which target a volume is |
//! | `k` token (16) | the node id (8) that a chunkserver's token got |
//! | `n` node (8) | a chunkserver |
//! | `q` slot (8) | which remembered result has this place in the ring |
//! | `r` client (8) sequence (8) | the remembered result of a mutation |
//! | `s` volume (8) client (8) | a session |
//! | `t` volume (8) | a deleted volume whose data is not yet gone everywhere |
//! | `v` volume (8) | a volume |

use bytes::{BufMut, Bytes, BytesMut};
use curve_kv::KeyRange;

/// The root directory.
pub(crate) const ROOT: u64 = 0;

fn key(tag: u8, parts: &[&[u8]]) -> Bytes {
    let mut key = BytesMut::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.put_u8(tag);
    for part in parts {
        key.put_slice(part);
    }
    key.freeze()
}

fn all(tag: u8) -> KeyRange {
    KeyRange::prefix(vec![tag])
}

pub(crate) fn cluster() -> Bytes {
    key(b'C', &[])
}

pub(crate) fn copyset(id: u32) -> Bytes {
    key(b'c', &[&id.to_be_bytes()])
}

pub(crate) fn copysets() -> KeyRange {
    all(b'c')
}

pub(crate) fn entry(parent: u64, name: &[u8]) -> Bytes {
    key(b'e', &[&parent.to_be_bytes(), name])
}

pub(crate) fn entries(parent: u64) -> KeyRange {
    KeyRange::prefix(key(b'e', &[&parent.to_be_bytes()]))
}

/// The name in the key of an entry.
pub(crate) fn entry_name(key: &Bytes) -> Bytes {
    key.slice(9..)
}

pub(crate) fn segment(volume: u64, index: u32) -> Bytes {
    key(b'g', &[&volume.to_be_bytes(), &index.to_be_bytes()])
}

pub(crate) fn segments(volume: u64) -> KeyRange {
    KeyRange::prefix(key(b'g', &[&volume.to_be_bytes()]))
}

pub(crate) fn iscsi() -> Bytes {
    key(b'i', &[b"S"])
}

pub(crate) fn iscsi_gateway(number: u16) -> Bytes {
    key(b'i', &[b"g", &number.to_be_bytes()])
}

pub(crate) fn iscsi_gateways() -> KeyRange {
    KeyRange::prefix(key(b'i', &[b"g"]))
}

pub(crate) fn iscsi_reservation(volume: u64) -> Bytes {
    key(b'i', &[b"r", &volume.to_be_bytes()])
}

pub(crate) fn iscsi_reservations() -> KeyRange {
    KeyRange::prefix(key(b'i', &[b"r"]))
}

pub(crate) fn iscsi_seat(volume: u64, gateway: u16) -> Bytes {
    key(b'i', &[b"s", &volume.to_be_bytes(), &gateway.to_be_bytes()])
}

/// The volume in the key of a seat.
pub(crate) fn iscsi_seat_volume(key: &Bytes) -> u64 {
    let volume = key.get(2..).and_then(|rest| rest.first_chunk());
    volume.map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

pub(crate) fn iscsi_seats(volume: u64) -> KeyRange {
    KeyRange::prefix(key(b'i', &[b"s", &volume.to_be_bytes()]))
}

pub(crate) fn iscsi_all_seats() -> KeyRange {
    KeyRange::prefix(key(b'i', &[b"s"]))
}

pub(crate) fn iscsi_target(name: &str) -> Bytes {
    key(b'i', &[b"t", name.as_bytes()])
}

pub(crate) fn iscsi_targets() -> KeyRange {
    KeyRange::prefix(key(b'i', &[b"t"]))
}

pub(crate) fn iscsi_unit(volume: u64) -> Bytes {
    key(b'i', &[b"u", &volume.to_be_bytes()])
}

pub(crate) fn token(token: &[u8]) -> Bytes {
    key(b'k', &[token])
}

pub(crate) fn chunkserver(node: u64) -> Bytes {
    key(b'n', &[&node.to_be_bytes()])
}

pub(crate) fn chunkservers() -> KeyRange {
    all(b'n')
}

pub(crate) fn slot(slot: u64) -> Bytes {
    key(b'q', &[&slot.to_be_bytes()])
}

pub(crate) fn result(client: u64, sequence: u64) -> Bytes {
    key(b'r', &[&client.to_be_bytes(), &sequence.to_be_bytes()])
}

pub(crate) fn session(volume: u64, client: u64) -> Bytes {
    key(b's', &[&volume.to_be_bytes(), &client.to_be_bytes()])
}

pub(crate) fn sessions_of(volume: u64) -> KeyRange {
    KeyRange::prefix(key(b's', &[&volume.to_be_bytes()]))
}

pub(crate) fn sessions() -> KeyRange {
    all(b's')
}

pub(crate) fn trash(volume: u64) -> Bytes {
    key(b't', &[&volume.to_be_bytes()])
}

pub(crate) fn trashes() -> KeyRange {
    all(b't')
}

pub(crate) fn volume(id: u64) -> Bytes {
    key(b'v', &[&id.to_be_bytes()])
}

pub(crate) fn volumes() -> KeyRange {
    all(b'v')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_sort_by_number_and_prefixes_do_not_overlap() {
        assert!(segment(1, 255) < segment(1, 256));
        assert!(segments(1).contains(&segment(1, u32::MAX)) && !segments(1).contains(&segment(2, 0)));
        assert!(entries(7).contains(&entry(7, b"x")) && !entries(7).contains(&entry(8, b"")));
        assert_eq!(entry_name(&entry(7, b"name")), "name");
        assert!(!copysets().contains(&cluster()));
        assert!(iscsi_seats(1).contains(&iscsi_seat(1, 7)) && !iscsi_seats(1).contains(&iscsi_seat(2, 7)));
        assert_eq!(iscsi_seat_volume(&iscsi_seat(9, 7)), 9);
        assert!(!iscsi_targets().contains(&iscsi()) && iscsi_targets().contains(&iscsi_target("iqn.x:y")));
    }
}
