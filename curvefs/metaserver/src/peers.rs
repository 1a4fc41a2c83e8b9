//! Calls to partitions, wherever they are led: here, or on another metaserver.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use curve_io::Message;
use curve_multiraft::AddressBook;
use curve_types::NodeId;
use curvefs_proto::{Call, Outcome, Refusal, answer_of, call_frame, outcome_of};
use curvefs_types::{Answer, Ask, FsError, FsId, PartitionId, Reply, Request};
use thiserror::Error;
use tokio::time::{Instant, sleep, timeout_at};

use crate::context::Context;
use crate::leader::{peer_change, peer_query};

/// How long one metaserver may take before another is asked.
const ATTEMPT_MAX: Duration = Duration::from_secs(1);
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(300);

/// Why a partition gave no answer.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Unreached {
    /// None in time. A change may or may not have been made.
    #[error("{partition} did not answer in time")]
    Late {
        /// Which.
        partition: PartitionId,
    },
    /// The other metaserver refuses such a call. A bug, or another version.
    #[error("{partition} refuses the call: {why}")]
    Refused {
        /// Which.
        partition: PartitionId,
        /// What it said.
        why: String,
    },
}

/// Who led a partition when it answered last.
#[derive(Default)]
pub struct Leaders(Mutex<BTreeMap<PartitionId, (NodeId, String)>>);

impl Leaders {
    fn get(&self, partition: PartitionId) -> Option<(NodeId, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&partition).cloned()
    }

    fn set(&self, partition: PartitionId, leader: Option<(NodeId, String)>) {
        let mut leaders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match leader {
            Some(leader) => drop(leaders.insert(partition, leader)),
            None => drop(leaders.remove(&partition)),
        }
    }
}

/// A call to a partition of a file system.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The file system.
    pub fs: FsId,
    /// The partition.
    pub partition: PartitionId,
    /// When to give up.
    pub until: Instant,
}

impl Context {
    /// Has a request of the servers applied by a partition. Sent again until there is an outcome.
    pub async fn change_at(&self, target: Target, request: &Request) -> Result<Outcome<Reply>, Unreached> {
        let late = |_| Unreached::Late { partition: target.partition };
        if let Some(replica) = self.led_here(target.partition) {
            // As for another metaserver: what is in the way is asked for, and nothing grows without room.
            match timeout_at(target.until, peer_change(self, &replica, request)).await.map_err(late)? {
                Ok(bytes) => return Ok(outcome_of(&bytes).unwrap_or(Err(FsError::Corrupt))),
                Err(refusal) => {
                    tracing::debug!(partition = %target.partition, ?refusal, "not led here any more");
                }
            }
        }
        self.call_at(target, request).await
    }

    /// Asks a partition a question of the servers.
    pub async fn ask_at(&self, target: Target, ask: &Ask) -> Result<Outcome<Answer>, Unreached> {
        if let Some(replica) = self.led_here(target.partition)
            && let Ok(answer) = peer_query(self, &replica, ask).await
        {
            return Ok(answer);
        }
        self.call_at(target, ask).await
    }

    fn led_here(&self, partition: PartitionId) -> Option<std::sync::Arc<crate::replica::Replica>> {
        self.table.get(partition).filter(|replica| replica.led_term().is_some())
    }

    async fn call_at<C: Call>(&self, target: Target, call: &C) -> Result<Outcome<C::Answer>, Unreached> {
        let partition = target.partition;
        let frame = call_frame(C::FROM_SERVERS, partition, call);
        let mut pause = PAUSE_MIN;
        let mut tries = 0;
        // A hint is followed at once, once: two nodes that point at each other must not spin.
        let mut followed = false;
        while Instant::now() < target.until {
            if let Some((node, address)) = self.place_of(target, tries).await {
                match self.call_one(target, &address, frame.clone()).await? {
                    Said::Outcome(outcome) => {
                        self.leaders.set(partition, Some((node, address)));
                        return Ok(outcome);
                    }
                    Said::Elsewhere(leader) => {
                        self.leaders.set(partition, Some(leader));
                        if !std::mem::replace(&mut followed, true) {
                            continue;
                        }
                    }
                    Said::Nothing => self.leaders.set(partition, None),
                }
            }
            followed = false;
            tries += 1;
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        Err(Unreached::Late { partition })
    }

    /// Where to try: the leader that is known, else one replica after the other.
    async fn place_of(&self, target: Target, tries: usize) -> Option<(NodeId, String)> {
        if let Some(leader) = self.leaders.get(target.partition) {
            return Some(leader);
        }
        let system = match timeout_at(target.until, self.systems.get(target.fs)).await {
            Ok(Ok(system)) => system,
            Ok(Err(error)) => {
                tracing::debug!(fs = %target.fs, %error, "where partitions are is not known yet");
                return None;
            }
            Err(_) => return None,
        };
        let places = system.places.get(&target.partition)?;
        let place = places.get(tries % places.len().max(1))?;
        let address = self.book.address(place.node).unwrap_or_else(|| place.address.clone());
        Some((place.node, address))
    }

    async fn call_one<T: curvefs_types::Wire>(
        &self,
        target: Target,
        address: &str,
        frame: Message,
    ) -> Result<Said<T>, Unreached> {
        let left = target.until.saturating_duration_since(Instant::now());
        let reply = match self.network.call(address, frame, left.min(ATTEMPT_MAX)).await {
            Ok(reply) => reply,
            Err(error) => {
                tracing::debug!(partition = %target.partition, %error, "no reply");
                return Ok(Said::Nothing);
            }
        };
        match answer_of(&reply) {
            Ok(outcome) => Ok(Said::Outcome(outcome)),
            Err(Refusal::NotLeader { hint: Some(leader) }) => {
                let known = self.book.address(leader.node).unwrap_or(leader.address);
                Ok(if known.is_empty() { Said::Nothing } else { Said::Elsewhere((leader.node, known)) })
            }
            Err(Refusal::NoPartition) => {
                self.systems.note_stale(target.fs);
                Ok(Said::Nothing)
            }
            Err(Refusal::BadRequest { why } | Refusal::Malformed { why }) => {
                Err(Unreached::Refused { partition: target.partition, why })
            }
            Err(
                Refusal::NotLeader { hint: None }
                | Refusal::Unavailable { .. }
                | Refusal::NoSpace
                | Refusal::Stopped,
            ) => Ok(Said::Nothing),
        }
    }
}

enum Said<T> {
    Outcome(Outcome<T>),
    Elsewhere((NodeId, String)),
    Nothing,
}
