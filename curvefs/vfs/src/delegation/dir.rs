//! A directory as the mount knows it, delegated or about to be. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use curvefs_types::{Attr, Dentry, FsError, InodeId, Moved, Name, NameAt, SetAttr, TimeNs};
use tokio::time::Instant;

/// A directory that may be delegated to this mount, or is asked for.
#[derive(Clone, Debug)]
pub(super) struct Fresh {
    /// Where it was made, for a guess of what a name names; `None`: this mount did not make it.
    pub at: Option<(InodeId, Name)>,
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

/// A published name that was moved or removed here, and is not published so yet.
#[derive(Clone, Debug)]
pub(super) struct Gone {
    pub dentry: Dentry,
    /// Where it is now; `None`: it was removed.
    pub to: Option<NameAt>,
    pub at: TimeNs,
    /// It is being published: it changes no more, and what would change it waits.
    pub sent: bool,
}

/// A delegated directory.
#[derive(Clone, Debug)]
pub(super) struct Dir {
    pub at: Option<(InodeId, Name)>,
    /// As programs see it, but for what others and the partition have changed since.
    pub attr: Attr,
    /// The attributes are to be asked for before they are counted on.
    pub stale: bool,
    /// When it was delegated, as the table counts.
    pub since: u64,
    /// Hashes of names that may be published.
    pub names: HashSet<u64>,
    /// What is not among them is not.
    pub listed: bool,
    /// What some published names name; `None`: they are not there.
    pub known: HashMap<Name, Option<Dentry>>,
    /// Changes of names here that are under way to the partition, and all that were and ended.
    pub passing: u32,
    pub passed: u64,
    /// Published names that are not there any more.
    pub gone: BTreeMap<Name, Gone>,
    /// Names of published files, and under which ones they are published.
    pub placed: BTreeMap<Name, NameAt>,
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
        !self.is_changed() && self.own.is_empty() && self.sent.is_empty()
    }

    /// Whether names are not as they are published.
    pub fn is_changed(&self) -> bool {
        !(self.born.is_empty() && self.gone.is_empty() && self.placed.is_empty())
    }

    /// Whether a name is not as it is published.
    pub fn changes(&self, name: &Name) -> bool {
        self.born.contains_key(name) || self.gone.contains_key(name) || self.placed.contains_key(name)
    }

    /// Names that were moved or removed and are not being published.
    pub fn unsent(&self) -> usize {
        self.gone.values().filter(|gone| !gone.sent).count()
    }

    /// All of them, which are being published from now on.
    pub fn send_moves(&mut self) -> Vec<Moved> {
        let send = |(name, gone): (&Name, &mut Gone)| {
            gone.sent = true;
            Moved { name: name.clone(), dentry: gone.dentry, to: gone.to.clone(), at: gone.at }
        };
        self.gone.iter_mut().map(send).collect()
    }

    /// Whether attributes of it were set that are not published.
    pub fn is_set(&self) -> bool {
        !(self.own.set.is_empty() && self.sent.set.is_empty())
    }

    /// Whether a name may be there that is not as a change here has made it.
    pub fn may_be(&self, name: &Name) -> bool {
        if self.gone.contains_key(name) {
            return false;
        }
        let may_be = || !self.listed || self.names.contains(&hash(name));
        self.known.get(name).map_or_else(may_be, Option::is_some)
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
