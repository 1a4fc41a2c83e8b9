//! How a command ends.

use bytes::Bytes;

use crate::sense::{Sense, SenseFormat};

/// Status codes (SAM-5 5.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Good = 0x00,
    /// Look at the sense data.
    CheckCondition = 0x02,
    /// PRE-FETCH: everything fits the cache.
    ConditionMet = 0x04,
    /// Come again later.
    Busy = 0x08,
    /// A reservation of another nexus is in the way.
    ReservationConflict = 0x18,
    /// The task set is full.
    TaskSetFull = 0x28,
    /// Another nexus aborted the task, and the control mode page asks to say so (TAS = 1).
    TaskAborted = 0x40,
}

/// What a command answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Response {
    /// The status byte.
    pub status: Status,
    /// Encoded sense data; empty unless the status is CHECK CONDITION.
    pub sense: Bytes,
    /// Data-in, exactly as long as the command may return (cut to its allocation length). A transport cuts it further
    /// to the length that the initiator expects, and reports the difference as a residual.
    pub data_in: Vec<Bytes>,
}

impl Response {
    /// GOOD without data.
    pub fn good() -> Self {
        Self::status(Status::Good)
    }

    /// A status alone.
    pub fn status(status: Status) -> Self {
        Self { status, sense: Bytes::new(), data_in: Vec::new() }
    }

    /// GOOD with data.
    pub fn data(data_in: Vec<Bytes>) -> Self {
        Self { data_in, ..Self::good() }
    }

    /// CHECK CONDITION.
    pub fn check(sense: &Sense, format: SenseFormat) -> Self {
        Self { sense: sense.encode(format), ..Self::status(Status::CheckCondition) }
    }

    /// Bytes of data-in.
    pub fn data_in_len(&self) -> u64 {
        self.data_in.iter().map(|part| part.len() as u64).sum()
    }
}
