//! Jobs, fio's and what it reports.

use std::path::Path;
use std::time::Duration;

use curve_harness::run_within;
use serde_json::Value;

use crate::qemu;

/// A row of the table of cases: name, fio's `rw`, block size, depth.
pub type CaseRow = (&'static str, &'static str, &'static str, u32);

/// The cases measured by default; the same as the rivals' scripts use.
pub const CASES: [CaseRow; 6] = [
    ("randwrite-4k-qd1", "randwrite", "4k", 1),
    ("randwrite-4k-qd32", "randwrite", "4k", 32),
    ("randread-4k-qd1", "randread", "4k", 1),
    ("randread-4k-qd32", "randread", "4k", 32),
    ("seqwrite-1M-qd8", "write", "1M", 8),
    ("seqread-1M-qd8", "read", "1M", 8),
];

/// One job.
#[derive(Clone, Debug)]
pub struct Case {
    /// For people and `--cases`.
    pub name: String,
    rw: String,
    block: String,
    depth: u32,
}

impl Case {
    /// A row of the table.
    pub fn from_table(&(name, rw, block, depth): &CaseRow) -> Self {
        Self { name: name.into(), rw: rw.into(), block: block.into(), depth }
    }

    /// Random 4 KiB operations at `depth`.
    pub fn random(rw: &str, depth: u32) -> Self {
        Self { name: format!("{rw}-4k-qd{depth}"), rw: rw.into(), block: "4k".into(), depth }
    }

    /// Operations at a time.
    pub fn depth(&self) -> u32 {
        self.depth
    }

    /// Whether its operations are spread over the volume.
    pub fn is_random(&self) -> bool {
        self.rw.starts_with("rand")
    }

    /// Bytes of an operation.
    pub fn block_bytes(&self) -> Result<u64, String> {
        let (digits, unit) = self.block.split_at(self.block.len().saturating_sub(1));
        let unit = match unit {
            "k" => 1 << 10,
            "M" => 1 << 20,
            _ => return Err(format!("a block of {} is none of this program's", self.block)),
        };
        digits.parse::<u64>().map(|number| number * unit).map_err(|error| format!("{}: {error}", self.block))
    }

    /// Whether it writes.
    pub fn writes(&self) -> bool {
        self.rw.contains("write")
    }
}

/// What fio measured in one run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Operations done.
    pub operations: u64,
    /// Operations per second.
    pub iops: f64,
    /// 10^6 bytes per second.
    pub megabytes: f64,
    /// Median completion latency in microseconds.
    pub median_us: f64,
    /// 99th percentile of the completion latency in microseconds.
    pub p99_us: f64,
}

/// How a target is reached.
#[derive(Clone, Debug)]
pub struct Engine {
    /// By `qemu-img` at this URL instead of by fio.
    qemu: Option<String>,
    arguments: Vec<String>,
    /// `NAME=VALUE` for fio's environment.
    environment: Vec<String>,
}

impl Engine {
    /// A file with `O_DIRECT`.
    pub fn direct_file(path: &Path) -> Self {
        Self::of(["--ioengine=libaio".into(), "--direct=1".into(), format!("--filename={}", path.display())])
    }

    /// The same with `fdatasync` after every write.
    pub fn syncing(mut self) -> Self {
        self.arguments.push("--fdatasync=1".into());
        self
    }

    /// An NBD export.
    pub fn nbd(uri: &str) -> Self {
        Self::of(["--ioengine=nbd".into(), format!("--uri={uri}")])
    }

    /// Anything that QEMU has a driver for, without fio.
    pub fn qemu(url: &str) -> Self {
        Self { qemu: Some(url.to_owned()), ..Self::of([]) }
    }

    /// An image of the cluster that `conf` describes, through librbd.
    pub fn rbd(conf: &Path, pool: &str, image: &str) -> Self {
        let arguments = [
            "--ioengine=rbd".into(),
            "--clientname=admin".into(),
            format!("--pool={pool}"),
            format!("--rbdname={image}"),
        ];
        Self { environment: vec![format!("CEPH_CONF={}", conf.display())], ..Self::of(arguments) }
    }

    fn of(arguments: impl Into<Vec<String>>) -> Self {
        Self { qemu: None, arguments: arguments.into(), environment: Vec::new() }
    }
}

