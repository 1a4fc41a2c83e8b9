//! The process-wide metrics registry.

use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::process;

/// Buckets of histograms whose names end in `_seconds`: from 20 µs to 10 s.
const SECONDS_BUCKETS: [f64; 18] = [
    20e-6, 50e-6, 100e-6, 200e-6, 350e-6, 500e-6, 750e-6, 1e-3, 2e-3, 5e-3, 10e-3, 20e-3, 50e-3, 0.1, 0.2,
    0.5, 2.0, 10.0,
];

static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();

/// Makes the registry, once for each process; later calls do nothing. `serve_http` calls it too, but what was counted
/// before the first call is lost.
pub fn install_metrics() {
    HANDLE.get_or_init(|| {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)
            .expect("the list of buckets is not empty")
            .build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("another metrics recorder is installed; /metrics will be empty");
        }
        handle
    });
}

/// Everything counted so far, and what the kernel knows of this process, in Prometheus' text format.
pub fn render_metrics() -> String {
    install_metrics();
    process::record();
    HANDLE.get().map(PrometheusHandle::render).unwrap_or_default()
}

/// Moves recorded samples into their histograms, so that their buffers stay small between scrapes.
pub(crate) fn upkeep() {
    if let Some(handle) = HANDLE.get() {
        handle.run_upkeep();
    }
}
