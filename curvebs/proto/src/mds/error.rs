//! Why the MDS refused: stable codes, each with a cause and a remedy.

use std::time::Duration;

use curve_types::Epoch;
use thiserror::Error;

use crate::mds::Holder;
use crate::pb::mds as pb;

/// Why an operation of the control plane was not done. The message is the cause; `remedy` says what to do.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum MdsError {
    /// No such path, volume, chunkserver, file system, mount or metaserver.
    #[error("{what} does not exist")]
    NotFound {
        /// What was looked for.
        what: String,
    },
    /// The name is taken.
    #[error("{path} exists already")]
    Exists {
        /// The path.
        path: String,
    },
    /// A directory with something in it.
    #[error("directory {path} is not empty")]
    NotEmpty {
        /// The path.
        path: String,
    },
    /// A part of the path is a volume.
    #[error("{path} is a volume, not a directory")]
    NotDirectory {
        /// The path.
        path: String,
    },
    /// A volume was expected.
    #[error("{path} is a directory, not a volume")]
    IsDirectory {
        /// The path.
        path: String,
    },
    /// The path cannot be one.
    #[error("`{path}` is not a valid path: {why}")]
    BadPath {
        /// The path.
        path: String,
        /// The rule that it breaks.
        why: String,
    },
    /// The size cannot be one.
    #[error("bad size: {why}")]
    BadSize {
        /// The rule that it breaks.
        why: String,
    },
    /// Somebody has the volume open.
    #[error("{path} is open by {holder}")]
    HeldBy {
        /// The volume's path.
        path: String,
        /// By whom.
        holder: Holder,
    },
    /// The session is not, or no longer, known.
    #[error("{what} is not open by this client")]
    NotHeld {
        /// Which volume.
        what: String,
    },
    /// The caller's epoch is over: stop all I/O.
    #[error("the volume was taken over: its epoch is {held} now")]
    Fenced {
        /// The current epoch.
        held: Epoch,
    },
    /// No room for a new segment.
    #[error("out of space: {why}")]
    NoSpace {
        /// Where and how much.
        why: String,
    },
    /// Fewer chunkservers than replicas.
    #[error("{have} chunkservers are up and {need} are needed")]
    NotEnoughChunkservers {
        /// How many are up.
        have: u32,
        /// How many are needed.
        need: u32,
    },
    /// Fewer metaservers than replicas.
    #[error("{have} metaservers are up and {need} are needed")]
    NotEnoughMetaservers {
        /// How many are up.
        have: u32,
        /// How many are needed.
        need: u32,
    },
    /// A file system with mounts.
    #[error("file system {name} is mounted: {by}")]
    StillMounted {
        /// The file system.
        name: String,
        /// Where, in a line.
        by: String,
    },
    /// Ask the leader.
    #[error("this MDS does not lead; the leader is {}", hint.as_deref().unwrap_or("not known yet"))]
    NotLeader {
        /// The leader's address for the transport that was used.
        hint: Option<String>,
    },
    /// Begun, not finished: ask again with the same client id.
    #[error("in progress: {why}")]
    InProgress {
        /// What is being waited for.
        why: String,
        /// When to ask again.
        retry_after: Duration,
    },
    /// The request makes no sense to this MDS; do not retry.
    #[error("bad request: {why}")]
    BadRequest {
        /// What is wrong with it.
        why: String,
    },
    /// The state of the cluster does not allow it.
    #[error("refused: {why}")]
    Conflict {
        /// What stands against it.
        why: String,
    },
    /// A name that is none: of a target, an initiator, a gateway, a file system.
    #[error("`{name}` is not a valid name: {why}")]
    BadName {
        /// The name.
        name: String,
        /// The rule that it breaks.
        why: String,
    },
    /// Secrets cannot be kept.
    #[error("secrets cannot be sealed: {why}")]
    NoSealingKey {
        /// What is missing.
        why: String,
    },
    /// No MDS could answer. A mutation may or may not have been done; a retry with its sequence is safe.
    #[error("no MDS could answer: {why}")]
    Unavailable {
        /// What each said, or what the one that was reached waits for.
        why: String,
    },
}

