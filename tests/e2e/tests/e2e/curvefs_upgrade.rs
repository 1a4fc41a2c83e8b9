//! A mount goes from one process to the next while programs use it: they notice nothing.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use curve_e2e::turn;
use curve_harness::FsMount;
use curve_harness::files::{Expected, FilesChecker, Tolerance, verify};
use rustix::fs::{Dir, FlockOperation, fcntl_lock};
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};

use crate::curvefs::{Cluster, blocking, can_mount};

const UPGRADES: u64 = 10;
/// The longest that programs may wait for an upgrade. What is aimed at is a second; this is a debug build among others.
const STALL_MAX: Duration = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 1 });
/// Files of the directory that is listed: more than the mount reads at once.
const FILES: usize = 1100;
const PAGE: usize = 4096;

/// What the programs share.
#[derive(Default)]
struct Course {
    ended: AtomicBool,
    upgrades: AtomicU64,
}

impl Course {
    fn goes_on(&self) -> bool {
        !self.ended.load(Ordering::Relaxed)
    }
}

/// One program: something that it does again and again without an error.
struct Program {
    name: &'static str,
    done: Arc<AtomicU64>,
    thread: JoinHandle<Duration>,
}

impl Program {
    fn start(name: &'static str, course: &Arc<Course>, mut step: impl FnMut(u64) + Send + 'static) -> Self {
        let done = Arc::new(AtomicU64::new(0));
        let (counted, course) = (done.clone(), course.clone());
        let thread = std::thread::spawn(move || {
            let mut longest = Duration::ZERO;
            while course.goes_on() {
                let begun = Instant::now();
                step(counted.load(Ordering::Relaxed));
                longest = longest.max(begun.elapsed());
                counted.fetch_add(1, Ordering::Relaxed);
            }
            longest
        });
        Self { name, done, thread }
    }

    fn end(self) -> Duration {
        let longest = self.thread.join().unwrap_or_else(|_| panic!("{} has failed", self.name));
        println!("{:<8} {:>7} steps, the longest {longest:?}", self.name, self.done.load(Ordering::Relaxed));
        longest
    }
}

fn byte_at(at: u64) -> u8 {
    (at % 251) as u8
}

fn appends(dir: &Path, course: &Arc<Course>) -> Program {
    let mut log = OpenOptions::new().create(true).append(true).open(dir.join("log")).expect("open");
    Program::start("appends", course, move |number| {
        log.write_all(format!("{number:08}\n").as_bytes()).expect("appended");
        log.sync_all().expect("synced");
    })
}

fn reads(dir: &Path, course: &Arc<Course>) -> Program {
    const BYTES: u64 = 3_000_000;
    fs::write(dir.join("read"), (0..BYTES).map(byte_at).collect::<Vec<_>>()).expect("written");
    let file = File::open(dir.join("read")).expect("open");
    Program::start("reads", course, move |number| {
        let (at, mut piece) = (number.wrapping_mul(1_234_577) % (BYTES - 10_000), [0; 10_000]);
        file.read_exact_at(&mut piece, at).expect("read");
        assert!(piece.iter().zip(at..).all(|(byte, at)| *byte == byte_at(at)), "at {at}");
        // From the mount, not from the kernel's pages.
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advised");
        let again = File::open(dir_of(&file)).expect("opened again");
        assert_eq!(again.metadata().expect("attributes").len(), BYTES);
    })
}

fn dir_of(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file)).into()
}

fn unlinked(dir: &Path, course: &Arc<Course>) -> Program {
    let path = dir.join("unlinked");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).expect("made");
    file.write_all_at(&[1; 100_000], 0).expect("written");
    fs::remove_file(&path).expect("unlinked");
    Program::start("unlinked", course, move |number| {
        let text = format!("{number:020}");
        file.write_all_at(text.as_bytes(), 50_000 + number % 1000 * 20).expect("written");
        let mut read = [0; 20];
        file.read_exact_at(&mut read, 50_000 + number % 1000 * 20).expect("read");
        assert_eq!(read, text.as_bytes());
        file.read_exact_at(&mut read, 1000).expect("read");
        assert_eq!(read, [1; 20]);
        assert_eq!(file.metadata().expect("attributes").len(), 100_000);
    })
}

