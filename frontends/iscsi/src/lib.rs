//! iSCSI target: a protocol core without I/O, and the daemon that serves volumes with it.
//!
//! ```text
//! server    listens, accepts, drains ─► session   one connection, one task ─► core   bytes ⇄ PDUs, login, numbers, data
//!                                          │ │
//!                                          │ └─► sessions   one for each initiator port: reinstatement
//!                                          ▼
//!                                       catalog    target ─► curve_scsi::TargetDevice ─► BlockDevice
//! ```
//!
//! `gateway` is what stands in the catalog's place beside other gateways: it follows the cluster and publishes catalogs.
//!
//! A frontend translates and nothing else: there is no cache, retry or placement here. What a command means is the business
//! of `curve-scsi`.

pub mod catalog;
pub mod core;
pub mod gateway;
pub mod server;
pub mod session;
pub mod sessions;
