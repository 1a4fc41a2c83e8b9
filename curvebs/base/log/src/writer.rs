//! The one task that writes: takes what is queued, lays it out, writes it at once, syncs once, and tells the callers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use curve_io::PAGE_BYTES;
use curve_types::GroupId;
use tokio::time::timeout;

use crate::batch::{Batch, NewRecord, Place};
use crate::config::LogConfig;
use crate::format::{GroupRecord, Kind, SegmentHeader, record_len};
use crate::group::{Done, Entry};
use crate::index::GroupCore;
use crate::ledger::Ledger;
use crate::pool::{Pool, RETRY_AFTER, Segment};
use crate::queue::{Job, Queue, Taken, Work, payload_len};
use crate::recover::TailPosition;

/// Bytes at the end of a segment that only purges may use, and only when there is no room to start another segment.
const RESERVE_BYTES: u32 = 16 << 10;

/// How often the writer steps back for others before it writes, at most.
const YIELDS_MAX: usize = 4;

/// What an entry in memory is accounted for besides its record.
const ENTRY_OVERHEAD_BYTES: usize = 64;

/// Segments in use by sequence; shared with readers.
#[derive(Default)]
pub(crate) struct LiveSegments {
    by_sequence: Mutex<BTreeMap<u64, Segment>>,
}

impl LiveSegments {
    pub(crate) fn new(by_sequence: BTreeMap<u64, Segment>) -> Self {
        Self { by_sequence: Mutex::new(by_sequence) }
    }

    pub(crate) fn get(&self, sequence: u64) -> Option<Segment> {
        self.lock().get(&sequence).cloned()
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    pub(crate) fn newest(&self) -> u64 {
        self.lock().last_key_value().map_or(0, |(sequence, _)| *sequence)
    }

    fn insert(&self, sequence: u64, segment: Segment) {
        self.lock().insert(sequence, segment);
    }

    /// Takes out all segments before `floor`.
    fn retire(&self, floor: u64) -> BTreeMap<u64, Segment> {
        let mut segments = self.lock();
        let kept = segments.split_off(&floor);
        std::mem::replace(&mut *segments, kept)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Segment>> {
        self.by_sequence.lock().expect("no panic while the segments are locked")
    }
}

/// What the writer counts.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) flushes: AtomicU64,
    pub(crate) entries: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

/// An entry whose place is known and not yet published.
struct Placed {
    core: Arc<GroupCore>,
    index: u64,
    ticket: u64,
    place: Place,
}

struct Active {
    segment: Segment,
    sequence: u64,
    capacity: u32,
    /// Where the durable records end.
    tail: u32,
}

/// The writer. One batch at a time: while it is synced, the next one gathers in the queue.
///
/// Invariants: a batch is written only after everything before it is durable; a new segment is begun only when the last
/// one is durable, and repeats the state of every group, so that older segments are needed for entries alone; a segment
/// is given up only once a durable floor record says so; after a failed write or sync nothing is written ever again.
pub(crate) struct Writer {
    queue: Arc<Queue>,
    live: Arc<LiveSegments>,
    counters: Arc<Counters>,
    config: LogConfig,
    pool: Pool,
    ledger: Ledger,
    active: Active,
    incarnation: u32,
    batch: Batch,
    /// The oldest segment needed, as the last durable record says.
    floor: u64,
    /// The floor that the batch under construction announces.
    next_floor: Option<u64>,
    floor_may_rise: bool,
    /// Records were written after the last settled record.
    unsettled: bool,
    incoming: VecDeque<Job>,
    placed: Vec<Placed>,
    completions: Vec<(Option<Done>, usize)>,
    /// Entries with payload in memory, oldest first.
    cached: VecDeque<(Placed, usize)>,
    cached_bytes: usize,
}

/// What a writer begins with.
pub(crate) struct WriterParts {
    pub(crate) queue: Arc<Queue>,
    pub(crate) live: Arc<LiveSegments>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) config: LogConfig,
    pub(crate) pool: Pool,
    pub(crate) ledger: Ledger,
    pub(crate) tail: Option<TailPosition>,
    pub(crate) incarnation: u32,
    pub(crate) floor: u64,
}

impl Writer {
    /// Takes the log over: makes a new incarnation durable, then the state of all groups.
    pub(crate) async fn begin(parts: WriterParts) -> io::Result<Self> {
        let WriterParts { queue, live, counters, config, mut pool, ledger, tail, incarnation, floor } = parts;
        let found = tail.and_then(|tail| Some((tail, live.get(tail.sequence)?)));
        let (active, tail) = match found {
            Some((tail, segment)) => {
                let capacity = segment.file.len()? as u32;
                (Active { segment, sequence: tail.sequence, capacity, tail: tail.offset }, tail.offset)
            }
            // Full from the start, so that the first record begins segment 1.
            None => {
                let segment = obtain_first(&mut pool).await?;
                pool.keep(segment.clone());
                (Active { segment, sequence: 0, capacity: 0, tail: 0 }, 0)
            }
        };
        let mut prefix = vec![0; tail as usize % PAGE_BYTES];
        let page = u64::from(tail) - prefix.len() as u64;
        if active.segment.file.read_at(page, &mut prefix)? < prefix.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut writer = Self {
            batch: Batch::new(active.sequence, incarnation, tail, &prefix),
            queue,
            live,
            counters,
            config,
            pool,
            ledger,
            active,
            incarnation,
            floor,
            next_floor: None,
            floor_may_rise: false,
            unsettled: true,
            incoming: VecDeque::new(),
            placed: Vec::new(),
            completions: Vec::new(),
            cached: VecDeque::new(),
            cached_bytes: 0,
        };
        writer.open_incarnation().await?;
        Ok(writer)
    }

