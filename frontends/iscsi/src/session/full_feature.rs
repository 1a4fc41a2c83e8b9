//! The full feature phase of one connection.

use std::future::{Future, poll_fn};
use std::io::IoSlice;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use curve_scsi::{AbortHandle, Attachment, Task};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tracing::debug;

use super::work::{self, Done, Work};
use super::{LOGOUT_WAIT, SILENCE_MAX, SessionError, SharedAttachment, Wire};
use crate::catalog::CatalogSource;
use crate::core::{
    Action, AsyncEvent, Command, Engine, Entered, Established, FramingError, Outbox, Parties, Pdu,
    PduDecoder, RECV_DATA_BYTES_MAX, RejectReason,
};
use crate::sessions::Registration;

/// Bytes that may wait to be sent before no further request is read. The engine lets reads in only below its own limit,
/// so that only an initiator that asks for pings and does not read the answers gets here.
const OUTBOX_BYTES_MAX: usize = 96 << 20;
/// How much is read at once, at first: thousands of sessions may be idle. Grows with what comes.
const READ_BYTES: usize = 16 << 10;
const READ_BYTES_MAX: usize = 1 << 20;
/// Slices in one vectored write.
const SLICES_MAX: usize = 128;
/// Ticks of the timer without a sign of life until the initiator is pinged, and until it is given up.
const PING_TICKS: u32 = 3;
const DEAD_TICKS: u32 = 2 * PING_TICKS;

/// One connection, one task, no channel, no lock.
///
/// Each round of the loop reads what the socket has, lets the engine take every PDU in it, starts what the engine wants
/// started, takes in what has ended meanwhile, and sends all answers with one vectored write. So batches form by
/// themselves, as in the NBD server. Data of a write is a slice of the buffer it was received in, and a read's parts go
/// into the vectored write as the device gave them.
///
/// Commands that execute when the connection ends are completed all the same: what was sent to a device cannot be called
/// back, and the session is over only when none of its commands can reach one. That is what a login of the same initiator
/// port waits for.
///
/// **A stall of the process** ends the session before anything that it was sent is begun ([`curve_client::Pulse`]): the
/// initiator has repeated it through another gateway, perhaps. Commands that execute are given up by their volume.
pub(super) struct FullFeature<S> {
    stream: S,
    input: bytes::BytesMut,
    read_bytes: usize,
    decoder: PduDecoder,
    engine: Engine<Task, AbortHandle>,
    attachment: SharedAttachment,
    /// The end of the nexus, which the answer to a logout waits for.
    detaching: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    catalog: CatalogSource,
    work: FuturesUnordered<Work>,
    outbox: Outbox,
    /// Bytes were handed to the stream since it was last flushed.
    unflushed: bool,
    life: Life,
    end: End,
}

/// How far the session is from its end.
#[derive(Debug)]
enum End {
    /// It goes on.
    Open,
    /// The gateway stops: the initiator was asked to log out, and has until then.
    Asked(Instant),
    /// Nothing more is read; what executes is to be answered.
    Draining,
    /// Nothing more is read; what waits is to be sent, then this is the result.
    Broken(Option<SessionError>),
}

/// Whether the initiator still lives.
#[derive(Debug)]
struct Life {
    timer: Interval,
    silent_ticks: u32,
}

