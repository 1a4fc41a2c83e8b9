//! How much there is below a directory, and how that is kept exact.
//!
//! Every directory has its own counters (`direct`: the files and directories whose `parent` it is, and the files' bytes)
//! and recursive ones. A file with several names counts once, in the directory that its `parent` names.
//!
//! **How it travels.** A directory keeps a row *told(directory, child)* for each child directory and for each file that it
//! names and whose inode is in another partition: the child's total as last heard, and its version then. So
//!
//! ```text
//! recursive(d) = files of this partition with parent d  +  Σ told(d, c)
//! total(c)     = recursive(c) + 1 directory             of a directory; of a file itself, while d is its parent
//! ```
//!
//! holds after every apply, whatever is on its way. A child whose total has changed is *dirty*; servers take dirty rows and send
//! the total (not a difference) with the child's version. The receiver takes it if the version is higher than its
//! row's, adds the difference to its recursive counters and becomes dirty itself; without a row it ignores it. Lost, repeated and
//! reordered messages change nothing; a moved directory tells its new parent everything, and the old one subtracts
//! what it had been told. After the last change and as many steps as the tree is deep the root is exact.

use crate::wire_struct;

/// Files, directories and bytes. Also a difference of two.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Everything but directories.
    pub files: i64,
    /// Directories.
    pub dirs: i64,
    /// Lengths of files.
    pub bytes: i64,
}

wire_struct!(Usage { files, dirs, bytes });

impl Usage {
    /// One directory.
    pub const DIRECTORY: Self = Self { files: 0, dirs: 1, bytes: 0 };

    /// One file, or another thing that is no directory, of a length.
    pub fn file(length: u64) -> Self {
        Self { files: 1, dirs: 0, bytes: length as i64 }
    }

    /// The sum. Wraps, so that no number from the wire can panic; real ones are far from that.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            files: self.files.wrapping_add(other.files),
            dirs: self.dirs.wrapping_add(other.dirs),
            bytes: self.bytes.wrapping_add(other.bytes),
        }
    }

    /// The difference.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self {
            files: self.files.wrapping_sub(other.files),
            dirs: self.dirs.wrapping_sub(other.dirs),
            bytes: self.bytes.wrapping_sub(other.bytes),
        }
    }

    /// Whether all are 0.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

/// A directory's counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DirUsage {
    /// Its own children only.
    pub direct: Usage,
    /// Everything below it, as far as it was told; not itself.
    pub recursive: Usage,
}

wire_struct!(DirUsage { direct, recursive });
