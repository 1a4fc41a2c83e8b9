//! The generated types. For the edge code of client, chunkserver and MDS only: they must not cross another crate's
//! public API.

/// Headers of the data plane.
#[allow(missing_docs, clippy::all)]
pub mod data {
    tonic::include_proto!("curve.data.v1");
}

/// The control plane.
#[allow(missing_docs, clippy::all)]
pub mod mds {
    tonic::include_proto!("curve.mds.v1");
}
