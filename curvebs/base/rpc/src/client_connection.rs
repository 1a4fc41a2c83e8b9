//! One connection to a server, from the hello to its end.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use curve_io::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, Sleep};

use crate::batching::Batching;
use crate::calls::{Credit, Outcome};
use crate::client::{Peer, credit, wake_all};
use crate::clock::ServerClock;
use crate::decoder::Frame;
use crate::format::{HELLO_BYTES, Hello, Kind, VERSION, Verdict, decode_hello, encode_hello};
use crate::pipe::{Pipe, PipeError};
use crate::stats::count;
use crate::stream::Stream;

/// The outbox takes no further requests above this, so that one write is not larger than sockets like.
const OUTBOX_BYTES: usize = 512 << 10;
/// Rounds of reading and writing before other tasks of the thread get their turn.
const ROUNDS_MAX: usize = 8;

/// Connects to the peer's address and exchanges hellos.
pub(crate) async fn connect(peer: &Arc<Peer>) -> io::Result<Connection> {
    let mut stream = Stream::connect(&peer.address, peer.config.tls.as_ref()).await?;
    let hello =
        Hello { version: VERSION, verdict: Verdict::GoOn, inflight_max: 0, inflight_bytes_max: 0, clock: 0 };
    stream.write_all(&encode_hello(&hello)).await?;
    stream.flush().await?;
    let mut bytes = [0; HELLO_BYTES];
    stream.read_exact(&mut bytes).await?;
    let heard_at = Instant::now();
    let hello = decode_hello(&bytes).map_err(invalid)?;
    let cause = match hello.verdict {
        Verdict::GoOn if hello.version == VERSION => {
            let credit = credit(&peer.config, hello.inflight_max, hello.inflight_bytes_max);
            let clock = ServerClock::new(heard_at, hello.clock);
            return Ok(Connection::new(Arc::clone(peer), stream, credit, clock));
        }
        Verdict::GoOn | Verdict::Version => {
            format!("it speaks version {} of the RPC protocol, this program version {VERSION}", hello.version)
        }
        Verdict::TlsRequired => "it wants TLS; configure certificates".to_owned(),
        Verdict::TooMany => "it has too many connections".to_owned(),
        Verdict::Stopping => "it is stopping".to_owned(),
    };
    Err(invalid(cause))
}

fn invalid(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, cause)
}

/// A connection that carries calls of its peer's table.
///
/// One task does everything, in rounds: read what has come and complete the calls it answers; move what is queued
/// into the outbox as far as credit goes; write the outbox in one vectored write. It sleeps when a round moved
/// nothing. Callers that run because of one batch of replies queue their next requests before this task runs again,
/// so batches form by themselves.
pub(crate) struct Connection {
    peer: Arc<Peer>,
    pipe: Pipe,
    credit: Credit,
    clock: ServerClock,
    /// Set at the nearest deadline of a call or the next tick of the keep-alive, whichever is first.
    timer: Pin<Box<Sleep>>,
    keep_alive: KeepAlive,
    frames: Vec<Frame>,
    wakers: Vec<Waker>,
    /// A frame has come over it.
    is_useful: bool,
    batching: Batching,
}

/// Notices a peer that no longer answers.
struct KeepAlive {
    /// Something came since the last tick.
    heard: bool,
    /// When the ping that is not answered yet was sent.
    pinged_at: Option<Instant>,
    next_tick: Instant,
}

impl Connection {
    fn new(peer: Arc<Peer>, stream: Stream, credit: Credit, clock: ServerClock) -> Self {
        count(&peer.counters.connects, 1);
        peer.counters.client_connections_open.fetch_add(1, Ordering::Relaxed);
        let next_tick = Instant::now() + peer.config.ping_interval;
        Self {
            pipe: Pipe::new(stream, Arc::clone(&peer.counters)),
            credit,
            clock,
            timer: Box::pin(tokio::time::sleep_until(next_tick)),
            keep_alive: KeepAlive { heard: false, pinged_at: None, next_tick },
            frames: Vec::new(),
            wakers: Vec::new(),
            is_useful: false,
            batching: Batching::new(),
            peer,
        }
    }

