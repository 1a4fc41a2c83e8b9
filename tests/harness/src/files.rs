//! Changes files and directories of a mounted file system from several threads, each in a directory of its own whose
//! whole content it knows, and judges everything it reads.
//!
//! Every change is one that has returned after an `fsync`, of the file where it wrote bytes, of the directory where it changed names,
//! so nothing of it may ever be missing: not from
//! this mount, not from another, not after any server or the mount itself died. An operation that fails is a violation, too,
//! unless the mount itself was killed ([`Tolerance::Gone`]): then the file of the operation that was under way may be as
//! before or as after it, or in between, and all others must be as they were.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::faults::Clock;

/// Names of files in each directory.
const FILES: u32 = 12;
/// What is written before it gets its name.
const SCRATCH: &str = "new";
/// Sub-directories of a worker.
const DIRS: u32 = 3;
/// The largest piece that one write has.
const PIECE_MAX: usize = 300_000;
/// Files grow to about this.
const FILE_MAX: usize = 2_000_000;

/// What a failing operation means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tolerance {
    /// A violation.
    None,
    /// The mount was killed: the worker stops and remembers what was under way.
    Gone,
}

/// What one worker expects below its directory.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// Path below the worker's directory to what is in it: hard links share one.
    files: BTreeMap<String, u64>,
    contents: BTreeMap<u64, Vec<u8>>,
    dirs: BTreeSet<String>,
    next: u64,
    /// Names that an interrupted operation may have changed.
    unsure: BTreeSet<String>,
}

/// What the workers have done and seen.
#[derive(Clone, Debug, Default)]
pub struct FilesReport {
    /// Operations that changed something.
    pub changes: u64,
    /// Operations that were judged.
    pub reads: u64,
    /// What must not be.
    pub violations: Vec<String>,
    /// The longest operations: when it began, how long it took, and what it was.
    pub longest: Vec<(Duration, Duration, &'static str)>,
}

struct Shared {
    began: Instant,
    stop: AtomicBool,
    changes: AtomicU64,
    reads: AtomicU64,
    violations: Mutex<Vec<String>>,
    longest: Mutex<Vec<(Duration, Duration, &'static str)>>,
}

/// Running workers.
pub struct FilesChecker {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<Expected>>,
}

struct Worker {
    root: PathBuf,
    random: StdRng,
    expected: Expected,
    tolerance: Tolerance,
    shared: Arc<Shared>,
}

impl Clock for FilesChecker {
    fn elapsed(&self) -> Duration {
        self.shared.began.elapsed()
    }
}

impl FilesReport {
    /// Panics when something was wrong.
    pub fn assert_clean(&self) {
        assert!(self.violations.is_empty(), "{} violations: {:#?}", self.violations.len(), self.violations);
        assert!(self.changes > 0 && self.reads > 0, "nothing was done: {self:?}");
    }

    /// The longest operation that overlapped this time.
    pub fn longest_between(&self, from: Duration, to: Duration) -> Duration {
        let touches = |(began, took, _): &&(Duration, Duration, &str)| *began <= to && *began + *took >= from;
        self.longest.iter().filter(touches).map(|(_, took, _)| *took).max().unwrap_or_default()
    }
}

impl FilesChecker {
    /// Begins with what is expected in `root/worker-N`; empty states for a new file system.
    pub fn start(root: &Path, seed: u64, expected: Vec<Expected>, tolerance: Tolerance) -> Self {
        let shared = Arc::new(Shared {
            began: Instant::now(),
            stop: AtomicBool::new(false),
            changes: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            violations: Mutex::default(),
            longest: Mutex::default(),
        });
        let ready = Arc::new(Barrier::new(expected.len() + 1));
        let workers = expected.into_iter().enumerate().map(|(number, expected)| {
            let mut worker = Worker {
                root: root.join(format!("worker-{number}")),
                random: StdRng::seed_from_u64(seed.wrapping_mul(1000).wrapping_add(number as u64)),
                expected,
                tolerance,
                shared: shared.clone(),
            };
            let ready = ready.clone();
            std::thread::spawn(move || {
                own_descriptors();
                ready.wait();
                worker.run();
                worker.expected
            })
        });
        let workers = workers.collect();
        // A pipe to a program that is started meanwhile would stay open in them.
        ready.wait();
        Self { shared, workers }
    }

