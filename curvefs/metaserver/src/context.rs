//! What everything on a metaserver shares.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use curve_io::Network;
use curve_multiraft::AddressBook;
use curve_node::PeerBook;
use curve_types::NodeId;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::peers::Leaders;
use crate::replica::{Replica, ReplicaTable};
use crate::room::Room;
use crate::systems::FileSystems;

/// How workers of leaders go.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How soon recursive counters follow.
    pub settle_after: Duration,
    /// How long garbage is kept.
    pub garbage_grace: Duration,
    /// How long bytes wait for the store that need not go there if they are overwritten.
    pub stage_for: Duration,
}

/// What everything on a metaserver shares.
pub struct Context {
    /// This metaserver.
    pub node: NodeId,
    /// What changes are stamped with.
    pub clock: Clock,
    /// The metaservers' addresses.
    pub book: Arc<PeerBook>,
    /// The data plane.
    pub network: Arc<dyn Network>,
    /// The replicas here.
    pub table: ReplicaTable,
    /// Who leads which partition.
    pub leaders: Leaders,
    /// What the MDS said of file systems.
    pub systems: FileSystems,
    /// Whether there is room for what grows.
    pub room: Room,
    /// Counters.
    pub metrics: Metrics,
    /// How workers go.
    pub pace: Pace,
    /// Rung when the MDS should hear of something before the next heartbeat is due.
    pub news: Arc<Notify>,
    /// Draws what must not be the same everywhere.
    pub rng: Mutex<StdRng>,
}

impl Context {
    /// A random time of at most this.
    pub fn random_time(&self, most: Duration) -> Duration {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        most.mul_f64(rng.random::<f64>())
    }

    /// Whether a partition can take nothing that grows: one of its members has no room.
    pub fn is_full(&self, replica: &Replica) -> bool {
        let members = || replica.group().map(|group| group.status().members).unwrap_or_default();
        self.room.is_low() || self.room.is_low_at(&members(), self.node)
    }

    /// Where a metaserver can be called.
    pub fn address(&self, node: NodeId) -> Option<String> {
        self.book.address(node)
    }
}
