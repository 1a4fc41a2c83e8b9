//! One connection from a client, from the hello to its end.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use curve_io::{Message, Reply};
use tokio::time::{Instant, Sleep};

use crate::batching::Batching;
use crate::clock;
use crate::decoder::Frame;
use crate::format::{HEADER_BYTES_MAX, Kind, PAYLOAD_BYTES_MAX};
use crate::pipe::{Pipe, PipeError};
use crate::server::Shared;
use crate::stats::count;
use crate::stream::Stream;

/// The outbox takes no further replies above this.
const OUTBOX_BYTES: usize = 512 << 10;
/// Nothing more is read from a client that leaves this many bytes of replies unread.
const UNSENT_BYTES_MAX: usize = 32 << 20;
/// Rounds of reading and writing before other tasks of the thread get their turn.
const ROUNDS_MAX: usize = 8;

const _: () = assert!(UNSENT_BYTES_MAX >= 2 * (HEADER_BYTES_MAX + PAYLOAD_BYTES_MAX));

/// The replies that a connection owes, shared by its task and the handlers of its requests.
pub(crate) struct Replies {
    state: Mutex<ReplyState>,
}

struct ReplyState {
    /// By the low half of the request id.
    slots: Vec<Slot>,
    unanswered: u32,
    unanswered_bytes: u64,
    queue: VecDeque<(Kind, u64, Message)>,
    queue_bytes: usize,
    /// The task's waker while it sleeps.
    sleeping: Option<Waker>,
    /// The server stops: answer what is there, refuse what comes.
    stopping: bool,
    /// The connection is gone; replies are dropped.
    closed: bool,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    generation: u32,
    bytes: u32,
    is_unanswered: bool,
}