    /// Carries calls until the connection ends; says why it did, and whether anything came over it.
    pub(crate) async fn run(mut self) -> (PipeError, bool) {
        let error = poll_fn(|cx| self.poll(cx)).await;
        if !matches!(error, PipeError::Closed) {
            count(&self.peer.counters.connections_broken, 1);
        }
        (error, self.is_useful)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<PipeError> {
        if self.batching.should_yield(|| self.peer.lock().table.more_may_follow()) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        for _ in 0..ROUNDS_MAX {
            match self.round(cx) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(error) => return Poll::Ready(error),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One round; whether there may be more to do at once. When not, wakers are in place for what comes.
    fn round(&mut self, cx: &mut Context<'_>) -> Result<bool, PipeError> {
        let was_read = match self.pipe.poll_frames(cx, &mut self.frames) {
            Poll::Ready(result) => {
                // What arrived before an error still counts.
                self.keep_alive.heard = true;
                self.take_frames()?;
                result?;
                true
            }
            Poll::Pending => false,
        };
        if self.pipe.outbox.is_empty() {
            self.fill_outbox()?;
        }
        let is_written = self.pipe.poll_flush(cx)?.is_ready();
        self.poll_timer(cx)?;
        if was_read {
            return Ok(true);
        }
        let mut state = self.peer.lock();
        if is_written && (state.table.has_work(self.credit) || state.closed) {
            return Ok(true);
        }
        if is_written && !self.pipe.outbox.is_empty() {
            return Ok(true);
        }
        state.driver_sleeps(cx.waker());
        let deadline = state.table.next_deadline();
        drop(state);
        Ok(self.arm_timer(cx, deadline))
    }

    fn take_frames(&mut self) -> Result<(), PipeError> {
        if self.frames.is_empty() {
            return Ok(());
        }
        self.is_useful = true;
        let now = Instant::now();
        let mut replies = 0;
        let mut result = Ok(());
        let mut state = self.peer.lock();
        state.driver_awake();
        for Frame { prefix, header, payload } in self.frames.drain(..) {
            if self.clock.hear(now, prefix.clock) {
                tracing::warn!(address = %self.peer.address, "this machine's clock stood still");
                count(&self.peer.counters.clock_leaps, 1);
            }
            let outcome = match prefix.kind {
                Kind::Reply => {
                    let payload = if payload.is_empty() { Vec::new() } else { vec![payload] };
                    replies += 1;
                    Outcome::Replied(Message { method: prefix.method, header, payload })
                }
                Kind::Dropped => Outcome::Broken("the server dropped the call".into()),
                Kind::Refused => Outcome::Unreachable("the server is stopping".into()),
                Kind::Late => Outcome::Unreachable("the call was held up on its way".into()),
                Kind::Pong => {
                    self.keep_alive.pinged_at = None;
                    continue;
                }
                Kind::GoAway => {
                    state.server_stopping = true;
                    state.table.fail_queued(&"the server is stopping".into(), &mut self.wakers);
                    continue;
                }
                Kind::Request | Kind::Cancel | Kind::Ping => {
                    result = Err(PipeError::Rule("a server must not send requests"));
                    break;
                }
            };
            self.wakers.extend(state.table.complete(prefix.id, outcome));
        }
        drop(state);
        count(&self.peer.counters.replies_received, replies);
        wake_all(&mut self.wakers);
        result
    }

    fn fill_outbox(&mut self) -> Result<(), PipeError> {
        let mut requests = 0;
        let mut state = self.peer.lock();
        state.driver_awake();
        if state.closed {
            return Err(PipeError::Rule("this network is closed"));
        }
        for id in state.table.take_cancels() {
            self.pipe.outbox.push_bare(Kind::Cancel, id, 0);
        }
        while self.pipe.outbox.bytes() < OUTBOX_BYTES {
            let Some((id, arrives_by, request)) = state.table.next_to_send(self.credit) else { break };
            self.pipe.outbox.push(Kind::Request, id, self.clock.at(arrives_by), request);
            requests += 1;
        }
        drop(state);
        count(&self.peer.counters.requests_sent, requests);
        Ok(())
    }

    /// Expires calls and keeps the connection alive when the timer has gone off.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Result<(), PipeError> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let mut state = self.peer.lock();
            self.peer.expire(&mut state, &mut self.wakers);
            let deadline = state.table.next_deadline();
            drop(state);
            wake_all(&mut self.wakers);
            if now >= self.keep_alive.next_tick {
                self.tick(now)?;
            }
            let next = deadline.map_or(self.keep_alive.next_tick, |d| d.min(self.keep_alive.next_tick));
            self.timer.as_mut().reset(next);
        }
        Ok(())
    }

    fn tick(&mut self, now: Instant) -> Result<(), PipeError> {
        let config = &self.peer.config;
        let keep_alive = &mut self.keep_alive;
        keep_alive.next_tick = now + config.ping_interval;
        if std::mem::take(&mut keep_alive.heard) {
            keep_alive.pinged_at = None;
            return Ok(());
        }
        match keep_alive.pinged_at {
            None => {
                keep_alive.pinged_at = Some(now);
                self.pipe.outbox.push_bare(Kind::Ping, 0, 0);
            }
            Some(pinged_at) if now - pinged_at >= config.ping_timeout => {
                return Err(PipeError::Silent((now - pinged_at).as_millis()));
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Sets the timer for a deadline that is nearer than what it is set to; whether it must be polled at once.
    fn arm_timer(&mut self, cx: &mut Context<'_>, deadline: Option<Instant>) -> bool {
        match deadline {
            Some(deadline) if deadline < self.timer.deadline() => {
                self.timer.as_mut().reset(deadline);
                self.timer.as_mut().poll(cx).is_ready()
            }
            _ => false,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.peer.counters.client_connections_open.fetch_sub(1, Ordering::Relaxed);
    }
}
