//! The transmission phase of one connection.

use std::future::{Future, poll_fn};
use std::io::IoSlice;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use curve_blockdev::BlockDevice;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::watch;

use super::running::Running;
use super::{SessionError, Wire};
use crate::core::{Event, Limits, Outbox, PAYLOAD_BYTES_MAX, ReplyEncoder, RequestDecoder};

/// Requests of one connection that may be in flight.
const INFLIGHT_MAX: usize = 256;
/// Payload bytes of one connection that may be in flight or wait to be sent before no further request is taken.
const INFLIGHT_BYTES_MAX: u64 = 64 << 20;
/// How much is read at once: some 60 writes of 4 KiB. Grows for a client that sends longer payloads.
const READ_BYTES: usize = 256 << 10;
const READ_BYTES_MAX: usize = 2 << 20;
/// Slices in one vectored write.
const SLICES_MAX: usize = 128;

const _: () =
    assert!(INFLIGHT_BYTES_MAX >= 2 * PAYLOAD_BYTES_MAX as u64, "one large request must not starve the rest");

/// One connection, one task, no channel, no lock.
///
/// Each round of the loop reads what the socket has, starts every request in it, takes in what the device has completed
/// meanwhile, and sends all replies with one vectored write. So batches form by themselves: the busier a connection, the
/// fewer system calls an operation costs; and an idle one has one waiting task and no timer.
///
/// Payloads are never copied: a write's data is a slice of the buffer it was received in, and a read's parts go into the
/// vectored write as the device gave them.
///
/// What this costs: one connection uses one core at most. Clients that want more open several (`CAN_MULTI_CONN`), whose
/// sessions run in parallel with `--threads`.
///
/// Rejected: a reader and a writer task (two wake-ups and a channel for each request), and a task for each request (an
/// allocation and a trip through the scheduler more).
pub(super) struct Transmission<'a, S> {
    stream: S,
    input: BytesMut,
    read_bytes: usize,
    decoder: RequestDecoder,
    encoder: ReplyEncoder,
    device: &'a dyn BlockDevice,
    running: FuturesUnordered<Running<'a>>,
    running_bytes: u64,
    outbox: Outbox,
    /// Bytes were handed to the stream since it was last flushed; only TLS cares.
    unflushed: bool,
    /// No more requests are taken: the client said goodbye or closed its side, or the server stops.
    ending: bool,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Transmission<'a, S> {
    pub(super) fn new(wire: Wire<S>, device: &'a dyn BlockDevice, limits: Limits) -> Self {
        Self {
            stream: wire.stream,
            input: wire.input,
            read_bytes: READ_BYTES,
            decoder: RequestDecoder::new(limits),
            encoder: ReplyEncoder::new(limits.framing),
            device,
            running: FuturesUnordered::new(),
            running_bytes: 0,
            outbox: Outbox::default(),
            unflushed: false,
            ending: false,
        }
    }

    /// Runs until everything that was taken is answered and nothing more is to come.
    ///
    /// If the connection breaks, requests in flight are completed all the same, so that a device never sees one dropped
    /// halfway.
    pub(super) async fn run(mut self, mut stopping: watch::Receiver<bool>) -> Result<(), SessionError> {
        let result = {
            let mut stop = pin!(stopping.wait_for(|stopping| *stopping));
            poll_fn(|cx| {
                if !self.ending && stop.as_mut().poll(cx).is_ready() {
                    self.ending = true;
                }
                self.poll(cx)
            })
            .await
        };
        while self.running.next().await.is_some() {}
        if result.is_ok() {
            // The client may be gone already; nothing is lost then.
            let _ = tokio::io::AsyncWriteExt::shutdown(&mut self.stream).await;
        }
        result
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SessionError>> {
        loop {
            // The input may hold requests that were not taken for lack of room, also while nothing can be read.
            let received = self.poll_receive(cx)?.is_ready();
            self.take_requests(cx)?;
            let completed = self.poll_complete(cx);
            let sent = self.poll_send(cx)?.is_ready();
            if self.ending && self.running.is_empty() && self.outbox.is_empty() && !self.unflushed {
                return Poll::Ready(Ok(()));
            }
            if !received && !completed && !sent {
                return Poll::Pending;
            }
        }
    }

    fn has_room(&self) -> bool {
        self.running.len() < INFLIGHT_MAX
            && self.running_bytes + (self.outbox.len() as u64) < INFLIGHT_BYTES_MAX
    }

    /// Reads once. Ready if something happened.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SessionError>> {
        if self.ending || !self.has_room() {
            return Poll::Pending;
        }
        let missing = self.decoder.wanted().saturating_sub(self.input.len());
        if missing > self.read_bytes / 2 {
            self.read_bytes = (2 * missing).min(READ_BYTES_MAX);
        }
        let spare = self.input.capacity() - self.input.len();
        if spare < missing.max(self.read_bytes / 4) {
            self.input.reserve(missing.max(self.read_bytes));
        }
        let read = pin!(self.stream.read_buf(&mut self.input));
        if ready!(read.poll(cx))? == 0 {
            self.ending = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Starts the requests in the input, as many as there is room for.
    fn take_requests(&mut self, cx: &mut Context<'_>) -> Result<(), SessionError> {
        while !self.ending && self.has_room() {
            match self.decoder.next(&mut self.input)? {
                None => return Ok(()),
                Some(Event::Disconnect) => self.ending = true,
                Some(Event::Refused(refusal)) => {
                    self.encoder.error(&mut self.outbox, refusal.head, refusal.errno, refusal.reason);
                }
                Some(Event::Request(request)) => {
                    let mut running = Running::start(self.device, request);
                    // A device that answers at once saves the detour through the set.
                    match Pin::new(&mut running).poll(cx) {
                        Poll::Ready(finished) => finished.reply(self.encoder, &mut self.outbox),
                        Poll::Pending => {
                            self.running_bytes += running.bytes();
                            self.running.push(running);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes in what the device has completed. True if something was.
    fn poll_complete(&mut self, cx: &mut Context<'_>) -> bool {
        let mut completed = false;
        while let Poll::Ready(Some(finished)) = self.running.poll_next_unpin(cx) {
            self.running_bytes -= finished.bytes;
            finished.reply(self.encoder, &mut self.outbox);
            completed = true;
        }
        completed
    }

    /// Sends once. Ready if something happened.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SessionError>> {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let filled = self.outbox.slices(&mut slices);
        if filled > 0 {
            let sent = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..filled]))?;
            if sent == 0 {
                return Poll::Ready(Err(std::io::Error::from(std::io::ErrorKind::WriteZero).into()));
            }
            self.outbox.advance(sent);
            self.unflushed = true;
            return Poll::Ready(Ok(()));
        }
        if !self.unflushed {
            return Poll::Pending;
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }
}
