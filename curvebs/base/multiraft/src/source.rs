//! The leader's side of snapshot transfers of one group: which are open, and what they pin in the log.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use curve_types::LogIndex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::state_machine::SnapshotSource;

struct Session {
    source: Arc<dyn SnapshotSource>,
    pinned: LogIndex,
}

struct Inner {
    sessions: BTreeMap<u64, Session>,
    rng: StdRng,
}

/// The open transfers of one group. Their numbers are random, so that a number from before a restart is not mistaken
/// for one of now.
pub(crate) struct Sources {
    inner: Mutex<Inner>,
}

impl Sources {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        let inner = Inner { sessions: BTreeMap::new(), rng: StdRng::seed_from_u64(seed) };
        Arc::new(Self { inner: Mutex::new(inner) })
    }

    /// Registers a source; it is served until the guard is dropped.
    pub(crate) fn open(
        self: &Arc<Self>,
        source: Arc<dyn SnapshotSource>,
        pinned: LogIndex,
        marker: Bytes,
    ) -> SourceGuard {
        let mut inner = self.inner.lock().expect("never poisoned");
        let id = inner.rng.random();
        inner.sessions.insert(id, Session { source, pinned });
        SourceGuard { id, marker, sources: self.clone() }
    }

    /// The source of an open transfer.
    pub(crate) fn get(&self, id: u64) -> Option<Arc<dyn SnapshotSource>> {
        let inner = self.inner.lock().expect("never poisoned");
        inner.sessions.get(&id).map(|session| session.source.clone())
    }

    /// The first entry a follower will need once its transfer is done; the log must keep it.
    pub(crate) fn pinned(&self) -> Option<LogIndex> {
        let inner = self.inner.lock().expect("never poisoned");
        inner.sessions.values().map(|session| session.pinned).min()
    }
}

/// One open transfer.
pub(crate) struct SourceGuard {
    id: u64,
    marker: Bytes,
    sources: Arc<Sources>,
}

impl SourceGuard {
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn marker(&self) -> Bytes {
        self.marker.clone()
    }
}

impl Drop for SourceGuard {
    fn drop(&mut self) {
        self.sources.inner.lock().expect("never poisoned").sessions.remove(&self.id);
    }
}
