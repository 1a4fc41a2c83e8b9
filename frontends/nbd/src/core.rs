//! The NBD protocol without I/O: bytes in, events and bytes out.
//!
//! Nothing here is async, knows a socket, a clock or a device. [`Handshake`] eats what a client sends until it has
//! chosen an export; [`RequestDecoder`] then turns bytes into checked [`Request`]s; [`ReplyEncoder`] and [`Outbox`]
//! turn outcomes into bytes. None of them panics or grows without limit, whatever a client sends: the fuzzer
//! (`examples/fuzz.rs`) and the tables beside the code hold them to it.
//!
//! The source of every number and rule is the protocol's document,
//! <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>, called "the protocol" below.

mod catalog;
mod errno;
mod fields;
mod handshake;
mod option;
mod reply;
mod request;
mod wire;

pub use catalog::{Catalog, ExportInfo};
pub use curve_outbox::Outbox;
pub use errno::Errno;
pub use handshake::{Handshake, Negotiated, Step, TlsPolicy, kernel_flags, kernel_limits};
pub use option::{NAME_BYTES_MAX, OPTION_BYTES_MAX};
pub use reply::{ReplyEncoder, ReplyHead};
pub use request::{
    Command, DRAIN_BYTES_MAX, Event, Limits, PAYLOAD_BYTES_MAX, Refusal, Request, RequestDecoder, Violation,
};
pub use wire::Framing;
