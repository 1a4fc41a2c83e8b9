//! Ids, epochs, byte and block units, geometry and limits. Knows no I/O and no async.
//!
//! Every number that crosses a crate boundary has a type here, with named conversions, so that an offset into a
//! volume cannot be passed where an offset into a chunk is meant.

mod geometry;
mod ids;
mod limits;
mod units;

pub use geometry::{
    BlockRange, ChunkIndex, ChunkOffset, Geometry, GeometryError, SegmentIndex, VolumeOffset,
};
pub use ids::{ChunkKey, ClientId, CopysetId, Epoch, GroupId, LogIndex, NodeId, Sequence, Term, VolumeId};
pub use limits::{
    BLOCK_BYTES, CHUNK_BYTES, COMPARE_BYTES_MAX, FRAME_HEADER_BYTES_MAX, FRAME_PAYLOAD_BYTES_MAX,
    HOLDERS_MAX, SECTOR_BYTES, SEGMENT_BYTES, VOLUME_BYTES_MAX, VOLUME_BYTES_UNIT,
};
pub use units::{ByteSize, HumanDuration, UnitError, parse_duration, parse_size};
