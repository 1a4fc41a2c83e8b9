//! What the data directory of a server that holds replicas says of the server itself: who it is, where its peers are,
//! and how it is given up for a new beginning. Chunkservers and metaservers have the same files. And how often both report,
//! and what they say of their disk.

mod addresses;
mod aside;
mod health;
mod identity;
mod pace;

pub use addresses::PeerBook;
pub use aside::set_aside;
pub use health::disk_items;
pub use identity::{Identity, IdentityError};
pub use pace::HeartbeatPace;

/// For the fuzzer: what it makes bytes of, and whether bytes are that.
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::addresses::{accepts as accepts_peers, sample as sample_peers};
    pub use crate::identity::{accepts as accepts_identity, sample as sample_identity};
}
