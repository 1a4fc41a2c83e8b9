//! One unit: its volume, its seat, and the reservations that it has to enforce.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use curve_blockdev::{BlockDevice, Traced};
use curve_client::mds::{IscsiGatewayKey, IscsiLun, IscsiReservation, IscsiSeat, MdsError, OpenMode};
use curve_client::{ClientError, Cluster, OpenOptions, Volume};
use curve_scsi::reservations::format::{FormatError, decode_change, decode_state};
use curve_scsi::reservations::{Action, Change, ReservationStore, State};
use curve_scsi::{
    Identity, LocalAtomics, LogicalUnit, Lun, TargetDevice, UnitError, UnitOptions, volume_atomic_max,
};
use curve_types::{ClientId, SECTOR_BYTES};
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{debug, error, info, warn};

use super::device::Reopened;
use super::health::Problems;
use super::store::ClusterReservations;

const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// How often a unit looks whether its volume was taken over.
const LOOK: Duration = Duration::from_millis(250);

/// What the cluster knows of a gateway's seat on a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SeatNews {
    /// The poll that asked, by its number.
    pub poll: u64,
    /// The session that has the seat.
    pub client: Option<ClientId>,
}

/// What all units of a gateway work with.
#[derive(Clone)]
pub struct Shared {
    pub cluster: Arc<Cluster>,
    pub gateway: IscsiGatewayKey,
    /// Polls that were begun.
    pub polls: Arc<AtomicU64>,
    pub problems: Arc<Problems>,
    /// Whether to measure every operation.
    pub traced: bool,
}

/// Where a unit hears from the gateway's follower.
pub struct Hears {
    pub reservations: watch::Receiver<Option<IscsiReservation>>,
    pub seat: watch::Receiver<SeatNews>,
    pub stop: watch::Receiver<bool>,
}

/// Serves one unit of one target, from its appearance in the catalog to its end.
///
/// ```text
/// open the volume (shared) → take the seat: state and version → the unit is in its target
///    ▲                                         │
///    │                                         ├─ a newer state: show it, abort, drain, confirm
///    └── shut out: open anew, take a seat, ────┤
///        show its state, drain, go on          └─ stop: out of the target, drain, close, leave
/// ```
///
/// **Invariants.** No command reaches the volume through a session that has no seat. A state is confirmed only when
/// nothing that it forbids is under way. A volume that was opened anew is used only after every command of before is over:
/// it had been let in by an older state.
pub struct UnitTask {
    pub shared: Shared,
    pub lun: IscsiLun,
    pub target: Arc<TargetDevice>,
    pub hears: Hears,
    /// Set after the first attempt to serve, whether it succeeded or not.
    pub attempted: watch::Sender<bool>,
}

/// A unit that is served.
struct Serving {
    device: Arc<Reopened>,
    store: Arc<ClusterReservations>,
    unit: Arc<LogicalUnit>,
    seat: IscsiSeat,
    /// Polls after this one know of the seat.
    seated_at: u64,
}

/// An open volume and its seat.
struct Seated {
    volume: Arc<Volume>,
    seat: IscsiSeat,
    given: IscsiReservation,
    state: State,
    seated_at: u64,
}