    /// Changes made so far.
    pub fn changes(&self) -> u64 {
        self.shared.changes.load(Ordering::Relaxed)
    }

    /// Lets every worker finish its operation; gives what is expected from now on.
    pub fn finish(self) -> (Vec<Expected>, FilesReport) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let expected = self.workers.into_iter().map(|worker| worker.join().expect("a worker does not panic"));
        let expected = expected.collect();
        let report = FilesReport {
            changes: self.shared.changes.load(Ordering::Relaxed),
            reads: self.shared.reads.load(Ordering::Relaxed),
            violations: locked(&self.shared.violations).clone(),
            longest: locked(&self.shared.longest).clone(),
        };
        (expected, report)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Compares everything below `root/worker-N` with what is expected, for example through another mount. Names that were
/// unsure are taken as they are from now on.
pub fn verify(root: &Path, expected: &mut [Expected]) -> Vec<String> {
    let mut violations = Vec::new();
    for (number, expected) in expected.iter_mut().enumerate() {
        let root = root.join(format!("worker-{number}"));
        if let Err(error) = verify_one(&root, expected, &mut violations) {
            violations.push(format!("{}: {error}", root.display()));
        }
    }
    violations
}

fn verify_one(root: &Path, expected: &mut Expected, violations: &mut Vec<String>) -> io::Result<()> {
    let mut found_files: BTreeMap<String, u64> = BTreeMap::new();
    let mut found_dirs = BTreeSet::new();
    let mut todo = vec![String::new()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(root.join(&dir))? {
            let entry = entry?;
            let name = format!("{dir}{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                found_dirs.insert(name.clone());
                todo.push(name + "/");
            } else {
                found_files.insert(name, entry.metadata()?.ino());
            }
        }
    }
    let unsure = std::mem::take(&mut expected.unsure);
    // A content is an inode, and the other way round.
    let (mut inode_of, mut content_of) = (BTreeMap::new(), BTreeMap::new());
    for (name, content) in expected.files.iter().filter(|(name, _)| !unsure.contains(*name)) {
        let Some(inode) = found_files.get(name) else {
            violations.push(format!("{} is missing", root.join(name).display()));
            continue;
        };
        if *inode_of.entry(*content).or_insert(*inode) != *inode {
            violations.push(format!("{} is not the same file as its other name", root.join(name).display()));
        }
        if *content_of.entry(*inode).or_insert(*content) != *content {
            violations.push(format!("{} is the same file as another name", root.join(name).display()));
        }
    }
    for (name, inode) in &found_files {
        let path = root.join(name);
        if unsure.contains(name) && name == SCRATCH {
            fs::remove_file(&path)?;
        } else if unsure.contains(name) {
            let content = *content_of.entry(*inode).or_insert_with(|| {
                expected.next += 1;
                expected.next
            });
            expected.files.insert(name.clone(), content);
            if let Entry::Vacant(vacant) = expected.contents.entry(content) {
                vacant.insert(fs::read(&path)?);
            }
        } else if let Some(content) = expected.files.get(name) {
            let bytes = fs::read(&path)?;
            if let Some(problem) = differs(&bytes, &expected.contents[content]) {
                violations.push(format!("{}: {problem}", path.display()));
            }
        } else {
            violations.push(format!("{} should not be there", path.display()));
        }
    }
    expected.files.retain(|name, _| !unsure.contains(name) || found_files.contains_key(name));
    for dir in expected.dirs.symmetric_difference(&found_dirs) {
        if !unsure.contains(dir) {
            violations.push(format!("directory {} came or went", root.join(dir).display()));
        }
    }
    expected.dirs = found_dirs;
    Ok(())
}

/// Gives this thread a table of descriptors of its own. A program that another thread starts would inherit files of the mount and close them before
/// it begins, which flushes them: while the store is away the command that brings it back would wait for the store.
fn own_descriptors() {
    // SAFETY: a worker opens and closes its files itself, and uses none of others.
    let unshared = unsafe { unshare_unsafe(UnshareFlags::FILES) };
    unshared.expect("a thread may have descriptors of its own");
}

/// How bytes differ, if they do.
fn differs(found: &[u8], expected: &[u8]) -> Option<String> {
    if found == expected {
        return None;
    }
    let at = found.iter().zip(expected).position(|(a, b)| a != b).unwrap_or(found.len().min(expected.len()));
    Some(format!("{} bytes, expected {}; the first that differs is {at}", found.len(), expected.len()))
}

impl Worker {
    fn run(&mut self) {
        if let Err(error) = fs::create_dir_all(&self.root) {
            return self.violation("create_dir_all", &error.to_string());
        }
        while !self.shared.stop.load(Ordering::Relaxed) {
            let began = self.shared.began.elapsed();
            let (what, result) = self.step();
            let took = self.shared.began.elapsed() - began;
            self.note(began, took, what);
            match result {
                Ok(()) => {}
                Err(_) if self.tolerance == Tolerance::Gone => return,
                // What was under way may be half done, so what follows could not be judged.
                Err(error) => return self.violation(what, &error.to_string()),
            }
        }
    }

