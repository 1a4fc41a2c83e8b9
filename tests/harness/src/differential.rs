//! The same system calls in two directories, one of them of a file system that is trusted: what each call says, and what is
//! there at the end, must agree.
//!
//! A [`Side`] is one directory with the files that are open in it. Names are few, so that calls meet each other; sizes are
//! around pages. Not compared: sizes of directories, blocks, times that nobody has set, and set-user-id and
//! set-group-id, which a copy takes away from root's files as well.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, RenameFlags, Timespec, Timestamps, XattrFlags, copy_file_range, fallocate,
    lgetxattr, llistxattr, lremovexattr, lsetxattr, renameat_with, utimensat,
};

const SLOTS: usize = 3;
/// Times below are set by a step; later ones by the clock.
const SET_BEFORE: i64 = 1_000_000_000;

/// A path below the side's directory: up to three of four names.
#[derive(Clone, Debug)]
pub struct Name(Vec<u8>);

impl Name {
    fn below(&self, root: &Path) -> PathBuf {
        self.0
            .iter()
            .fold(root.to_path_buf(), |path, part| path.join(["a", "b", "c", "d"][*part as usize % 4]))
    }
}

/// What a call does to bytes of an open file.
#[derive(Clone, Copy, Debug)]
pub enum Range {
    /// `pwrite` of this byte.
    Write(u8),
    /// `pread`.
    Read,
    /// `ftruncate` to the offset.
    Truncate,
    /// `fallocate` with these flags.
    Allocate(FallocateFlags),
    /// `copy_file_range` from another open file to the same place.
    CopyFrom(usize),
}

/// One call, or what is done to the mount.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the calls are named as in their manual pages")]
pub enum Step {
    Open {
        slot: usize,
        name: Name,
        exclusive: bool,
        truncate: bool,
        append: bool,
    },
    Close {
        slot: usize,
    },
    Bytes {
        slot: usize,
        at: u64,
        len: usize,
        what: Range,
    },
    Sync {
        slot: usize,
    },
    Fstat {
        slot: usize,
    },
    Truncate {
        name: Name,
        len: u64,
    },
    Unlink {
        name: Name,
    },
    Mkdir {
        name: Name,
    },
    Rmdir {
        name: Name,
    },
    Rename {
        from: Name,
        to: Name,
        flags: RenameFlags,
    },
    Link {
        from: Name,
        to: Name,
    },
    Symlink {
        text: Name,
        name: Name,
    },
    Chmod {
        name: Name,
        mode: u32,
    },
    Utimes {
        name: Name,
        seconds: i64,
    },
    SetXattr {
        name: Name,
        key: u8,
        value: u8,
    },
    RemoveXattr {
        name: Name,
        key: u8,
    },
    Stat {
        name: Name,
    },
    Read {
        name: Name,
    },
    List {
        name: Name,
    },
    /// Unmounted and mounted; all files were closed before.
    Remount,
    /// The mount's process is killed and another one started; open files were synced before and are closed then.
    Crash,
}

/// Some directories and open files, then steps as many as `len` allows.
pub fn steps(len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Step>> {
    let name = || {
        let parts = prop_oneof![5 => 1..=1usize, 4 => 2..=2usize, 1 => 3..=3usize];
        parts.prop_flat_map(|parts| prop::collection::vec(0u8..4, parts)).prop_map(Name)
    };
    let slot = || 0..SLOTS;
    let at = || prop_oneof![0..64u64, 4000..4200u64, 0..150_000u64];
    let size = || prop_oneof![1..30usize, 1..9000usize, 1..70_000usize];
    let range = prop_oneof![
        6 => (1u8..).prop_map(Range::Write),
        4 => Just(Range::Read),
        2 => Just(Range::Truncate),
        1 => Just(Range::Allocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE)),
        1 => Just(Range::Allocate(FallocateFlags::ZERO_RANGE)),
        1 => Just(Range::Allocate(FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE)),
        1 => Just(Range::Allocate(FallocateFlags::empty())),
        1 => Just(Range::Allocate(FallocateFlags::KEEP_SIZE)),
        2 => slot().prop_map(Range::CopyFrom),
    ];
    let flags = prop_oneof![
        4 => Just(RenameFlags::empty()),
        1 => Just(RenameFlags::NOREPLACE),
        2 => Just(RenameFlags::EXCHANGE),
    ];
    let open =
        (slot(), name(), prop::bool::weighted(0.2), prop::bool::weighted(0.2), prop::bool::weighted(0.3))
            .prop_map(|(slot, name, exclusive, truncate, append)| Step::Open {
                slot,
                name,
                exclusive,
                truncate,
                append,
            });
    let files = prop_oneof![
        6 => open,
        12 => (slot(), at(), size(), range).prop_map(|(slot, at, len, what)| Step::Bytes { slot, at, len, what }),
        2 => slot().prop_map(|slot| Step::Close { slot }),
        1 => slot().prop_map(|slot| Step::Sync { slot }),
        2 => slot().prop_map(|slot| Step::Fstat { slot }),
        1 => (name(), at()).prop_map(|(name, len)| Step::Truncate { name, len }),
        3 => name().prop_map(|name| Step::Read { name }),
    ];
    let names = prop_oneof![
        4 => name().prop_map(|name| Step::Unlink { name }),
        6 => name().prop_map(|name| Step::Mkdir { name }),
        2 => name().prop_map(|name| Step::Rmdir { name }),
        6 => (name(), name(), flags).prop_map(|(from, to, flags)| Step::Rename { from, to, flags }),
        3 => (name(), name()).prop_map(|(from, to)| Step::Link { from, to }),
        2 => (name(), name()).prop_map(|(text, name)| Step::Symlink { text, name }),
        1 => (name(), 0..0o2000u32).prop_map(|(name, mode)| Step::Chmod { name, mode }),
        1 => (name(), 0..SET_BEFORE).prop_map(|(name, seconds)| Step::Utimes { name, seconds }),
        2 => (name(), 0u8..3, any::<u8>()).prop_map(|(name, key, value)| Step::SetXattr { name, key, value }),
        1 => (name(), 0u8..3).prop_map(|(name, key)| Step::RemoveXattr { name, key }),
        3 => name().prop_map(|name| Step::Stat { name }),
        2 => name().prop_map(|name| Step::List { name }),
    ];
    let step = prop_oneof![200 => files, 200 => names, 1 => Just(Step::Remount), 1 => Just(Step::Crash)];
    prop::collection::vec(step, len).prop_map(|steps| first_names().into_iter().chain(steps).collect())
}

