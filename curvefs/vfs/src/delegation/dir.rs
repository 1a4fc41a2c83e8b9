//! A directory as the mount knows it, delegated or about to be. Pure.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use curvefs_types::{Attr, FsError, InodeId, Name, SetAttr, TimeNs};
use tokio::time::Instant;

/// A directory that this mount made and that may be delegated to it.
#[derive(Clone, Debug)]
pub(super) struct Fresh {
    /// Where it was made, for a guess of what a name names.
    pub at: (InodeId, Name),
    /// Names that this mount may have made in it.
    pub names: Vec<Name>,
    /// It was asked for.
    pub asked: bool,
    /// Somebody waits for it already.
    pub recalled: bool,
}

/// Changes of a directory itself that are not published.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Own {
    /// When the last file was made.
    pub mtime: Option<TimeNs>,
    /// What was set after that.
    pub set: SetAttr,
}

impl Own {
    pub fn is_empty(&self) -> bool {
        self.mtime.is_none() && self.set.is_empty()
    }

    /// These, and then later ones.
    pub fn then(self, later: Self) -> Self {
        let mut set = self.set;
        if later.mtime.is_some() {
            set.mtime = None;
        }
        Self { mtime: later.mtime.or(self.mtime), set: set.then(later.set) }
    }
}

/// A delegated directory.
#[derive(Clone, Debug)]
pub(super) struct Dir {
    pub at: (InodeId, Name),
    /// As programs see it, but for what others and the partition have changed since.
    pub attr: Attr,
    /// The attributes are to be asked for before they are counted on.
    pub stale: bool,
    /// Hashes of names that may be published. What is not among them and not in `born` is not there.
    pub names: HashSet<u64>,
    /// What is not published.
    pub born: BTreeMap<Name, InodeId>,
    pub own: Own,
    pub sent: Own,
    pub own_since: Option<Instant>,
    /// It is to be given back: nothing more is made here.
    pub closing: bool,
    /// Why it could not be published last.
    pub failing: Option<FsError>,
    pub retry_at: Option<Instant>,
    pub used: u64,
}

impl Dir {
    /// Whether nothing is unpublished.
    pub fn is_quiet(&self) -> bool {
        self.born.is_empty() && self.own.is_empty() && self.sent.is_empty()
    }

    /// Whether attributes of it were set that are not published.
    pub fn is_set(&self) -> bool {
        !(self.own.set.is_empty() && self.sent.set.is_empty())
    }

    /// Whether a name may be published.
    pub fn may_be(&self, name: &Name) -> bool {
        self.names.contains(&hash(name))
    }

    /// Attributes that the partition told, with what it has not heard yet.
    pub fn seen(&mut self, told: Attr) -> Attr {
        if self.is_quiet() {
            self.attr = told;
        } else {
            let set = self.sent.then(self.own).set;
            let own = self.attr;
            let mtime = if set.mtime.is_some() { own.mtime } else { own.mtime.max(told.mtime) };
            self.attr = Attr {
                mode: set.mode.map_or(told.mode, |_| own.mode),
                uid: set.uid.map_or(told.uid, |_| own.uid),
                gid: set.gid.map_or(told.gid, |_| own.gid),
                atime: set.atime.map_or(told.atime, |_| own.atime),
                mtime,
                ctime: own.ctime.max(told.ctime),
                ..told
            };
        }
        self.stale = false;
        self.attr
    }
}

pub(super) fn hash(name: &Name) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.as_bytes().hash(&mut hasher);
    hasher.finish()
}
