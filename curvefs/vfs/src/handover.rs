//! What one process tells the next that takes its mount over: everything that the kernel or a partition counts on.
//!
//! The bytes are `curvefs_types::wire`'s: fields in the order of their `wire_struct!` line. Version 1. Not told, since it is
//! found out again: bytes and extents that were read, how far to read ahead, default ACLs, counts of own changes of names.
//! There is nothing unpublished: [`Vfs::rest`] publishes first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use curvefs_types::{
    Attr, DataBackend, DirEntry, FsError, InodeId, LockOwner, Metadata, MountOptions, Name, wire_struct,
};

use crate::handle::{DirHandle, FileHandle, OpenMode, Page, Pages};
use crate::inode::State;
use crate::shared::{Core, locked};
use crate::vfs::Vfs;

/// A [`Vfs`] at rest.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VfsState {
    /// The number of the next handle.
    pub next_handle: u64,
    /// Inodes that the kernel has references of, or that are held open at their partitions.
    pub inodes: Vec<KnownInode>,
    /// Open files.
    pub files: Vec<OpenFile>,
    /// Open directories.
    pub dirs: Vec<OpenDir>,
}

wire_struct!(VfsState { next_handle, inodes, files, dirs });

/// What is known of an inode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KnownInode {
    /// Which.
    pub inode: InodeId,
    /// References of the kernel.
    pub lookups: u64,
    /// Attributes as they were known last: not to be believed, but they tell whether others have changed it since.
    pub attr: Option<Attr>,
    /// Its partition knows that this mount holds it open.
    pub held: bool,
    /// The kernel was told of all changes by others.
    pub told: bool,
    /// The last open has seen all changes by others.
    pub seen: bool,
    /// The last failure of publishing.
    pub failure: Option<FsError>,
    /// How many there were.
    pub failures: u64,
    /// Who may hold locks in it.
    pub lock_owners: Vec<LockOwner>,
}

wire_struct!(KnownInode { inode, lookups, attr, held, told, seen, failure, failures, lock_owners });

/// An open file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenFile {
    /// The handle.
    pub handle: u64,
    /// Of which inode.
    pub inode: InodeId,
    /// How it was opened.
    pub mode: OpenMode,
    /// How many failures of the inode it has been told.
    pub seen: u64,
}

wire_struct!(OpenFile { handle, inode, mode, seen });
wire_struct!(OpenMode { read, write, append, truncate, sync, direct });

/// An open directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenDir {
    /// The handle.
    pub handle: u64,
    /// Of which inode.
    pub inode: InodeId,
    /// Behind which name each page begins: places that were told to programs count from there.
    pub starts: Vec<Option<Name>>,
    /// The page that was read last.
    pub page: Option<DirPage>,
}

wire_struct!(OpenDir { handle, inode, starts, page });

/// A page of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirPage {
    /// Which.
    pub number: u64,
    /// Its lines, without attributes.
    pub entries: Vec<DirEntry>,
    /// None follows.
    pub end: bool,
    /// This mount has changed no name since it was read.
    pub fresh: bool,
}

wire_struct!(DirPage { number, entries, end, fresh });

impl Vfs {
    /// Publishes everything, ends what runs in the background, and says what is known. From then on nothing happens unless
    /// somebody calls. May be dropped; [`Vfs::go_on`] undoes it in any case. Nobody may call meanwhile.
    pub async fn rest(&self) -> Result<VfsState, FsError> {
        // Of its own: an append whose answer nobody waits for would be made again.
        let vfs = self.clone();
        let synced = tokio::spawn(async move { vfs.sync().await.and(vfs.core.meta.give_all_back().await) });
        synced.await.unwrap_or(Err(FsError::Stopped))?;
        self.core.rest().await;
        if self.unpublished_bytes() > 0 {
            return Err(FsError::Busy);
        }
        Ok(self.core.told())
    }

    /// Works again after [`Vfs::rest`], or begins to after [`Vfs::take_over`].
    pub fn go_on(&self) {
        Core::begin_background(&self.core);
    }

