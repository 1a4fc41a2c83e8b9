//! What published names name, as far as a mount has heard it, and which changes of its own may make that wrong. Pure.
//!
//! What is heard counts if no change of names of the directory was under way to the partition from question to answer, and none that was made here
//! was published meanwhile. Changes that the mount makes here are nobody else's to make, so what it has heard stays right otherwise. It is
//! a cache: what does not fit is asked for again.

use std::collections::hash_map::Entry;

use curvefs_types::{Answer, Dentry, DirEntry, FsError, InodeId, Name, NameAt, NameOp, Op, Query};

use super::dir::{Dir, hash};
use super::table::Table;

/// Names of all directories that are remembered with what they name.
const REMEMBERED_MAX: usize = 128 << 10;

/// Of a directory that is not delegated.
const NEVER: u64 = 0;

/// A moment at which a question was asked.
#[derive(Debug)]
pub(super) struct Moment {
    dir: InodeId,
    since: u64,
    passed: u64,
    name: Option<Name>,
}

/// A change of names that is under way to the partition, by the directories and when they were delegated.
pub(super) type Passing = Vec<(NameAt, u64)>;

fn places(op: &NameOp) -> [Option<(InodeId, &Name)>; 2] {
    match op {
        NameOp::Create { parent, name, .. }
        | NameOp::Mkdir { parent, name, .. }
        | NameOp::Unlink { parent, name }
        | NameOp::Rmdir { parent, name }
        | NameOp::Link { parent, name, .. } => [Some((*parent, name)), None],
        NameOp::Rename { parent, name, new_parent, new_name, .. } => {
            [Some((*parent, name)), Some((*new_parent, new_name))]
        }
    }
}

impl Table {
    /// The moment of a question; `None` if nothing is to be learned from its answer.
    pub fn moment(&self, query: &Query) -> Option<Moment> {
        let (id, name) = match query {
            Query::Lookup { parent, name } => (*parent, Some(name.clone())),
            Query::ReadDir { inode, .. } => (*inode, None),
            _ => return None,
        };
        let dir = self.dirs.get(&id).filter(|dir| dir.passing == 0)?;
        Some(Moment { dir: id, since: dir.since, passed: dir.passed, name })
    }

    /// Remembers what was answered.
    pub fn learn(&mut self, moment: Moment, answer: &Result<Answer, FsError>) {
        let Moment { dir: id, since, passed, name } = moment;
        let counts = self
            .dirs
            .get(&id)
            .is_some_and(|dir| dir.passing == 0 && (dir.since, dir.passed) == (since, passed));
        if !counts {
            return;
        }
        match (answer, name) {
            (Ok(Answer::Entry { dentry, .. }), Some(name)) => {
                self.remember(&NameAt { dir: id, name }, Some(*dentry));
            }
            (Err(FsError::NotFound), Some(name)) => self.remember(&NameAt { dir: id, name }, None),
            (Ok(Answer::Page { entries, .. }), None) => entries.iter().for_each(|entry| {
                self.remember(&NameAt { dir: id, name: entry.name.clone() }, Some(entry.dentry));
            }),
            _ => {}
        }
    }

    /// Names of a page of a directory that is being listed. `None`: it is not to be listed any more. Whatever comes to be there from the first
    /// page on is known anyway, since it goes through here; so after the last page no other name is there.
    pub fn list(&mut self, id: InodeId, since: u64, page: &[DirEntry], end: bool) -> Option<()> {
        let is_same = |dir: &&mut Dir| dir.since == since && !dir.closing && !dir.listed;
        let dir = self.dirs.get_mut(&id).filter(is_same)?;
        let before = dir.names.len();
        dir.names.extend(page.iter().map(|entry| hash(&entry.name)));
        self.known_names += dir.names.len() - before;
        dir.listed = end;
        Some(())
    }

    /// A change goes to the partition: what it may change is not known from now on.
    pub fn begin(&mut self, op: &Op) -> Passing {
        let Op::Name { op } = op else { return Passing::new() };
        let mut passing = Passing::new();
        for (id, name) in places(op).into_iter().flatten() {
            self.forget_known(id, name);
            *self.flying.entry(id).or_default() += 1;
            if let Some(dir) = self.dirs.get_mut(&id) {
                dir.passing += 1;
            }
            let since = self.dirs.get(&id).map_or(NEVER, |dir| dir.since);
            passing.push((NameAt { dir: id, name: name.clone() }, since));
        }
        self.changes(op);
        passing
    }

    /// It is answered. One that nobody waits for any more never is: it may still come.
    pub fn ended(&mut self, passing: Passing) {
        for (at, since) in passing {
            self.forget_known(at.dir, &at.name);
            self.changed(at.dir);
            if let Some(flying) = self.flying.get_mut(&at.dir) {
                *flying -= 1;
                if *flying == 0 {
                    self.flying.remove(&at.dir);
                }
            }
            if let Some(dir) = self.dirs.get_mut(&at.dir).filter(|dir| dir.since == since) {
                dir.passing -= 1;
                dir.passed += 1;
            }
        }
    }

    /// A name is published as this, or as nothing.
    pub fn remember(&mut self, at: &NameAt, what: Option<Dentry>) {
        if what.is_some() {
            self.may_be_from_now(at.dir, &at.name);
        }
        let Some(dir) = self.dirs.get_mut(&at.dir) else { return };
        match dir.known.entry(at.name.clone()) {
            Entry::Occupied(mut known) => *known.get_mut() = what,
            Entry::Vacant(new) => {
                new.insert(what);
                self.remembered += 1;
            }
        }
        if self.remembered > REMEMBERED_MAX {
            self.forget_some();
        }
    }

    pub(super) fn may_be_from_now(&mut self, dir: InodeId, name: &Name) {
        if let Some(dir) = self.dirs.get_mut(&dir) {
            self.known_names += usize::from(dir.names.insert(hash(name)));
        }
    }

    pub(super) fn forget_known(&mut self, dir: InodeId, name: &Name) {
        if let Some(dir) = self.dirs.get_mut(&dir)
            && dir.known.remove(name).is_some()
        {
            self.remembered -= 1;
        }
    }

    /// Forgets the names of the directory that is used least.
    fn forget_some(&mut self) {
        let known = self.dirs.values_mut().filter(|dir| !dir.known.is_empty());
        if let Some(dir) = known.min_by_key(|dir| dir.used) {
            self.remembered -= std::mem::take(&mut dir.known).len();
        }
    }
}
