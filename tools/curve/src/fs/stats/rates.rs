//! From two readings of a mount's counters to what happened in a second between them. Pure.

use std::time::Duration;

use crate::fs::attributes::Lines;

/// Calls of one kind.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Flow {
    /// A second.
    pub calls: f64,
    /// Mean time of one.
    pub millis: f64,
    /// Bytes a second.
    pub bytes: f64,
    /// Failed ones a second.
    pub failures: f64,
}

/// What happened a second, and what is now.
#[derive(Clone, PartialEq, Debug)]
pub struct Rates {
    /// How long the interval was.
    pub seconds: f64,
    /// Requests of programs.
    pub fuse: Flow,
    /// Bytes that programs read.
    pub read_bytes: f64,
    /// Bytes that they wrote.
    pub written_bytes: f64,
    /// Requests to metaservers.
    pub meta: Flow,
    /// Objects, or ranges of them, that were got.
    pub gets: Flow,
    /// Objects that were put.
    pub puts: Flow,
    /// Requests that delete.
    pub deletes: Flow,
    /// Failed attempts to publish what was written.
    pub publish_failures: f64,
    /// Of one processor.
    pub cpu_percent: f64,
    now: Lines,
}

impl Rates {
    /// What happened between two readings that are `took` apart. A mount that was started anew in between has counters below
    /// those of before: nothing happened, as far as that tells.
    pub fn between(before: &Lines, now: &Lines, took: Duration) -> Self {
        let seconds = took.as_secs_f64().max(f64::MIN_POSITIVE);
        let of = |lines: &Lines, name: &str| lines.number::<u64>(name).unwrap_or(0);
        let more = |name: &str| of(now, name).saturating_sub(of(before, name)) as f64;
        let flow = |calls: &str, failures: &str, bytes: &str, micros: &str| {
            let count = more(calls);
            let millis = if count > 0.0 { more(micros) / count / 1000.0 } else { 0.0 };
            Flow {
                calls: count / seconds,
                millis,
                bytes: more(bytes) / seconds,
                failures: more(failures) / seconds,
            }
        };
        let store = |what: &str| {
            let name = |part: &str| format!("store_{what}{part}_total");
            flow(&name("s"), &name("_failures"), &name("_bytes"), &name("_microseconds"))
        };
        Self {
            seconds,
            fuse: flow("fuse_requests_total", "", "", "fuse_microseconds_total"),
            read_bytes: more("read_bytes_total") / seconds,
            written_bytes: more("written_bytes_total") / seconds,
            meta: flow("meta_requests_total", "meta_failures_total", "", "meta_microseconds_total"),
            gets: store("get"),
            puts: store("put"),
            deletes: store("delete"),
            publish_failures: more("publish_failures_total") / seconds,
            cpu_percent: more("cpu_microseconds_total") / seconds / 10_000.0,
            now: now.clone(),
        }
    }

    /// A value of the later reading; 0 if it has none.
    pub fn gauge(&self, name: &str) -> u64 {
        self.now.number(name).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_become_rates_and_means() {
        let before =
            Lines::parse("fuse_requests_total 100\nfuse_microseconds_total 1000\nstore_puts_total 5\n");
        let now = Lines::parse(
            "fuse_requests_total 300\nfuse_microseconds_total 101000\nstore_puts_total 9\nstore_put_bytes_total 4000\n\
             store_put_failures_total 2\nstore_put_microseconds_total 8000\ncpu_microseconds_total 1000000\nread_bytes_total 10\n\
             resident_bytes 7\n",
        );
        let rates = Rates::between(&before, &now, Duration::from_secs(2));
        assert_eq!(rates.fuse, Flow { calls: 100.0, millis: 0.5, bytes: 0.0, failures: 0.0 });
        assert_eq!(rates.puts, Flow { calls: 2.0, millis: 2.0, bytes: 2000.0, failures: 1.0 });
        assert_eq!((rates.cpu_percent, rates.read_bytes, rates.gauge("resident_bytes")), (50.0, 5.0, 7));
        let anew = Rates::between(&now, &before, Duration::ZERO);
        assert_eq!((anew.fuse.calls, anew.fuse.millis), (0.0, 0.0), "counters that went back");
    }
}