    /// As another process has left it. At rest until [`Vfs::go_on`].
    pub fn take_over(
        meta: Arc<dyn Metadata>,
        data: Arc<dyn DataBackend>,
        options: MountOptions,
        state: VfsState,
    ) -> Self {
        let core = Core::new(meta, data, options);
        core.take_over(state);
        Self { core }
    }
}

impl Core {
    fn told(&self) -> VfsState {
        let (mut inodes, mut files, mut dirs) = (Vec::new(), Vec::new(), Vec::new());
        for inode in self.all() {
            inodes.extend(inode.state().told(inode.id));
        }
        for (handle, file) in &*locked(&self.files) {
            let OpenFile { inode, mode, seen, .. } = file.told();
            files.push(OpenFile { handle: *handle, inode, mode, seen });
        }
        for (handle, dir) in &*locked(&self.dirs) {
            // Nobody reads it while the mount is at rest.
            let pages = dir.pages.try_lock().map(|pages| pages.clone()).unwrap_or_default();
            let renamed = dir.inode.state().renamed;
            let page = pages.current.map(|page| page.told(renamed));
            dirs.push(OpenDir { handle: *handle, inode: dir.inode.id, starts: pages.starts, page });
        }
        inodes.sort_unstable_by_key(|known| known.inode);
        files.sort_unstable_by_key(|file| file.handle);
        dirs.sort_unstable_by_key(|dir| dir.handle);
        VfsState { next_handle: self.next_handle.load(Ordering::Relaxed), inodes, files, dirs }
    }

    fn take_over(&self, state: VfsState) {
        let VfsState { next_handle, inodes, files, dirs } = state;
        let mut opens: BTreeMap<InodeId, u32> = BTreeMap::new();
        files.iter().for_each(|file| *opens.entry(file.inode).or_default() += 1);
        for known in inodes {
            let opens = opens.get(&known.inode).copied().unwrap_or(0);
            let inode = self.inode(known.inode);
            *inode.state() = State::from_told(known, opens);
            self.watch(inode.id);
        }
        let handles = files.iter().map(|file| file.handle).chain(dirs.iter().map(|dir| dir.handle));
        let above = handles.max().map_or(1, |last| last.saturating_add(1));
        self.next_handle.store(next_handle.max(above), Ordering::Relaxed);
        for file in files {
            let handle = FileHandle::from_told(self.inode(file.inode), file);
            locked(&self.files).insert(file.handle, Arc::new(handle));
        }
        for dir in dirs {
            let inode = self.inode(dir.inode);
            let pages = Pages { starts: dir.starts, current: dir.page.map(Page::from_told) };
            let open = DirHandle { inode, pages: tokio::sync::Mutex::new(pages) };
            locked(&self.dirs).insert(dir.handle, Arc::new(open));
        }
    }
}

impl Page {
    fn told(self, renamed: u64) -> DirPage {
        let entries = self.entries.iter().map(|entry| DirEntry { attr: None, ..entry.clone() }).collect();
        DirPage { number: self.number as u64, entries, end: self.end, fresh: self.renamed == renamed }
    }

    fn from_told(page: DirPage) -> Self {
        Self {
            number: usize::try_from(page.number).unwrap_or(usize::MAX),
            entries: Arc::new(page.entries),
            end: page.end,
            // They are asked for when they are wanted.
            plus: false,
            // The count of own changes begins anew.
            renamed: if page.fresh { 0 } else { u64::MAX },
        }
    }
}

#[cfg(test)]
mod tests {
    use curvefs_types::Wire;
    use curvefs_types::wire::Seeds;
    use proptest::prelude::*;

    use super::*;
    use crate::memory::MemoryBackend;
    use curvefs_types::WriterId;

