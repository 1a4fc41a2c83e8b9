//! Reading directories.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use curvefs_types::{Answer, Attr, DirEntry, FsError, InodeId, Kind, Name, Query};

use crate::handle::{DirHandle, Page, Pages};
use crate::shared::locked;
use crate::vfs::{Entry, Vfs};

/// Entries of a page.
const PAGE_ENTRIES: u32 = 1024;
/// Cookies of a page: more than it has entries.
const COOKIES_PER_PAGE: u64 = 1 << 12;
/// Cookies below are `.` and `..`.
const FIRST: u64 = COOKIES_PER_PAGE;

const _: () = assert!((PAGE_ENTRIES as u64) < COOKIES_PER_PAGE, "each entry has a cookie of its page");

/// A line that `readdir` gives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// Which inode.
    pub inode: InodeId,
    /// Its kind.
    pub kind: Kind,
    /// Name; `.` and `..` too.
    pub name: Vec<u8>,
    /// Where to go on after this line.
    pub next: u64,
    /// What is known of its attributes.
    pub attr: Option<Attr>,
    /// Nothing has changed since: name and attributes may be believed for their times.
    pub fresh: bool,
}

impl Vfs {
    /// Opens a directory. What others did before is seen.
    pub async fn open_dir(&self, id: InodeId) -> Result<u64, FsError> {
        let inode = self.core.inode(id);
        let attr = self.core.fetch_attr(&inode).await?;
        if !attr.is_dir() {
            return Err(FsError::NotDir);
        }
        let handle = self.core.next_handle();
        let dir = DirHandle { inode, pages: Default::default() };
        locked(&self.core.dirs).insert(handle, Arc::new(dir));
        Ok(handle)
    }

    /// Closes a directory.
    pub fn release_dir(&self, handle: u64) -> Result<(), FsError> {
        let dir = locked(&self.core.dirs).remove(&handle).ok_or(FsError::Stale)?;
        let id = dir.inode.id;
        drop(dir);
        self.core.release_inode(id);
        Ok(())
    }

    /// `fsync` of a directory: every change of names is durable when it is answered, but for those that were made without asking,
    /// which become so here.
    pub async fn fsync_dir(&self, handle: u64) -> Result<(), FsError> {
        let dir = self.dir(handle)?;
        self.core.in_time(self.core.meta.sync_dir(dir.inode.id)).await
    }

    /// Lines from a cookie on (0 from the start): the rest of a page, nothing at the end. Entries that come or go meanwhile
    /// are seen or not; all others once.
    pub async fn read_dir(&self, handle: u64, cookie: u64, plus: bool) -> Result<Vec<Line>, FsError> {
        let dir = self.dir(handle)?;
        let mut lines = Vec::new();
        if cookie < FIRST {
            let attr = match dir.inode.state().attr() {
                Some((attr, _)) => attr,
                None => return Err(FsError::Stale),
            };
            let dots: [(&[u8], InodeId); 2] = [(b".", attr.inode), (b"..", attr.parent)];
            for (i, (name, inode)) in dots.into_iter().enumerate().skip(cookie as usize) {
                let next = if i == 0 { 1 } else { FIRST };
                lines.push(Line {
                    inode,
                    kind: Kind::Directory,
                    name: name.to_vec(),
                    next,
                    attr: None,
                    fresh: true,
                });
            }
        }
        let at = cookie.max(FIRST);
        let (mut page, mut place) = ((at / COOKIES_PER_PAGE - 1) as usize, (at % COOKIES_PER_PAGE) as usize);
        let mut pages = dir.pages.lock().await;
        if cookie == 0 {
            *pages = Pages::default();
        }
        loop {
            let Some(found) = self.page(&dir, &mut pages, page, plus).await? else { return Ok(lines) };
            let Page { entries, end, .. } = found;
            let fresh = dir.inode.state().renamed == found.renamed;
            if place < entries.len() {
                let number = page;
                lines.extend(entries.iter().enumerate().skip(place).map(|(i, entry)| {
                    let is_last = i + 1 == entries.len() && !end;
                    let (page, place) = if is_last { (number + 1, 0) } else { (number, i as u64 + 1) };
                    Line {
                        inode: entry.dentry.inode,
                        kind: entry.dentry.kind,
                        name: entry.name.as_bytes().to_vec(),
                        next: (page as u64 + 1) * COOKIES_PER_PAGE + place,
                        attr: entry.attr,
                        fresh,
                    }
                }));
                return Ok(lines);
            }
            if end {
                return Ok(lines);
            }
            (page, place) = (page + 1, 0);
        }
    }

