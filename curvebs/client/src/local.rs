//! Reads from the chunk files of a chunkserver on the same machine.
//!
//! The leader decides, as for every read: it confirms its lease, checks the epoch, and answers. Only that it answers where
//! the bytes are, with their checksums, and they are taken from there, without going through two sockets. What was changed
//! or taken away between answer and read does not have the checksum of the answer, and the block is read again the usual
//! way; so is what is damaged, which the leader then heals. Hence such a read is what a read is: each block as it was
//! when the leader answered, or later.
//!
//! A disk that does not answer for a while is left to the chunkservers for a minute, whose leaders are elsewhere by then.
//!
//! Only so many files may be open, and to open one for a single read would cost more than it spares: while all are in use,
//! reads of other chunks ask for their bytes.

use std::collections::HashMap;
use std::hash::Hash;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use curve_blockdev::push_zeroes;
use curve_io::{Board, File, Machine};
use curve_proto::pb::data::{FilePlace, FileRun};
use curve_types::{BLOCK_BYTES, ChunkIndex, CopysetId};
use metrics::{Counter, counter};
use tokio::time::{Instant, timeout};

use crate::known::{Answer, Known, Memory, Turn};
use crate::payload::blocks_match;

/// A file that nothing was read from for so long is closed: it may have been deleted, and keeps its room until then.
const UNUSED_MAX: Duration = Duration::from_secs(10);
/// What was read from within this time is not given up for something else.
pub const IN_USE: Duration = Duration::from_secs(1);
/// How long it is not looked again whether one of many is no longer in use.
pub const FULL_FOR: Duration = Duration::from_millis(100);
/// How long a copyset whose files cannot be opened, or a disk that does not answer, is left alone before it is tried again.
const REFUSED_FOR: Duration = Duration::from_secs(60);
/// How long a disk may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a read asks a copyset for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// The bytes.
    Bytes,
    /// Where the bytes are.
    Place {
        /// And what the file is called.
        path: bool,
    },
}

/// What came of a read from a file.
pub enum Taken {
    /// The bytes, in parts.
    Bytes(Vec<Bytes>),
    /// Nothing: this is to be asked for instead.
    Nothing(Ask),
}

/// The files that all volumes of a process may have open.
#[derive(Clone)]
pub struct Budget {
    machine: Arc<dyn Machine>,
    open: Arc<AtomicUsize>,
    memory: Memory,
}

/// A part of what there is only so much of in a process. Given back when dropped.
pub struct Seat(Arc<AtomicUsize>, usize);

impl Seat {
    /// Takes `wanted` of `max`, of which `used` are taken; `None` when there is not so much left.
    pub fn take(used: &Arc<AtomicUsize>, wanted: usize, max: usize) -> Option<Self> {
        let more = |used: usize| Some(used + wanted).filter(|used| *used <= max);
        let taken = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.ok().map(|_| Self(used.clone(), wanted))
    }
}

impl Budget {
    /// All are free.
    pub fn new(machine: Arc<dyn Machine>) -> Self {
        Self { machine, open: Arc::default(), memory: Memory::default() }
    }

    fn is_free(&self) -> bool {
        self.open.load(Ordering::Relaxed) < self.machine.files_max()
    }

