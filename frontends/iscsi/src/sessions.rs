//! The sessions of a gateway: their numbers, and that there is one for each initiator port.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use curve_client::Pulse;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::core::NodeName;

/// An initiator port and the target that it is logged in to. RFC 7143 6.3.5: a login under the same one reinstates the
/// session, which means that the former one has to end first.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SessionKey {
    /// Who.
    pub initiator: NodeName,
    /// The initiator's part of the session id.
    pub isid: [u8; 6],
    /// What it is logged in to.
    pub target: NodeName,
}

/// All normal sessions.
///
/// The lock is taken when a session begins and when it ends, never for a command, and never across an await. One task as
/// the owner would be a mailbox around the same map, with a second place where a session's end can get stuck.
#[derive(Debug, Default)]
pub struct Sessions {
    table: Mutex<Table>,
    pulse: Option<Arc<Pulse>>,
}

#[derive(Debug, Default)]
struct Table {
    last_tsih: u16,
    /// Grows with each session that begins or ends.
    generation: u64,
    records: HashMap<SessionKey, Record>,
}

#[derive(Debug)]
struct Record {
    tsih: u16,
    since: Instant,
    replaced: Arc<Notify>,
    ended: watch::Receiver<()>,
}

/// A session's place. The session has ended when this is dropped.
#[derive(Debug)]
pub struct Registration {
    sessions: Arc<Sessions>,
    key: Option<SessionKey>,
    tsih: u16,
    replaced: Arc<Notify>,
    _ending: watch::Sender<()>,
}

impl Sessions {
    /// None yet. A stall ends those that are there: initiators have given them up, and may have gone on elsewhere.
    pub fn ending_with_stalls(pulse: Arc<Pulse>) -> Self {
        Self { pulse: Some(pulse), ..Self::default() }
    }

    /// Stalls of the process until now.
    pub(crate) fn stalls(&self) -> u64 {
        self.pulse.as_ref().map_or(0, |pulse| pulse.stalls())
    }

    /// Begins a session. A former one of the same port is told to end; this completes when it has ended, with all of its
    /// commands.
    pub async fn begin(self: &Arc<Self>, key: SessionKey) -> Registration {
        loop {
            let mut ended = match self.try_begin(&key) {
                Ok(registration) => return registration,
                Err(ended) => ended,
            };
            // An error is what it waits for: the other end was dropped.
            let _ = ended.changed().await;
        }
    }

    /// A number for a discovery session, of which there may be any number.
    pub fn discovery(self: &Arc<Self>) -> Registration {
        let tsih = self.table().next_tsih();
        let (ending, _) = watch::channel(());
        Registration { sessions: self.clone(), key: None, tsih, replaced: Arc::default(), _ending: ending }
    }

    /// Whether there is a normal session with this number.
    pub fn has(&self, tsih: u16) -> bool {
        self.table().records.values().any(|record| record.tsih == tsih)
    }

    /// Another number after each session that begins or ends.
    pub fn generation(&self) -> u64 {
        self.table().generation
    }

    /// All normal sessions: whose, their numbers, and how old they are.
    pub fn list(&self) -> Vec<(SessionKey, u16, Duration)> {
        let table = self.table();
        let list = table.records.iter();
        list.map(|(key, record)| (key.clone(), record.tsih, record.since.elapsed())).collect()
    }

    fn try_begin(self: &Arc<Self>, key: &SessionKey) -> Result<Registration, watch::Receiver<()>> {
        let mut table = self.table();
        if let Some(former) = table.records.get(key) {
            former.replaced.notify_one();
            return Err(former.ended.clone());
        }
        let tsih = table.next_tsih();
        let (ending, ended) = watch::channel(());
        let replaced = Arc::new(Notify::new());
        table.generation += 1;
        let record = Record { tsih, since: Instant::now(), replaced: replaced.clone(), ended };
        table.records.insert(key.clone(), record);
        Ok(Registration { sessions: self.clone(), key: Some(key.clone()), tsih, replaced, _ending: ending })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no panic under the lock")
    }
}

impl Table {
    /// A number that no session has; 0 is none. Connections are limited to fewer than there are numbers.
    fn next_tsih(&mut self) -> u16 {
        loop {
            self.last_tsih = self.last_tsih.wrapping_add(1);
            let used = self.records.values().any(|record| record.tsih == self.last_tsih);
            if self.last_tsih != 0 && !used {
                return self.last_tsih;
            }
        }
    }
}

impl Registration {
    /// Stalls of the process until now.
    pub(crate) fn stalls(&self) -> u64 {
        self.sessions.stalls()
    }

    /// The target's part of the session id.
    pub fn tsih(&self) -> u16 {
        self.tsih
    }

    /// Completes when the same port logs in again, and this session has to make room.
    pub async fn replaced(&self) {
        self.replaced.notified().await;
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(key) = &self.key {
            let mut table = self.sessions.table();
            table.generation += 1;
            table.records.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(isid: u8) -> SessionKey {
        let name = |text| NodeName::new(text).expect("a good name");
        SessionKey { initiator: name("iqn.i:a"), isid: [isid; 6], target: name("iqn.t:b") }
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_has_one_session() {
        let sessions = Arc::new(Sessions::default());
        let before = sessions.generation();
        let first = sessions.begin(key(1)).await;
        assert!(sessions.generation() > before);
        assert_eq!(sessions.list(), [(key(1), first.tsih(), Duration::ZERO)]);
        let other = sessions.begin(key(2)).await;
        assert_ne!(first.tsih(), other.tsih());
        assert!(sessions.has(first.tsih()) && !sessions.has(0));
        let again = tokio::spawn({
            let sessions = sessions.clone();
            async move { sessions.begin(key(1)).await }
        });
        first.replaced().await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!again.is_finished(), "the former session has not ended");
        let tsih = first.tsih();
        drop(first);
        let again = again.await.expect("no panic");
        assert_ne!(again.tsih(), tsih);
        assert!(!sessions.has(tsih) && sessions.has(again.tsih()));
        drop(again);
        sessions.begin(key(1)).await;
    }

    #[tokio::test]
    async fn numbers_are_never_zero_nor_in_use() {
        let sessions = Arc::new(Sessions::default());
        let kept = sessions.begin(key(1)).await;
        for _ in 0..70_000 {
            let number = sessions.discovery().tsih();
            assert!(number != 0 && number != kept.tsih());
        }
    }
}
