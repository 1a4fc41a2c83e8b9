//! Memory of a process that others on its machine can read: until when it answers for what.
//!
//! Whoever may ask a server on the same machine over and over whether it still has the right to answer can look it up
//! instead. Times are those of the machine's one monotonic clock, so that they mean the same to both; a process in another time
//! namespace has another one, and cannot open the board. The first place on a board holds the number of its namespace.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use tokio::time::Instant;

use crate::machine::{FilePlace, place_of};

/// Pledges on a board. One costs its memory once it is used.
const PLEDGES: usize = 4096;
/// As many of a simulated one.
const SIMULATED: usize = 64;
/// Words of a pledge; a cache line, so that neighbours do not disturb each other.
const STRIDE: usize = 8;
const BYTES: usize = PLEDGES * STRIDE * size_of::<u64>();

/// The pledges of one process.
#[derive(Debug)]
pub struct Board {
    words: Words,
    place: Option<FilePlace>,
    path: PathBuf,
    /// Others open it through this process's descriptor.
    _open: Option<File>,
    free: Mutex<Free>,
}

#[derive(Debug, Default)]
struct Free {
    given_back: Vec<u32>,
    used: u32,
}

#[derive(Debug)]
enum Words {
    Mapped(NonNull<AtomicU64>),
    Own(Box<[AtomicU64]>),
}

// SAFETY: the words are atomic, and the mapping is only given up with the last owner.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    fn as_slice(&self) -> &[AtomicU64] {
        match self {
            // SAFETY: `map` mapped so many bytes at this page's start, of a file that is sealed against shrinking.
            Self::Mapped(base) => unsafe {
                std::slice::from_raw_parts(base.as_ptr(), BYTES / size_of::<u64>())
            },
            Self::Own(words) => words,
        }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        if let Self::Mapped(base) = self {
            // SAFETY: mapped by `map`, and nobody borrows from it any more.
            let _ = unsafe { rustix::mm::munmap(base.as_ptr().cast(), BYTES) };
        }
    }
}

/// Maps a file of [`BYTES`] bytes that can never be shorter.
fn map(file: &File, protection: ProtFlags) -> io::Result<Words> {
    let nowhere = std::ptr::null_mut();
    // SAFETY: a new mapping at an address of the kernel's choice.
    let base = unsafe { rustix::mm::mmap(nowhere, BYTES, protection, MapFlags::SHARED, file, 0)? };
    Ok(Words::Mapped(NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?))
}

