//! Why the data store did not do it.

use curvefs_types::FsError;
use thiserror::Error;

/// Why the data store did not do it. The code is stable: it is in logs, metrics and `curve fs doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DataError {
    /// The object is not there.
    #[error("{object} is not in the store")]
    Missing {
        /// Its name.
        object: String,
    },
    /// The object's bytes are not those that were written.
    #[error("{object} is damaged: {what}")]
    Damaged {
        /// Its name.
        object: String,
        /// What is wrong.
        what: String,
    },
    /// The bucket is not there.
    #[error("the bucket {bucket} does not exist")]
    NoBucket {
        /// Which.
        bucket: String,
    },
    /// The access key, the secret key or the permissions are wrong.
    #[error("the store refuses the credentials: {why}")]
    Credentials {
        /// What it said.
        why: String,
    },
    /// This machine's clock and the store's differ by more than the store allows.
    #[error("this machine's clock differs too much from the store's")]
    ClockSkew,
    /// The store has no room.
    #[error("the store is full: {why}")]
    Full {
        /// What it said.
        why: String,
    },
    /// The store refuses the request, and would refuse it again.
    #[error("the store refuses: {why}")]
    Refused {
        /// What it said.
        why: String,
    },
    /// No answer: nobody listens, the name is unknown, the connection broke.
    #[error("the store cannot be reached: {why}")]
    Unreachable {
        /// What happened.
        why: String,
    },
    /// No answer in time.
    #[error("the store did not answer in time")]
    Slow,
    /// The store is busy or has a failure of its own.
    #[error("the store is busy: {why}")]
    Busy {
        /// What it said.
        why: String,
    },
    /// The time that was allowed for all attempts is over.
    #[error("given up after {attempts} attempts; the last: {last}")]
    GivenUp {
        /// How many.
        attempts: u32,
        /// Why the last one failed.
        last: Box<DataError>,
    },
}

/// What to do about a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Again {
    /// Nothing will change.
    Never,
    /// Somebody may be correcting it, such as keys that are replaced: for a short time.
    Shortly,
    /// It ends by itself.
    Always,
}

impl DataError {
    /// Its stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "OBJECT_MISSING",
            Self::Damaged { .. } => "OBJECT_DAMAGED",
            Self::NoBucket { .. } => "BUCKET_MISSING",
            Self::Credentials { .. } => "STORE_CREDENTIALS",
            Self::ClockSkew => "CLOCK_SKEW",
            Self::Full { .. } => "STORE_FULL",
            Self::Refused { .. } => "STORE_REFUSED",
            Self::Unreachable { .. } => "STORE_UNREACHABLE",
            Self::Slow => "STORE_SLOW",
            Self::Busy { .. } => "STORE_BUSY",
            Self::GivenUp { .. } => "STORE_TIMED_OUT",
        }
    }

    pub(crate) fn again(&self) -> Again {
        match self {
            Self::Missing { .. } | Self::Damaged { .. } | Self::Refused { .. } | Self::GivenUp { .. } => {
                Again::Never
            }
            Self::NoBucket { .. } | Self::Credentials { .. } | Self::ClockSkew | Self::Full { .. } => {
                Again::Shortly
            }
            Self::Unreachable { .. } | Self::Slow | Self::Busy { .. } => Again::Always,
        }
    }
}

impl From<&DataError> for FsError {
    fn from(error: &DataError) -> Self {
        match error {
            DataError::Missing { .. } => Self::DataLost,
            DataError::Damaged { .. } => Self::DataDamaged,
            DataError::NoBucket { .. }
            | DataError::Credentials { .. }
            | DataError::ClockSkew
            | DataError::Refused { .. } => Self::StoreRefused,
            DataError::Full { .. } => Self::NoSpace,
            DataError::Unreachable { .. } | DataError::Slow | DataError::Busy { .. } => Self::TimedOut,
            // Keys that are not corrected are refused, however long that took; everything else timed out.
            DataError::GivenUp { last, .. } => Self::from(&**last),
        }
    }
}
