//! What replicated code may ask of a network: a call with a reply, in messages.
//!
//! The seam is at the message, not the byte stream, so that a simulated network can lose, delay, duplicate and reorder
//! what a real one may lose by breaking a connection. The real implementation is `curve-rpc`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::time::Instant;

use crate::disk::BoxFuture;

/// A request or a reply: which method, an encoded header, and a payload that is never copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Which method of which service; the ranges are in `curve-proto`.
    pub method: u16,
    /// An encoded protobuf message, at most `FRAME_HEADER_BYTES_MAX` long.
    pub header: Bytes,
    /// Raw bytes in parts that are sent one after the other, at most `FRAME_PAYLOAD_BYTES_MAX` in all. A received
    /// message has at most one part.
    pub payload: Vec<Bytes>,
}

impl Message {
    /// Bytes of the payload in all parts.
    pub fn payload_len(&self) -> usize {
        self.payload.iter().map(Bytes::len).sum()
    }
}

/// Why a call brought no reply. None of them says whether the other side acted.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum RpcError {
    /// Nobody listens at the address, or it cannot be reached now.
    #[error("cannot reach {address}: {cause}")]
    Unreachable {
        /// Where the call went.
        address: String,
        /// What the system said.
        cause: String,
    },
    /// The connection broke after the request was queued.
    #[error("connection to {address} broke: {cause}")]
    Broken {
        /// Where the call went.
        address: String,
        /// What the system said.
        cause: String,
    },
    /// The deadline passed.
    #[error("no reply from {address} within {deadline_ms} ms")]
    Deadline {
        /// Where the call went.
        address: String,
        /// The call's deadline.
        deadline_ms: u64,
    },
    /// The message is larger than a frame may be.
    #[error("message of {len} bytes is larger than the frame limit of {max}")]
    TooLarge {
        /// Its bytes.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The server has no such method.
    #[error("{address} does not know method {method}")]
    UnknownMethod {
        /// Where the call went.
        address: String,
        /// The method.
        method: u16,
    },
}

/// Where a handler puts its reply. Dropping it unanswered breaks the call, so that no client waits for ever.
pub trait Reply: Send {
    /// Sends the reply.
    fn send(self: Box<Self>, message: Message);
}

/// Serves calls. `handle` is called in the order in which the requests of one connection arrived and must not block:
/// what takes time is moved into a task, with the reply.
pub trait Handler: Send + Sync + 'static {
    /// Takes one request.
    fn handle(&self, request: Message, reply: Box<dyn Reply>);
}

/// Stops a server when dropped.
pub trait ServerHandle: Send + Sync {
    /// The address clients can call, with the port that was chosen where 0 was asked for.
    fn address(&self) -> String;
}

/// A network of processes that call each other.
pub trait Network: Send + Sync + 'static {
    /// Calls `address` (`host:port`, or `unix:/path`) and waits for the reply, at most for `deadline`. Requests to one
    /// address are sent in the order of the calls to this method (not of the polls of its future). With `arrives_by` it is not
    /// executed when it arrives later: who asked for it has gone on in another way by then. A network without a clock of its
    /// own, as the simulated one is, executes it whenever it comes.
    fn call_by(
        &self,
        address: &str,
        request: Message,
        arrives_by: Option<Instant>,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Message, RpcError>>;
    /// The same, of a request that is of use whenever it arrives.
    fn call(
        &self,
        address: &str,
        request: Message,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Message, RpcError>> {
        self.call_by(address, request, None, deadline)
    }
    /// Serves calls to `address` until the handle is dropped.
    fn serve<'a>(
        &'a self,
        address: &'a str,
        handler: Arc<dyn Handler>,
    ) -> BoxFuture<'a, std::io::Result<Box<dyn ServerHandle>>>;
}
