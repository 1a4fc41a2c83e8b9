//! A process's view of a simulated disk: the `Disk` and `File` traits over the platter.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;

use crate::board::Board;
use crate::disk::{BoxFuture, DirEntry, Disk, File, OpenMode, Space};
use crate::machine::FilePlace;
use crate::sim::content::{Change, PAGE};
use crate::sim::disk::{DiskFault, Platter};
use crate::sim::names::{InodeId, Node};
use crate::watch::Watch;

/// What an operation does, for deciding whether a fault hits it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    Sync,
}

fn admit(platter: &Platter, life: u64, access: Access) -> io::Result<()> {
    let faulty = match platter.fault {
        DiskFault::None => false,
        DiskFault::All => true,
        DiskFault::Writes => access != Access::Read,
        DiskFault::Syncs => access == Access::Sync,
    };
    if faulty || platter.life != life { Err(Platter::eio()) } else { Ok(()) }
}

fn with<T>(
    platter: &Mutex<Platter>,
    life: u64,
    access: Access,
    act: impl FnOnce(&mut Platter) -> io::Result<T>,
) -> io::Result<T> {
    let mut platter = platter.lock().expect("no panic while the platter is locked");
    admit(&platter, life, access)?;
    act(&mut platter)
}

/// How often it is looked whether a disk still hangs.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Lets the time pass that the disk takes for an answer.
async fn answer(platter: &Mutex<Platter>, life: u64, delay: Duration) {
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let hangs = || {
        let platter = platter.lock().expect("no panic while the platter is locked");
        platter.hung && platter.life == life
    };
    while hangs() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A mounted simulated disk.
pub(super) struct SimMount {
    platter: Arc<Mutex<Platter>>,
    life: u64,
    watch: Arc<Watch>,
}

impl SimMount {
    pub(super) fn new(platter: Arc<Mutex<Platter>>, life: u64) -> Self {
        Self { platter, life, watch: Watch::new() }
    }

    fn with<T>(&self, access: Access, act: impl FnOnce(&mut Platter) -> io::Result<T>) -> io::Result<T> {
        with(&self.platter, self.life, access, act)
    }
}

impl Disk for SimMount {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let inode = self.with(Access::Read, |platter| {
            let inode = match (platter.names.get(path), mode) {
                (Some(Node::File(_)), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
                (None, OpenMode::Create | OpenMode::CreateNew) => {
                    admit(platter, self.life, Access::Write)?;
                    let inode = platter.new_inode();
                    if let Err(error) = platter.names.create_file(path, inode) {
                        platter.inodes.remove(&inode);
                        return Err(error);
                    }
                    inode
                }
                _ => platter.names.file(path)?,
            };
            platter.inode(inode)?.handles += 1;
            Ok(inode)
        })?;
        Ok(Arc::new(SimFile::new(self.platter.clone(), self.life, inode, self.watch.clone())))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.with(Access::Write, |platter| platter.names.create_dir_all(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.with(Access::Write, |platter| {
            platter.names.rename(from, to)?;
            platter.collect();
            Ok(())
        })
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.with(Access::Write, |platter| {
            platter.names.remove_file(path)?;
            platter.collect();
            Ok(())
        })
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.with(Access::Write, |platter| {
            platter.names.remove_dir_all(path)?;
            platter.collect();
            Ok(())
        })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.with(Access::Read, |platter| {
            let names = platter.names.list(path)?;
            let entry = |(name, node)| match node {
                Node::Dir => DirEntry { name, len: 0, is_dir: true },
                Node::File(inode) => {
                    DirEntry { name, len: platter.inodes[&inode].current.len(), is_dir: false }
                }
            };
            Ok(names.into_iter().map(entry).collect())
        })
    }

    fn sync_dir<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            let delay = self.with(Access::Sync, |platter| Ok(platter.draw_sync_delay()))?;
            let _wait = self.watch.begin();
            answer(&self.platter, self.life, delay).await;
            self.with(Access::Sync, |platter| platter.names.sync_dir(path))
        })
    }

    fn space(&self) -> io::Result<Space> {
        self.with(Access::Read, |platter| Ok(Space { total: platter.capacity, free: platter.free_bytes() }))
    }

    fn unanswered(&self) -> Duration {
        self.watch.look()
    }

    fn board(&self) -> Option<Arc<Board>> {
        let mut platter = self.platter.lock().expect("no panic while the platter is locked");
        let board = Board::simulated(platter.place(platter.boards.len() as u64));
        platter.boards.push(board.clone());
        Some(board)
    }
}

