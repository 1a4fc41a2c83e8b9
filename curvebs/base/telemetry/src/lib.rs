//! Logging, metrics registry, /metrics and /healthz, named health codes; what commands say to whoever runs them.
//!
//! Code counts with the macros of the `metrics` crate and logs with those of `tracing`; this crate decides where both
//! go. Every daemon calls `init_logging`, then `serve_http`.

pub mod console;
mod health;
mod http;
mod logging;
mod process;
mod recorder;

pub use health::{HealthItem, HealthLevel, HealthReport, HealthSource};
pub use http::{HttpHandle, serve_http};
pub use logging::{LoggingError, init_logging};
pub use process::resident_bytes;
pub use recorder::{install_metrics, render_metrics};
