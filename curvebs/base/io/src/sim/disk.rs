//! The simulated disk: its content, its faults, and what a crash leaves.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::board::Board;
use crate::disk::{Disk, File};
use crate::machine::{FilePlace, Machine};
use crate::sim::content::{Change, Content, PAGE};
use crate::sim::mount::{SimFile, SimMount};
use crate::sim::names::{InodeId, Names};
use crate::watch::Watch;

/// How a simulated disk begins.
#[derive(Clone, Debug)]
pub struct SimDiskConfig {
    /// Seeds all that is random about the disk.
    pub seed: u64,
    /// Bytes it holds.
    pub capacity: u64,
    /// How long a sync takes; drawn evenly. Empty means no time at all.
    pub sync_delay: Range<Duration>,
}

impl Default for SimDiskConfig {
    fn default() -> Self {
        Self { seed: 0, capacity: 1 << 40, sync_delay: Duration::ZERO..Duration::ZERO }
    }
}

/// What goes wrong with a disk from now on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskFault {
    /// Nothing.
    None,
    /// Every operation fails with `EIO`.
    All,
    /// Writes and syncs fail with `EIO`; reads work.
    Writes,
    /// Syncs fail with `EIO`, and what they should have written may be lost although it can be read.
    Syncs,
}

/// What was asked of a disk since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SimDiskStats {
    /// Completed file syncs.
    pub syncs: u64,
    /// Calls of `write_at`.
    pub writes: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Power losses.
    pub crashes: u64,
    /// Writes and allocations refused for lack of room.
    pub refused_full: u64,
    /// Reads that had to wait.
    pub slow_reads: u64,
}

/// A disk in memory. This is the platter, which outlives the processes that use it; `mount` gives a process its view.
///
/// Writes are seen at once and survive a power loss only when synced; of what was not synced a crash keeps any subset,
/// by sectors of 512 bytes and by single name changes. A mount is dead after `crash` or `detach`, so that what is left
/// of a killed process cannot reach the disk of its successor.
#[derive(Clone)]
pub struct SimDisk {
    platter: Arc<Mutex<Platter>>,
}

impl SimDisk {
    /// An empty disk.
    pub fn new(config: SimDiskConfig) -> Self {
        let platter = Platter {
            device: config.seed,
            rng: StdRng::seed_from_u64(config.seed),
            capacity: config.capacity,
            sync_delay: config.sync_delay,
            read_delay: Duration::ZERO..Duration::ZERO,
            fault: DiskFault::None,
            hung: false,
            life: 1,
            names: Names::default(),
            inodes: BTreeMap::new(),
            next_inode: 1,
            used_pages: 0,
            boards: Vec::new(),
            stats: SimDiskStats::default(),
        };
        Self { platter: Arc::new(Mutex::new(platter)) }
    }

    /// A file as another process of the machine sees it, until the next `crash` or `detach`.
    fn open(&self, inode: InodeId) -> io::Result<Arc<dyn File>> {
        let mut platter = self.lock();
        platter.inode(inode)?.handles += 1;
        Ok(Arc::new(SimFile::new(self.platter.clone(), platter.life, inode, Watch::new())))
    }

    /// The disk as a process sees it, until the next `crash` or `detach`.
    pub fn mount(&self) -> Arc<dyn Disk> {
        let life = self.lock().life;
        Arc::new(SimMount::new(self.platter.clone(), life))
    }

    /// Power loss: un-synced changes are kept or lost at random, mounts are dead. Faults end.
    pub fn crash(&self) {
        self.lock().crash();
    }

    /// The process died and the machine lives: mounts are dead, everything written is still there.
    pub fn detach(&self) {
        self.lock().end_life();
    }

    /// What goes wrong from now on.
    pub fn set_fault(&self, fault: DiskFault) {
        self.lock().fault = fault;
    }

    /// How long syncs take from now on.
    pub fn set_sync_delay(&self, delay: Range<Duration>) {
        self.lock().sync_delay = delay;
    }

    /// How long those asynchronous reads take from now on that are not answered by the page cache, which is about half
    /// of them; drawn evenly. Empty, as at the beginning, means that none waits.
    pub fn set_read_delay(&self, delay: Range<Duration>) {
        self.lock().read_delay = delay;
    }

    /// Whether what waits for the disk waits for ever from now on, until this ends: syncs, and every second read. Other calls
    /// only touch the page cache.
    pub fn set_hung(&self, hung: bool) {
        self.lock().hung = hung;
    }