/// A shared mapping of a file.
struct Mapping {
    start: usize,
    bytes: usize,
}

impl Mapping {
    fn new(file: &File, bytes: usize) -> Self {
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping, where the kernel puts it.
        let start = unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, protection, flags, file, 0) };
        Self { start: start.expect("mapped") as usize, bytes }
    }

    fn page(&self, number: usize) -> *mut u64 {
        assert!((number + 1) * PAGE <= self.bytes);
        (self.start + number * PAGE) as *mut u64
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: pages are used only by who has the mapping.
        unsafe { rustix::mm::munmap(self.start as *mut _, self.bytes) }.expect("unmapped");
    }
}

fn maps(dir: &Path, course: &Arc<Course>) -> Program {
    const PAGES: usize = 64;
    let path = dir.join("mapped");
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).expect("made");
    file.set_len((PAGES * PAGE) as u64).expect("grown");
    let mapping = Mapping::new(&file, PAGES * PAGE);
    Program::start("maps", course, move |number| {
        let at = number as usize % PAGES;
        let page = mapping.page(at);
        // SAFETY: in the mapping, which lasts longer; nobody else uses it.
        unsafe {
            page.write_volatile(number);
            rustix::mm::msync(page.cast(), PAGE, MsyncFlags::SYNC).expect("synced");
        }
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advised");
        let mut read = [0; 8];
        file.read_exact_at(&mut read, (at * PAGE) as u64).expect("read");
        assert_eq!(u64::from_ne_bytes(read), number);
        // SAFETY: as above.
        assert_eq!(unsafe { page.read_volatile() }, number);
    })
}

/// Lists a directory once in all upgrades, with one descriptor; comes back to places that it was told.
fn lists(dir: &Path, course: &Arc<Course>) -> Program {
    let path = dir.join("many");
    fs::create_dir(&path).expect("made");
    std::thread::scope(|scope| {
        for first in 0..8 {
            let path = &path;
            scope.spawn(move || {
                for number in (first..FILES).step_by(8) {
                    File::create(path.join(format!("file-{number:05}"))).expect("made");
                }
            });
        }
    });
    let mut listing = Dir::new(File::open(&path).expect("open")).expect("a directory");
    let (shared, mut seen, mut parts) = (course.clone(), BTreeSet::new(), 0);
    // Where the last entry is, and its name.
    let (mut at, mut last, mut ended) = (0, None, false);
    Program::start("lists", course, move |_| {
        std::thread::sleep(Duration::from_millis(5));
        while parts <= shared.upgrades.load(Ordering::Relaxed) {
            parts += 1;
            if let Some((place, expected)) = &last {
                listing.seek(*place).expect("sought");
                assert_eq!(
                    next_name(&mut listing).map(|(name, _)| name).as_ref(),
                    Some(expected),
                    "at {place}"
                );
            }
            for _ in 0..FILES as u64 / UPGRADES {
                let Some((name, next)) = next_name(&mut listing) else {
                    ended = true;
                    break;
                };
                assert!(seen.insert(name.clone()), "{name} twice");
                (last, at) = (Some((at, name)), next);
            }
        }
        assert!(parts <= UPGRADES || (ended && seen.len() == FILES + 2), "{} of {FILES}", seen.len());
    })
}

/// The next entry of a directory, and where it ends.
fn next_name(listing: &mut Dir) -> Option<(String, i64)> {
    let entry = listing.read()?.expect("read");
    Some((entry.file_name().to_string_lossy().into_owned(), entry.offset()))
}

/// Whether a lock in the file can be had through this mount.
fn can_lock(dir: &Path, file: &str) -> bool {
    let file = OpenOptions::new().write(true).open(dir.join(file)).expect("open");
    fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
}

fn locked(dir: &Path, file: &str) -> File {
    let file = File::create(dir.join(file)).expect("made");
    fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).expect("free");
    file
}

