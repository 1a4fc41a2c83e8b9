//! Whether a disk still answers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

/// Time between two looks counts for so much at most: a process that stood still has not waited for its disk.
const STEP_MAX: Duration = Duration::from_millis(500);

/// Everything that waits for a disk, and since when.
#[derive(Debug)]
pub(crate) struct Watch(Mutex<Waiting>);

#[derive(Debug)]
struct Waiting {
    /// When somebody looked last, and what the time was then in which this process ran.
    looked: Instant,
    time: Duration,
    /// Since when, in that time; numbers grow with it.
    since: BTreeMap<u64, Duration>,
    next: u64,
}

impl Waiting {
    fn now(&self) -> Duration {
        self.time + self.looked.elapsed().min(STEP_MAX)
    }

    fn enter(&mut self) -> u64 {
        let (number, now) = (self.next, self.now());
        self.next += 1;
        self.since.insert(number, now);
        number
    }
}

impl Watch {
    pub(crate) fn new() -> Arc<Self> {
        let waiting =
            Waiting { looked: Instant::now(), time: Duration::ZERO, since: BTreeMap::new(), next: 0 };
        Arc::new(Self(Mutex::new(waiting)))
    }

    /// Something waits for the disk from now on, until what is returned is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Wait {
        Wait { number: self.lock().enter(), watch: self.clone() }
    }

    /// For how long something has been waiting, at least.
    pub(crate) fn look(&self) -> Duration {
        let mut waiting = self.lock();
        waiting.time = waiting.now();
        waiting.looked = Instant::now();
        let oldest = waiting.since.values().next();
        oldest.map_or(Duration::ZERO, |since| waiting.time.saturating_sub(*since))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().expect("no panic while it is locked")
    }
}

/// Something that waits for a disk.
#[derive(Debug)]
pub(crate) struct Wait {
    watch: Arc<Watch>,
    number: u64,
}

impl Wait {
    /// The disk has answered in part: what is waited for now has only begun.
    pub(crate) fn renew(&mut self) {
        let mut waiting = self.watch.lock();
        waiting.since.remove(&self.number);
        self.number = waiting.enter();
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.watch.lock().since.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TICK: Duration = Duration::from_millis(200);

    async fn later() {
        tokio::time::advance(TICK).await;
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nobody_looked_counts_little() {
        let watch = Watch::new();
        let _long = watch.begin();
        watch.look();
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(watch.look() <= STEP_MAX);
    }

    proptest! {
        #[test]
        fn the_age_is_that_of_what_waits_longest(acts in prop::collection::vec(0..4u8, 1..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let watch = Watch::new();
                let mut waits: Vec<(Instant, Wait)> = Vec::new();
                for act in acts {
                    match act {
                        0 => waits.push((Instant::now(), watch.begin())),
                        1 if !waits.is_empty() => drop(waits.remove(0)),
                        2 if !waits.is_empty() => {
                            let last = waits.len() - 1;
                            waits[last].1.renew();
                            waits[last].0 = Instant::now();
                        }
                        _ => {
                            later().await;
                            let oldest = waits.iter().map(|(since, _)| since.elapsed()).max();
                            let oldest = oldest.unwrap_or_default();
                            let age = watch.look();
                            assert_eq!(age, oldest);
                        }
                    }
                }
            });
        }
    }
}
