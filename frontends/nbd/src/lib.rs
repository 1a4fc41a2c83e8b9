//! NBD server: a protocol core without I/O, and the daemon that serves volumes with it.
//!
//! ```text
//! server   listens, accepts, drains ─► session   one connection, one task ─► core   bytes ⇄ requests and replies
//!                                         │
//!                                         ▼
//!                                      exports   name ─► BlockDevice (a volume, or memory)
//! kernel   `/dev/nbdN`: the other end of a session is the kernel's driver
//! ```
//!
//! A frontend translates and nothing else: there is no cache, retry or placement here.

pub mod core;
pub mod exports;
pub mod kernel;
pub mod server;
pub mod session;
pub mod tls;
pub mod uri;