impl Board {
    /// A board that other processes can open.
    pub fn create() -> io::Result<Arc<Self>> {
        let fd: OwnedFd =
            rustix::fs::memfd_create("curve-board", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, BYTES as u64)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()));
        let file = File::from(fd);
        let (words, place) = (map(&file, ProtFlags::READ | ProtFlags::WRITE)?, place_of(&file));
        words.as_slice()[0].store(time_namespace(), Ordering::SeqCst);
        Ok(Arc::new(Self { words, place, path, _open: Some(file), free: Mutex::default() }))
    }

    /// One that only this process sees, at a place of the simulator's choice.
    pub(crate) fn simulated(place: FilePlace) -> Arc<Self> {
        let words = (0..SIMULATED * STRIDE).map(|_| AtomicU64::new(0)).collect();
        let (words, path) = (Words::Own(words), PathBuf::from("simulated"));
        Arc::new(Self { words, place: Some(place), path, _open: None, free: Mutex::default() })
    }

    /// A copy on which all that is pledged now holds for ever. For the simulator, whose planted bugs it serves.
    #[doc(hidden)]
    pub fn for_ever(&self) -> Arc<Self> {
        let now = |word: &AtomicU64| word.load(Ordering::SeqCst);
        let words: Box<[AtomicU64]> = self.words.as_slice().iter().map(|word| now(word).into()).collect();
        for pledge in words.chunks(STRIDE).filter(|pledge| now(&pledge[0]) > 0) {
            pledge[0].store(u64::MAX, Ordering::SeqCst);
        }
        let (words, path) = (Words::Own(words), self.path.clone());
        Arc::new(Self { words, place: self.place, path, _open: None, free: Mutex::default() })
    }

    /// Opens another process's board. Fails when this process may not, and when the name leads to something else.
    pub(crate) fn open(place: FilePlace, path: &Path) -> io::Result<Arc<Self>> {
        let other =
            || io::Error::new(io::ErrorKind::NotFound, format!("{} is no such board", path.display()));
        // In another namespace the name leads to whatever it likes, which had better not be opened.
        let found = std::fs::metadata(path)?;
        if (found.dev(), found.ino()) != (place.device, place.inode) {
            return Err(other());
        }
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let sealed = rustix::fs::fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(SealFlags::SHRINK));
        if place_of(&file) != Some(place) || !sealed || file.metadata()?.len() != BYTES as u64 {
            return Err(other());
        }
        let words = map(&file, ProtFlags::READ)?;
        if words.as_slice()[0].load(Ordering::SeqCst) != time_namespace() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the board is of another time namespace"));
        }
        let (place, path) = (Some(place), path.into());
        Ok(Arc::new(Self { words, place, path, _open: None, free: Mutex::default() }))
    }

    /// What the kernel calls it; `None` when that cannot be told.
    pub fn place(&self) -> Option<FilePlace> {
        self.place
    }

    /// Where other processes of the machine find it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A pledge of its own, of the process that made the board; `None` when there is none left.
    pub fn pledge(self: &Arc<Self>) -> Option<Pledge> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let number = free.given_back.pop().or_else(|| {
            let number = free.used + 1;
            self.words_of(number)?;
            free.used = number;
            Some(number)
        })?;
        Some(Pledge { board: self.clone(), number })
    }

    /// Whether pledge `number` holds now, and nothing has changed since it had counted `changes`. What was read before from
    /// memory that the pledge's owner changes was then as fresh as if the owner had been asked now.
    pub fn holds(&self, number: u32, changes: u64) -> bool {
        // What was read before must not be read after.
        fence(Ordering::SeqCst);
        let Some((until, counted)) = self.words_of(number) else { return false };
        // In this order: an end that belongs to later changes is seen with their count.
        let until = until.load(Ordering::SeqCst);
        counted.load(Ordering::SeqCst) == changes && moment(Instant::now()) < until
    }

    fn words_of(&self, number: u32) -> Option<(&AtomicU64, &AtomicU64)> {
        if number == 0 {
            return None;
        }
        match self.words.as_slice().get(number as usize * STRIDE..)? {
            [until, counted, ..] => Some((until, counted)),
            _ => None,
        }
    }
}

/// A place on a board, whose owner says until when it answers and counts what ended earlier answers.
#[derive(Debug)]
pub struct Pledge {
    board: Arc<Board>,
    number: u32,
}

impl Pledge {
    /// The board it is on.
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// Which one of the board.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// What has been counted.
    pub fn changes(&self) -> u64 {
        self.words().1.load(Ordering::SeqCst)
    }

    /// Ends all that was answered so far.
    pub fn change(&self) {
        self.words().1.fetch_add(1, Ordering::SeqCst);
    }

    /// Holds until then, or no longer.
    pub fn hold(&self, until: Option<Instant>) {
        self.words().0.store(until.map_or(0, moment), Ordering::SeqCst);
    }

    /// Holds as long as nothing is said to the contrary.
    pub fn hold_always(&self) {
        self.words().0.store(u64::MAX, Ordering::SeqCst);
    }

    fn words(&self) -> (&AtomicU64, &AtomicU64) {
        self.board.words_of(self.number).expect("the board gave it")
    }
}

impl Drop for Pledge {
    fn drop(&mut self) {
        self.hold(None);
        self.change();
        self.board.free.lock().unwrap_or_else(PoisonError::into_inner).given_back.push(self.number);
    }
}

