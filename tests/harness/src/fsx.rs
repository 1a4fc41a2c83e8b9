//! Random operations on a mounted file, mapped memory among them, against a buffer: the idea of Apple's `fsx`.
//!
//! `FSX_OPS` sets how many, `FSX_SEED` repeats a run.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const LENGTH_MAX: usize = 256 << 10;
const OP_BYTES_MAX: usize = 64 << 10;
const PAGE: usize = 4096;

/// A run: the file in one of several mounts, and what it has to be.
pub struct Fsx {
    rng: StdRng,
    paths: Vec<PathBuf>,
    current: usize,
    file: File,
    model: Vec<u8>,
    last: Vec<String>,
}

fn open(path: &PathBuf) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

/// A shared mapping, unmapped at its end.
struct Map {
    at: *mut libc::c_void,
    len: usize,
}

impl Map {
    fn new(file: &File, offset: usize, len: usize) -> Self {
        let flags = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping of a file that stays open for the call, at an address the kernel chooses.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                flags,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        assert!(at != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        Self { at, len }
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is `len` bytes, lives as long as `self`, and no page of it is behind the file's end.
        unsafe { std::slice::from_raw_parts_mut(self.at.cast(), self.len) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's, and no slice of it outlives it.
        unsafe { libc::munmap(self.at, self.len) };
    }
}

/// A run in a process of its own: in the program that runs this test, which must have a test `exerciser` that calls
/// [`exerciser`]. Unmapping dirty pages of a mount keeps a process's address space locked until the mount's daemon has
/// written them: whoever serves the mount must be another process.
///
/// # Panics
/// When the other process fails or has not ended within `limit`.
pub fn run(test: &str, dirs: &[PathBuf], ops: u64, limit: Duration) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    let seed = number("FSX_SEED", now);
    let ops = number("FSX_OPS", ops);
    let joined = std::env::join_paths(dirs).expect("no colon in the directories");
    let mut child = Command::new(std::env::current_exe().expect("a program has a file"))
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("FSX_DIRS", joined)
        .envs([("FSX_SEED", seed.to_string()), ("FSX_OPS", ops.to_string())])
        .spawn()
        .expect("this program starts");
    let deadline = Instant::now() + limit;
    let ended = loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().expect("a child can be killed");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(ended.success(), "FSX_SEED={seed} FSX_OPS={ops} mounts={}: {ended}", dirs.len());
}

/// The other process.
///
/// # Panics
/// When the file is not what it has to be, with the last operations.
pub fn exerciser() {
    let Some(dirs) = std::env::var_os("FSX_DIRS") else { return };
    let (seed, ops) = (number("FSX_SEED", 0), number("FSX_OPS", 0));
    let dirs: Vec<PathBuf> = std::env::split_paths(&dirs).collect();
    eprintln!("FSX_SEED={seed} FSX_OPS={ops} mounts={}", dirs.len());
    let mut fsx = Fsx::new(dirs, seed);
    for _ in 0..ops {
        fsx.step();
    }
    fsx.reopen();
    let whole = std::fs::read(&fsx.paths[fsx.current]).unwrap();
    fsx.compare(0, &whole, LENGTH_MAX);
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

impl Fsx {
    /// The file `fsx` in each of these directories, which are mounts of one file system.
    pub fn new(dirs: Vec<PathBuf>, seed: u64) -> Self {
        let paths: Vec<PathBuf> = dirs.into_iter().map(|dir| dir.join("fsx")).collect();
        let file = open(&paths[0]);
        let rng = StdRng::seed_from_u64(seed);
        Self { rng, paths, current: 0, file, model: Vec::new(), last: Vec::new() }
    }

    fn note(&mut self, what: String) {
        if self.last.len() == 40 {
            self.last.remove(0);
        }
        self.last.push(what);
    }

    fn range(&mut self, end: usize) -> (usize, usize) {
        let at = self.rng.random_range(0..end);
        (at, self.rng.random_range(1..=OP_BYTES_MAX.min(end - at)))
    }

    fn fill(&mut self, len: usize) -> Vec<u8> {
        let byte = self.rng.random_range(1..=255u8);
        (0..len).map(|i| byte.wrapping_add((i / 7) as u8)).collect()
    }

    fn grow(&mut self, length: usize) {
        let length = self.model.len().max(length);
        self.model.resize(length, 0);
    }

    fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..25 => self.write(),
            25..45 => self.read(),
            45..55 => self.map_write(),
            55..65 => self.map_read(),
            65..72 => self.truncate(),
            72..79 => self.punch(),
            79..84 => self.zero(),
            84..88 => self.allocate(),
            88..92 => self.copy(),
            92..95 => self.sync(),
            _ => self.reopen(),
        }
    }

    fn write(&mut self) {
        let (at, len) = self.range(LENGTH_MAX);
        self.note(format!("write {at}+{len}"));
        let bytes = self.fill(len);
        self.file.write_all_at(&bytes, at as u64).unwrap();
        self.grow(at + len);
        self.model[at..at + len].copy_from_slice(&bytes);
    }

