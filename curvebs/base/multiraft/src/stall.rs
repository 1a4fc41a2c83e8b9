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
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use curve_io::Disk;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::driver::Input;
use crate::node::MultiRaft;

/// The room is looked at this often at most.
const LOOK_EVERY_MS: u64 = 10;
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
pub(crate) struct Stall {
    disk: Arc<dyn Disk>,
    room_min: u64,
    state: watch::Sender<DiskState>,
    /// State machines change nothing, for want of room.
    holds_changes: AtomicBool,
    /// When the room was looked at last, in milliseconds since `began`.
    looked_ms: AtomicU64,
    began: Instant,
    /// Leaderships are being handed over.
    busy: AtomicBool,
}

impl Stall {
    pub(crate) fn new(disk: Arc<dyn Disk>, room_min: u64) -> Self {
        Self {
            disk,
            room_min,
            state: watch::Sender::default(),
            holds_changes: AtomicBool::new(false),
            looked_ms: AtomicU64::new(0),
            began: Instant::now(),
            busy: AtomicBool::new(false),
        }
    }

    pub(crate) fn disk(&self) -> DiskState {
        *self.state.borrow()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<DiskState> {
        self.state.subscribe()
    }

    /// Whether changes must wait. Asked before each; looks at the disk now and then, since what fills it may be quick.
    pub(crate) fn holds_changes(&self) -> bool {
        if self.holds_changes.load(Ordering::Acquire) {
            return true;
        }
        let now = self.began.elapsed().as_millis() as u64;
        if now < self.looked_ms.load(Ordering::Relaxed) + LOOK_EVERY_MS {
            return false;
        }
        self.looked_ms.store(now, Ordering::Relaxed);
        let lacks_room = self.lacks_room(self.room_min);
        if lacks_room {
            self.holds_changes.store(true, Ordering::Release);
        }
        lacks_room
    }

    fn lacks_room(&self, needed: u64) -> bool {
        // A file system that cannot say how full it is will show its trouble at the next write.
        needed > 0 && self.disk.space().is_ok_and(|space| space.free < needed)
    }

    /// As [`holds_changes`](Self::holds_changes), and tells groups to go on that were held.
    fn look_for_room(&self, node: &MultiRaft) -> bool {
        let held = self.holds_changes.load(Ordering::Acquire);
        let holds = self.lacks_room(self.room_min.saturating_mul(if held { 2 } else { 1 }));
        if self.holds_changes.swap(holds, Ordering::AcqRel) && !holds {
            node.groups().iter().for_each(|group| group.inner.tell(Input::Room));
        }
        holds
    }
}

/// Looks at the disk and acts on it. To be called several times a second.
pub(crate) fn look(node: &Arc<MultiRaft>) {
    let stall = node.stall();
    let waited = stall.disk.unanswered();
    let found = match waited >= node.options().disk_timeout {
        true => DiskState::Hangs,
        // A disk that hangs is not asked for more.
        false if stall.look_for_room(node) || node.log().waits_for_room() => DiskState::Full,
        false => DiskState::Fine,
    };
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
        stall.state.send_replace(found);
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
