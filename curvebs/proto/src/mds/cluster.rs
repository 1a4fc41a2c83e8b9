//! Chunkservers, copysets, heartbeats and health as the MDS describes them.

use std::time::Duration;

use curve_types::{CopysetId, Geometry, LogIndex, NodeId, Term};

use crate::mds::wire::{BadReply, required};
use crate::pb::mds as pb;

/// The state of a chunkserver as the MDS sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChunkserverState {
    /// Heartbeats arrive.
    Up,
    /// Heartbeats are missing.
    Down,
    /// Missing for longer than the settable time: its copysets are being rebuilt elsewhere.
    Dead,
    /// Removed by the operator: its copysets are being moved away.
    Leaving,
}

/// A chunkserver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChunkserverInfo {
    /// Its stable id.
    pub node: NodeId,
    /// Where it is now.
    pub address: String,
    /// Its failure domain.
    pub zone: String,
    /// Whether it can be used.
    pub state: ChunkserverState,
    /// Bytes of its disk.
    pub total_bytes: u64,
    /// Free bytes of its disk.
    pub free_bytes: u64,
    /// Copysets with a replica on it.
    pub copysets: u32,
    /// Copysets that it leads.
    pub leaders: u32,
    /// Time since the last heartbeat.
    pub heartbeat_age: Duration,
}

/// How well a copyset is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopysetHealth {
    /// Not all members have made their replica yet.
    Creating,
    /// All replicas are up.
    Ok,
    /// A majority is up, but not all.
    Degraded,
    /// No majority is up: I/O to it waits.
    NoQuorum,
}

/// One replica's home.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CopysetMember {
    /// The chunkserver.
    pub node: NodeId,
    /// Where it is.
    pub address: String,
    /// Its failure domain.
    pub zone: String,
    /// Whether heartbeats arrive from it.
    pub up: bool,
}

/// A copyset and where its replicas are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CopysetInfo {
    /// Its id.
    pub id: CopysetId,
    /// Its members.
    pub members: Vec<CopysetMember>,
    /// Who leads, when known: a hint.
    pub leader: Option<NodeId>,
    /// Grows with every change of the members.
    pub version: u64,
    /// How well it is.
    pub health: CopysetHealth,
    /// The highest term reported.
    pub term: Term,
    /// The highest applied index reported.
    pub applied: LogIndex,
    /// What the scheduler is doing with it; empty for nothing.
    pub operation: String,
}

/// What a chunkserver says when it starts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registration {
    /// Random, made when the disk was formatted: the same token gets the same id, wherever the address.
    pub token: u128,
    /// Where it serves the data plane.
    pub address: String,
    /// Its failure domain.
    pub zone: String,
    /// Bytes of its disk.
    pub total_bytes: u64,
    /// Free bytes of its disk.
    pub free_bytes: u64,
    /// The sizes its store was made with.
    pub geometry: Geometry,
    /// Its software's version.
    pub version: String,
}

/// The MDS's answer to a registration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registered {
    /// The chunkserver's id, the same for ever.
    pub node: NodeId,
    /// The cluster's name: a chunkserver refuses to serve two.
    pub cluster: String,
    /// How often to send heartbeats.
    pub heartbeat_interval: Duration,
}

/// What a chunkserver reports about one of its replicas.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaReport {
    /// Which copyset.
    pub copyset: CopysetId,
    /// The replica's term.
    pub term: Term,
    /// Who leads as far as this replica knows; itself when it leads.
    pub leader: Option<NodeId>,
    /// The voting members.
    pub members: Vec<NodeId>,
    /// The members that only learn.
    pub learners: Vec<NodeId>,
    /// Where in the log the members are: grows with each change of them.
    pub members_index: LogIndex,
    /// Applied up to here.
    pub applied: LogIndex,
    /// The last entry in the log.
    pub last_log: LogIndex,
    /// Bytes of chunk data.
    pub used_bytes: u64,
    /// Blocks found bad and not healed.
    pub corrupt_blocks: u64,
}

/// What a chunkserver says now and then.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Heartbeat {
    /// Who.
    pub node: NodeId,
    /// Its token.
    pub token: u128,
    /// Where it serves.
    pub address: String,
    /// Bytes of its disk.
    pub total_bytes: u64,
    /// Free bytes of its disk.
    pub free_bytes: u64,
    /// The store is under its reserve: no new allocations.
    pub reserve_low: bool,
    /// Every replica it holds.
    pub replicas: Vec<ReplicaReport>,
}

