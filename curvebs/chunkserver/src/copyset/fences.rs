//! The fences of a copyset as readers see them.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use curve_io::Pledge;
use curve_types::{ClientId, Epoch, VolumeId};

use super::fence::Fence;
use super::volumes::VolumeTable;

/// Each volume's fence, published by the state machine as it applies. Fences only tighten, so an answer "fenced" from
/// here is final; "not fenced" is as fresh as what this replica has applied, which a reader makes sure of with a read
/// barrier before it looks.
#[derive(Debug)]
pub struct FenceView {
    fences: RwLock<HashMap<VolumeId, Fence>>,
    /// Counts each change, before anybody is told of it.
    pledge: Option<Arc<Pledge>>,
}

impl FenceView {
    /// Without any fence.
    pub fn new(pledge: Option<Arc<Pledge>>) -> Self {
        Self { fences: RwLock::default(), pledge }
    }

    /// The epoch that is held when a request of `client` under `epoch` is refused.
    pub fn refused(&self, volume: VolumeId, client: ClientId, epoch: Epoch) -> Option<Epoch> {
        let fences = self.fences.read().unwrap_or_else(PoisonError::into_inner);
        fences.get(&volume).filter(|fence| !fence.accepts(client, epoch)).map(|fence| fence.lowest)
    }

    /// Publishes one fence.
    pub fn set(&self, volume: VolumeId, fence: Fence) {
        self.fences.write().unwrap_or_else(PoisonError::into_inner).insert(volume, fence);
        self.changed();
    }

    /// Publishes all fences of a table, for a replica that has just been opened or refilled.
    pub fn replace(&self, table: &VolumeTable) {
        let fences = table.fences().map(|(volume, fence)| (volume, fence.clone()));
        *self.fences.write().unwrap_or_else(PoisonError::into_inner) = fences.collect();
        self.changed();
    }

    fn changed(&self) {
        if let Some(pledge) = &self.pledge {
            pledge.change();
        }
    }
}
