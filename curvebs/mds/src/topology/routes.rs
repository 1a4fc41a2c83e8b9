//! Where copysets are, from the rows and the last heartbeats.

use std::sync::Arc;

use curve_kv::{KvError, Reader, Store};
use curve_proto::pb::mds_state::{ChunkserverRow, CopysetRow};
use curve_types::{CopysetId, NodeId};

use crate::copyset_call::{Route, Routes};
use crate::keys;
use crate::memory::LeaderMemory;
use crate::rows::get;

/// Looks copysets up for calls to their leaders.
pub(crate) struct RouteTable {
    pub store: Arc<dyn Store>,
    pub memory: Arc<LeaderMemory>,
}

impl RouteTable {
    fn find(&self, copyset: CopysetId) -> Result<Option<Route>, KvError> {
        let rows: &dyn Reader = &*self.store;
        let Some(row) = get::<CopysetRow>(rows, &keys::copyset(copyset.get()))? else {
            return Ok(None);
        };
        let mut members = Vec::with_capacity(row.members.len());
        for node in row.members {
            let chunkserver = get::<ChunkserverRow>(rows, &keys::chunkserver(node))?;
            members.extend(
                chunkserver.filter(|row| !row.address.is_empty()).map(|row| (NodeId(node), row.address)),
            );
        }
        let leader = self.memory.peek(|memory| {
            let reports = members.iter().filter_map(|(node, _)| memory.seen.get(node)?.replica(copyset));
            reports.filter(|report| report.leader.is_some()).max_by_key(|report| report.term)?.leader
        });
        Ok(Some(Route { members, leader }))
    }
}

impl Routes for RouteTable {
    fn route(&self, copyset: CopysetId) -> Option<Route> {
        self.find(copyset).unwrap_or_else(|error| {
            tracing::error!(%error, copyset = copyset.get(), "cannot look up a copyset");
            None
        })
    }
}
