//! What is measured: the disk, the NBD front end alone, a cluster.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::str::FromStr;
use std::time::Duration;

use curve_harness::{Playground, PlaygroundOptions, binary};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::cpu;
use crate::fio::{self, Case, Outcome};

/// A thing to measure.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Target {
    /// A file on the disk that the cluster uses, with `O_DIRECT`.
    Disk,
    /// `curve-nbd` over memory.
    NbdMemory,
    /// Three MDSs, three chunkservers, `curve-nbd`.
    Cluster,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Disk => "disk",
            Self::NbdMemory => "nbd-memory",
            Self::Cluster => "cluster",
        })
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "disk" => Ok(Self::Disk),
            "nbd-memory" => Ok(Self::NbdMemory),
            "cluster" => Ok(Self::Cluster),
            _ => Err(format!("no target `{name}`; there are disk, nbd-memory, cluster")),
        }
    }
}

/// One run's figures.
#[derive(Clone, Copy, Debug, Default)]
pub struct Run {
    /// What fio saw.
    pub fio: Outcome,
    /// CPU seconds of the target's processes.
    pub servers_cpu_s: f64,
    /// Flushes that the chunkservers' logs made.
    pub flushes: f64,
    /// Bytes resident of the target's processes at the end.
    pub resident_bytes: u64,
}

/// A target that is ready to be measured.
pub struct Bench {
    engine: Vec<String>,
    size: u64,
    pids: Vec<u32>,
    playground: Option<Playground>,
    // Dropped after the playground, whose data is in it.
    _server: Option<Child>,
    _dir: TempDir,
}

impl Bench {
    /// Starts the target and writes it through once.
    pub async fn prepare(target: Target, dir: &Path, size: u64, more: &[String]) -> Result<Self, String> {
        let dir =
            tempfile::Builder::new().prefix("curve-bench-").tempdir_in(dir).map_err(|e| e.to_string())?;
        let bench = match target {
            Target::Disk => Self {
                engine: fio::direct_file(&dir.path().join("file")),
                size,
                pids: Vec::new(),
                playground: None,
                _server: None,
                _dir: dir,
            },
            Target::NbdMemory => Self::memory(dir, size).await?,
            Target::Cluster => Self::cluster(dir, size, more).await?,
        };
        fio::fill(&bench.engine, size).await?;
        Ok(bench)
    }

    async fn memory(dir: TempDir, size: u64) -> Result<Self, String> {
        let socket = dir.path().join("s");
        let mut server = Command::new(binary("curve-nbd"))
            .args(["serve", "/bench", "--memory", &format!("{size}B"), "--socket"])
            .arg(&socket)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot start curve-nbd: {error}"))?;
        let stdout = server.stdout.take().expect("stdout is piped");
        let line = BufReader::new(stdout).lines().next_line().await.map_err(|e| e.to_string())?;
        let uri =
            line.as_deref().and_then(|line| line.strip_prefix("ready ")).ok_or("curve-nbd did not start")?;
        let pids = server.id().into_iter().collect();
        Ok(Self { engine: fio::nbd(uri), size, pids, playground: None, _server: Some(server), _dir: dir })
    }

    async fn cluster(dir: TempDir, size: u64, more: &[String]) -> Result<Self, String> {
        let options =
            PlaygroundOptions { dir: Some(dir.path().join("p")), more: more.to_vec(), ..Default::default() };
        let playground = Playground::start(options).await.map_err(|e| e.to_string())?;
        playground.create("/bench", &format!("{size}B")).await.map_err(|e| e.to_string())?;
        let socket: PathBuf = playground.serve_nbd(&["/bench"], &[]).await.map_err(|e| e.to_string())?;
        let uri = format!("nbd+unix:///bench?socket={}", socket.display());
        let pids = playground.pids().await.map_err(|e| e.to_string())?;
        Ok(Self {
            engine: fio::nbd(&uri),
            size,
            pids,
            playground: Some(playground),
            _server: None,
            _dir: dir,
        })
    }

    /// Runs one case once.
    pub async fn run(&self, case: &Case, runtime: Duration) -> Result<Run, String> {
        let flushes = self.flushes().await?;
        let before = cpu::seconds(&self.pids);
        let fio = fio::run(case, &self.engine, self.size, runtime).await?;
        let servers_cpu_s = cpu::seconds(&self.pids) - before;
        let flushes = self.flushes().await? - flushes;
        if self.playground.is_some() && case.writes() && flushes < 1.0 {
            return Err(format!(
                "{}: the chunkservers flushed nothing while writes were acknowledged",
                case.name
            ));
        }
        Ok(Run { fio, servers_cpu_s, flushes, resident_bytes: cpu::resident_bytes(&self.pids) })
    }

    async fn flushes(&self) -> Result<f64, String> {
        let Some(playground) = &self.playground else { return Ok(0.0) };
        let mut sum = 0.0;
        for name in playground.servers().await.map_err(|e| e.to_string())? {
            if name.starts_with("chunkserver") {
                let value =
                    playground.metric(&name, "curve_log_flushes_total").await.map_err(|e| e.to_string())?;
                sum += value.ok_or_else(|| format!("{name} has no metric curve_log_flushes_total"))?;
            }
        }
        Ok(sum)
    }
}
