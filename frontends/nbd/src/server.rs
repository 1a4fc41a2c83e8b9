//! Listens, accepts, and drains when it is told to stop.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::set_socket_send_buffer_size;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use crate::exports::Exports;
use crate::session::{self, SessionContext, SessionError};
use crate::uri::{Place, export_uri};

/// Connections at a time; further ones wait in the listen queue.
const CONNECTIONS_MAX: usize = 1024;
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

    async fn accept(&self) -> io::Result<Accepted> {
        match &self.socket {
            Socket::Unix { listener, .. } => {
                let stream = listener.accept().await?.0;
                set_socket_send_buffer_size(&stream, SEND_BUFFER_BYTES)?;
                Ok(Accepted::Unix(stream))
            }
            Socket::Tcp { listener, .. } => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                debug!(%peer, "a client connects");
                Ok(Accepted::Tcp(stream))
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

/// Serves clients until `stopping` becomes true; then takes no more connections, lets every session answer what it has
/// in flight, and returns.
pub async fn run(
    listener: Listener,
    exports: Arc<Exports>,
    tls: Option<TlsAcceptor>,
    mut stopping: watch::Receiver<bool>,
) {
    let mut sessions = JoinSet::new();
    let sessions_stop = stopping.clone();
    loop {
        tokio::select! {
            _ = stopping.wait_for(|stopping| *stopping) => break,
            Some(_) = sessions.join_next(), if !sessions.is_empty() => {}
            accepted = listener.accept(), if sessions.len() < CONNECTIONS_MAX => match accepted {
                Ok(accepted) => {
                    sessions.spawn(serve(accepted, exports.clone(), tls.clone(), sessions_stop.clone()));
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    let _ = tokio::time::timeout(ACCEPT_RETRY, sessions.join_next()).await;
                }
            },
        }
    }
    // From here on a new client is refused rather than kept waiting.
    drop(listener);
    debug!(sessions = sessions.len(), "waiting for requests in flight");
    while sessions.join_next().await.is_some() {}
}

async fn serve(
    accepted: Accepted,
    exports: Arc<Exports>,
    tls: Option<TlsAcceptor>,
    stopping: watch::Receiver<bool>,
) {
    let context = SessionContext { exports: &exports, tls: tls.as_ref() };
    let result = match accepted {
        Accepted::Unix(stream) => session::serve(stream, context, stopping).await,
        Accepted::Tcp(stream) => session::serve(stream, context, stopping).await,
    };
    match result {
        Ok(()) => debug!("a client left"),
        Err(error @ SessionError::Violated(_)) => warn!(%error, "a client was dropped"),
        Err(error) => debug!(%error, "a client was dropped"),
    }
}
