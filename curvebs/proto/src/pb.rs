//! The generated types. For the edge code of client, chunkserver and MDS only: they must not cross another crate's
//! public API.

/// Headers of the data plane.
#[allow(missing_docs, clippy::all)]
pub mod data {
    tonic::include_proto!("curve.data.v1");
}

/// Headers of metaservers.
#[allow(missing_docs, clippy::all)]
pub mod meta {
    tonic::include_proto!("curve.meta.v1");
}

/// The packages that refer to each other, nested as their names are, since the generated paths are relative.
#[allow(missing_docs, clippy::all)]
mod packages {
    pub mod fs {
        pub mod v1 {
            tonic::include_proto!("curve.fs.v1");
        }
    }
    pub mod mds {
        pub mod v1 {
            tonic::include_proto!("curve.mds.v1");
        }
        pub mod state {
            pub mod v1 {
                tonic::include_proto!("curve.mds.state.v1");
            }
        }
    }
}

/// CurveFS in the control plane.
pub use packages::fs::v1 as fs;

/// The control plane.
pub use packages::mds::v1 as mds;

/// What the MDS stores and logs; private to it.
pub use packages::mds::state::v1 as mds_state;

impl std::fmt::Debug for mds::IscsiAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { user, mutual_user, .. } = self;
        f.debug_struct("IscsiAuth")
            .field("user", user)
            .field("mutual_user", mutual_user)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for fs::S3Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { endpoint, region, buckets, access_key, object_bytes, .. } = self;
        f.debug_struct("S3Backend")
            .field("endpoint", endpoint)
            .field("region", region)
            .field("buckets", buckets)
            .field("access_key", access_key)
            .field("object_bytes", object_bytes)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for fs::FsSetKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, access_key, .. } = self;
        f.debug_struct("FsSetKeys")
            .field("name", name)
            .field("access_key", access_key)
            .finish_non_exhaustive()
    }
}
