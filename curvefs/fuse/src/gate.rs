//! Stops a session between two requests, so that another process can go on with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::handover::LockWait;

/// Between the threads that read requests and the tasks that serve them.
///
/// **Closing.** A thread that has read a request hands it to a task and then stays here while the gate is closed. So no request
/// is lost: what was read is served, what was not read waits in the kernel. A thread that waits for a request comes by with
/// the next one, which [`crate::Control::pause`] makes. **Quiet** is when all threads are here and all tasks have answered.
/// Waits for locks, which may last for ever, are set aside: whoever goes on with the session waits on.
///
/// Rejected: to interrupt the threads by signals and replace their descriptor. Answers go through the same descriptor, so
/// requests under way would lose them.
#[derive(Debug)]
pub(crate) struct Gate {
    counts: Mutex<Counts>,
    opened: Condvar,
    closed: watch::Sender<bool>,
    changed: Notify,
}

#[derive(Default, Debug)]
struct Counts {
    closed: bool,
    /// Threads that stay here.
    stopped: usize,
    /// Requests that are not answered.
    under_way: usize,
    /// Of which these wait for locks, by the number of the request.
    waits: BTreeMap<u64, LockWait>,
    /// Threads of ours that make requests only to wake others.
    wakers: BTreeSet<u32>,
    /// How many there are, those among them that have not begun.
    waking: usize,
}

/// A thread that wakes. It holds the mount until it has ended.
pub(crate) struct Waker(Arc<Gate>);

impl Drop for Waker {
    fn drop(&mut self) {
        self.0.counts().waking -= 1;
        self.0.opened.notify_all();
    }
}

/// A request that is not answered.
pub(crate) struct UnderWay(Arc<Gate>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.counts().under_way -= 1;
        self.0.changed.notify_waiters();
    }
}

/// A wait that is set aside; it is under way again when this is dropped.
struct Aside<'a> {
    gate: &'a Gate,
    unique: u64,
}

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        let mut counts = self.gate.counts();
        counts.waits.remove(&self.unique);
        counts.under_way += 1;
    }
}

impl Gate {
    pub fn new() -> Self {
        Self {
            counts: Mutex::default(),
            opened: Condvar::new(),
            closed: watch::Sender::new(false),
            changed: Notify::new(),
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request, until what it gives is dropped.
    pub fn enter(self: &Arc<Self>) -> UnderWay {
        self.counts().under_way += 1;
        UnderWay(self.clone())
    }

    /// Keeps a thread while the gate is closed.
    pub fn pass(&self) {
        let mut counts = self.counts();
        if !counts.closed {
            return;
        }
        counts.stopped += 1;
        self.changed.notify_waiters();
        while counts.closed {
            counts = self.opened.wait(counts).unwrap_or_else(PoisonError::into_inner);
        }
        counts.stopped -= 1;
    }

    pub fn close(&self) {
        self.counts().closed = true;
        self.closed.send_replace(true);
    }

    pub fn open(&self) {
        self.counts().closed = false;
        self.closed.send_replace(false);
        self.opened.notify_all();
    }

    /// Waits until it is closed.
    pub async fn closing(&self) {
        // The sender is ours.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// Waits until so many threads stay here and nothing is under way.
    pub async fn quiet(&self, threads: usize) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let counts = self.counts();
                if counts.stopped == threads && counts.under_way == 0 {
                    return;
                }
            }
            changed.await;
        }
    }

    /// Sets a wait for a lock aside while the gate is closed. The task is counted by [`Gate::enter`].
    pub async fn set_aside(&self, wait: LockWait) {
        {
            let mut counts = self.counts();
            counts.under_way -= 1;
            counts.waits.insert(wait.unique, wait);
        }
        let _aside = Aside { gate: self, unique: wait.unique };
        self.changed.notify_waiters();
        let _ = self.closed.subscribe().wait_for(|closed| !*closed).await;
    }

    /// Counts a thread that wakes, until what it gives is dropped.
    pub fn waker(self: &Arc<Self>) -> Waker {
        self.counts().waking += 1;
        Waker(self.clone())
    }

    /// Waits until no thread wakes: none of them has the mount open then.
    pub fn wait_for_wakers(&self, most: Duration) {
        let counts = self.counts();
        let waits = |counts: &mut Counts| counts.waking > 0;
        // Whoever unmounts is told if one is still there.
        drop(self.opened.wait_timeout_while(counts, most, waits).unwrap_or_else(PoisonError::into_inner));
    }

    /// A thread of ours begins to make such requests, or ends.
    pub fn set_waker(&self, thread: u32, begins: bool) {
        let mut counts = self.counts();
        if begins {
            counts.wakers.insert(thread)
        } else {
            counts.wakers.remove(&thread)
        };
    }

    /// Whether a request of this thread is there only to wake.
    pub fn is_waker(&self, thread: u32) -> bool {
        self.counts().wakers.contains(&thread)
    }

    /// What was set aside.
    pub fn waits(&self) -> Vec<LockWait> {
        self.counts().waits.values().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use curvefs_types::wire::{Seeds, Wire};
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test(flavor = "multi_thread")]
    async fn it_is_quiet_when_threads_have_stopped_and_requests_are_answered() {
        let gate = Arc::new(Gate::new());
        gate.pass();
        let request = gate.enter();
        gate.close();
        assert!(timeout(SOON, gate.quiet(1)).await.is_err(), "a thread reads");
        let reader = gate.clone();
        let reader = tokio::task::spawn_blocking(move || reader.pass());
        assert!(timeout(SOON, gate.quiet(1)).await.is_err(), "a request is not answered");
        drop(request);
        timeout(LONG, gate.quiet(1)).await.unwrap();
        assert!(!reader.is_finished());
        gate.open();
        timeout(LONG, reader).await.unwrap().unwrap();
        gate.close();
        assert!(timeout(SOON, gate.quiet(1)).await.is_err(), "the thread has gone on");
    }

    #[test]
    fn threads_that_wake_are_waited_for() {
        let gate = Arc::new(Gate::new());
        gate.wait_for_wakers(LONG);
        let waker = gate.waker();
        let begun = std::time::Instant::now();
        gate.wait_for_wakers(SOON);
        assert!(begun.elapsed() >= SOON, "one is there");
        let ends = std::thread::spawn(move || {
            std::thread::sleep(SOON);
            drop(waker);
        });
        gate.wait_for_wakers(LONG);
        assert_eq!(gate.counts().waking, 0);
        ends.join().unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn waits_for_locks_are_set_aside_and_go_on() {
        let gate = Arc::new(Gate::new());
        let wait = LockWait::sample(&mut Seeds::new(1));
        let waiting = gate.clone();
        let task = tokio::spawn(async move {
            let _under_way = waiting.enter();
            waiting.closing().await;
            waiting.set_aside(wait).await;
        });
        tokio::task::yield_now().await;
        gate.close();
        timeout(LONG, async {
            while gate.waits().is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .unwrap();
        timeout(LONG, gate.quiet(0)).await.unwrap();
        assert_eq!(gate.waits(), [wait]);
        gate.open();
        timeout(LONG, task).await.unwrap().unwrap();
        assert_eq!((gate.waits().len(), gate.counts().under_way), (0, 0));
    }
}