/// Runs one job.
pub async fn run(case: &Case, engine: &Engine, size: u64, runtime: Duration) -> Result<Outcome, String> {
    if let Some(url) = &engine.qemu {
        return qemu::run(case, url, size, runtime).await;
    }
    let arguments = vec![
        format!("--name={}", case.name),
        format!("--rw={}", case.rw),
        format!("--bs={}", case.block),
        format!("--iodepth={}", case.depth),
        format!("--size={size}"),
        "--time_based".into(),
        format!("--runtime={}", runtime.as_secs().max(1)),
        "--norandommap".into(),
        "--randrepeat=0".into(),
        "--thread=1".into(),
        "--output-format=json".into(),
    ];
    parse(&fio(runtime + Duration::from_secs(60), engine, arguments).await?)
}

/// Writes the whole target once.
pub async fn fill(engine: &Engine, size: u64) -> Result<(), String> {
    if let Some(url) = &engine.qemu {
        return qemu::fill(url, size).await;
    }
    write_through(engine, size, ["--name=fill", "--rw=write", "--bs=1M", "--iodepth=8"]).await
}

/// Writes the whole target once more in small pieces in random order, so that it is measured as it is after a while, and not
/// as it was made: what it keeps in memory is there, and no block is touched for the first time. Source: SNIA Solid State Storage
/// Performance Test Specification, "workload dependent preconditioning".
pub async fn precondition(engine: &Engine, size: u64) -> Result<(), String> {
    write_through(engine, size, ["--name=precondition", "--rw=randwrite", "--bs=32k", "--iodepth=32"]).await
}

async fn write_through(engine: &Engine, size: u64, how: [&str; 4]) -> Result<(), String> {
    let mut arguments: Vec<String> = how.map(String::from).into();
    arguments.extend(["--thread=1".into(), format!("--size={size}")]);
    fio(Duration::from_secs(1200), engine, arguments).await.map(drop)
}

async fn fio(limit: Duration, engine: &Engine, arguments: Vec<String>) -> Result<String, String> {
    let environment = engine.environment.iter().map(String::as_str);
    let arguments = arguments.iter().chain(&engine.arguments).map(String::as_str);
    let all: Vec<&str> = environment.chain(["fio"]).chain(arguments).collect();
    let finished = run_within(limit, "env", &all).await.map_err(|error| error.to_string())?;
    Ok(finished.success().map_err(|error| error.to_string())?.stdout)
}

fn parse(text: &str) -> Result<Outcome, String> {
    // fio prints notes before the JSON.
    let json = text.find('{').map_or("", |at| &text[at..]);
    let parsed: Value = serde_json::from_str(json).map_err(|error| format!("fio's output: {error}"))?;
    let job = &parsed["jobs"][0];
    if job["error"].as_i64() != Some(0) {
        return Err(format!("fio reports error {}", job["error"]));
    }
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    let both = |key: &str| number(&job["read"][key]) + number(&job["write"][key]);
    let side =
        if number(&job["write"]["total_ios"]) > number(&job["read"]["total_ios"]) { "write" } else { "read" };
    // With `--fdatasync` a write is done when its sync is.
    let percentile = |key: &str| {
        let done = number(&job[side]["clat_ns"]["percentile"][key]);
        (done + number(&job["sync"]["lat_ns"]["percentile"][key])) / 1e3
    };
    Ok(Outcome {
        operations: both("total_ios") as u64,
        iops: both("iops"),
        megabytes: both("bw_bytes") / 1e6,
        median_us: percentile("50.000000"),
        p99_us: percentile("99.000000"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_know_their_shape() {
        let shapes = CASES.iter().map(Case::from_table).map(|case| (case.block_bytes(), case.is_random()));
        let expected =
            [(4096, true), (4096, true), (4096, true), (4096, true), (1 << 20, false), (1 << 20, false)];
        assert!(shapes.eq(expected.map(|(bytes, random)| (Ok(bytes), random))));
    }

    #[test]
    fn fio_json_is_understood() {
        let text = r#"note {"jobs":[{"error":0,
            "read":{"total_ios":0,"iops":0,"bw_bytes":0},
            "write":{"total_ios":500,"iops":250.0,"bw_bytes":1024000,
                     "clat_ns":{"percentile":{"50.000000":81000,"99.000000":250000}}}}]}"#;
        let got = parse(text).unwrap();
        assert_eq!((got.operations, got.median_us, got.p99_us), (500, 81.0, 250.0));
        assert!(parse("nothing").is_err());
        let synced =
            text.replacen("\"error\"", r#""sync":{"lat_ns":{"percentile":{"50.000000":9000}}},"error""#, 1);
        assert_eq!(parse(&synced).unwrap().median_us, 90.0);
    }
}
