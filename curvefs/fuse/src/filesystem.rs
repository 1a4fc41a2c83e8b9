//! Every operation: arguments are copied, the `Vfs` is asked, and its answer given. The thread that reads requests never waits: what
//! cannot be answered at once goes on as a task.

use std::ffi::{OsStr, OsString};
use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Waker};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use curvefs_types::{FsError, InodeId, Kind, LockFamily, RenameMode, SetAttr};
use curvefs_vfs::{Caller, Entry, LockWish, Making, Seek, SetMode, Space, buffers};
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use tokio::runtime::Handle;

use crate::answers::{Device, answer_read};
use crate::convert;
use crate::convert::{errno, ino, inode};
use crate::features::Features;
use crate::gate::Gate;
use crate::handover::{Agreed, LockWait};
use crate::idmap::MappedVfs;
use crate::mount::Notices;
use crate::waits::Waiting;

/// Bytes of one write request.
const WRITE_BYTES_MAX: u32 = 1 << 20;
/// Bytes that the kernel reads ahead.
const READAHEAD_BYTES: u32 = 1 << 20;
/// Requests in the background of the kernel.
const BACKGROUND_MAX: u16 = 128;
/// Bytes of a block as `statfs` counts.
const BLOCK_BYTES: u64 = 4096;
/// What is free, as long as there is no quota: an exbibyte, and so many inodes.
const FREE_BYTES: u64 = 1 << 60;
const FREE_INODES: u64 = 1 << 40;
/// Bytes that one `copy_file_range` can report.
const COPY_BYTES_MAX: u64 = 1 << 30;

/// Inode numbers are never used again.
const GENERATION: Generation = Generation(0);

/// What the kernel is asked for, where it can.
fn capabilities() -> InitFlags {
    InitFlags::FUSE_ASYNC_READ
        | InitFlags::FUSE_ASYNC_DIO
        | InitFlags::FUSE_ATOMIC_O_TRUNC
        | InitFlags::FUSE_BIG_WRITES
        | InitFlags::FUSE_DONT_MASK
        | InitFlags::FUSE_DO_READDIRPLUS
        | InitFlags::FUSE_READDIRPLUS_AUTO
        | InitFlags::FUSE_PARALLEL_DIROPS
        | InitFlags::FUSE_POSIX_ACL
        | InitFlags::FUSE_POSIX_LOCKS
        | InitFlags::FUSE_FLOCK_LOCKS
        | InitFlags::FUSE_HANDLE_KILLPRIV_V2
        | InitFlags::FUSE_EXPLICIT_INVAL_DATA
        | InitFlags::FUSE_CACHE_SYMLINKS
        | InitFlags::FUSE_MAX_PAGES
}

/// The kernel's side of a `Vfs`.
pub(crate) struct CurveFuse {
    vfs: MappedVfs,
    notices: Notices,
    features: Features,
    runtime: Handle,
    gate: Arc<Gate>,
    device: Device,
    /// Set already if another process has begun the session.
    agreed: Arc<OnceLock<Agreed>>,
}

/// Runs `$work` and gives its value to `$answer`, or its error to the reply.
macro_rules! serve {
    ($self:ident, $reply:ident, |$vfs:ident| $work:expr, |$value:pat_param| $answer:expr) => {{
        let $vfs = $self.vfs.clone();
        $self.spawn(async move {
            match $work.await {
                Ok($value) => $answer,
                Err(error) => $reply.error(errno(error)),
            }
        })
    }};
}

/// The value, or the error as the answer.
macro_rules! checked {
    ($value:expr, $reply:ident) => {
        match $value {
            Ok(value) => value,
            Err(error) => return $reply.error(errno(error)),
        }
    };
}

impl CurveFuse {
    /// Serves on the current runtime.
    pub fn new(
        vfs: MappedVfs,
        notices: Notices,
        features: Features,
        gate: Arc<Gate>,
        device: Device,
        agreed: Arc<OnceLock<Agreed>>,
    ) -> Self {
        Self { vfs, notices, features, runtime: Handle::current(), gate, device, agreed }
    }

