//! Many Raft groups in one process, over one shared log and shared connections.
//!
//! openraft is the engine; none of its types leave this crate. What this crate adds: a proposer that puts many
//! operations into one log entry, a log store over the shared per-disk log, an ordered and pipelined transport over
//! `curve_io::Network`, snapshots by difference, leases checked without a message, membership by one, hand-over of
//! leadership, purge of the log, and groups that cost nothing while they are idle.
//!
//! A user implements [`StateMachine`], gives it to [`MultiRaft::create_group`], and calls [`Group::propose`] and
//! [`Group::read_barrier`].

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
mod pipeline;
mod proposer;
mod purge;
mod quiesce;
mod receive;
mod source;
mod state_machine;
mod status;
mod store;
#[cfg(test)]
mod suite;
mod throttle;
mod trail;
mod transport;
mod types;
mod wire;

pub use errors::{GroupError, MembershipError, ProposeError, ReadError};
pub use group::Group;
pub use node::{AddressBook, METHODS, MultiRaft};
pub use op::{Applied, Op, Proposed};
pub use options::RaftOptions;
pub use state_machine::{SnapshotFetch, SnapshotPart, SnapshotSource, StateMachine};
pub use status::{GroupState, GroupStatus, PeerStatus, Role};
