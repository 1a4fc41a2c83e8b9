//! The rule: what is done here, and what has to be published before something goes to its partition.

use curvefs_types::{
    Answer, Dentry, FsError, InodeId, Kind, Name, NameAt, NameOp, NewInode, Op, Query, Reply,
};

use super::birth::{Birth, Written};
use super::moves::{Told, Uses};
use super::table::Table;
use crate::shared::now_ns;

/// Files that are made and not published; whoever makes more waits.
const UNPUBLISHED_MAX: usize = 8192;
/// The same once a store or a partition does not keep up.
const _: () = assert!(UNPUBLISHED_MAX >= 2 * curvefs_types::limits::BORN_PER_REQUEST_MAX, "batches are full");

/// What was answered here.
#[derive(Debug)]
pub(super) enum Asked {
    Change(Result<Reply, FsError>),
    Query(Result<Answer, FsError>),
}

/// How a change or a question goes on.
#[derive(Debug)]
pub(super) enum Way {
    /// It is answered.
    Done(Asked),
    /// A file was made, the last of many or not.
    Made(Reply, bool),
    /// Names were moved or removed.
    Moved(Reply, Told),
    /// To the partition.
    Pass,
    // After these it is looked at again.
    /// A file is being published.
    Wait(u32),
    /// Publish a file, without waiting for bytes: the caller may be in the way of them.
    PublishOne(InodeId),
    /// Publish a directory.
    PublishDir(InodeId),
    /// Publish a slot: there is much.
    PublishSlot(u32),
    /// Publish names of a slot that were moved or removed: there are many.
    PublishMoves(u32),
    /// Ask what a name names.
    Find(NameAt),
    /// Publish everything.
    PublishAll,
    /// Give a directory back.
    GiveBack(InodeId),
    /// Have a directory delegated.
    Ask(InodeId),
    /// Get numbers for new files.
    Numbers(InodeId),
    /// Ask for a directory's attributes.
    Refresh(InodeId),
}

pub(super) fn changed(outcome: Result<Reply, FsError>) -> Way {
    Way::Done(Asked::Change(outcome))
}

fn answered(answer: Result<Answer, FsError>) -> Way {
    Way::Done(Asked::Query(answer))
}

fn attr(birth: &Birth, created: bool) -> Reply {
    Reply::Attr { attr: birth.attr, created }
}

/// What a question is about, besides names.
fn inodes_of(query: &Query) -> &[InodeId] {
    match query {
        Query::GetAttrs { inodes } => inodes,
        Query::GetAttr { inode }
        | Query::ReadLink { inode }
        | Query::GetXattr { inode, .. }
        | Query::ListXattr { inode }
        | Query::Extents { inode, .. }
        | Query::GetLock { inode, .. } => std::slice::from_ref(inode),
        _ => &[],
    }
}

/// A name in a directory.
type Place<'a> = (InodeId, &'a Name);

