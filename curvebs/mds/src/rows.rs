//! The MDS's rows, and why an operation on them is refused.

use curve_kv::KvError;
use curve_proto::MdsError;
use curve_proto::pb::mds_state::ClusterRow;
pub(crate) use curve_rows::{Rows, all, get, put, scan};

use crate::keys;

/// Why an operation was not applied.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The client is told; nothing has changed.
    No(MdsError),
    /// The store failed; this node must stop.
    Store(KvError),
}

impl From<MdsError> for Refusal {
    fn from(error: MdsError) -> Self {
        Self::No(error)
    }
}

impl From<KvError> for Refusal {
    fn from(error: KvError) -> Self {
        Self::Store(error)
    }
}

impl From<curvefs_mds::Refusal> for Refusal {
    fn from(refusal: curvefs_mds::Refusal) -> Self {
        match refusal {
            curvefs_mds::Refusal::No(error) => Self::No(error),
            curvefs_mds::Refusal::Store(error) => Self::Store(error),
        }
    }
}

/// The cluster's row; there is one once the first leader has founded the cluster.
pub(crate) fn cluster(rows: &(impl Rows + ?Sized)) -> Result<ClusterRow, Refusal> {
    let founding = || MdsError::Unavailable { why: "the cluster is being founded".into() };
    get(rows, &keys::cluster())?.ok_or_else(|| founding().into())
}
