//! The machine's own file system behind the `Disk` and `File` traits.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::fs::FallocateFlags;
use rustix::io::{Errno, ReadWriteFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::aligned::{AlignedBuf, PAGE_BYTES, SECTOR_ALIGN};
use crate::board::Board;
use crate::disk::{BoxFuture, DirEntry, Disk, File, OpenMode, Space};
use crate::machine::{FilePlace, place_of};
use crate::pace::Pace;
use crate::watch::{Wait, Watch};

/// The kernel takes at most this many parts in one vectored write (`IOV_MAX`).
const PARTS_MAX: usize = 1024;

/// What a sync lets the kernel write at a time.
const WRITE_BACK_BYTES: i64 = 512 << 10;

/// A directory of the machine's file system. Paths that would lead out of it are refused.
///
/// Everything goes through the page cache, except what `write_durably` and `write_around` write where the file system can
/// do without. What may wait for the disk (a sync, a read that misses the cache) runs on tokio's blocking pool, with two
/// exceptions: a short durable write and a large write around the cache are done by the thread that asks, as long as the
/// disk answers quickly (`pace.rs`). Handing a short one to another thread and back costs more than the disk does then, in
/// CPU and in latency.
///
/// Rejected, after measuring with `examples/syncbench.rs`: one thread that does all syncs. Handing a job over costs 5 us
/// of CPU instead of 14, but on a machine whose cores are busy the median `fdatasync` of 4 KiB took 4 ms instead of
/// 0.1 ms: a thread that sleeps twice in each sync has to wait for the next scheduler tick, while the pool takes turns
/// between threads that are rested. It would also make a short sync of the log wait behind a long one of a chunk file.
pub struct RealDisk {
    root: PathBuf,
    pace: Arc<Pace>,
    watch: Arc<Watch>,
}

impl RealDisk {
    /// The directory `root`, which must exist by the time it is used.
    pub fn new(root: PathBuf) -> Self {
        Self { root, pace: Arc::default(), watch: Watch::new() }
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        let inside = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if !inside {
            let message = format!("{} leads out of the disk's directory", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Ok(self.root.join(path))
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true);
        match mode {
            OpenMode::Existing => {}
            OpenMode::Create => {
                options.create(true).truncate(false);
            }
            OpenMode::CreateNew => {
                options.create_new(true);
            }
        }
        let file = open_unnoted(&mut options, 0, &self.resolve(path)?)?;
        Ok(Arc::new(RealFile::new(file, self.pace.clone(), self.watch.clone())))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(self.resolve(path)?)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(self.resolve(from)?, self.resolve(to)?)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(self.resolve(path)?)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(self.resolve(path)?)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(self.resolve(path)?)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            let is_dir = metadata.is_dir();
            let len = if is_dir { 0 } else { metadata.len() };
            entries.push(DirEntry { name: entry.file_name().to_string_lossy().into_owned(), len, is_dir });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn sync_dir<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<()>> {
        let resolved = self.resolve(path);
        Box::pin(async move {
            let dir = resolved?;
            blocking(self.watch.clone(), move |_| fs::File::open(dir)?.sync_all()).await
        })
    }

    fn space(&self) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(Space { total: stat.f_blocks * stat.f_frsize, free: stat.f_bavail * stat.f_frsize })
    }

    fn unanswered(&self) -> Duration {
        self.watch.look()
    }

    fn board(&self) -> Option<Arc<Board>> {
        Board::create()
            .inspect_err(|error| tracing::debug!(%error, "no memory to share with readers on this machine"))
            .ok()
    }
}

pub(crate) struct RealFile {
    file: fs::File,
    /// The same file opened to go around the page cache; `None` inside when the file system cannot.
    direct: OnceLock<Option<fs::File>>,
    place: OnceLock<Option<FilePlace>>,
    pace: Arc<Pace>,
    watch: Arc<Watch>,
}

impl File for RealFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            match rustix::io::pread(&self.file, &mut buf[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(filled)
    }

    fn read(self: Arc<Self>, offset: u64, len: usize) -> BoxFuture<'static, io::Result<Bytes>> {
        Box::pin(async move {
            // Its room is filled by the kernel, so it need not be zeroed first.
            let mut buf = Vec::with_capacity(len);
            // A short count says either "the rest is not cached" or "the file ends here"; the thread finds out.
            self.read_cached(offset, &mut buf, len);
            if buf.len() == len {
                return Ok(Bytes::from(buf));
            }
            blocking(self.watch.clone(), move |_| {
                self.read_rest(offset, &mut buf, len)?;
                Ok(Bytes::from(buf))
            })
            .await
        })
    }

    fn write_at(&self, mut offset: u64, parts: &[io::IoSlice<'_>]) -> io::Result<()> {
        for group in parts.chunks(PARTS_MAX) {
            let len: usize = group.iter().map(|part| part.len()).sum();
            let written = write_once(&self.file, group, offset)?;
            if written < len {
                write_rest(&self.file, group, offset, written)?;
            }
            offset += len as u64;
        }
        Ok(())
    }

    fn write_around(&self, offset: u64, parts: &[io::IoSlice<'_>]) -> io::Result<bool> {
        let whole = |part: &io::IoSlice<'_>| {
            part.len().is_multiple_of(SECTOR_ALIGN) && (part.as_ptr() as usize).is_multiple_of(SECTOR_ALIGN)
        };
        let aligned = offset.is_multiple_of(PAGE_BYTES as u64) && parts.iter().all(whole);
        let direct =
            self.direct().filter(|_| aligned && parts.len() <= PARTS_MAX && self.pace.allows_large());
        let Some(direct) = direct else { return Ok(false) };
        let _wait = self.watch.begin();
        let (begun, len) = (Instant::now(), parts.iter().map(|part| part.len()).sum::<usize>());
        let written = write_once(direct, parts, offset)?;
        if written < len {
            write_rest(&self.file, parts, offset, written)?;
        }
        self.pace.note_large(begun.elapsed(), len);
        Ok(true)
    }

    fn sync(self: Arc<Self>) -> BoxFuture<'static, io::Result<()>> {
        Box::pin(blocking(self.watch.clone(), move |wait| {
            self.write_back(wait)?;
            wait.renew();
            Ok(rustix::fs::fdatasync(&self.file)?)
        }))
    }

    fn write_durably(
        self: Arc<Self>,
        offset: u64,
        pages: AlignedBuf,
    ) -> BoxFuture<'static, (AlignedBuf, io::Result<()>)> {
        debug_assert!(offset.is_multiple_of(PAGE_BYTES as u64) && pages.len().is_multiple_of(PAGE_BYTES));
        Box::pin(async move {
            if self.pace.allows(pages.len()) {
                let _wait = self.watch.begin();
                let written = self.write_and_sync(offset, &pages);
                return (pages, written);
            }
            let watch = self.watch.clone();
            let work = move |_: &mut Wait| {
                let written = self.write_and_sync(offset, &pages);
                Ok((pages, written))
            };
            blocking(watch, work).await.unwrap_or_else(|error| (AlignedBuf::new(), Err(error)))
        })
    }

    fn write_parts_durably(
        self: Arc<Self>,
        offset: u64,
        parts: Vec<Bytes>,
    ) -> BoxFuture<'static, io::Result<()>> {
        // Never done by the thread that asks: it takes as long as the disk needs for so much.
        Box::pin(blocking(self.watch.clone(), move |_| {
            let whole = |part: &Bytes| {
                part.len().is_multiple_of(SECTOR_ALIGN)
                    && (part.as_ptr() as usize).is_multiple_of(SECTOR_ALIGN)
            };
            if parts.len() <= PARTS_MAX && parts.iter().all(whole) {
                let slices: Vec<_> = parts.iter().map(|part| io::IoSlice::new(part)).collect();
                return self.write_synced(offset, &slices);
            }
            let mut copy = AlignedBuf::new();
            parts.iter().for_each(|part| copy.extend_from_slice(part));
            self.write_synced(offset, &[io::IoSlice::new(&copy)])
        }))
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(&self.file, FallocateFlags::empty(), offset, len)?)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(&self.file, flags, offset, len)?)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn place(&self) -> Option<FilePlace> {
        *self.place.get_or_init(|| place_of(&self.file))
    }

    fn path(&self) -> io::Result<PathBuf> {
        fs::read_link(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
}

/// Opens a file so that nobody notes when it was read: that is a change of the file system, for which a read of what is in the
/// page cache would wait when the disk hangs. Only who owns a file may ask for it; for others it is noted.
pub(crate) fn open_unnoted(options: &mut fs::OpenOptions, flags: i32, path: &Path) -> io::Result<fs::File> {
    match options.custom_flags(flags | libc::O_NOATIME).open(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            options.custom_flags(flags).open(path)
        }
        opened => opened,
    }
}