    fn violation(&self, what: &str, why: &str) {
        let at = self.shared.began.elapsed().as_secs_f64();
        let text = format!("{at:.3} s {what} in {}: {why}", self.root.display());
        locked(&self.shared.violations).push(text);
    }

    fn note(&self, began: Duration, took: Duration, what: &'static str) {
        const KEPT: usize = 4096;
        let mut longest = locked(&self.shared.longest);
        longest.push((began, took, what));
        if longest.len() > 2 * KEPT {
            longest.sort_unstable_by_key(|(_, took, _)| std::cmp::Reverse(*took));
            longest.truncate(KEPT);
        }
    }

    fn bytes(&mut self) -> Vec<u8> {
        let len = self.random.random_range(1..PIECE_MAX) >> self.random.random_range(0..10);
        let mut bytes = vec![0; len.max(1)];
        self.random.fill(&mut bytes[..]);
        bytes
    }

    /// Some name of a file; in a sub-directory that is there, or in the worker's own.
    fn name(&mut self) -> String {
        let dirs: Vec<&String> = self.expected.dirs.iter().collect();
        let at = self.random.random_range(0..=dirs.len());
        let dir = dirs.get(at).map_or_else(String::new, |dir| format!("{dir}/"));
        format!("{dir}f{}", self.random.random_range(0..FILES))
    }

    fn existing(&mut self) -> Option<String> {
        let count = self.expected.files.len();
        let at = self.random.random_range(0..count.max(1));
        self.expected.files.keys().nth(at).cloned()
    }

    /// One operation with its effect on what is expected.
    fn step(&mut self) -> (&'static str, io::Result<()>) {
        match self.random.random_range(0..100) {
            0..20 => ("write a file", self.replace_content()),
            20..32 => ("append", self.append()),
            32..40 => ("overwrite", self.overwrite()),
            40..45 => ("truncate", self.truncate()),
            45..57 => ("replace by rename", self.write_and_rename()),
            57..65 => ("rename", self.rename()),
            65..70 => ("link", self.link()),
            70..77 => ("unlink", self.unlink()),
            77..81 => ("mkdir", self.mkdir()),
            81..84 => ("rmdir", self.rmdir()),
            84..95 => ("read", self.read()),
            _ => ("list", self.list()),
        }
    }

