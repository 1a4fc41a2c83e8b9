//! Framed data-plane RPC: multiplexed connections, deadlines, bounded queues, TLS.
//!
//! `RpcNetwork` is the real `curve_io::Network`. It keeps one connection per address, made when first needed and
//! remade after a break; requests are pipelined, everything queued leaves in one vectored write, and payloads are
//! received into the `Bytes` that the handler gets. The bytes on the wire are described in `format`.

mod batching;
mod calls;
mod client;
mod client_connection;
mod clock;
mod config;
mod decoder;
pub mod format;
mod network;
mod outbox;
mod pipe;
mod server;
mod server_connection;
mod stats;
mod stream;
mod tls;

pub use config::RpcConfig;
pub use decoder::{Decoder, Frame};
pub use network::RpcNetwork;
pub use stats::RpcStats;
pub use tls::{Tls, TlsConfig, TlsError};

use curve_io::Message;

/// The method of keep-alive pings; handlers never see it.
pub const METHOD_PING: u16 = 0;

/// A reply with this method makes the call fail with `RpcError::UnknownMethod`.
pub const METHOD_UNKNOWN: u16 = u16::MAX;

/// The reply of a handler that has no such method.
pub fn unknown_method() -> Message {
    Message { method: METHOD_UNKNOWN, ..Message::default() }
}