/// Without some names to begin with, nearly every call would be refused.
fn first_names() -> Vec<Step> {
    let open =
        |slot, name| Step::Open { slot, name: Name(name), exclusive: true, truncate: false, append: false };
    let mkdir = |name| Step::Mkdir { name: Name(name) };
    vec![
        mkdir(vec![0]),
        mkdir(vec![1]),
        mkdir(vec![0, 1]),
        open(0, vec![2]),
        open(1, vec![0, 3]),
        open(2, vec![1, 2]),
    ]
}

/// One of the two directories.
#[derive(Debug)]
pub struct Side {
    root: PathBuf,
    open: [Option<File>; SLOTS],
}

fn missing_slot() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::BADF.raw_os_error())
}

impl Side {
    /// A side in a directory that is made.
    pub fn new(root: PathBuf) -> Self {
        fs::create_dir(&root).unwrap_or_else(|error| panic!("cannot make {}: {error}", root.display()));
        Self { root, open: Default::default() }
    }

    /// Syncs what is open, and all directories: a file that was made and closed may go with a crash before.
    pub fn sync(&self) {
        for file in self.open.iter().flatten() {
            file.sync_all().expect("what was written can be synced");
        }
        let mut dirs = vec![self.root.clone()];
        while let Some(dir) = dirs.pop() {
            File::open(&dir).and_then(|dir| dir.sync_all()).expect("a directory can be synced");
            let entries = fs::read_dir(&dir).expect("a directory can be read").flatten();
            dirs.extend(
                entries
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                    .map(|entry| entry.path()),
            );
        }
    }

    /// Closes what is open.
    pub fn close(&mut self) {
        self.open = Default::default();
    }

    /// Makes a call. What it says is a line: its result, or the error's number.
    pub fn apply(&mut self, step: &Step) -> String {
        match self.call(step) {
            Ok(said) => said,
            Err(error) => format!("errno {}", error.raw_os_error().unwrap_or(-1)),
        }
    }

    fn file(&self, slot: usize) -> io::Result<&File> {
        self.open[slot].as_ref().ok_or_else(missing_slot)
    }