    /// Says which names the next operation touches, in case that it does not return.
    fn begin(&mut self, names: &[&str]) {
        self.expected.unsure = names.iter().map(|name| (*name).to_owned()).collect();
        // All names of a file change together.
        let contents: Vec<u64> =
            names.iter().filter_map(|name| self.expected.files.get(*name).copied()).collect();
        let shared = self.expected.files.iter().filter(|(_, content)| contents.contains(content));
        self.expected.unsure.extend(shared.map(|(name, _)| name.clone()).collect::<Vec<_>>());
    }

    fn done(&mut self) {
        self.expected.unsure.clear();
        self.shared.changes.fetch_add(1, Ordering::Relaxed);
        let kept: BTreeSet<u64> = self.expected.files.values().copied().collect();
        self.expected.contents.retain(|content, _| kept.contains(content));
    }

    fn set(&mut self, name: String, bytes: Vec<u8>) {
        self.expected.next += 1;
        self.expected.files.insert(name, self.expected.next);
        self.expected.contents.insert(self.expected.next, bytes);
    }

    fn content_mut(&mut self, name: &str) -> &mut Vec<u8> {
        let content = self.expected.files[name];
        self.expected.contents.get_mut(&content).expect("every file has content")
    }

    fn replace_content(&mut self) -> io::Result<()> {
        let (name, bytes) = (self.name(), self.bytes());
        self.begin(&[&name]);
        let mut file = File::create(self.root.join(&name))?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        if self.expected.files.contains_key(&name) {
            *self.content_mut(&name) = bytes;
        } else {
            self.set(name, bytes);
        }
        self.done();
        Ok(())
    }

    fn append(&mut self) -> io::Result<()> {
        let Some(name) = self.existing() else { return Ok(()) };
        let bytes = self.bytes();
        if self.content_mut(&name).len() > FILE_MAX {
            return Ok(());
        }
        self.begin(&[&name]);
        let mut file = OpenOptions::new().append(true).open(self.root.join(&name))?;
        file.write_all(&bytes)?;
        file.sync_data()?;
        self.content_mut(&name).extend(bytes);
        self.done();
        Ok(())
    }

    fn overwrite(&mut self) -> io::Result<()> {
        let Some(name) = self.existing() else { return Ok(()) };
        let bytes = self.bytes();
        let at = self.random.random_range(0..=self.expected.contents[&self.expected.files[&name]].len());
        self.begin(&[&name]);
        let file = OpenOptions::new().write(true).open(self.root.join(&name))?;
        file.write_all_at(&bytes, at as u64)?;
        file.sync_data()?;
        let content = self.content_mut(&name);
        content.resize(content.len().max(at + bytes.len()), 0);
        content[at..at + bytes.len()].copy_from_slice(&bytes);
        self.done();
        Ok(())
    }

    fn truncate(&mut self) -> io::Result<()> {
        let Some(name) = self.existing() else { return Ok(()) };
        let len = self.content_mut(&name).len();
        let to = self.random.random_range(0..=len + 5000);
        self.begin(&[&name]);
        let file = OpenOptions::new().write(true).open(self.root.join(&name))?;
        file.set_len(to as u64)?;
        file.sync_all()?;
        self.content_mut(&name).resize(to, 0);
        self.done();
        Ok(())
    }

    /// As programs replace a file: it must be the old or the new one at any time.
    fn write_and_rename(&mut self) -> io::Result<()> {
        let (name, bytes) = (self.name(), self.bytes());
        self.begin(&[&name, SCRATCH]);
        let mut file = File::create(self.root.join(SCRATCH))?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(self.root.join(SCRATCH), self.root.join(&name))?;
        self.sync_dirs(&[SCRATCH, &name])?;
        self.set(name, bytes);
        self.done();
        Ok(())
    }

