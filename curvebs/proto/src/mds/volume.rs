//! Volumes, directories and sessions as the MDS describes them.

use std::fmt;
use std::time::Duration;

use curve_types::{ClientId, Epoch, Geometry, VolumeId};

use crate::mds::MdsError;
use crate::mds::wire::{BadReply, required};
use crate::pb::mds as pb;

/// A volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeRecord {
    /// Its id; stays when the volume is renamed.
    pub id: VolumeId,
    /// Bytes; a multiple of 1 MiB.
    pub size: u64,
    /// Its newest epoch. A session's requests carry the one that the session was granted.
    pub epoch: Epoch,
    /// When it was created, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// How it is cut.
    pub geometry: Geometry,
    /// Segments that have been allocated.
    pub segments_allocated: u32,
}

/// What a path names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The last component of the path; empty for the root.
    pub name: String,
    /// The volume; `None` for a directory.
    pub volume: Option<VolumeRecord>,
    /// Who has the volume open.
    pub holders: Vec<Holder>,
}

/// The outcome of creating a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Created {
    /// The new volume.
    pub volume: VolumeRecord,
    /// What an operator should know, for example that the cluster is over-committed.
    pub warning: Option<String>,
}

/// Sums over a directory tree, or over one volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DiskUsage {
    /// Volumes.
    pub volumes: u64,
    /// Directories, the top one included.
    pub directories: u64,
    /// Sizes of the volumes in bytes.
    pub size: u64,
    /// Bytes of allocated segments (before replication).
    pub allocated: u64,
}

/// How a volume is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OpenMode {
    /// One writer; a second is refused.
    #[default]
    Exclusive,
    /// Several writers that coordinate among themselves.
    Shared,
    /// Reads only; beside anybody.
    ReadOnly,
}

impl OpenMode {
    /// Whether a holder of this mode may change the volume.
    pub const fn writes(self) -> bool {
        matches!(self, Self::Exclusive | Self::Shared)
    }

    /// Its name, for people and scripts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exclusive => "exclusive",
            Self::Shared => "shared",
            Self::ReadOnly => "read-only",
        }
    }
}

/// Who has a volume open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holder {
    /// The session's client.
    pub client: ClientId,
    /// The host's name as the client told it.
    pub host: String,
    /// The process id on that host.
    pub process: u32,
    /// How it is open.
    pub mode: OpenMode,
    /// Since when, in milliseconds since 1970.
    pub opened_at_ms: u64,
    /// The epoch that it was granted.
    pub epoch: Epoch,
    /// What is left of its lease.
    pub lease_left: Duration,
    /// Whether the lease has run out, so that the next writer displaces it.
    pub lapsed: bool,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} on {} ({})", self.process, self.host, self.client)?;
        if self.lapsed { f.write_str(", whose lease has run out") } else { Ok(()) }
    }
}

/// What an opener asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenRequest {
    /// The volume's path; says nothing when `volume` is given.
    pub path: String,
    /// The volume itself, wherever its name is now.
    pub volume: Option<VolumeId>,
    /// How.
    pub mode: OpenMode,
    /// The session's random id; a retry carries the same.
    pub client: ClientId,
    /// The host's name, for HELD_BY messages.
    pub host: String,
    /// The process id, for HELD_BY messages.
    pub process: u32,
    /// Shut out whoever stands in the way, lapsed or not.
    pub takeover: bool,
    /// Shut these holders out in any case: they are known to be gone.
    pub displaced: Vec<ClientId>,
}

/// An opened volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opened {
    /// The volume.
    pub volume: VolumeRecord,
    /// What the session's requests carry.
    pub epoch: Epoch,
    /// How long the session lives without a refresh.
    pub lease: Duration,
}

/// Names a session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SessionKey {
    /// The volume.
    pub volume: VolumeId,
    /// Whose session.
    pub client: ClientId,
    /// The epoch that it was opened with.
    pub epoch: Epoch,
}

/// What a refresh says of one session: the volume as it is now, or why the session is gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionState {
    /// Which session.
    pub session: SessionKey,
    /// The volume, with its current size and epoch.
    pub outcome: Result<VolumeRecord, MdsError>,
}

/// The answer to a refresh.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refreshed {
    /// One for each session asked for, in order.
    pub sessions: Vec<SessionState>,
    /// How long the sessions live without another refresh.
    pub lease: Duration,
}

