//! Counters of directories, and how they travel (see `curvefs_types::Usage`'s module).

use curve_kv::KeyRange;
use curvefs_types::keys::{Key, tag};
use curvefs_types::{Attr, Dentry, InodeId, Kind, Reply, Told, Usage};

use crate::fail::Step;
use crate::rows::ToldRow;
use crate::step::Change;
use crate::view::{PAGE, View};

/// What an inode with a name counts in its directory; a directory counts by what it tells.
pub(crate) fn own(attr: &Attr) -> Usage {
    match attr.kind {
        _ if attr.nlink == 0 => Usage::default(),
        Kind::Directory => Usage::default(),
        Kind::File => Usage::file(attr.length),
        _ => Usage::file(0),
    }
}

/// What an inode counts in its partition.
pub(crate) fn in_partition(attr: &Attr) -> Usage {
    match attr.kind {
        Kind::Directory => Usage::DIRECTORY,
        Kind::File => Usage::file(attr.length),
        _ => Usage::file(0),
    }
}

impl Change<'_, '_> {
    /// Adds to a directory of this partition.
    fn charge(&mut self, dir: InodeId, direct: Usage, recursive: Usage) -> Step<()> {
        if direct.is_zero() && recursive.is_zero() {
            return Ok(());
        }
        let mut row = self.usage(dir)?;
        row.usage.direct = row.usage.direct.plus(direct);
        row.usage.recursive = row.usage.recursive.plus(recursive);
        row.version += 1;
        self.put(&Key::Usage { dir }, &row);
        self.mark_dirty(dir);
        Ok(())
    }

    /// A directory has another parent, or its parent another row for it: it tells its total under a new version.
    pub fn retell(&mut self, dir: InodeId) -> Step<()> {
        let mut row = self.usage(dir)?;
        row.version += 1;
        self.put(&Key::Usage { dir }, &row);
        self.mark_dirty(dir);
        Ok(())
    }

    /// A child's total is not what it told.
    pub fn mark_dirty(&mut self, inode: InodeId) {
        if inode != InodeId::ROOT {
            self.mark(&Key::Dirty { inode });
        }
    }

    /// A file of this partition has changed from one to another: length, directory, or whether it has a name.
    pub fn account(&mut self, before: Option<&Attr>, after: Option<&Attr>) -> Step<()> {
        let zero = Usage::default();
        let (was, is) = (before.map_or(zero, own), after.map_or(zero, own));
        let (from, to) = (before.map(|attr| attr.parent), after.map(|attr| attr.parent));
        if from == to && was == is {
            return Ok(());
        }
        if let Some(dir) = from.filter(|dir| self.is_here(*dir)) {
            self.charge(dir, zero.minus(was), zero.minus(was))?;
        }
        let Some(after) = after else { return Ok(()) };
        if self.is_here(after.parent) {
            self.charge(after.parent, is, is)
        } else {
            self.mark_dirty(after.inode);
            Ok(())
        }
    }

    /// Counts a change of an inode in the partition.
    pub fn count(&mut self, before: Option<&Attr>, after: Option<&Attr>) {
        let zero = Usage::default();
        let difference = after.map_or(zero, in_partition).minus(before.map_or(zero, in_partition));
        self.header.totals = self.header.totals.plus(difference);
    }

    /// A directory of this partition got a name for something; its own row is the caller's to store.
    pub fn gain_name(&mut self, dir: &mut Attr, dentry: Dentry) -> Step<()> {
        let is_dir = dentry.kind == Kind::Directory;
        if is_dir {
            dir.nlink += 1;
        } else if self.is_here(dentry.inode) {
            return Ok(());
        }
        let key = Key::Told { dir: dir.inode, child: dentry.inode };
        let mut row: ToldRow = self.row(&key)?.unwrap_or_default();
        row.names += 1;
        if is_dir {
            // A second name for a moment, in an exchange, is not a second directory.
            let first = row.names == 1;
            row.total = if first { Usage::DIRECTORY } else { row.total };
            let recursive = if first { Usage::DIRECTORY } else { Usage::default() };
            self.charge(dir.inode, Usage::DIRECTORY, recursive)?;
        }
        self.put(&key, &row);
        Ok(())
    }

    /// The reverse.
    pub fn lose_name(&mut self, dir: &mut Attr, dentry: Dentry) -> Step<()> {
        let is_dir = dentry.kind == Kind::Directory;
        if is_dir {
            dir.nlink = dir.nlink.saturating_sub(1);
        }
        let key = Key::Told { dir: dir.inode, child: dentry.inode };
        let Some(mut row) = self.row::<ToldRow>(&key)? else { return Ok(()) };
        row.names = row.names.saturating_sub(1);
        let zero = Usage::default();
        let one = if is_dir { Usage::DIRECTORY } else { zero };
        if row.names > 0 {
            self.put(&key, &row);
            return self.charge(dir.inode, zero.minus(one), zero);
        }
        self.delete(&key);
        let direct = if is_dir { one } else { row.total };
        self.charge(dir.inode, zero.minus(direct), zero.minus(row.total))
    }

    /// A directory of this partition hears a child's total.
    fn hear(&mut self, told: &Told) -> Step<()> {
        let Some(mut row) = self.told(told.parent, told.child)? else { return Ok(()) };
        if told.version <= row.version {
            return Ok(());
        }
        let difference = told.total.minus(row.total);
        let direct = if told.total.dirs == 0 { difference } else { Usage::default() };
        row.version = told.version;
        row.total = told.total;
        self.put(&Key::Told { dir: told.parent, child: told.child }, &row);
        self.charge(told.parent, direct, difference)
    }

    /// Totals of children in other partitions.
    pub fn tell(&mut self, told: &[Told]) -> Step<Reply> {
        for one in told {
            self.hear(one)?;
        }
        Ok(Reply::Done)
    }

    /// Totals that parents in other partitions have heard.
    pub fn told_done(&mut self, told: &[Told]) -> Step<Reply> {
        for one in told {
            if total_of(self, one.child)?.is_none_or(|now| now == *one) {
                self.delete(&Key::Dirty { inode: one.child });
            }
        }
        Ok(Reply::Done)
    }

    /// Carries totals to parents in this partition.
    pub fn settle(&mut self, limit: u32) -> Step<Reply> {
        let mut left = limit;
        let mut range = KeyRange::prefix(Key::kind(tag::DIRTY));
        while left > 0 {
            let page = self.page(&range, PAGE)?;
            let Some((last, _)) = page.last() else { break };
            range = range.after(&last.encode());
            for (key, _) in page {
                let Key::Dirty { inode } = key else { continue };
                match total_of(self, inode)? {
                    Some(told) if !self.is_here(told.parent) => continue,
                    Some(told) => self.hear(&told)?,
                    None => {}
                }
                self.delete(&Key::Dirty { inode });
                left = left.saturating_sub(1);
            }
        }
        // Parents have become dirty, perhaps behind.
        Ok(Reply::Progress { more: left < limit })
    }
}

/// What an inode has to tell its parent now; `None` when it has no name.
pub(crate) fn total_of(view: &impl View, inode: InodeId) -> Step<Option<Told>> {
    let Some(attr) = view.row::<Attr>(&Key::Inode { inode })?.filter(|attr| attr.nlink > 0) else {
        return Ok(None);
    };
    let (version, total) = if attr.is_dir() {
        let row = view.usage(inode)?;
        (row.version, row.usage.recursive.plus(Usage::DIRECTORY))
    } else {
        (attr.version, own(&attr))
    };
    Ok(Some(Told { parent: attr.parent, child: inode, version, total }))
}