/// What a chunkserver is to do with a copyset. Orders repeat until a heartbeat shows them done, so each must be
/// harmless when it comes twice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OrderAction {
    /// Make a replica of a new copyset with these members. Every member gets the same list.
    Create(Vec<NodeId>),
    /// Make an empty replica that waits to be added by the copyset's leader.
    Join,
    /// To the leader: add this member.
    AddMember(NodeId),
    /// To the leader: remove this member.
    RemoveMember(NodeId),
    /// To the leader: hand over to this member.
    TransferLeader(NodeId),
    /// The replica is no member any more: delete it.
    DropReplica,
}

/// An order for one copyset.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Order {
    /// Which copyset.
    pub copyset: CopysetId,
    /// What to do.
    pub action: OrderAction,
}

/// The MDS's answer to a heartbeat.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeartbeatReply {
    /// What to do.
    pub orders: Vec<Order>,
    /// Where every chunkserver of the cluster is.
    pub addresses: Vec<(NodeId, String)>,
    /// How often to send heartbeats.
    pub heartbeat_interval: Duration,
}

/// How well something is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum HealthLevel {
    /// All is well.
    #[default]
    Ok,
    /// It works, but somebody should look.
    Warn,
    /// Something does not work.
    Err,
}

/// One finding about the cluster's health.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HealthItem {
    /// How bad.
    pub level: HealthLevel,
    /// A stable name for alerts, for example `CHUNKSERVER_DOWN`.
    pub code: String,
    /// One line.
    pub summary: String,
    /// Why, with ids.
    pub cause: String,
    /// What to do.
    pub remedy: String,
}

/// A member of the MDS group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MdsMember {
    /// Its id.
    pub node: NodeId,
    /// Where it serves the control plane.
    pub address: String,
    /// Whether it leads.
    pub leader: bool,
    /// Whether the leader hears from it.
    pub up: bool,
    /// How many log entries it is behind.
    pub lag: u64,
}

/// The whole cluster in one page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterStatus {
    /// The cluster's name.
    pub cluster: String,
    /// The worst of the items.
    pub level: HealthLevel,
    /// What is not well.
    pub health: Vec<HealthItem>,
    /// The MDS group.
    pub mds: Vec<MdsMember>,
    /// Registered chunkservers.
    pub chunkservers: u32,
    /// Those that are up.
    pub chunkservers_up: u32,
    /// Copysets.
    pub copysets: u32,
    /// Those with all replicas up.
    pub copysets_ok: u32,
    /// Bytes of all disks.
    pub total_bytes: u64,
    /// Free bytes of all disks.
    pub free_bytes: u64,
    /// Volumes.
    pub volumes: u64,
    /// Their sizes.
    pub volume_bytes: u64,
    /// Their allocated segments in bytes, before replication.
    pub allocated_bytes: u64,
    /// Open sessions.
    pub sessions: u64,
    /// Deleted volumes whose data is still being removed.
    pub volumes_deleting: u64,
    /// What concerns file systems.
    pub fs: FsCounts,
}

/// How many there are of what concerns file systems.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FsCounts {
    /// File systems.
    pub file_systems: u32,
    /// Mounts that go on.
    pub mounts: u32,
    /// Registered metaservers.
    pub metaservers: u32,
    /// Those that are up.
    pub metaservers_up: u32,
    /// Partitions.
    pub partitions: u32,
    /// Those with all replicas up.
    pub partitions_ok: u32,
}

impl From<ChunkserverState> for pb::ChunkserverState {
    fn from(state: ChunkserverState) -> Self {
        match state {
            ChunkserverState::Up => Self::ChunkserverUp,
            ChunkserverState::Down => Self::ChunkserverDown,
            ChunkserverState::Dead => Self::ChunkserverDead,
            ChunkserverState::Leaving => Self::ChunkserverLeaving,
        }
    }
}

impl From<pb::ChunkserverState> for ChunkserverState {
    fn from(state: pb::ChunkserverState) -> Self {
        match state {
            pb::ChunkserverState::ChunkserverUp => Self::Up,
            pb::ChunkserverState::ChunkserverDown => Self::Down,
            pb::ChunkserverState::ChunkserverDead => Self::Dead,
            pb::ChunkserverState::ChunkserverLeaving => Self::Leaving,
        }
    }
}

