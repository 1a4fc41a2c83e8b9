//! A disk that does not answer, or that is full: this node leads nothing meanwhile.
//!
//! A leader whose disk hangs goes on sending heartbeats, so nobody stands against it, and yet it can neither make an entry durable
//! and apply it nor read what is not in memory. So it hands its leaderships over, to whoever has what it has sent, and declines to
//! take one over until the disk answers again. Followers need nothing: what they cannot make durable they do not claim, and a
//! candidate's vote for itself counts once it is durable, so a node whose disk hangs wins no election either.
//!
//! Only what waits for the disk on another thread is seen. A thread that waits itself stands still with everything it serves,
//! as does a process that was stopped, and others elect a leader after a lease.
//!
//! A disk is full while the log waits for room, or once less than `RaftOptions::room_min` is free. In the second case the state
//! machines of this node change nothing until there is twice as much: a change that ran out of room half way would end the
//! group, and a store that cannot write its tables might end the process. What the log takes from the leader is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::driver::Input;
use crate::node::MultiRaft;

/// The pause after an attempt to hand leaderships over that left some.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// What the disk below the log and the state machines is good for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DiskState {
    /// It takes what comes.
    #[default]
    Fine,
    /// Something that was asked of it has had no answer for `RaftOptions::disk_timeout`.
    Hangs,
    /// There is no room for the log or for changes.
    Full,
}

/// How the disk is.
#[derive(Default)]
pub(crate) struct Stall {
    disk: watch::Sender<DiskState>,
    /// State machines change nothing, for want of room.
    holds_changes: AtomicBool,
    /// Leaderships are being handed over.
    busy: AtomicBool,
}

impl Stall {
    pub(crate) fn disk(&self) -> DiskState {
        *self.disk.borrow()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<DiskState> {
        self.disk.subscribe()
    }

    pub(crate) fn holds_changes(&self) -> bool {
        self.holds_changes.load(Ordering::Acquire)
    }
}

/// Looks at the disk and acts on it. To be called several times a second.
pub(crate) fn look(node: &Arc<MultiRaft>) {
    let waited = node.log().disk().unanswered();
    let found = match waited >= node.options().disk_timeout {
        true => DiskState::Hangs,
        // A disk that hangs is not asked for more.
        false if look_for_room(node) || node.log().waits_for_room() => DiskState::Full,
        false => DiskState::Fine,
    };
    let stall = node.stall();
    if stall.disk() != found {
        match found {
            DiskState::Fine => tracing::info!("the disk is well again"),
            DiskState::Hangs => {
                tracing::error!(?waited, "the disk does not answer; others are asked to lead until it does")
            }
            DiskState::Full => {
                tracing::error!("the disk is full; others are asked to lead until it has room")
            }
        }
        stall.disk.send_replace(found);
    }
    if found != DiskState::Fine && !stall.busy.swap(true, Ordering::AcqRel) {
        let node = node.clone();
        tokio::spawn(async move {
            if node.hand_over().await > 0 {
                // Nobody can lead in its place, for now.
                sleep(TRY_AGAIN_AFTER).await;
            }
            node.stall().busy.store(false, Ordering::Release);
        });
    }
}

/// Whether changes are held for want of room, from now on or still.
fn look_for_room(node: &Arc<MultiRaft>) -> bool {
    let (stall, least) = (node.stall(), node.options().room_min);
    let held = stall.holds_changes();
    let needed = if held { least.saturating_mul(2) } else { least };
    // A file system that cannot say how full it is will show its trouble at the next write.
    let holds = node.log().disk().space().is_ok_and(|space| space.free < needed);
    if holds != held {
        stall.holds_changes.store(holds, Ordering::Release);
    }
    if held && !holds {
        node.groups().iter().for_each(|group| group.inner.tell(Input::Room));
    }
    holds
}
