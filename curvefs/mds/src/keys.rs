//! Keys of the rows, all below one byte of the MDS's state store. Numbers are big-endian, so that rows sort by them; values
//! are messages of `fs_state.proto`.
//!
//! | key | row |
//! |-----|-----|
//! | `f` `S` | the next ids |
//! | `f` `f` file system (4) | a file system with its sealed secret |
//! | `f` `k` token (16) | the node id that a metaserver's token got |
//! | `f` `m` file system (4) mount (8) | a mount |
//! | `f` `n` name | the file system of a name |
//! | `f` `o` file system (4) nonce (8) | the mount that a nonce got |
//! | `f` `p` file system (4) partition (4) | a partition and its members |
//! | `f` `s` node (8) | a metaserver |

use bytes::{BufMut, Bytes, BytesMut};
use curve_kv::KeyRange;

/// The byte that all keys begin with.
pub(crate) const TAG: u8 = b'f';

fn key(kind: u8, parts: &[&[u8]]) -> Bytes {
    let mut key = BytesMut::with_capacity(2 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.put_slice(&[TAG, kind]);
    for part in parts {
        key.put_slice(part);
    }
    key.freeze()
}

pub(crate) fn counters() -> Bytes {
    key(b'S', &[])
}

pub(crate) fn system(fs: u32) -> Bytes {
    key(b'f', &[&fs.to_be_bytes()])
}

pub(crate) fn systems() -> KeyRange {
    KeyRange::prefix(key(b'f', &[]))
}

pub(crate) fn token(token: &[u8]) -> Bytes {
    key(b'k', &[token])
}

pub(crate) fn mount(fs: u32, mount: u64) -> Bytes {
    key(b'm', &[&fs.to_be_bytes(), &mount.to_be_bytes()])
}

pub(crate) fn mounts_of(fs: u32) -> KeyRange {
    KeyRange::prefix(key(b'm', &[&fs.to_be_bytes()]))
}

pub(crate) fn mounts() -> KeyRange {
    KeyRange::prefix(key(b'm', &[]))
}

pub(crate) fn name(name: &str) -> Bytes {
    key(b'n', &[name.as_bytes()])
}

pub(crate) fn nonce(fs: u32, nonce: u64) -> Bytes {
    key(b'o', &[&fs.to_be_bytes(), &nonce.to_be_bytes()])
}

pub(crate) fn partition(fs: u32, partition: u32) -> Bytes {
    key(b'p', &[&fs.to_be_bytes(), &partition.to_be_bytes()])
}

pub(crate) fn partitions_of(fs: u32) -> KeyRange {
    KeyRange::prefix(key(b'p', &[&fs.to_be_bytes()]))
}

pub(crate) fn partitions() -> KeyRange {
    KeyRange::prefix(key(b'p', &[]))
}

pub(crate) fn metaserver(node: u64) -> Bytes {
    key(b's', &[&node.to_be_bytes()])
}

pub(crate) fn metaservers() -> KeyRange {
    KeyRange::prefix(key(b's', &[]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_sort_by_number_and_prefixes_do_not_overlap() {
        assert!(partition(1, 255) < partition(1, 256));
        assert!(partitions_of(1).contains(&partition(1, u32::MAX)));
        assert!(!partitions_of(1).contains(&partition(2, 0)));
        assert!(mounts_of(7).contains(&mount(7, 1)) && !mounts_of(7).contains(&mount(8, 1)));
        assert!(mounts().contains(&mount(8, 1)) && !mounts().contains(&nonce(8, 1)));
        assert!(!systems().contains(&counters()) && systems().contains(&system(3)));
    }
}
