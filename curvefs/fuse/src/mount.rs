//! Mounting.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use curvefs_types::InodeId;
use curvefs_vfs::{KernelCaches, Vfs};
use fuser::{BackgroundSession, Config, MountOption, Notifier, SessionACL};

use crate::convert::ino;
use crate::filesystem::CurveFuse;

/// Threads that read requests. They only decode and hand over, so few are enough; each has a buffer of 16 MiB.
const READERS: usize = 2;
/// Notices to the kernel that may wait.
const NOTICES_MAX: usize = 4096;

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
}

impl Default for KernelOptions {
    fn default() -> Self {
        Self { source: "curvefs".into(), allow_other: true, dev: true, suid: true, exec: true }
    }
}

/// A mount. Lasts until [`Mounted::unmount`], or until somebody unmounts the directory.
#[derive(Debug)]
pub struct Mounted {
    session: BackgroundSession,
    notices: JoinHandle<()>,
    sender: SyncSender<Notice>,
}

#[derive(Debug)]
enum Notice {
    Forget(InodeId),
    ForgetAttr(InodeId),
    Tell(tokio::sync::oneshot::Sender<()>),
    End,
}

/// Notices to the kernel, in order.
#[derive(Clone)]
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

/// Mounts in a directory; requests are served on the current tokio runtime.
pub fn mount(vfs: Vfs, dir: &Path, options: &KernelOptions) -> io::Result<Mounted> {
    let mut config = Config::default();
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
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(READERS);
    config.clone_fd = true;
    let (sender, receiver) = sync_channel(NOTICES_MAX);
    let to_kernel = Notices(sender.clone());
    vfs.set_kernel_caches(Arc::new(to_kernel.clone()));
    let session = fuser::spawn_mount(CurveFuse::new(vfs, to_kernel), dir, &config)?;
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
    Ok(Mounted { session, notices, sender })
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
    /// Unmounts, and waits until the kernel has let go. The `Vfs` is shut down by its owner.
    pub fn unmount(self) -> io::Result<()> {
        let Self { session, notices, sender } = self;
        let ended = session.umount_and_join();
        end_notices(notices, &sender);
        ended
    }

    /// Waits until somebody unmounts the directory.
    pub fn wait(self) -> io::Result<()> {
        let Self { session, notices, sender } = self;
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
