//! Valid bytes, and decoders that take any bytes, of the files beside a partition's rows. For `tests/fuzz`; not an API.
//!
//! Damage rarely gets past a checksum. So everything is tried twice: as it is, and with the checksum made right.

use bytes::BufMut;
use curve_proto::pb::fs::{FsPartition, FsPartitions, PartitionMember};
use curvefs_meta::Birth;
use curvefs_types::{FsId, PartitionId};

use crate::generations;
use crate::maps;
use crate::record::ReplicaRecord;

/// A format: its name, valid bytes from a seed, and whether any bytes are accepted.
pub type Format = (&'static str, fn(u64) -> Vec<u8>, fn(&[u8]) -> bool);

/// What a metaserver keeps beside rows.
pub const FORMATS: [Format; 3] = [
    ("replica", sample_replica, |bytes| accepts_replica(bytes) | accepts_replica(&sealed(bytes))),
    (
        "generation",
        |seed| generations::encode(seed).into(),
        |bytes| accepts_generation(bytes) | accepts_generation(&sealed(bytes)),
    ),
    ("map", sample_map, |bytes| accepts_map(bytes) | accepts_map(&sealed(bytes))),
];

fn sample_replica(seed: u64) -> Vec<u8> {
    let (fs, partition) = (FsId(seed as u32), PartitionId((seed >> 32) as u32));
    let mut birth = Birth::of_slot(fs, partition, seed as u32 % 100);
    birth.ranges.truncate(seed as usize % 2);
    ReplicaRecord { birth, dropped: seed.is_multiple_of(3) }.encode().into()
}

fn accepts_replica(bytes: &[u8]) -> bool {
    let Some(record) = ReplicaRecord::decode(bytes) else { return false };
    assert_eq!(record.encode(), bytes, "one record has one encoding");
    true
}

fn accepts_generation(bytes: &[u8]) -> bool {
    let Some(number) = generations::decode(bytes) else { return false };
    assert_eq!(generations::decode(&generations::encode(number)), Some(number));
    true
}

fn sample_map(seed: u64) -> Vec<u8> {
    let member = |node| PartitionMember { node, address: format!("m{node}:1"), up: false };
    let partition = |id: u32| FsPartition {
        id,
        first_inodes: vec![u64::from(id) << 40],
        members: (0..seed % 5).map(member).collect(),
        ..FsPartition::default()
    };
    maps::encode(&FsPartitions { version: seed, partitions: (0..seed as u32 % 7).map(partition).collect() })
        .into()
}

fn accepts_map(bytes: &[u8]) -> bool {
    let Some(map) = maps::decode(bytes) else { return false };
    assert_eq!(maps::decode(&maps::encode(&map)), Some(map));
    true
}

fn sealed(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes[..bytes.len().saturating_sub(4)].to_vec();
    let crc = crc32fast::hash(&out);
    out.put_u32_le(crc);
    out
}
