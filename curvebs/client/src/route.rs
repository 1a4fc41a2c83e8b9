//! Where chunks live and who leads there: one volume's cache of its segment map and of the copysets in it.
//!
//! Nothing here is true for ever. A member that does not answer, or says that another leads, moves the guess; when all
//! members were tried in vain the copyset is asked for again at the MDS. The cache is enough to go on while every MDS
//! is down, until something is asked for that was never written.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use curve_proto::MdsError;
use curve_proto::mds::{MdsApi, SessionKey};
use curve_types::{ChunkIndex, CopysetId, Geometry, NodeId, SegmentIndex};
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

/// Where a chunk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In this copyset.
    In(CopysetId),
    /// Nowhere: its segment was not allocated at some moment since this was asked.
    Nowhere,
    /// Nowhere, provided that we still hold the volume at some moment since this was asked: nobody else may have
    /// allocated it. `witness` would have been told before anybody was let in instead of us.
    NowhereIfHeld {
        /// A copyset that holds another chunk of the volume.
        witness: CopysetId,
    },
}

/// What is known of the segment map.
#[derive(Default)]
struct Segments {
    /// `None`: not allocated when the MDS was asked. Only kept for an exclusive holder.
    maps: HashMap<SegmentIndex, Option<Arc<[CopysetId]>>>,
    /// The first copyset that was learnt.
    witness: Option<CopysetId>,
}

/// The routes of one volume.
///
/// An allocated segment stays where it is for ever, so its map may be remembered. **That a segment is not allocated may
/// not**, since another holder may allocate it and write:
///
/// - Beside others (shared, read-only) the MDS is asked each time. While no MDS answers, reads of what was not allocated
///   wait, as writes there do.
/// - An exclusive holder is the only one that allocates, as long as it holds the volume. Whether it does, the MDS need
///   not be asked: before anybody else is let in, every copyset of the volume refuses the former holder, so one that
///   still accepts it proves that the segment is as it was. Without any copyset to ask the MDS is asked.
pub struct Router {
    mds: Arc<MdsApi>,
    session: SessionKey,
    geometry: Geometry,
    /// Whether nobody else can allocate while we hold the volume.
    exclusive: bool,
    segments: RwLock<Segments>,
    copysets: RwLock<HashMap<CopysetId, Arc<Route>>>,
    /// Questions about segments so far.
    questions: AtomicU64,
    /// Up to which question it was answered that a segment is not allocated. One request about segments at a time, so that
    /// a burst of first writes asks once; not the same as for copysets, which must be found while this one waits.
    asking_segment: tokio::sync::Mutex<HashMap<SegmentIndex, u64>>,
    /// One request about copysets at a time.
    asking: tokio::sync::Mutex<HashMap<CopysetId, Instant>>,
}

/// The shortest time between two requests for one copyset.
const REFRESH_INTERVAL: Duration = Duration::from_millis(500);

impl Router {
    /// An empty cache for a session's volume.
    pub fn new(mds: Arc<MdsApi>, session: SessionKey, geometry: Geometry, exclusive: bool) -> Self {
        Self {
            mds,
            session,
            geometry,
            exclusive,
            segments: RwLock::default(),
            copysets: RwLock::default(),
            questions: AtomicU64::new(0),
            asking_segment: tokio::sync::Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        }
    }

    /// Where a chunk is. With `allocate` it is in a copyset afterwards.
    pub async fn place_of(&self, chunk: ChunkIndex, allocate: bool) -> Result<Place, ClientError> {
        let segment = chunk.segment(self.geometry);
        let at = chunk.in_segment(self.geometry) as usize;
        if let Some(place) = self.cached_place(segment, at, allocate) {
            return Ok(place);
        }
        let question = self.questions.fetch_add(1, Ordering::Relaxed) + 1;
        let mut answered = self.asking_segment.lock().await;
        if let Some(place) = self.cached_place(segment, at, allocate) {
            return Ok(place);
        }
        if !allocate && answered.get(&segment).is_some_and(|upto| *upto >= question) {
            return Ok(Place::Nowhere);
        }
        let questions = self.questions.load(Ordering::Relaxed);
        let found = self.mds.segment(self.session, segment, allocate).await?;
        let place = found.as_ref().map_or(Place::Nowhere, |copysets| Place::In(copysets[at]));
        match found {
            Some(copysets) => {
                answered.remove(&segment);
                self.learn(segment, copysets);
            }
            None => {
                answered.insert(segment, questions);
                if self.exclusive {
                    self.segments_mut().maps.insert(segment, None);
                }
            }
        }
        Ok(place)
    }

    fn learn(&self, segment: SegmentIndex, copysets: Vec<CopysetId>) {
        let chunks = self.geometry.chunks_per_segment() as usize;
        assert_eq!(copysets.len(), chunks, "a segment names each of its chunks");
        let mut segments = self.segments_mut();
        segments.witness = segments.witness.or(Some(copysets[0]));
        segments.maps.insert(segment, Some(copysets.into()));
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

    fn cached_place(&self, segment: SegmentIndex, at: usize, allocate: bool) -> Option<Place> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        match segments.maps.get(&segment)? {
            Some(copysets) => Some(Place::In(copysets[at])),
            None if allocate => None,
            None => segments.witness.map(|witness| Place::NowhereIfHeld { witness }),
        }
    }

    fn segments_mut(&self) -> RwLockWriteGuard<'_, Segments> {
        self.segments.write().unwrap_or_else(PoisonError::into_inner)
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
