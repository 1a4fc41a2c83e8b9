//! Requests that wait for a lock. They outlive the process that has read them: another answers, if it takes the session over.

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use curvefs_types::FsError;
use curvefs_vfs::Vfs;
use fuser::ReplyEmpty;

use crate::answers::answer;
use crate::convert::errno;
use crate::gate::Gate;
use crate::handover::LockWait;
use crate::mount::Notices;
use crate::signals::is_interrupted;

/// What a wait needs.
#[derive(Clone)]
pub(crate) struct Waiting {
    pub vfs: Vfs,
    pub notices: Notices,
    pub gate: Arc<Gate>,
}

impl Waiting {
    /// Waits, and answers as asked.
    pub async fn asked(self, wait: LockWait, reply: ReplyEmpty) {
        // A reply that is dropped says EIO, which must not happen while another process takes the wait over.
        let reply = ManuallyDrop::new(reply);
        let done = self.wait(wait).await;
        let reply = ManuallyDrop::into_inner(reply);
        match done {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    /// Waits on for another process, and answers in its place.
    pub async fn inherited(self, wait: LockWait, device: Arc<OwnedFd>) {
        let done = self.wait(wait).await;
        answer(device.as_fd(), wait.unique, done);
    }

    async fn wait(&self, wait: LockWait) -> Result<(), FsError> {
        let done = loop {
            tokio::select! {
                biased;
                () = self.gate.closing() => self.gate.set_aside(wait).await,
                // May be dropped: asking again for what one has got already changes nothing.
                done = self.vfs.lock_wait(wait.inode, wait.wish(), || is_interrupted(wait.thread)) => break done,
            }
        };
        // What others wrote under the lock has to be seen by the first read.
        self.notices.done().await;
        done
    }
}
