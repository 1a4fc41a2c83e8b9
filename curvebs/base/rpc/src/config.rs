//! What may be set about connections.

use std::time::Duration;

use curve_types::FRAME_PAYLOAD_BYTES_MAX;

use crate::tls::Tls;

/// Settings of an `RpcNetwork`. `RpcConfig::default()` suits a data centre.
#[derive(Clone, Debug)]
pub struct RpcConfig {
    /// TLS for TCP connections, made and accepted; Unix sockets never use it. `None`: plain text.
    pub tls: Option<Tls>,
    /// How long making one connection may take, handshakes included.
    pub connect_timeout: Duration,
    /// Requests sent and not yet answered on one connection; further calls wait their turn.
    pub inflight_max: u32,
    /// Bytes of requests sent and not yet answered on one connection.
    pub inflight_bytes_max: u64,
    /// A client sends a ping after hearing nothing for this long.
    pub ping_interval: Duration,
    /// A connection on which nothing is heard for this long after a ping is broken.
    pub ping_timeout: Duration,
    /// A server closes a connection on which it hears nothing, not even a ping, for this long.
    pub idle_timeout: Duration,
    /// How long a stopping server waits for the replies it owes.
    pub drain_timeout: Duration,
    /// Connections one server accepts; more are refused.
    pub connections_max: u32,
}

impl Default for RpcConfig {
    fn default() -> Self {
        Self {
            tls: None,
            connect_timeout: Duration::from_secs(2),
            inflight_max: 1024,
            inflight_bytes_max: INFLIGHT_BYTES_DEFAULT,
            ping_interval: Duration::from_secs(2),
            ping_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(1),
            connections_max: 4096,
        }
    }
}

/// Default of `RpcConfig::inflight_bytes_max`.
const INFLIGHT_BYTES_DEFAULT: u64 = 64 << 20;

const _: () = assert!(
    INFLIGHT_BYTES_DEFAULT >= 2 * FRAME_PAYLOAD_BYTES_MAX as u64,
    "one large write must not starve the rest"
);