    /// Nothing may be written under an incarnation that is not durable, see `format`.
    async fn open_incarnation(&mut self) -> io::Result<()> {
        let states: usize =
            self.ledger.states().map(|(_, known)| record_len(known.encode().1.len(), 0)).sum();
        let needed = record_len(0, 0) + states;
        if self.fits(needed) {
            self.batch.push(NewRecord::small(Kind::Opened, GroupId(0), 0, &[]));
            self.flush().await?;
        } else {
            let segment = obtain_first(&mut self.pool).await?;
            self.start_segment(segment);
            self.flush().await?;
        }
        self.push_states()?;
        self.flush().await
    }

    /// Serves the queue until it is closed, or until the disk fails.
    pub(crate) async fn run(mut self) {
        self.pool.replenish();
        if let Err(error) = self.serve().await {
            tracing::error!(%error, segment = %self.active.segment.path.display(), "the log has failed and takes nothing more");
            self.fail(&error);
        }
        self.pool.stop().await;
    }

    async fn serve(&mut self) -> io::Result<()> {
        loop {
            self.let_others_run().await;
            match self.queue.take(self.config.batch_bytes_max) {
                Taken::Jobs(jobs) => self.write(jobs).await?,
                Taken::OnlyLazy if self.queue.is_closed() => self.settle().await?,
                Taken::Nothing if self.queue.is_closed() => {
                    return if self.unsettled { self.settle().await } else { Ok(()) };
                }
                Taken::OnlyLazy => self.rest(true).await?,
                Taken::Nothing => self.rest(self.unsettled).await?,
            }
            self.pool.replenish();
        }
    }

    /// A quick disk is waited for without leaving the thread (`RealDisk`). So first everything that is ready runs: what it
    /// sends leaves before the wait, and what it appends comes along. Again as long as that brings more, but not for ever.
    async fn let_others_run(&mut self) {
        for _ in 0..YIELDS_MAX {
            let before = self.queue.bytes();
            if before > 0 {
                tokio::task::yield_now().await;
            }
            if self.queue.bytes() == before {
                return;
            }
        }
    }

