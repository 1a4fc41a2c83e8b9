//! The seam through which replicated code reaches disk, network and randomness.
//!
//! Nothing above this crate opens a file or a socket, reads a clock other than `tokio::time`, or draws a random
//! number that was not passed to it. So the simulator can run the production code on a disk that forgets un-synced
//! writes and a network that loses messages.

mod disk;
mod net;

pub use disk::{BoxFuture, DirEntry, Disk, File, OpenMode, Space};
pub use net::{Handler, Message, Network, Reply, RpcError, ServerHandle};
