//! Listens, accepts, and drains when it is told to stop.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use curve_serving::admission::{Admission, Evicted, Limits, Peer, lengthen_queue};
use curve_serving::complaints::Complaints;
use futures::future::select_all;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::catalog::CatalogSource;
use crate::core::Portal;
use crate::session::{self, SessionContext, SessionError};
use crate::sessions::Sessions;

/// How long accepting rests after it failed, for example for lack of file descriptors, if no connection ends before.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);
/// The portal group of a gateway: a session may use any portal of it.
const PORTAL_GROUP: u16 = 1;

/// The system does not let us listen.
#[derive(Debug, Error)]
#[error("cannot listen on {place}: {cause}")]
pub struct ListenError {
    /// Where.
    pub place: String,
    /// Why not.
    pub cause: io::Error,
}

/// Bound sockets.
#[derive(Debug)]
pub struct Portals {
    listeners: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
}

impl Portals {
    /// Binds to each `host:port`.
    pub async fn bind(places: &[String]) -> Result<Self, ListenError> {
        assert!(!places.is_empty(), "a server without a portal serves nobody");
        let mut portals = Self { listeners: Vec::new(), addresses: Vec::new() };
        for place in places {
            let failed = |cause| ListenError { place: place.clone(), cause };
            let listener = TcpListener::bind(place).await.map_err(failed)?;
            lengthen_queue(&listener).map_err(failed)?;
            portals.addresses.push(listener.local_addr().map_err(failed)?);
            portals.listeners.push(listener);
        }
        Ok(portals)
    }

    /// The bound addresses, in order.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What discovery tells: `advertised`, or what is bound. A wildcard stands for the address that was connected to.
    pub fn advertised(&self, advertised: &[String]) -> Vec<Portal> {
        let bound = |address: &SocketAddr| (!address.ip().is_unspecified()).then(|| address.to_string());
        let mut addresses: Vec<Option<String>> = match advertised {
            [] => self.addresses.iter().map(bound).collect(),
            advertised => advertised.iter().cloned().map(Some).collect(),
        };
        addresses.dedup();
        addresses.into_iter().map(|address| Portal { address, group: PORTAL_GROUP }).collect()
    }

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let accepting = self.listeners.iter().map(|listener| Box::pin(listener.accept()));
        select_all(accepting).await.0
    }
}

/// What connections are allowed.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// How many there may be.
    pub admission: Limits,
    /// How long one may take to log in.
    pub login_timeout: Duration,
}

/// How a connection ended.
type Ended = (SocketAddr, Result<(), SessionError>);

/// Serves initiators until `stopping` becomes true; then takes no more connections, asks those that are there to log out,
/// and returns when every session is over.
pub async fn run(
    portals: Portals,
    catalog: CatalogSource,
    sessions: Arc<Sessions>,
    limits: ServerLimits,
    stopping: watch::Receiver<bool>,
) {
    let server = Server {
        catalog,
        sessions,
        login_timeout: limits.login_timeout,
        admission: Admission::new(limits.admission),
        complaints: Complaints::default(),
        connections: JoinSet::new(),
        gauge: metrics::gauge!("curve_iscsi_connections"),
        stopping,
    };
    server.run(portals).await;
}

/// One task owns what all connections have in common: it lets them in, and hears how each has ended.
struct Server {
    catalog: CatalogSource,
    sessions: Arc<Sessions>,
    login_timeout: Duration,
    admission: Admission,
    complaints: Complaints,
    connections: JoinSet<Ended>,
    gauge: metrics::Gauge,
    stopping: watch::Receiver<bool>,
}

impl Server {
    async fn run(mut self, portals: Portals) {
        let mut stopping = self.stopping.clone();
        loop {
            tokio::select! {
                () = becomes_true(&mut stopping) => break,
                Some(ended) = self.connections.join_next(), if !self.connections.is_empty() => self.ended(ended),
                accepted = portals.accept(), if self.admission.has_room() => match accepted {
                    Ok((stream, peer)) => self.begin(stream, peer),
                    Err(error) => self.cannot_accept(error).await,
                },
            }
        }
        // From here on a new initiator is refused rather than kept waiting.
        drop(portals);
        debug!(connections = self.connections.len(), "waiting for initiators to log out");
        while let Some(ended) = self.connections.join_next().await {
            self.ended(ended);
        }
    }

