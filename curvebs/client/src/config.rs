//! Configuration of a client: where the MDSs are, and the limits of its I/O.

use std::time::Duration;

use curve_types::HumanDuration;
use serde::Deserialize;

use crate::retry::RetryLimits;

/// A client's configuration file, `curve.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientConfig {
    /// gRPC addresses (`host:port`) of all MDSs. `$CURVE_MDS` (a comma-separated list) overrides it.
    pub mds_addresses: Vec<String>,
    /// How long an I/O may take before it fails with a timeout; `0s` waits for ever, as kernel devices expect.
    pub io_timeout: HumanDuration,
    /// How long a control call (create, open, stat …) is retried before it fails.
    pub mds_timeout: HumanDuration,
    /// Requests to chunkservers that one volume may have in flight.
    pub inflight_max: u32,
    /// Time given to the first try of a request to a chunkserver; doubles with each timeout.
    pub try_timeout: HumanDuration,
    /// Whether reads take their bytes from the chunk files of a chunkserver on the same machine, where they may open them.
    pub local_reads: bool,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            mds_addresses: Vec::new(),
            io_timeout: HumanDuration(Duration::ZERO),
            mds_timeout: HumanDuration(Duration::from_secs(10)),
            inflight_max: 256,
            try_timeout: HumanDuration(Duration::from_secs(1)),
            local_reads: true,
        }
    }
}

impl ClientConfig {
    /// The waits between tries and for each of them.
    pub(crate) fn retry_limits(&self) -> RetryLimits {
        RetryLimits { try_min: self.try_timeout.0.max(Duration::from_millis(50)), ..RetryLimits::default() }
    }

    /// The I/O timeout, if there is one.
    pub(crate) fn io_deadline(&self) -> Option<Duration> {
        Some(self.io_timeout.0).filter(|timeout| !timeout.is_zero())
    }
}