    /// Bytes that are allocated.
    pub fn used(&self) -> u64 {
        self.lock().used_pages * PAGE
    }

    /// How many bytes the disk holds from now on; existing content stays.
    pub fn set_capacity(&self, bytes: u64) {
        self.lock().capacity = bytes;
    }

    /// Flips one bit of a file, in the cache and on the platter.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> io::Result<()> {
        let mut platter = self.lock();
        let inode = platter.names.file(path)?;
        platter.inode(inode)?.flip_bit(offset, bit);
        Ok(())
    }

    /// Flips a random bit in a random written page of the files below `dir`; tells where, `None` if there is none.
    pub fn flip_random_bit(&self, dir: &Path) -> Option<(PathBuf, u64)> {
        let mut platter = self.lock();
        let mut places = Vec::new();
        for (path, inode) in platter.names.files().filter(|(path, _)| path.starts_with(dir)) {
            let pages = platter.inodes[&inode].current.written_pages();
            places.extend(pages.into_iter().map(|page| (path.clone(), inode, page)));
        }
        if places.is_empty() {
            return None;
        }
        let (path, inode, page) = places.swap_remove(platter.rng.random_range(0..places.len()));
        let len = platter.inodes[&inode].current.len();
        let offset = platter.rng.random_range(page..(page + PAGE).min(len).max(page + 1));
        let bit = platter.rng.random_range(0..8);
        platter.inode(inode).ok()?.flip_bit(offset, bit);
        Some((path, offset))
    }

    /// Whether a file below `dir` has changes that a power loss might take or tear.
    pub fn has_unsynced(&self, dir: &Path) -> bool {
        let platter = self.lock();
        let mut below = platter.names.files().filter(|(path, _)| path.starts_with(dir));
        below.any(|(_, inode)| !platter.inodes[&inode].pending.is_empty())
    }

    /// All files with their lengths, sorted by path.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let platter = self.lock();
        platter
            .names
            .files()
            .map(|(path, inode)| (path.clone(), platter.inodes[&inode].current.len()))
            .collect()
    }

    /// Counters.
    pub fn stats(&self) -> SimDiskStats {
        self.lock().stats
    }

    fn lock(&self) -> MutexGuard<'_, Platter> {
        self.platter.lock().expect("no panic while the platter is locked")
    }
}

/// Everything a simulated disk is.
pub(super) struct Platter {
    device: u64,
    pub(super) rng: StdRng,
    pub(super) capacity: u64,
    pub(super) sync_delay: Range<Duration>,
    read_delay: Range<Duration>,
    pub(super) fault: DiskFault,
    pub(super) hung: bool,
    /// Grows with every crash and detach; mounts of another life are dead.
    pub(super) life: u64,
    pub(super) names: Names,
    pub(super) inodes: BTreeMap<InodeId, Inode>,
    next_inode: InodeId,
    used_pages: u64,
    /// Of all processes that served from it; the memory of one that has ended stays as it was.
    pub(super) boards: Vec<Arc<Board>>,
    pub(super) stats: SimDiskStats,
}

/// A file's content in its two states.
#[derive(Default)]
pub(super) struct Inode {
    pub(super) current: Content,
    durable: Content,
    /// Changes in `current` and not in `durable`, each with its number.
    pending: Vec<(u64, Change)>,
    next_change: u64,
    pub(super) handles: u32,
}

impl Inode {
    fn flip_bit(&mut self, offset: u64, bit: u8) {
        self.current.flip_bit(offset, bit);
        self.durable.flip_bit(offset, bit);
    }

    /// The number that the next change will have: everything below it is older.
    pub(super) fn mark(&self) -> u64 {
        self.next_change
    }

    /// Makes the changes below `mark` durable.
    pub(super) fn sync_up_to(&mut self, mark: u64) {
        let n = self.pending.partition_point(|(number, _)| *number < mark);
        for (_, change) in self.pending.drain(..n) {
            self.durable.apply(&change);
        }
    }

    /// A failed sync: the changes count as clean from now on, and some of them never reached the platter.
    pub(super) fn fail_sync(&mut self, rng: &mut StdRng) {
        for (_, change) in std::mem::take(&mut self.pending) {
            self.durable.apply_torn(&change, rng);
        }
    }

    fn crash(&mut self, rng: &mut StdRng) {
        let pending = std::mem::take(&mut self.pending);
        match rng.random_range(0..4) {
            0 => {}
            1 => pending.iter().for_each(|(_, change)| self.durable.apply(change)),
            _ => pending.iter().for_each(|(_, change)| self.durable.apply_torn(change, rng)),
        }
        self.current = self.durable.clone();
        self.handles = 0;
    }
}