impl From<ChunkserverInfo> for pb::Chunkserver {
    fn from(c: ChunkserverInfo) -> Self {
        Self {
            node: c.node.get(),
            address: c.address,
            zone: c.zone,
            state: pb::ChunkserverState::from(c.state).into(),
            total_bytes: c.total_bytes,
            free_bytes: c.free_bytes,
            copysets: c.copysets,
            leaders: c.leaders,
            heartbeat_age_ms: c.heartbeat_age.as_millis() as u64,
        }
    }
}

impl From<pb::Chunkserver> for ChunkserverInfo {
    fn from(c: pb::Chunkserver) -> Self {
        Self {
            state: c.state().into(),
            node: NodeId(c.node),
            address: c.address,
            zone: c.zone,
            total_bytes: c.total_bytes,
            free_bytes: c.free_bytes,
            copysets: c.copysets,
            leaders: c.leaders,
            heartbeat_age: Duration::from_millis(c.heartbeat_age_ms),
        }
    }
}

impl From<CopysetHealth> for pb::CopysetHealth {
    fn from(health: CopysetHealth) -> Self {
        match health {
            CopysetHealth::Creating => Self::CopysetCreating,
            CopysetHealth::Ok => Self::CopysetOk,
            CopysetHealth::Degraded => Self::CopysetDegraded,
            CopysetHealth::NoQuorum => Self::CopysetNoQuorum,
        }
    }
}

impl From<pb::CopysetHealth> for CopysetHealth {
    fn from(health: pb::CopysetHealth) -> Self {
        match health {
            pb::CopysetHealth::CopysetCreating => Self::Creating,
            pb::CopysetHealth::CopysetOk => Self::Ok,
            pb::CopysetHealth::CopysetDegraded => Self::Degraded,
            pb::CopysetHealth::CopysetNoQuorum => Self::NoQuorum,
        }
    }
}

impl From<CopysetInfo> for pb::Copyset {
    fn from(c: CopysetInfo) -> Self {
        let members = c.members.into_iter().map(|m| pb::CopysetMember {
            node: m.node.get(),
            address: m.address,
            zone: m.zone,
            up: m.up,
        });
        Self {
            id: c.id.get(),
            members: members.collect(),
            leader: c.leader.unwrap_or_default().get(),
            version: c.version,
            health: pb::CopysetHealth::from(c.health).into(),
            term: c.term.get(),
            applied: c.applied.get(),
            operation: c.operation,
        }
    }
}

impl From<pb::Copyset> for CopysetInfo {
    fn from(c: pb::Copyset) -> Self {
        let health = c.health().into();
        let members = c.members.into_iter().map(|m| CopysetMember {
            node: NodeId(m.node),
            address: m.address,
            zone: m.zone,
            up: m.up,
        });
        Self {
            id: CopysetId(c.id),
            members: members.collect(),
            leader: (c.leader != 0).then_some(NodeId(c.leader)),
            version: c.version,
            health,
            term: Term(c.term),
            applied: LogIndex(c.applied),
            operation: c.operation,
        }
    }
}

fn token(bytes: &[u8]) -> Result<u128, BadReply> {
    Ok(u128::from_le_bytes(bytes.try_into().map_err(|_| BadReply("token"))?))
}

impl From<Registration> for pb::Register {
    fn from(r: Registration) -> Self {
        Self {
            token: r.token.to_le_bytes().to_vec().into(),
            address: r.address,
            zone: r.zone,
            total_bytes: r.total_bytes,
            free_bytes: r.free_bytes,
            block_bytes: r.geometry.block_bytes(),
            chunk_bytes: r.geometry.chunk_bytes(),
            segment_bytes: r.geometry.segment_bytes(),
            version: r.version,
        }
    }
}

impl TryFrom<pb::Register> for Registration {
    type Error = BadReply;

    fn try_from(r: pb::Register) -> Result<Self, BadReply> {
        Ok(Self {
            token: token(&r.token)?,
            address: r.address,
            zone: r.zone,
            total_bytes: r.total_bytes,
            free_bytes: r.free_bytes,
            geometry: Geometry::new(r.block_bytes, r.chunk_bytes, r.segment_bytes)
                .map_err(|_| BadReply("geometry"))?,
            version: r.version,
        })
    }
}

