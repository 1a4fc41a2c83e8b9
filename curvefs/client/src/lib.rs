//! A mounted CurveFS over the network: what `vfs` calls, and what keeps the mount alive.
//!
//! | file | what |
//! |---|---|
//! | `mount` | [`Mount`]: granted by the MDS or taken over from another process, its lease kept, ended |
//! | `client` | [`Client`]: `Metadata` over partitions: **the loop of a call** |
//! | `router`, `numbers` | pure: the map, members, guesses of leaders; numbers of changes and which are answered |
//! | `trail` | pure: what each refusal means, pauses, time given to a try |
//! | `place` | pure: where new directories go |
//! | `grant` | what the MDS tells, in our own types |
//! | `subtree` | [`Subtree`]: a directory as the root of a mount |
//! | `counted` | [`CountedMetadata`]: a decorator that counts |
//! | `inspect` | what a mount finds out about its servers |
//! | `backend` | with the feature `s3`: the data backend that the record describes |
//!
//! Sockets are the network's (`curve_io::Network`), the MDS is a transport (`curve_proto`): a simulator runs the same code.
//! Absent: caches (`vfs` and the kernel have them), transactions (partitions do them among themselves), deadlines (`soft` is
//! the caller's).

#[cfg(feature = "s3")]
mod backend;
mod client;
mod counted;
mod grant;
mod inspect;
mod mount;
mod numbers;
mod place;
mod router;
mod subtree;
mod trail;

#[cfg(feature = "s3")]
pub use backend::{ObjectTooLarge, S3Data};
pub use client::{Client, MountState};
pub use counted::CountedMetadata;
pub use grant::{FileSystem, Grant, Held, MountKey, S3Record};
pub use inspect::{MdsSaid, PartitionPing};
pub use mount::{Mount, MountError, MountRequest};
pub use router::{BadPartitions, Member, PartitionInfo, Partitions};
pub use subtree::Subtree;
pub use trail::RetryLimits;
