//! Questions.

use std::collections::BTreeSet;

use bytes::Bytes;
use curve_kv::{KeyRange, Reader};
use curvefs_types::keys::{Key, tag};
use curvefs_types::limits::{ENTRIES_PER_PAGE_MAX, EXTENTS_PER_REQUEST_MAX};
use curvefs_types::{
    Answer, Ask, Attr, CommittedTx, Decision, Dentry, DirEntry, Extent, Freed, FsError, InodeId, Kind,
    MountId, Name, Query, SliceId, SliceRef, Staged, Told, TxId, Wire,
};

use crate::attrs::xattr_names;
use crate::fail::Step;
use crate::locks::excluding;
use crate::rows::{Header, SliceRow};
use crate::tx::prepared;
use crate::usage::total_of;
use crate::view::{PAGE, Rows, View, between};

/// One question over rows that do not change.
pub(crate) struct Asking<'a> {
    reader: &'a dyn Reader,
    header: Header,
    mount: MountId,
}

impl View for Asking<'_> {
    fn rows(&self) -> &dyn Rows {
        &self.reader
    }

    fn asker(&self) -> MountId {
        self.mount
    }
}

impl<'a> Asking<'a> {
    /// Over these rows.
    pub fn new(reader: &'a dyn Reader, mount: MountId) -> Step<Self> {
        let mut asking = Self { reader, header: empty_header(), mount };
        asking.header = asking.header()?;
        Ok(asking)
    }

    /// Answers.
    pub fn answer(&self, ask: &Ask) -> Step<Answer> {
        if ask.epoch < self.session(ask.mount)?.epoch {
            return Err(FsError::Fenced.into());
        }
        if let Some(home) = ask.query.home().filter(|home| !self.header.holds(*home)) {
            let _ = home;
            return Err(FsError::NotHere { partition: self.header.partition }.into());
        }
        match &ask.query {
            Query::Lookup { parent, name } => self.lookup(*parent, name),
            Query::GetAttr { inode } => {
                let attr = self.free_inode(*inode)?;
                if attr.is_dir() && self.mount != MountId::SERVERS {
                    self.check_holder(*inode)?;
                }
                Ok(Answer::Attrs { attrs: vec![attr] })
            }
            Query::GetAttrs { inodes } => self.get_attrs(inodes),
            Query::ReadDir { inode, after, limit, plus } => {
                self.read_dir(*inode, after.as_ref(), *limit, *plus)
            }
            Query::ReadLink { inode } => self.read_link(*inode),
            Query::GetXattr { inode, name } => {
                self.free_inode(*inode)?;
                let key = Key::Xattr { inode: *inode, name: name.clone() };
                let value = self.rows().get_row(&key.encode())?.ok_or(FsError::NoAttribute)?;
                Ok(Answer::Value { value })
            }
            Query::ListXattr { inode } => {
                self.free_inode(*inode)?;
                Ok(Answer::Names { names: xattr_names(self, *inode)? })
            }
            Query::Extents { inode, offset, len, limit } => self.extents_of(*inode, *offset, *len, *limit),
            Query::Staged { slice, .. } => {
                let row = self.row::<SliceRow>(&Key::Slice { slice: *slice })?;
                let staged_at = row.map_or(0, |row| row.staged_at);
                let key = Key::Staged { staged_at, slice: *slice };
                Ok(Answer::Staged { content: self.rows().get_row(&key.encode())? })
            }
            Query::DirUsage { inode } => {
                self.free_dir(*inode)?;
                Ok(Answer::DirUsage { usage: self.usage(*inode)?.usage })
            }
            Query::StatFs { .. } => Ok(Answer::StatFs { usage: self.header.totals }),
            Query::GetLock { inode, lock } => {
                self.free_inode(*inode)?;
                Ok(Answer::Lock { held: excluding(&self.locks(*inode)?.locks, lock) })
            }
            // What is waited for is in the memory of the leader.
            Query::Recalls { .. } => Ok(Answer::Recalls { dirs: Vec::new() }),
            internal => self.internal(internal),
        }
    }

    fn internal(&self, query: &Query) -> Step<Answer> {
        match query {
            Query::Garbage { before_ns, limit } => self.garbage(*before_ns, *limit),
            Query::StagedSlices { before_ns, limit } => self.staged_slices(*before_ns, *limit),
            Query::Untold { limit } => self.untold(*limit),
            Query::PreparedTxs { limit } => Ok(Answer::PreparedTxs { txs: prepared(self, *limit as usize)? }),
            Query::CommittedTxs { limit } => self.committed(*limit),
            _ => Err(FsError::Invalid.into()),
        }
    }

    fn lookup(&self, parent: InodeId, name: &Name) -> Step<Answer> {
        let dir = self.free_inode(parent)?;
        if !dir.is_dir() {
            return Err(FsError::NotDir.into());
        }
        self.check_holder(parent)?;
        let dentry = self.free_dentry(parent, name)?.ok_or(FsError::NotFound)?;
        let here = self.header.holds(dentry.inode);
        let attr = if here { Some(self.free_inode(dentry.inode)?) } else { None };
        Ok(Answer::Entry { dentry, attr })
    }

    fn get_attrs(&self, inodes: &[InodeId]) -> Step<Answer> {
        let mut attrs = Vec::new();
        for inode in inodes.iter().take(ENTRIES_PER_PAGE_MAX as usize) {
            if !self.header.holds(*inode) {
                return Err(FsError::NotHere { partition: self.header.partition }.into());
            }
            self.check_inode_free(*inode)?;
            attrs.extend(self.row::<Attr>(&Key::Inode { inode: *inode })?);
        }
        Ok(Answer::Attrs { attrs })
    }