impl From<VolumeRecord> for pb::Volume {
    fn from(v: VolumeRecord) -> Self {
        Self {
            id: v.id.get(),
            size: v.size,
            epoch: v.epoch.get(),
            created_at_ms: v.created_at_ms,
            block_bytes: v.geometry.block_bytes(),
            chunk_bytes: v.geometry.chunk_bytes(),
            segment_bytes: v.geometry.segment_bytes(),
            segments_allocated: v.segments_allocated,
        }
    }
}

impl TryFrom<pb::Volume> for VolumeRecord {
    type Error = BadReply;

    fn try_from(v: pb::Volume) -> Result<Self, BadReply> {
        let geometry =
            Geometry::new(v.block_bytes, v.chunk_bytes, v.segment_bytes).map_err(|_| BadReply("geometry"))?;
        Ok(Self {
            id: VolumeId(v.id),
            size: v.size,
            epoch: Epoch(v.epoch),
            created_at_ms: v.created_at_ms,
            geometry,
            segments_allocated: v.segments_allocated,
        })
    }
}

impl From<Entry> for pb::Entry {
    fn from(e: Entry) -> Self {
        Self {
            name: e.name,
            volume: e.volume.map(Into::into),
            holders: e.holders.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::Entry> for Entry {
    type Error = BadReply;

    fn try_from(e: pb::Entry) -> Result<Self, BadReply> {
        Ok(Self {
            name: e.name,
            volume: e.volume.map(TryInto::try_into).transpose()?,
            holders: e.holders.into_iter().map(Into::into).collect(),
        })
    }
}

impl From<OpenMode> for pb::OpenMode {
    fn from(mode: OpenMode) -> Self {
        match mode {
            OpenMode::Exclusive => Self::Exclusive,
            OpenMode::Shared => Self::Shared,
            OpenMode::ReadOnly => Self::ReadOnly,
        }
    }
}

impl From<pb::OpenMode> for OpenMode {
    fn from(mode: pb::OpenMode) -> Self {
        match mode {
            pb::OpenMode::Exclusive => Self::Exclusive,
            pb::OpenMode::Shared => Self::Shared,
            pb::OpenMode::ReadOnly => Self::ReadOnly,
        }
    }
}

impl From<Holder> for pb::Holder {
    fn from(h: Holder) -> Self {
        Self {
            client: h.client.get(),
            host: h.host,
            process: h.process,
            mode: pb::OpenMode::from(h.mode).into(),
            opened_at_ms: h.opened_at_ms,
            epoch: h.epoch.get(),
            lease_left_ms: h.lease_left.as_millis() as u64,
            lapsed: h.lapsed,
        }
    }
}

impl From<pb::Holder> for Holder {
    fn from(h: pb::Holder) -> Self {
        Self {
            mode: h.mode().into(),
            client: ClientId(h.client),
            host: h.host,
            process: h.process,
            opened_at_ms: h.opened_at_ms,
            epoch: Epoch(h.epoch),
            lease_left: Duration::from_millis(h.lease_left_ms),
            lapsed: h.lapsed,
        }
    }
}

impl From<SessionKey> for pb::SessionKey {
    fn from(s: SessionKey) -> Self {
        Self { volume: s.volume.get(), client: s.client.get(), epoch: s.epoch.get() }
    }
}

impl From<pb::SessionKey> for SessionKey {
    fn from(s: pb::SessionKey) -> Self {
        Self { volume: VolumeId(s.volume), client: ClientId(s.client), epoch: Epoch(s.epoch) }
    }
}

impl From<SessionState> for pb::SessionState {
    fn from(s: SessionState) -> Self {
        let (volume, error) = match s.outcome {
            Ok(volume) => (Some(volume.into()), None),
            Err(error) => (None, Some((&error).into())),
        };
        Self { session: Some(s.session.into()), volume, error }
    }
}

impl TryFrom<pb::SessionState> for SessionState {
    type Error = BadReply;

    fn try_from(s: pb::SessionState) -> Result<Self, BadReply> {
        let outcome = match (s.volume, s.error) {
            (_, Some(error)) => Err(error.into()),
            (Some(volume), None) => Ok(volume.try_into()?),
            (None, None) => return Err(BadReply("session state")),
        };
        Ok(Self { session: required(s.session, "session")?.into(), outcome })
    }
}

impl From<DiskUsage> for pb::DiskUsage {
    fn from(d: DiskUsage) -> Self {
        Self { volumes: d.volumes, directories: d.directories, size: d.size, allocated: d.allocated }
    }
}

impl From<pb::DiskUsage> for DiskUsage {
    fn from(d: pb::DiskUsage) -> Self {
        Self { volumes: d.volumes, directories: d.directories, size: d.size, allocated: d.allocated }
    }
}
