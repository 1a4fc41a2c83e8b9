//! The log of one disk: opening, the groups, counters, closing.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use curve_io::{BoxFuture, Disk, make_dirs_durable};
use curve_types::GroupId;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::config::{LogConfig, LogStats, Pin, Recovery};
use crate::error::LogError;
use crate::format::GroupRecord;
use crate::group::{Done, GroupLog};
use crate::index::{GroupCore, GroupIndex};
use crate::ledger::Ledger;
use crate::pool::{Pool, PoolView};
use crate::queue::{Job, Queue, Work};
use crate::recover::{Recovered, io_error, recover};
use crate::writer::{Counters, LiveSegments, Writer, WriterParts};

/// The log of one disk. Clones are handles of the same log.
///
/// One task (`writer`) owns the files. Callers put records into its queue and the entries into the in-memory index of
/// their group, under the group's lock, so that the order on disk is the order of the calls. The writer takes whatever
/// has gathered while the last batch was synced, writes it with one vectored write, syncs once, and calls back. So
/// batches grow with load and never wait for a timer. The log closes when its last handle is dropped.
#[derive(Clone)]
pub struct Log {
    handle: Arc<Handle>,
}

/// Shared by all handles; the last one closes the queue.
pub(crate) struct Handle {
    pub(crate) queue: Arc<Queue>,
    pub(crate) live: Arc<LiveSegments>,
    disk: Arc<dyn Disk>,
    pub(crate) config: LogConfig,
    pub(crate) cache_hits: AtomicU64,
    pub(crate) cache_misses: AtomicU64,
    counters: Arc<Counters>,
    pool: Arc<PoolView>,
    groups: Mutex<BTreeMap<GroupId, Arc<GroupCore>>>,
    writer: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl Log {
    /// Opens the log in `dir`, making it when there is none, and starts its writer task.
    pub async fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        config: LogConfig,
    ) -> Result<(Self, Recovery), LogError> {
        config.check()?;
        make_dirs_durable(&*disk, dir).await.map_err(|error| io_error("create", dir, error))?;
        let Recovered { groups, live, free, tail, incarnation, floor, next_number, summary } =
            recover(&*disk, dir)?;
        let mut pool = Pool::new(disk.clone(), dir, &config, next_number);
        free.into_iter().for_each(|segment| pool.give(segment));
        let handle = Handle {
            disk,
            queue: Arc::new(Queue::new(config.queue_bytes_max)),
            live: Arc::new(LiveSegments::new(live)),
            config,
            cache_hits: AtomicU64::new(0),
            cache_misses: AtomicU64::new(0),
            counters: Arc::default(),
            pool: pool.view(),
            groups: Mutex::default(),
            writer: tokio::sync::Mutex::new(None),
        };
        let parts = WriterParts {
            queue: handle.queue.clone(),
            live: handle.live.clone(),
            counters: handle.counters.clone(),
            config: handle.config.clone(),
            pool,
            ledger: ledger_of(&groups),
            tail,
            incarnation: incarnation + 1,
            floor,
        };
        let writer = Writer::begin(parts).await.map_err(|error| open_error(dir, &handle.config, error))?;
        let cores = groups.into_iter().map(|(id, index)| (id, Arc::new(GroupCore::new(id, index))));
        handle.groups.lock().expect("nobody else has it yet").extend(cores);
        *handle.writer.lock().await = Some(tokio::spawn(writer.run()));
        Ok((Self { handle: Arc::new(handle) }, summary))
    }