impl Table {
    /// How a change goes on. What was done of a `Close` is taken out of it.
    pub fn way_of_change(&mut self, op: &mut Op, uses: &dyn Uses, may_ask: bool) -> Way {
        if let Op::Name { op } = op
            && let Some(dir) = self.wished(op)
        {
            return Way::Ask(dir);
        }
        if self.dirs.is_empty() && self.fresh.is_empty() && self.lost.is_empty() {
            return Way::Pass;
        }
        match op {
            Op::Name { op: NameOp::Create { parent, name, new, open, or_open } } => {
                self.way_of_create((*parent, name), new, (*open, *or_open), may_ask)
            }
            Op::Name { op } => match self.way_here(op, uses, may_ask) {
                Some(way) => way,
                None => self.way_of_names(op),
            },
            Op::Close { inodes } => self.way_of_close(inodes),
            Op::SetAttr { inode, set } if self.dirs.contains_key(inode) => {
                let dir = &self.dirs[inode];
                if dir.is_quiet() {
                    return Way::Pass;
                }
                if dir.stale {
                    return Way::Refresh(*inode);
                }
                match self.set_dir(*inode, set, now_ns()) {
                    Some(attr) => changed(Ok(Reply::Attr { attr, created: false })),
                    None => Way::PublishDir(*inode),
                }
            }
            Op::SetAttr { inode, .. }
            | Op::Truncate { inode, .. }
            | Op::Write { inode, .. }
            | Op::Open { inode, .. }
            | Op::Punch { inode, .. }
            | Op::Allocate { inode, .. }
            | Op::SetXattr { inode, .. }
            | Op::RemoveXattr { inode, .. }
            | Op::Lock { inode, .. }
            | Op::Unlock { inode, .. } => {
                let inode = *inode;
                self.way_of_file(inode, op)
            }
            Op::CopyRange { from, to, .. } => {
                let is_unpublished =
                    |inode: &InodeId| self.births.contains_key(inode) || self.is_unlinked(*inode);
                let unpublished = [*from, *to].into_iter().find(is_unpublished);
                unpublished.map_or(Way::Pass, Way::PublishOne)
            }
            _ => Way::Pass,
        }
    }

    fn way_of_file(&mut self, inode: InodeId, op: &Op) -> Way {
        if let Some(error) = self.lost.get(&inode) {
            return changed(Err(*error));
        }
        if self.is_unlinked(inode) {
            return Way::PublishOne(inode);
        }
        let Some(birth) = self.births.get_mut(&inode) else { return Way::Pass };
        if birth.sent {
            return Way::Wait(birth.dir.slot());
        }
        let now = now_ns();
        let is_file = birth.attr.kind == Kind::File;
        let done = match op {
            Op::SetAttr { set, .. } if birth.can_set(set) => {
                birth.set(set, now);
                Some(attr(birth, false))
            }
            Op::Truncate { length, kill_priv, .. } if is_file => {
                birth.truncate(*length, *kill_priv, now).map(|attr| Reply::Attr { attr, created: false })
            }
            Op::Open { truncate, .. } if is_file => {
                let opened = if *truncate { birth.truncate(0, true, now) } else { Some(birth.attr) };
                birth.held |= opened.is_some();
                opened.map(|attr| Reply::Attr { attr, created: false })
            }
            Op::Write { place, extents, length, mtime, expect, kill_priv, set, staged, .. }
                if is_file && staged.is_empty() =>
            {
                let (mtime, expect, kill_priv) = (*mtime, *expect, *kill_priv);
                let (place, length) = (*place, *length);
                let written = Written { place, extents, length, mtime, expect, kill_priv, set };
                birth.write(&written, now).map(|(attr, base)| Reply::Written { attr, base })
            }
            _ => None,
        };
        done.map_or(Way::PublishOne(inode), |reply| changed(Ok(reply)))
    }

    fn way_of_close(&mut self, inodes: &mut Vec<InodeId>) -> Way {
        let sent = inodes.iter().find_map(|inode| self.births.get(inode).filter(|birth| birth.sent));
        if let Some(birth) = sent {
            return Way::Wait(birth.dir.slot());
        }
        inodes.retain(|inode| match self.births.get_mut(inode) {
            Some(birth) => {
                birth.held = false;
                false
            }
            None => self.lost.remove(inode).is_none(),
        });
        if inodes.is_empty() { changed(Ok(Reply::Done)) } else { Way::Pass }
    }