    /// Waits for work; settles what is left when none comes for a while.
    async fn rest(&mut self, unsettled: bool) -> io::Result<()> {
        if unsettled {
            if timeout(self.config.settle_after, self.queue.wait()).await.is_err() {
                return self.settle().await;
            }
        } else if self.pool.view().space_low() {
            // Looks again whether there is room for a spare now.
            let _ = timeout(RETRY_AFTER, self.queue.wait()).await;
        } else {
            self.queue.wait().await;
        }
        Ok(())
    }

    async fn write(&mut self, jobs: VecDeque<Job>) -> io::Result<()> {
        self.incoming = jobs;
        self.stage_incoming().await?;
        self.push_floor();
        self.unsettled = true;
        self.flush().await
    }

    /// Makes lazy records durable and marks that everything before this batch was.
    async fn settle(&mut self) -> io::Result<()> {
        self.incoming = self.queue.take_all();
        self.stage_incoming().await?;
        self.push_floor();
        self.make_room(record_len(0, 0)).await?;
        self.batch.push(NewRecord::small(Kind::Settled, GroupId(0), 0, &[]));
        self.flush().await?;
        self.batch.rest();
        self.unsettled = false;
        Ok(())
    }

    async fn stage_incoming(&mut self) -> io::Result<()> {
        while let Some(Job { core, work, done, bytes }) = self.incoming.pop_front() {
            let staged = self.stage(&core, work).await;
            // Only now: a flush in the middle of a job must not complete it.
            self.completions.push((done, bytes));
            staged?;
        }
        Ok(())
    }

    async fn stage(&mut self, core: &Arc<GroupCore>, work: Work) -> io::Result<()> {
        let group = core.id;
        match work {
            Work::Append { entries, ticket } => {
                for (entry, ticket) in entries.into_iter().zip(ticket..) {
                    self.stage_entry(core, entry, ticket).await?;
                }
            }
            Work::Vote(vote) => {
                self.stage_small(NewRecord::small(Kind::Vote, group, 0, &vote)).await?;
                self.ledger.vote(group, vote);
            }
            Work::Committed(meta) => {
                self.stage_small(NewRecord::small(Kind::Committed, group, 0, &meta)).await?;
                self.requeue_committed(core, &meta);
                self.ledger.committed(group, meta);
            }
            Work::Truncate { first_removed } => {
                self.stage_small(NewRecord::small(Kind::Truncate, group, first_removed, &[])).await?;
                self.ledger.truncate_from(group, first_removed);
                self.floor_may_rise = true;
            }
            Work::Purge { upto, meta } => {
                self.stage_small(NewRecord::small(Kind::Purge, group, upto, &meta)).await?;
                self.ledger.purge(group, upto, meta);
                self.floor_may_rise = true;
            }
            Work::Remove => {
                self.stage_small(NewRecord::small(Kind::RemoveGroup, group, 0, &[])).await?;
                self.ledger.remove(group);
                self.floor_may_rise = true;
            }
        }
        Ok(())
    }

    async fn stage_entry(&mut self, core: &Arc<GroupCore>, entry: Entry, ticket: u64) -> io::Result<()> {
        self.make_room(record_len(entry.meta.len(), payload_len(&entry))).await?;
        let Entry { index, meta, payload } = entry;
        let place =
            self.batch.push(NewRecord { kind: Kind::Append, group: core.id, index, meta: &meta, payload });
        self.ledger.append(core.id, index, place.segment);
        self.placed.push(Placed { core: core.clone(), index, ticket, place });
        Ok(())
    }

    async fn stage_small(&mut self, record: NewRecord<'_>) -> io::Result<()> {
        self.make_room(record_len(record.meta.len(), 0)).await?;
        self.batch.push(record);
        Ok(())
    }