impl RealFile {
    pub(crate) fn new(file: fs::File, pace: Arc<Pace>, watch: Arc<Watch>) -> Self {
        Self { file, direct: OnceLock::new(), place: OnceLock::new(), pace, watch }
    }

    fn direct(&self) -> Option<&fs::File> {
        let open = || {
            let mut options = fs::OpenOptions::new();
            let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            // Fails where the file system only knows the page cache (tmpfs), which is no fault.
            open_unnoted(options.read(true).write(true), libc::O_DIRECT, Path::new(&path)).ok()
        };
        self.direct.get_or_init(open).as_ref()
    }

    /// Has the kernel write what the page cache holds, a little at a time. Otherwise `fdatasync` puts all of it into the
    /// disk's queue at once, and the log's next write, which clients wait for, comes behind.
    fn write_back(&self, wait: &mut Wait) -> io::Result<()> {
        let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE
            | libc::SYNC_FILE_RANGE_WRITE
            | libc::SYNC_FILE_RANGE_WAIT_AFTER;
        for offset in (0..self.file.metadata()?.len()).step_by(WRITE_BACK_BYTES as usize) {
            wait.renew();
            // SAFETY: takes no memory; the descriptor is open as long as `self.file`.
            let done = unsafe {
                libc::sync_file_range(self.file.as_raw_fd(), offset as i64, WRITE_BACK_BYTES, flags)
            };
            if done != 0 {
                match io::Error::last_os_error() {
                    // What the file system cannot do, `fdatasync` does.
                    error
                        if matches!(
                            error.raw_os_error(),
                            Some(libc::EINVAL | libc::ENOSYS | libc::ESPIPE)
                        ) =>
                    {
                        return Ok(());
                    }
                    error => return Err(error),
                }
            }
        }
        Ok(())
    }

