//! Mounting.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use curvefs_types::InodeId;
use curvefs_vfs::{KernelCaches, Vfs};
use fuser::{BackgroundSession, Config, MountOption, Notifier, Session, SessionACL};
use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::mount::UnmountFlags;

use crate::answers::Device;
use crate::convert::ino;
use crate::features::Features;
use crate::filesystem::CurveFuse;
use crate::gate::Gate;
use crate::handover::{Agreed, Control, LockWait, SessionState, session_over};
use crate::idmap::{IdMaps, MappedVfs};
use crate::waits::Waiting;

/// Threads that read requests, and answer those that need nobody else. Each has a buffer of 16 MiB, of which it touches what requests fill.
const READERS_MAX: usize = 8;
/// Notices to the kernel that may wait.
const NOTICES_MAX: usize = 4096;
/// What the kernel reads ahead, and so at most asks for at once. Its own default of 128 KiB costs four requests instead of one.
const READ_AHEAD_KIB: u32 = 512;
/// How long threads that woke the session may have it open: as long as a request takes.
const WAKERS_MAX: Duration = Duration::from_secs(5);

/// What the kernel is told at the mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelOptions {
    /// What `mount` shows as the source.
    pub source: String,
    /// Other users than the one who mounts may use it.
    pub allow_other: bool,
    /// Device files work.
    pub dev: bool,
    /// Set-user-id works.
    pub suid: bool,
    /// Programs can be run.
    pub exec: bool,
    /// Users and groups that have other numbers here than in the file system.
    pub ids: IdMaps,
}

impl Default for KernelOptions {
    fn default() -> Self {
        let ids = IdMaps::default();
        Self { source: "curvefs".into(), allow_other: true, dev: true, suid: true, exec: true, ids }
    }
}

/// A mount. Lasts until [`Mounted::unmount`], or until somebody unmounts the directory.
#[derive(Debug)]
pub struct Mounted {
    session: BackgroundSession,
    notices: JoinHandle<()>,
    sender: SyncSender<Notice>,
    features: Features,
    control: Control,
    /// Where, if another process has mounted it: fuser does not know then.
    taken_over: Option<PathBuf>,
}

#[derive(Debug)]
enum Notice {
    Forget(InodeId),
    ForgetAttr(InodeId),
    Tell(tokio::sync::oneshot::Sender<()>),
    End,
}

/// Notices to the kernel, in order.
#[derive(Clone, Debug)]
pub(crate) struct Notices(SyncSender<Notice>);

impl Notices {
    /// The kernel asks for the attributes of an inode anew, from the end of this call on.
    pub async fn forget_attr(&self, inode: InodeId) {
        if self.0.try_send(Notice::ForgetAttr(inode)).is_ok() {
            self.done().await;
        }
    }

    /// Waits until the kernel has taken what was sent before.
    pub async fn done(&self) {
        let (told, done) = tokio::sync::oneshot::channel();
        // When the queue is full or gone there is nothing to wait for: timeouts do it then.
        if self.0.try_send(Notice::Tell(told)).is_ok() {
            let _ = done.await;
        }
    }
}

impl KernelCaches for Notices {
    fn forget_inode(&self, inode: InodeId) {
        // With thousands waiting the kernel's own timeouts are as good.
        if let Err(TrySendError::Full(_)) = self.0.try_send(Notice::Forget(inode)) {
            tracing::debug!(%inode, "too many notices to the kernel");
        }
    }
}

/// What a session is made of besides fuser's part.
struct Parts {
    vfs: MappedVfs,
    features: Features,
    notices: Notices,
    sender: SyncSender<Notice>,
    receiver: Receiver<Notice>,
    gate: Arc<Gate>,
    device: Device,
    agreed: Arc<OnceLock<Agreed>>,
}

impl Parts {
    fn new(vfs: Vfs, options: &KernelOptions, agreed: Option<Agreed>) -> Self {
        let (sender, receiver) = sync_channel(NOTICES_MAX);
        let notices = Notices(sender.clone());
        vfs.set_kernel_caches(Arc::new(notices.clone()));
        let agreed = Arc::new(agreed.map_or_else(OnceLock::new, OnceLock::from));
        let vfs = MappedVfs::new(vfs, options.ids.clone());
        let (features, gate) = (Features::default(), Arc::new(Gate::new()));
        Self { vfs, features, notices, sender, receiver, gate, device: Device::default(), agreed }
    }

    fn filesystem(&self) -> CurveFuse {
        let (vfs, features) = (self.vfs.clone(), self.features.clone());
        let (gate, device) = (self.gate.clone(), self.device.clone());
        CurveFuse::new(vfs, self.notices.clone(), features, gate, device, self.agreed.clone())
    }

    /// Serves from now on.
    fn run(self, session: Session<CurveFuse>, taken_over: Option<PathBuf>) -> io::Result<Mounted> {
        let Self { features, notices: to_kernel, sender, receiver, gate, agreed, .. } = self;
        let device = Arc::new(session.as_fd().try_clone_to_owned()?);
        let device = self.device.get_or_init(|| device).clone();
        let session = session.spawn()?;
        let notifier = session.notifier();
        // A notice waits for pages that requests hold: on a thread of its own it can never be in their way.
        let notices = std::thread::Builder::new().name("fuse-notices".into()).spawn(move || {
            while let Ok(notice) = receiver.recv() {
                match notice {
                    Notice::Forget(inode) => forget(&notifier, inode, 0),
                    // A negative offset: attributes, no pages.
                    Notice::ForgetAttr(inode) => forget(&notifier, inode, -1),
                    Notice::Tell(told) => drop(told.send(())),
                    Notice::End => return,
                }
            }
        })?;
        let control = Control { gate, device, agreed, notices: to_kernel };
        Ok(Mounted { session, notices, sender, features, control, taken_over })
    }
}

