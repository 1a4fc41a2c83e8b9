//! The fences of a copyset as readers see them.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use curve_types::{Epoch, VolumeId};

use super::volumes::VolumeTable;

/// The lowest epoch accepted for each volume, published by the state machine as it applies. Fences only rise, so an
/// answer "fenced" from here is final; "not fenced" is as fresh as what this replica has applied, which a reader makes
/// sure of with a read barrier before it looks.
#[derive(Debug, Default)]
pub struct FenceView {
    fences: RwLock<HashMap<VolumeId, Epoch>>,
}

impl FenceView {
    /// The epoch that is held when `epoch` is below it.
    pub fn refused(&self, volume: VolumeId, epoch: Epoch) -> Option<Epoch> {
        let fences = self.fences.read().unwrap_or_else(PoisonError::into_inner);
        fences.get(&volume).copied().filter(|held| epoch < *held)
    }

    /// Publishes one fence.
    pub fn set(&self, volume: VolumeId, held: Epoch) {
        self.fences.write().unwrap_or_else(PoisonError::into_inner).insert(volume, held);
    }

    /// Publishes all fences of a table, for a replica that has just been opened or refilled.
    pub fn replace(&self, table: &VolumeTable) {
        *self.fences.write().unwrap_or_else(PoisonError::into_inner) = table.fences().collect();
    }
}