impl MdsError {
    /// The stable code, for scripts.
    pub fn code(&self) -> &'static str {
        self.wire_code().as_str_name()
    }

    /// What to do about it, in a sentence.
    pub fn remedy(&self) -> String {
        match self {
            Self::NotFound { what } => {
                let lists = match what.as_str() {
                    what if what.starts_with("file system") => "curve fs ls",
                    what if what.starts_with("mount-") => "curve fs mounts",
                    what if what.starts_with("metaserver") => "curve cluster metaservers",
                    what if what.starts_with("chunkserver") => "curve cluster chunkservers",
                    _ => "curve bs ls /",
                };
                format!("Check the spelling; `{lists}` lists what exists.")
            }
            Self::Exists { .. } => "Choose another name, or delete what has it.".into(),
            Self::NotEmpty { .. } => "Delete what is in it first.".into(),
            Self::NotDirectory { .. } | Self::IsDirectory { .. } => "Check the path with `curve bs stat`.".into(),
            Self::BadPath { .. } => "Write an absolute path such as /team/disk-1.".into(),
            Self::BadSize { .. } => {
                "Give a multiple of 1MiB from 1MiB to 64TiB, for example 10GiB; a volume can only grow.".into()
            }
            Self::HeldBy { holder, .. } => format!(
                "Stop the process {} on {}, or open with takeover to shut it out; it is shut out by itself when its \
                 lease ends.",
                holder.process, holder.host
            ),
            Self::NotHeld { what } if what.starts_with("mount-") => {
                "The mount was ended: its lease ran out, or an operator evicted it. Mount the file system again.".into()
            }
            Self::NotHeld { .. } => "Open the volume again.".into(),
            Self::Fenced { .. } => "Another client has taken the volume over. Open it again only if that one is gone.".into(),
            Self::NoSpace { .. } => "Add chunkservers or delete volumes; `curve cluster status` shows who is full.".into(),
            Self::NotEnoughChunkservers { need, .. } => {
                format!("Start chunkservers until {need} are up; see `curve cluster chunkservers`.")
            }
            Self::NotEnoughMetaservers { need, .. } => {
                format!("Start metaservers until {need} are up; see `curve cluster metaservers`.")
            }
            Self::StillMounted { .. } => {
                "Unmount it there, or end mounts of machines that are gone with `curve fs evict MOUNT`; `curve fs mounts` lists \
                 them."
                    .into()
            }
            Self::NotLeader { .. } => "Retry in a second; an election may be going on.".into(),
            Self::InProgress { retry_after, .. } => format!("Ask again in {} ms.", retry_after.as_millis()),
            Self::BadRequest { .. } => "Use a client of the same version as the servers.".into(),
            Self::Conflict { .. } => "See `curve cluster status` for what stands against it.".into(),
            Self::BadName { .. } => {
                "Write a target or initiator as iqn.2026-01.com.example:disk, a gateway with letters, digits, - . and _, a file \
                 system with a-z, 0-9, - and _."
                    .into()
            }
            Self::NoSealingKey { .. } => {
                "Make a key with `openssl rand -hex 32`, put it into a file on every MDS (mode 0600), name the file as \
                 `secrets_key_file` in mds.toml, and restart the MDSs one by one."
                    .into()
            }
            Self::Unavailable { .. } => {
                "Check that a majority of the MDSs run and are reachable, and that the addresses in curve.toml or \
                 $CURVE_MDS are theirs. Volumes that are open keep working meanwhile."
                    .into()
            }
        }
    }

    /// Whether the same request may succeed a little later without anybody doing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::NotLeader { .. } | Self::InProgress { .. } | Self::Unavailable { .. })
    }

    fn wire_code(&self) -> pb::ErrorCode {
        match self {
            Self::NotFound { .. } => pb::ErrorCode::NotFound,
            Self::Exists { .. } => pb::ErrorCode::Exists,
            Self::NotEmpty { .. } => pb::ErrorCode::NotEmpty,
            Self::NotDirectory { .. } => pb::ErrorCode::NotDirectory,
            Self::IsDirectory { .. } => pb::ErrorCode::IsDirectory,
            Self::BadPath { .. } => pb::ErrorCode::BadPath,
            Self::BadSize { .. } => pb::ErrorCode::BadSize,
            Self::HeldBy { .. } => pb::ErrorCode::HeldBy,
            Self::NotHeld { .. } => pb::ErrorCode::NotHeld,
            Self::Fenced { .. } => pb::ErrorCode::Fenced,
            Self::NoSpace { .. } => pb::ErrorCode::NoSpace,
            Self::NotEnoughChunkservers { .. } => pb::ErrorCode::NotEnoughChunkservers,
            Self::NotEnoughMetaservers { .. } => pb::ErrorCode::NotEnoughMetaservers,
            Self::StillMounted { .. } => pb::ErrorCode::StillMounted,
            Self::NotLeader { .. } => pb::ErrorCode::NotLeader,
            Self::InProgress { .. } => pb::ErrorCode::InProgress,
            Self::BadRequest { .. } => pb::ErrorCode::BadRequest,
            Self::Conflict { .. } => pb::ErrorCode::Conflict,
            Self::Unavailable { .. } => pb::ErrorCode::Unavailable,
            Self::BadName { .. } => pb::ErrorCode::BadName,
            Self::NoSealingKey { .. } => pb::ErrorCode::NoSealingKey,
        }
    }
}