/// Why a unit cannot be served now.
#[derive(Debug, Error)]
enum Failed {
    #[error("cannot open it: {0}")]
    Open(ClientError),
    #[error("cannot take the seat: {0}")]
    Seat(#[from] MdsError),
    #[error("its reservations cannot be read: {0}")]
    Reservations(#[from] FormatError),
    #[error("{0}")]
    Unit(#[from] UnitError),
}

/// Why following ended.
enum Ended {
    Stopped,
    ShutOut,
    Unreadable(FormatError),
}

fn state_of(unit: &IscsiReservation) -> Result<State, FormatError> {
    if unit.state.is_empty() { Ok(State::default()) } else { decode_state(&unit.state) }
}

impl UnitTask {
    /// Runs until it is told to stop. `before` is an earlier task of the same volume.
    pub async fn run(mut self, before: Option<tokio::task::JoinHandle<()>>) {
        if let Some(before) = before {
            // Whether it ended well or not, it has ended.
            let _ = before.await;
        }
        let Some(seated) = self.seat_until_stopped().await else { return };
        let seat = seated.seat;
        match self.begin(seated).await {
            Ok(serving) => self.serve(serving).await,
            Err(error) => {
                error!(volume = self.lun.path, %error, "a unit cannot be served");
                self.shared.problems.unit(&self.lun.path, Some(error.to_string()));
                self.leave(seat).await;
            }
        }
        self.attempted.send_replace(true);
    }

    async fn serve(&mut self, mut serving: Serving) {
        loop {
            match self.follow(&serving).await {
                Ended::ShutOut => {
                    warn!(volume = self.lun.path, "this gateway was shut out of a volume; opening it anew");
                    serving.store.sit(None);
                    let Some(seated) = self.seat_until_stopped().await else { break };
                    self.go_on(&mut serving, seated).await;
                }
                Ended::Stopped => break,
                Ended::Unreadable(error) => {
                    error!(volume = self.lun.path, %error, "reservations of a later version: the unit is given up");
                    self.shared.problems.unit(&self.lun.path, Some(Failed::from(error).to_string()));
                    break;
                }
            }
        }
        self.end(serving).await;
    }

    /// Opens the volume and takes the seat, however long that takes.
    async fn seat_until_stopped(&mut self) -> Option<Seated> {
        let mut pause = RETRY_MIN;
        let mut said = String::new();
        let mut stop = self.hears.stop.clone();
        loop {
            let seated = tokio::select! {
                seated = self.take_seat() => seated,
                _ = stop.wait_for(|stop| *stop) => return None,
            };
            match seated {
                Ok(seated) => {
                    self.shared.problems.unit(&self.lun.path, None);
                    return Some(seated);
                }
                Err(error) => {
                    let text = error.to_string();
                    if text != said {
                        warn!(volume = self.lun.path, %error, "a unit cannot be served; trying again");
                        self.shared.problems.unit(&self.lun.path, Some(text.clone()));
                        said = text;
                    }
                }
            }
            self.attempted.send_replace(true);
            tokio::select! {
                () = sleep(pause) => pause = (2 * pause).min(RETRY_MAX),
                _ = stop.wait_for(|stop| *stop) => return None,
            }
        }
    }

    async fn take_seat(&self) -> Result<Seated, Failed> {
        let Shared { cluster, gateway, polls, .. } = &self.shared;
        let options = OpenOptions {
            mode: if self.lun.read_only { OpenMode::ReadOnly } else { OpenMode::Shared },
            takeover: false,
            sectors: u64::from(self.lun.block_bytes) == SECTOR_BYTES,
        };
        let volume = cluster.open_volume(self.lun.volume, options).await.map_err(Failed::Open)?;
        let seat = IscsiSeat { volume: self.lun.volume, client: volume.client() };
        let seated = async {
            let given = cluster.mds().iscsi_serve(*gateway, seat).await?;
            let state = state_of(&given)?;
            let seated_at = polls.load(Ordering::SeqCst);
            Ok(Seated { volume: volume.clone(), seat, given, state, seated_at })
        };
        let seated = seated.await;
        if seated.is_err() {
            // Nothing was sent through it; its lease ends by itself if even this fails.
            let _ = volume.close().await;
        }
        seated
    }

    /// Makes the unit and puts it into its target.
    async fn begin(&self, seated: Seated) -> Result<Serving, Failed> {
        let Seated { volume, seat, given, state, seated_at } = seated;
        let device = Arc::new(Reopened::new(volume));
        let served: Arc<dyn BlockDevice> = match self.shared.traced {
            true => Arc::new(Traced::new(device.clone(), &self.lun.path)),
            false => device.clone(),
        };
        let Shared { cluster, gateway, .. } = &self.shared;
        let legacy = state.legacy_holder().filter(|holder| holder.port == gateway.number).cloned();
        let store = Arc::new(ClusterReservations::new(cluster.clone(), *gateway, seat, given.version, state));
        let unit = LogicalUnit::with_seams(
            Identity::of_volume(self.lun.uuid),
            Arc::new(LocalAtomics::new(served, volume_atomic_max(self.lun.block_bytes))),
            store.clone(),
            UnitOptions { block_bytes: self.lun.block_bytes, read_only: self.lun.read_only },
        )?;
        if given.enforced < given.version {
            self.confirm(seat, given.version).await;
        }
        self.target.insert(self.number(), unit.clone());
        self.attempted.send_replace(true);
        info!(target = self.target.name(), lun = self.lun.number, volume = self.lun.path, "a unit is served");
        if let Some(holder) = legacy {
            // Its nexus ended with this gateway's former life.
            let store = store.clone();
            tokio::spawn(async move {
                if let Err(error) = store.change(Change { by: holder, action: Action::NexusLost }).await {
                    debug!(%error, "a RESERVE(6) of a former life stays");
                }
            });
        }
        Ok(Serving { device, store, unit, seat, seated_at })
    }

    /// Goes on through another session of the volume.
    async fn go_on(&self, serving: &mut Serving, seated: Seated) {
        let Seated { volume, seat, given, state, seated_at } = seated;
        let state = Arc::new(state);
        serving.store.show(given.version, state.clone());
        // What an older state had let in must not get to the new session. The former one refuses it.
        serving.unit.drain().await;
        serving.store.enforce(given.version, state);
        let former = serving.device.volume();
        serving.device.replace(volume);
        (serving.seat, serving.seated_at) = (seat, seated_at);
        serving.store.sit(Some(seat));
        if given.enforced < given.version {
            self.confirm(seat, given.version).await;
        }
        if let Err(error) = former.close().await {
            debug!(%error, "a volume that this gateway was shut out of did not close in order");
        }
        info!(volume = self.lun.path, "the unit is served again");
    }

    /// Enforces every new state until something else is to be done.
    async fn follow(&mut self, serving: &Serving) -> Ended {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let newest = self.hears.reservations.borrow_and_update().clone();
            if let Some(newest) = newest.filter(|newest| newest.version > serving.store.enforced().0) {
                match self.enforce(serving, &newest).await {
                    Ok(true) => continue,
                    Ok(false) => return Ended::ShutOut,
                    Err(error) => return Ended::Unreadable(error),
                }
            }
            if serving.device.volume().is_fenced() || self.is_evicted(serving) {
                return Ended::ShutOut;
            }
            tokio::select! {
                // The follower is gone only when everything ends.
                changed = self.hears.reservations.changed() => if changed.is_err() { return Ended::Stopped },
                changed = self.hears.seat.changed() => if changed.is_err() { return Ended::Stopped },
                _ = look.tick() => {}
                _ = self.hears.stop.wait_for(|stop| *stop) => return Ended::Stopped,
            }
        }
    }

    fn is_evicted(&mut self, serving: &Serving) -> bool {
        let news = *self.hears.seat.borrow_and_update();
        news.poll > serving.seated_at && news.client != Some(serving.seat.client)
    }

    /// Makes a state hold here: whoever asks for something from now on is decided by it, what it forbids is over when
    /// this confirms. False: this gateway was shut out.
    async fn enforce(&self, serving: &Serving, newest: &IscsiReservation) -> Result<bool, FormatError> {
        let Serving { store, unit, seat, .. } = serving;
        let state = Arc::new(state_of(newest)?);
        let (version, former) = store.enforced();
        // It was made elsewhere from the same state, so it can be made here.
        let known = newest.before == version && !newest.change.is_empty();
        let change = known.then(|| decode_change(&newest.change)).transpose()?;
        store.show(newest.version, state.clone());
        if let Some(change) = change {
            if change.action == Action::Reset {
                unit.reset_here().await;
            }
            if let Ok(outcome) = State::clone(&former).apply(&change) {
                unit.enforce(&outcome).await;
            }
        }
        unit.drain_forbidden(&state).await;
        store.enforce(newest.version, state);
        Ok(self.confirm(*seat, newest.version).await)
    }

    /// Confirms a version until the MDS has heard. False: this gateway was shut out.
    async fn confirm(&self, seat: IscsiSeat, version: u64) -> bool {
        let Shared { cluster, gateway, .. } = &self.shared;
        let mut stop = self.hears.stop.clone();
        loop {
            match cluster.mds().iscsi_enforced(*gateway, seat, version).await {
                Ok(()) => return true,
                Err(MdsError::NotHeld { .. }) => return false,
                Err(error) => debug!(%error, version, "reservations are not confirmed yet"),
            }
            tokio::select! {
                () = sleep(RETRY_MIN) => {}
                // Leaving says more.
                _ = stop.wait_for(|stop| *stop) => return true,
            }
        }
    }

    async fn end(&self, serving: Serving) {
        self.target.remove(self.number());
        serving.unit.drain().await;
        if let Err(error) = serving.device.close().await {
            warn!(volume = self.lun.path, %error, "a volume did not close in order");
        }
        self.leave(serving.seat).await;
        self.shared.problems.unit(&self.lun.path, None);
        info!(target = self.target.name(), lun = self.lun.number, "a unit is served no longer");
    }

    /// A seat that nobody gives up is taken away when the gateway's lease has run out.
    async fn leave(&self, seat: IscsiSeat) {
        let Shared { cluster, gateway, .. } = &self.shared;
        if let Err(error) = cluster.mds().iscsi_leave(*gateway, seat).await {
            debug!(volume = self.lun.path, %error, "a seat was not given up in order");
        }
    }

    fn number(&self) -> Lun {
        Lun::new(self.lun.number).expect("the MDS checks numbers")
    }
}
