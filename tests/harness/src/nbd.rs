//! A small NBD client of the tests' own: fixed newstyle, `GO`, structured and simple replies, pipelined.
//!
//! It shares no code with the server, so that a misunderstanding of the protocol cannot hide on both sides.

mod client;
mod handshake;
mod wire;

pub use client::NbdClient;
pub use handshake::Export;

use thiserror::Error;

/// Why an NBD operation failed.
#[derive(Debug, Error, Clone)]
pub enum NbdError {
    /// The server answered with an error number (5 EIO, 22 EINVAL, 28 ENOSPC, 108 ESHUTDOWN…).
    #[error("the server answered error {errno}: {message}")]
    Refused {
        /// The protocol's error number.
        errno: u32,
        /// The server's words, if any.
        message: String,
    },
    /// The connection is gone; what was in flight may or may not have happened.
    #[error("connection lost: {0}")]
    Lost(String),
    /// The server broke the protocol.
    #[error("protocol: {0}")]
    Protocol(String),
}

impl From<std::io::Error> for NbdError {
    fn from(error: std::io::Error) -> Self {
        Self::Lost(error.to_string())
    }
}