impl<S: AsyncRead + AsyncWrite + Unpin> FullFeature<S> {
    pub(super) fn new(
        wire: Wire<S>,
        established: &Established,
        parties: Parties,
        attachment: Option<Attachment>,
        catalog: CatalogSource,
        outbox: Outbox,
    ) -> Self {
        let tick = SILENCE_MAX / PING_TICKS;
        let mut timer = interval_at(Instant::now() + tick, tick);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            stream: wire.stream,
            input: wire.input,
            read_bytes: READ_BYTES,
            decoder: PduDecoder::new(established.params.digests, RECV_DATA_BYTES_MAX),
            engine: Engine::new(established, parties),
            attachment: attachment.map(Arc::new),
            detaching: None,
            catalog,
            work: FuturesUnordered::new(),
            outbox,
            unflushed: false,
            life: Life { timer, silent_ticks: 0 },
            end: End::Open,
        }
    }

    /// Runs until the session is over and none of its commands can reach a device.
    pub(super) async fn run(
        mut self,
        registration: &Registration,
        revoked: impl Future<Output = ()>,
        mut stopping: watch::Receiver<bool>,
    ) -> Result<(), SessionError> {
        let born = registration.stalls();
        let has_stalled = || registration.stalls() != born;
        let result = {
            let mut stop = pin!(stopping.wait_for(|stopping| *stopping));
            let mut replaced = pin!(registration.replaced());
            let mut revoked = pin!(revoked);
            poll_fn(|cx| {
                if replaced.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Err(SessionError::Replaced));
                }
                if revoked.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Err(SessionError::Revoked));
                }
                if matches!(self.end, End::Open) && stop.as_mut().poll(cx).is_ready() {
                    self.ask_for_logout();
                }
                self.poll_life(cx)?;
                self.poll(cx, &has_stalled)
            })
            .await
        };
        if result.is_ok() {
            // The initiator may be gone already; nothing is lost then.
            let _ = self.stream.shutdown().await;
        }
        // The initiator sees at once that the connection is over, whatever the devices still have to do.
        drop(self.stream);
        self.engine.abandon();
        while self.work.next().await.is_some() {}
        drop(self.engine);
        if let Some(detaching) = self.detaching {
            detaching.await;
        }
        if let Some(attachment) = self.attachment.and_then(Arc::into_inner) {
            attachment.detach().await;
        }
        result
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        has_stalled: &impl Fn() -> bool,
    ) -> Poll<Result<(), SessionError>> {
        loop {
            // The input may hold PDUs that were not taken for lack of room, also while nothing can be read.
            let received = self.poll_receive(cx)?.is_ready();
            // After reading: what was read may have waited in the socket for as long as the stall was.
            if has_stalled() {
                return Poll::Ready(Err(SessionError::Stalled));
            }
            self.take_pdus(cx, has_stalled)?;
            self.act(cx, has_stalled)?;
            let worked = self.poll_work(cx);
            ready!(self.poll_detach(cx));
            let sent = self.poll_send(cx)?.is_ready();
            if let Some(result) = self.result() {
                return Poll::Ready(result);
            }
            if !received && !worked && !sent {
                return Poll::Pending;
            }
        }
    }

    /// The result, once there is nothing left to wait for.
    fn result(&mut self) -> Option<Result<(), SessionError>> {
        let sent = self.outbox.is_empty() && !self.unflushed;
        match &mut self.end {
            End::Broken(error) if sent => Some(error.take().map_or(Ok(()), Err)),
            End::Draining if sent && self.work.is_empty() => Some(Ok(())),
            _ if sent && self.engine.is_closed() => Some(Ok(())),
            _ => None,
        }
    }

    fn is_reading(&self) -> bool {
        matches!(self.end, End::Open | End::Asked(_)) && !self.engine.is_leaving()
    }

    fn ask_for_logout(&mut self) {
        let event = AsyncEvent::LogoutRequested { seconds: LOGOUT_WAIT.as_secs() as u16 };
        self.engine.announce(event, &[], &mut self.outbox);
        self.end = End::Asked(Instant::now() + LOGOUT_WAIT);
        // Its ticks are too far apart for that.
        self.life.timer = interval_at(Instant::now() + LOGOUT_WAIT, SILENCE_MAX / PING_TICKS);
    }

    /// Looks after initiators that say nothing, and after deadlines.
    fn poll_life(&mut self, cx: &mut Context<'_>) -> Result<(), SessionError> {
        while self.life.timer.poll_tick(cx).is_ready() {
            match &mut self.end {
                End::Broken(error) => return error.take().map_or(Ok(()), Err),
                End::Asked(deadline) if *deadline <= Instant::now() => {
                    debug!("the initiator did not log out");
                    self.engine.abandon();
                    self.end = End::Draining;
                }
                _ => {}
            }
            self.life.silent_ticks += 1;
            match self.life.silent_ticks {
                PING_TICKS => self.engine.ping(&mut self.outbox),
                DEAD_TICKS => return Err(SessionError::Silent),
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads once. Ready if something happened.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SessionError>> {
        if !self.is_reading() || self.outbox.len() >= OUTBOX_BYTES_MAX {
            return Poll::Pending;
        }
        let missing = self.decoder.wanted(&self.input).saturating_sub(self.input.len());
        if missing > self.read_bytes / 2 {
            self.read_bytes = (2 * missing).min(READ_BYTES_MAX);
        }
        let spare = self.input.capacity() - self.input.len();
        if spare < missing.max(self.read_bytes / 4) {
            self.input.reserve(missing.max(self.read_bytes));
        }
        let read = pin!(self.stream.read_buf(&mut self.input));
        if ready!(read.poll(cx))? == 0 {
            return Poll::Ready(Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()));
        }
        if self.input.len() == self.input.capacity() {
            // There was more than fits.
            self.read_bytes = (2 * self.read_bytes).min(READ_BYTES_MAX);
        }
        self.life.silent_ticks = 0;
        Poll::Ready(Ok(()))
    }

    /// Hands the PDUs of the input to the engine.
    fn take_pdus(
        &mut self,
        cx: &mut Context<'_>,
        has_stalled: &impl Fn() -> bool,
    ) -> Result<(), SessionError> {
        while self.is_reading() && self.outbox.len() < OUTBOX_BYTES_MAX {
            let taken = match self.decoder.next(&mut self.input) {
                Ok(None) => return Ok(()),
                Ok(Some(pdu)) => self.take_pdu(pdu),
                Err(error) => {
                    self.reject_broken(&error);
                    Err(error.into())
                }
            };
            if let Err(error) = taken {
                self.engine.abandon();
                self.end = End::Broken(Some(error));
            }
            self.act(cx, has_stalled)?;
        }
        Ok(())
    }

    fn take_pdu(&mut self, pdu: Pdu) -> Result<(), SessionError> {
        let attachment = &self.attachment;
        let enter = |command: &Command| -> Entered<Task, AbortHandle> {
            let attachment = attachment.as_deref().expect("a discovery session lets no command through");
            work::enter(attachment, command)
        };
        let catalog = || self.catalog.borrow().login().clone();
        Ok(self.engine.receive(pdu, catalog, enter, &mut self.outbox)?)
    }

    fn reject_broken(&mut self, error: &FramingError) {
        let (reason, bhs) = match error {
            // Not even the header can be sent back.
            FramingError::HeaderDigest => return,
            FramingError::DataDigest(bhs) => (RejectReason::DataDigest, bhs),
            FramingError::DataLength { bhs, .. } => (RejectReason::Protocol, bhs),
        };
        self.engine.reject(reason, bhs, &mut self.outbox);
    }

    /// Starts what the engine wants started.
    fn act(&mut self, cx: &mut Context<'_>, has_stalled: &impl Fn() -> bool) -> Result<(), SessionError> {
        self.engine.pump(&mut self.outbox);
        while let Some(action) = self.engine.next_action() {
            // After the unit has let it in: a volume that was opened anew since is used only when those are over who came before.
            if has_stalled() {
                return Err(SessionError::Stalled);
            }
            let mut work = match action {
                Action::Execute { itt, task, data } => work::execute(itt, task, data),
                Action::Manage { itt, what } => {
                    let attachment = self.attachment.clone();
                    work::manage(itt, what, attachment.expect("a discovery session lets no function through"))
                }
            };
            // A device that answers at once saves the detour through the set. And a function has to mark its tasks before
            // the next command comes.
            match work.as_mut().poll(cx) {
                Poll::Ready(done) => self.done(done),
                Poll::Pending => self.work.push(work),
            }
        }
        Ok(())
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Command { itt, outcome } => self.engine.complete(itt, outcome, &mut self.outbox),
            Done::Management { itt, outcome } => self.engine.managed(itt, outcome, &mut self.outbox),
        }
    }

    /// Takes in what has ended. True if something has.
    fn poll_work(&mut self, cx: &mut Context<'_>) -> bool {
        let mut worked = false;
        while let Poll::Ready(Some(done)) = self.work.poll_next_unpin(cx) {
            self.done(done);
            worked = true;
        }
        worked
    }

    /// Ends the nexus once the initiator has logged out, before it hears so: what the nexus held is free then.
    fn poll_detach(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.engine.is_closed()
            && self.work.is_empty()
            && let Some(attachment) = self.attachment.take().and_then(Arc::into_inner)
        {
            self.detaching = Some(Box::pin(attachment.detach()));
        }
        if let Some(detaching) = &mut self.detaching {
            ready!(detaching.as_mut().poll(cx));
            self.detaching = None;
        }
        Poll::Ready(())
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
