//! Looks whether what must always hold does, over all partitions of a file system. For tests, and for `fsck` to come.

use std::collections::{BTreeMap, BTreeSet};

use curve_kv::{KeyRange, KvError, Reader, Store};
use curvefs_types::keys::Key;
use curvefs_types::{
    Attr, DataRef, Decision, Dentry, Extent, InodeId, Kind, MountId, Name, PartitionId, Reserved, SliceId,
    Usage, Wire, WireError,
};

use crate::delegation::reserved_in;
use crate::fail::Fail;
use crate::partition::Partition;
use crate::rows::{ExtentRow, Header, SliceRow, ToldRow, UsageRow};
use crate::usage::{in_partition, own};

const ROWS_AT_ONCE: usize = 4096;

/// All rows of a file system, as far as the invariants speak of them.
#[derive(Default, Debug)]
struct Rows {
    headers: Vec<Header>,
    home: BTreeMap<InodeId, PartitionId>,
    inodes: BTreeMap<InodeId, Attr>,
    names: BTreeMap<(InodeId, Name), Dentry>,
    extents: BTreeMap<InodeId, Vec<Extent>>,
    links: BTreeMap<(InodeId, InodeId), u32>,
    holders: BTreeSet<(InodeId, MountId)>,
    held: BTreeSet<(InodeId, MountId)>,
    usage: BTreeMap<InodeId, UsageRow>,
    told: BTreeMap<(InodeId, InodeId), ToldRow>,
    dirty: BTreeSet<InodeId>,
    references: BTreeMap<(PartitionId, SliceId), u32>,
    garbage: BTreeSet<(PartitionId, SliceId)>,
    /// Slices that wait for the store by their own rows, and their bytes.
    waiting: BTreeSet<(PartitionId, SliceId, u64)>,
    staged: BTreeMap<(PartitionId, SliceId, u64), u64>,
    doomed: BTreeSet<InodeId>,
    delegations: BTreeMap<InodeId, MountId>,
    delegated: BTreeSet<(InodeId, MountId)>,
    reserved: Vec<(PartitionId, Reserved)>,
    unfinished: Vec<Key>,
}

/// What is wrong in a file system that is made of these partitions; nothing, if all is well. `quiet` says that nothing is under
/// way: no transaction, no total untold.
pub fn problems(partitions: &[&Partition], quiet: bool) -> Result<Vec<String>, Fail> {
    let mut rows = Rows::default();
    for partition in partitions {
        let view = partition.store().view()?;
        rows.load(&*view)?;
    }
    let mut found = Vec::new();
    if !quiet && !rows.unfinished.is_empty() {
        // What a transaction has half done is whole only after it.
        return Ok(found);
    }
    found.extend(rows.unfinished.iter().filter(|_| quiet).map(|key| format!("left over: {key:?}")));
    rows.check_names(&mut found);
    rows.check_inodes(&mut found);
    rows.check_tree(&mut found);
    rows.check_usage(&mut found, quiet);
    rows.check_data(&mut found);
    rows.check_delegations(&mut found);
    Ok(found)
}

/// All rows of a store in order, for comparing replicas.
pub fn dump(store: &dyn Store) -> Result<Vec<(bytes::Bytes, bytes::Bytes)>, KvError> {
    store.scan(&KeyRange::all(), usize::MAX >> 1)
}

