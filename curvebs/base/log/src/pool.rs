//! Segment files that wait for their next use, and the making of new ones.
//!
//! One spare is always kept in hand. It is made in the background: allocated, filled with zeros and synced, so that
//! using it later changes neither length nor extents and a `fdatasync` has nothing but data to write.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use curve_io::{AlignedBuf, Disk, File, OpenMode};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::config::LogConfig;
use crate::format::SegmentHeader;

/// How long after a failed attempt the next one is made.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How much is filled at once, so that the log's own writes never wait behind a large one.
const FILL_BYTES: usize = 1 << 20;

/// A segment file.
#[derive(Clone)]
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn File>,
}

#[derive(Default)]
struct State {
    spares: VecDeque<Segment>,
    space_low: bool,
    /// The writer waits for a segment.
    waited_for: bool,
    /// When to try again after a failure.
    retry_at: Option<Instant>,
}

/// What the pool shows to others.
#[derive(Default)]
pub(crate) struct PoolView {
    state: Mutex<State>,
    changed: Notify,
}

impl PoolView {
    pub(crate) fn spares(&self) -> usize {
        self.lock().spares.len()
    }

    fn wants_spare(&self) -> bool {
        let state = self.lock();
        state.spares.is_empty() && state.retry_at.is_none_or(|at| at <= Instant::now())
    }

    pub(crate) fn space_low(&self) -> bool {
        self.lock().space_low
    }

    /// Whether the writer waits for a segment that cannot be made.
    pub(crate) fn waits_for_room(&self) -> bool {
        let state = self.lock();
        state.waited_for && state.space_low
    }

    /// Says whether the writer waits for a segment.
    pub(crate) fn set_waited_for(&self, waited_for: bool) {
        self.lock().waited_for = waited_for;
    }

    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the pool is locked")
    }

    fn add(&self, segment: Segment) {
        let mut state = self.lock();
        state.spares.push_back(segment);
        state.space_low = false;
        state.retry_at = None;
        drop(state);
        self.changed.notify_one();
    }

    fn failed(&self, error: &io::Error) {
        let mut state = self.lock();
        let first = !std::mem::replace(&mut state.space_low, true);
        state.retry_at = Some(Instant::now() + RETRY_AFTER);
        drop(state);
        if first {
            tracing::warn!(%error, "no spare log segment can be made");
        }
        self.changed.notify_one();
    }
}

/// The pool; owned by the writer.
pub(crate) struct Pool {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segment_bytes: u64,
    keep_free_bytes: u64,
    spares_max: usize,
    next_number: u64,
    view: Arc<PoolView>,
    making: Option<JoinHandle<()>>,
}

impl Pool {
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: &Path, config: &LogConfig, next_number: u64) -> Self {
        Self {
            disk,
            dir: dir.to_path_buf(),
            segment_bytes: config.segment_bytes,
            keep_free_bytes: config.keep_free_bytes,
            spares_max: config.spare_segments_max.max(1),
            next_number,
            view: Arc::default(),
            making: None,
        }
    }

    pub(crate) fn view(&self) -> Arc<PoolView> {
        self.view.clone()
    }

    /// A segment to write to, if there is one in hand.
    pub(crate) fn take(&mut self) -> Option<Segment> {
        self.view.lock().spares.pop_front()
    }

    /// Takes back a segment that nobody needs any more; deletes it when there are enough.
    pub(crate) fn give(&mut self, segment: Segment) {
        if self.view.spares() < self.spares_max
            && segment.file.len().is_ok_and(|len| len == self.segment_bytes)
        {
            self.view.add(segment);
        } else if let Err(error) = self.disk.remove_file(&segment.path) {
            // The file stays and will be found and used again at the next start.
            tracing::warn!(path = %segment.path.display(), %error, "cannot remove a free log segment");
        }
    }

    /// Puts a segment in hand.
    pub(crate) fn keep(&mut self, segment: Segment) {
        self.view.add(segment);
    }

    /// Makes a segment and waits for it.
    pub(crate) async fn make(&mut self) -> io::Result<Segment> {
        let path = self.next_path();
        make_segment(&*self.disk, &path, self.segment_bytes, self.keep_free_bytes).await
    }

    /// Sees to it that a spare is in hand soon.
    pub(crate) fn replenish(&mut self) {
        let busy = self.making.as_ref().is_some_and(|making| !making.is_finished());
        if busy || !self.view.wants_spare() {
            return;
        }
        let (disk, view, path) = (self.disk.clone(), self.view(), self.next_path());
        let (bytes, keep_free) = (self.segment_bytes, self.keep_free_bytes);
        self.making = Some(tokio::spawn(async move {
            match make_segment(&*disk, &path, bytes, keep_free).await {
                Ok(segment) => view.add(segment),
                Err(error) => view.failed(&error),
            }
        }));
    }

    /// Ends the work in the background.
    pub(crate) async fn stop(&mut self) {
        if let Some(making) = self.making.take() {
            making.abort();
            // The only error is the cancellation just asked for.
            let _ = making.await;
        }
    }

    fn next_path(&mut self) -> PathBuf {
        let path = self.dir.join(segment_name(self.next_number));
        self.next_number += 1;
        path
    }
}

/// The name of a segment file.
pub(crate) fn segment_name(number: u64) -> String {
    format!("segment-{number:06}")
}

/// The number in a segment file's name.
pub(crate) fn segment_number(name: &str) -> Option<u64> {
    name.strip_prefix("segment-")?.parse().ok()
}

/// Makes a segment under a temporary name, which is what a crash leaves at worst.
async fn make_segment(disk: &dyn Disk, path: &Path, bytes: u64, keep_free: u64) -> io::Result<Segment> {
    if disk.space()?.free < bytes.saturating_add(keep_free) {
        return Err(io::ErrorKind::StorageFull.into());
    }
    let temporary = path.with_extension("new");
    let result = fill_segment(disk, &temporary, bytes).await;
    let Ok(file) = result else {
        // Gives the room back; a file that cannot be removed now is removed at the next start.
        let _ = disk.remove_file(&temporary);
        return result.map(|file| Segment { path: path.to_path_buf(), file });
    };
    disk.rename(&temporary, path)?;
    disk.sync_dir(path.parent().unwrap_or(Path::new(""))).await?;
    Ok(Segment { path: path.to_path_buf(), file })
}

async fn fill_segment(disk: &dyn Disk, path: &Path, bytes: u64) -> io::Result<Arc<dyn File>> {
    let file = disk.open(path, OpenMode::Create)?;
    file.set_len(0)?;
    file.allocate(0, bytes)?;
    let mut pages = AlignedBuf::new();
    pages.extend_from_slice(&vec![0; FILL_BYTES.min(bytes as usize)]);
    let mut at = 0;
    while at < bytes {
        pages.truncate(pages.len().min((bytes - at) as usize));
        let written;
        (pages, written) = file.clone().write_durably(at, pages).await;
        written?;
        at += pages.len() as u64;
    }
    let unused = SegmentHeader { segment_bytes: bytes, ..SegmentHeader::default() };
    file.write_at(0, &[io::IoSlice::new(&unused.encode())])?;
    file.clone().sync().await?;
    Ok(file)
}
