//! The iSCSI protocol without I/O: bytes in, PDUs and actions out.
//!
//! Nothing here is async, knows a socket, a clock, a device or SCSI. [`PduDecoder`] turns bytes into [`Pdu`]s; [`Login`]
//! eats those of the login phase; [`Engine`] is the full feature phase. None of them panics or grows without limit,
//! whatever an initiator sends: the fuzzer (`examples/fuzz_iscsi.rs`) and the tables beside the code hold them to it.
//!
//! The source of every number and rule is RFC 7143; `wire` has the byte tables.
//!
//! | absent | because |
//! |---|---|
//! | error recovery levels 1 and 2 | a session has one TCP connection; what breaks it, ends it, and initiators log in again |
//! | several connections in a session | multipathing does the same without the coupling |
//! | bidirectional commands | no command of a disk is one |

mod catalog;
mod chap;
mod data_in;
mod digest;
mod engine;
mod exchange;
mod intake;
mod login;
mod negotiate;
mod pdu;
mod reply;
mod request;
mod serial;
mod text;
mod window;
mod wire;

pub use catalog::{Access, Catalog, NodeName, Portal, TargetEntry};
pub use chap::{Account, BadCredentials, CHALLENGE_BYTES, Challenge, Credentials, Secret};
pub use curve_outbox::Outbox;
pub use digest::Digests;
pub use engine::{
    Action, Answer, COMMANDS_MAX, Engine, Entered, IMMEDIATES_MAX, Management, Outcome, Parties, Violation,
};
pub use login::{Established, Login, LoginRefusal, LoginStep};
pub use negotiate::{RECV_DATA_BYTES_MAX, SessionKind, SessionParams};
pub use pdu::{Bhs, FramingError, Pdu, PduDecoder, PduEncoder};
pub use reply::{AsyncEvent, RejectReason, TaskOutcome};
pub use request::{Attribute, Cdb, Command, LoginRequest, Request};
pub use serial::Serial;
pub use wire::{BHS_BYTES, LOGIN_DATA_BYTES_MAX};
