//! The client's side of one address: the calls to it and the task that carries them over a connection.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use curve_io::{BoxFuture, Message, RpcError};
use tokio::time::{Instant, Sleep};

use crate::METHOD_UNKNOWN;
use crate::calls::{CallId, CallTable, Credit, Outcome};
use crate::client_connection::{self, Connection};
use crate::config::RpcConfig;
use crate::stats::{Counters, count};

/// The longest pause between two attempts to connect while calls wait.
const BACKOFF_MAX: Duration = Duration::from_millis(100);

/// Deadlines beyond this are as good as none, and must not overflow a clock.
const DEADLINE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// One address that is called.
///
/// Calls are put into the table at once, in the order of `call`, so that this is also the order on the wire. A task,
/// the driver, exists while there is a connection or a call that waits for one; it connects, writes what is queued,
/// and completes what is answered. When an attempt to connect fails, all waiting calls fail with it; who wants to try
/// again calls again, and is held back for at most `BACKOFF_MAX` when attempts keep failing.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) address: Arc<str>,
    pub(crate) config: RpcConfig,
    pub(crate) counters: Arc<Counters>,
    state: Mutex<PeerState>,
}

/// What calls and the driver share. Held for a few instructions at a time, never across a wait.
#[derive(Debug, Default)]
pub(crate) struct PeerState {
    pub(crate) table: CallTable,
    driver: Driver,
    /// The server said that it is stopping; calls fail at once until the connection has ended.
    pub(crate) server_stopping: bool,
    /// The network is gone; the driver must end.
    pub(crate) closed: bool,
    /// Attempts to connect in a row that failed or brought nothing, and when the last one ended.
    failures: u32,
    failed_at: Option<Instant>,
}

#[derive(Debug, Default)]
enum Driver {
    #[default]
    Absent,
    /// It will look at the table before it sleeps.
    Awake,
    Asleep(Waker),
}

impl Peer {
    pub(crate) fn new(address: &str, config: RpcConfig, counters: Arc<Counters>) -> Arc<Self> {
        Arc::new(Self { address: address.into(), config, counters, state: Mutex::default() })
    }

    /// Queues a call and returns the future of its reply. The server is not to look at it after `arrives_by`.
    pub(crate) fn call(
        self: &Arc<Self>,
        request: Message,
        arrives_by: Option<Instant>,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Message, RpcError>> {
        let method = request.method;
        let now = Instant::now();
        let ends = now + deadline.min(DEADLINE_MAX);
        let arrives_by = arrives_by.unwrap_or(now + DEADLINE_MAX);
        let mut state = self.lock();
        if state.closed || state.server_stopping {
            let cause = if state.closed { "this network is closed" } else { "the server is stopping" };
            return self.refuse(cause);
        }
        let Some(id) = state.table.submit(request, arrives_by, ends) else {
            return self.refuse("too many calls wait for it");
        };
        let is_absent = matches!(state.driver, Driver::Absent);
        let waker = state.wake_driver();
        drop(state);
        if is_absent {
            tokio::spawn(drive(Arc::clone(self)));
        } else if let Some(waker) = waker {
            waker.wake();
        }
        Box::pin(Call { peer: Arc::clone(self), id, method, deadline, is_ended: false })
    }

    /// Ends the driver and all calls.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let waker = state.wake_driver();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether nothing is lost when this is forgotten.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.lock().driver, Driver::Absent)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, PeerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse(&self, cause: &str) -> BoxFuture<'static, Result<Message, RpcError>> {
        let error = RpcError::Unreachable { address: self.address.to_string(), cause: cause.to_owned() };
        Box::pin(async move { Err(error) })
    }

    /// Ends calls whose deadline has come.
    pub(crate) fn expire(&self, state: &mut PeerState, wakers: &mut Vec<Waker>) {
        if state.table.next_deadline().is_some() {
            let expired = state.table.expire(Instant::now(), wakers);
            count(&self.counters.deadlines_passed, expired);
        }
    }

    /// Ends the calls that wait for a connection, and remembers the failure for the backoff.
    fn connect_failed(&self, cause: &str) {
        count(&self.counters.connect_failures, 1);
        tracing::debug!(address = %self.address, cause, "cannot connect");
        let mut wakers = Vec::new();
        let mut state = self.lock();
        state.note_attempt(false);
        state.table.fail_queued(&cause.into(), &mut wakers);
        drop(state);
        wake_all(&mut wakers);
    }

    /// Ends the calls that went over a connection which is gone; `was_useful` if it brought a frame.
    fn connection_ended(&self, cause: &str, was_useful: bool) {
        let mut wakers = Vec::new();
        let mut state = self.lock();
        state.note_attempt(was_useful);
        state.server_stopping = false;
        state.table.fail_sent(&cause.into(), &mut wakers);
        drop(state);
        wake_all(&mut wakers);
    }
}

impl PeerState {
    /// Marks the driver as awake; the waker, if it slept, must be woken.
    fn wake_driver(&mut self) -> Option<Waker> {
        match std::mem::replace(&mut self.driver, Driver::Awake) {
            Driver::Asleep(waker) => Some(waker),
            Driver::Absent | Driver::Awake => None,
        }
    }

    /// The driver looks at the table now; nobody needs to wake it.
    pub(crate) fn driver_awake(&mut self) {
        self.driver = Driver::Awake;
    }

    /// The driver has looked at the table and sleeps until woken.
    pub(crate) fn driver_sleeps(&mut self, waker: &Waker) {
        self.driver = Driver::Asleep(waker.clone());
    }

