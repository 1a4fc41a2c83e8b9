//! Where reservations live.

use std::fs::File;
use std::future::Future;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, RwLock};

use thiserror::Error;
use tokio::sync::Mutex;

use super::format::{decode_state, encode_state};
use super::state::{Change, Outcome, Refused, State};

/// A boxed future of a store.
pub type ReservationFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why a change was not made.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum StoreError {
    /// The state machine refused it.
    #[error("refused: {0:?}")]
    Refused(Refused),
    /// It cannot be said whether it was made: the store did not answer, or could not keep it.
    #[error("the reservation store is not available")]
    Unavailable,
}

/// Holds the reservations of one logical unit for every gateway that serves it.
///
/// A change whose future is dropped may or may not be made; the view tells.
///
/// `change` completes only when the change holds: whoever else serves the unit decides by the new state, has established
/// the unit attentions for the nexuses attached there, has aborted what the [`Outcome`] says, and has
/// [drained](crate::LogicalUnit::drain_forbidden) what the new state forbids. For the nexuses attached
/// here, the caller does that with the outcome that it gets, which is empty if the store has done so
/// ([`LogicalUnit::enforce`](crate::LogicalUnit::enforce) is for both).
pub trait ReservationStore: Send + Sync + 'static {
    /// The state now. Called for each command: it must not wait.
    fn view(&self) -> Arc<State>;
    /// Makes a change.
    fn change(&self, change: Change) -> ReservationFuture<'_, Result<Outcome, StoreError>>;
}

/// Reservations of one process: in memory, or with a file that keeps what was registered with APTPL.
pub struct LocalReservations {
    view: Arc<RwLock<Arc<State>>>,
    /// Held while a change is made, so that the file follows the state in order.
    file: Arc<Mutex<Option<PathBuf>>>,
}

impl LocalReservations {
    /// Nothing survives.
    pub fn in_memory() -> Self {
        Self { view: Arc::default(), file: Arc::default() }
    }

    /// What was registered with APTPL survives in a file, which need not exist yet.
    pub fn open(path: &Path) -> io::Result<Self> {
        let state = match std::fs::read(path) {
            Ok(bytes) => {
                let damaged = |error| io::Error::new(io::ErrorKind::InvalidData, error);
                decode_state(&bytes).map_err(damaged)?.after_power_loss()
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => State::default(),
            Err(error) => return Err(error),
        };
        let view = Arc::new(RwLock::new(Arc::new(state)));
        Ok(Self { view, file: Arc::new(Mutex::new(Some(path.to_owned()))) })
    }

    async fn make(&self, change: Change) -> Result<Outcome, StoreError> {
        let file = self.file.clone().lock_owned().await;
        let before = self.view();
        let mut next = State::clone(&before);
        let outcome = next.apply(&change).map_err(StoreError::Refused)?;
        let persists = before.persists() || next.persists();
        let view = self.view.clone();
        match file.clone() {
            // The turn goes along: a change that nobody waits for any more is made all the same, and before the next one.
            Some(path) if persists => {
                keep(path, kept_bytes(&next), move || {
                    *view.write().expect("no panic under the lock") = Arc::new(next);
                    drop(file);
                })
                .await?;
            }
            _ => *view.write().expect("no panic under the lock") = Arc::new(next),
        }
        Ok(outcome)
    }
}

impl ReservationStore for LocalReservations {
    fn view(&self) -> Arc<State> {
        self.view.read().expect("no panic under the lock").clone()
    }

    fn change(&self, change: Change) -> ReservationFuture<'_, Result<Outcome, StoreError>> {
        Box::pin(self.make(change))
    }
}

fn kept_bytes(state: &State) -> Vec<u8> {
    if state.persists() { encode_state(state) } else { encode_state(&State::default()) }
}

async fn keep(path: PathBuf, bytes: Vec<u8>, kept: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
    let shown = path.display().to_string();
    match tokio::task::spawn_blocking(move || replace(&path, &bytes).map(|()| kept())).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            tracing::error!(path = shown, %error, "cannot keep reservations");
            Err(StoreError::Unavailable)
        }
        // The runtime shuts down.
        Err(_) => Err(StoreError::Unavailable),
    }
}

/// Replaces a file so that after a crash it is either the old or the new one.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::super::state::testing::{register, registrant};
    use super::super::state::{Action, ReservationKind};
    use super::*;

    #[tokio::test]
    async fn only_what_persists_survives() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("reservations");
        for persist in [false, true, false] {
            let store = LocalReservations::open(&path).expect("readable");
            store.change(register(1, 0xa, persist)).await.expect("allowed");
            let reserve = Action::Reserve { key: 0xa, kind: ReservationKind::ExclusiveAccess };
            store.change(Change { by: registrant(1), action: reserve }).await.expect("allowed");
            drop(store);
            let again = LocalReservations::open(&path).expect("readable").view();
            assert_eq!(again.persists(), persist);
            assert_eq!(again.holds(&registrant(1)), persist);
            assert_eq!(again.generation(), 0);
        }
    }

    #[tokio::test]
    async fn a_change_that_cannot_be_kept_is_not_made() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = LocalReservations::open(&folder.path().join("absent/reservations")).expect("no file yet");
        assert_eq!(store.change(register(1, 0xa, true)).await, Err(StoreError::Unavailable));
        assert!(store.view().is_idle());
        store.change(register(1, 0xa, false)).await.expect("needs no file");
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("reservations");
        std::fs::write(&path, b"nonsense, and long enough").expect("writable");
        let error = LocalReservations::open(&path).err().expect("damaged");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
