//! One request to a copyset, tried until it is answered for good.
//!
//! The loop keeps no state beyond the operation's own [`Backoff`]; what it learns about leaders goes into the
//! [`Route`] that all operations of the volume share. It ends with an answer, or with an error that trying again
//! cannot change. It has no deadline of its own: the volume's `io_timeout` wraps it.

use std::sync::Arc;

use bytes::Bytes;
use curve_io::{Message, Network, RpcError};
use curve_proto::ChunkError;
use curve_proto::pb::data::ChunkReply;
use curve_types::{CopysetId, NodeId};
use prost::Message as _;
use tracing::debug;

use crate::error::ClientError;
use crate::pulse::Alive;
use crate::retry::{Backoff, RetryLimits};
use crate::route::{Route, Router};

/// A reply that says OK, with its payload.
#[derive(Debug)]
pub struct Answer {
    /// The header.
    pub reply: ChunkReply,
    /// The payload; empty for most methods.
    pub payload: Bytes,
}

/// Sends requests to copysets.
#[derive(Clone)]
pub struct Caller {
    /// The network to send over.
    pub network: Arc<dyn Network>,
    /// Who leads where.
    pub router: Arc<Router>,
    /// Waits between tries.
    pub limits: RetryLimits,
    /// Nothing is sent any more once this has stalled.
    pub alive: Option<Alive>,
}

/// What to do after a try that brought no result.
enum Next {
    /// Ask again at once; the guess has been moved.
    Follow,
    /// Ask after a pause.
    Pause,
    /// The members may be out of date: ask the MDS, then pause.
    Refresh,
}

/// One try's target and what was learnt in earlier ones.
struct Trail {
    backoff: Backoff,
    failures: u32,
    /// The member that did not answer last; hints that name it are not followed.
    silent: Option<NodeId>,
    /// How often it was left out.
    left_out: u32,
}

impl Caller {
    /// Sends what `build` makes (anew for each try, since epoch and watermark move) until a replica answers for good.
    pub async fn call(&self, copyset: CopysetId, build: impl Fn() -> Message) -> Result<Answer, ClientError> {
        let mut trail = Trail { backoff: Backoff::new(self.limits), failures: 0, silent: None, left_out: 0 };
        loop {
            let route = match self.router.route(copyset).await {
                Ok(route) => route,
                Err(error) if error.is_passing() => {
                    tokio::time::sleep(trail.backoff.pause()).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let (at, member) = route.target();
            if trail.leaves_out(member.node) {
                route.advance(at);
                tokio::time::sleep(trail.backoff.pause()).await;
                continue;
            }
            let arrives_by = match &self.alive {
                Some(alive) => Some(alive.arrives_by().ok_or(ClientError::Stalled)?),
                None => None,
            };
            let (address, try_for) = (&member.address, trail.backoff.try_for());
            let sent = self.network.call_by(address, build(), arrives_by, try_for).await;
            let next = match sent {
                Ok(message) => match decode(message)? {
                    Ok(answer) => return Ok(answer),
                    Err(refusal) => trail.refused(&route, at, refusal)?,
                },
                Err(error) => trail.unanswered(&route, at, &error)?,
            };
            match next {
                Next::Follow => {}
                Next::Pause => tokio::time::sleep(trail.backoff.pause()).await,
                Next::Refresh => {
                    self.router.refresh(copyset).await;
                    tokio::time::sleep(trail.backoff.pause()).await;
                }
            }
        }
    }
}

impl Trail {
    /// A member that did not answer is left out for a while: the others soon elect another leader, and to wait for it again
    /// would be to miss that. But it may only have been slow.
    fn leaves_out(&mut self, node: NodeId) -> bool {
        self.left_out += u32::from(self.silent == Some(node));
        self.silent == Some(node) && !self.left_out.is_multiple_of(LEFT_OUT_MAX)
    }

    fn refused(&mut self, route: &Route, at: usize, refusal: ChunkError) -> Result<Next, ClientError> {
        match refusal {
            ChunkError::NotLeader { hint: Some((node, _)) } if self.silent != Some(node) => {
                if !route.redirect(at, node) {
                    return Ok(Next::Refresh);
                }
                Ok(if self.backoff.redirected().is_none() { Next::Follow } else { Next::Pause })
            }
            ChunkError::NotLeader { .. } => Ok(self.elsewhere(route, at)),
            ChunkError::NoCopyset => {
                route.advance(at);
                Ok(Next::Refresh)
            }
            ChunkError::Stopped { .. } => Ok(self.elsewhere(route, at)),
            ChunkError::Busy { .. } => Ok(Next::Pause),
            ChunkError::Corrupt { message } => {
                self.failures += 1;
                if self.failures > CORRUPT_TRIES_MAX {
                    Err(ClientError::Corrupt { message })
                } else {
                    Ok(Next::Pause)
                }
            }
            ChunkError::Fenced { held } => Err(ClientError::Fenced { held }),
            ChunkError::NoSpace => Err(ClientError::NoSpace),
            ChunkError::BadRequest { message } => Err(ClientError::Refused { message }),
        }
    }

    fn unanswered(&mut self, route: &Route, at: usize, error: &RpcError) -> Result<Next, ClientError> {
        debug!(copyset = %route.copyset, node = %route.node(at), %error, "no answer");
        match error {
            RpcError::TooLarge { .. } | RpcError::UnknownMethod { .. } => {
                return Err(ClientError::Refused { message: error.to_string() });
            }
            RpcError::Deadline { .. } => self.backoff.timed_out(),
            RpcError::Unreachable { .. } | RpcError::Broken { .. } => {}
        }
        self.silent = Some(route.node(at));
        Ok(self.elsewhere(route, at))
    }

    /// Moves to the next member; after a full round the MDS is asked whether they are still the right ones.
    fn elsewhere(&mut self, route: &Route, at: usize) -> Next {
        route.advance(at);
        self.failures += 1;
        if self.failures.is_multiple_of(2 * route.width() as u32) { Next::Refresh } else { Next::Pause }
    }
}

/// How often a member that did not answer is left out before it is asked again: with the pauses in between, about a second.
const LEFT_OUT_MAX: u32 = 5;

/// How often a copyset may say that a range is corrupt before that is believed: repair may be under way.
const CORRUPT_TRIES_MAX: u32 = 4;

/// Splits a reply into its header's outcome and payload. A header that does not decode is a broken peer.
fn decode(message: Message) -> Result<Result<Answer, ChunkError>, ClientError> {
    let reply = ChunkReply::decode(message.header)
        .map_err(|error| ClientError::Refused { message: format!("undecodable reply: {error}") })?;
    let payload = match message.payload.len() {
        0 => Bytes::new(),
        1 => message.payload.into_iter().next().expect("one part"),
        _ => message.payload.concat().into(),
    };
    Ok(reply.outcome().map(|reply| Answer { reply, payload }))
}
