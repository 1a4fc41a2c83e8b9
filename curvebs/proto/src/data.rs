//! Data plane: what a reply's status asks its caller to do.

use curve_types::{Epoch, NodeId};
use thiserror::Error;

use crate::pb::data::{ChunkReply, Status};

/// Why a chunk request was not done; one variant for each thing the caller does next.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum ChunkError {
    /// Ask the leader: here is who it is, when known.
    #[error("not the leader of the copyset; hint: {hint:?}")]
    NotLeader {
        /// The leader's id and address (the address may be empty when only the id is known).
        hint: Option<(NodeId, String)>,
    },
    /// Stop: somebody else may hold the volume.
    #[error("fenced: the copyset accepts only epochs from {held}")]
    Fenced {
        /// The lowest epoch accepted.
        held: Epoch,
    },
    /// Fail allocating writes; reads and deletes go on.
    #[error("the replica set is out of space")]
    NoSpace,
    /// The bytes are bad on every replica that was asked, or the payload was damaged on its way.
    #[error("corrupt: {message}")]
    Corrupt {
        /// Which blocks.
        message: String,
    },
    /// Try again, a little later.
    #[error("busy: {message}")]
    Busy {
        /// With what.
        message: String,
    },
    /// Our own bug, or a newer peer: do not retry.
    #[error("bad request: {message}")]
    BadRequest {
        /// What is wrong with it.
        message: String,
    },
    /// Ask the MDS who holds the copyset now.
    #[error("no replica of the copyset here")]
    NoCopyset,
    /// Try another replica.
    #[error("the chunkserver has stopped: {message}")]
    Stopped {
        /// Why.
        message: String,
    },
}

impl ChunkReply {
    /// A reply that says that all went well.
    pub fn ok() -> Self {
        Self::default()
    }

    /// The reply for an error.
    pub fn error(error: &ChunkError) -> Self {
        let mut reply = Self { message: error.to_string(), ..Self::default() };
        let status = match error {
            ChunkError::NotLeader { hint } => {
                if let Some((node, address)) = hint {
                    reply.leader_node = node.get();
                    reply.leader_address = address.clone();
                }
                reply.message.clear();
                Status::NotLeader
            }
            ChunkError::Fenced { held } => {
                reply.held_epoch = held.get();
                Status::Fenced
            }
            ChunkError::NoSpace => Status::NoSpace,
            ChunkError::Corrupt { message } => {
                reply.message.clone_from(message);
                Status::Corrupt
            }
            ChunkError::Busy { message } => {
                reply.message.clone_from(message);
                Status::Busy
            }
            ChunkError::BadRequest { message } => {
                reply.message.clone_from(message);
                Status::BadRequest
            }
            ChunkError::NoCopyset => Status::NoCopyset,
            ChunkError::Stopped { message } => {
                reply.message.clone_from(message);
                Status::Stopped
            }
        };
        reply.set_status(status);
        reply
    }

    /// What the reply says: itself, or why nothing was done. A status this version does not know is a bad request.
    pub fn outcome(self) -> Result<Self, ChunkError> {
        let message = self.message.clone();
        let error = match Status::try_from(self.status) {
            Ok(Status::Ok) => return Ok(self),
            Ok(Status::NotLeader) => ChunkError::NotLeader {
                hint: (self.leader_node != 0).then_some((NodeId(self.leader_node), self.leader_address)),
            },
            Ok(Status::Fenced) => ChunkError::Fenced { held: Epoch(self.held_epoch) },
            Ok(Status::NoSpace) => ChunkError::NoSpace,
            Ok(Status::Corrupt) => ChunkError::Corrupt { message },
            Ok(Status::Busy) => ChunkError::Busy { message },
            Ok(Status::BadRequest) => ChunkError::BadRequest { message },
            Ok(Status::NoCopyset) => ChunkError::NoCopyset,
            Ok(Status::Stopped) => ChunkError::Stopped { message },
            Err(_) => {
                ChunkError::BadRequest { message: format!("unknown status {}: {message}", self.status) }
            }
        };
        Err(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_survives_the_wire() {
        let text = || "why".to_owned();
        let errors = [
            ChunkError::NotLeader { hint: None },
            ChunkError::NotLeader { hint: Some((NodeId(3), "127.0.0.1:7000".into())) },
            ChunkError::Fenced { held: Epoch(9) },
            ChunkError::NoSpace,
            ChunkError::Corrupt { message: text() },
            ChunkError::Busy { message: text() },
            ChunkError::BadRequest { message: text() },
            ChunkError::NoCopyset,
            ChunkError::Stopped { message: text() },
        ];
        for error in errors {
            assert_eq!(ChunkReply::error(&error).outcome(), Err(error));
        }
        assert!(ChunkReply::ok().outcome().is_ok());
        let unknown = ChunkReply { status: 77, ..ChunkReply::default() };
        assert!(matches!(unknown.outcome(), Err(ChunkError::BadRequest { .. })));
    }
}
