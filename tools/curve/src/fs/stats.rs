//! `curve fs stats`: what a mount does, once an interval.

mod rates;

use std::io::{self, Write};
use std::path::Path;

use curve_types::ByteSize;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use self::rates::{Flow, Rates};
use super::attributes::{self, Lines, Links};
use crate::cli::mounted::StatsArgs;
use crate::failure::{Code, Failure};

/// Lines between two headers: a screen.
const LINES_PER_HEADER: u64 = 20;
/// Below the names of what each group of columns is about.
const COLUMNS: &str = "  ops/s     ms    read/s  write/s   ops/s     ms   get/s      B/s   put/s      B/s   del/s  err/s    dirty    cache   cpu%      mem";

fn header() -> String {
    format!("{:-^33} {:-^14} {:-^48} {:-^33}\n{COLUMNS}\n", "fuse", "meta", "store", "mount")
}

/// Shows a line for each interval, until it has been enough.
pub(super) async fn run(args: &StatsArgs) -> Result<(), Failure> {
    if args.interval.0.is_zero() {
        return Err(Failure::new(Code::Usage, "an interval is more than nothing").try_this("--interval 1s"));
    }
    attributes::mount_of(&args.dir, Links::Follow)?;
    let (mut before, mut at) = (read(&args.dir)?, Instant::now());
    let mut ticks = interval_at(at + args.interval.0, args.interval.0);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shown = 0;
    while args.count.is_none_or(|count| shown < count) {
        ticks.tick().await;
        let (now, read_at) = (read(&args.dir)?, Instant::now());
        let rates = Rates::between(&before, &now, read_at - at);
        let mut text = String::new();
        if args.json {
            text = format!("{}\n", json(&rates));
        } else {
            if shown % LINES_PER_HEADER == 0 {
                text.push_str(&header());
            }
            text.push_str(&line(&rates));
            text.push('\n');
        }
        if !say(&text)? {
            return Ok(());
        }
        (before, at) = (now, read_at);
        shown += 1;
    }
    Ok(())
}

fn read(dir: &Path) -> Result<Lines, Failure> {
    attributes::lines(dir, "system.curve.stats", Links::Follow)
}

/// False when nobody reads any more, as with `head`.
fn say(text: &str) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::new(Code::Environment, "cannot write to standard output").because(error)),
    }
}

fn bytes(per_second: f64) -> String {
    ByteSize(per_second.round() as u64).to_string()
}

fn line(rates: &Rates) -> String {
    let Rates { fuse, meta, gets, puts, deletes, .. } = rates;
    format!(
        "{:>7.0} {:>6.2} {:>9} {:>8} {:>7.0} {:>6.2} {:>7.0} {:>8} {:>7.0} {:>8} {:>7.0} {:>6.0} {:>8} {:>8} {:>6.1} {:>8}",
        fuse.calls,
        fuse.millis,
        bytes(rates.read_bytes),
        bytes(rates.written_bytes),
        meta.calls,
        meta.millis,
        gets.calls,
        bytes(gets.bytes),
        puts.calls,
        bytes(puts.bytes),
        deletes.calls,
        gets.failures + puts.failures + deletes.failures + meta.failures,
        ByteSize(rates.gauge("unpublished_bytes")).to_string(),
        ByteSize(rates.gauge("read_cache_bytes")).to_string(),
        rates.cpu_percent,
        ByteSize(rates.gauge("resident_bytes")).to_string(),
    )
}

fn flow(flow: &Flow) -> Value {
    json!({
        "per_second": flow.calls,
        "mean_ms": flow.millis,
        "bytes_per_second": flow.bytes,
        "failures_per_second": flow.failures,
    })
}

fn json(rates: &Rates) -> Value {
    json!({
        "seconds": rates.seconds,
        "fuse": { "per_second": rates.fuse.calls, "mean_ms": rates.fuse.millis, "under_way": rates.gauge("fuse_under_way") },
        "read_bytes_per_second": rates.read_bytes,
        "written_bytes_per_second": rates.written_bytes,
        "meta": {
            "per_second": rates.meta.calls,
            "mean_ms": rates.meta.millis,
            "failures_per_second": rates.meta.failures,
            "under_way": rates.gauge("meta_under_way"),
        },
        "store": { "get": flow(&rates.gets), "put": flow(&rates.puts), "delete": flow(&rates.deletes) },
        "publish_failures_per_second": rates.publish_failures,
        "unpublished_bytes": rates.gauge("unpublished_bytes"),
        "write_cache_limit_bytes": rates.gauge("write_cache_limit_bytes"),
        "read_cache_bytes": rates.gauge("read_cache_bytes"),
        "read_cache_limit_bytes": rates.gauge("read_cache_limit_bytes"),
        "lost_bytes": rates.gauge("lost_bytes_total"),
        "cpu_percent": rates.cpu_percent,
        "resident_bytes": rates.gauge("resident_bytes"),
        "uptime_seconds": rates.gauge("uptime_seconds"),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn columns_stand_below_their_names() {
        let lines = Lines::parse("unpublished_bytes 1048576\nresident_bytes 52428800\n");
        let rates = Rates::between(&Lines::default(), &lines, Duration::from_secs(1));
        let line = line(&rates);
        let header = header();
        assert!(header.lines().all(|one| one.len() == line.len()), "{header}{line}");
        assert!(line.ends_with(" 50MiB") && line.contains(" 1MiB "), "{line}");
        assert_eq!(json(&rates)["unpublished_bytes"], 1 << 20);
    }

    #[tokio::test]
    async fn what_is_not_in_a_mount_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let args = |interval| StatsArgs {
            dir: dir.path().to_owned(),
            interval: curve_types::HumanDuration(interval),
            count: Some(1),
            json: false,
        };
        assert_eq!(run(&args(Duration::from_secs(1))).await.unwrap_err().code, Code::NotFound);
        assert_eq!(run(&args(Duration::ZERO)).await.unwrap_err().code, Code::Usage);
    }
}