    fn seat(&self) -> Option<Seat> {
        Seat::take(&self.open, 1, self.machine.files_max())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

struct Open {
    file: Arc<dyn File>,
    used: Instant,
    _seat: Seat,
}

/// Device and inode.
pub type FileKey = (u64, u64);

#[derive(Default)]
struct State {
    files: HashMap<FileKey, Open>,
    /// The file that a chunk was last read from; it may have been closed.
    of_chunk: HashMap<ChunkIndex, FileKey>,
    /// Copysets whose files could not be opened, and when.
    refused: HashMap<CopysetId, Instant>,
    /// Devices that did not answer, and when that was noticed.
    hung: HashMap<u64, Instant>,
    /// When all files were in use.
    full: Option<Instant>,
    /// `None` where one could not be opened a moment ago.
    boards: HashMap<FileKey, Option<Arc<Board>>>,
}

/// Whether something is to be left alone still; what has been for long enough is forgotten.
fn is_left_alone<K: Eq + Hash>(noted: &mut HashMap<K, Instant>, key: &K) -> bool {
    let Some(since) = noted.get(key) else { return false };
    let still = since.elapsed() < REFUSED_FOR;
    if !still {
        noted.remove(key);
    }
    still
}

impl State {
    /// Whether one more file may be opened, perhaps after another one was closed.
    fn has_room(&mut self, budget: &Budget) -> bool {
        if budget.is_free() {
            return true;
        }
        if self.full.is_some_and(|since| since.elapsed() < FULL_FOR) {
            return false;
        }
        let unused = self.files.values().any(|open| open.used.elapsed() >= IN_USE);
        self.full = (!unused).then(Instant::now);
        unused
    }

    fn seat(&mut self, budget: &Budget) -> Option<Seat> {
        if let Some(seat) = budget.seat() {
            return Some(seat);
        }
        let oldest = self.files.iter().min_by_key(|(_, open)| open.used).map(|(key, _)| *key)?;
        self.files.remove(&oldest);
        budget.seat()
    }
}

/// The files of one volume's chunks that are open here.
pub struct LocalFiles {
    budget: Budget,
    state: Mutex<State>,
    /// What needs not be asked for, of a holder that is alone.
    known: Option<Known>,
    taken: Counter,
    unasked: Counter,
    changed: Counter,
}

impl std::fmt::Debug for LocalFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalFiles").field("open", &self.lock().files.len()).finish_non_exhaustive()
    }
}

impl LocalFiles {
    /// None is open. Whoever holds the volume `alone` says how large its chunks are, and reads unasked where it can.
    pub fn new(budget: Budget, alone: Option<u32>) -> Self {
        let known = alone.map(|chunk_bytes| Known::new(budget.memory.clone(), chunk_bytes));
        let taken = counter!("curve_client_local_reads_total");
        let unasked = counter!("curve_client_unasked_reads_total");
        let changed = counter!("curve_client_local_reads_changed_total");
        Self { budget, state: Mutex::default(), known, taken, unasked, changed }
    }

    /// The machine's number.
    pub fn machine(&self) -> u64 {
        self.budget.machine.id()
    }

    /// What a read of a chunk is to ask its copyset for at first.
    pub fn ask(&self, copyset: CopysetId, chunk: ChunkIndex) -> Ask {
        let mut state = self.lock();
        if is_left_alone(&mut state.refused, &copyset) {
            return Ask::Bytes;
        }
        if state.of_chunk.get(&chunk).is_some_and(|key| state.files.contains_key(key)) {
            Ask::Place { path: false }
        } else if state.has_room(&self.budget) {
            Ask::Place { path: true }
        } else {
            Ask::Bytes
        }
    }

    /// Takes the bytes of blocks with these checksums from where `asked` was answered that they are.
    pub async fn take(
        &self,
        copyset: CopysetId,
        chunk: ChunkIndex,
        asked: Ask,
        place: &FilePlace,
        crcs: &[u32],
    ) -> Taken {
        let Some(file) = self.open(copyset, chunk, asked, place) else {
            let unnamed = asked == Ask::Place { path: false };
            return Taken::Nothing(if unnamed { Ask::Place { path: true } } else { Ask::Bytes });
        };
        match read(&file, &place.runs, crcs).await {
            Ok(Some(parts)) => {
                self.taken.increment(1);
                Taken::Bytes(parts)
            }
            Ok(None) => {
                self.changed.increment(1);
                Taken::Nothing(Ask::Bytes)
            }
            Err(error) => {
                tracing::debug!(%copyset, %error, "a chunk's file cannot be read here");
                self.failed((place.device, place.inode), &error);
                Taken::Nothing(Ask::Bytes)
            }
        }
    }

    /// What is known, for a holder that is alone.
    pub fn known(&self) -> Option<&Known> {
        self.known.as_ref()
    }

    /// Takes the bytes of whole blocks without asking anybody, if all that it takes is known and pledged.
    pub async fn take_unasked(&self, chunk: ChunkIndex, offset: u32, len: u32) -> Option<Vec<Bytes>> {
        let sight = self.known.as_ref()?.sight(chunk, offset, len)?;
        let file = {
            let mut state = self.lock();
            if is_left_alone(&mut state.hung, &sight.file().0) {
                return None;
            }
            let open = state.files.get_mut(&sight.file())?;
            open.used = Instant::now();
            open.file.clone()
        };
        let parts = read(&file, &sight.runs, &sight.crcs).await;
        let parts = parts.inspect_err(|error| self.failed(sight.file(), error)).ok()??;
        if !sight.holds() {
            return None;
        }
        self.unasked.increment(1);
        Some(parts)
    }