    async fn page(
        &self,
        dir: &DirHandle,
        pages: &mut Pages,
        number: usize,
        plus: bool,
    ) -> Result<Option<Page>, FsError> {
        if let Some(current) = pages.current.as_mut().filter(|page| page.number == number) {
            if plus && !current.plus {
                // The places of entries have been given out: the page stays as it is.
                let mut entries = current.entries.to_vec();
                self.fill_attrs(&mut entries).await?;
                (current.entries, current.plus) = (Arc::new(entries), true);
            }
            return Ok(Some(current.clone()));
        }
        if pages.starts.is_empty() {
            pages.starts.push(None);
        }
        // A cursor that was never given out.
        let Some(after) = pages.starts.get(number).cloned() else { return Ok(None) };
        let renamed = dir.inode.state().renamed;
        let (entries, end) = self.ask_page(dir.inode.id, after, plus).await?;
        if number + 1 == pages.starts.len()
            && let (Some(last), false) = (entries.last(), end)
        {
            pages.starts.push(Some(last.name.clone()));
        }
        let page = Page { number, entries: Arc::new(entries), end, plus, renamed };
        pages.current = Some(page.clone());
        Ok(Some(page))
    }

    async fn ask_page(
        &self,
        inode: InodeId,
        after: Option<Name>,
        plus: bool,
    ) -> Result<(Vec<DirEntry>, bool), FsError> {
        let answer = self.core.query(Query::ReadDir { inode, after, limit: PAGE_ENTRIES, plus }).await;
        let (mut entries, end) = match answer {
            Ok(Answer::Page { entries, end }) => (entries, end),
            // Removed while it is open: nothing is in it.
            Err(FsError::NotFound | FsError::Stale) => (Vec::new(), true),
            Ok(_) => return Err(FsError::Corrupt),
            Err(error) => return Err(error),
        };
        entries.truncate(COOKIES_PER_PAGE as usize - 1);
        if plus {
            self.fill_attrs(&mut entries).await?;
        }
        Ok((entries, end))
    }

    /// Asks for the attributes that are in other partitions, all of one slot together.
    async fn fill_attrs(&self, entries: &mut [DirEntry]) -> Result<(), FsError> {
        let mut missing: BTreeMap<u32, Vec<InodeId>> = BTreeMap::new();
        for entry in entries.iter().filter(|entry| entry.attr.is_none()) {
            missing.entry(entry.dentry.inode.slot()).or_default().push(entry.dentry.inode);
        }
        let mut found = HashMap::new();
        for inodes in missing.into_values() {
            let Answer::Attrs { attrs } = self.core.query(Query::GetAttrs { inodes }).await? else {
                return Err(FsError::Corrupt);
            };
            found.extend(attrs.into_iter().map(|attr| (attr.inode, attr)));
        }
        for entry in entries.iter_mut().filter(|entry| entry.attr.is_none()) {
            entry.attr = found.get(&entry.dentry.inode).copied();
        }
        Ok(())
    }

    /// A line with attributes, as an entry that counts as a reference.
    pub fn enter_line(&self, line: &Line) -> Option<Entry> {
        line.attr.map(|attr| self.enter(attr).1)
    }
}
