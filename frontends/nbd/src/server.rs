//! Listens, accepts, and drains when it is told to stop.

use std::fmt::Display;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use curve_serving::admission::{Admission, Evicted, Limits, Peer, lengthen_queue};
use curve_serving::complaints::Complaints;
use rustix::net::sockopt;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, error, info, warn};

use crate::exports::Exports;
use crate::session::{self, SessionContext, SessionError};
use crate::uri::{Place, export_uri};

/// How long a TCP client may be silent before the kernel asks whether it is still there: NBD has no ping, and one that
/// vanished would keep its place for ever. It is given up after six questions.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 6;
/// What may wait in a Unix socket, if the system allows that much. The default is less than one large read, for which
/// server and client would take turns.
const SEND_BUFFER_BYTES: usize = 2 << 20;
/// How long accepting rests after it failed, for example for lack of file descriptors, if no connection ends before.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);

/// Where to listen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Listen {
    /// On a socket file.
    Unix(PathBuf),
    /// On `host:port`.
    Tcp(String),
}

/// Why a server cannot listen.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Somebody answers on the socket file.
    #[error("another server is listening on {0}; stop it, or choose another --socket")]
    Taken(PathBuf),
    /// The path exists and is no socket.
    #[error("{0} exists and is not a socket; choose another --socket")]
    NoSocket(PathBuf),
    /// The system refuses.
    #[error("cannot listen on {place}: {cause}")]
    System {
        /// Where.
        place: String,
        /// Why not.
        cause: io::Error,
    },
}

/// A bound socket. Its file is removed when it is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Unix { listener: UnixListener, path: PathBuf },
    Tcp { listener: TcpListener, address: String },
}

enum Accepted {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Listener {
    /// Binds. The socket file of a dead server is replaced; a live one is left alone.
    pub async fn bind(listen: &Listen) -> Result<Self, ListenError> {
        let socket = match listen {
            Listen::Unix(path) => {
                let listener = bind_unix(path).await?;
                Socket::Unix { listener, path: path.clone() }
            }
            Listen::Tcp(address) => {
                let failed = |cause| ListenError::System { place: address.clone(), cause };
                let listener = TcpListener::bind(address).await.map_err(failed)?;
                lengthen_queue(&listener).map_err(failed)?;
                let address = listener.local_addr().map_err(failed)?.to_string();
                Socket::Tcp { listener, address }
            }
        };
        Ok(Self { socket })
    }

    /// The URI of an export that is served here.
    pub fn uri(&self, export: &str, tls: bool) -> String {
        match &self.socket {
            Socket::Unix { path, .. } => export_uri(Place::Unix(path), export, tls),
            Socket::Tcp { address, .. } => export_uri(Place::Tcp(address), export, tls),
        }
    }

    async fn accept(&self) -> io::Result<(Accepted, Peer)> {
        match &self.socket {
            Socket::Unix { listener, .. } => {
                let stream = listener.accept().await?.0;
                sockopt::set_socket_send_buffer_size(&stream, SEND_BUFFER_BYTES)?;
                Ok((Accepted::Unix(stream), Peer::Local))
            }
            Socket::Tcp { listener, .. } => {
                let (stream, peer) = listener.accept().await?;
                debug!(%peer, "a client connects");
                Ok((Accepted::Tcp(stream), peer.ip().into()))
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Socket::Unix { path, .. } = &self.socket
            && let Err(error) = std::fs::remove_file(path)
        {
            debug!(path = %path.display(), %error, "the socket file was already gone");
        }
    }
}

async fn bind_unix(path: &Path) -> Result<UnixListener, ListenError> {
    let failed = |cause| ListenError::System { place: path.display().to_string(), cause };
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
        bound => return bound.map_err(failed),
    }
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if !is_socket {
        return Err(ListenError::NoSocket(path.to_owned()));
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        _ => return Err(ListenError::Taken(path.to_owned())),
    }
    info!(path = %path.display(), "the socket file of a server that is gone is replaced");
    std::fs::remove_file(path).map_err(failed)?;
    UnixListener::bind(path).map_err(failed)
}

/// What connections are allowed.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// How many there may be.
    pub admission: Limits,
    /// How long one may take until it has chosen an export, and as long again for TLS.
    pub handshake_timeout: Duration,
}

/// How a connection ended.
type Ended = (Peer, Result<(), SessionError>);

/// Serves clients until `stopping` becomes true; then takes no more connections, lets every session answer what it has
/// in flight, and returns.
pub async fn run(
    listener: Listener,
    exports: Arc<Exports>,
    tls: Option<TlsAcceptor>,
    limits: ServerLimits,
    stopping: watch::Receiver<bool>,
) {
    let server = Server {
        exports,
        tls,
        handshake_timeout: limits.handshake_timeout,
        admission: Admission::new(limits.admission),
        complaints: Complaints::default(),
        sessions: JoinSet::new(),
        gauge: metrics::gauge!("curve_nbd_connections"),
        stopping,
    };
    server.run(listener).await;
}

/// One task owns what all connections have in common: it lets them in, and hears how each has ended.
struct Server {
    exports: Arc<Exports>,
    tls: Option<TlsAcceptor>,
    handshake_timeout: Duration,
    admission: Admission,
    complaints: Complaints,
    sessions: JoinSet<Ended>,
    gauge: metrics::Gauge,
    stopping: watch::Receiver<bool>,
}

impl Server {
    async fn run(mut self, listener: Listener) {
        let mut stopping = self.stopping.clone();
        loop {
            tokio::select! {
                () = becomes_true(&mut stopping) => break,
                Some(ended) = self.sessions.join_next(), if !self.sessions.is_empty() => self.ended(ended),
                accepted = listener.accept(), if self.admission.has_room() => match accepted {
                    Ok((accepted, peer)) => self.begin(accepted, peer),
                    Err(error) => self.cannot_accept(error).await,
                },
            }
        }
        // From here on a new client is refused rather than kept waiting.
        drop(listener);
        debug!(sessions = self.sessions.len(), "waiting for requests in flight");
        while let Some(ended) = self.sessions.join_next().await {
            self.ended(ended);
        }
    }