    fn read_dir(&self, dir: InodeId, after: Option<&Name>, limit: u32, plus: bool) -> Step<Answer> {
        if !self.free_inode(dir)?.is_dir() {
            return Err(FsError::NotDir.into());
        }
        self.check_holder(dir)?;
        let key = |name: &Name| Key::Dentry { dir, name: name.clone() }.encode();
        let mut range = KeyRange::prefix(Key::prefix(tag::DENTRY, dir.0));
        let mut locked = KeyRange::prefix(Key::prefix(tag::NAME_LOCK, dir.0));
        if let Some(name) = after {
            range = range.after(&key(name));
            locked = locked.after(&Key::NameLock { dir, name: name.clone() }.encode());
        }
        let limit = limit.clamp(1, ENTRIES_PER_PAGE_MAX) as usize;
        let page = self.page(&range, limit)?;
        let end = page.len() < limit;
        let mut entries = Vec::with_capacity(page.len());
        for (key, value) in page {
            let Key::Dentry { name, .. } = key else { continue };
            let dentry = Dentry::from_row(&value)?;
            let attr = if plus && self.header.holds(dentry.inode) {
                Some(self.free_inode(dentry.inode)?)
            } else {
                None
            };
            entries.push(DirEntry { name, dentry, attr });
        }
        if let (Some(last), false) = (entries.last(), end) {
            locked.to = Some(Key::NameLock { dir, name: last.name.clone() }.encode().into());
        }
        if self.any(&locked)? {
            return Err(FsError::Busy.into());
        }
        Ok(Answer::Page { entries, end })
    }

    fn read_link(&self, inode: InodeId) -> Step<Answer> {
        if self.free_inode(inode)?.kind != Kind::Symlink {
            return Err(FsError::Invalid.into());
        }
        let value: Bytes = self.rows().get_row(&Key::Target { inode }.encode())?.ok_or(FsError::Corrupt)?;
        Ok(Answer::Value { value })
    }

    fn extents_of(&self, inode: InodeId, offset: u64, len: u64, limit: u32) -> Step<Answer> {
        let attr = self.free_inode(inode)?;
        let limit = (limit as usize).clamp(1, EXTENTS_PER_REQUEST_MAX);
        let extents = self.extents(inode, offset, offset.saturating_add(len), limit)?;
        let end = extents.len() < limit;
        let staged = if self.header.staged > 0 { self.staged_of(&extents)? } else { Vec::new() };
        Ok(Answer::Extents { attr, extents, end, staged })
    }

    /// Which slices of these wait for the store.
    fn staged_of(&self, extents: &[Extent]) -> Step<Vec<SliceId>> {
        let slices: BTreeSet<SliceId> =
            extents.iter().filter_map(|extent| Some(extent.data.slice()?.slice)).collect();
        let mut staged = Vec::new();
        for slice in slices {
            if self.row::<SliceRow>(&Key::Slice { slice })?.is_some_and(|row| row.staged_at > 0) {
                staged.push(slice);
            }
        }
        Ok(staged)
    }

    fn staged_slices(&self, before_ns: i64, limit: u32) -> Step<Answer> {
        let at = |staged_at| Key::Staged { staged_at, slice: Default::default() };
        let range = between(&at(0), &at(u64::try_from(before_ns).unwrap_or(0)));
        let mut slices = Vec::new();
        for (key, content) in self.page(&range, (limit as usize).min(PAGE))? {
            let Key::Staged { slice, .. } = key else { continue };
            let bytes = u32::try_from(content.len()).map_err(|_| FsError::Corrupt)?;
            slices.push(Staged { slice: SliceRef { slice, bytes }, content });
        }
        Ok(Answer::StagedSlices { slices, waiting: self.header.staged })
    }

    fn garbage(&self, before_ns: i64, limit: u32) -> Step<Answer> {
        let at = |freed_at| Key::Garbage { freed_at, slice: Default::default() };
        let range = between(&at(0), &at(u64::try_from(before_ns).unwrap_or(0)));
        let mut slices = Vec::new();
        for (key, value) in self.page(&range, (limit as usize).min(PAGE * 8))? {
            let Key::Garbage { freed_at, slice } = key else { continue };
            slices.push(Freed { at_ns: freed_at, slice: SliceRef { slice, bytes: u32::from_row(&value)? } });
        }
        Ok(Answer::Garbage { slices })
    }

    /// Dirty inodes whose parents are elsewhere.
    fn untold(&self, limit: u32) -> Step<Answer> {
        let mut told: Vec<Told> = Vec::new();
        let mut range = KeyRange::prefix(Key::kind(tag::DIRTY));
        loop {
            let page = self.page(&range, PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(Answer::Untold { told }) };
            range = range.after(&last.encode());
            for (key, _) in page {
                let Key::Dirty { inode } = key else { continue };
                told.extend(total_of(self, inode)?.filter(|told| !self.header.holds(told.parent)));
                if told.len() >= limit as usize {
                    return Ok(Answer::Untold { told });
                }
            }
        }
    }

    fn committed(&self, limit: u32) -> Step<Answer> {
        let page = self.page(&KeyRange::prefix(Key::kind(tag::DECIDED)), limit as usize)?;
        let mut txs = Vec::new();
        for (key, value) in page {
            let Key::Decided { number } = key else { continue };
            if let Decision::Committed { participants } = Decision::from_row(&value)? {
                txs.push(CommittedTx {
                    tx: TxId { coordinator: self.header.partition, number },
                    participants,
                });
            }
        }
        Ok(Answer::CommittedTxs { txs })
    }
}

fn empty_header() -> Header {
    Header {
        fs: Default::default(),
        partition: Default::default(),
        ranges: Vec::new(),
        slot: 0,
        next_serial: 0,
        totals: Default::default(),
        staged: 0,
    }
}
