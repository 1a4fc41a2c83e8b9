//! The real `curve_io::Network`.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use curve_io::{BoxFuture, Handler, Message, Network, RpcError, ServerHandle};
use curve_types::{FRAME_HEADER_BYTES_MAX, FRAME_PAYLOAD_BYTES_MAX};
use tokio::time::Instant;

use crate::client::Peer;
use crate::config::RpcConfig;
use crate::server;
use crate::stats::{Counters, RpcStats};

/// Addresses remembered; above it, those without a connection are forgotten.
const PEERS_MAX: usize = 4096;

/// A network of framed connections over TCP and Unix sockets.
///
/// Keeps one connection for each address that is called, made by the first call. `call` needs a tokio runtime with
/// time and I/O around it, since it may start the task that carries the connection. Servers live until their handle
/// is dropped; dropping the network itself ends its connections to servers and fails the calls on them.
#[derive(Debug)]
pub struct RpcNetwork {
    config: RpcConfig,
    counters: Arc<Counters>,
    peers: RwLock<HashMap<String, Arc<Peer>>>,
}

impl RpcNetwork {
    /// A network without connections.
    pub fn new(config: RpcConfig) -> Arc<Self> {
        Arc::new(Self { config, counters: Arc::default(), peers: RwLock::default() })
    }

    /// What it has done so far.
    pub fn stats(&self) -> RpcStats {
        self.counters.view()
    }

    /// How often this machine's clock was seen to have stood still: [`RpcStats::clock_leaps`].
    pub fn clock_leaps(&self) -> u64 {
        self.counters.clock_leaps.get()
    }

    fn peer(&self, address: &str) -> Arc<Peer> {
        if let Some(peer) = self.peers.read().unwrap_or_else(PoisonError::into_inner).get(address) {
            return Arc::clone(peer);
        }
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= PEERS_MAX {
            peers.retain(|_, peer| !peer.is_idle());
        }
        let peer = peers
            .entry(address.to_owned())
            .or_insert_with(|| Peer::new(address, self.config.clone(), Arc::clone(&self.counters)));
        Arc::clone(peer)
    }
}

impl Drop for RpcNetwork {
    fn drop(&mut self) {
        for peer in self.peers.get_mut().unwrap_or_else(PoisonError::into_inner).values() {
            peer.close();
        }
    }
}

impl Network for RpcNetwork {
    fn call_by(
        &self,
        address: &str,
        request: Message,
        arrives_by: Option<Instant>,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Message, RpcError>> {
        match too_large(&request) {
            Some(error) => Box::pin(async move { Err(error) }),
            None => self.peer(address).call(request, arrives_by, deadline),
        }
    }

    fn serve<'a>(
        &'a self,
        address: &'a str,
        handler: Arc<dyn Handler>,
    ) -> BoxFuture<'a, io::Result<Box<dyn ServerHandle>>> {
        Box::pin(server::serve(address, handler, self.config.clone(), Arc::clone(&self.counters)))
    }
}

fn too_large(request: &Message) -> Option<RpcError> {
    let parts =
        [(request.header.len(), FRAME_HEADER_BYTES_MAX), (request.payload_len(), FRAME_PAYLOAD_BYTES_MAX)];
    parts.into_iter().find(|(len, max)| len > max).map(|(len, max)| RpcError::TooLarge { len, max })
}