impl Replies {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(ReplyState {
                slots: Vec::new(),
                unanswered: 0,
                unanswered_bytes: 0,
                queue: VecDeque::new(),
                queue_bytes: 0,
                sleeping: None,
                stopping: false,
                closed: false,
            }),
        })
    }

    /// The server stops.
    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        state.stopping = true;
        let waker = state.sleeping.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, ReplyState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues the end of a request, unless the client no longer waits for it.
    fn answer(&self, kind: Kind, id: u64, message: Message) {
        let mut state = self.lock();
        if state.closed || !state.release(id) {
            // The message is dropped by the caller's frame, after the lock.
            drop(state);
            return;
        }
        state.push(kind, id, message);
        let waker = state.sleeping.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl ReplyState {
    /// Notes a request as unanswered, within what the server said it takes.
    fn admit(&mut self, id: u64, bytes: usize, shared: &Shared) -> Result<(), PipeError> {
        let (index, generation) = (id as u32 as usize, (id >> 32) as u32);
        if index >= self.slots.len() {
            self.slots.resize(index + 1, Slot::default());
        }
        let slot = &mut self.slots[index];
        if slot.is_unanswered {
            return Err(PipeError::Rule("a request id was used again before its reply"));
        }
        *slot = Slot { generation, bytes: bytes as u32, is_unanswered: true };
        self.unanswered += 1;
        self.unanswered_bytes += bytes as u64;
        let config = &shared.config;
        let is_within = self.unanswered <= config.inflight_max.max(1)
            && (self.unanswered == 1 || self.unanswered_bytes <= config.inflight_bytes_max);
        if is_within {
            Ok(())
        } else {
            Err(PipeError::Rule("more requests were sent than there was credit for"))
        }
    }

    /// Takes a request off the unanswered ones; false when it is none.
    fn release(&mut self, id: u64) -> bool {
        let (index, generation) = (id as u32 as usize, (id >> 32) as u32);
        let Some(slot) = self.slots.get_mut(index) else { return false };
        if !slot.is_unanswered || slot.generation != generation {
            return false;
        }
        slot.is_unanswered = false;
        self.unanswered -= 1;
        self.unanswered_bytes -= u64::from(slot.bytes);
        true
    }

    /// Whether further replies may be about to join those that are queued.
    fn more_may_follow(&self) -> bool {
        !self.queue.is_empty() && self.unanswered > 0
    }

    fn push(&mut self, kind: Kind, id: u64, message: Message) {
        self.queue_bytes += queued_bytes(&message);
        self.queue.push_back((kind, id, message));
    }

    fn pop(&mut self) -> Option<(Kind, u64, Message)> {
        let (kind, id, message) = self.queue.pop_front()?;
        self.queue_bytes -= queued_bytes(&message);
        Some((kind, id, message))
    }
}

/// What a queued frame counts for, its own memory included, so that frames without content are bounded too.
fn queued_bytes(message: &Message) -> usize {
    size_of::<(Kind, u64, Message)>() + message.header.len() + message.payload_len()
}

/// What a handler answers with.
struct FramedReply {
    replies: Arc<Replies>,
    id: u64,
    is_sent: bool,
}

impl Reply for FramedReply {
    fn send(mut self: Box<Self>, message: Message) {
        self.is_sent = true;
        let (header, payload) = (message.header.len(), message.payload_len());
        if header > HEADER_BYTES_MAX || payload > PAYLOAD_BYTES_MAX {
            tracing::error!(method = message.method, header, payload, "a reply is larger than a frame");
            return self.replies.answer(Kind::Dropped, self.id, Message::default());
        }
        self.replies.answer(Kind::Reply, self.id, message);
    }
}

impl Drop for FramedReply {
    fn drop(&mut self) {
        if !self.is_sent {
            self.replies.answer(Kind::Dropped, self.id, Message::default());
        }
    }
}

/// A connection that brings requests to the handler and takes the replies back.
///
/// One task does everything, in rounds like the client's: read what has come and give it to the handler, in order;
/// move the replies that are there, in the order they were made, into the outbox; write it in one vectored write.
/// Reading stops only while the client leaves too many replies unread; a client that sends more than its credit, or
/// breaks another rule of `format`, is cut off.
pub(crate) struct Connection {
    pipe: Pipe,
    replies: Arc<Replies>,
    shared: Arc<Shared>,
    frames: Vec<Frame>,
    admitted: Vec<(u64, Message)>,
    /// Set at the end of `idle_timeout`, or of `drain_timeout` once the server stops.
    timer: Pin<Box<Sleep>>,
    heard: bool,
    draining: Draining,
    batching: Batching,
}

/// How far a stopping server is with a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Draining {
    No,
    /// The client was told; replies may still be owed.
    Told,
    /// All replies are written and the write side is closed; the client closes next.
    Done,
}

impl Connection {
    pub(crate) fn new(stream: Stream, shared: Arc<Shared>) -> Self {
        shared.counters.server_connections_open.fetch_add(1, Ordering::Relaxed);
        let timer = Box::pin(tokio::time::sleep(shared.config.idle_timeout));
        Self {
            pipe: Pipe::new(stream, Arc::clone(&shared.counters)),
            replies: Replies::new(),
            shared,
            frames: Vec::new(),
            admitted: Vec::new(),
            timer,
            heard: false,
            draining: Draining::No,
            batching: Batching::new(),
        }
    }

    pub(crate) fn replies(&self) -> Arc<Replies> {
        Arc::clone(&self.replies)
    }

