//! Who this server is, whatever its address.
//!
//! A token is drawn when the disk is first used; the MDS gives a node id for it. Both stay with the disk. A disk whose
//! log or replicas were lost must come back under a new identity (see `set_aside`): a replica that forgot its votes must
//! not vote again under the old one. All numbers are little-endian.
//!
//! ```text
//!   0   4  magic "CvId"
//!   4   2  version, 1
//!   6   2  n, bytes of the cluster's name
//!   8  16  token
//!  24   8  node id; 0 until the MDS has given one
//!  32   n  the cluster's name; empty until then
//!   …   4  CRC-32 of everything before it
//! ```

use std::io;
use std::path::Path;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use curve_io::{Disk, read_whole, replace_file};
use curve_types::NodeId;
use rand::Rng;
use rand::rngs::StdRng;
use thiserror::Error;

/// The file's name in the data directory.
pub const FILE: &str = "identity";
const MAGIC: [u8; 4] = *b"CvId";
const VERSION: u16 = 1;

/// A server's identity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Drawn when the disk was first used.
    pub token: u128,
    /// Given by the MDS; `None` until the first registration.
    pub node: Option<NodeId>,
    /// The cluster that gave it; empty until the first registration.
    pub cluster: String,
}

/// Why an identity cannot be had.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The file's bytes are damaged.
    #[error("the file `{FILE}` in the data directory is damaged: {0}")]
    Damaged(&'static str),
    /// Written by a newer program.
    #[error("the file `{FILE}` in the data directory has version {0}; this program knows version 1")]
    Version(u16),
    /// The disk failed.
    #[error("identity: {0}")]
    Io(#[from] io::Error),
}

impl Identity {
    /// Loads the identity in `dir`; on a new disk draws a token and saves it.
    pub async fn load_or_make(disk: &dyn Disk, dir: &Path, rng: &mut StdRng) -> Result<Self, IdentityError> {
        if let Some(bytes) = read_whole(disk, &dir.join(FILE)).await? {
            return Self::decode(&bytes);
        }
        let identity = Self { token: rng.random(), node: None, cluster: String::new() };
        identity.save(disk, dir).await?;
        Ok(identity)
    }

    /// Saves the identity durably.
    pub async fn save(&self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        replace_file(disk, &dir.join(FILE), &self.encode()).await
    }

    fn encode(&self) -> Bytes {
        let name = &self.cluster.as_bytes()[..self.cluster.len().min(usize::from(u16::MAX))];
        let mut out = BytesMut::with_capacity(36 + name.len());
        out.put_slice(&MAGIC);
        out.put_u16_le(VERSION);
        out.put_u16_le(name.len() as u16);
        out.put_u128_le(self.token);
        out.put_u64_le(self.node.unwrap_or_default().get());
        out.put_slice(name);
        let crc = crc32fast::hash(&out);
        out.put_u32_le(crc);
        out.freeze()
    }

    fn decode(bytes: &[u8]) -> Result<Self, IdentityError> {
        if bytes.len() < 36 || bytes[..4] != MAGIC {
            return Err(IdentityError::Damaged("it does not begin as an identity"));
        }
        let (mut body, mut crc) = bytes.split_at(bytes.len() - 4);
        if crc32fast::hash(body) != crc.get_u32_le() {
            return Err(IdentityError::Damaged("its checksum is wrong"));
        }
        body.advance(4);
        let version = body.get_u16_le();
        if version != VERSION {
            return Err(IdentityError::Version(version));
        }
        let name_len = usize::from(body.get_u16_le());
        let token = body.get_u128_le();
        let node = body.get_u64_le();
        if body.len() != name_len {
            return Err(IdentityError::Damaged("its length is wrong"));
        }
        let cluster =
            String::from_utf8(body.to_vec()).map_err(|_| IdentityError::Damaged("a name is not UTF-8"))?;
        Ok(Self { token, node: (node != 0).then_some(NodeId(node)), cluster })
    }
}

/// For the fuzzer: valid bytes.
pub fn sample(seed: u64) -> Vec<u8> {
    let node = (!seed.is_multiple_of(2)).then_some(NodeId(seed));
    let cluster = "c".repeat(seed as usize % 20);
    Identity { token: u128::from(seed) << 40, node, cluster }.encode().into()
}

/// For the fuzzer: whether bytes are an identity.
pub fn accepts(bytes: &[u8]) -> bool {
    let Ok(identity) = Identity::decode(bytes) else { return false };
    assert!(Identity::decode(&identity.encode()).is_ok_and(|again| again == identity));
    true
}

#[cfg(test)]
mod tests {
    use curve_io::sim::{SimDisk, SimDiskConfig};
    use rand::SeedableRng;

    use super::*;

    #[tokio::test]
    async fn an_identity_stays_with_the_disk() {
        let disk = SimDisk::new(SimDiskConfig::default());
        let mut rng = StdRng::seed_from_u64(1);
        let dir = Path::new("");
        let mut identity = Identity::load_or_make(&*disk.mount(), dir, &mut rng).await.unwrap();
        assert_eq!(identity.node, None);
        identity.node = Some(NodeId(7));
        identity.cluster = "north".into();
        identity.save(&*disk.mount(), dir).await.unwrap();
        disk.crash();
        assert_eq!(Identity::load_or_make(&*disk.mount(), dir, &mut rng).await.unwrap(), identity);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = Identity { token: 5, node: Some(NodeId(1)), cluster: "c".into() }.encode();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Identity::decode(&flipped).is_err());
        }
        assert!(Identity::decode(&[]).is_err());
    }
}