    /// Serves a request.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let vfs = self.vfs.clone();
        self.spawn_uncounted(async move {
            let metering = vfs.counters().requests.begin();
            work.await;
            metering.done(0);
        });
    }

    /// Serves a request that may wait for other programs, which would spoil the mean of those that only wait for servers.
    fn spawn_uncounted(&self, work: impl Future<Output = ()> + Send + 'static) {
        // Bounded by the kernel: it has so many requests under way at most. The runtime ends them with itself.
        let under_way = self.gate.enter();
        let mut work = Box::pin(async move {
            work.await;
            drop(under_way);
        });
        // What needs nobody else is answered here: waking another thread costs more than most of these answers.
        let context = self.runtime.enter();
        if work.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            // Polled anew it leaves its own waker where it waits.
            drop(self.runtime.spawn(work));
        }
        drop(context);
        self.gate.pass();
    }
}

fn caller(request: &Request, umask: u32) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), umask }
}

/// Who may not keep set-user-id when changing a file. The kernel says it for writes; for the rest root is taken for
/// who has `CAP_FSETID`.
fn kills_privileges(request: &Request) -> bool {
    request.uid() != 0
}

fn entry(reply: ReplyEntry, entry: &Entry) {
    reply.entry_with_ttls(&entry.attr_ttl, &entry.entry_ttl, &convert::file_attr(&entry.attr), GENERATION);
}

fn open_flags(keep_cache: bool) -> FopenFlags {
    if keep_cache { FopenFlags::FOPEN_KEEP_CACHE } else { FopenFlags::empty() }
}

/// An answer for `getxattr` and `listxattr`, which ask for the size first.
fn xattr(reply: ReplyXattr, size: u32, value: &[u8]) {
    if size == 0 {
        reply.size(value.len() as u32);
    } else if value.len() > size as usize {
        reply.error(Errno::ERANGE);
    } else {
        reply.data(value);
    }
}

fn space(mode: i32) -> Result<Space, FsError> {
    let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
    match mode & !libc::FALLOC_FL_KEEP_SIZE {
        0 => Ok(Space::Allocate { keep_size }),
        libc::FALLOC_FL_PUNCH_HOLE if keep_size => Ok(Space::Punch),
        libc::FALLOC_FL_ZERO_RANGE => Ok(Space::Zero { keep_size }),
        _ => Err(FsError::NotSupported),
    }
}

fn rename_mode(flags: RenameFlags) -> Result<RenameMode, FsError> {
    let modes = [
        (RenameFlags::empty(), RenameMode::Replace),
        (RenameFlags::RENAME_NOREPLACE, RenameMode::NoReplace),
        (RenameFlags::RENAME_EXCHANGE, RenameMode::Exchange),
    ];
    let mode = modes.into_iter().find(|(known, _)| *known == flags);
    mode.map(|(_, mode)| mode).ok_or(FsError::Invalid)
}

/// `setattr` as the kernel sends it: the length goes its own way.
async fn set_attr(
    vfs: &MappedVfs,
    id: InodeId,
    set: SetAttr,
    size: Option<u64>,
    kill_priv: bool,
) -> Result<(curvefs_types::Attr, Duration), FsError> {
    if let Some(length) = size {
        let truncated = vfs.truncate(id, length, kill_priv).await?;
        if set == SetAttr::default() {
            return Ok(truncated);
        }
    }
    vfs.set_attr(id, set).await
}

