//! Listens, accepts, and drains when it is told to stop.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::select_all;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::catalog::CatalogSource;
use crate::core::Portal;
use crate::session::{self, SessionContext, SessionError};
use crate::sessions::Sessions;

/// Connections that have not logged in. With one more, the oldest is dropped: an initiator logs in within milliseconds,
/// so that those who only hold connections cannot keep it out.
const LOGINS_MAX: usize = 512;
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

/// Connections on their way through the login phase, the oldest first.
#[derive(Default)]
struct Newcomers(VecDeque<oneshot::Sender<()>>);

impl Newcomers {
    /// Makes room for one more.
    fn enter(&mut self) -> oneshot::Receiver<()> {
        if self.0.len() >= LOGINS_MAX {
            // Those that have logged in, or are gone, are not waiting for this any more.
            self.0.retain(|newcomer| !newcomer.is_closed());
        }
        if self.0.len() >= LOGINS_MAX
            && let Some(oldest) = self.0.pop_front()
        {
            // If it is gone by now, that is as well.
            let _ = oldest.send(());
        }
        let (evict, evicted) = oneshot::channel();
        self.0.push_back(evict);
        evicted
    }
}

/// Serves initiators until `stopping` becomes true; then takes no more connections, asks those that are there to log out,
/// and returns when every session is over. `connections_max` is what the system's limits allow.
pub async fn run(
    portals: Portals,
    catalog: CatalogSource,
    sessions: Arc<Sessions>,
    connections_max: usize,
    mut stopping: watch::Receiver<bool>,
) {
    let mut newcomers = Newcomers::default();
    let mut connections = JoinSet::new();
    let connections_stop = stopping.clone();
    loop {
        tokio::select! {
            _ = stopping.wait_for(|stopping| *stopping) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = portals.accept(), if connections.len() < connections_max => match accepted {
                Ok((stream, peer)) => {
                    let context = (catalog.clone(), sessions.clone());
                    let serving = serve(stream, peer, context, newcomers.enter(), connections_stop.clone());
                    connections.spawn(serving);
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    let _ = tokio::time::timeout(ACCEPT_RETRY, connections.join_next()).await;
                }
            },
        }
    }
    // From here on a new initiator is refused rather than kept waiting.
    drop(portals);
    debug!(connections = connections.len(), "waiting for initiators to log out");
    while connections.join_next().await.is_some() {}
}

async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    (catalog, sessions): (CatalogSource, Arc<Sessions>),
    evict: oneshot::Receiver<()>,
    stopping: watch::Receiver<bool>,
) {
    let result = match stream.set_nodelay(true).and_then(|()| stream.local_addr()) {
        Ok(local) => {
            // A socket for both versions shows IPv4 addresses as IPv6 ones, which no initiator could connect to.
            let local = SocketAddr::new(local.ip().to_canonical(), local.port());
            let context = SessionContext { catalog, sessions, local: local.to_string() };
            session::serve(stream, context, evict, stopping).await
        }
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => debug!(%peer, "an initiator left"),
        Err(
            error @ (SessionError::Violated(_) | SessionError::Framing(_) | SessionError::Refused { .. }),
        ) => {
            warn!(%peer, %error, "an initiator was dropped");
        }
        Err(error @ (SessionError::Silent | SessionError::Replaced | SessionError::Revoked)) => {
            info!(%peer, %error, "a session was ended");
        }
        Err(error) => debug!(%peer, %error, "a connection ended"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_newcomer_makes_room() {
        let mut newcomers = Newcomers::default();
        let mut waiting: VecDeque<_> = (0..LOGINS_MAX).map(|_| newcomers.enter()).collect();
        // Who has logged in is not in the way.
        drop(waiting.pop_back());
        waiting.push_back(newcomers.enter());
        assert!(waiting[0].try_recv().is_err());
        waiting.push_back(newcomers.enter());
        assert!(waiting[0].try_recv().is_ok() && waiting[1].try_recv().is_err());
        assert_eq!(newcomers.0.len(), LOGINS_MAX);
    }

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
