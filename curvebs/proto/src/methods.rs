//! Method numbers of the framed protocol. A range belongs to one service; a process routes by range.
//!
//! | range            | service                              |
//! |------------------|--------------------------------------|
//! | `0x000..=0x0FF`  | the transport itself (0 is ping)     |
//! | `0x100..=0x1FF`  | Raft between members of groups       |
//! | `0x200..=0x2FF`  | chunk service                        |
//! | `0x300..=0x3FF`  | MDS                                  |
//! | `0x400..=0x4FF`  | metadata partitions of CurveFS       |

use std::ops::RangeInclusive;

/// Raft messages between members of groups.
pub const RAFT: RangeInclusive<u16> = 0x100..=0x1FF;
/// The chunk service.
pub const CHUNK: RangeInclusive<u16> = 0x200..=0x2FF;
/// The MDS, where it is called over frames (the simulator) and not over gRPC.
pub const MDS: RangeInclusive<u16> = 0x300..=0x3FF;
/// Metadata partitions of CurveFS.
pub const META: RangeInclusive<u16> = 0x400..=0x4FF;

/// `WriteRequest` + payload.
pub const WRITE: u16 = 0x200;
/// `ReadRequest`; the reply has the payload.
pub const READ: u16 = 0x201;
/// `DiscardRequest`.
pub const DISCARD: u16 = 0x202;
/// `WriteZeroesRequest`.
pub const WRITE_ZEROES: u16 = 0x203;
/// `BlockStatusRequest`.
pub const BLOCK_STATUS: u16 = 0x204;
/// `FenceRequest`.
pub const FENCE: u16 = 0x205;
/// `DeleteVolumeRequest`.
pub const DELETE_VOLUME: u16 = 0x206;
/// `DeleteChunksRequest`.
pub const DELETE_CHUNKS: u16 = 0x207;
/// `RepairReadRequest`, between replicas.
pub const REPAIR_READ: u16 = 0x208;
/// `CompareAndWriteRequest` + payload: what is expected, then what is to be written.
pub const COMPARE_AND_WRITE: u16 = 0x209;

/// `MdsRequest`; the reply is `MdsResponse`. Both travel in the payload, since a listing may be longer than a header.
pub const MDS_CALL: u16 = 0x300;
/// Between MDSs: `PeerPing`; the reply is `PeerPong`. Both in the header.
pub const MDS_PING: u16 = 0x301;

/// `PartitionCall` + a mount's `Request`; the reply is `PartitionReply` + `Result<Reply, FsError>`.
pub const META_CHANGE: u16 = 0x400;
/// `PartitionCall` + a mount's `Ask`; the reply is `PartitionReply` + `Result<Answer, FsError>`.
pub const META_QUERY: u16 = 0x401;
/// Between metaservers: as `META_CHANGE`, for requests of the servers themselves.
pub const META_PEER_CHANGE: u16 = 0x402;
/// Between metaservers: as `META_QUERY`, for questions of the servers themselves.
pub const META_PEER_QUERY: u16 = 0x403;
