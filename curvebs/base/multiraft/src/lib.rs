//! Many Raft groups in one process, over one shared log and shared connections.
//!
//! `engine` is Raft without I/O; `driver` is the one task of a group that runs it: over the shared per-disk log, an
//! ordered and pipelined transport (`curve_io::Network`), and the user's state machine. Many operations travel in one
//! log entry; snapshots are differences; leases are checked without a message; members change by one; leadership is
//! handed over; the log is purged; and idle groups cost nothing.
//!
//! A user implements [`StateMachine`], gives it to [`MultiRaft::create_group`], and calls [`Group::propose`] and
//! [`Group::read_barrier`].

mod driver;
mod engine;
mod errors;
mod flags;
mod format;
#[doc(hidden)]
pub mod fuzzing;
mod group;
mod install;
mod lifecycle;
mod machine;
mod membership;
mod node;
mod op;
mod options;
mod placer;
mod proposer;
mod purge;
mod quiesce;
mod receive;
mod source;
mod stall;
mod state_machine;
mod status;
mod store;
#[cfg(test)]
mod suite;
mod throttle;
mod trail;
mod transport;
mod types;
mod view;
mod wire;

pub use errors::{GroupError, MembershipError, ProposeError, ReadError};
pub use group::Group;
pub use node::{AddressBook, METHODS, MultiRaft};
pub use op::{Applied, Op, Proposed};
pub use options::RaftOptions;
pub use placer::{Place, Placer};
pub use stall::DiskState;
pub use state_machine::{SnapshotFetch, SnapshotPart, SnapshotSource, StateMachine};
pub use status::{GroupState, GroupStatus, PeerStatus, Role};