    fn call(&mut self, step: &Step) -> io::Result<String> {
        let path = |name: &Name| name.below(&self.root);
        match step {
            Step::Open { slot, name, exclusive, truncate, append } => {
                let mut options = OpenOptions::new();
                options.read(true).create(true).create_new(*exclusive).mode(0o644);
                let options =
                    if *append { options.append(true) } else { options.write(true).truncate(*truncate) };
                let opened = options.open(path(name));
                self.open[*slot] = None;
                self.open[*slot] = Some(opened?);
            }
            Step::Close { slot } => self.open[*slot] = None,
            Step::Bytes { slot, at, len, what } => return self.bytes(*slot, *at, *len, *what),
            Step::Sync { slot } => self.file(*slot)?.sync_all()?,
            Step::Fstat { slot } => return Ok(attributes(&self.file(*slot)?.metadata()?)),
            Step::Truncate { name, len } => OpenOptions::new().write(true).open(path(name))?.set_len(*len)?,
            Step::Unlink { name } => fs::remove_file(path(name))?,
            Step::Mkdir { name } => fs::create_dir(path(name))?,
            Step::Rmdir { name } => fs::remove_dir(path(name))?,
            Step::Rename { from, to, flags } => renameat_with(CWD, path(from), CWD, path(to), *flags)?,
            Step::Link { from, to } => fs::hard_link(path(from), path(to))?,
            // Relative, so that it means the same on both sides; it may lead nowhere or in a circle.
            Step::Symlink { text, name } => symlink(text.below(Path::new("")), path(name))?,
            Step::Chmod { name, mode } => fs::set_permissions(path(name), PermissionsExt::from_mode(*mode))?,
            Step::Utimes { name, seconds } => {
                let time = Timespec { tv_sec: *seconds, tv_nsec: 5 };
                let times = Timestamps { last_access: time, last_modification: time };
                utimensat(CWD, path(name), &times, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Step::SetXattr { name, key, value } => {
                let value = vec![*value; 1 + *value as usize];
                lsetxattr(path(name), format!("user.{key}"), &value, XattrFlags::empty())?;
            }
            Step::RemoveXattr { name, key } => lremovexattr(path(name), format!("user.{key}"))?,
            Step::Stat { name } => return Ok(attributes(&fs::symlink_metadata(path(name))?)),
            Step::Read { name } => {
                let bytes = fs::read(path(name))?;
                return Ok(format!("{} {:08x}", bytes.len(), crc32fast::hash(&bytes)));
            }
            Step::List { name } => return listing(&path(name)),
            Step::Remount | Step::Crash => {}
        }
        Ok("ok".to_owned())
    }

    fn bytes(&self, slot: usize, at: u64, len: usize, what: Range) -> io::Result<String> {
        let file = self.file(slot)?;
        match what {
            Range::Write(byte) => file.write_all_at(&vec![byte; len], at)?,
            Range::Truncate => file.set_len(at)?,
            Range::Allocate(flags) => fallocate(file, flags, at, len as u64)?,
            Range::Read => {
                let mut bytes = vec![0; len];
                let count = file.read_at(&mut bytes, at)?;
                return Ok(format!("{count} {:08x}", crc32fast::hash(&bytes[..count])));
            }
            Range::CopyFrom(other) => {
                let (mut from, mut to) = (at / 2, at);
                let count = copy_file_range(self.file(other)?, Some(&mut from), file, Some(&mut to), len)?;
                return Ok(format!("copied {count}"));
            }
        }
        Ok("ok".to_owned())
    }

    /// Everything that is there, a line for each name.
    pub fn tree(&self) -> io::Result<Vec<String>> {
        let mut lines = Vec::new();
        describe(&self.root, &self.root, &mut lines)?;
        Ok(lines)
    }
}

fn attributes(found: &fs::Metadata) -> String {
    let kind = match found.file_type() {
        kind if kind.is_dir() => "dir",
        kind if kind.is_symlink() => "symlink",
        kind if kind.is_fifo() => "fifo",
        _ => "file",
    };
    let size = if found.is_dir() { 0 } else { found.size() };
    let (mode, links, time) = (found.mode() & 0o7777, found.nlink(), found.mtime().min(SET_BEFORE));
    format!("{kind} {mode:o} links {links} size {size} time {time} owner {}:{}", found.uid(), found.gid())
}

fn listing(dir: &Path) -> io::Result<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        names.push(format!("{} {:?}", entry.file_name().display(), entry.file_type()?));
    }
    names.sort();
    Ok(names.join(", "))
}

fn xattrs(path: &Path) -> io::Result<Vec<String>> {
    let mut keys = vec![0; 4096];
    let count = llistxattr(path, &mut keys[..])?;
    let mut found = Vec::new();
    for key in keys[..count].split(|byte| *byte == 0).filter(|key| key.starts_with(b"user.")) {
        let mut value = vec![0; 4096];
        let count = lgetxattr(path, key, &mut value[..])?;
        found.push(format!("{}={:08x}", String::from_utf8_lossy(key), crc32fast::hash(&value[..count])));
    }
    found.sort();
    Ok(found)
}

fn describe(root: &Path, path: &Path, lines: &mut Vec<String>) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    let name = path.strip_prefix(root).unwrap_or(path).display();
    let content = if found.is_symlink() {
        fs::read_link(path)?.display().to_string()
    } else if found.is_file() {
        format!("{:08x}", crc32fast::hash(&fs::read(path)?))
    } else {
        String::new()
    };
    lines.push(format!("{name}: {} {content} {}", attributes(&found), xattrs(path)?.join(" ")));
    if found.is_dir() {
        let mut entries =
            fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        entries.sort();
        for entry in entries {
            describe(root, &entry, lines)?;
        }
    }
    Ok(())
}
