//! Where chunks live and who leads there: one volume's cache of its segment map and of the copysets in it.
//!
//! Nothing here is true for ever. A member that does not answer, or says that another leads, moves the guess; when all
//! members were tried in vain the copyset is asked for again at the MDS. The cache is enough to go on while every MDS
//! is down.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use curve_proto::MdsError;
use curve_proto::mds::MdsApi;
use curve_types::{ChunkIndex, CopysetId, Epoch, Geometry, NodeId, SegmentIndex, VolumeId};
use tokio::time::Instant;
use tracing::debug;

use crate::error::ClientError;

/// One replica's home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The chunkserver.
    pub node: NodeId,
    /// Where it listens for I/O.
    pub address: String,
}

/// A copyset's members and which of them is believed to lead.
#[derive(Debug)]
pub struct Route {
    /// The copyset.
    pub copyset: CopysetId,
    members: Vec<Member>,
    leader: AtomicUsize,
}

impl Route {
    /// A route that begins at `leader`, or at the first member.
    pub fn new(copyset: CopysetId, members: Vec<Member>, leader: Option<NodeId>) -> Self {
        assert!(!members.is_empty(), "the MDS names no copyset without members");
        let at = members.iter().position(|member| Some(member.node) == leader).unwrap_or(0);
        Self { copyset, members, leader: AtomicUsize::new(at) }
    }

    /// The member to ask, and its place for `failed` and `redirect`.
    pub fn target(&self) -> (usize, &Member) {
        let at = self.leader.load(Ordering::Relaxed) % self.members.len();
        (at, &self.members[at])
    }

    /// Members in all.
    pub fn width(&self) -> usize {
        self.members.len()
    }

    /// The member at `from` is of no use: ask the next, unless somebody has moved the guess already.
    pub fn advance(&self, from: usize) {
        let next = (from + 1) % self.members.len();
        let _ = self.leader.compare_exchange(from, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The member at `from` says that `node` leads. Returns false when `node` is not a member we know.
    pub fn redirect(&self, from: usize, node: NodeId) -> bool {
        match self.members.iter().position(|member| member.node == node) {
            Some(at) => {
                let _ = self.leader.compare_exchange(from, at, Ordering::Relaxed, Ordering::Relaxed);
                true
            }
            None => false,
        }
    }

    /// The node at `at`.
    pub fn node(&self, at: usize) -> NodeId {
        self.members[at].node
    }
}

/// The routes of one volume.
pub struct Router {
    mds: Arc<MdsApi>,
    volume: VolumeId,
    geometry: Geometry,
    /// Whether "not allocated" may be remembered: only while nobody else can allocate.
    exclusive: bool,
    segments: RwLock<HashMap<SegmentIndex, Option<Arc<[CopysetId]>>>>,
    copysets: RwLock<HashMap<CopysetId, Arc<Route>>>,
    /// One request to the MDS at a time, so that a burst of first writes asks once.
    asking: tokio::sync::Mutex<HashMap<CopysetId, Instant>>,
}

/// The shortest time between two requests for one copyset.
const REFRESH_INTERVAL: Duration = Duration::from_millis(500);

impl Router {
    /// An empty cache for `volume`.
    pub fn new(mds: Arc<MdsApi>, volume: VolumeId, geometry: Geometry, exclusive: bool) -> Self {
        Self {
            mds,
            volume,
            geometry,
            exclusive,
            segments: RwLock::default(),
            copysets: RwLock::default(),
            asking: tokio::sync::Mutex::default(),
        }
    }

    /// The copyset that holds a chunk. `None` when its segment is not allocated and `allocate` is false.
    pub async fn copyset_of(
        &self,
        chunk: ChunkIndex,
        epoch: Epoch,
        allocate: bool,
    ) -> Result<Option<CopysetId>, ClientError> {
        let segment = chunk.segment(self.geometry);
        let place = chunk.in_segment(self.geometry) as usize;
        match self.cached_segment(segment) {
            Some(Some(copysets)) => return Ok(Some(copysets[place])),
            Some(None) if !allocate => return Ok(None),
            _ => {}
        }
        let _asking = self.asking.lock().await;
        match self.cached_segment(segment) {
            Some(Some(copysets)) => return Ok(Some(copysets[place])),
            Some(None) if !allocate => return Ok(None),
            _ => {}
        }
        let found = self.mds.segment(self.volume, segment, epoch, allocate).await?;
        let copysets: Option<Arc<[CopysetId]>> = found.map(Into::into);
        if let Some(copysets) = &copysets {
            assert_eq!(
                copysets.len(),
                self.geometry.chunks_per_segment() as usize,
                "a segment names each of its chunks"
            );
        }
        if copysets.is_some() || self.exclusive {
            self.segments.write().unwrap_or_else(PoisonError::into_inner).insert(segment, copysets.clone());
        }
        Ok(copysets.map(|copysets| copysets[place]))
    }

    /// The members of a copyset, from the cache or the MDS.
    pub async fn route(&self, copyset: CopysetId) -> Result<Arc<Route>, ClientError> {
        if let Some(route) = self.cached_route(copyset) {
            return Ok(route);
        }
        let mut asking = self.asking.lock().await;
        if let Some(route) = self.cached_route(copyset) {
            return Ok(route);
        }
        self.ask(&mut asking, copyset).await
    }

    /// Asks the MDS for a copyset's members again, unless that was done a moment ago. A failure leaves the cache as it
    /// is: the MDS may be down, and the members may come back.
    pub async fn refresh(&self, copyset: CopysetId) {
        let mut asking = self.asking.lock().await;
        if asking.get(&copyset).is_some_and(|last| last.elapsed() < REFRESH_INTERVAL) {
            return;
        }
        if let Err(error) = self.ask(&mut asking, copyset).await {
            debug!(%copyset, %error, "members not refreshed");
        }
    }

    async fn ask(
        &self,
        asking: &mut HashMap<CopysetId, Instant>,
        copyset: CopysetId,
    ) -> Result<Arc<Route>, ClientError> {
        asking.insert(copyset, Instant::now());
        let found = self.mds.copysets(&[copyset]).await?.into_iter().find(|found| found.id == copyset);
        let found = found.ok_or_else(|| MdsError::NotFound { what: format!("copyset {copyset}") })?;
        let members =
            found.members.into_iter().map(|member| Member { node: member.node, address: member.address });
        let route = Arc::new(Route::new(copyset, members.collect(), found.leader));
        self.copysets.write().unwrap_or_else(PoisonError::into_inner).insert(copyset, Arc::clone(&route));
        Ok(route)
    }

    fn cached_segment(&self, segment: SegmentIndex) -> Option<Option<Arc<[CopysetId]>>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).get(&segment).cloned()
    }

    fn cached_route(&self, copyset: CopysetId) -> Option<Arc<Route>> {
        self.copysets.read().unwrap_or_else(PoisonError::into_inner).get(&copyset).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route() -> Route {
        let member = |n: u64| Member { node: NodeId(n), address: format!("127.0.0.1:{n}") };
        Route::new(CopysetId(1), vec![member(11), member(12), member(13)], Some(NodeId(12)))
    }

    #[test]
    fn the_guess_moves_once_per_failure() {
        let route = route();
        assert_eq!(route.target().0, 1);
        route.advance(1);
        assert_eq!(route.target().0, 2);
        route.advance(1);
        assert_eq!(route.target().0, 2, "a second failure of the same member changes nothing");
        assert!(route.redirect(2, NodeId(11)));
        assert_eq!(route.target().1.node, NodeId(11));
        assert!(!route.redirect(0, NodeId(99)));
    }
}
