//! Counters of a mount by name: `system.curve.stats`, and with `curve_fs_mount_` before them `/metrics`.
//!
//! Names that end in `_total` only grow; the others are of the moment. Times are in microseconds, added up: what a request took is the
//! difference of the times divided by that of the requests.

use std::fmt::Write as _;
use std::time::Duration;

use curvefs_types::Metered;
use curvefs_vfs::Vfs;
use rustix::time::{ClockId, clock_gettime};

use super::Meters;

/// A name and its value.
pub type Reading = (&'static str, u64);

/// All of them.
pub fn readings(vfs: &Vfs, meters: &Meters, store_memory: u64, uptime: Duration) -> Vec<Reading> {
    let (counters, store, options) = (vfs.counters(), &meters.store, vfs.options());
    let mut all = Vec::new();
    let made = vfs.delegations();
    let read = |meter: &curvefs_types::Meter| meter.read();
    let [requests, reads, writes, publishes] =
        [&counters.requests, &counters.reads, &counters.writes, &counters.publishes].map(read);
    let meta = read(&meters.meta);
    all.extend([
        ("fuse_requests_total", requests.calls),
        ("fuse_microseconds_total", requests.micros),
        ("fuse_under_way", requests.under_way),
        ("read_requests_total", reads.calls),
        ("read_bytes_total", reads.bytes),
        ("write_requests_total", writes.calls),
        ("written_bytes_total", writes.bytes),
        ("publishes_total", publishes.calls),
        ("publish_failures_total", publishes.failures),
        ("published_bytes_total", publishes.bytes),
        ("lost_bytes_total", counters.lost_bytes()),
        ("delegated_directories", made.directories as u64),
        ("unpublished_files", made.unpublished as u64),
        ("files_made_here_total", made.made),
        ("made_here_batches_total", made.batches),
        ("recalls_total", made.recalls),
        ("lost_files_total", made.lost),
        ("meta_requests_total", meta.calls),
        ("meta_failures_total", meta.failures),
        ("meta_microseconds_total", meta.micros),
        ("meta_under_way", meta.under_way),
    ]);
    let Metered { calls, failures, bytes, micros, under_way } = read(&store.put);
    all.extend([
        ("store_puts_total", calls),
        ("store_put_failures_total", failures),
        ("store_put_bytes_total", bytes),
        ("store_put_microseconds_total", micros),
        ("store_puts_under_way", under_way),
    ]);
    let Metered { calls, failures, bytes, micros, under_way } = read(&store.get);
    all.extend([
        ("store_gets_total", calls),
        ("store_get_failures_total", failures),
        ("store_get_bytes_total", bytes),
        ("store_get_microseconds_total", micros),
        ("store_gets_under_way", under_way),
    ]);
    let Metered { calls, failures, micros, .. } = read(&store.delete);
    all.extend([
        ("store_deletes_total", calls),
        ("store_delete_failures_total", failures),
        ("store_delete_microseconds_total", micros),
        ("unpublished_bytes", vfs.unpublished_bytes()),
        ("write_cache_limit_bytes", options.write_cache_bytes),
        ("read_cache_bytes", vfs.cached_bytes()),
        ("read_cache_limit_bytes", options.read_cache_bytes),
        ("store_memory_limit_bytes", store_memory),
        ("cpu_microseconds_total", cpu_micros()),
        ("resident_bytes", resident_bytes()),
        ("uptime_seconds", uptime.as_secs()),
    ]);
    all
}

/// Lines `NAME NUMBER`.
pub fn text(readings: &[Reading]) -> String {
    let mut out = String::new();
    for (name, value) in readings {
        // Writing to a string does not fail.
        let _ = writeln!(out, "{name} {value}");
    }
    out
}

/// What the process has used of processors.
fn cpu_micros() -> u64 {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    let part = |n: i64| u64::try_from(n).unwrap_or(0);
    part(used.tv_sec) * 1_000_000 + part(used.tv_nsec) / 1000
}

/// The process's memory; 0 when `/proc` does not tell.
pub fn resident_bytes() -> u64 {
    curve_telemetry::resident_bytes().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_measured_and_text_has_a_line_for_each() {
        assert!(resident_bytes() > 1 << 20);
        let before = cpu_micros();
        while cpu_micros() == before {
            std::hint::spin_loop();
        }
        assert_eq!(text(&[("a_total", 1), ("b", 2)]), "a_total 1\nb 2\n");
    }
}