    fn way_of_create(
        &mut self,
        (parent, name): Place<'_>,
        new: &NewInode,
        (open, or_open): (bool, bool),
        may_ask: bool,
    ) -> Way {
        let Some(dir) = self.dirs.get(&parent) else {
            if new.kind != Kind::Directory && self.wants(parent, name) {
                return Way::Ask(parent);
            }
            self.adds(parent, name);
            return Way::Pass;
        };
        if let Some(birth) = dir.born.get(name).and_then(|inode| self.births.get_mut(inode)) {
            if !or_open || birth.attr.kind != Kind::File {
                return changed(Err(FsError::Exists));
            }
            if birth.sent {
                return Way::Wait(parent.slot());
            }
            birth.held |= open;
            return changed(Ok(attr(birth, false)));
        }
        if dir.placed.contains_key(name) {
            // It is there, but the partition does not know it.
            return Way::PublishDir(parent);
        }
        let is_gone = dir.gone.get(name);
        if is_gone.is_some_and(|gone| gone.sent) {
            return Way::Wait(parent.slot());
        }
        let is_gone = is_gone.is_some();
        if dir.failing.is_some() && dir.is_changed() {
            // It says why not.
            return Way::PublishDir(parent);
        }
        if !dir.listed && !dir.closing && may_ask && !is_gone && !dir.known.contains_key(name) {
            return Way::Find(NameAt { dir: parent, name: name.clone() });
        }
        if dir.may_be(name) || dir.closing || new.kind == Kind::Directory {
            if dir.is_set() || is_gone {
                return Way::PublishDir(parent);
            }
            self.adds(parent, name);
            return Way::Pass;
        }
        if dir.stale {
            return Way::Refresh(parent);
        }
        if self.births.len() >= UNPUBLISHED_MAX {
            return Way::PublishSlot(parent.slot());
        }
        let dir_attr = dir.attr;
        let Some(number) = self.number(parent) else { return Way::Numbers(parent) };
        let now = now_ns();
        let Some(mut birth) = Birth::new(number, &dir_attr, name, new, now) else {
            if is_gone {
                return Way::PublishDir(parent);
            }
            self.adds(parent, name);
            return Way::Pass;
        };
        birth.held = open;
        let reply = attr(&birth, true);
        Way::Made(reply, self.add(birth, now))
    }

    /// A name that is not as it is published.
    fn unpublished(&self, dir: InodeId, name: &Name) -> bool {
        self.dirs.get(&dir).is_some_and(|dir| dir.changes(name))
    }

    /// The delegated directory that a name probably names.
    fn probably(&self, parent: InodeId, name: &Name) -> Option<InodeId> {
        let at = |(_, dir): &(&InodeId, &super::dir::Dir)| {
            dir.at.as_ref().is_some_and(|at| at.0 == parent && at.1 == *name)
        };
        self.dirs.iter().find(at).map(|(id, _)| *id)
    }

    fn way_of_names(&mut self, op: &NameOp) -> Way {
        let (names, added): (Vec<Place<'_>>, Vec<Place<'_>>) = match op {
            NameOp::Create { parent, name, .. } | NameOp::Mkdir { parent, name, .. } => {
                (vec![(*parent, name)], vec![(*parent, name)])
            }
            NameOp::Unlink { parent, name } | NameOp::Rmdir { parent, name } => {
                (vec![(*parent, name)], vec![])
            }
            NameOp::Link { parent, name, inode } => {
                if let Some(birth) = self.births.get(inode) {
                    return Way::PublishDir(birth.dir);
                }
                if self.moving.contains_key(inode) {
                    return Way::PublishOne(*inode);
                }
                (vec![(*parent, name)], vec![(*parent, name)])
            }
            NameOp::Rename { parent, name, new_parent, new_name, .. } => {
                if parent.slot() != new_parent.slot() && self.dirs.contains_key(parent) {
                    // Another partition asks for the source, in nobody's name.
                    return Way::GiveBack(*parent);
                }
                let both = vec![(*parent, name), (*new_parent, new_name)];
                (both.clone(), both)
            }
        };
        // What is set on a directory comes before this, which changes its times.
        let is_set = |dir: &InodeId| self.dirs.get(dir).is_some_and(|dir| dir.is_set());
        if let Some((dir, _)) = names.iter().find(|(dir, name)| self.unpublished(*dir, name) || is_set(dir)) {
            return Way::PublishDir(*dir);
        }
        // The partition does not remove it otherwise; a wrong guess costs a delegation.
        let removed = match op {
            NameOp::Rmdir { parent, name } => self.probably(*parent, name),
            NameOp::Rename { new_parent, new_name, .. } => self.probably(*new_parent, new_name),
            _ => None,
        };
        if let Some(dir) = removed {
            return Way::GiveBack(dir);
        }
        added.into_iter().for_each(|(dir, name)| self.adds(dir, name));
        Way::Pass
    }

