//! What the daemons of the frontends share. A protocol is no business of this crate.
//!
//! | module | what |
//! |---|---|
//! | [`volumes`] | opens the volumes of a command line; the only place of a frontend that knows there is a cluster |
//! | [`startup`] | runtime, limit on open files, signals, devices in memory |
//! | [`admission`] | who may connect, and who has to make room |
//! | [`complaints`] | which complaints about clients reach the log |
//! | [`process`] | whether another process of this host lives |

pub mod admission;
mod block_size;
pub mod complaints;
mod limits;
pub mod process;
pub mod startup;
pub mod volumes;

pub use block_size::BlockSize;
pub use limits::{LimitArguments, NEWCOMERS_DEFAULT};