/// A machine to which simulated disks belong.
#[derive(Clone)]
pub struct SimMachine {
    disks: Vec<SimDisk>,
}

impl SimMachine {
    /// The machine of these disks. Their seeds tell them apart.
    pub fn new(disks: Vec<SimDisk>) -> Self {
        Self { disks }
    }
}

/// There is only one machine.
const MACHINE: u64 = 1;

impl Machine for SimMachine {
    fn id(&self) -> u64 {
        MACHINE
    }

    fn open(&self, place: FilePlace, _path: &Path) -> io::Result<Arc<dyn File>> {
        let disk = self.disks.iter().find(|disk| disk.lock().device == place.device);
        disk.ok_or(io::ErrorKind::NotFound)?.open(place.inode)
    }

    fn board(&self, place: FilePlace, _path: &Path) -> io::Result<Arc<Board>> {
        let disk = self.disks.iter().find(|disk| disk.lock().device == place.device);
        let boards = &disk.ok_or(io::ErrorKind::NotFound)?.lock().boards;
        Ok(boards.get(place.inode as usize).ok_or(io::ErrorKind::NotFound)?.clone())
    }

    fn files_max(&self) -> usize {
        4
    }
}

impl Platter {
    /// Where other processes of the machine find a file.
    pub(super) fn place(&self, inode: InodeId) -> FilePlace {
        FilePlace { machine: MACHINE, device: self.device, inode }
    }

    pub(super) fn eio() -> io::Error {
        io::Error::from_raw_os_error(5)
    }

    pub(super) fn free_bytes(&self) -> u64 {
        self.capacity.saturating_sub(self.used_pages * PAGE)
    }

    pub(super) fn inode(&mut self, id: InodeId) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&id).ok_or_else(Self::eio)
    }

    pub(super) fn new_inode(&mut self) -> InodeId {
        let id = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(id, Inode::default());
        id
    }

    /// Applies a change to a file if there is room for it.
    pub(super) fn change(&mut self, id: InodeId, change: Change) -> io::Result<()> {
        let free = self.free_bytes();
        let current = &self.inode(id)?.current;
        let missing = match &change {
            Change::Allocate { offset, len } => current.pages_missing(*offset, *len),
            Change::Write { offset, bytes } => current.pages_missing(*offset, bytes.len() as u64),
            Change::SetLen(_) | Change::Punch { .. } => 0,
        };
        if missing * PAGE > free {
            self.stats.refused_full += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        let inode = self.inode(id)?;
        let before = inode.current.allocated_pages();
        inode.current.apply(&change);
        let after = inode.current.allocated_pages();
        inode.pending.push((inode.next_change, change));
        inode.next_change += 1;
        self.used_pages = self.used_pages + after - before;
        Ok(())
    }

    /// Draws how long a sync takes.
    pub(super) fn draw_sync_delay(&mut self) -> Duration {
        if self.sync_delay.is_empty() {
            self.sync_delay.start
        } else {
            self.rng.random_range(self.sync_delay.clone())
        }
    }

    /// Draws how long a read takes; `None`: the page cache has it all.
    pub(super) fn draw_read_delay(&mut self) -> Option<Duration> {
        if self.hung {
            return self.rng.random::<bool>().then_some(Duration::ZERO);
        }
        if self.read_delay.is_empty() || self.rng.random() {
            return None;
        }
        self.stats.slow_reads += 1;
        Some(self.rng.random_range(self.read_delay.clone()))
    }

    /// Drops the content of files that neither a name nor a handle leads to.
    pub(super) fn collect(&mut self) {
        let reachable = self.names.reachable();
        self.inodes.retain(|id, inode| inode.handles > 0 || reachable.contains(id));
        let linked = self.names.linked();
        let used = |(id, inode): (&InodeId, &Inode)| {
            let counts = inode.handles > 0 || linked.contains(id);
            if counts { inode.current.allocated_pages() } else { 0 }
        };
        self.used_pages = self.inodes.iter().map(used).sum();
    }

    fn end_life(&mut self) {
        self.life += 1;
        for inode in self.inodes.values_mut() {
            inode.handles = 0;
        }
        self.fault = DiskFault::None;
        self.hung = false;
        self.collect();
    }

    fn crash(&mut self) {
        self.stats.crashes += 1;
        let Self { names, inodes, rng, .. } = self;
        names.crash(rng);
        for inode in inodes.values_mut() {
            inode.crash(rng);
        }
        self.end_life();
    }
}