impl From<Registered> for pb::Registered {
    fn from(r: Registered) -> Self {
        let heartbeat_interval_ms = r.heartbeat_interval.as_millis() as u64;
        Self { node: r.node.get(), cluster: r.cluster, heartbeat_interval_ms }
    }
}

impl From<pb::Registered> for Registered {
    fn from(r: pb::Registered) -> Self {
        let heartbeat_interval = Duration::from_millis(r.heartbeat_interval_ms);
        Self { node: NodeId(r.node), cluster: r.cluster, heartbeat_interval }
    }
}

fn numbers(nodes: Vec<NodeId>) -> Vec<u64> {
    nodes.into_iter().map(NodeId::get).collect()
}

fn nodes(numbers: Vec<u64>) -> Vec<NodeId> {
    numbers.into_iter().map(NodeId).collect()
}

impl From<ReplicaReport> for pb::Replica {
    fn from(r: ReplicaReport) -> Self {
        Self {
            copyset: r.copyset.get(),
            term: r.term.get(),
            leader: r.leader.unwrap_or_default().get(),
            members: numbers(r.members),
            learners: numbers(r.learners),
            members_index: r.members_index.get(),
            applied: r.applied.get(),
            last_log: r.last_log.get(),
            used_bytes: r.used_bytes,
            corrupt_blocks: r.corrupt_blocks,
        }
    }
}

impl From<pb::Replica> for ReplicaReport {
    fn from(r: pb::Replica) -> Self {
        Self {
            copyset: CopysetId(r.copyset),
            term: Term(r.term),
            leader: (r.leader != 0).then_some(NodeId(r.leader)),
            members: nodes(r.members),
            learners: nodes(r.learners),
            members_index: LogIndex(r.members_index),
            applied: LogIndex(r.applied),
            last_log: LogIndex(r.last_log),
            used_bytes: r.used_bytes,
            corrupt_blocks: r.corrupt_blocks,
        }
    }
}