    fn read(&mut self) {
        let (at, len) = self.range(LENGTH_MAX);
        self.note(format!("read {at}+{len}"));
        let mut bytes = vec![0; len];
        let mut got = 0;
        while got < len {
            match self.file.read_at(&mut bytes[got..], (at + got) as u64).unwrap() {
                0 => break,
                n => got += n,
            }
        }
        self.compare(at, &bytes[..got], len);
    }

    fn compare(&self, at: usize, bytes: &[u8], len: usize) {
        let end = self.model.len();
        let expected = &self.model[at.min(end)..(at + len).min(end)];
        assert_eq!(bytes.len(), expected.len(), "length at {at}+{len}\n{:#?}", self.last);
        if let Some(i) = bytes.iter().zip(expected).position(|(a, b)| a != b) {
            let same_to = bytes[i..].iter().zip(&expected[i..]).take_while(|(a, b)| a != b).count();
            panic!(
                "byte {} is {:#x}, expected {:#x}; {same_to} wrong in a row\n{:#?}",
                at + i,
                bytes[i],
                expected[i],
                self.last
            );
        }
    }

    /// A mapping of a range inside the file, from a page's border.
    fn map(&mut self, what: &str) -> Option<(Map, usize, usize, usize)> {
        if self.model.is_empty() {
            return None;
        }
        let (at, len) = self.range(self.model.len());
        self.note(format!("map {what} {at}+{len}"));
        let start = at - at % PAGE;
        Some((Map::new(&self.file, start, at + len - start), start, at, len))
    }

    fn map_write(&mut self) {
        let Some((mut map, start, at, len)) = self.map("write") else { return };
        let bytes = self.fill(len);
        map.bytes()[at - start..].copy_from_slice(&bytes);
        self.model[at..at + len].copy_from_slice(&bytes);
    }

    fn map_read(&mut self) {
        let Some((mut map, start, at, len)) = self.map("read") else { return };
        let bytes = map.bytes()[at - start..].to_vec();
        self.compare(at, &bytes, len);
    }

    fn truncate(&mut self) {
        let length = self.rng.random_range(0..LENGTH_MAX);
        self.note(format!("truncate {length}"));
        self.file.set_len(length as u64).unwrap();
        self.model.resize(length, 0);
    }

    fn fallocate(&mut self, mode: libc::c_int, at: usize, len: usize) {
        self.note(format!("fallocate {mode:#x} {at}+{len}"));
        // SAFETY: the descriptor is open; the call takes numbers alone.
        let done = unsafe { libc::fallocate(self.file.as_raw_fd(), mode, at as i64, len as i64) };
        assert_eq!(done, 0, "fallocate: {}", std::io::Error::last_os_error());
    }

    fn punch(&mut self) {
        let (at, len) = self.range(LENGTH_MAX);
        self.fallocate(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, at, len);
        let end = self.model.len();
        self.model[at.min(end)..(at + len).min(end)].fill(0);
    }

    fn zero(&mut self) {
        let (at, len) = self.range(LENGTH_MAX);
        self.fallocate(libc::FALLOC_FL_ZERO_RANGE, at, len);
        self.grow(at + len);
        self.model[at..at + len].fill(0);
    }

    fn allocate(&mut self) {
        let (at, len) = self.range(LENGTH_MAX);
        self.fallocate(0, at, len);
        self.grow(at + len);
    }

    fn copy(&mut self) {
        if self.model.is_empty() {
            return;
        }
        let (from, len) = self.range(self.model.len());
        let to = self.rng.random_range(0..LENGTH_MAX - len);
        if from < to + len && to < from + len {
            return;
        }
        self.note(format!("copy {from}+{len} to {to}"));
        let (mut from_at, mut to_at) = (from as i64, to as i64);
        let fd = self.file.as_raw_fd();
        let mut left = len;
        while left > 0 {
            // SAFETY: both offsets outlive the call, the descriptor is open.
            let done = unsafe { libc::copy_file_range(fd, &mut from_at, fd, &mut to_at, left, 0) };
            assert!(done > 0, "copy_file_range: {done} {}", std::io::Error::last_os_error());
            left -= done as usize;
        }
        self.grow(to + len);
        self.model.copy_within(from..from + len, to);
    }

    fn sync(&mut self) {
        self.note("fsync".into());
        self.file.sync_all().unwrap();
    }

    /// Closes, and opens in another mount if there is one.
    fn reopen(&mut self) {
        self.current = self.rng.random_range(0..self.paths.len());
        self.note(format!("close, open in mount {}", self.current));
        // Closing first is what close-to-open asks for.
        self.file = File::open("/dev/null").unwrap();
        self.file = open(&self.paths[self.current]);
        assert_eq!(self.file.metadata().unwrap().len(), self.model.len() as u64, "{:#?}", self.last);
    }
}
