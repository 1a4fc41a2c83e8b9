//! What can be wrong with a message that decodes.

use thiserror::Error;

use crate::mds::MdsError;

/// A reply lacks a part, or the part makes no sense: the peer is of another version.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error("the message lacks a valid {0}")]
pub struct BadReply(pub &'static str);

/// A part that must be there.
pub(crate) fn required<T>(part: Option<T>, name: &'static str) -> Result<T, BadReply> {
    part.ok_or(BadReply(name))
}

impl From<BadReply> for MdsError {
    fn from(bad: BadReply) -> Self {
        Self::BadRequest { why: bad.to_string() }
    }
}