impl Rows {
    fn load(&mut self, reader: &dyn Reader) -> Result<(), Fail> {
        let header = reader.get(&Key::Header {}.encode())?.ok_or(WireError::Short)?;
        let header = Header::from_row(&header)?;
        let partition = header.partition;
        self.headers.push(header);
        let mut range = KeyRange::all();
        loop {
            let page = reader.scan(&range, ROWS_AT_ONCE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            range = range.after(last);
            for (key, value) in &page {
                self.take(partition, Key::decode(key)?, value)?;
            }
        }
    }

    fn take(&mut self, partition: PartitionId, key: Key, value: &[u8]) -> Result<(), Fail> {
        match key {
            Key::Inode { inode } => {
                self.home.insert(inode, partition);
                self.inodes.insert(inode, Attr::from_row(value)?);
            }
            Key::Dentry { dir, name } => {
                self.names.insert((dir, name), Dentry::from_row(value)?);
            }
            Key::Extent { inode, end } => {
                let extent = ExtentRow::from_row(value)?.extent(end).ok_or(WireError::Value("extent"))?;
                self.extents.entry(inode).or_default().push(extent);
            }
            Key::Link { inode, dir } => {
                self.links.insert((inode, dir), u32::from_row(value)?);
            }
            Key::Holder { inode, mount } => {
                self.holders.insert((inode, mount));
            }
            Key::Held { mount, inode } => {
                self.held.insert((inode, mount));
            }
            Key::Usage { dir } => {
                self.usage.insert(dir, UsageRow::from_row(value)?);
            }
            Key::Told { dir, child } => {
                self.told.insert((dir, child), ToldRow::from_row(value)?);
            }
            Key::Dirty { inode } => {
                self.dirty.insert(inode);
            }
            Key::Slice { slice } => {
                let row = SliceRow::from_row(value)?;
                self.references.insert((partition, slice), row.references);
                if row.staged_at > 0 {
                    self.waiting.insert((partition, slice, row.staged_at));
                }
            }
            Key::Garbage { slice, .. } => {
                self.garbage.insert((partition, slice));
            }
            Key::Staged { staged_at, slice } => {
                self.staged.insert((partition, slice, staged_at), value.len() as u64);
            }
            Key::Doomed { inode } => {
                self.doomed.insert(inode);
            }
            Key::Delegation { dir } => {
                self.delegations.insert(dir, MountId::from_row(value)?);
            }
            Key::Delegated { mount, dir } => {
                self.delegated.insert((dir, mount));
            }
            Key::Reserved { .. } => {
                self.reserved.extend(reserved_in(&key, value)?.map(|reserved| (partition, reserved)));
            }
            Key::Prepared { .. } | Key::NameLock { .. } | Key::InodeLock { .. } | Key::TreeLock {} => {
                self.unfinished.push(key)
            }
            Key::Decided { .. } if Decision::from_row(value)? != Decision::Aborted => {
                self.unfinished.push(key)
            }
            _ => {}
        }
        Ok(())
    }

    fn check_delegations(&self, found: &mut Vec<String>) {
        for (dir, mount) in &self.delegations {
            if !self.inodes.get(dir).is_some_and(|attr| attr.is_dir() && attr.nlink > 0) {
                found.push(format!("{dir}: delegated to {mount}, and not there"));
            }
        }
        let both: BTreeSet<_> = self.delegations.iter().map(|(dir, mount)| (*dir, *mount)).collect();
        if both != self.delegated {
            found.push(format!("delegations {both:?}, of mounts {:?}", self.delegated));
        }
        let mut ranges: Vec<_> = self.reserved.iter().collect();
        ranges.sort_by_key(|(_, reserved)| reserved.first);
        for (i, (partition, reserved)) in ranges.iter().enumerate() {
            let header = self.headers.iter().find(|header| header.partition == *partition);
            let last = reserved.last().unwrap_or(reserved.first);
            let below = header.is_some_and(|header| {
                reserved.first.slot() == header.slot
                    && last.slot() == header.slot
                    && last.serial() < header.next_serial
            });
            if !below || ranges.get(i + 1).is_some_and(|(_, next)| next.first <= last) {
                found.push(format!("{reserved:?} is not set aside"));
            }
        }
    }

    fn check_names(&self, found: &mut Vec<String>) {
        for ((dir, name), dentry) in &self.names {
            let parent = self.inodes.get(dir);
            if !parent.is_some_and(|attr| attr.is_dir() && attr.nlink > 0) {
                found.push(format!("{dir}/{name}: the directory is not there"));
            }
            match self.inodes.get(&dentry.inode) {
                None => found.push(format!("{dir}/{name}: names {}, which is not there", dentry.inode)),
                Some(attr) if attr.kind != dentry.kind => found.push(format!("{dir}/{name}: another kind")),
                Some(attr) if attr.is_dir() && attr.parent != *dir => {
                    found.push(format!("{dir}/{name}: its parent is {}", attr.parent));
                }
                Some(_) => {}
            }
        }
    }

    fn check_inodes(&self, found: &mut Vec<String>) {
        let mut names = BTreeMap::<InodeId, BTreeMap<InodeId, u32>>::new();
        let mut children = BTreeMap::<InodeId, u32>::new();
        for ((dir, _), dentry) in &self.names {
            *names.entry(dentry.inode).or_default().entry(*dir).or_default() += 1;
            *children.entry(*dir).or_default() += u32::from(dentry.kind == Kind::Directory);
        }
        for (inode, attr) in &self.inodes {
            let dirs = names.remove(inode).unwrap_or_default();
            let count: u32 = dirs.values().sum();
            let is_root = *inode == InodeId::ROOT;
            let expected = match attr.kind {
                Kind::Directory if count > 0 || is_root => 2 + children.get(inode).copied().unwrap_or(0),
                Kind::Directory => 0,
                _ => count,
            };
            if attr.nlink != expected || (attr.is_dir() && count > 1) {
                found.push(format!("{inode}: {} links, {count} names, {expected} expected", attr.nlink));
            }
            if self.doomed.contains(inode) != (attr.nlink == 0) {
                found.push(format!("{inode}: {} links, doomed {}", attr.nlink, self.doomed.contains(inode)));
            }
            if attr.nlink > 0 && !attr.is_dir() && !dirs.contains_key(&attr.parent) {
                found.push(format!("{inode}: has no name in its parent {}", attr.parent));
            }
            let links: BTreeMap<_, _> = self
                .links
                .range((*inode, InodeId(0))..=(*inode, InodeId(u64::MAX)))
                .map(|(k, n)| (k.1, *n))
                .collect();
            if !links.is_empty() && links != dirs {
                found.push(format!("{inode}: link rows {links:?}, names {dirs:?}"));
            }
        }
        found.extend(
            self.doomed.iter().filter(|i| !self.inodes.contains_key(i)).map(|i| format!("{i}: doomed ghost")),
        );
        found.extend(self.holders.difference(&self.held).map(|line| format!("{line:?}: holder, not held")));
    }

    fn check_tree(&self, found: &mut Vec<String>) {
        for (inode, attr) in self.inodes.iter().filter(|(_, attr)| attr.is_dir() && attr.nlink > 0) {
            let mut at = attr;
            let mut steps = 0;
            while at.inode != InodeId::ROOT && steps <= self.inodes.len() {
                let Some(parent) = self.inodes.get(&at.parent) else { break };
                at = parent;
                steps += 1;
            }
            if at.inode != InodeId::ROOT {
                found.push(format!("{inode}: leads not to the root"));
            }
        }
    }

    fn check_usage(&self, found: &mut Vec<String>, quiet: bool) {
        let mut sums = BTreeMap::<InodeId, Usage>::new();
        let add = |sums: &mut BTreeMap<InodeId, Usage>, dir, usage| {
            let sum = sums.entry(dir).or_default();
            *sum = sum.plus(usage);
        };
        for (inode, attr) in self.inodes.iter().filter(|(_, attr)| attr.nlink > 0 && !attr.is_dir()) {
            if self.home.get(inode) == self.home.get(&attr.parent) {
                add(&mut sums, attr.parent, own(attr));
            }
        }
        for ((dir, child), row) in &self.told {
            add(&mut sums, *dir, row.total);
            let names =
                self.names.iter().filter(|((d, _), dentry)| d == dir && dentry.inode == *child).count();
            if names != row.names as usize {
                found.push(format!("{dir}: told by {child} with {} names, not {names}", row.names));
            }
        }
        for (dir, row) in &self.usage {
            let sum = sums.get(dir).copied().unwrap_or_default();
            if row.usage.recursive != sum {
                found.push(format!("{dir}: recursive {:?}, sum {sum:?}", row.usage.recursive));
            }
        }
        for header in &self.headers {
            let here = self.inodes.values().filter(|attr| header.holds(attr.inode));
            let sum = here.fold(Usage::default(), |sum, attr| sum.plus(in_partition(attr)));
            if sum != header.totals {
                found.push(format!("{}: totals {:?}, sum {sum:?}", header.partition, header.totals));
            }
        }
        if quiet {
            found.extend(self.dirty.iter().map(|inode| format!("{inode}: still dirty")));
            self.check_quiet_usage(found);
        }
    }

    /// Against the truth, by adding each inode to all its ancestors.
    fn check_quiet_usage(&self, found: &mut Vec<String>) {
        let mut truth = BTreeMap::<InodeId, (Usage, Usage)>::new();
        for attr in self.inodes.values().filter(|attr| attr.nlink > 0 && attr.inode != InodeId::ROOT) {
            let usage = if attr.is_dir() { Usage::DIRECTORY } else { own(attr) };
            let direct = &mut truth.entry(attr.parent).or_default().0;
            *direct = direct.plus(usage);
            let mut at = attr.parent;
            for _ in 0..=self.inodes.len() {
                let recursive = &mut truth.entry(at).or_default().1;
                *recursive = recursive.plus(usage);
                match self.inodes.get(&at) {
                    Some(dir) if at != InodeId::ROOT => at = dir.parent,
                    _ => break,
                }
            }
        }
        for (dir, row) in &self.usage {
            let (direct, recursive) = truth.get(dir).copied().unwrap_or_default();
            if (row.usage.direct, row.usage.recursive) != (direct, recursive) {
                found.push(format!("{dir}: {:?}, in truth {direct:?} {recursive:?}", row.usage));
            }
        }
    }

    fn check_data(&self, found: &mut Vec<String>) {
        let mut references = BTreeMap::<(PartitionId, SliceId), u32>::new();
        for (inode, extents) in &self.extents {
            let Some(attr) = self.inodes.get(inode) else {
                found.push(format!("{inode}: extents without inode"));
                continue;
            };
            let sum: u64 = extents.iter().map(|extent| u64::from(extent.len)).sum();
            if sum != attr.allocated {
                found.push(format!("{inode}: allocated {}, sum {sum}", attr.allocated));
            }
            if extents.windows(2).any(|pair| pair[0].end() > pair[1].offset) {
                found.push(format!("{inode}: extents overlap"));
            }
            if extents.iter().any(|e| e.end() > attr.length && e.data != DataRef::Unwritten) {
                found.push(format!("{inode}: extents beyond its length"));
            }
            if extents.iter().any(|extent| extent.by_chunk().count() != 1) {
                found.push(format!("{inode}: an extent crosses chunks"));
            }
            for slice in extents.iter().filter_map(|extent| extent.data.slice()) {
                *references.entry((self.home[inode], slice.slice)).or_default() += 1;
            }
        }
        for (inode, attr) in &self.inodes {
            if attr.allocated > 0 && !self.extents.contains_key(inode) {
                found.push(format!("{inode}: allocated {} without extents", attr.allocated));
            }
        }
        if references != self.references {
            found.push(format!("references {:?}, counted {references:?}", self.references));
        }
        if !self.waiting.iter().eq(self.staged.keys()) {
            found.push(format!(
                "waiting for the store {:?}, bytes are there of {:?}",
                self.waiting, self.staged
            ));
        }
        for header in &self.headers {
            let here = self.staged.iter().filter(|((partition, ..), _)| *partition == header.partition);
            let sum: u64 = here.map(|(_, bytes)| bytes).sum();
            if sum != header.staged {
                found.push(format!("{}: staged {}, sum {sum}", header.partition, header.staged));
            }
        }
        found.extend(
            self.garbage
                .iter()
                .filter(|s| references.contains_key(s))
                .map(|s| format!("{s:?}: used garbage")),
        );
    }
}