    fn write_and_sync(&self, offset: u64, pages: &[u8]) -> io::Result<()> {
        let begun = Instant::now();
        self.write_synced(offset, &[io::IoSlice::new(pages)])?;
        self.pace.note(begun.elapsed(), pages.len());
        Ok(())
    }

    /// Writes parts that are aligned, around the page cache where that is possible, and makes them durable.
    fn write_synced(&self, offset: u64, parts: &[io::IoSlice<'_>]) -> io::Result<()> {
        let target = self.direct().unwrap_or(&self.file);
        let written = loop {
            match rustix::io::pwritev2(target, parts, offset, ReadWriteFlags::DSYNC) {
                Err(Errno::INTR) => {}
                result => break result?,
            }
        };
        if written < parts.iter().map(|part| part.len()).sum() {
            write_rest(&self.file, parts, offset, written)?;
            rustix::fs::fdatasync(&self.file)?;
        }
        Ok(())
    }

    /// Reads what the page cache has of `len` bytes into the room of `buf`, which is empty; nothing when the kernel cannot
    /// tell.
    fn read_cached(&self, offset: u64, buf: &mut Vec<u8>, len: usize) {
        let Ok(offset) = i64::try_from(offset) else { return };
        buf.reserve(len);
        let part = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: len };
        // SAFETY: `part` is room of `buf` that nobody else refers to.
        let n = unsafe { libc::preadv2(self.file.as_raw_fd(), &part, 1, offset, libc::RWF_NOWAIT) };
        if let Ok(n) = usize::try_from(n) {
            // SAFETY: the kernel has filled so many bytes from the start, and no more than `len`.
            unsafe { buf.set_len(n) };
        }
    }

