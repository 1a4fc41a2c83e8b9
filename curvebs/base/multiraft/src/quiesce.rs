//! Groups that are idle.

use crate::node::MultiRaft;
use crate::wire::{Outcome, Ping, PingReply};

/// Answers another node's ping.
pub(crate) fn answer(_node: &MultiRaft, _ping: Ping) -> PingReply {
    PingReply { outcome: Outcome::Ok.into(), boot: 0, asleep: Vec::new() }
}
