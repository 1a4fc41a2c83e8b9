//! The other chunkservers: the one question asked of them outside of Raft.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use curve_io::{Message, Network};
use curve_multiraft::AddressBook;
use curve_proto::pb::data::{ChunkReply, RepairReadRequest};
use curve_proto::{ChunkError, methods};
use curve_types::{ChunkKey, CopysetId, LogIndex, NodeId};
use prost::Message as _;

/// How long a peer may take to answer a repair read.
const COPY_DEADLINE: Duration = Duration::from_secs(2);

/// Which blocks of which chunk are wanted.
#[derive(Clone, Copy, Debug)]
pub struct CopyRequest {
    /// The copyset.
    pub copyset: CopysetId,
    /// The chunk.
    pub key: ChunkKey,
    /// First byte; block-aligned.
    pub offset: u32,
    /// Bytes; whole blocks.
    pub len: u32,
}

/// A peer's verified copy.
#[derive(Clone, Debug)]
pub struct BlockCopy {
    /// What the peer had applied before it read.
    pub applied: LogIndex,
    /// One checksum a block; 0 is a hole.
    pub crcs: Vec<u32>,
    /// The bytes of the whole range, or nothing when all blocks are holes.
    pub data: Bytes,
}

/// Calls other chunkservers.
#[derive(Clone)]
pub struct Peers {
    node: NodeId,
    network: Arc<dyn Network>,
    addresses: Arc<dyn AddressBook>,
}

impl Peers {
    /// Peers of `node`.
    pub fn new(node: NodeId, network: Arc<dyn Network>, addresses: Arc<dyn AddressBook>) -> Self {
        Self { node, network, addresses }
    }

    /// This chunkserver.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Where a peer can be called.
    pub fn address(&self, node: NodeId) -> Option<String> {
        self.addresses.address(node)
    }

    /// Asks a peer for its copy of some blocks.
    pub async fn copy(&self, peer: NodeId, request: CopyRequest) -> Result<BlockCopy, ChunkError> {
        let stopped = |message: String| ChunkError::Stopped { message };
        let address =
            self.address(peer).ok_or_else(|| stopped(format!("the address of {peer} is not known")))?;
        let header = RepairReadRequest {
            copyset: request.copyset.get(),
            volume: request.key.volume.get(),
            chunk: request.key.index,
            offset: request.offset,
            len: request.len,
        };
        let message = Message {
            method: methods::REPAIR_READ,
            header: header.encode_to_vec().into(),
            payload: Vec::new(),
        };
        let reply =
            self.network.call(&address, message, COPY_DEADLINE).await.map_err(|e| stopped(e.to_string()))?;
        let header =
            ChunkReply::decode(&*reply.header).map_err(|e| stopped(format!("malformed reply: {e}")))?;
        let header = header.outcome()?;
        let data = match reply.payload.as_slice() {
            [] => Bytes::new(),
            [one] => one.clone(),
            many => many.concat().into(),
        };
        Ok(BlockCopy { applied: LogIndex(header.applied), crcs: header.crcs, data })
    }
}