    fn note_attempt(&mut self, was_useful: bool) {
        self.failures = if was_useful { 0 } else { self.failures.saturating_add(1) };
        self.failed_at = Some(Instant::now());
    }

    /// Until when a new attempt to connect has to wait.
    fn backoff_ends(&self) -> Option<Instant> {
        let doublings = self.failures.checked_sub(2)?.min(8);
        Some(self.failed_at? + BACKOFF_MAX.min(Duration::from_millis(5 << doublings)))
    }
}

/// Wakes and forgets.
pub(crate) fn wake_all(wakers: &mut Vec<Waker>) {
    for waker in wakers.drain(..) {
        waker.wake();
    }
}

/// A call in progress; dropping it gives it up.
struct Call {
    peer: Arc<Peer>,
    id: CallId,
    method: u16,
    deadline: Duration,
    is_ended: bool,
}

impl Future for Call {
    type Output = Result<Message, RpcError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.peer.lock().table.poll(self.id, cx.waker());
        let Poll::Ready(outcome) = polled else { return Poll::Pending };
        self.is_ended = true;
        Poll::Ready(self.result(outcome))
    }
}

impl Call {
    fn result(&self, outcome: Outcome) -> Result<Message, RpcError> {
        let address = || self.peer.address.to_string();
        match outcome {
            Outcome::Replied(reply) if reply.method == METHOD_UNKNOWN => {
                Err(RpcError::UnknownMethod { address: address(), method: self.method })
            }
            Outcome::Replied(reply) => Ok(reply),
            Outcome::Unreachable(cause) => {
                Err(RpcError::Unreachable { address: address(), cause: cause.as_ref().to_owned() })
            }
            Outcome::Broken(cause) => {
                Err(RpcError::Broken { address: address(), cause: cause.as_ref().to_owned() })
            }
            Outcome::Deadline => Err(RpcError::Deadline {
                address: address(),
                deadline_ms: u64::try_from(self.deadline.as_millis()).unwrap_or(u64::MAX),
            }),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.is_ended {
            return;
        }
        let mut state = self.peer.lock();
        state.table.abandon(self.id);
        // Credit may have come free for calls that wait. The server hears of the cancel with whatever is sent next.
        let waker = if state.table.has_queued() { state.wake_driver() } else { None };
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Ends all calls when the driver's task ends in another way than for want of calls: with its runtime, or since the
/// network is closed.
struct DriverGuard {
    peer: Arc<Peer>,
    is_armed: bool,
}

impl Drop for DriverGuard {
    fn drop(&mut self) {
        if !self.is_armed {
            return;
        }
        let mut wakers = Vec::new();
        let mut state = self.peer.lock();
        state.driver = Driver::Absent;
        state.server_stopping = false;
        let cause: Arc<str> = "the connection's task was stopped".into();
        state.table.fail_sent(&cause, &mut wakers);
        state.table.fail_queued(&cause, &mut wakers);
        drop(state);
        wake_all(&mut wakers);
    }
}

/// The driver: connects and carries calls until there is neither a connection nor a call that waits for one.
async fn drive(peer: Arc<Peer>) {
    let mut guard = DriverGuard { peer: Arc::clone(&peer), is_armed: true };
    loop {
        match connect(&peer).await {
            Ok(connection) => {
                let (error, was_useful) = connection.run().await;
                tracing::debug!(address = %peer.address, %error, "connection ended");
                peer.connection_ended(&error.to_string(), was_useful);
            }
            Err(cause) => peer.connect_failed(&cause),
        }
        let mut state = peer.lock();
        if state.closed {
            return;
        }
        if !state.table.has_queued() {
            // Under the lock, so that the next call sees that it must start a driver.
            state.driver = Driver::Absent;
            guard.is_armed = false;
            return;
        }
    }
}

/// Waits out the backoff and connects. Calls expire meanwhile.
async fn connect(peer: &Arc<Peer>) -> Result<Connection, String> {
    let backoff_ends = peer.lock().backoff_ends();
    let attempt = async {
        if let Some(ends) = backoff_ends {
            tokio::time::sleep_until(ends).await;
        }
        let attempt = client_connection::connect(peer);
        match tokio::time::timeout(peer.config.connect_timeout, attempt).await {
            Ok(result) => result.map_err(|e| e.to_string()),
            Err(_) => Err(format!("no answer within {} ms", peer.config.connect_timeout.as_millis())),
        }
    };
    tokio::select! {
        result = attempt => result,
        () = expire_until_closed(peer) => Err("this network is closed".to_owned()),
    }
}

/// Ends calls as their deadlines come; returns when the peer is closed.
async fn expire_until_closed(peer: &Peer) {
    let mut timer: Option<Pin<Box<Sleep>>> = None;
    let mut wakers = Vec::new();
    poll_fn(|cx| {
        loop {
            let mut state = peer.lock();
            peer.expire(&mut state, &mut wakers);
            let (next, is_closed) = (state.table.next_deadline(), state.closed);
            state.driver_sleeps(cx.waker());
            drop(state);
            wake_all(&mut wakers);
            if is_closed {
                return Poll::Ready(());
            }
            let Some(next) = next else { return Poll::Pending };
            let sleep = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next)));
            if sleep.deadline() != next {
                sleep.as_mut().reset(next);
            }
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await;
}

/// What a server takes, within what this side wants to have under way.
pub(crate) fn credit(config: &RpcConfig, requests: u32, bytes: u64) -> Credit {
    Credit { requests: requests.min(config.inflight_max).max(1), bytes: bytes.min(config.inflight_bytes_max) }
}