/// Sends signals to this process, whose first thread takes them: who waits for a lock has nothing to do with them.
async fn signals_that_others_take(time: Duration) {
    let mut taken = signal(SignalKind::user_defined2()).expect("a handler");
    let until = Instant::now() + time;
    blocking(move || {
        while Instant::now() < until {
            rustix::process::kill_process(rustix::process::getpid(), Signal::USR2).expect("sent to itself");
        }
    })
    .await;
    taken.recv().await.expect("one at least");
}

/// How long nobody served, upgrade by upgrade, as the processes that were replaced have said.
fn stalls_in(log: &str) -> Vec<Duration> {
    let lines = log.lines().filter(|line| line.contains("stalled="));
    let stall = |line: &str| {
        println!("{}", &line[line.find("stalled=").unwrap_or(0)..]);
        let text = line.split("stalled=").nth(1).and_then(|rest| rest.split(' ').next()).expect("a stall");
        let digits = text.trim_end_matches(|unit: char| !unit.is_ascii_digit());
        let number: f64 = digits.parse().expect("a number");
        let unit = if text.ends_with("ms") {
            1e-3
        } else if text.ends_with("µs") {
            1e-6
        } else {
            1.0
        };
        Duration::from_secs_f64(number * unit)
    };
    lines.map(stall).collect()
}

