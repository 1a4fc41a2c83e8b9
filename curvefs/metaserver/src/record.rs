//! What a replica is, beside its rows: what its partition was born with, and whether it is being removed. Written before the
//! replica enters the log, so that every open gives the same first rows. All numbers are little-endian.
//!
//! ```text
//!   0   4  magic "CvPr"
//!   4   2  version, 1
//!   6   2  1: it lives; 2: its removal has begun, and is finished at the next start
//!   8   4  file system
//!  12   4  partition
//!  16   4  slot
//!  20   8  time of birth
//!  28  12  owner, group, mode of the root
//!  40   4  n, number of ranges
//!  44  16n each range: first inode, last inode
//!   …   4  CRC-32 of everything before it
//! ```

use std::io;
use std::path::Path;

use bytes::{Buf, BufMut, Bytes};
use curve_io::{Disk, read_whole, replace_file};
use curvefs_meta::{Birth, InodeRange};
use curvefs_types::{FsId, InodeId, PartitionId};

use crate::sealed;

const FILE: &str = "replica";
const MAGIC: [u8; 4] = *b"CvPr";
const VERSION: u16 = 1;
/// Bytes of the content before the ranges.
const FIXED: usize = 36;
/// A partition is made with one; splits will add some.
const RANGES_MAX: u32 = 1 << 16;

/// The record of a replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaRecord {
    /// What its partition was born with.
    pub birth: Birth,
    /// Its removal has begun.
    pub dropped: bool,
}

impl ReplicaRecord {
    /// Loads the record in a replica's directory; `None` if there is none.
    pub async fn load(disk: &dyn Disk, dir: &Path) -> io::Result<Option<Self>> {
        let Some(bytes) = read_whole(disk, &dir.join(FILE)).await? else { return Ok(None) };
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, format!("`{FILE}` is damaged"));
        Self::decode(&bytes).map(Some).ok_or_else(damaged)
    }

    /// Saves the record durably.
    pub async fn save(&self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        replace_file(disk, &dir.join(FILE), &self.encode()).await
    }

    pub(crate) fn encode(&self) -> Bytes {
        let Birth { fs, partition, slot, ranges, now_ns, root } = &self.birth;
        let mut out = sealed::begin(MAGIC, VERSION, if self.dropped { 2 } else { 1 });
        out.put_u32_le(fs.0);
        out.put_u32_le(partition.0);
        out.put_u32_le(*slot);
        out.put_i64_le(*now_ns);
        out.put_u32_le(root.0);
        out.put_u32_le(root.1);
        out.put_u32_le(root.2);
        out.put_u32_le(ranges.len() as u32);
        for range in ranges {
            out.put_u64_le(range.first.0);
            out.put_u64_le(range.last.0);
        }
        sealed::seal(out)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (state, mut body) = sealed::open(bytes, MAGIC, VERSION)?;
        if body.len() < FIXED || !(1..=2).contains(&state) {
            return None;
        }
        let (fs, partition) = (FsId(body.get_u32_le()), PartitionId(body.get_u32_le()));
        let (slot, now_ns) = (body.get_u32_le(), body.get_i64_le());
        let root = (body.get_u32_le(), body.get_u32_le(), body.get_u32_le());
        let count = body.get_u32_le();
        if count > RANGES_MAX || body.len() != count as usize * 16 {
            return None;
        }
        let range = |body: &mut &[u8]| InodeRange {
            first: InodeId(body.get_u64_le()),
            last: InodeId(body.get_u64_le()),
        };
        let ranges = (0..count).map(|_| range(&mut body)).collect();
        let birth = Birth { fs, partition, slot, ranges, now_ns, root };
        Some(Self { birth, dropped: state == 2 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_round_trips_and_every_flipped_bit_is_noticed() {
        let birth = Birth { now_ns: 5, root: (1, 2, 0o700), ..Birth::of_slot(FsId(3), PartitionId(4), 5) };
        for dropped in [false, true] {
            let record = ReplicaRecord { birth: birth.clone(), dropped };
            let bytes = record.encode();
            assert_eq!(ReplicaRecord::decode(&bytes), Some(record));
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(ReplicaRecord::decode(&flipped), None);
            }
        }
        assert_eq!(ReplicaRecord::decode(&[]), None);
    }
}
