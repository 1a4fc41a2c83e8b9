//! The MDS's last answers about where partitions are, kept on disk: a metaserver that starts while every MDS is down still
//! finds the others, and coordinates. A cache: the MDS has the truth. One file for each file system, `maps/<number>`; all
//! numbers are little-endian.
//!
//! ```text
//!   0   4  magic "CvPm"
//!   4   2  version, 1
//!   6   2  0
//!   8   n  the answer: `FsPartitions` of fs.proto, without what changes all the time
//!   …   4  CRC-32 of everything before it
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use curve_io::{Disk, make_dirs_durable, read_whole, replace_file};
use curve_proto::pb::fs::{FsPartition, FsPartitions, PartitionMember};
use curvefs_types::FsId;
use prost::Message as _;

use crate::sealed;

/// The subdirectory of the files.
const DIR: &str = "maps";
const MAGIC: [u8; 4] = *b"CvPm";
const VERSION: u16 = 1;

/// Where the answers are kept.
pub struct MapFiles {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

impl MapFiles {
    /// In a metaserver's data directory.
    pub fn new(disk: Arc<dyn Disk>, dir: &Path) -> Self {
        Self { disk, dir: dir.join(DIR) }
    }

    fn file(&self, fs: FsId) -> PathBuf {
        self.dir.join(fs.0.to_string())
    }

    /// All that is kept. What is damaged or cannot be read is left out, and will be asked for again.
    pub async fn load(&self) -> Vec<(FsId, FsPartitions)> {
        let entries = match self.disk.list(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                tracing::warn!(%error, "cannot read where partitions were");
                return Vec::new();
            }
        };
        let mut found = Vec::new();
        for fs in entries.iter().filter_map(|entry| entry.name.parse().ok().map(FsId)) {
            let read = read_whole(&*self.disk, &self.file(fs)).await;
            match read.map(|bytes| bytes.as_deref().and_then(decode)) {
                Ok(Some(map)) => found.push((fs, map)),
                Ok(None) => {
                    tracing::warn!(%fs, "where its partitions were is damaged and will be asked for again")
                }
                Err(error) => tracing::warn!(%fs, %error, "cannot read where its partitions were"),
            }
        }
        found
    }

    /// Keeps an answer, durably.
    pub async fn save(&self, fs: FsId, map: &FsPartitions) -> io::Result<()> {
        make_dirs_durable(&*self.disk, &self.dir).await?;
        replace_file(&*self.disk, &self.file(fs), &encode(map)).await
    }

    /// Keeps it no longer. Should the file come back after a crash, that does no harm.
    pub fn remove(&self, fs: FsId) {
        match self.disk.remove_file(&self.file(fs)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%fs, %error, "cannot remove where its partitions were");
            }
            _ => {}
        }
    }
}

/// An answer without what changes all the time: who leads, how far, how much there is.
pub fn lasting(answer: &FsPartitions) -> FsPartitions {
    let member = |at: &PartitionMember| PartitionMember { up: false, ..at.clone() };
    let partition = |at: &FsPartition| FsPartition {
        id: at.id,
        fs: at.fs,
        first_inodes: at.first_inodes.clone(),
        members: at.members.iter().map(member).collect(),
        ..FsPartition::default()
    };
    FsPartitions { version: answer.version, partitions: answer.partitions.iter().map(partition).collect() }
}

pub(crate) fn encode(map: &FsPartitions) -> Bytes {
    let mut out = sealed::begin(MAGIC, VERSION, 0);
    map.encode(&mut out).expect("a buffer that grows takes every message");
    sealed::seal(out)
}

pub(crate) fn decode(bytes: &[u8]) -> Option<FsPartitions> {
    let (_, message) = sealed::open(bytes, MAGIC, VERSION)?;
    FsPartitions::decode(message).ok()
}

#[cfg(test)]
mod tests {
    use curve_io::sim::{SimDisk, SimDiskConfig};

    use super::*;

    fn answer(version: u64) -> FsPartitions {
        let members = vec![PartitionMember { node: 1, address: "m1:1".into(), up: true }];
        let partition =
            FsPartition { id: 8, fs: 3, members, leader: 1, applied: 9, ..FsPartition::default() };
        FsPartitions { version, partitions: vec![partition] }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let map = lasting(&answer(4));
        assert_eq!((map.partitions[0].leader, map.partitions[0].applied), (0, 0));
        let bytes = encode(&map);
        assert_eq!(decode(&bytes), Some(map));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&flipped), None);
        }
        assert_eq!(decode(&[]), None);
    }

    #[tokio::test]
    async fn what_is_kept_survives_a_crash_and_damage_is_left_out() {
        let disk = SimDisk::new(SimDiskConfig::default());
        let files = MapFiles::new(disk.mount(), Path::new("data"));
        assert!(files.load().await.is_empty());
        for (fs, version) in [(1, 1), (2, 5), (1, 2)] {
            files.save(FsId(fs), &answer(version)).await.unwrap();
        }
        disk.crash();
        let files = MapFiles::new(disk.mount(), Path::new("data"));
        let mut found = files.load().await;
        found.sort_by_key(|(fs, _)| *fs);
        assert_eq!(found, [(FsId(1), answer(2)), (FsId(2), answer(5))]);
        disk.flip_bit(Path::new("data/maps/1"), 9, 1).unwrap();
        files.remove(FsId(3));
        assert_eq!(files.load().await, [(FsId(2), answer(5))]);
        files.remove(FsId(2));
        assert!(files.load().await.is_empty());
    }
}
