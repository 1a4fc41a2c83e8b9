//! Raft as a pure state machine: no I/O, no clock, no task; inputs and the time in, things to do out.

#[cfg(test)]
mod chaos;
mod core;
mod election;
mod follow;
mod lead;
mod log;
mod message;
mod progress;
#[cfg(test)]
mod tests;

pub(crate) use core::{Core, Recovered, Role, Timing};
pub(crate) use lead::ChangeRefused;
pub(crate) use log::{Limits, LogView};
pub(crate) use message::{
    AppendReply, AppendRequest, Change, Message, Reply, Sent, Time, Token, TransferRequest, VoteReply,
    VoteRequest, WriteKind,
};