    fn core() -> Arc<Core> {
        struct Nobody;
        impl Metadata for Nobody {
            fn fs(&self) -> curvefs_types::FsId {
                curvefs_types::FsId(1)
            }
            fn change(&self, _: curvefs_types::Op) -> curvefs_types::FsFuture<'_, curvefs_types::Reply> {
                Box::pin(async { Err(FsError::Stopped) })
            }
            fn query(&self, _: curvefs_types::Query) -> curvefs_types::FsFuture<'_, curvefs_types::Answer> {
                Box::pin(async { Err(FsError::Stopped) })
            }
            fn stat_fs(&self) -> curvefs_types::FsFuture<'_, curvefs_types::Usage> {
                Box::pin(async { Err(FsError::Stopped) })
            }
        }
        let data = Arc::new(MemoryBackend::new(WriterId(1)));
        Core::new(Arc::new(Nobody), data, MountOptions::default())
    }

    /// As a real mount tells it: in order, nothing twice, nothing that nobody counts on.
    fn tidy(mut state: VfsState) -> VfsState {
        state.inodes.sort_by_key(|known| known.inode);
        state.inodes.dedup_by_key(|known| known.inode);
        for known in &mut state.inodes {
            known.lock_owners.sort_unstable();
            known.lock_owners.dedup();
            known.lookups |= 1;
            // Attributes are of their inode.
            known.attr.iter_mut().for_each(|attr| attr.inode = known.inode);
        }
        let known = |inode| state.inodes.iter().any(|known| known.inode == inode);
        state.files.retain(|file| known(file.inode));
        state.dirs.retain(|dir| known(dir.inode));
        for (number, file) in state.files.iter_mut().enumerate() {
            file.handle = number as u64;
        }
        for (number, dir) in state.dirs.iter_mut().enumerate() {
            dir.handle = 100 + number as u64;
            if let Some(page) = &mut dir.page {
                page.entries.iter_mut().for_each(|entry| entry.attr = None);
            }
        }
        state.next_handle = state.next_handle.max(1000);
        state
    }

    proptest! {
        #[test]
        fn what_is_told_is_taken_over_and_told_again(seed: u64) {
            let state = tidy(VfsState::sample(&mut Seeds::new(seed)));
            let bytes = state.to_row();
            prop_assert_eq!(&VfsState::from_row(&bytes).unwrap(), &state);
            let core = core();
            core.take_over(state.clone());
            prop_assert_eq!(core.told(), state);
        }

        #[test]
        fn any_bytes_are_taken(bytes: Vec<u8>, seed: u64, cut: u16) {
            let _ = VfsState::from_row(&bytes);
            let hostile = VfsState::sample(&mut Seeds::new(seed));
            let bytes = hostile.to_row();
            let _ = VfsState::from_row(&bytes[..usize::from(cut) % (bytes.len() + 1)]);
            // Numbers that no mount would tell do not panic either.
            let core = core();
            core.take_over(hostile);
            core.told();
        }
    }

    #[test]
    fn golden_bytes() {
        let mode = OpenMode { read: true, append: true, ..OpenMode::default() };
        let state = VfsState {
            next_handle: 9,
            inodes: vec![KnownInode {
                inode: InodeId(5),
                lookups: 2,
                attr: None,
                held: true,
                told: true,
                seen: false,
                failure: Some(FsError::NotFound),
                failures: 3,
                lock_owners: vec![LockOwner(7)],
            }],
            files: vec![OpenFile { handle: 8, inode: InodeId(5), mode, seen: 3 }],
            dirs: vec![OpenDir { handle: 4, inode: InodeId(1), starts: vec![None], page: None }],
        };
        let number = |number: u64| number.to_le_bytes().to_vec();
        let count = |count: u32| count.to_le_bytes().to_vec();
        let parts = [
            number(9),
            // inodes
            count(1),
            number(5),
            number(2),
            vec![0, 1, 1, 0, 1, 1],
            number(3),
            count(1),
            number(7),
            // files
            count(1),
            number(8),
            number(5),
            vec![1, 0, 1, 0, 0, 0],
            number(3),
            // dirs
            count(1),
            number(4),
            number(1),
            count(1),
            vec![0, 0],
        ];
        assert_eq!(state.to_row(), parts.concat());
    }
}
