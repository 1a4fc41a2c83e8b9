//! Where the other servers are: learnt from the MDS and kept on disk.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{PoisonError, RwLock};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use curve_io::{Disk, read_whole, replace_file};
use curve_multiraft::AddressBook;
use curve_types::NodeId;

const MAGIC: [u8; 4] = *b"CvPb";
const VERSION: u16 = 1;
/// The file's name in the data directory.
pub const FILE: &str = "peers";

/// NodeId → address. A cache of what the MDS said last, so that a server that starts while every MDS is down
/// still finds the others. All numbers are little-endian.
///
/// ```text
///   0  4  magic "CvPb"
///   4  2  version, 1
///   6  2  0
///   8  4  n, number of entries
///  12  n × { u64 node, u16 length, address }
///   …  4  CRC-32 of everything before it
/// ```
#[derive(Debug, Default)]
pub struct PeerBook {
    addresses: RwLock<BTreeMap<NodeId, String>>,
}

impl PeerBook {
    /// Loads the cache; a missing or damaged one is empty, since the MDS has the truth.
    pub async fn load(disk: &dyn Disk, dir: &Path) -> Self {
        let addresses = match read_whole(disk, &dir.join(FILE)).await {
            Ok(Some(bytes)) => decode(&bytes).unwrap_or_else(|| {
                tracing::warn!(file = FILE, "the cached addresses are damaged and will be asked for again");
                BTreeMap::new()
            }),
            Ok(None) => BTreeMap::new(),
            Err(error) => {
                tracing::warn!(file = FILE, %error, "cannot read the cached addresses");
                BTreeMap::new()
            }
        };
        Self { addresses: RwLock::new(addresses) }
    }

    /// Takes what the MDS says; `true` when something changed and should be saved.
    pub fn learn(&self, addresses: impl IntoIterator<Item = (NodeId, String)>) -> bool {
        let mut known = self.addresses.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = false;
        for (node, address) in addresses {
            if known.get(&node) != Some(&address) {
                known.insert(node, address);
                changed = true;
            }
        }
        changed
    }

    /// Saves the cache.
    pub async fn save(&self, disk: &dyn Disk, dir: &Path) -> std::io::Result<()> {
        let bytes = encode(&self.addresses.read().unwrap_or_else(PoisonError::into_inner));
        replace_file(disk, &dir.join(FILE), &bytes).await
    }
}

impl AddressBook for PeerBook {
    fn address(&self, node: NodeId) -> Option<String> {
        self.addresses.read().unwrap_or_else(PoisonError::into_inner).get(&node).cloned()
    }
}

fn encode(addresses: &BTreeMap<NodeId, String>) -> Bytes {
    let mut out = BytesMut::new();
    out.put_slice(&MAGIC);
    out.put_u16_le(VERSION);
    out.put_u16_le(0);
    out.put_u32_le(addresses.len() as u32);
    for (node, address) in addresses {
        let text = &address.as_bytes()[..address.len().min(usize::from(u16::MAX))];
        out.put_u64_le(node.get());
        out.put_u16_le(text.len() as u16);
        out.put_slice(text);
    }
    let crc = crc32fast::hash(&out);
    out.put_u32_le(crc);
    out.freeze()
}

fn decode(bytes: &[u8]) -> Option<BTreeMap<NodeId, String>> {
    let (mut body, mut crc) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    if crc32fast::hash(body) != crc.get_u32_le() || body.get(..4)? != MAGIC {
        return None;
    }
    body.advance(4);
    if body.try_get_u16_le().ok()? != VERSION {
        return None;
    }
    body.try_get_u16_le().ok()?;
    let count = body.try_get_u32_le().ok()?;
    let mut addresses = BTreeMap::new();
    for _ in 0..count {
        let node = NodeId(body.try_get_u64_le().ok()?);
        let len = usize::from(body.try_get_u16_le().ok()?);
        let (text, rest) = body.split_at_checked(len)?;
        addresses.insert(node, String::from_utf8(text.to_vec()).ok()?);
        body = rest;
    }
    body.is_empty().then_some(addresses)
}

/// For the fuzzer: valid bytes.
pub fn sample(seed: u64) -> Vec<u8> {
    let address = |n| (NodeId(n), format!("127.0.0.{n}:{}", seed % 60_000));
    encode(&(0..seed % 5).map(address).collect()).into()
}

/// For the fuzzer: whether bytes are a list of peers.
pub fn accepts(bytes: &[u8]) -> bool {
    let Some(addresses) = decode(bytes) else { return false };
    assert_eq!(decode(&encode(&addresses)), Some(addresses));
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_book_round_trips_and_notices_damage() {
        let book = PeerBook::default();
        assert!(book.learn([(NodeId(1), "a:1".to_owned()), (NodeId(2), "b:2".to_owned())]));
        assert!(!book.learn([(NodeId(1), "a:1".to_owned())]));
        assert!(book.learn([(NodeId(1), "c:3".to_owned())]));
        assert_eq!(book.address(NodeId(1)).as_deref(), Some("c:3"));
        let known = book.addresses.read().unwrap().clone();
        let bytes = encode(&known);
        assert_eq!(decode(&bytes), Some(known));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&flipped), None);
        }
        assert_eq!(decode(&[]), None);
    }
}
