//! openraft's own conformance suite over our log store and state machine.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use curve_io::BoxFuture;
use curve_io::sim::{SimDisk, SimDiskConfig};
use curve_log::{Log, LogConfig};
use curve_types::GroupId;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tokio::sync::watch;

use crate::flags::GroupFlags;
use crate::machine::Machine;
use crate::op::Applied;
use crate::source::Sources;
use crate::state_machine::{SnapshotFetch, SnapshotPart, SnapshotSource, StateMachine};
use crate::store::Store;
use crate::types::C;

/// A state machine without state.
struct Nothing;

impl StateMachine for Nothing {
    fn recovered(&self) -> Option<Bytes> {
        None
    }

    fn apply(&mut self, entries: Vec<Applied>, _marker: Bytes) -> BoxFuture<'_, io::Result<Vec<Vec<Bytes>>>> {
        let results = entries.iter().map(|entry| vec![Bytes::new(); entry.ops.len()]).collect();
        Box::pin(async move { Ok(results) })
    }

    fn checkpoint(&mut self) -> BoxFuture<'static, io::Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn snapshot(&mut self) -> BoxFuture<'_, io::Result<Arc<dyn SnapshotSource>>> {
        Box::pin(async { Ok(Arc::new(Self) as Arc<dyn SnapshotSource>) })
    }

    fn install(&mut self, _fetch: Arc<dyn SnapshotFetch>, _marker: Bytes) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

impl SnapshotSource for Nothing {
    fn read(&self, _request: Bytes) -> BoxFuture<'_, io::Result<SnapshotPart>> {
        Box::pin(async { Ok(SnapshotPart::default()) })
    }
}

/// Gives each test a group of its own in one log.
struct Builder {
    log: Log,
    next: AtomicU64,
}

impl StoreBuilder<C, Store, Machine> for Builder {
    async fn build(&self) -> Result<((), Store, Machine), StorageError<C>> {
        let group = GroupId(self.next.fetch_add(1, Ordering::Relaxed));
        let store = Store::new(self.log.group(group), Arc::new(GroupFlags::default()));
        let (alive, _) = watch::channel(());
        let machine =
            Machine::new(Box::new(Nothing), Sources::new(group.get()), alive).expect("nothing to recover");
        Ok(((), store, machine))
    }
}

#[tokio::test]
async fn openrafts_storage_suite_passes() {
    let disk = SimDisk::new(SimDiskConfig::default()).mount();
    let (log, _) = Log::open(disk, Path::new("log"), LogConfig::default()).await.expect("an empty disk");
    Suite::test_all(Builder { log, next: AtomicU64::new(1) }).await.expect("conforms");
}