    /// Reads on behind what `buf` holds, up to `len` bytes or the file's end.
    fn read_rest(&self, offset: u64, buf: &mut Vec<u8>, len: usize) -> io::Result<()> {
        buf.reserve_exact(len - buf.len());
        while buf.len() < len {
            let at = offset + buf.len() as u64;
            match rustix::io::pread(&self.file, rustix::buffer::spare_capacity(buf), at) {
                Ok(0) => break,
                Ok(_) => {}
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // The vector may have had more room than was asked for.
        buf.truncate(len);
        Ok(())
    }
}

fn write_once(file: &fs::File, parts: &[io::IoSlice<'_>], offset: u64) -> io::Result<usize> {
    loop {
        match rustix::io::pwritev(file, parts, offset) {
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

/// Goes on after a partial write, which the kernel may do when a signal or a full disk stops it.
fn write_rest(file: &fs::File, parts: &[io::IoSlice<'_>], offset: u64, mut written: usize) -> io::Result<()> {
    let mut owned = parts.to_vec();
    let mut parts = &mut owned[..];
    io::IoSlice::advance_slices(&mut parts, written);
    while !parts.is_empty() {
        let n = write_once(file, parts, offset + written as u64)?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        written += n;
        io::IoSlice::advance_slices(&mut parts, n);
    }
    Ok(())
}

/// Work on a thread of its own; waiting for one counts as waiting for the disk, whose work occupies them.
async fn blocking<T: Send + 'static>(
    watch: Arc<Watch>,
    work: impl FnOnce(&mut Wait) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let mut wait = watch.begin();
    match tokio::task::spawn_blocking(move || work(&mut wait)).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(io::Error::other("the runtime is shutting down")),
    }
}

/// How many file descriptors this process may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FdLimit {
    /// The limit now.
    pub now: u64,
    /// The limit before it was raised.
    pub before: u64,
}

/// Raises the limit of open files to its hard limit and reports it; `u64::MAX` stands for no limit.
pub fn fd_limit() -> FdLimit {
    let limit = getrlimit(Resource::Nofile);
    let before = limit.current.unwrap_or(u64::MAX);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let now = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(_) => before,
    };
    FdLimit { now, before }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::{Machine, RealMachine};

    fn disk() -> (tempfile::TempDir, RealDisk) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let disk = RealDisk::new(dir.path().to_path_buf());
        (dir, disk)
    }

    #[tokio::test]
    async fn reads_change_nothing_on_the_disk() {
        let (dir, disk) = disk();
        let path = dir.path().join("a");
        let times = fs::FileTimes::new().set_accessed(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30));
        fs::File::create(&path).unwrap().set_times(times).unwrap();
        fs::write(&path, [7; 5000]).unwrap();
        let before = fs::metadata(&path).unwrap().accessed().unwrap();
        let file = disk.open(Path::new("a"), OpenMode::Existing).unwrap();
        let place = file.place().unwrap();
        assert_eq!(file.read(0, 5000).await.unwrap().len(), 5000);
        let file = RealMachine::new().unwrap().open(place, &path).unwrap();
        assert_eq!(file.read(0, 5000).await.unwrap().len(), 5000);
        assert_eq!(fs::metadata(&path).unwrap().accessed().unwrap(), before);
    }

    #[tokio::test]
    async fn writes_are_read_back_across_part_limits() {
        let (_dir, disk) = disk();
        let file = disk.open(Path::new("a"), OpenMode::CreateNew).unwrap();
        let words: Vec<[u8; 3]> = (0..3000u32).map(|n| [n as u8, (n >> 8) as u8, 7]).collect();
        let parts: Vec<io::IoSlice<'_>> = words.iter().map(|word| io::IoSlice::new(word)).collect();
        file.write_at(5, &parts).unwrap();
        file.clone().sync().await.unwrap();
        assert_eq!(file.len().unwrap(), 5 + 9000);
        let back = file.clone().read(5, 20_000).await.unwrap();
        assert_eq!(back, words.concat());
        assert_eq!(file.read(100_000, 10).await.unwrap().len(), 0);
    }

    #[tokio::test]
    async fn durable_writes_are_seen_by_all_readers() {
        let (_dir, disk) = disk();
        let file = disk.open(Path::new("a"), OpenMode::CreateNew).unwrap();
        file.write_at(0, &[io::IoSlice::new(&[1; 3 * PAGE_BYTES])]).unwrap();
        for (n, bytes) in [(2u8, PAGE_BYTES), (3, 64 * PAGE_BYTES), (4, PAGE_BYTES)] {
            let mut pages = AlignedBuf::new();
            pages.extend_from_slice(&vec![n; bytes]);
            let (pages, written) = file.clone().write_durably(PAGE_BYTES as u64, pages).await;
            written.unwrap();
            assert_eq!(pages.len(), bytes);
            let back = file.clone().read(0, PAGE_BYTES + bytes).await.unwrap();
            assert!(back[..PAGE_BYTES].iter().all(|b| *b == 1) && back[PAGE_BYTES..].iter().all(|b| *b == n));
        }
    }

    #[tokio::test]
    async fn durable_writes_of_parts_are_seen_whatever_their_alignment() {
        let (_dir, disk) = disk();
        let file = disk.open(Path::new("a"), OpenMode::CreateNew).unwrap();
        let mut buf = AlignedBuf::new();
        buf.extend_from_slice(&(0..300_000u32).map(|n| (n / 3) as u8).collect::<Vec<_>>());
        let bytes = Bytes::from_owner(buf.to_vec());
        for (from, len, at) in [(0, 131_072, 4096), (512, 65_536, 0), (1, 131_072, 8192)] {
            let whole = bytes.slice(from..from + len);
            let parts = vec![whole.slice(..4096), whole.slice(4096..)];
            file.clone().write_parts_durably(at, parts).await.unwrap();
            assert_eq!(file.clone().read(at, len).await.unwrap(), whole);
        }
    }

    #[tokio::test]
    async fn writes_around_the_cache_are_seen_by_all_readers() {
        let (_dir, disk) = disk();
        let file = disk.open(Path::new("a"), OpenMode::CreateNew).unwrap();
        let mut buf = AlignedBuf::new();
        buf.extend_from_slice(&(0..300_000u32).map(|n| (n / 7) as u8).collect::<Vec<_>>());
        file.write_at(0, &[io::IoSlice::new(&[1; 200_000])]).unwrap();
        for (from, len, at) in [(0, 131_072, 4096), (512, 66_048, 0), (1, 131_072, 8192), (4096, 65_536, 77)]
        {
            let (one, two) = buf[from..from + len].split_at(8192);
            let before = file.clone().read(at, len).await.unwrap();
            let went = file.write_around(at, &[io::IoSlice::new(one), io::IoSlice::new(two)]).unwrap();
            let after = file.clone().read(at, len).await.unwrap();
            // Whether a temporary directory can be written around the page cache depends on its file system.
            assert_eq!(after, if went { Bytes::copy_from_slice(&buf[from..from + len]) } else { before });
            assert!(!went || (from % SECTOR_ALIGN == 0 && at % 4096 == 0));
        }
    }

    #[test]
    fn a_partial_write_is_continued_where_it_stopped() {
        let (dir, _) = disk();
        let file = fs::File::options().create_new(true).write(true).open(dir.path().join("a")).unwrap();
        let parts = [io::IoSlice::new(b"abc"), io::IoSlice::new(b""), io::IoSlice::new(b"defgh")];
        write_rest(&file, &parts, 10, 4).unwrap();
        let content = fs::read(dir.path().join("a")).unwrap();
        assert_eq!(&content[14..], b"efgh");
    }

    #[tokio::test]
    async fn punched_and_allocated_ranges_read_as_zeros() {
        let (_dir, disk) = disk();
        let file = disk.open(Path::new("a"), OpenMode::Create).unwrap();
        file.write_at(0, &[io::IoSlice::new(&[1; 12288])]).unwrap();
        file.punch(4096, 4096).unwrap();
        file.allocate(12288, 4096).unwrap();
        assert_eq!(file.len().unwrap(), 16384);
        let back = file.read(0, 16384).await.unwrap();
        assert!(back[4096..8192].iter().all(|&b| b == 0) && back[12288..].iter().all(|&b| b == 0));
        assert!(back[..4096].iter().all(|&b| b == 1) && back[8192..12288].iter().all(|&b| b == 1));
    }

    #[tokio::test]
    async fn names_are_listed_sorted_and_paths_stay_inside() {
        let (_dir, disk) = disk();
        crate::make_dirs_durable(&disk, Path::new("d/e")).await.unwrap();
        crate::replace_file(&disk, Path::new("d/b"), b"one").await.unwrap();
        crate::replace_file(&disk, Path::new("d/b"), b"x").await.unwrap();
        disk.open(Path::new("d/a"), OpenMode::Create).unwrap();
        let names: Vec<_> =
            disk.list(Path::new("d")).unwrap().into_iter().map(|e| (e.name, e.len, e.is_dir)).collect();
        assert_eq!(names, [("a".into(), 0, false), ("b".into(), 1, false), ("e".into(), 0, true)]);
        assert_eq!(crate::read_whole(&disk, Path::new("d/b")).await.unwrap().unwrap(), "x");
        assert_eq!(crate::read_whole(&disk, Path::new("d/none")).await.unwrap(), None);
        for outside in ["../x", "/etc/passwd", "d/../../x"] {
            let error = disk.open(Path::new(outside), OpenMode::Existing).err().expect("refused");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{outside}");
        }
        assert!(disk.space().unwrap().free > 0);
        assert!(fd_limit().now >= fd_limit().before);
    }
}
