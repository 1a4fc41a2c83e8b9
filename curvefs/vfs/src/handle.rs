//! Open files and directories.

use std::sync::Arc;
use std::sync::Mutex;

use curvefs_types::{DirEntry, FsError, Name};

use crate::handover::OpenFile;
use crate::inode::Inode;
use crate::readahead::ReadAhead;
use crate::shared::locked;

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenMode {
    /// May be read.
    pub read: bool,
    /// May be written.
    pub write: bool,
    /// `O_APPEND`.
    pub append: bool,
    /// `O_TRUNC`.
    pub truncate: bool,
    /// `O_SYNC` or `O_DSYNC`.
    pub sync: bool,
    /// `O_DIRECT`: the kernel keeps no pages.
    pub direct: bool,
}

/// An open file.
#[derive(Debug)]
pub(crate) struct FileHandle {
    pub inode: Arc<Inode>,
    pub mode: OpenMode,
    pub ahead: Mutex<ReadAhead>,
    seen: Mutex<u64>,
}

impl FileHandle {
    pub fn new(inode: Arc<Inode>, mode: OpenMode) -> Self {
        let seen = Mutex::new(inode.state().failures);
        Self { inode, mode, ahead: Mutex::default(), seen }
    }

    /// As another process has left it.
    pub fn from_told(inode: Arc<Inode>, told: OpenFile) -> Self {
        Self { inode, mode: told.mode, ahead: Mutex::default(), seen: Mutex::new(told.seen) }
    }

    /// For the process that takes the mount over, without its number.
    pub fn told(&self) -> OpenFile {
        OpenFile { handle: 0, inode: self.inode.id, mode: self.mode, seen: *locked(&self.seen) }
    }

    /// A failure since this handle was asked last. Each handle is told once.
    pub fn failure(&self) -> Option<FsError> {
        let state = self.inode.state();
        let mut seen = locked(&self.seen);
        let new = *seen != state.failures;
        *seen = state.failures;
        state.failure.filter(|_| new)
    }
}

/// An open directory. A cursor names the page and the place in it; the start of each page is kept as a name, so that a
/// cursor stays good while entries come and go.
#[derive(Debug)]
pub(crate) struct DirHandle {
    pub inode: Arc<Inode>,
    pub pages: tokio::sync::Mutex<Pages>,
}

/// A page of a directory.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    pub number: usize,
    pub entries: Arc<Vec<DirEntry>>,
    /// No page follows.
    pub end: bool,
    /// Attributes were asked for.
    pub plus: bool,
    /// The directory's count of own changes when it was read.
    pub renamed: u64,
}

/// Pages of a directory: where each begins, and the one that was read last.
#[derive(Clone, Default, Debug)]
pub(crate) struct Pages {
    /// Page `i` begins behind `starts[i]`.
    pub starts: Vec<Option<Name>>,
    pub current: Option<Page>,
}