impl From<&MdsError> for pb::Error {
    fn from(error: &MdsError) -> Self {
        let mut wire = pb::Error { cause: error.to_string(), remedy: error.remedy(), ..Self::default() };
        wire.set_code(error.wire_code());
        match error {
            MdsError::NotFound { what } | MdsError::NotHeld { what } => wire.subject.clone_from(what),
            MdsError::Exists { path }
            | MdsError::NotEmpty { path }
            | MdsError::NotDirectory { path }
            | MdsError::IsDirectory { path } => wire.subject.clone_from(path),
            MdsError::BadPath { path: name, why } | MdsError::BadName { name, why } => {
                wire.subject.clone_from(name);
                wire.why.clone_from(why);
            }
            MdsError::HeldBy { path, holder } => {
                wire.subject.clone_from(path);
                wire.holder = Some(holder.clone().into());
            }
            MdsError::Fenced { held } => wire.held_epoch = held.get(),
            MdsError::StillMounted { name, by } => {
                wire.subject.clone_from(name);
                wire.why.clone_from(by);
            }
            MdsError::NotEnoughChunkservers { have, need }
            | MdsError::NotEnoughMetaservers { have, need } => (wire.have, wire.need) = (*have, *need),
            MdsError::NotLeader { hint } => wire.leader_address = hint.clone().unwrap_or_default(),
            MdsError::InProgress { why, retry_after } => {
                wire.why.clone_from(why);
                wire.retry_after_ms = retry_after.as_millis() as u64;
            }
            MdsError::BadSize { why }
            | MdsError::NoSpace { why }
            | MdsError::BadRequest { why }
            | MdsError::Conflict { why }
            | MdsError::NoSealingKey { why }
            | MdsError::Unavailable { why } => wire.why.clone_from(why),
        }
        wire
    }
}

