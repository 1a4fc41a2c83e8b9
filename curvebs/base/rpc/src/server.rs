//! Listens at an address and owns the connections that come.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use curve_io::{Handler, ServerHandle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsStream};

use crate::clock;
use crate::config::RpcConfig;
use crate::format::{HELLO_BYTES, Hello, TLS_HANDSHAKE, VERSION, Verdict, decode_hello, encode_hello};
use crate::server_connection::{Connection, Replies};
use crate::stats::{Counters, count};
use crate::stream::{Address, Stream};

/// How long to wait after the system refused to accept, for example for want of file descriptors. There is no event
/// that tells when it would not.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Starts to serve `address`.
pub(crate) async fn serve(
    address: &str,
    handler: Arc<dyn Handler>,
    config: RpcConfig,
    counters: Arc<Counters>,
) -> io::Result<Box<dyn ServerHandle>> {
    let cannot = |e: io::Error| io::Error::new(e.kind(), format!("cannot listen at {address}: {e}"));
    let listener = Listener::bind(&Address::parse(address)?).await.map_err(cannot)?;
    if config.tls.as_ref().is_some_and(|tls| tls.server_config().is_none()) {
        return Err(cannot(io::Error::new(
            io::ErrorKind::InvalidInput,
            "TLS needs `cert` and `key` to serve",
        )));
    }
    let address = listener.address(address)?;
    let shared = Arc::new(Shared {
        handler,
        config,
        counters,
        stopping: AtomicBool::new(false),
        stopped: Notify::new(),
        connections: Mutex::default(),
    });
    tokio::spawn(accept_all(listener, Arc::clone(&shared)));
    Ok(Box::new(Handle { address, shared }))
}

/// What the accept loop, the connections and the handle share.
pub(crate) struct Shared {
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) config: RpcConfig,
    pub(crate) counters: Arc<Counters>,
    stopping: AtomicBool,
    stopped: Notify,
    /// Open connections, to be told when the server stops.
    connections: Mutex<Vec<Arc<Replies>>>,
}

impl Shared {
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn register(&self, replies: &Arc<Replies>) {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(replies));
        if self.is_stopping() {
            replies.stop();
        }
    }

    fn unregister(&self, replies: &Arc<Replies>) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|other| !Arc::ptr_eq(other, replies));
    }
}

struct Handle {
    address: String,
    shared: Arc<Shared>,
}

impl ServerHandle for Handle {
    fn address(&self) -> String {
        self.address.clone()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        let connections = self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for replies in connections {
            replies.stop();
        }
        self.shared.stopped.notify_one();
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    async fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(host_port) => Ok(Self::Tcp(TcpListener::bind(host_port).await?)),
            Address::Unix(path) => Ok(Self::Unix(bind_unix(path).await?, path.clone())),
        }
    }

    /// The address with the port that was chosen.
    fn address(&self, asked: &str) -> io::Result<String> {
        match self {
            Self::Tcp(listener) => {
                let host = asked.rsplit_once(':').map_or(asked, |(host, _)| host);
                Ok(format!("{host}:{}", listener.local_addr()?.port()))
            }
            Self::Unix(..) => Ok(asked.to_owned()),
        }
    }

    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => Ok(Accepted::Tcp(listener.accept().await?.0)),
            Self::Unix(listener, _) => Ok(Accepted::Unix(listener.accept().await?.0)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Binds a Unix socket; a socket file that a killed process left behind is replaced.
async fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            let is_socket = std::fs::symlink_metadata(path)?.file_type().is_socket();
            let is_stale = matches!(
                UnixStream::connect(path).await,
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused
            );
            if !(is_socket && is_stale) {
                return Err(e);
            }
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        bound => bound,
    }
}

enum Accepted {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Accepts until the server stops, then waits for the connections to drain.
async fn accept_all(listener: Listener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while !shared.is_stopping() {
        tokio::select! {
            () = shared.stopped.notified() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok(accepted) => {
                    let verdict = match connections.len() >= shared.config.connections_max as usize {
                        true => Verdict::TooMany,
                        false => Verdict::GoOn,
                    };
                    connections.spawn(serve_connection(accepted, Arc::clone(&shared), verdict));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    // Connections end by themselves within the drain timeout; whatever does not is ended by dropping the set.
    let _ = tokio::time::timeout(2 * shared.config.drain_timeout, drained).await;
}

async fn serve_connection(accepted: Accepted, shared: Arc<Shared>, verdict: Verdict) {
    let handshake = shake_hands(accepted, &shared, verdict);
    let stream = match tokio::time::timeout(shared.config.connect_timeout, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            count(&shared.counters.connections_refused, 1);
            tracing::debug!(%error, "connection refused");
            return;
        }
        Err(_) => {
            count(&shared.counters.connections_refused, 1);
            tracing::debug!("connection refused: no hello in time");
            return;
        }
    };
    let connection = Connection::new(stream, Arc::clone(&shared));
    let replies = connection.replies();
    shared.register(&replies);
    let _registered = Registered { shared: Arc::clone(&shared), replies };
    let error = connection.run().await;
    tracing::debug!(%error, "connection from a client ended");
}

/// Takes a connection off the list however its task ends.
struct Registered {
    shared: Arc<Shared>,
    replies: Arc<Replies>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.shared.unregister(&self.replies);
    }
}

/// TLS, where configured, and the hellos.
async fn shake_hands(accepted: Accepted, shared: &Shared, verdict: Verdict) -> io::Result<Stream> {
    let mut verdict = if shared.is_stopping() { Verdict::Stopping } else { verdict };
    let mut stream = match accepted {
        Accepted::Unix(socket) => Stream::Unix(socket),
        Accepted::Tcp(socket) => {
            socket.set_nodelay(true)?;
            match shared.config.tls.as_ref().and_then(|tls| tls.server_config()) {
                None => Stream::Tcp(socket),
                Some(config) if speaks_tls(&socket).await? => {
                    Stream::Tls(Box::new(TlsStream::Server(TlsAcceptor::from(config).accept(socket).await?)))
                }
                Some(_) => {
                    verdict = Verdict::TlsRequired;
                    Stream::Tcp(socket)
                }
            }
        }
    };
    let mut bytes = [0; HELLO_BYTES];
    stream.read_exact(&mut bytes).await?;
    let theirs = decode_hello(&bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    if verdict == Verdict::GoOn && theirs.version != VERSION {
        verdict = Verdict::Version;
    }
    let ours = Hello {
        version: VERSION,
        verdict,
        inflight_max: shared.config.inflight_max,
        inflight_bytes_max: shared.config.inflight_bytes_max,
        clock: clock::now(),
    };
    stream.write_all(&encode_hello(&ours)).await?;
    stream.flush().await?;
    match verdict {
        Verdict::GoOn => Ok(stream),
        refused => {
            let message = format!("client of version {} refused: {refused:?}", theirs.version);
            Err(io::Error::new(io::ErrorKind::ConnectionRefused, message))
        }
    }
}

/// Whether the client begins with a TLS handshake rather than a hello.
async fn speaks_tls(socket: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    Ok(socket.peek(&mut first).await? == 1 && first[0] == TLS_HANDSHAKE)
}