    /// The disk it is on.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.handle.disk
    }

    /// A group's part of the log; a group that is not known yet is made in memory.
    pub fn group(&self, id: GroupId) -> GroupLog {
        let mut groups = self.handle.groups();
        let core = groups.entry(id).or_insert_with(|| Arc::new(GroupCore::new(id, GroupIndex::default())));
        GroupLog::new(core.clone(), self.handle.clone())
    }

    /// The groups that are known now, sorted.
    pub fn groups(&self) -> Vec<GroupId> {
        self.handle.groups().keys().copied().collect()
    }

    /// Forgets all of a group; resolves when that is durable. Its handles refuse everything from now on.
    pub fn remove_group(&self, id: GroupId) -> BoxFuture<'static, io::Result<()>> {
        let mut groups = self.handle.groups();
        let Some(core) = groups.remove(&id) else {
            return Box::pin(std::future::ready(Ok(())));
        };
        let mut index = core.lock();
        index.removed = true;
        // Still under the lock of the map: a group of the same name must come after the removal.
        let (done, durable) = durable();
        let refused = self.handle.queue.push(Job::new(core.clone(), Work::Remove, Some(done)));
        drop(index);
        drop(groups);
        call_refused(refused);
        durable
    }

    /// Counters and sizes.
    pub fn stats(&self) -> LogStats {
        let handle = &self.handle;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LogStats {
            flushes: count(&handle.counters.flushes),
            appended_entries: count(&handle.counters.entries),
            appended_bytes: count(&handle.counters.bytes),
            cache_hits: count(&handle.cache_hits),
            cache_misses: count(&handle.cache_misses),
            queued_bytes: handle.queue.bytes(),
            live_segments: handle.live.len(),
            spare_segments: handle.pool.spares(),
            space_low: handle.pool.space_low(),
            pinning: self.pinning(),
        }
    }

    /// Whether a write or sync failed. That is final: the log takes nothing any more.
    pub fn failed(&self) -> bool {
        self.handle.queue.has_failed()
    }

    /// Whether the disk is so full that no spare segment could be made. What is left of the active segment is still in
    /// hand, so that what has been accepted can be finished; new work should be refused and entries be purged. Cheap.
    pub fn space_low(&self) -> bool {
        self.handle.pool.space_low()
    }

    /// Whether records wait for room: no segment is left to write to, and none can be made.
    pub fn waits_for_room(&self) -> bool {
        self.handle.pool.waits_for_room()
    }

    /// Writes what is queued, marks the end as clean, and ends the writer task. Handles refuse everything afterwards.
    pub async fn close(&self) {
        self.handle.queue.close();
        if let Some(writer) = self.handle.writer.lock().await.take()
            && let Err(error) = writer.await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }

    fn pinning(&self) -> Vec<Pin> {
        let newest = self.handle.live.newest();
        let mut pins: Vec<(u64, Pin)> = Vec::new();
        for (group, core) in self.handle.groups().iter() {
            let Some((segment, first_index, last_index_in_segment)) = core.lock().oldest() else { continue };
            if segment < newest {
                let segments = newest - segment + 1;
                pins.push((segment, Pin { group: *group, first_index, last_index_in_segment, segments }));
            }
        }
        pins.sort_by_key(|(segment, _)| *segment);
        pins.into_iter().map(|(_, pin)| pin).collect()
    }
}

impl Handle {
    fn groups(&self) -> std::sync::MutexGuard<'_, BTreeMap<GroupId, Arc<GroupCore>>> {
        self.groups.lock().expect("no panic while the groups are locked")
    }
}

/// A callback and the future that it resolves.
pub(crate) fn durable() -> (Done, BoxFuture<'static, io::Result<()>>) {
    let (sender, receiver) = oneshot::channel();
    let done: Done = Box::new(move |result| {
        // The caller may have stopped waiting.
        let _ = sender.send(result);
    });
    let stopped = || io::Error::new(io::ErrorKind::BrokenPipe, "the log's writer is gone");
    (done, Box::pin(async move { receiver.await.unwrap_or_else(|_| Err(stopped())) }))
}

/// Calls back for a job that the queue refused. No lock may be held, since the callback may use the log.
pub(crate) fn call_refused(pushed: Result<(), (Job, io::Error)>) {
    if let Err((job, error)) = pushed
        && let Some(done) = job.done
    {
        done(Err(error));
    }
}

fn ledger_of(groups: &BTreeMap<GroupId, GroupIndex>) -> Ledger {
    let mut ledger = Ledger::default();
    for (id, index) in groups {
        let known = GroupRecord {
            purged: index.purged().cloned(),
            vote: index.vote().cloned(),
            committed: index.committed().cloned(),
        };
        ledger.restore(*id, known);
        index.written_places().for_each(|(n, place)| ledger.append(*id, n, place.segment));
    }
    ledger
}

fn open_error(dir: &Path, config: &LogConfig, error: io::Error) -> LogError {
    if error.kind() == io::ErrorKind::StorageFull {
        return LogError::NoSpace { dir: dir.display().to_string(), bytes: config.segment_bytes };
    }
    io_error("write to", dir, error)
}