    /// Makes names durable that have changed.
    fn sync_dirs(&self, names: &[&str]) -> io::Result<()> {
        let dirs: BTreeSet<PathBuf> =
            names.iter().filter_map(|name| Some(self.root.join(name).parent()?.to_owned())).collect();
        dirs.iter().try_for_each(|dir| File::open(dir)?.sync_all())
    }

    fn rename(&mut self) -> io::Result<()> {
        let Some(from) = self.existing() else { return Ok(()) };
        let to = self.name();
        self.begin(&[&from, &to]);
        fs::rename(self.root.join(&from), self.root.join(&to))?;
        self.sync_dirs(&[&from, &to])?;
        let content = self.expected.files[&from];
        // Two names of one file: nothing happens (POSIX rename).
        if self.expected.files.get(&to) != Some(&content) {
            self.expected.files.remove(&from);
            self.expected.files.insert(to, content);
        }
        self.done();
        Ok(())
    }

    fn link(&mut self) -> io::Result<()> {
        let Some(from) = self.existing() else { return Ok(()) };
        let to = self.name();
        self.begin(&[&to]);
        match fs::hard_link(self.root.join(&from), self.root.join(&to)) {
            Ok(()) if !self.expected.files.contains_key(&to) => {
                let content = self.expected.files[&from];
                self.expected.files.insert(to, content);
            }
            Err(error)
                if error.kind() == ErrorKind::AlreadyExists && self.expected.files.contains_key(&to) => {}
            Ok(()) => return Err(io::Error::other(format!("{to} was there, and was replaced by a link"))),
            Err(error) => return Err(error),
        }
        self.done();
        Ok(())
    }

    fn unlink(&mut self) -> io::Result<()> {
        let Some(name) = self.existing() else { return Ok(()) };
        self.begin(&[&name]);
        fs::remove_file(self.root.join(&name))?;
        self.sync_dirs(&[&name])?;
        self.expected.files.remove(&name);
        self.done();
        Ok(())
    }

    fn mkdir(&mut self) -> io::Result<()> {
        let name = format!("d{}", self.random.random_range(0..DIRS));
        self.begin(&[&name]);
        match (fs::create_dir(self.root.join(&name)), self.expected.dirs.contains(&name)) {
            (Ok(()), false) => drop(self.expected.dirs.insert(name)),
            (Err(error), true) if error.kind() == ErrorKind::AlreadyExists => {}
            (Ok(()), true) => return Err(io::Error::other(format!("{name} was made twice"))),
            (Err(error), _) => return Err(error),
        }
        self.done();
        Ok(())
    }

    fn rmdir(&mut self) -> io::Result<()> {
        let Some(name) = self.expected.dirs.iter().next().cloned() else { return Ok(()) };
        let prefix = format!("{name}/");
        let empty = !self.expected.files.keys().any(|file| file.starts_with(&prefix));
        self.begin(&[&name]);
        match (fs::remove_dir(self.root.join(&name)), empty) {
            (Ok(()), true) => drop(self.expected.dirs.remove(&name)),
            (Err(error), false) if error.kind() == ErrorKind::DirectoryNotEmpty => {}
            (Ok(()), false) => return Err(io::Error::other(format!("{name} was removed with files in it"))),
            (Err(error), _) => return Err(error),
        }
        self.done();
        Ok(())
    }

    fn read(&mut self) -> io::Result<()> {
        let Some(name) = self.existing() else { return Ok(()) };
        let mut found = Vec::new();
        File::open(self.root.join(&name))?.read_to_end(&mut found)?;
        self.shared.reads.fetch_add(1, Ordering::Relaxed);
        match differs(&found, self.content_mut(&name)) {
            Some(problem) => Err(io::Error::other(format!("{name}: {problem}"))),
            None => Ok(()),
        }
    }

