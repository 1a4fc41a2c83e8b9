//! Calls to the leaders of copysets over the data plane, for fences and deletions.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use curve_io::{Message, Network};
use curve_proto::ChunkError;
use curve_proto::pb::data::ChunkReply;
use curve_types::{CopysetId, NodeId};
use prost::Message as _;
use tokio::time::{Instant, sleep};

const ATTEMPT: Duration = Duration::from_millis(700);
const PAUSE: Duration = Duration::from_millis(50);

/// Where a copyset's replicas are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Route {
    /// Its members with their addresses; those without an address are left out.
    pub members: Vec<(NodeId, String)>,
    /// Who led when last heard.
    pub leader: Option<NodeId>,
}

/// Knows where copysets are.
pub(crate) trait Routes: Send + Sync + 'static {
    fn route(&self, copyset: CopysetId) -> Option<Route>;
}

/// Calls copysets, whoever leads them.
pub(crate) struct CopysetCaller {
    network: Arc<dyn Network>,
    routes: Arc<dyn Routes>,
}

impl CopysetCaller {
    pub(crate) fn new(network: Arc<dyn Network>, routes: Arc<dyn Routes>) -> Self {
        Self { network, routes }
    }

    /// Calls until a leader has done it, the request is refused for good, or `until`. The error is for people.
    pub(crate) async fn call(
        &self,
        copyset: CopysetId,
        method: u16,
        header: Bytes,
        until: Instant,
    ) -> Result<ChunkReply, String> {
        let mut why = "no replica is reachable".to_owned();
        let mut hint: Option<String> = None;
        let mut next = 0;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("copyset {} does not answer: {why}", copyset.get()));
            }
            let route = self.routes.route(copyset).unwrap_or_default();
            let Some(address) = hint.take().or_else(|| pick(&route, next)) else {
                sleep(PAUSE.min(left)).await;
                continue;
            };
            match self.attempt(&address, method, header.clone(), left.min(ATTEMPT)).await {
                Ok(reply) => return Ok(reply),
                Err(ChunkError::BadRequest { message }) => return Err(message),
                Err(ChunkError::NotLeader { hint: Some((node, to)) }) if next % 2 == 0 => {
                    why = format!("{address} points to {node}");
                    hint = if to.is_empty() { member(&route, node) } else { Some(to) };
                }
                Err(error) => {
                    why = format!("{address}: {error}");
                    sleep(PAUSE.min(left)).await;
                }
            }
            next += 1;
        }
    }

    async fn attempt(
        &self,
        address: &str,
        method: u16,
        header: Bytes,
        deadline: Duration,
    ) -> Result<ChunkReply, ChunkError> {
        let busy = |message: String| ChunkError::Busy { message };
        let request = Message { method, header, payload: Vec::new() };
        let reply =
            self.network.call(address, request, deadline).await.map_err(|error| busy(error.to_string()))?;
        ChunkReply::decode(reply.header).map_err(|error| busy(error.to_string()))?.outcome()
    }
}

fn member(route: &Route, node: NodeId) -> Option<String> {
    route.members.iter().find(|(member, _)| *member == node).map(|(_, address)| address.clone())
}

/// The leader first, then everybody in turn.
fn pick(route: &Route, n: usize) -> Option<String> {
    let leader = route.leader.filter(|_| n == 0).and_then(|leader| member(route, leader));
    leader.or_else(|| {
        let index = n.checked_rem(route.members.len())?;
        Some(route.members[index].1.clone())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_is_asked_first_and_then_everybody() {
        let members = [(NodeId(1), "a".to_owned()), (NodeId(2), "b".to_owned())].to_vec();
        let route = Route { members, leader: Some(NodeId(2)) };
        let asked: Vec<_> = (0..4).map(|n| pick(&route, n).unwrap()).collect();
        assert_eq!(asked, ["b", "b", "a", "b"]);
        assert_eq!(pick(&Route::default(), 0), None);
    }
}