/// How many threads read requests.
pub(crate) fn readers() -> usize {
    static READERS: OnceLock<usize> = OnceLock::new();
    let cores = || std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, READERS_MAX));
    *READERS.get_or_init(cores)
}

fn config(options: &KernelOptions) -> Config {
    let mut config = Config::default();
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(readers());
    // One descriptor for all readers: answers go where the request was read, so whoever has it can answer everything.
    config.clone_fd = false;
    config
}

/// Mounts in a directory; requests are served on the current tokio runtime.
pub fn mount(vfs: Vfs, dir: &Path, options: &KernelOptions) -> io::Result<Mounted> {
    let mut config = config(options);
    config.mount_options = vec![
        MountOption::FSName(options.source.clone()),
        // fuser's own `Subtype` does not reach the kernel unless fusermount3 mounts.
        MountOption::CUSTOM("subtype=curvefs".into()),
        MountOption::DefaultPermissions,
        MountOption::NoAtime,
        if options.dev { MountOption::Dev } else { MountOption::NoDev },
        if options.suid { MountOption::Suid } else { MountOption::NoSuid },
        if options.exec { MountOption::Exec } else { MountOption::NoExec },
        if vfs.options().read_only { MountOption::RO } else { MountOption::RW },
    ];
    let parts = Parts::new(vfs, options, None);
    let session = Session::new(parts.filesystem(), dir, &config)?;
    let mounted = parts.run(session, None)?;
    if let Err(error) = set_read_ahead(dir) {
        tracing::debug!(%error, "the kernel reads ahead as far as it does by itself");
    }
    Ok(mounted)
}

/// The kernel takes a size from the file system up to its default only; root may raise it.
fn set_read_ahead(dir: &Path) -> io::Result<()> {
    // Without asking this process for attributes: it may not serve yet.
    let about = rustix::fs::statx(CWD, dir, AtFlags::STATX_DONT_SYNC, StatxFlags::empty())?;
    let (major, minor) = (about.stx_dev_major, about.stx_dev_minor);
    std::fs::write(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"), READ_AHEAD_KIB.to_string())
}

/// A mount of another process, about to be served by this one.
pub struct Successor {
    session: Session<CurveFuse>,
    parts: Parts,
    waits: Vec<LockWait>,
    dir: PathBuf,
}

/// Takes a session over from another process, on the current tokio runtime. Nothing is read until [`Successor::serve`]; until
/// then the other may still go on.
pub fn take_over(
    vfs: Vfs,
    dir: &Path,
    device: BorrowedFd<'_>,
    state: SessionState,
    options: &KernelOptions,
) -> io::Result<Successor> {
    let SessionState { agreed, waits } = state;
    let parts = Parts::new(vfs, options, Some(agreed));
    let session = session_over(parts.filesystem(), device, &agreed, config(options))?;
    Ok(Successor { session, parts, waits, dir: dir.to_owned() })
}

impl Successor {
    /// Serves, once the other process never will again.
    pub fn serve(self) -> io::Result<Mounted> {
        let Self { session, parts, waits, dir } = self;
        let Parts { vfs, notices, gate, .. } = &parts;
        let waiting = Waiting { vfs: vfs.inner().clone(), notices: notices.clone(), gate: gate.clone() };
        waiting.vfs.go_on();
        let mounted = parts.run(session, Some(dir))?;
        for wait in waits {
            let under_way = waiting.gate.enter();
            let answered = waiting.clone().inherited(wait, mounted.control.device.clone());
            tokio::spawn(async move {
                answered.await;
                drop(under_way);
            });
        }
        Ok(mounted)
    }
}

fn forget(notifier: &Notifier, inode: InodeId, offset: i64) {
    match notifier.inval_inode(ino(inode), offset, 0) {
        Ok(()) => {}
        // The kernel does not know it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::debug!(%inode, %error, "the kernel did not take a notice"),
    }
}

impl Mounted {
    /// For stopping it between two requests.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// What the kernel can do.
    pub fn features(&self) -> Features {
        self.features.clone()
    }

    /// Unmounts, and waits until the kernel has let go. The `Vfs` is shut down by its owner.
    pub fn unmount(self) -> io::Result<()> {
        let Self { session, notices, sender, taken_over, control, .. } = self;
        control.gate.wait_for_wakers(WAKERS_MAX);
        if let Some(dir) = taken_over {
            rustix::mount::unmount(&dir, UnmountFlags::NOFOLLOW)?;
        }
        let ended = session.umount_and_join();
        end_notices(notices, &sender);
        ended
    }

    /// Waits until somebody unmounts the directory.
    pub fn wait(self) -> io::Result<()> {
        let Self { session, notices, sender, .. } = self;
        let ended = session.join();
        end_notices(notices, &sender);
        ended
    }
}

fn end_notices(notices: JoinHandle<()>, sender: &SyncSender<Notice>) {
    // Without a receiver the thread has ended already.
    let _ = sender.send(Notice::End);
    if notices.join().is_err() {
        tracing::error!("the thread of notices has panicked");
    }
}