impl From<Heartbeat> for pb::Heartbeat {
    fn from(h: Heartbeat) -> Self {
        Self {
            node: h.node.get(),
            token: h.token.to_le_bytes().to_vec().into(),
            address: h.address,
            total_bytes: h.total_bytes,
            free_bytes: h.free_bytes,
            reserve_low: h.reserve_low,
            replicas: h.replicas.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::Heartbeat> for Heartbeat {
    type Error = BadReply;

    fn try_from(h: pb::Heartbeat) -> Result<Self, BadReply> {
        Ok(Self {
            node: NodeId(h.node),
            token: token(&h.token)?,
            address: h.address,
            total_bytes: h.total_bytes,
            free_bytes: h.free_bytes,
            reserve_low: h.reserve_low,
            replicas: h.replicas.into_iter().map(Into::into).collect(),
        })
    }
}

impl From<Order> for pb::Order {
    fn from(order: Order) -> Self {
        use pb::order::Action;
        let action = match order.action {
            OrderAction::Create(members) => Action::Create(pb::Members { nodes: numbers(members) }),
            OrderAction::Join => Action::Join(pb::Empty {}),
            OrderAction::AddMember(node) => Action::AddMember(node.get()),
            OrderAction::RemoveMember(node) => Action::RemoveMember(node.get()),
            OrderAction::TransferLeader(node) => Action::TransferLeader(node.get()),
            OrderAction::DropReplica => Action::DropReplica(pb::Empty {}),
        };
        Self { copyset: order.copyset.get(), action: Some(action) }
    }
}

impl TryFrom<pb::Order> for Order {
    type Error = BadReply;

    fn try_from(order: pb::Order) -> Result<Self, BadReply> {
        use pb::order::Action;
        let action = match required(order.action, "order")? {
            Action::Create(members) => OrderAction::Create(nodes(members.nodes)),
            Action::Join(_) => OrderAction::Join,
            Action::AddMember(node) => OrderAction::AddMember(NodeId(node)),
            Action::RemoveMember(node) => OrderAction::RemoveMember(NodeId(node)),
            Action::TransferLeader(node) => OrderAction::TransferLeader(NodeId(node)),
            Action::DropReplica(_) => OrderAction::DropReplica,
        };
        Ok(Self { copyset: CopysetId(order.copyset), action })
    }
}

impl From<HeartbeatReply> for pb::HeartbeatReply {
    fn from(r: HeartbeatReply) -> Self {
        let addresses =
            r.addresses.into_iter().map(|(node, address)| pb::NodeAddress { node: node.get(), address });
        Self {
            orders: r.orders.into_iter().map(Into::into).collect(),
            addresses: addresses.collect(),
            heartbeat_interval_ms: r.heartbeat_interval.as_millis() as u64,
        }
    }
}

impl TryFrom<pb::HeartbeatReply> for HeartbeatReply {
    type Error = BadReply;

    fn try_from(r: pb::HeartbeatReply) -> Result<Self, BadReply> {
        Ok(Self {
            orders: r.orders.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            addresses: r.addresses.into_iter().map(|a| (NodeId(a.node), a.address)).collect(),
            heartbeat_interval: Duration::from_millis(r.heartbeat_interval_ms),
        })
    }
}

impl From<HealthLevel> for pb::HealthLevel {
    fn from(level: HealthLevel) -> Self {
        match level {
            HealthLevel::Ok => Self::HealthOk,
            HealthLevel::Warn => Self::HealthWarn,
            HealthLevel::Err => Self::HealthErr,
        }
    }
}

impl From<pb::HealthLevel> for HealthLevel {
    fn from(level: pb::HealthLevel) -> Self {
        match level {
            pb::HealthLevel::HealthOk => Self::Ok,
            pb::HealthLevel::HealthWarn => Self::Warn,
            pb::HealthLevel::HealthErr => Self::Err,
        }
    }
}

impl From<HealthItem> for pb::HealthItem {
    fn from(i: HealthItem) -> Self {
        let level = pb::HealthLevel::from(i.level).into();
        Self { level, code: i.code, summary: i.summary, cause: i.cause, remedy: i.remedy }
    }
}

impl From<pb::HealthItem> for HealthItem {
    fn from(i: pb::HealthItem) -> Self {
        let level = i.level().into();
        Self { level, code: i.code, summary: i.summary, cause: i.cause, remedy: i.remedy }
    }
}

impl From<MdsMember> for pb::MdsMember {
    fn from(m: MdsMember) -> Self {
        Self { node: m.node.get(), address: m.address, leader: m.leader, up: m.up, lag: m.lag }
    }
}

impl From<pb::MdsMember> for MdsMember {
    fn from(m: pb::MdsMember) -> Self {
        Self { node: NodeId(m.node), address: m.address, leader: m.leader, up: m.up, lag: m.lag }
    }
}

impl From<ClusterStatus> for pb::ClusterStatus {
    fn from(s: ClusterStatus) -> Self {
        Self {
            cluster: s.cluster,
            level: pb::HealthLevel::from(s.level).into(),
            health: s.health.into_iter().map(Into::into).collect(),
            mds: s.mds.into_iter().map(Into::into).collect(),
            chunkservers: s.chunkservers,
            chunkservers_up: s.chunkservers_up,
            copysets: s.copysets,
            copysets_ok: s.copysets_ok,
            total_bytes: s.total_bytes,
            free_bytes: s.free_bytes,
            volumes: s.volumes,
            volume_bytes: s.volume_bytes,
            allocated_bytes: s.allocated_bytes,
            sessions: s.sessions,
            volumes_deleting: s.volumes_deleting,
            file_systems: s.fs.file_systems,
            mounts: s.fs.mounts,
            metaservers: s.fs.metaservers,
            metaservers_up: s.fs.metaservers_up,
            partitions: s.fs.partitions,
            partitions_ok: s.fs.partitions_ok,
        }
    }
}

impl From<pb::ClusterStatus> for ClusterStatus {
    fn from(s: pb::ClusterStatus) -> Self {
        Self {
            level: s.level().into(),
            cluster: s.cluster,
            health: s.health.into_iter().map(Into::into).collect(),
            mds: s.mds.into_iter().map(Into::into).collect(),
            chunkservers: s.chunkservers,
            chunkservers_up: s.chunkservers_up,
            copysets: s.copysets,
            copysets_ok: s.copysets_ok,
            total_bytes: s.total_bytes,
            free_bytes: s.free_bytes,
            volumes: s.volumes,
            volume_bytes: s.volume_bytes,
            allocated_bytes: s.allocated_bytes,
            sessions: s.sessions,
            volumes_deleting: s.volumes_deleting,
            fs: FsCounts {
                file_systems: s.file_systems,
                mounts: s.mounts,
                metaservers: s.metaservers,
                metaservers_up: s.metaservers_up,
                partitions: s.partitions,
                partitions_ok: s.partitions_ok,
            },
        }
    }
}