    /// How a question goes on.
    pub fn way_of_query(&self, query: &Query) -> Way {
        if self.dirs.is_empty() && self.births.is_empty() {
            return Way::Pass;
        }
        if let Some(inode) = inodes_of(query).iter().find(|inode| self.is_unlinked(**inode)) {
            return Way::PublishOne(*inode);
        }
        let birth = |inode: &InodeId| self.births.get(inode);
        match query {
            Query::Lookup { parent, name } => self.way_of_lookup(*parent, name),
            Query::GetAttr { inode } => {
                // Nobody else changes a directory that is delegated.
                let dir =
                    || self.dirs.get(inode).filter(|dir| !dir.stale && !dir.closing).map(|dir| dir.attr);
                let attr = birth(inode).map(|birth| birth.attr).or_else(dir);
                attr.map_or(Way::Pass, |attr| answered(Ok(Answer::Attrs { attrs: vec![attr] })))
            }
            Query::GetAttrs { inodes } => {
                inodes.iter().find_map(birth).map_or(Way::Pass, |birth| Way::PublishDir(birth.dir))
            }
            Query::ReadDir { inode, .. } => match self.dirs.get(inode) {
                Some(dir) if dir.is_changed() => Way::PublishDir(*inode),
                _ => Way::Pass,
            },
            Query::ReadLink { inode } => birth(inode).map_or(Way::Pass, |birth| {
                let is_link = birth.attr.kind == Kind::Symlink;
                let value = birth.target.clone();
                answered(if is_link { Ok(Answer::Value { value }) } else { Err(FsError::Invalid) })
            }),
            Query::GetXattr { inode, name } => birth(inode)
                .map_or(Way::Pass, |birth| answered(birth.xattr(name).map(|value| Answer::Value { value }))),
            Query::ListXattr { inode } => birth(inode).map_or(Way::Pass, |birth| {
                let mut names: Vec<_> = birth.xattrs.iter().map(|xattr| xattr.name.clone()).collect();
                names.sort();
                answered(Ok(Answer::Names { names }))
            }),
            Query::Extents { inode, offset, len, limit } => {
                birth(inode).map_or(Way::Pass, |birth| answered(Ok(birth.extents_in(*offset, *len, *limit))))
            }
            Query::DirUsage { inode } => {
                if birth(inode).is_some() {
                    return answered(Err(FsError::NotDir));
                }
                let is_all = self.births.is_empty() && self.moving.is_empty();
                if is_all { Way::Pass } else { Way::PublishAll }
            }
            Query::GetLock { inode, .. } => {
                birth(inode).map_or(Way::Pass, |birth| Way::PublishOne(birth.attr.inode))
            }
            _ => Way::Pass,
        }
    }

    fn way_of_lookup(&self, parent: InodeId, name: &Name) -> Way {
        let Some(dir) = self.dirs.get(&parent) else { return Way::Pass };
        if let Some(birth) = dir.born.get(name).and_then(|inode| self.births.get(inode)) {
            let dentry = Dentry { inode: birth.attr.inode, kind: birth.attr.kind };
            return answered(Ok(Answer::Entry { dentry, attr: Some(birth.attr) }));
        }
        if let Some(origin) = dir.placed.get(name)
            && let Some(gone) = self.dirs.get(&origin.dir).and_then(|dir| dir.gone.get(&origin.name))
        {
            return answered(Ok(Answer::Entry { dentry: gone.dentry, attr: None }));
        }
        if dir.may_be(name) { Way::Pass } else { answered(Err(FsError::NotFound)) }
    }
}
