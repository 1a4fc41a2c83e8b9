//! A disk that does not answer: this node leads nothing meanwhile.
//!
//! A leader whose disk hangs goes on sending heartbeats, so nobody stands against it, and yet it can neither make an entry durable
//! and apply it nor read what is not in memory. So it hands its leaderships over, to whoever has what it has sent, and declines to
//! take one over until the disk answers again. Followers need nothing: what they cannot make durable they do not claim, and a
//! candidate's vote for itself counts once it is durable, so a node whose disk hangs wins no election either.
//!
//! Only what waits for the disk on another thread is seen. A thread that waits itself stands still with everything it serves,
//! as does a process that was stopped, and others elect a leader after a lease.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use crate::node::MultiRaft;

/// Whether the disk hangs.
#[derive(Default)]
pub(crate) struct Stall {
    hangs: watch::Sender<bool>,
    /// Leaderships are being handed over.
    busy: AtomicBool,
}

impl Stall {
    pub(crate) fn hangs(&self) -> bool {
        *self.hangs.borrow()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<bool> {
        self.hangs.subscribe()
    }
}

/// Looks at the disk and acts on it. To be called several times a second.
pub(crate) fn look(node: &Arc<MultiRaft>) {
    let waited = node.log().disk().unanswered();
    let hangs = waited >= node.options().disk_timeout;
    let stall = node.stall();
    if stall.hangs() != hangs {
        match hangs {
            true => {
                tracing::error!(?waited, "the disk does not answer; others are asked to lead until it does")
            }
            false => tracing::info!("the disk answers again"),
        }
        stall.hangs.send_replace(hangs);
    }
    if hangs && !stall.busy.swap(true, Ordering::AcqRel) {
        let node = node.clone();
        tokio::spawn(async move {
            node.hand_over().await;
            node.stall().busy.store(false, Ordering::Release);
        });
    }
}
