//! One copyset on this chunkserver: its operations, what decides on them, and how they reach the chunks.
//!
//! `format` is the operation in the log, `volumes` decides (fences, repeated operations), `state_machine` applies,
//! `record` is what a checkpoint saves, `placer` keeps the payload of large writes out of the log (`placed` is what the log
//! holds instead), `snapshot` and `install` bring a replica up to date by difference, `guards`
//! keeps conflicting changes apart on the leader, and `replica` is what the rest of the chunkserver sees.

mod fence;
mod fences;
mod format;
pub mod fuzzing;
mod guards;
mod install;
#[cfg(test)]
mod machine_tests;
mod placed;
mod placer;
mod record;
mod replica;
mod snapshot;
mod state_machine;
mod volumes;

pub use format::{Action, CopysetOp, Mutation, OpError, Outcome, check_range, encode_kept};
pub use guards::BlockPermit;
pub use record::{RecordError, StateRecord};
pub use replica::Replica;
pub use state_machine::CopysetMachine;
pub use volumes::{Decision, VolumeTable};