    /// A commit point that came while an older one was queued is queued now.
    fn requeue_committed(&mut self, core: &Arc<GroupCore>, written: &Bytes) {
        let mut index = core.lock();
        index.committed_queued = false;
        // A removed group must not come back by a record behind its removal.
        if let Some(newer) = index.committed().filter(|newer| *newer != written).cloned()
            && !index.removed
        {
            self.queue.requeue(Job::new(core.clone(), Work::Committed(newer), None));
            index.committed_queued = true;
        }
    }

    fn fits(&self, len: usize) -> bool {
        let end = u64::from(self.batch.end()) + len as u64 + u64::from(self.reserve());
        end <= u64::from(self.active.capacity)
    }

    fn reserve(&self) -> u32 {
        RESERVE_BYTES.min(self.active.capacity / 16)
    }

    /// Sees to it that a record of `len` bytes fits, in a new segment if need be.
    async fn make_room(&mut self, len: usize) -> io::Result<()> {
        if self.fits(len) {
            return Ok(());
        }
        self.flush().await?;
        let segment = self.obtain_segment().await?;
        self.start_segment(segment);
        self.push_states()?;
        if self.fits(len) { Ok(()) } else { Err(segment_too_small()) }
    }

    /// The spare; when there is none, waits until a purge frees a segment or the disk has room again.
    async fn obtain_segment(&mut self) -> io::Result<Segment> {
        let view = self.pool.view();
        loop {
            self.pool.replenish();
            if let Some(segment) = self.pool.take() {
                view.set_waited_for(false);
                return Ok(segment);
            }
            view.set_waited_for(true);
            if self.write_purges().await? {
                continue;
            }
            if self.queue.is_closed() && view.space_low() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            tokio::select! {
                biased;
                () = view.changed() => {}
                () = self.queue.wait() => {}
                () = tokio::time::sleep(RETRY_AFTER) => {}
            }
        }
    }

    /// Records purges ahead of everything else, in the room that is reserved for it; tells whether there were any.
    async fn write_purges(&mut self) -> io::Result<bool> {
        let mut jobs = std::mem::take(&mut self.incoming);
        jobs.append(&mut self.queue.take_all());
        let (mut purges, others) = split_purges(jobs);
        self.incoming = others;
        let floor_len = record_len(0, 0);
        while let Some(job) = purges.pop_front() {
            let Work::Purge { upto, meta } = &job.work else { unreachable!("partitioned above") };
            let end = self.batch.end() as usize + record_len(meta.len(), 0) + floor_len;
            if end > self.active.capacity as usize {
                purges.push_front(job);
                break;
            }
            self.batch.push(NewRecord::small(Kind::Purge, job.core.id, *upto, meta));
            self.ledger.purge(job.core.id, *upto, meta.clone());
            self.floor_may_rise = true;
            self.completions.push((None, job.bytes));
        }
        purges.into_iter().rev().for_each(|job| self.incoming.push_front(job));
        if self.batch.is_empty() {
            return Ok(false);
        }
        self.push_floor();
        self.flush_records().await?;
        Ok(true)
    }

    fn start_segment(&mut self, segment: Segment) {
        let sequence = self.active.sequence + 1;
        let capacity = self.config.segment_bytes as u32;
        let header = SegmentHeader {
            sequence,
            incarnation: self.incarnation,
            previous_end: self.active.tail,
            oldest: self.floor,
            segment_bytes: self.config.segment_bytes,
        };
        self.batch.begin_segment(&header);
        self.live.insert(sequence, segment.clone());
        self.active = Active { segment, sequence, capacity, tail: 0 };
        self.floor_may_rise = true;
    }

    /// Repeats what is known of all groups, so that no older segment is needed for it.
    fn push_states(&mut self) -> io::Result<()> {
        for (group, known) in self.ledger.states() {
            let (index, meta) = GroupRecord::encode(known);
            if self.batch.end() as usize + record_len(meta.len(), 0) > self.active.capacity as usize {
                return Err(segment_too_small());
            }
            self.batch.push(NewRecord::small(Kind::State, group, index, &meta));
        }
        Ok(())
    }