pub(super) struct SimFile {
    platter: Arc<Mutex<Platter>>,
    life: u64,
    inode: InodeId,
    watch: Arc<Watch>,
}

impl SimFile {
    /// A handle that has been counted.
    pub(super) fn new(platter: Arc<Mutex<Platter>>, life: u64, inode: InodeId, watch: Arc<Watch>) -> Self {
        Self { platter, life, inode, watch }
    }

    fn with<T>(&self, access: Access, act: impl FnOnce(&mut Platter) -> io::Result<T>) -> io::Result<T> {
        with(&self.platter, self.life, access, act)
    }

    fn change(&self, change: Change) -> io::Result<()> {
        self.with(Access::Write, |platter| platter.change(self.inode, change))
    }

    /// What a read that had to wait finds: each page as it was at its begin, which `buf` holds, or as it is now.
    fn read_rest(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.with(Access::Read, |platter| {
            let mut now = vec![0; buf.len()];
            let n = platter.inode(self.inode)?.current.read(offset, &mut now);
            let mut at = 0;
            while at < buf.len() {
                let end = (at + (PAGE - (offset + at as u64) % PAGE) as usize).min(buf.len());
                if platter.rng.random() {
                    buf[at..end].copy_from_slice(&now[at..end]);
                }
                at = end;
            }
            Ok(n)
        })
    }

    fn begin_sync(&self) -> io::Result<(u64, Duration)> {
        self.with(Access::Write, |platter| Ok((platter.inode(self.inode)?.mark(), platter.draw_sync_delay())))
    }

    fn end_sync(&self, mark: u64) -> io::Result<()> {
        self.with(Access::Write, |platter| {
            if platter.fault == DiskFault::Syncs {
                let Platter { inodes, rng, .. } = platter;
                if let Some(inode) = inodes.get_mut(&self.inode) {
                    inode.fail_sync(rng);
                }
                return Err(Platter::eio());
            }
            platter.stats.syncs += 1;
            platter.inode(self.inode)?.sync_up_to(mark);
            Ok(())
        })
    }
}

