//! Lets batches form on runtimes of several threads.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Decides when a connection's task steps back once before it writes.
///
/// On a `current_thread` runtime a task that is woken runs after all tasks that were ready before it, so everything
/// they queue is there when it writes. A `multi_thread` runtime runs the task that was woken last first (its LIFO
/// slot), so the first of many callers would be written alone. A task that wakes itself goes to the end of the
/// queue: stepping back once restores the order of the other runtime, and waits for nothing but ready tasks.
#[derive(Debug)]
pub(crate) struct Batching {
    is_needed: bool,
    has_yielded: bool,
}

impl Batching {
    pub(crate) fn new() -> Self {
        let flavor = Handle::try_current().map(|handle| handle.runtime_flavor());
        Self { is_needed: !matches!(flavor, Ok(RuntimeFlavor::CurrentThread)), has_yielded: false }
    }

    /// Whether to wake oneself and return, at most once in a row; `more_may_follow` says whether it can pay.
    pub(crate) fn should_yield(&mut self, more_may_follow: impl FnOnce() -> bool) -> bool {
        self.has_yielded = self.is_needed && !self.has_yielded && more_may_follow();
        self.has_yielded
    }
}