    /// Announces that older segments are free, if they are: durable together with the purges that made them so.
    fn push_floor(&mut self) {
        if !self.floor_may_rise {
            return;
        }
        let needed = self.ledger.oldest_needed().unwrap_or(self.active.sequence);
        let room = u64::from(self.batch.end()) + record_len(0, 0) as u64 <= u64::from(self.active.capacity);
        self.floor_may_rise = !room;
        if needed > self.floor && room {
            self.batch.push(NewRecord::small(Kind::Floor, GroupId(0), needed, &[]));
            self.next_floor = Some(needed);
        }
    }

    /// Writes and syncs the batch and completes all jobs that are staged.
    async fn flush(&mut self) -> io::Result<()> {
        if !self.batch.is_empty() {
            self.flush_records().await?;
        }
        self.complete();
        Ok(())
    }

    async fn flush_records(&mut self) -> io::Result<()> {
        assert!(self.batch.end() <= self.active.capacity, "a batch ends within its segment");
        let file = self.active.segment.file.clone();
        let (pages, written) = file.write_durably(self.batch.start(), self.batch.lend()).await;
        self.batch.give_back(pages);
        written?;
        self.active.tail = self.batch.end();
        self.counters.flushes.fetch_add(1, Ordering::Relaxed);
        self.counters.bytes.fetch_add(self.batch.len(), Ordering::Relaxed);
        self.counters.entries.fetch_add(self.placed.len() as u64, Ordering::Relaxed);
        self.batch.clear();
        self.publish();
        if let Some(floor) = self.next_floor.take() {
            self.floor = floor;
            self.live.retire(floor).into_values().for_each(|segment| self.pool.give(segment));
        }
        Ok(())
    }

    /// Lets readers find the entries on disk, and the oldest payloads go from memory.
    fn publish(&mut self) {
        for placed in self.placed.drain(..) {
            placed.core.lock().written(placed.index, placed.ticket, placed.place);
            let bytes = placed.place.len as usize + ENTRY_OVERHEAD_BYTES;
            self.cached_bytes += bytes;
            self.cached.push_back((placed, bytes));
        }
        while self.cached_bytes > self.config.cache_bytes
            && let Some((placed, bytes)) = self.cached.pop_front()
        {
            self.cached_bytes -= bytes;
            placed.core.lock().evict(placed.index, placed.place);
        }
    }

    fn complete(&mut self) {
        let mut released = 0;
        for (done, bytes) in self.completions.drain(..) {
            released += bytes;
            if let Some(done) = done {
                done(Ok(()));
            }
        }
        self.queue.release(released);
    }

    fn fail(&mut self, error: &io::Error) {
        let queued = self.queue.fail(error);
        let staged = self.completions.drain(..).filter_map(|(done, _)| done);
        let waiting = self.incoming.drain(..).chain(queued).filter_map(|job| job.done);
        for done in staged.chain(waiting) {
            done(Err(io::Error::new(error.kind(), format!("the log has failed: {error}"))));
        }
    }
}

/// Takes the purges out of the order of the queue. They speak only of entries that are applied, so they may be recorded
/// ahead of what was queued before them, unless that is the removal of an earlier group of the same number.
fn split_purges(jobs: VecDeque<Job>) -> (VecDeque<Job>, VecDeque<Job>) {
    let removed: BTreeSet<GroupId> =
        jobs.iter().filter(|job| matches!(job.work, Work::Remove)).map(|job| job.core.id).collect();
    jobs.into_iter()
        .partition(|job| matches!(job.work, Work::Purge { .. }) && !removed.contains(&job.core.id))
}

/// A segment at the start, when nobody can free one yet.
async fn obtain_first(pool: &mut Pool) -> io::Result<Segment> {
    match pool.take() {
        Some(segment) => Ok(segment),
        None => pool.make().await,
    }
}

fn segment_too_small() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "the states of all groups do not leave room in a log segment")
}