    fn failed(&self, key: FileKey, error: &io::Error) {
        let mut state = self.lock();
        state.files.remove(&key);
        if error.kind() == io::ErrorKind::TimedOut && state.hung.insert(key.0, Instant::now()).is_none() {
            tracing::warn!(
                "a disk of a chunkserver on this machine does not answer; nothing is read from it here for a minute"
            );
        }
    }

    /// Keeps what a leader said of the blocks of a question.
    pub fn learn(&self, question: Turn<'_>, place: &FilePlace) {
        let Some(sight) = &place.sight else { return };
        let Some(board) = self.board((sight.board_device, sight.board_inode), &sight.board_path) else {
            return;
        };
        question.answered(&Answer {
            file: (place.device, place.inode),
            pledge: (board, sight.pledge, sight.changes),
            crcs: &sight.crcs,
            runs: &sight.runs,
        });
    }

    fn board(&self, key: FileKey, path: &str) -> Option<Arc<Board>> {
        let mut state = self.lock();
        if let Some(board) = state.boards.get(&key) {
            return board.clone();
        }
        let meant = curve_io::FilePlace { machine: self.machine(), device: key.0, inode: key.1 };
        let opened = self.budget.machine.board(meant, Path::new(path));
        let board =
            opened.inspect_err(|error| tracing::debug!(path, %error, "a board cannot be opened here")).ok();
        state.boards.insert(key, board.clone());
        board
    }

    /// The file, opened if its name was asked for.
    fn open(
        &self,
        copyset: CopysetId,
        chunk: ChunkIndex,
        asked: Ask,
        place: &FilePlace,
    ) -> Option<Arc<dyn File>> {
        let key = (place.device, place.inode);
        let now = Instant::now();
        let mut state = self.lock();
        if is_left_alone(&mut state.hung, &place.device) {
            return None;
        }
        if let Some(open) = state.files.get_mut(&key) {
            open.used = now;
            return Some(open.file.clone());
        }
        if asked != (Ask::Place { path: true }) {
            return None;
        }
        let meant = curve_io::FilePlace { machine: self.machine(), device: place.device, inode: place.inode };
        let seat = state.seat(&self.budget)?;
        match self.budget.machine.open(meant, Path::new(&place.path)) {
            Ok(file) => {
                state.files.insert(key, Open { file: file.clone(), used: now, _seat: seat });
                state.of_chunk.insert(chunk, key);
                Some(file)
            }
            Err(error) => {
                tracing::debug!(%copyset, path = place.path, %error, "a chunk's file cannot be opened here");
                state.refused.insert(copyset, now);
                None
            }
        }
    }