impl File for SimFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.with(Access::Read, |platter| Ok(platter.inode(self.inode)?.current.read(offset, buf)))
    }

    fn read(self: Arc<Self>, offset: u64, len: usize) -> BoxFuture<'static, io::Result<Bytes>> {
        Box::pin(async move {
            let mut buf = vec![0; len];
            let mut n = self.read_at(offset, &mut buf)?;
            if let Some(delay) = self.with(Access::Read, |platter| Ok(platter.draw_read_delay()))? {
                let _wait = self.watch.begin();
                answer(&self.platter, self.life, delay).await;
                n = self.read_rest(offset, &mut buf)?;
            }
            buf.truncate(n);
            Ok(Bytes::from(buf))
        })
    }

    fn write_at(&self, offset: u64, parts: &[io::IoSlice<'_>]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
        for part in parts {
            bytes.extend_from_slice(part);
        }
        self.with(Access::Write, |platter| {
            platter.stats.writes += 1;
            platter.stats.bytes_written += bytes.len() as u64;
            platter.change(self.inode, Change::Write { offset, bytes })
        })
    }

    fn sync(self: Arc<Self>) -> BoxFuture<'static, io::Result<()>> {
        let begun = self.begin_sync();
        Box::pin(async move {
            let (mark, delay) = begun?;
            let _wait = self.watch.begin();
            answer(&self.platter, self.life, delay).await;
            self.end_sync(mark)
        })
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.change(Change::Allocate { offset, len })
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.change(Change::Punch { offset, len })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::SetLen(len))
    }

    fn len(&self) -> io::Result<u64> {
        self.with(Access::Read, |platter| Ok(platter.inode(self.inode)?.current.len()))
    }

    fn place(&self) -> Option<FilePlace> {
        self.with(Access::Read, |platter| Ok(platter.place(self.inode))).ok()
    }

    fn path(&self) -> io::Result<PathBuf> {
        Ok(PathBuf::from(format!("/{}", self.inode)))
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        // A poisoned lock means that a test is failing already.
        let Ok(mut platter) = self.platter.lock() else { return };
        if platter.life != self.life {
            return;
        }
        let Some(inode) = platter.inodes.get_mut(&self.inode) else { return };
        inode.handles -= 1;
        let last = inode.handles == 0;
        if last {
            platter.collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::time::Duration;

    use super::*;
    use crate::sim::disk::{SimDisk, SimDiskConfig};

    fn disk(seed: u64) -> SimDisk {
        SimDisk::new(SimDiskConfig { seed, ..SimDiskConfig::default() })
    }

    fn content(disk: &dyn Disk, path: &str) -> Option<Vec<u8>> {
        let file = disk.open(Path::new(path), OpenMode::Existing).ok()?;
        let mut buf = vec![0; file.len().unwrap() as usize];
        file.read_at(0, &mut buf).unwrap();
        Some(buf)
    }

    #[tokio::test]
    async fn a_crash_keeps_what_was_synced_and_any_sectors_of_the_rest() {
        let mut outcomes = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let sim = disk(seed);
            let mount = sim.mount();
            let file = mount.open(Path::new("a"), OpenMode::Create).unwrap();
            file.write_at(0, &[IoSlice::new(&[1; 1024])]).unwrap();
            file.clone().sync().await.unwrap();
            mount.sync_dir(Path::new("")).await.unwrap();
            assert!(!sim.has_unsynced(Path::new("")));
            file.write_at(0, &[IoSlice::new(&[2; 1536])]).unwrap();
            assert!(sim.has_unsynced(Path::new("")) && !sim.has_unsynced(Path::new("b")));
            sim.crash();
            assert!(file.len().is_err(), "a handle of the dead process must not work");
            let after = content(&*sim.mount(), "a").expect("the name was synced");
            for sector in after.chunks(512) {
                assert!(sector.iter().all(|&b| b == sector[0]), "a sector is atomic");
            }
            outcomes.insert(after.chunks(512).map(|sector| sector[0]).collect::<Vec<u8>>());
        }
        assert!(
            outcomes.contains(&vec![1, 1])
                && outcomes.contains(&vec![2, 2, 2])
                && outcomes.contains(&vec![1, 2])
        );
        assert!(outcomes.contains(&vec![2, 1]), "sectors are lost out of order too");
    }

    #[tokio::test]
    async fn unsynced_names_may_be_lost_and_synced_ones_are_kept() {
        let (mut kept, mut lost, mut renamed) = (0, 0, 0);
        for seed in 0..100 {
            let sim = disk(seed);
            let mount = sim.mount();
            crate::make_dirs_durable(&*mount, Path::new("d")).await.unwrap();
            crate::replace_file(&*mount, Path::new("d/sure"), b"1").await.unwrap();
            let file = mount.open(Path::new("d/maybe"), OpenMode::CreateNew).unwrap();
            file.write_at(0, &[IoSlice::new(b"2")]).unwrap();
            file.sync().await.unwrap();
            mount.rename(Path::new("d/sure"), Path::new("d/moved")).unwrap();
            sim.crash();
            let mount = sim.mount();
            match (content(&*mount, "d/sure"), content(&*mount, "d/moved")) {
                (Some(old), None) => assert_eq!(old, b"1"),
                (None, Some(new)) => {
                    assert_eq!(new, b"1");
                    renamed += 1;
                }
                other => panic!("a rename is atomic: {other:?}"),
            }
            if mount.list(Path::new("d")).unwrap().iter().any(|entry| entry.name == "maybe") {
                kept += 1;
            } else {
                lost += 1;
            }
        }
        assert!(kept > 0 && lost > 0 && renamed > 0);
    }

    #[tokio::test]
    async fn a_full_disk_refuses_and_recovers() {
        let sim = SimDisk::new(SimDiskConfig { capacity: 8 * 4096, ..SimDiskConfig::default() });
        let mount = sim.mount();
        let file = mount.open(Path::new("a"), OpenMode::Create).unwrap();
        file.allocate(0, 6 * 4096).unwrap();
        let other = mount.open(Path::new("b"), OpenMode::Create).unwrap();
        assert_eq!(other.allocate(0, 3 * 4096).unwrap_err().kind(), io::ErrorKind::StorageFull);
        other.write_at(0, &[IoSlice::new(&[1; 8192])]).unwrap();
        assert_eq!(mount.space().unwrap().free, 0);
        assert_eq!(
            file.write_at(6 * 4096, &[IoSlice::new(&[1])]).unwrap_err().kind(),
            io::ErrorKind::StorageFull
        );
        file.write_at(0, &[IoSlice::new(&[1; 4096])]).unwrap();
        mount.remove_file(Path::new("a")).unwrap();
        assert_eq!(mount.space().unwrap().free, 0, "an open file keeps its blocks");
        drop(file);
        assert_eq!(mount.space().unwrap().free, 6 * 4096);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_sync_covers_what_was_written_before_it_and_nothing_else() {
        let delay = Duration::from_millis(5)..Duration::from_millis(9);
        let mut later_survived = 0;
        for seed in 0..50 {
            let sim =
                SimDisk::new(SimDiskConfig { seed, sync_delay: delay.clone(), ..SimDiskConfig::default() });
            let mount = sim.mount();
            let file = mount.open(Path::new("a"), OpenMode::Create).unwrap();
            mount.sync_dir(Path::new("")).await.unwrap();
            file.write_at(0, &[IoSlice::new(b"x")]).unwrap();
            let begun = tokio::time::Instant::now();
            let syncing = file.clone().sync();
            file.write_at(0, &[IoSlice::new(b"y")]).unwrap();
            syncing.await.unwrap();
            // Tokio's timers round up to the millisecond.
            assert!((delay.start..=delay.end + Duration::from_millis(1)).contains(&begun.elapsed()));
            sim.crash();
            let after = content(&*sim.mount(), "a").unwrap();
            assert!(after == b"x" || after == b"y");
            later_survived += u32::from(after == b"y");
        }
        assert!(later_survived > 0 && later_survived < 50);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_read_sees_each_page_as_it_was_at_its_begin_or_at_its_end() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..50 {
            let sim = disk(seed);
            let mount = sim.mount();
            let file = mount.open(Path::new("a"), OpenMode::Create).unwrap();
            file.write_at(0, &[IoSlice::new(&[1; 8192])]).unwrap();
            sim.set_read_delay(Duration::from_millis(5)..Duration::from_millis(9));
            let reading = tokio::spawn(file.clone().read(100, 8000));
            tokio::task::yield_now().await;
            file.write_at(0, &[IoSlice::new(&[2; 8192])]).unwrap();
            let bytes = reading.await.unwrap().unwrap();
            assert_eq!(bytes.len(), 8000);
            assert!(bytes[..3996].iter().all(|byte| *byte == bytes[0]));
            assert!(bytes[3996..].iter().all(|byte| *byte == bytes[3996]));
            seen.insert((bytes[0], bytes[3996]));
        }
        assert_eq!(seen.len(), 4, "{seen:?}");
    }

    #[tokio::test]
    async fn faults_hit_what_they_name_and_a_failed_sync_may_lose_data() {
        let mut lost = 0;
        for seed in 0..20 {
            let sim = disk(seed);
            let mount = sim.mount();
            let file = mount.open(Path::new("a"), OpenMode::Create).unwrap();
            mount.sync_dir(Path::new("")).await.unwrap();
            file.write_at(0, &[IoSlice::new(b"x")]).unwrap();
            sim.set_fault(DiskFault::Syncs);
            assert_eq!(file.clone().sync().await.unwrap_err().raw_os_error(), Some(5));
            sim.set_fault(DiskFault::None);
            file.clone().sync().await.expect("the second sync lies, as the kernel's does");
            assert_eq!(content(&*mount, "a").unwrap(), b"x");
            sim.crash();
            lost += u32::from(content(&*sim.mount(), "a").unwrap().is_empty());
        }
        assert!(lost > 0);
        let sim = disk(1);
        let mount = sim.mount();
        mount.open(Path::new("a"), OpenMode::Create).unwrap();
        sim.set_fault(DiskFault::Writes);
        assert_eq!(content(&*mount, "a").unwrap(), b"");
        assert!(mount.open(Path::new("b"), OpenMode::Create).is_err());
        sim.set_fault(DiskFault::All);
        assert!(mount.list(Path::new("")).is_err());
    }

    #[tokio::test]
    async fn a_killed_process_leaves_its_page_cache() {
        let sim = disk(3);
        let mount = sim.mount();
        let file = mount.open(Path::new("a"), OpenMode::Create).unwrap();
        file.write_at(0, &[IoSlice::new(b"x")]).unwrap();
        sim.detach();
        assert!(mount.list(Path::new("")).is_err());
        assert_eq!(content(&*sim.mount(), "a").unwrap(), b"x");
        sim.flip_bit(Path::new("a"), 0, 0).unwrap();
        assert_eq!(content(&*sim.mount(), "a").unwrap(), b"y");
        assert_eq!(sim.flip_random_bit(Path::new("")).unwrap(), ("a".into(), 0));
    }
}
