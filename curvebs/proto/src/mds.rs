//! The control plane in domain types: what is asked of the MDS, what it answers, and why it refuses.

mod api;
mod cluster;
mod error;
mod iscsi;
mod volume;
mod wire;

pub use api::MdsApi;
pub use cluster::{
    ChunkserverInfo, ChunkserverState, ClusterStatus, CopysetHealth, CopysetInfo, CopysetMember, FsCounts,
    HealthItem, HealthLevel, Heartbeat, HeartbeatReply, MdsMember, Order, OrderAction, Registered,
    Registration, ReplicaReport,
};
pub use error::MdsError;
pub use iscsi::{
    ANY_INITIATOR, IscsiAccess, IscsiAuth, IscsiEdit, IscsiGateway, IscsiGatewayKey, IscsiListing, IscsiLun,
    IscsiNews, IscsiReservation, IscsiReserve, IscsiSeat, IscsiSecrets, IscsiSession, IscsiTarget,
    gateway_key,
};
pub use volume::{
    Created, DiskUsage, Entry, Holder, OpenMode, OpenRequest, Opened, Refreshed, SessionKey, SessionState,
    VolumeRecord,
};
pub use wire::BadReply;
