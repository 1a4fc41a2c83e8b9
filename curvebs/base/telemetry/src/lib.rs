//! Logging, metrics registry, /metrics and /healthz, named health codes.
