//! The replicas of a chunkserver by copyset.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use curve_types::CopysetId;

use crate::copyset::Replica;

/// The open replicas. Changed by the one task that opens and drops replicas; looked up by every request.
#[derive(Default)]
pub struct ReplicaTable {
    replicas: RwLock<BTreeMap<CopysetId, Arc<Replica>>>,
}

impl ReplicaTable {
    /// The replica of a copyset, if it is open here.
    pub fn get(&self, id: CopysetId) -> Option<Arc<Replica>> {
        self.replicas.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// All open replicas, by id.
    pub fn all(&self) -> Vec<Arc<Replica>> {
        self.replicas.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Takes in an open replica.
    pub fn insert(&self, replica: Arc<Replica>) {
        self.replicas.write().unwrap_or_else(PoisonError::into_inner).insert(replica.id(), replica);
    }

    /// Takes out a replica.
    pub fn remove(&self, id: CopysetId) -> Option<Arc<Replica>> {
        self.replicas.write().unwrap_or_else(PoisonError::into_inner).remove(&id)
    }
}