impl From<pb::Error> for MdsError {
    fn from(wire: pb::Error) -> Self {
        let pb::Error { cause, subject, why, .. } = wire;
        match pb::ErrorCode::try_from(wire.code) {
            Ok(pb::ErrorCode::NotFound) => Self::NotFound { what: subject },
            Ok(pb::ErrorCode::Exists) => Self::Exists { path: subject },
            Ok(pb::ErrorCode::NotEmpty) => Self::NotEmpty { path: subject },
            Ok(pb::ErrorCode::NotDirectory) => Self::NotDirectory { path: subject },
            Ok(pb::ErrorCode::IsDirectory) => Self::IsDirectory { path: subject },
            Ok(pb::ErrorCode::BadPath) => Self::BadPath { path: subject, why },
            Ok(pb::ErrorCode::BadSize) => Self::BadSize { why },
            Ok(pb::ErrorCode::HeldBy) => {
                Self::HeldBy { path: subject, holder: wire.holder.unwrap_or_default().into() }
            }
            Ok(pb::ErrorCode::NotHeld) => Self::NotHeld { what: subject },
            Ok(pb::ErrorCode::Fenced) => Self::Fenced { held: Epoch(wire.held_epoch) },
            Ok(pb::ErrorCode::NoSpace) => Self::NoSpace { why },
            Ok(pb::ErrorCode::NotEnoughChunkservers) => {
                Self::NotEnoughChunkservers { have: wire.have, need: wire.need }
            }
            Ok(pb::ErrorCode::NotEnoughMetaservers) => {
                Self::NotEnoughMetaservers { have: wire.have, need: wire.need }
            }
            Ok(pb::ErrorCode::StillMounted) => Self::StillMounted { name: subject, by: why },
            Ok(pb::ErrorCode::NotLeader) => {
                Self::NotLeader { hint: Some(wire.leader_address).filter(|address| !address.is_empty()) }
            }
            Ok(pb::ErrorCode::InProgress) => {
                Self::InProgress { why, retry_after: Duration::from_millis(wire.retry_after_ms) }
            }
            Ok(pb::ErrorCode::Conflict) => Self::Conflict { why },
            Ok(pb::ErrorCode::Unavailable) => Self::Unavailable { why },
            Ok(pb::ErrorCode::BadName) => Self::BadName { name: subject, why },
            Ok(pb::ErrorCode::NoSealingKey) => Self::NoSealingKey { why },
            Ok(pb::ErrorCode::BadRequest) => Self::BadRequest { why },
            Ok(pb::ErrorCode::Unspecified) | Err(_) => Self::BadRequest { why: cause },
        }
    }
}

#[cfg(test)]
mod tests {
    use curve_types::ClientId;

    use super::*;
    use crate::mds::OpenMode;

    #[test]
    fn every_error_survives_the_wire() {
        let text = || "/x".to_owned();
        let holder = Holder {
            client: ClientId(7),
            host: "host-1".into(),
            process: 42,
            mode: OpenMode::Exclusive,
            opened_at_ms: 5,
            epoch: Epoch(2),
            lease_left: Duration::ZERO,
            lapsed: true,
        };
        let errors = [
            MdsError::NotFound { what: text() },
            MdsError::Exists { path: text() },
            MdsError::NotEmpty { path: text() },
            MdsError::NotDirectory { path: text() },
            MdsError::IsDirectory { path: text() },
            MdsError::BadPath { path: text(), why: "no".into() },
            MdsError::BadSize { why: text() },
            MdsError::HeldBy { path: text(), holder },
            MdsError::NotHeld { what: text() },
            MdsError::Fenced { held: Epoch(3) },
            MdsError::NoSpace { why: text() },
            MdsError::NotEnoughChunkservers { have: 2, need: 3 },
            MdsError::NotEnoughMetaservers { have: 1, need: 3 },
            MdsError::StillMounted { name: "demo".into(), by: text() },
            MdsError::NotLeader { hint: None },
            MdsError::NotLeader { hint: Some("a:1".into()) },
            MdsError::InProgress { why: text(), retry_after: Duration::from_millis(50) },
            MdsError::BadRequest { why: text() },
            MdsError::Conflict { why: text() },
            MdsError::Unavailable { why: text() },
            MdsError::BadName { name: text(), why: "no".into() },
            MdsError::NoSealingKey { why: text() },
        ];
        for error in errors {
            assert_eq!(MdsError::from(pb::Error::from(&error)), error);
            assert!(
                !error.remedy().is_empty()
                    && error.code().chars().all(|c| c.is_ascii_uppercase() || c == '_')
            );
        }
    }
}
