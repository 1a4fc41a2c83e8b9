//! Keeps an open volume's lease alive, and learns what changed meanwhile.
//!
//! The lease protects nobody's data: its end only *allows* the MDS to raise the volume's epoch for another opener, and
//! the raised epoch in the copysets is what stops the old one. So a refresh that fails stops no I/O; an answer that
//! says "fenced" does, at once.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use curve_proto::MdsError;
use curve_proto::mds::{MdsApi, SessionKey, VolumeRecord};
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use crate::volume::Opened;

/// How many times a lease is refreshed before it would lapse.
const REFRESHES_PER_LEASE: u32 = 4;

/// One open volume's session at the MDS. Dropping it stops the refreshing; the lease then lapses by itself.
pub struct Session {
    mds: Arc<MdsApi>,
    key: SessionKey,
    refreshing: Mutex<Option<JoinHandle<()>>>,
}

impl Session {
    /// Starts to refresh. Must be called inside a tokio runtime.
    pub fn start(mds: Arc<MdsApi>, key: SessionKey, opened: Arc<Opened>, lease: Duration) -> Self {
        let refreshing = tokio::spawn(refresh(Arc::clone(&mds), key, opened, lease));
        Self { mds, key, refreshing: Mutex::new(Some(refreshing)) }
    }

    /// Ends the session. `drained` says that every request was answered, so that the next opener need not wait for a
    /// fence.
    pub async fn close(&self, drained: bool) -> Result<(), MdsError> {
        self.stop();
        match self.mds.close(self.key, drained).await {
            // Somebody else has ended it already: there is nothing left to give up.
            Err(MdsError::NotHeld { .. } | MdsError::Fenced { .. } | MdsError::NotFound { .. }) => Ok(()),
            result => result,
        }
    }

    /// Asks the MDS what became of the volume and of the session.
    pub async fn ask(&self, opened: &Opened) -> Result<(), MdsError> {
        for state in self.mds.refresh(&[self.key]).await?.sessions {
            match state.outcome {
                Ok(record) => update(opened, &record),
                Err(MdsError::Fenced { .. }) => opened.fenced.store(true, Ordering::Release),
                // It says nothing of the volume; the background task tells of it.
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn stop(&self) {
        if let Some(task) = self.refreshing.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn refresh(mds: Arc<MdsApi>, key: SessionKey, opened: Arc<Opened>, mut lease: Duration) {
    let mut known = true;
    loop {
        tokio::time::sleep(lease / REFRESHES_PER_LEASE).await;
        if let Some(local) = &opened.local {
            local.close_unused();
        }
        if opened.fenced.load(Ordering::Acquire) {
            // For good. What is open here is closed all the same, once nothing is read any more.
            continue;
        }
        let refreshed = match mds.refresh(&[key]).await {
            Ok(refreshed) => refreshed,
            Err(error) => {
                debug!(volume = %key.volume, %error, "lease not refreshed");
                continue;
            }
        };
        lease = refreshed.lease.max(Duration::from_millis(100));
        for state in refreshed.sessions {
            match state.outcome {
                Ok(record) => {
                    known = true;
                    update(&opened, &record);
                }
                Err(MdsError::Fenced { held }) => {
                    warn!(volume = %key.volume, %held, "another holder has taken the volume over");
                    opened.fenced.store(true, Ordering::Release);
                }
                Err(error) if known => {
                    known = false;
                    warn!(volume = %key.volume, %error, "the session is gone; I/O goes on until another opener fences it");
                }
                Err(_) => {}
            }
        }
    }
}

fn update(opened: &Opened, record: &VolumeRecord) {
    let before = opened.size.fetch_max(record.size, Ordering::AcqRel);
    if before < record.size {
        info!(volume = %record.id, from = before, to = record.size, "the volume has grown");
    }
}
