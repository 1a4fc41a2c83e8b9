//! What the kernel knows of this process: `process_*` metrics, with the names Prometheus' own clients use.

use std::fs;

/// Clock ticks in a second, as `/proc` counts; fixed in Linux' user-space ABI.
const TICKS_PER_SECOND: f64 = 100.0;

/// Bytes in a page as `/proc/self/statm` counts.
const PAGE_BYTES: u64 = 4096;

/// Sets the gauges. What `/proc` does not tell is left out.
pub(crate) fn record() {
    if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(parse_stat) {
        metrics::gauge!("process_cpu_seconds_total").set(stat.cpu_seconds);
        metrics::gauge!("process_threads").set(stat.threads);
        if let Some(boot) = fs::read_to_string("/proc/stat").ok().as_deref().and_then(parse_boot_time) {
            metrics::gauge!("process_start_time_seconds").set(boot + stat.start_seconds);
        }
    }
    if let Some(resident) = resident_bytes() {
        metrics::gauge!("process_resident_memory_bytes").set(resident as f64);
    }
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        metrics::gauge!("process_open_fds").set(entries.count() as f64);
    }
    if let Some(max) = fs::read_to_string("/proc/self/limits").ok().as_deref().and_then(parse_fds_max) {
        metrics::gauge!("process_max_fds").set(max);
    }
}

struct Stat {
    cpu_seconds: f64,
    threads: f64,
    start_seconds: f64,
}

/// `/proc/self/stat`, see proc(5). The name in parentheses may hold anything, so fields are counted after its end.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    Some(Stat {
        cpu_seconds: (field(14)? + field(15)?) / TICKS_PER_SECOND,
        threads: field(20)?,
        start_seconds: field(22)? / TICKS_PER_SECOND,
    })
}

fn parse_boot_time(text: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// This process's memory; `None` when `/proc` does not tell.
pub fn resident_bytes() -> Option<u64> {
    fs::read_to_string("/proc/self/statm").ok().as_deref().and_then(parse_resident)
}

fn parse_resident(text: &str) -> Option<u64> {
    Some(text.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()? * PAGE_BYTES)
}

fn parse_fds_max(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_is_skipped() {
        let stat =
            parse_stat("7 (a ) b) S 1 7 7 0 -1 4194304 9 0 0 0 150 50 0 0 20 0 3 0 200 1 1 1").unwrap();
        assert_eq!(stat.cpu_seconds, 2.0);
        assert_eq!(stat.threads, 3.0);
        assert_eq!(stat.start_seconds, 2.0);
        assert!(parse_stat("garbage").is_none());
    }

    #[test]
    fn this_process_is_measured() {
        crate::install_metrics();
        let text = crate::render_metrics();
        for name in [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_start_time_seconds",
        ] {
            assert!(text.contains(name), "{name} is missing in {text}");
        }
    }
}
