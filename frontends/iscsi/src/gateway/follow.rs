//! Follows the cluster: what is served, by whom, and which reservations hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::catalog::{Catalog, Target};
use crate::core::{Credentials, Portal};
use crate::sessions::Sessions;
use curve_client::mds::{
    IscsiGateway, IscsiLun, IscsiNews, IscsiReservation, IscsiSession, IscsiTarget, MdsError,
};
use curve_scsi::TargetDevice;
use curve_types::VolumeId;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, error, info};

use super::published::{discovery, entry, is_locked, port_groups, portals};
use super::unit::{Hears, SeatNews, Shared, UnitTask};

const RETRY: Duration = Duration::from_millis(200);
/// How long the first attempts to serve units may take before the gateway counts as ready all the same.
const READY_MAX: Duration = Duration::from_secs(20);

/// A unit that is served, or about to be.
struct UnitHandle {
    target: String,
    lun: IscsiLun,
    reservations: watch::Sender<Option<IscsiReservation>>,
    seat: watch::Sender<SeatNews>,
    stop: watch::Sender<bool>,
    attempted: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

/// Owns what the gateway serves. One task, which others hear from over channels.
///
/// Each round asks the MDS for what has changed since the last one; the MDS answers at once, or after a moment without
/// news. The question keeps the gateway's lease alive. A round that fails changes nothing: the gateway goes on serving
/// what it knows, and as long as nobody else needs an answer from it, it may.
pub struct Follower {
    shared: Shared,
    own: Vec<Portal>,
    sessions: Arc<Sessions>,
    publisher: watch::Sender<Arc<Catalog>>,
    unguessable: Credentials,
    lease: Duration,
    seen: u64,
    heard: Instant,
    /// The sessions of this generation were told.
    told: Option<u64>,
    targets: BTreeMap<String, (IscsiTarget, Arc<TargetDevice>)>,
    units: BTreeMap<VolumeId, UnitHandle>,
    /// Units that are being given up.
    leaving: BTreeMap<VolumeId, JoinHandle<()>>,
    gateways: Vec<IscsiGateway>,
}

impl Follower {
    pub fn new(
        shared: Shared,
        own: Vec<Portal>,
        sessions: Arc<Sessions>,
        publisher: watch::Sender<Arc<Catalog>>,
        unguessable: Credentials,
        lease: Duration,
    ) -> Self {
        Self {
            shared,
            own,
            sessions,
            publisher,
            unguessable,
            lease,
            seen: 0,
            heard: Instant::now(),
            told: None,
            targets: BTreeMap::new(),
            units: BTreeMap::new(),
            leaving: BTreeMap::new(),
            gateways: Vec::new(),
        }
    }

