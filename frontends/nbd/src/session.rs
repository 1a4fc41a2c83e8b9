//! One connection: the handshake, then the transmission phase.

mod running;
mod transmission;

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{oneshot, watch};
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use curve_blockdev::BlockDevice;

use crate::core::{Catalog, Handshake, Limits, Negotiated, Step, TlsPolicy, Violation};
use crate::exports::Exports;
use transmission::Transmission;

const HANDSHAKE_READ_BYTES: usize = 4096;

/// Why a connection ended before its client said goodbye.
#[derive(Debug, Error)]
pub enum SessionError {
    /// The socket or the TLS layer failed, or the client vanished.
    #[error("connection lost: {0}")]
    Lost(#[from] io::Error),
    /// The client broke the framing.
    #[error("protocol violated: {0}")]
    Violated(#[from] Violation),
    /// The handshake cannot go on.
    #[error("handshake refused: {0}")]
    Refused(&'static str),
    /// The handshake took too long.
    #[error("no export was chosen within {} s", .0.as_secs())]
    Slow(Duration),
    /// Too many connections that have chosen no export; this one had to go.
    #[error("dropped without an export chosen, to make room for others")]
    Evicted,
}

impl SessionError {
    /// A short name, for counters.
    pub const fn cause(&self) -> &'static str {
        match self {
            Self::Lost(_) => "lost",
            Self::Violated(_) => "violated",
            Self::Refused(_) => "refused",
            Self::Slow(_) => "slow",
            Self::Evicted => "evicted",
        }
    }
}

/// What a session needs to know of its server.
#[derive(Clone, Copy)]
pub struct SessionContext<'a> {
    /// What is served.
    pub exports: &'a Exports,
    /// Present if clients must use TLS.
    pub tls: Option<&'a TlsAcceptor>,
    /// How long a client may take until it has chosen an export, and as long again for TLS.
    pub handshake_timeout: Duration,
}

/// A stream and what has been read from it but not used.
struct Wire<S> {
    stream: S,
    input: BytesMut,
}

/// Serves one client until it leaves, breaks the protocol, or `stopping` becomes true; in the latter case requests in
/// flight are completed and answered first. `evicted` ends a connection that has not chosen an export.
pub async fn serve<S>(
    stream: S,
    context: SessionContext<'_>,
    evicted: oneshot::Receiver<()>,
    stopping: watch::Receiver<bool>,
) -> Result<(), SessionError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let catalog = context.exports.catalog();
    // Dropped when an export is chosen: who has done that makes room for nobody.
    let mut told_to_stop = stopping.clone();
    let mut ended = Box::pin(async move {
        tokio::select! {
            Ok(()) = evicted => Some(SessionError::Evicted),
            _ = told_to_stop.wait_for(|stopping| *stopping) => None,
        }
    });
    let policy = if context.tls.is_some() { TlsPolicy::Required } else { TlsPolicy::Off };
    let mut wire = Wire { stream, input: BytesMut::with_capacity(HANDSHAKE_READ_BYTES) };
    let greeting = in_time(greet(&mut wire, policy, &catalog), context.handshake_timeout, &mut ended);
    let Some((handshake, step)) = greeting.await? else { return Ok(()) };
    match step {
        Step::Transmit(negotiated) => {
            drop(ended);
            transmit(wire, negotiated, &catalog, context, stopping).await
        }
        Step::StartTls => {
            let tls = context.tls.expect("the core starts TLS only where it is required");
            let upgrade = async {
                let stream = tls.accept(wire.stream).await?;
                let mut wire = Wire { stream, input: BytesMut::with_capacity(HANDSHAKE_READ_BYTES) };
                let mut handshake = handshake.after_tls();
                let step = negotiate(&mut wire, &mut handshake, &catalog).await?;
                Ok::<_, SessionError>((wire, step))
            };
            let upgraded = in_time(upgrade, context.handshake_timeout, &mut ended).await?;
            match upgraded {
                None => Ok(()),
                Some((wire, Step::Transmit(negotiated))) => {
                    drop(ended);
                    transmit(wire, negotiated, &catalog, context, stopping).await
                }
                Some((_, Step::Close(reason))) => Err(SessionError::Refused(reason)),
                Some((_, Step::NeedInput | Step::StartTls)) => {
                    unreachable!("negotiation goes on until it has an end")
                }
            }
        }
        Step::Close(reason) => Err(SessionError::Refused(reason)),
        Step::NeedInput => unreachable!("negotiation goes on until it has an end"),
    }
}

/// Does a part of the handshake. `None` if `ended` says that the server stops.
async fn in_time<T>(
    part: impl Future<Output = Result<T, SessionError>>,
    timeout: Duration,
    ended: impl Future<Output = Option<SessionError>>,
) -> Result<Option<T>, SessionError> {
    tokio::select! {
        done = tokio::time::timeout(timeout, part) => done.map_err(|_| SessionError::Slow(timeout))?.map(Some),
        ended = ended => ended.map_or(Ok(None), Err),
    }
}

/// Serves a client that needs no handshake since both sides were told what is served: the kernel's driver. Ends as
/// [`serve`] does.
pub async fn serve_attached<S>(
    stream: S,
    device: &dyn BlockDevice,
    limits: Limits,
    stopping: watch::Receiver<bool>,
) -> Result<(), SessionError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    Transmission::new(Wire { stream, input: BytesMut::new() }, device, limits).run(stopping).await
}

async fn greet<S>(
    wire: &mut Wire<S>,
    policy: TlsPolicy,
    catalog: &Catalog,
) -> Result<(Handshake, Step), SessionError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    wire.stream.write_all(&Handshake::greeting()).await?;
    let mut handshake = Handshake::new(policy);
    let step = negotiate(wire, &mut handshake, catalog).await?;
    Ok((handshake, step))
}

/// Feeds the handshake until it needs something other than input.
async fn negotiate<S>(
    wire: &mut Wire<S>,
    handshake: &mut Handshake,
    catalog: &Catalog,
) -> Result<Step, SessionError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut out = Vec::new();
    loop {
        let step = handshake.advance(&mut wire.input, catalog, &mut out);
        wire.stream.write_all(&out).await?;
        wire.stream.flush().await?;
        out.clear();
        if step != Step::NeedInput {
            return Ok(step);
        }
        wire.input.reserve(HANDSHAKE_READ_BYTES);
        if wire.stream.read_buf(&mut wire.input).await? == 0 {
            return Ok(Step::Close("the client went away"));
        }
    }
}

async fn transmit<S>(
    wire: Wire<S>,
    negotiated: Negotiated,
    catalog: &Catalog,
    context: SessionContext<'_>,
    stopping: watch::Receiver<bool>,
) -> Result<(), SessionError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let export = &catalog.exports()[negotiated.export];
    debug!(export = export.name, framing = ?negotiated.framing, "a client is connected");
    let device = context.exports.device(negotiated.export);
    Transmission::new(wire, device, negotiated.limits(catalog)).run(stopping).await
}