    fn begin(&mut self, stream: TcpStream, peer: SocketAddr) {
        let (place, evicted) = match self.admission.enter(peer.ip().into()) {
            Ok(admitted) => admitted,
            Err(error) => return self.dropped(peer, "share", &error),
        };
        let context = (self.catalog.clone(), self.sessions.clone(), self.login_timeout);
        let serving = serve(stream, peer, context, evicted, self.stopping.clone());
        self.connections.spawn(async move {
            let result = serving.await;
            drop(place);
            (peer, result)
        });
        self.gauge.set(self.connections.len() as f64);
    }

    async fn cannot_accept(&mut self, error: io::Error) {
        if let Some(before) = self.complaints.tell(Peer::Local, "accept", Instant::now()) {
            warn!(%error, before, "cannot accept a connection");
        }
        if let Ok(Some(ended)) = tokio::time::timeout(ACCEPT_RETRY, self.connections.join_next()).await {
            self.ended(ended);
        }
    }

    fn ended(&mut self, ended: Result<Ended, JoinError>) {
        self.gauge.set(self.connections.len() as f64);
        match ended {
            Ok((peer, Ok(()))) => debug!(%peer, "an initiator left"),
            Ok((peer, Err(SessionError::Lost(error)))) => {
                count("lost");
                debug!(%peer, %error, "a connection ended");
            }
            Ok((
                peer,
                Err(
                    error @ (SessionError::Silent
                    | SessionError::Replaced
                    | SessionError::Stalled
                    | SessionError::Revoked),
                ),
            )) => {
                count(error.cause());
                info!(%peer, %error, "a session was ended");
            }
            Ok((peer, Err(error))) => self.dropped(peer, error.cause(), &error),
            Err(error) => error!(%error, "a connection's task failed"),
        }
    }

    /// Somebody broke the rules.
    fn dropped(&mut self, peer: SocketAddr, cause: &'static str, error: &dyn Display) {
        count(cause);
        // Whether the text names the initiator or not: a peer that tries names is told of once.
        if let Some(before) = self.complaints.tell(peer.ip().into(), cause, Instant::now()) {
            warn!(%peer, %error, before, "an initiator was dropped; more like it are told in a minute");
        }
    }
}

/// Also if nobody can say so any more.
async fn becomes_true(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

fn count(cause: &'static str) {
    metrics::counter!("curve_iscsi_dropped_total", "cause" => cause).increment(1);
}

async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    (catalog, sessions, login_timeout): (CatalogSource, Arc<Sessions>, Duration),
    evicted: Evicted,
    stopping: watch::Receiver<bool>,
) -> Result<(), SessionError> {
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    debug!(%peer, "a connection begins");
    // A socket for both versions shows IPv4 addresses as IPv6 ones, which no initiator could connect to.
    let local = SocketAddr::new(local.ip().to_canonical(), local.port());
    let context = SessionContext { catalog, sessions, local: local.to_string(), login_timeout };
    session::serve(stream, context, evicted, stopping).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wildcard_is_what_the_initiator_has_connected_to() {
        let places = ["0.0.0.0:0", "[::]:0", "127.0.0.1:0"].map(str::to_owned);
        let portals = Portals::bind(&places).await.expect("free ports");
        let advertised = portals.advertised(&[]);
        let local = portals.addresses()[2].to_string();
        assert_eq!(
            advertised.iter().map(|portal| portal.address.clone()).collect::<Vec<_>>(),
            [None, Some(local)]
        );
        let named = portals.advertised(&["gw:3260".to_owned()]);
        assert_eq!(named, [Portal { address: Some("gw:3260".to_owned()), group: 1 }]);
    }
}
