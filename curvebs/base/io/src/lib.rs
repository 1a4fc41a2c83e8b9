//! The seam through which replicated code reaches disk, network and randomness.
//!
//! Nothing above this crate opens a file or a socket, reads a clock other than `tokio::time`, or draws a random
//! number that was not passed to it. So the simulator can run the production code on a disk that forgets un-synced
//! writes and a network that loses messages.
//!
//! `RealDisk` is the machine's file system; `sim` has the simulated disk and network. The real network is `curve-rpc`.

mod aligned;
mod board;
mod disk;
mod durable;
mod machine;
mod net;
mod pace;
mod real;
pub mod sim;
mod watch;

pub use aligned::{AlignedBuf, PAGE_BYTES, SECTOR_ALIGN};
pub use board::{Board, Pledge};
pub use disk::{BoxFuture, DirEntry, Disk, File, OpenMode, Space};
pub use durable::{make_dirs_durable, read_whole, replace_file};
pub use machine::{FilePlace, Machine, RealMachine, since_boot};
pub use net::{Handler, Message, Network, Reply, RpcError, ServerHandle};
pub use real::{FdLimit, RealDisk, fd_limit};
