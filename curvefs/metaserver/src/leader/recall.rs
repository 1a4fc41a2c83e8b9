//! Delegated directories that others wait for (see `curvefs_types`, `delegation.rs`): noted in memory, told to their holders, and taken
//! away from those that do not even ask.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use curvefs_meta::server_request;
use curvefs_proto::{Refusal, outcome_bytes};
use curvefs_types::{Answer, Ask, FsError, InodeId, MountId, Op, Query};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::Leadership;
use crate::context::Context;
use crate::replica::{Replica, not_leader, read_refusal};

/// How long a poll waits: less than a mount gives a first try.
const POLL_WAIT: Duration = Duration::from_secs(1);
/// A holder that has not polled for so long is taken for dead.
const SILENT_MAX: Duration = Duration::from_secs(5);
/// A holder that polls has so long to publish.
const PATIENCE: Duration = Duration::from_secs(30);
/// Directories that are noted. More are noted when somebody asks again.
const WANTED_MAX: usize = 4096;
/// Mounts whose last poll is remembered.
const POLLS_MAX: usize = 4096;
/// After a revocation that could not be proposed.
const AGAIN: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug)]
struct Wanted {
    holder: MountId,
    since: Instant,
}

#[derive(Default, Debug)]
struct Noted {
    wanted: BTreeMap<InodeId, Wanted>,
    polls: BTreeMap<MountId, Instant>,
}

/// What a leader knows of directories that others wait for.
#[derive(Default, Debug)]
pub struct Recalls {
    noted: Mutex<Noted>,
    bell: watch::Sender<()>,
}

impl Recalls {
    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it was not known yet.
    fn note(&self, dir: InodeId, holder: MountId) -> bool {
        let mut noted = self.noted();
        let known = noted.wanted.get(&dir).is_some_and(|wanted| wanted.holder == holder);
        if known || noted.wanted.len() >= WANTED_MAX {
            return false;
        }
        noted.wanted.insert(dir, Wanted { holder, since: Instant::now() });
        drop(noted);
        self.bell.send_replace(());
        true
    }

    fn polled(&self, mount: MountId) {
        let mut noted = self.noted();
        noted.polls.insert(mount, Instant::now());
        if noted.polls.len() > POLLS_MAX {
            let oldest = noted.polls.iter().min_by_key(|(_, at)| **at).map(|(mount, _)| *mount);
            oldest.map(|mount| noted.polls.remove(&mount));
        }
    }

    /// What of a mount's is waited for.
    fn of(&self, mount: MountId) -> Vec<InodeId> {
        let noted = self.noted();
        noted.wanted.iter().filter(|(_, wanted)| wanted.holder == mount).map(|(dir, _)| *dir).collect()
    }