    /// Serves until the connection ends; says why it did.
    pub(crate) async fn run(mut self) -> PipeError {
        let error = poll_fn(|cx| self.poll(cx)).await;
        if !matches!(error, PipeError::Closed) {
            count(&self.shared.counters.connections_broken, 1);
        }
        error
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<PipeError> {
        if self.batching.should_yield(|| self.replies.lock().more_may_follow()) {
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
        let mut was_read = false;
        if self.pipe.outbox.bytes() + self.replies.lock().queue_bytes < UNSENT_BYTES_MAX
            && let Poll::Ready(result) = self.pipe.poll_frames(cx, &mut self.frames)
        {
            self.heard = true;
            self.take_frames()?;
            result?;
            was_read = true;
        }
        if self.pipe.outbox.is_empty() {
            self.fill_outbox();
        }
        let is_written = self.pipe.poll_flush(cx)?.is_ready();
        self.poll_timer(cx)?;
        if was_read {
            return Ok(true);
        }
        let mut state = self.replies.lock();
        let is_news = !state.queue.is_empty() || (state.stopping && self.draining == Draining::No);
        if is_written && is_news {
            return Ok(true);
        }
        let is_drained = is_written && state.unanswered == 0;
        state.sleeping = Some(cx.waker().clone());
        drop(state);
        if is_drained && self.draining == Draining::Told && self.pipe.poll_shutdown(cx)?.is_ready() {
            self.draining = Draining::Done;
        }
        Ok(false)
    }

    fn take_frames(&mut self) -> Result<(), PipeError> {
        if self.frames.is_empty() {
            return Ok(());
        }
        let result = self.admit_frames();
        count(&self.shared.counters.requests_received, self.admitted.len() as u64);
        for (id, request) in self.admitted.drain(..) {
            let reply = FramedReply { replies: Arc::clone(&self.replies), id, is_sent: false };
            self.shared.handler.handle(request, Box::new(reply));
        }
        result
    }

    /// Moves the requests among the frames to `admitted`, all under one lock. Those that come too late are not looked at: who
    /// sent them has given them up and may have gone on in another way.
    fn admit_frames(&mut self) -> Result<(), PipeError> {
        // After they were read: this process may have been stopped just before.
        let now = clock::now();
        let mut state = self.replies.lock();
        state.sleeping = None;
        for Frame { prefix, header, payload } in self.frames.drain(..) {
            match prefix.kind {
                Kind::Request if state.stopping => state.push(Kind::Refused, prefix.id, Message::default()),
                Kind::Request if clock::is_after(now, prefix.clock) => {
                    count(&self.shared.counters.requests_late, 1);
                    state.push(Kind::Late, prefix.id, Message::default());
                }
                Kind::Request => {
                    state.admit(prefix.id, header.len() + payload.len(), &self.shared)?;
                    let payload = if payload.is_empty() { Vec::new() } else { vec![payload] };
                    self.admitted.push((prefix.id, Message { method: prefix.method, header, payload }));
                }
                Kind::Cancel => {
                    state.release(prefix.id);
                }
                Kind::Ping => state.push(Kind::Pong, 0, Message::default()),
                Kind::Reply | Kind::Dropped | Kind::Refused | Kind::Pong | Kind::GoAway | Kind::Late => {
                    return Err(PipeError::Rule("a client must not send replies"));
                }
            }
        }
        Ok(())
    }

    fn fill_outbox(&mut self) {
        let mut replies = 0;
        let now = clock::now();
        let mut state = self.replies.lock();
        state.sleeping = None;
        if state.stopping && self.draining == Draining::No {
            self.draining = Draining::Told;
            self.timer.as_mut().reset(Instant::now() + self.shared.config.drain_timeout);
            self.pipe.outbox.push_bare(Kind::GoAway, 0, now);
        }
        while self.pipe.outbox.bytes() < OUTBOX_BYTES {
            let Some((kind, id, message)) = state.pop() else { break };
            self.pipe.outbox.push(kind, id, now, message);
            replies += 1;
        }
        drop(state);
        count(&self.shared.counters.replies_sent, replies);
    }

    /// Ends the connection when its client is silent for too long, or when draining takes too long.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Result<(), PipeError> {
        while self.timer.as_mut().poll(cx).is_ready() {
            if self.draining != Draining::No {
                return Err(PipeError::Rule("the server stopped before all replies were there"));
            }
            if !std::mem::take(&mut self.heard) {
                return Err(PipeError::Silent(self.shared.config.idle_timeout.as_millis()));
            }
            self.timer.as_mut().reset(Instant::now() + self.shared.config.idle_timeout);
        }
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut state = self.replies.lock();
        state.closed = true;
        let queue = std::mem::take(&mut state.queue);
        state.queue_bytes = 0;
        drop(state);
        drop(queue);
        self.shared.counters.server_connections_open.fetch_sub(1, Ordering::Relaxed);
    }
}