impl Filesystem for CurveFuse {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        if let Some(agreed) = self.agreed.get() {
            // What was agreed with the kernel holds; this is not the kernel who asks.
            self.features.told(capabilities(), InitFlags::from_bits_retain(agreed.offered));
            return Ok(());
        }
        self.features.told(capabilities(), config.capabilities());
        let wanted = capabilities() & config.capabilities();
        if let Err(unsupported) = config.add_capabilities(wanted) {
            tracing::warn!(?unsupported, "the kernel offers capabilities and refuses them");
        }
        // Each gives the nearest that the kernel takes, and then that is what is asked for.
        let nearest = |asked: Result<u32, u32>| asked.err();
        let max_write = nearest(config.set_max_write(WRITE_BYTES_MAX)).unwrap_or(WRITE_BYTES_MAX);
        let _ = config.set_max_write(max_write);
        let readahead_offered = nearest(config.set_max_readahead(u32::MAX)).unwrap_or(u32::MAX);
        let readahead = READAHEAD_BYTES.min(readahead_offered);
        let _ = config.set_max_readahead(readahead);
        let background = config.set_max_background(BACKGROUND_MAX).err().unwrap_or(BACKGROUND_MAX);
        let _ = config.set_max_background(background);
        let fuser::Version(major, minor) = config.kernel_abi();
        let (offered, taken) = (config.capabilities().bits(), wanted.bits());
        let agreed =
            Agreed { major, minor, offered, taken, readahead_offered, readahead, max_write, background };
        self.agreed.get_or_init(|| agreed);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = checked!(convert::name(name), reply);
        serve!(self, reply, |vfs| vfs.lookup(inode(parent), name), |found| entry(reply, &found));
    }

    fn forget(&self, _: &Request, ino: INodeNo, lookups: u64) {
        self.vfs.forget(inode(ino), lookups);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        serve!(self, reply, |vfs| vfs.get_attr(inode(ino)), |(attr, ttl)| {
            reply.attr(&ttl, &convert::file_attr(&attr));
        });
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (atime, mtime) = (atime.map(convert::set_time), mtime.map(convert::set_time));
        let set = SetAttr { mode, uid, gid, atime, mtime, flags: None, kill_priv: false };
        let kill_priv = kills_privileges(request);
        let vfs = self.vfs.clone();
        self.spawn(async move {
            match set_attr(&vfs, inode(ino), set, size, kill_priv).await {
                Ok((attr, ttl)) => reply.attr(&ttl, &convert::file_attr(&attr)),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        serve!(self, reply, |vfs| vfs.read_link(inode(ino)), |target| reply.data(&target));
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let name = checked!(convert::name(name), reply);
        let kind = checked!(convert::kind(mode).ok_or(FsError::Invalid), reply);
        let making = Making { kind, mode: mode & 0o7777, rdev, target: Bytes::new() };
        let caller = caller(request, umask);
        serve!(self, reply, |vfs| vfs.make(inode(parent), name, making, caller), |made| entry(reply, &made));
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let name = checked!(convert::name(name), reply);
        let caller = caller(request, umask);
        let mode = mode & 0o7777;
        serve!(self, reply, |vfs| vfs.mkdir(inode(parent), name, mode, caller, None), |made| entry(
            reply, &made
        ));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = checked!(convert::name(name), reply);
        serve!(self, reply, |vfs| vfs.unlink(inode(parent), name), |()| reply.ok());
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = checked!(convert::name(name), reply);
        serve!(self, reply, |vfs| vfs.rmdir(inode(parent), name), |()| reply.ok());
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let name = checked!(convert::name(name), reply);
        let target = Bytes::copy_from_slice(target.as_os_str().as_bytes());
        let making = Making { kind: Kind::Symlink, mode: 0o777, rdev: 0, target };
        let caller = caller(request, 0);
        serve!(self, reply, |vfs| vfs.make(inode(parent), name, making, caller), |made| entry(reply, &made));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let from = (inode(parent), checked!(convert::name(name), reply));
        let to = (inode(new_parent), checked!(convert::name(new_name), reply));
        let mode = checked!(rename_mode(flags), reply);
        serve!(self, reply, |vfs| vfs.rename(from, to, mode), |()| reply.ok());
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = checked!(convert::name(name), reply);
        serve!(self, reply, |vfs| vfs.link(inode(ino), inode(parent), name), |linked| entry(reply, &linked));
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let mode = convert::open_mode(flags.0);
        let kill_priv = mode.truncate && kills_privileges(request);
        let (vfs, notices) = (self.vfs.clone(), self.notices.clone());
        self.spawn(async move {
            let opened = vfs.open(inode(ino), mode).await;
            let killed = match &opened {
                Ok(_) if kill_priv => {
                    vfs.set_attr(inode(ino), SetAttr { kill_priv, ..SetAttr::default() }).await.map(drop)
                }
                _ => Ok(()),
            };
            if opened.is_ok_and(|opened| !opened.keep_cache) {
                // Opening drops pages, but not the length and times that are believed for a while.
                notices.forget_attr(inode(ino)).await;
            }
            match killed.and(opened) {
                Ok(opened) => reply.opened(FileHandle(opened.handle), open_flags(opened.keep_cache)),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let name = checked!(convert::name(name), reply);
        let caller = caller(request, umask);
        let how = (convert::open_mode(flags), flags & libc::O_EXCL != 0);
        serve!(self, reply, |vfs| vfs.create(inode(parent), name, mode & 0o7777, how, caller), |(
            made,
            opened,
        )| {
            let attr = convert::file_attr(&made.attr);
            let flags = open_flags(opened.keep_cache);
            reply.created(&made.attr_ttl, &attr, GENERATION, FileHandle(opened.handle), flags);
        });
    }

    fn read(
        &self,
        request: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (device, unique) = (self.device.get().cloned(), request.unique().0);
        serve!(self, reply, |vfs| vfs.read_pieces(fh.0, offset, size), |pieces| {
            let device = device.as_ref().map(|device| device.as_fd());
            answer_read(device, unique, reply, &pieces);
        });
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let data = buffers::copy(data);
        let kill_priv = flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let from_cache = flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let vfs = self.vfs.clone();
        self.spawn(async move {
            let written = if from_cache {
                // A page of a mapping: it has its place, whatever the file was opened for.
                vfs.write_at(fh.0, offset, data).await
            } else {
                vfs.write(fh.0, offset, data, kill_priv).await
            };
            match written {
                Ok(bytes) => reply.written(bytes),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn flush(&self, _: &Request, _: INodeNo, fh: FileHandle, owner: LockOwner, reply: ReplyEmpty) {
        let owner = curvefs_types::LockOwner(owner.0);
        serve!(self, reply, |vfs| vfs.close(fh.0, Some(owner)), |()| reply.ok());
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        owner: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        let owner = owner.map(|owner| curvefs_types::LockOwner(owner.0));
        serve!(self, reply, |vfs| vfs.release(fh.0, owner), |()| reply.ok());
    }

    fn fsync(&self, _: &Request, _: INodeNo, fh: FileHandle, _: bool, reply: ReplyEmpty) {
        serve!(self, reply, |vfs| vfs.fsync(fh.0), |()| reply.ok());
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        serve!(self, reply, |vfs| vfs.open_dir(inode(ino)), |handle| {
            reply.opened(FileHandle(handle), FopenFlags::empty());
        });
    }

    fn readdir(&self, _: &Request, _: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        serve!(self, reply, |vfs| vfs.read_dir(fh.0, offset, false), |lines| {
            for line in lines {
                let name = OsString::from_vec(line.name);
                if reply.add(ino(line.inode), line.next, convert::file_type(line.kind), name) {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn readdirplus(&self, _: &Request, _: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        let vfs = self.vfs.clone();
        self.spawn(async move {
            match vfs.read_dir(fh.0, offset, true).await {
                Ok(lines) => add_lines(&vfs, lines, reply),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn releasedir(&self, _: &Request, _: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        checked!(self.vfs.release_dir(fh.0), reply);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, fh: FileHandle, _: bool, reply: ReplyEmpty) {
        serve!(self, reply, |vfs| vfs.fsync_dir(fh.0), |()| reply.ok());
    }

    fn statfs(&self, request: &Request, _: INodeNo, reply: ReplyStatfs) {
        if self.gate.is_waker(request.pid()) {
            // Nobody looks at it, and servers may be slow.
            reply.statfs(0, 0, 0, 0, 0, 0, 0, 0);
            return self.gate.pass();
        }
        serve!(self, reply, |vfs| vfs.stat_fs(), |usage| {
            let used = u64::try_from(usage.bytes).unwrap_or(0).div_ceil(BLOCK_BYTES);
            let inodes = u64::try_from(usage.files + usage.dirs).unwrap_or(0);
            let free = FREE_BYTES / BLOCK_BYTES;
            let block = BLOCK_BYTES as u32;
            reply.statfs(used + free, free, free, inodes + FREE_INODES, FREE_INODES, block, 255, block);
        });
    }

    fn setxattr(
        &self,
        _: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        let name = checked!(convert::xattr_name(name), reply);
        let mode = match flags {
            libc::XATTR_CREATE => SetMode::Create,
            libc::XATTR_REPLACE => SetMode::Replace,
            0 => SetMode::Any,
            _ => return reply.error(Errno::EINVAL),
        };
        let value = Bytes::copy_from_slice(value);
        serve!(self, reply, |vfs| vfs.set_xattr(inode(ino), name, value, mode), |()| reply.ok());
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = checked!(convert::xattr_name(name), reply);
        serve!(self, reply, |vfs| vfs.get_xattr(inode(ino), name), |value| xattr(reply, size, &value));
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        serve!(self, reply, |vfs| vfs.list_xattrs(inode(ino)), |names| {
            let mut list = Vec::new();
            for name in names {
                list.extend_from_slice(name.as_bytes());
                list.push(0);
            }
            xattr(reply, size, &list);
        });
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = checked!(convert::xattr_name(name), reply);
        serve!(self, reply, |vfs| vfs.remove_xattr(inode(ino), name), |()| reply.ok());
    }

    fn access(&self, _: &Request, ino: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        // With `default_permissions` the kernel decides itself; what is left to ask is whether it is there.
        serve!(self, reply, |vfs| vfs.get_attr(inode(ino)), |_| reply.ok());
    }

    fn getlk(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        let range = checked!(convert::lock_range(start, end), reply);
        let kind = checked!(convert::lock_kind(typ), reply);
        let Some(kind) = kind else { return reply.locked(start, end, libc::F_UNLCK, 0) };
        let owner = curvefs_types::LockOwner(owner.0);
        let wish = LockWish { owner, pid, family: LockFamily::Posix, kind, range };
        serve!(self, reply, |vfs| vfs.get_lock(inode(ino), wish), |held| match held {
            None => reply.locked(start, end, libc::F_UNLCK, 0),
            Some(lock) => {
                let typ = match lock.kind {
                    curvefs_types::LockKind::Read => libc::F_RDLCK,
                    curvefs_types::LockKind::Write => libc::F_WRLCK,
                };
                reply.locked(lock.range.first(), convert::lock_end(lock.range.last()), typ, lock.pid);
            }
        });
    }

    fn setlk(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        // fuser does not tell `flock` from `fcntl`, so `flock` locks the whole file as `fcntl` would: as over NFS.
        let family = LockFamily::Posix;
        let range = checked!(convert::lock_range(start, end), reply);
        let kind = checked!(convert::lock_kind(typ), reply);
        let owner = curvefs_types::LockOwner(owner.0);
        let (vfs, notices, id) = (self.vfs.clone(), self.notices.clone(), inode(ino));
        if let (true, Some(kind)) = (sleep, kind) {
            let (unique, thread) = (request.unique().0, request.pid());
            let wait = LockWait { unique, inode: id, owner, pid, thread, family, kind, range };
            let waiting = Waiting { vfs: vfs.inner().clone(), notices, gate: self.gate.clone() };
            return self.spawn_uncounted(waiting.asked(wait, reply));
        }
        self.spawn(async move {
            let done = match kind {
                None => vfs.unlock(id, owner, family, range).await,
                Some(kind) => {
                    let wish = LockWish { owner, pid, family, kind, range };
                    let locked = vfs.lock(id, wish).await;
                    // What others wrote under the lock has to be seen by the first read.
                    notices.done().await;
                    locked
                }
            };
            match done {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let what = checked!(space(mode), reply);
        serve!(self, reply, |vfs| vfs.fallocate(fh.0, offset, length, what), |()| reply.ok());
    }

    fn lseek(&self, _: &Request, _: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let what = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let offset = checked!(u64::try_from(offset).map_err(|_| FsError::NoData), reply);
        serve!(self, reply, |vfs| vfs.seek(fh.0, offset, what), |found| reply.offset(found as i64));
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        from: FileHandle,
        from_offset: u64,
        _: INodeNo,
        to: FileHandle,
        to_offset: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (from, to) = ((from.0, from_offset), (to.0, to_offset));
        let len = len.min(COPY_BYTES_MAX);
        serve!(self, reply, |vfs| vfs.copy_range(from, to, len), |copied| reply.written(copied as u32));
    }
}

/// Lines with attributes count as lookups; of `.` and `..` the kernel takes number and kind alone. What has no attributes
/// otherwise went away while the page was made.
fn add_lines(vfs: &MappedVfs, lines: Vec<curvefs_vfs::Line>, mut reply: ReplyDirectoryPlus) {
    for line in lines {
        let name = OsString::from_vec(line.name.clone());
        let is_full = match vfs.enter_line(&line) {
            Some(entry) => {
                // The kernel is given one time for both.
                let ttl = if line.fresh { entry.attr_ttl.min(entry.entry_ttl) } else { Duration::ZERO };
                let attr = convert::file_attr(&entry.attr);
                let is_full = reply.add(ino(line.inode), line.next, &name, &ttl, &attr, GENERATION);
                if is_full {
                    vfs.forget(line.inode, 1);
                }
                is_full
            }
            None if matches!(&line.name[..], b"." | b"..") => {
                let attr = convert::bare_attr(line.inode, line.kind);
                reply.add(ino(line.inode), line.next, &name, &Duration::ZERO, &attr, GENERATION)
            }
            None => false,
        };
        if is_full {
            break;
        }
    }
    reply.ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_of_fallocate_and_rename_are_told_apart() {
        let (keep, punch, zero) =
            (libc::FALLOC_FL_KEEP_SIZE, libc::FALLOC_FL_PUNCH_HOLE, libc::FALLOC_FL_ZERO_RANGE);
        for (mode, expected) in [
            (0, Ok(Space::Allocate { keep_size: false })),
            (keep, Ok(Space::Allocate { keep_size: true })),
            (punch | keep, Ok(Space::Punch)),
            (punch, Err(FsError::NotSupported)),
            (zero, Ok(Space::Zero { keep_size: false })),
            (zero | keep, Ok(Space::Zero { keep_size: true })),
            (libc::FALLOC_FL_COLLAPSE_RANGE, Err(FsError::NotSupported)),
        ] {
            assert_eq!(space(mode), expected, "{mode:#x}");
        }
        assert_eq!(rename_mode(RenameFlags::empty()), Ok(RenameMode::Replace));
        assert_eq!(rename_mode(RenameFlags::RENAME_EXCHANGE), Ok(RenameMode::Exchange));
        assert_eq!(rename_mode(RenameFlags::RENAME_WHITEOUT), Err(FsError::Invalid));
    }
}