    /// Runs until it is told to stop, or until another process has the gateway's name.
    pub async fn run(
        mut self,
        mut stop: watch::Receiver<bool>,
        ready: watch::Sender<bool>,
        replaced: oneshot::Sender<()>,
    ) {
        let mut ready = Some(ready);
        let mut was_replaced = false;
        loop {
            let news = tokio::select! {
                news = self.ask() => news,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            match news {
                Ok((poll, news)) => {
                    self.take(poll, news);
                    if let Some(ready) = ready.take() {
                        self.tell_when_ready(ready);
                    }
                }
                Err(MdsError::NotHeld { .. }) => {
                    error!("this gateway's name was taken over");
                    was_replaced = true;
                    break;
                }
                Err(error) => {
                    debug!(%error, "no news from the cluster");
                    self.shared.problems.unheard(self.heard.elapsed() > self.lease);
                    sleep(RETRY).await;
                }
            }
        }
        if was_replaced {
            // Whoever waits for that ends the process.
            let _ = replaced.send(());
        }
        self.end().await;
    }

    async fn ask(&mut self) -> Result<(u64, IscsiNews), MdsError> {
        let generation = self.sessions.generation();
        let sessions = (self.told != Some(generation)).then(|| self.session_list());
        let told = sessions.is_some();
        let poll = self.shared.polls.fetch_add(1, Ordering::SeqCst) + 1;
        let Shared { cluster, gateway, .. } = &self.shared;
        let news = cluster.mds().iscsi_poll(*gateway, self.seen, sessions).await?;
        if told {
            self.told = Some(generation);
        }
        Ok((poll, news))
    }

    fn session_list(&self) -> Vec<IscsiSession> {
        let sessions = self.sessions.list().into_iter().map(|(key, tsih, age)| IscsiSession {
            gateway: self.shared.gateway.number,
            target: key.target.to_string(),
            initiator: key.initiator.to_string(),
            isid: key.isid,
            tsih,
            age,
        });
        sessions.collect()
    }

    fn take(&mut self, poll: u64, news: IscsiNews) {
        self.shared.problems.unheard(false);
        (self.heard, self.lease) = (Instant::now(), news.lease);
        if news.want_sessions {
            self.told = None;
        }
        let names: BTreeSet<&String> = news.target_names.iter().collect();
        let gone: Vec<String> = self.targets.keys().filter(|name| !names.contains(name)).cloned().collect();
        let changed = !gone.is_empty() || !news.targets.is_empty() || self.gateways != news.gateways;
        for name in gone {
            info!(target = name, "a target is gone");
            self.targets.remove(&name);
            self.stop_units(|unit| unit.target == name);
        }
        self.gateways = news.gateways;
        for target in news.targets {
            self.take_target(target);
        }
        for reservation in news.reservations {
            if let Some(unit) = self.units.get(&reservation.volume) {
                unit.reservations.send_replace(Some(reservation));
            }
        }
        for (volume, unit) in &self.units {
            let client = news.seats.iter().find(|seat| seat.volume == *volume).map(|seat| seat.client);
            unit.seat.send_if_modified(|known| {
                let differs = known.client != client;
                *known = SeatNews { poll, client };
                differs
            });
        }
        self.seen = news.revision;
        self.leaving.retain(|_, task| !task.is_finished());
        if changed || self.publisher.borrow().login().portals.is_empty() {
            self.publish();
        }
    }

    /// A target is new, or has changed.
    fn take_target(&mut self, target: IscsiTarget) {
        let name = target.name.clone();
        let known = self.targets.get(&name).map(|(_, device)| device.clone());
        let device = known.unwrap_or_else(|| TargetDevice::new(&name));
        self.stop_units(|unit| {
            unit.target == name && !target.luns.iter().any(|lun| same_unit(lun, &unit.lun))
        });
        for lun in &target.luns {
            // Elsewhere until now: it has left there, or its target is about to be told.
            self.stop_units(|unit| unit.lun.volume == lun.volume && unit.target != name);
            if !self.units.contains_key(&lun.volume) {
                self.start_unit(&name, lun.clone(), device.clone());
            }
        }
        self.targets.insert(name, (target, device));
    }

    fn start_unit(&mut self, target: &str, lun: IscsiLun, device: Arc<TargetDevice>) {
        let (reservations, hears_reservations) = watch::channel(None);
        let (seat, hears_seat) = watch::channel(SeatNews::default());
        let (stop, hears_stop) = watch::channel(false);
        let (attempted_in, attempted) = watch::channel(false);
        let task = UnitTask {
            shared: self.shared.clone(),
            lun: lun.clone(),
            target: device,
            hears: Hears { reservations: hears_reservations, seat: hears_seat, stop: hears_stop },
            attempted: attempted_in,
        };
        let task = tokio::spawn(task.run(self.leaving.remove(&lun.volume)));
        let target = target.to_owned();
        let volume = lun.volume;
        self.units.insert(volume, UnitHandle { target, lun, reservations, seat, stop, attempted, task });
    }

    fn stop_units(&mut self, which: impl Fn(&UnitHandle) -> bool) {
        let stopped: Vec<VolumeId> =
            self.units.iter().filter(|(_, unit)| which(unit)).map(|(volume, _)| *volume).collect();
        for volume in stopped {
            let unit = self.units.remove(&volume).expect("it was just there");
            unit.stop.send_replace(true);
            self.leaving.insert(volume, unit.task);
        }
    }

    fn publish(&self) {
        let locked = self.targets.values().filter(|(target, _)| is_locked(target));
        self.shared.problems.locked(locked.map(|(target, _)| target.name.clone()).collect());
        let groups = port_groups(&self.gateways);
        let targets = self.targets.values().filter_map(|(target, device)| {
            device.set_port_groups(groups.clone());
            Some(Target { entry: entry(target, &self.unguessable)?, device: device.clone() })
        });
        let targets: Vec<Target> = targets.collect();
        let entries: Vec<_> = targets.iter().map(|target| target.entry.clone()).collect();
        let portals = portals(&self.own, self.shared.gateway.number, &self.gateways);
        self.publisher.send_replace(Arc::new(Catalog::new(targets, portals, discovery(&entries))));
    }

    /// The first units are there, or it is known that they are not to be had.
    fn tell_when_ready(&self, ready: watch::Sender<bool>) {
        let attempted: Vec<_> = self.units.values().map(|unit| unit.attempted.clone()).collect();
        tokio::spawn(async move {
            let all = async {
                for mut unit in attempted {
                    // An error is a unit that was given up meanwhile.
                    let _ = unit.wait_for(|attempted| *attempted).await;
                }
            };
            if timeout(READY_MAX, all).await.is_err() {
                debug!("some units are still being opened");
            }
            ready.send_replace(true);
        });
    }

    async fn end(mut self) {
        self.stop_units(|_| true);
        for task in std::mem::take(&mut self.leaving).into_values() {
            if task.await.is_err() {
                error!("a unit did not end in order");
            }
        }
    }
}

/// Whether a unit need not be given up for another.
fn same_unit(a: &IscsiLun, b: &IscsiLun) -> bool {
    let what = |lun: &IscsiLun| (lun.volume, lun.number, lun.block_bytes, lun.read_only, lun.uuid);
    what(a) == what(b)
}
