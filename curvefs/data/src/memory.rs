//! The twin of a bucket: objects in memory, and failures on demand.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::bucket::{DELETE_MAX, ObjectFuture, ObjectStore};
use crate::content::Content;
use crate::error::DataError;

/// What happens to calls.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The next calls fail so.
    Fail {
        /// How many.
        calls: u32,
        /// With what.
        error: DataError,
    },
    /// The next calls take effect, but their answers are lost.
    LoseAnswers {
        /// How many.
        calls: u32,
    },
    /// Every call takes this long.
    Delay(Duration),
}

/// A bucket in memory.
#[derive(Default)]
pub struct MemoryBucket {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Bytes>,
    failing: Option<(u32, DataError)>,
    losing: u32,
    delay: Duration,
    running: usize,
    running_max: usize,
}

impl MemoryBucket {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes calls fail.
    pub fn inject(&self, fault: Fault) {
        let mut state = self.state();
        match fault {
            Fault::Fail { calls, error } => state.failing = Some((calls, error)),
            Fault::LoseAnswers { calls } => state.losing = calls,
            Fault::Delay(delay) => state.delay = delay,
        }
    }

    /// The names of all objects.
    pub fn objects(&self) -> Vec<String> {
        self.state().objects.keys().cloned().collect()
    }

    /// Takes an object away, as somebody else might.
    pub fn lose(&self, object: &str) {
        self.state().objects.remove(object);
    }

    /// Inverts a bit of an object, as a bad disk might.
    pub fn damage(&self, object: &str, at: usize) {
        if let Some(bytes) = self.state().objects.get_mut(object) {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1;
            *bytes = damaged.into();
        }
    }

    /// The most calls that ran at one time.
    pub fn running_max(&self) -> usize {
        self.state().running_max
    }

    async fn call<T>(&self, work: impl FnOnce(&mut State) -> Result<T, DataError>) -> Result<T, DataError> {
        let delay = {
            let mut state = self.state();
            state.running += 1;
            state.running_max = state.running_max.max(state.running);
            state.delay
        };
        let _running = Running(self);
        tokio::time::sleep(delay).await;
        let mut state = self.state();
        if let Some((calls, error)) = &mut state.failing
            && *calls > 0
        {
            *calls -= 1;
            return Err(error.clone());
        }
        let done = work(&mut state)?;
        if state.losing > 0 {
            state.losing -= 1;
            return Err(DataError::Unreachable { why: "the answer was lost".into() });
        }
        Ok(done)
    }
}

struct Running<'a>(&'a MemoryBucket);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.state().running -= 1;
    }
}

impl ObjectStore for MemoryBucket {
    fn name(&self) -> &str {
        "memory"
    }

    fn put(&self, object: String, content: Content) -> ObjectFuture<'_, ()> {
        Box::pin(self.call(move |state| {
            state.objects.insert(object, content.joined());
            Ok(())
        }))
    }

    fn get(&self, object: String, range: Range<u64>) -> ObjectFuture<'_, Vec<Bytes>> {
        Box::pin(self.call(move |state| {
            let bytes = state.objects.get(&object).ok_or(DataError::Missing { object })?;
            let len = bytes.len();
            Ok(vec![bytes.slice((range.start as usize).min(len)..(range.end as usize).min(len))])
        }))
    }

    fn delete(&self, objects: Vec<String>) -> ObjectFuture<'_, ()> {
        Box::pin(self.call(move |state| {
            objects.iter().for_each(|object| drop(state.objects.remove(object)));
            Ok(())
        }))
    }

    fn list(&self, prefix: String) -> ObjectFuture<'_, Vec<String>> {
        Box::pin(self.call(move |state| {
            let named = state.objects.keys().filter(|object| object.starts_with(&prefix));
            Ok(named.take(DELETE_MAX).cloned().collect())
        }))
    }
}
