//! Why a step was not done.

use curve_kv::KvError;
use curvefs_types::{FsError, WireError};

/// Why a step was not done: an answer to the caller, or the end of this replica.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fail {
    /// The answer.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The store failed or holds what nobody wrote.
    #[error(transparent)]
    Store(#[from] KvError),
}

impl From<WireError> for Fail {
    fn from(error: WireError) -> Self {
        Self::Store(KvError::Corrupt(error.to_string()))
    }
}

/// What steps return.
pub(crate) type Step<T> = Result<T, Fail>;

/// A row that must be there is not.
pub(crate) fn missing(what: &str) -> Fail {
    Fail::Store(KvError::Corrupt(format!("a row is missing: {what}")))
}
