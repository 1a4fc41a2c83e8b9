//! Reservations that hold on every gateway: the gateway's side of the protocol whose other side, invariants and model
//! are in `curve-mds`, `iscsi/units.rs`.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use curve_client::Cluster;
use curve_client::mds::{IscsiGatewayKey, IscsiReserve, IscsiSeat, MdsError};
use curve_scsi::reservations::format::{encode_change, encode_state};
use curve_scsi::reservations::{Change, Outcome, ReservationFuture, ReservationStore, State, StoreError};
use rand::Rng;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::warn;

/// How long a change may take. Initiators give a command 30 s or more; after this they hear that it cannot be said
/// whether the change was made, and ask.
const CHANGE_MAX: Duration = Duration::from_secs(20);
const RETRY: Duration = Duration::from_millis(100);

/// What this gateway has confirmed.
#[derive(Clone, Debug)]
struct Enforced {
    /// The session that the unit is served through; `None` after it was shut out, until there is another.
    seat: Option<IscsiSeat>,
    version: u64,
    state: Arc<State>,
}

/// The reservations of one unit, as the MDS group keeps them.
///
/// Three moments of a state are told apart. It is *published* by the MDS; then it is this gateway's *view*, by which
/// every new command is decided; and when what it forbids is over, it is *enforced* and confirmed. The unit's task takes
/// states through these moments; this type shows the view to commands and makes changes.
///
/// A change is made from the enforced state, never from the view: what a former state's victims had asked for before they
/// were aborted is then either made before that state, or names a version that is over. It completes when the MDS says
/// that all gateways enforce it, this one among them, so its outcome is empty: the unit's task has done what it asks for.
///
/// A gateway that was shut out goes on deciding by the last view it had. That harms nobody, since nothing it lets in
/// reaches the volume, and answers to PERSISTENT RESERVE IN may then be old until it has heard of it.
pub struct ClusterReservations {
    cluster: Arc<Cluster>,
    gateway: IscsiGatewayKey,
    /// With its version: a view is never replaced by an older one.
    view: RwLock<(u64, Arc<State>)>,
    enforced: watch::Sender<Enforced>,
    /// One change at a time, as the protocol has it.
    turn: Mutex<()>,
}

impl ClusterReservations {
    /// The reservations of a unit that is served through `seat`, whose state was given with it.
    pub fn new(
        cluster: Arc<Cluster>,
        gateway: IscsiGatewayKey,
        seat: IscsiSeat,
        version: u64,
        state: State,
    ) -> Self {
        let state = Arc::new(state);
        let (enforced, _) = watch::channel(Enforced { seat: Some(seat), version, state: state.clone() });
        Self { cluster, gateway, view: RwLock::new((version, state)), enforced, turn: Mutex::default() }
    }

    /// Decides new commands by a state, unless a newer one is known.
    pub fn show(&self, version: u64, state: Arc<State>) {
        let mut view = self.view.write().expect("no panic under the lock");
        if version >= view.0 {
            *view = (version, state);
        }
    }

    /// The version that is enforced, and its state.
    pub fn enforced(&self) -> (u64, Arc<State>) {
        let enforced = self.enforced.borrow();
        (enforced.version, enforced.state.clone())
    }

    /// Nothing that the state forbids is under way any more.
    pub fn enforce(&self, version: u64, state: Arc<State>) {
        self.enforced.send_modify(|enforced| (enforced.version, enforced.state) = (version, state));
    }

    /// The session was shut out, or there is another.
    pub fn sit(&self, seat: Option<IscsiSeat>) {
        self.enforced.send_modify(|enforced| enforced.seat = seat);
    }

    async fn make(&self, change: Change) -> Result<Outcome, StoreError> {
        let until = Instant::now() + CHANGE_MAX;
        let Ok(_turn) = timeout_at(until, self.turn.lock()).await else {
            return Err(StoreError::Unavailable);
        };
        let id = rand::rng().random();
        loop {
            let Enforced { seat, version, state } = self.enforced.borrow().clone();
            let seat = seat.ok_or(StoreError::Unavailable)?;
            let mut next = State::clone(&state);
            next.apply(&change).map_err(StoreError::Refused)?;
            let request = IscsiReserve {
                gateway: self.gateway,
                seat,
                id,
                expected: version,
                state: encode_state(&next).into(),
                change: encode_change(&change).into(),
            };
            // Also what changes nothing is asked for: who was shut out must not be told that it holds something.
            let settled = self.ask(&request, until).await?;
            // Settled without this gateway, if it was shut out meanwhile; else it has confirmed.
            let reached = |now: &Enforced| match settled {
                Some(version) => now.version >= version || now.seat != Some(seat),
                None => now.version > version || now.seat != Some(seat),
            };
            let mut enforced = self.enforced.subscribe();
            let waited = timeout_at(until, enforced.wait_for(reached)).await.is_ok();
            match settled {
                Some(version) => {
                    // If this gateway was shut out meanwhile, nobody else tells it: whoever made the change must not be
                    // refused by the state of before.
                    self.show(version, Arc::new(next));
                    return Ok(Outcome::default());
                }
                None if !waited => return Err(StoreError::Unavailable),
                None => {}
            }
        }
    }

    /// Asks until there is an answer: the version that was made, or nothing if the state is another by now.
    async fn ask(&self, request: &IscsiReserve, until: Instant) -> Result<Option<u64>, StoreError> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(StoreError::Unavailable);
            }
            match self.cluster.mds().iscsi_reserve(request, left).await {
                Ok(settled) => return Ok(settled),
                Err(error) if error.is_transient() => sleep(RETRY).await,
                Err(error @ (MdsError::NotHeld { .. } | MdsError::NotFound { .. })) => {
                    tracing::debug!(%error, "a change of reservations came too late");
                    return Err(StoreError::Unavailable);
                }
                Err(error) => {
                    warn!(volume = %request.seat.volume, %error, "a change of reservations was not made");
                    return Err(StoreError::Unavailable);
                }
            }
        }
    }
}

impl ReservationStore for ClusterReservations {
    fn view(&self) -> Arc<State> {
        self.view.read().expect("no panic under the lock").1.clone()
    }

    fn change(&self, change: Change) -> ReservationFuture<'_, Result<Outcome, StoreError>> {
        Box::pin(self.make(change))
    }
}