    fn begin(&mut self, accepted: Accepted, peer: Peer) {
        let (place, evicted) = match self.admission.enter(peer) {
            Ok(admitted) => admitted,
            Err(error) => return self.dropped(peer, "share", &error),
        };
        let context = (self.exports.clone(), self.tls.clone(), self.handshake_timeout);
        let serving = serve(accepted, context, evicted, self.stopping.clone());
        self.sessions.spawn(async move {
            let result = serving.await;
            drop(place);
            (peer, result)
        });
        self.gauge.set(self.sessions.len() as f64);
    }

    async fn cannot_accept(&mut self, error: io::Error) {
        if let Some(before) = self.complaints.tell(Peer::Local, "accept", Instant::now()) {
            warn!(%error, before, "cannot accept a connection");
        }
        if let Ok(Some(ended)) = tokio::time::timeout(ACCEPT_RETRY, self.sessions.join_next()).await {
            self.ended(ended);
        }
    }

    fn ended(&mut self, ended: Result<Ended, JoinError>) {
        self.gauge.set(self.sessions.len() as f64);
        match ended {
            Ok((peer, Ok(()))) => debug!(%peer, "a client left"),
            // The latter are clients that look at what is served and go, too.
            Ok((peer, Err(error @ (SessionError::Lost(_) | SessionError::Refused(_))))) => {
                count(error.cause());
                debug!(%peer, %error, "a client was dropped");
            }
            Ok((peer, Err(error))) => self.dropped(peer, error.cause(), &error),
            Err(error) => error!(%error, "a connection's task failed"),
        }
    }

    /// Somebody broke the rules.
    fn dropped(&mut self, peer: Peer, cause: &'static str, error: &dyn Display) {
        count(cause);
        if let Some(before) = self.complaints.tell(peer, cause, Instant::now()) {
            warn!(%peer, %error, before, "a client was dropped; more like it are told in a minute");
        }
    }
}

/// Also if nobody can say so any more.
async fn becomes_true(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

fn count(cause: &'static str) {
    metrics::counter!("curve_nbd_dropped_total", "cause" => cause).increment(1);
}

async fn serve(
    accepted: Accepted,
    (exports, tls, handshake_timeout): (Arc<Exports>, Option<TlsAcceptor>, Duration),
    evicted: Evicted,
    stopping: watch::Receiver<bool>,
) -> Result<(), SessionError> {
    let context = SessionContext { exports: &exports, tls: tls.as_ref(), handshake_timeout };
    match accepted {
        Accepted::Unix(stream) => session::serve(stream, context, evicted, stopping).await,
        Accepted::Tcp(stream) => {
            stream.set_nodelay(true)?;
            keep_alive(&stream)?;
            session::serve(stream, context, evicted, stopping).await
        }
    }
}

fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_AFTER)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_EVERY)?;
    Ok(sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?)
}