    /// What is to be taken away at a moment, and when to look again.
    fn overdue(&self, now: Instant) -> (Vec<(InodeId, MountId)>, Option<Instant>) {
        let noted = self.noted();
        let (mut overdue, mut next) = (Vec::new(), None::<Instant>);
        for (dir, wanted) in &noted.wanted {
            let heard = noted.polls.get(&wanted.holder).copied().unwrap_or(wanted.since).max(wanted.since);
            let at = (heard + SILENT_MAX).min(wanted.since + PATIENCE);
            if at <= now {
                overdue.push((*dir, wanted.holder));
            } else {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        }
        (overdue, next)
    }

    fn done(&self, dir: InodeId) {
        self.noted().wanted.remove(&dir);
    }

    /// Forgets what has been given back.
    fn tidy(&self, replica: &Replica) {
        let mut noted = self.noted();
        noted.wanted.retain(|dir, wanted| {
            replica.partition().holder_of(*dir).is_ok_and(|holder| holder == Some(wanted.holder))
        });
    }
}

/// Somebody met a delegated directory: its holder is to give it back. What the rows say already is not noted.
pub(super) fn note(context: &Context, replica: &Replica, error: Option<FsError>) {
    let Some(FsError::Delegated { dir }) = error else { return };
    let Some(leadership) = replica.leadership() else { return };
    match replica.partition().holder_of(dir) {
        Ok(Some(holder)) => {
            if leadership.recalls.note(dir, holder) {
                context.metrics.recalls.increment(1);
                tracing::debug!(partition = %replica.id(), %dir, %holder, "a delegated directory is waited for");
            }
        }
        Ok(None) => {}
        Err(error) => tracing::error!(partition = %replica.id(), %error, "rows cannot be read"),
    }
}

/// A holder asks what of its is waited for.
pub(super) async fn poll(context: &Context, replica: &Arc<Replica>, ask: Ask) -> Result<Bytes, Refusal> {
    let barrier = replica.barrier().await;
    barrier.map_err(|error| read_refusal(error, |node| context.address(node)))?;
    // Whether it may ask at all.
    let checked = replica.look(&ask);
    let Query::Recalls { known, .. } = &ask.query else { return Ok(outcome_bytes(&checked)) };
    if checked.is_err() {
        return Ok(outcome_bytes(&checked));
    }
    let until = Instant::now() + POLL_WAIT;
    let mut leadership = replica.watch_leadership();
    let Some(now) = leadership.borrow_and_update().clone() else { return Err(not_leader(None, |_| None)) };
    let mut bell = now.recalls.bell.subscribe();
    loop {
        bell.borrow_and_update();
        now.recalls.polled(ask.mount);
        now.recalls.tidy(replica);
        let dirs = now.recalls.of(ask.mount);
        if dirs.iter().any(|dir| !known.contains(dir)) || Instant::now() >= until {
            return Ok(outcome_bytes(&Ok(Answer::Recalls { dirs })));
        }
        tokio::select! {
            // Neither can end, since the replica and we have them.
            _ = timeout_at(until, bell.changed()) => {}
            _ = leadership.changed() => return Err(not_leader(None, |_| None)),
        }
    }
}

/// Takes directories away from silent holders until the term is over.
pub(super) async fn run(context: &Arc<Context>, replica: &Arc<Replica>, leadership: &Leadership) {
    let recalls = &leadership.recalls;
    let mut bell = recalls.bell.subscribe();
    loop {
        bell.borrow_and_update();
        recalls.tidy(replica);
        let (overdue, next) = recalls.overdue(Instant::now());
        for (dir, mount) in overdue {
            let request = server_request(context.clock.now_ns(), Op::Revoke { dir, mount });
            match replica.change(&request).await {
                Ok(Ok(_)) => {
                    context.metrics.revocations.increment(1);
                    tracing::warn!(partition = %replica.id(), %dir, %mount, "took a directory away from a mount that did not give it back");
                    recalls.done(dir);
                }
                other => {
                    tracing::debug!(partition = %replica.id(), %dir, ?other, "not taken away yet");
                    sleep(AGAIN).await;
                }
            }
        }
        // The bell cannot end, since the leadership has it.
        match next {
            Some(at) => tokio::select! {
                () = sleep_until(at) => {}
                _ = bell.changed() => {}
            },
            None => drop(bell.changed().await),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: InodeId = InodeId(5);
    const HOLDER: MountId = MountId(1);

    #[tokio::test(start_paused = true)]
    async fn who_polls_has_longer() {
        let recalls = Recalls::default();
        let begun = Instant::now();
        assert!(recalls.note(DIR, HOLDER) && !recalls.note(DIR, HOLDER));
        assert_eq!((recalls.of(HOLDER), recalls.of(MountId(2))), (vec![DIR], vec![]));
        assert_eq!(recalls.overdue(begun), (vec![], Some(begun + SILENT_MAX)));
        assert_eq!(recalls.overdue(begun + SILENT_MAX).0, [(DIR, HOLDER)]);
        for _ in 0..7 {
            sleep(SILENT_MAX - Duration::from_secs(1)).await;
            recalls.polled(HOLDER);
            let overdue = begun.elapsed() >= PATIENCE;
            assert_eq!(recalls.overdue(Instant::now()).0.is_empty(), !overdue, "{:?}", begun.elapsed());
        }
        assert!(begun.elapsed() < PATIENCE);
        assert_eq!(recalls.overdue(begun + PATIENCE).0, [(DIR, HOLDER)], "but not for ever");
        recalls.done(DIR);
        assert_eq!(recalls.overdue(begun + PATIENCE), (vec![], None));
    }

    #[test]
    fn what_is_noted_and_remembered_is_bounded() {
        let recalls = Recalls::default();
        for n in 0..2 * WANTED_MAX as u64 {
            recalls.note(InodeId(n), HOLDER);
            recalls.polled(MountId(n));
        }
        assert_eq!(recalls.of(HOLDER).len(), WANTED_MAX);
        assert!(recalls.noted().polls.len() <= POLLS_MAX);
    }
}
