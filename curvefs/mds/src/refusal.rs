//! Why an operation was not applied.

use curve_kv::KvError;
use curve_proto::MdsError;

/// Why an operation was not applied.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The caller is told; nothing has changed.
    No(MdsError),
    /// The store failed; this node must stop.
    Store(KvError),
}

impl From<MdsError> for Refusal {
    fn from(error: MdsError) -> Self {
        Self::No(error)
    }
}

impl From<Refusal> for MdsError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::No(error) => error,
            Refusal::Store(error) => {
                tracing::debug!(%error, "the state store failed");
                // Another MDS may have a store that works.
                Self::NotLeader { hint: None }
            }
        }
    }
}

impl From<KvError> for Refusal {
    fn from(error: KvError) -> Self {
        Self::Store(error)
    }
}
