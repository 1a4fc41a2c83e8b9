//! What the cluster should become: copysets to make, replicas to rebuild, leaders to move, and what to tell whom.
//!
//! Decisions are pure functions of a [`Picture`]: the rows, and what the leader last heard. Steps are carried out by
//! orders in the answers to heartbeats, and are done when a later heartbeat shows it.

mod health;
mod orders;
mod picture;
mod plan;

pub(crate) use health::{copyset_health, health};
pub(crate) use orders::orders_for;
pub(crate) use picture::Picture;
pub(crate) use plan::{advance, creation, membership_changes, to_forget};
