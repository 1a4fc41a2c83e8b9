//! A whole cluster of real processes on this machine, for trying, testing and measuring.
//!
//! Every member is an operating-system process of its own, made from the same binary as in production. The directory
//! `D` is all there is: no daemon watches the members, and a second invocation finds them through `D/run`.
//!
//! ```text
//! D/playground.json       the plan: members, zones, ports
//! D/curve.toml            client configuration
//! D/etc/NAME.toml         a member's configuration (written once; edits survive)
//! D/data/NAME/            a member's data
//! D/log/NAME.log          its standard output and error
//! D/run/NAME.pid          its process id
//! D/run/NAME.json         the process's identity: id and start time
//! D/run/lock              held by the command that changes the playground
//! ```
//!
//! A process is signalled only through a pidfd whose start time in `/proc` equals the recorded one, so a recycled
//! process id never leads to somebody else's process.

mod configs;
mod control;
mod layout;
mod nbd;
mod plan;
mod ports;
mod probe;
mod process;
mod start;
mod status;
mod wait;
mod wipe;

pub use control::{Restart, kill, pause, restart, resume, stop};
pub use nbd::serve as serve_nbd;
pub use start::start;
pub use status::status;
pub use wait::wait;
pub use wipe::wipe;