    /// Closes files that nothing was read from for a while.
    pub fn close_unused(&self) {
        if let Some(known) = &self.known {
            known.forget_unused(UNUSED_MAX);
        }
        let mut state = self.lock();
        let State { files, of_chunk, boards, .. } = &mut *state;
        boards.retain(|_, board| board.as_ref().is_some_and(|board| Arc::strong_count(board) > 1));
        files.retain(|_, open| open.used.elapsed() < UNUSED_MAX);
        of_chunk.retain(|_, key| files.contains_key(key));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads what `crcs` are the checksums of; `None` when something has another one.
async fn read(file: &Arc<dyn File>, runs: &[FileRun], crcs: &[u32]) -> io::Result<Option<Vec<Bytes>>> {
    let block = BLOCK_BYTES as usize;
    let mut parts = Vec::with_capacity(1);
    let mut rest = crcs;
    let mut runs = runs.iter();
    while let Some(first) = rest.first() {
        if *first == 0 {
            let holes = rest.iter().take_while(|crc| **crc == 0).count();
            push_zeroes(&mut parts, (holes * block) as u64);
            rest = &rest[holes..];
            continue;
        }
        let Some(run) = runs.next() else { return Ok(None) };
        let Some((expected, later)) = rest.split_at_checked(run.blocks as usize) else { return Ok(None) };
        if expected.is_empty() {
            return Ok(None);
        }
        let bytes = timeout(PATIENCE, file.clone().read(run.offset, expected.len() * block)).await??;
        if expected.contains(&0) || !blocks_match(&bytes, expected) {
            return Ok(None);
        }
        parts.push(bytes);
        rest = later;
    }
    Ok(Some(parts))
}

#[cfg(test)]
mod tests {
    use curve_io::OpenMode;
    use curve_io::sim::{SimDisk, SimDiskConfig, SimMachine};

    use super::*;

    const COPYSET: CopysetId = CopysetId(3);
    const CHUNK: ChunkIndex = ChunkIndex(5);
    const KNOWN: Ask = Ask::Place { path: false };
    const NAMED: Ask = Ask::Place { path: true };

    /// A disk with files of four blocks, block `n` full of `n + 1`.
    fn files(names: &[&str]) -> (SimDisk, Vec<Arc<dyn File>>) {
        let disk = SimDisk::new(SimDiskConfig { seed: 9, ..SimDiskConfig::default() });
        let mount = disk.mount();
        let file = |name: &&str| {
            let file = mount.open(Path::new(name), OpenMode::CreateNew).unwrap();
            for n in 0..4 {
                file.write_at(n * BLOCK_BYTES, &[io::IoSlice::new(&[n as u8 + 1; 4096])]).unwrap();
            }
            file
        };
        let files = names.iter().map(file).collect();
        (disk, files)
    }

    fn place(file: &Arc<dyn File>, runs: &[(u64, u32)]) -> FilePlace {
        let place = file.place().unwrap();
        FilePlace {
            device: place.device,
            inode: place.inode,
            runs: runs
                .iter()
                .map(|&(block, blocks)| FileRun { offset: block * BLOCK_BYTES, blocks })
                .collect(),
            path: "/any".into(),
            sight: None,
        }
    }

    /// Checksums of blocks of `n`; 0 is a hole.
    fn crcs(blocks: &[u8]) -> Vec<u32> {
        let crc = |n: &u8| if *n == 0 { 0 } else { crc32fast::hash(&[*n; 4096]) };
        blocks.iter().map(crc).collect()
    }

    /// The first byte of each block, or what is to be asked for.
    async fn take(local: &LocalFiles, asked: Ask, place: &FilePlace, blocks: &[u8]) -> Result<Vec<u8>, Ask> {
        match local.take(COPYSET, CHUNK, asked, place, &crcs(blocks)).await {
            Taken::Bytes(parts) => Ok(parts.concat().chunks(4096).map(|block| block[0]).collect()),
            Taken::Nothing(next) => Err(next),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_its_checksum_is_taken_and_nothing_else() {
        let (disk, files) = files(&["a"]);
        let local = LocalFiles::new(Budget::new(Arc::new(SimMachine::new(vec![disk.clone()]))), None);
        let runs = place(&files[0], &[(1, 2), (0, 1)]);
        assert_eq!(local.ask(COPYSET, CHUNK), NAMED);
        assert_eq!(take(&local, KNOWN, &runs, &[2, 3, 0, 1]).await, Err(NAMED), "it is not open");
        assert_eq!(take(&local, NAMED, &runs, &[2, 3, 0, 1]).await, Ok(vec![2, 3, 0, 1]));
        assert_eq!(local.ask(COPYSET, CHUNK), KNOWN);
        assert_eq!(take(&local, KNOWN, &runs, &[0, 2, 3, 0, 0, 1, 0]).await, Ok(vec![0, 2, 3, 0, 0, 1, 0]));
        for wrong in [&[2, 3, 0, 4][..], &[2, 0, 3], &[2, 3, 1, 1], &[2]] {
            assert_eq!(take(&local, KNOWN, &runs, wrong).await, Err(Ask::Bytes), "{wrong:?}");
        }
        assert_eq!(take(&local, KNOWN, &place(&files[0], &[(0, 0), (0, 1)]), &[1]).await, Err(Ask::Bytes));
        assert_eq!(
            take(&local, KNOWN, &place(&files[0], &[(3, 2)]), &[4, 5]).await,
            Err(Ask::Bytes),
            "the end"
        );
        files[0].punch(0, 4096).unwrap();
        assert_eq!(take(&local, KNOWN, &runs, &[2, 3, 1]).await, Err(Ask::Bytes), "taken away since");
        assert_eq!(local.ask(COPYSET, CHUNK), KNOWN, "that is no reason to stop");

        disk.detach();
        assert_eq!(take(&local, KNOWN, &runs, &[2, 3]).await, Err(Ask::Bytes), "a dead handle");
        assert_eq!(take(&local, KNOWN, &runs, &[2, 3]).await, Err(NAMED), "is closed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_hangs_is_left_alone_for_a_while() {
        let (disk, files) = files(&["a"]);
        let local = LocalFiles::new(Budget::new(Arc::new(SimMachine::new(vec![disk.clone()]))), None);
        let place = place(&files[0], &[(0, 1)]);
        assert_eq!(take(&local, NAMED, &place, &[1]).await, Ok(vec![1]));
        disk.set_hung(true);
        let begun = Instant::now();
        // The page cache has some.
        while take(&local, KNOWN, &place, &[1]).await == Ok(vec![1]) {}
        assert!(begun.elapsed() < PATIENCE * 2, "{:?}", begun.elapsed());
        let begun = Instant::now();
        for _ in 0..10 {
            assert_eq!(take(&local, NAMED, &place, &[1]).await, Err(Ask::Bytes));
        }
        assert_eq!(begun.elapsed(), Duration::ZERO, "it is not tried again");
        disk.set_hung(false);
        tokio::time::advance(REFUSED_FOR).await;
        assert_eq!(take(&local, NAMED, &place, &[1]).await, Ok(vec![1]));
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_opened_is_left_alone_for_a_while() {
        let (_, files) = files(&["a"]);
        let local = LocalFiles::new(Budget::new(Arc::new(SimMachine::new(Vec::new()))), None);
        assert_eq!(take(&local, NAMED, &place(&files[0], &[(0, 1)]), &[1]).await, Err(Ask::Bytes));
        assert_eq!((local.ask(COPYSET, CHUNK), local.ask(CopysetId(4), CHUNK)), (Ask::Bytes, NAMED));
        tokio::time::advance(REFUSED_FOR).await;
        assert_eq!(local.ask(COPYSET, CHUNK), NAMED);
    }

    #[tokio::test(start_paused = true)]
    async fn files_are_closed_for_others_and_when_they_are_not_used() {
        let (disk, files) = files(&["a", "b", "c", "d", "e"]);
        let machine = SimMachine::new(vec![disk.clone()]);
        assert_eq!(machine.files_max(), 4);
        let budget = Budget::new(Arc::new(machine));
        let (local, other) = (LocalFiles::new(budget.clone(), None), LocalFiles::new(budget, None));
        for file in &files {
            assert_eq!(local.ask(COPYSET, ChunkIndex(9)), NAMED);
            assert_eq!(take(&local, NAMED, &place(file, &[(0, 1)]), &[1]).await, Ok(vec![1]));
            tokio::time::advance(Duration::from_secs(3)).await;
        }
        for file in &files[1..] {
            assert_eq!(take(&local, KNOWN, &place(file, &[(0, 1)]), &[1]).await, Ok(vec![1]));
        }
        assert_eq!(local.ask(COPYSET, ChunkIndex(9)), Ask::Bytes, "all are in use");
        assert_eq!(other.ask(COPYSET, CHUNK), Ask::Bytes, "another volume has none to close");
        assert_eq!(take(&other, NAMED, &place(&files[0], &[(0, 1)]), &[1]).await, Err(Ask::Bytes));
        assert_eq!(local.ask(COPYSET, CHUNK), KNOWN);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(
            take(&local, KNOWN, &place(&files[0], &[(0, 1)]), &[1]).await,
            Err(NAMED),
            "the oldest went"
        );
        local.close_unused();
        let open = local.lock().files.len();
        assert_eq!(open, 4, "all were read from 3 s ago");
        let used = disk.used();
        drop(files);
        for name in ["a", "b", "c", "d", "e"] {
            disk.mount().remove_file(Path::new(name)).unwrap();
        }
        assert!(disk.used() > 0 && disk.used() < used, "what is open keeps its room");
        tokio::time::advance(UNUSED_MAX).await;
        local.close_unused();
        assert_eq!(disk.used(), 0);
    }
}