#[tokio::test]
async fn programs_go_on_across_ten_upgrades() {
    let _turn = turn("programs_go_on_across_ten_upgrades").await;
    if !can_mount() {
        return;
    }
    let cluster = Cluster::start(&[]).await;
    let (mut a, b) = (cluster.mount("a").await, cluster.mount("b").await);
    let (at_a, at_b) = (a.dir().to_path_buf(), b.dir().to_path_buf());
    let course = Arc::new(Course::default());
    let (dir, other, shared) = (at_a.clone(), at_b.clone(), course.clone());
    let (programs, mine, theirs) = blocking(move || {
        let start = [appends, reads, unlinked, maps, lists];
        let programs = start.map(|start| start(&dir, &shared));
        (programs, locked(&dir, "mine"), locked(&other, "theirs"))
    })
    .await;
    let waited = at_a.join("theirs");
    let waits = std::thread::spawn(move || {
        let file = OpenOptions::new().write(true).open(waited).expect("open");
        fcntl_lock(&file, FlockOperation::LockExclusive).expect("waited for, and no error");
        Instant::now()
    });
    for round in 1..=UPGRADES {
        let begun = Instant::now();
        a.upgrade().await;
        println!("upgrade {round} took {:?}", begun.elapsed());
        course.upgrades.store(round, Ordering::Relaxed);
        let before: Vec<_> = programs.iter().map(|program| program.done.load(Ordering::Relaxed)).collect();
        for (program, before) in programs.iter().zip(before) {
            let until = Instant::now() + Duration::from_secs(30);
            while program.done.load(Ordering::Relaxed) < before + 3 {
                assert!(!program.thread.is_finished(), "{} has failed: {}", program.name, a.log());
                assert!(Instant::now() < until, "{} does nothing: {}", program.name, a.log());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        let dir = at_b.clone();
        assert!(!blocking(move || can_lock(&dir, "mine")).await, "the lock excludes as before");
        signals_that_others_take(Duration::from_millis(300)).await;
        assert!(!waits.is_finished(), "the lock is another's");
    }
    course.ended.store(true, Ordering::Relaxed);
    let unlocked = Instant::now();
    let (steps, appended) = blocking(move || {
        let appended = programs[0].done.clone();
        let steps = programs.map(Program::end);
        drop(theirs);
        (steps, appended.load(Ordering::Relaxed))
    })
    .await;
    let got = blocking(|| waits.join().expect("no error")).await;
    println!("who waited for a lock got it after {:?}", got - unlocked);
    let longest = steps.into_iter().max().expect("programs ran");
    println!("the longest of all steps took {longest:?}, upgrade or not");
    check_stalls(&a);
    drop(mine);
    let dir = at_b.clone();
    blocking(move || {
        assert!(can_lock(&dir, "mine"), "it is free");
        let expected: String = (0..appended).map(|number| format!("{number:08}\n")).collect();
        assert!(fs::read_to_string(dir.join("log")).expect("read") == expected, "each append, once");
    })
    .await;
    let mounts = cluster.playground.json(&["fs", "mounts", "fs"]).await.expect("mounts");
    assert_eq!(mounts.to_string().matches("\"directory\"").count(), 2, "the same mounts: {mounts}");
    a.unmount().await.unwrap_or_else(|error| panic!("{error}"));
    b.unmount().await.unwrap_or_else(|error| panic!("{error}"));
}

fn check_stalls(mount: &FsMount) {
    let stalls = stalls_in(&mount.log());
    assert_eq!(stalls.len() as u64, UPGRADES);
    let stall = stalls.into_iter().max().expect("one for each upgrade");
    println!("the longest stall of an upgrade was {stall:?}");
    assert!(stall < STALL_MAX, "{stall:?}: {}", mount.log());
}

/// A process that wants to go on with a mount and does not: `frontends/fuse/src/handover/format.rs` has the bytes.
fn hang_up(socket: &Path, steps: &[(u8, u8)]) {
    let mut stream = UnixStream::connect(socket).expect("somebody listens");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a time");
    let say = |stream: &mut UnixStream, kind: u8, body: &[u8]| {
        let message = [&[kind], &(body.len() as u64).to_le_bytes()[..], body].concat();
        stream.write_all(&message).expect("said");
    };
    let hear = |stream: &mut UnixStream| {
        let mut header = [0; 9];
        stream.read_exact(&mut header).expect("heard");
        let mut body = vec![0; u64::from_le_bytes(header[1..].try_into().expect("8 bytes")) as usize];
        stream.read_exact(&mut body).expect("heard");
        header[0]
    };
    say(&mut stream, 1, b"CURVEHND\x01\x00");
    assert_eq!(hear(&mut stream), 3, "terms");
    for (said, heard) in steps {
        say(&mut stream, *said, b"");
        assert_eq!(hear(&mut stream), *heard);
    }
}

/// The socket of the process behind a mount. It comes a moment after the mount.
async fn open_door(dir: &Path) -> PathBuf {
    let (socket, until) = (door(dir), Instant::now() + Duration::from_secs(20));
    while !socket.exists() {
        assert!(Instant::now() < until, "there is no {}", socket.display());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    socket
}

fn door(dir: &Path) -> PathBuf {
    let mounts = curve_mounts::all().expect("the kernel's mounts");
    let device = &curve_mounts::at(&mounts, dir).expect("it is mounted").device;
    Path::new("/run/curve/fuse").join(format!("{device}.sock"))
}

/// A file-level checker while mounts are handed over, and while whoever wants them hangs up half-way.
#[tokio::test]
async fn files_survive_upgrades_that_succeed_and_fail() {
    let _turn = turn("files_survive_upgrades").await;
    if !can_mount() {
        return;
    }
    let cluster = Cluster::start(&[]).await;
    let mut mount = cluster.mount("a").await;
    let checker = FilesChecker::start(mount.dir(), 11, vec![Expected::default(); 4], Tolerance::None);
    // Terms; at rest with the state told; told to go.
    let failures: [&[(u8, u8)]; 3] = [&[], &[(4, 5)], &[(4, 5), (6, 7)]];
    for round in 0..6 {
        let (before, process, socket) = (checker.changes(), mount.pid(), open_door(mount.dir()).await);
        blocking(move || hang_up(&socket, failures[round % 3])).await;
        let until = Instant::now() + Duration::from_secs(60);
        while checker.changes() < before + 40 {
            assert!(Instant::now() < until, "nothing goes on: {}", mount.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(mount.pid(), process);
        mount.upgrade().await;
    }
    let (mut expected, report) = blocking(|| checker.finish()).await;
    println!("{} changes, {} reads", report.changes, report.reads);
    report.assert_clean();
    assert_eq!(mount.log().matches("not handed over; serving on").count(), 6, "{}", mount.log());
    mount.unmount().await.unwrap_or_else(|error| panic!("{error}"));
    let other = cluster.mount("b").await;
    let root = other.dir().to_path_buf();
    let violations = blocking(move || verify(&root, &mut expected)).await;
    assert_eq!(violations, Vec::<String>::new());
    other.unmount().await.unwrap_or_else(|error| panic!("{error}"));
}