    fn list(&mut self) -> io::Result<()> {
        let mut found = BTreeSet::new();
        for entry in fs::read_dir(&self.root)? {
            found.insert(entry?.file_name().to_string_lossy().into_owned());
        }
        let own = self.expected.files.keys().filter(|name| !name.contains('/'));
        let wanted: BTreeSet<String> = own.chain(&self.expected.dirs).cloned().collect();
        self.shared.reads.fetch_add(1, Ordering::Relaxed);
        if found == wanted {
            return Ok(());
        }
        Err(io::Error::other(format!("names are {found:?}, expected {wanted:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(tolerance: Tolerance) -> (tempfile::TempDir, Vec<Expected>) {
        let dir = tempfile::tempdir().expect("a directory");
        let checker = FilesChecker::start(dir.path(), 1, vec![Expected::default(); 2], tolerance);
        while checker.changes() < 400 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let (expected, report) = checker.finish();
        report.assert_clean();
        (dir, expected)
    }

    #[test]
    fn a_local_file_system_is_clean_and_each_damage_is_found() {
        let (dir, mut expected) = run(Tolerance::None);
        assert_eq!(verify(dir.path(), &mut expected), Vec::<String>::new());
        let worker = dir.path().join("worker-0");
        let (name, content) = expected[0].files.iter().next().expect("a file is there");
        let (path, content) = (worker.join(name), expected[0].contents[content].clone());

        let mut damaged = content.clone();
        damaged.push(1);
        fs::write(&path, damaged).unwrap();
        assert!(verify(dir.path(), &mut expected)[0].contains("bytes, expected"));
        fs::remove_file(&path).unwrap();
        assert!(verify(dir.path(), &mut expected)[0].contains("is missing"));
        fs::write(&path, content).unwrap();
        fs::write(worker.join("other"), "x").unwrap();
        assert!(verify(dir.path(), &mut expected).iter().any(|found| found.contains("should not be there")));
        fs::remove_file(worker.join("other")).unwrap();
        fs::create_dir(worker.join("stray")).unwrap();
        assert!(verify(dir.path(), &mut expected).iter().any(|found| found.contains("came or went")));
    }

    #[test]
    fn what_was_under_way_is_taken_as_it_is() {
        let (dir, mut expected) = run(Tolerance::Gone);
        let name = expected[0].files.keys().next().expect("a file is there").clone();
        expected[0].unsure.insert(name.clone());
        let links = expected[0].files.iter().filter(|(_, content)| **content == expected[0].files[&name]);
        let links: Vec<String> = links.map(|(name, _)| name.clone()).collect();
        expected[0].unsure.extend(links);
        fs::write(dir.path().join("worker-0").join(&name), "half").unwrap();
        assert_eq!(verify(dir.path(), &mut expected), Vec::<String>::new());
        assert_eq!(verify(dir.path(), &mut expected), Vec::<String>::new());
    }

    /// A write, and a link, that were under way: names of one file are names of one file afterwards.
    #[test]
    fn names_of_one_file_stay_so_after_a_change_that_was_under_way() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("worker-0");
        fs::create_dir(&root).unwrap();
        for (sure, unsure) in [(vec!["a"], vec!["b"]), (vec![], vec!["a", "b"])] {
            let [a, b] = ["a", "b"].map(|name| root.join(name));
            fs::write(&a, "content").unwrap();
            fs::hard_link(&a, &b).unwrap();
            let mut expected = Expected::default();
            expected.contents.insert(1, b"content".to_vec());
            expected.files.extend(sure.iter().map(|name| ((*name).to_owned(), 1)));
            expected.next = 1;
            expected.unsure.extend(unsure.iter().map(|name| (*name).to_owned()));
            let mut expected = [expected];
            assert_eq!(verify(dir.path(), &mut expected), Vec::<String>::new());
            assert_eq!(expected[0].files["a"], expected[0].files["b"]);
            fs::remove_file(&b).unwrap();
            fs::write(&b, "content").unwrap();
            assert!(verify(dir.path(), &mut expected)[0].contains("not the same file"));
            fs::remove_file(&b).unwrap();
        }
    }
}