/// Which monotonic clock this process has; 0 on kernels that know only one.
fn time_namespace() -> u64 {
    std::fs::metadata("/proc/self/ns/time").map_or(0, |namespace| namespace.ino())
}

/// Nanoseconds of the machine's monotonic clock at an instant, the same in all its processes; 0 for the time before its start.
fn moment(at: Instant) -> u64 {
    static BASE: OnceLock<(std::time::Instant, Duration)> = OnceLock::new();
    let (base, since_start) = *BASE.get_or_init(base);
    let at = at.into_std();
    let moment = match at.checked_duration_since(base) {
        Some(later) => since_start + later,
        None => since_start.saturating_sub(base - at),
    };
    u64::try_from(moment.as_nanos()).unwrap_or(u64::MAX)
}

/// One moment as both clocks call it. They are the same clock, but `Instant` does not say what it counts from: it is read between
/// two readings of the other that are close together.
fn base() -> (std::time::Instant, Duration) {
    let monotonic = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
    };
    let read = || {
        let before = monotonic();
        let now = std::time::Instant::now();
        (monotonic() - before, (now, before))
    };
    let tries = (0..8).map(|_| read());
    tries.min_by_key(|(apart, _)| *apart).map(|(_, base)| base).expect("there were tries")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn others_see_what_is_pledged() {
        let board = Board::create().unwrap();
        let (first, second) = (board.pledge().unwrap(), board.pledge().unwrap());
        let place = board.place().expect("Linux says where");
        let theirs = Board::open(place, board.path()).unwrap();
        let elsewhere = FilePlace { inode: place.inode + 1, ..place };
        assert!(Board::open(elsewhere, board.path()).is_err());
        assert!(Board::open(place, Path::new("/proc/self/exe")).is_err());

        let changes = second.changes();
        assert!(!theirs.holds(second.number(), changes), "nothing was said");
        second.hold(Some(Instant::now() + Duration::from_secs(60)));
        assert!(theirs.holds(second.number(), changes));
        assert!(!theirs.holds(first.number(), first.changes()) && !theirs.holds(PLEDGES as u32, 0));
        second.change();
        assert!(!theirs.holds(second.number(), changes) && theirs.holds(second.number(), changes + 1));
        second.hold(Some(Instant::now() - Duration::from_nanos(1)));
        assert!(!theirs.holds(second.number(), changes + 1), "it has ended");
        second.hold_always();
        assert!(theirs.holds(second.number(), changes + 1));

        let number = second.number();
        drop(second);
        assert!(!theirs.holds(number, changes + 1), "given up");
        let next = board.pledge().unwrap();
        next.hold_always();
        assert_eq!(next.number(), number);
        assert!(!theirs.holds(number, changes) && !theirs.holds(number, changes + 1), "another's");
        drop((board, first, next));
        assert!(
            !theirs.holds(number, 0) && !theirs.holds(0, 0),
            "the memory stays as long as anybody looks at it"
        );
    }

    #[test]
    fn a_board_has_so_many_places() {
        let board = Board::create().unwrap();
        let pledges: Vec<_> = std::iter::from_fn(|| board.pledge()).collect();
        assert_eq!(pledges.len(), PLEDGES - 1, "the first place has another use");
        assert!(pledges.iter().all(|pledge| pledge.changes() == 0));
    }

    #[tokio::test(start_paused = true)]
    async fn time_goes_as_the_runtime_says() {
        let board = Board::create().unwrap();
        let pledge = board.pledge().unwrap();
        pledge.hold(Some(Instant::now() + Duration::from_secs(2)));
        tokio::time::advance(Duration::from_millis(1999)).await;
        assert!(board.holds(pledge.number(), 0));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!board.holds(pledge.number(), 0));
    }

    #[test]
    fn processes_agree_about_the_time() {
        let ours = u128::from(moment(Instant::now()));
        let (now, since_start) = base();
        let theirs = (since_start + (std::time::Instant::now() - now)).as_nanos();
        assert!(theirs.abs_diff(ours) < 100_000_000, "{ours} {theirs}");
    }
}
