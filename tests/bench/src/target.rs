//! What is measured: the disk, the front ends alone, a cluster through each of them, and Ceph and tgt beside it.

use std::fmt;
use std::path::Path;
use std::process::Stdio;
use std::rc::Rc;
use std::str::FromStr;
use std::time::{Duration, Instant};

use curve_harness::{Playground, PlaygroundOptions, binary};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::ceph::Ceph;
use crate::cpu;
use crate::fio::{self, Case, Engine, Outcome};
use crate::tgt::{Store, Tgt};

/// A thing to measure.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Target {
    /// A file on the disk that the clusters use, with `O_DIRECT`.
    Disk,
    /// The same with `fdatasync` after every write: what one durable write costs. Only cases that write.
    DiskSync,
    /// `curve-nbd` over memory.
    NbdMemory,
    /// Three MDSs, three chunkservers, `curve-nbd`.
    Cluster,
    /// Ceph with three OSDs, through librbd.
    Ceph,
    /// `curve-nbd` over memory, by the initiator that the iSCSI targets are measured with.
    NbdMemoryQemu,
    /// A cluster and `curve-nbd`, likewise. The volume is the one of [`Self::IscsiCluster`] if that is measured, too.
    ClusterQemu,
    /// `curve-iscsi` over memory.
    IscsiMemory,
    /// A gateway of such a cluster.
    IscsiCluster,
    /// Debian's tgt on a file in memory.
    Tgt,
    /// Debian's tgt on Ceph.
    TgtRbd,
}

impl Target {
    const ALL: [Self; 11] = [
        Self::Disk,
        Self::DiskSync,
        Self::NbdMemory,
        Self::Cluster,
        Self::Ceph,
        Self::NbdMemoryQemu,
        Self::ClusterQemu,
        Self::IscsiMemory,
        Self::IscsiCluster,
        Self::Tgt,
        Self::TgtRbd,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::DiskSync => "disk-sync",
            Self::NbdMemory => "nbd-memory",
            Self::Cluster => "cluster",
            Self::Ceph => "ceph",
            Self::NbdMemoryQemu => "nbd-memory-qemu",
            Self::ClusterQemu => "cluster-qemu",
            Self::IscsiMemory => "iscsi-memory",
            Self::IscsiCluster => "iscsi-cluster",
            Self::Tgt => "tgt",
            Self::TgtRbd => "tgt-rbd",
        }
    }

    /// Whether a case says something about it that no other target says.
    pub fn takes(self, case: &Case) -> bool {
        self != Self::DiskSync || case.writes()
    }

    /// Memory that its processes use with a volume of `size` bytes, about.
    pub const fn memory_bytes(self, size: u64) -> u64 {
        match self {
            Self::Disk | Self::DiskSync => 0,
            Self::NbdMemory | Self::NbdMemoryQemu | Self::IscsiMemory | Self::Tgt => size,
            Self::Cluster | Self::ClusterQemu | Self::IscsiCluster => 2 << 30,
            Self::Ceph | Self::TgtRbd => Ceph::MEMORY_BYTES,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|target| target.name() == name);
        found.ok_or_else(|| format!("no target `{name}`; there are {}", known()))
    }
}

/// One run's figures.
#[derive(Clone, Copy, Debug, Default)]
pub struct Run {
    /// What fio saw.
    pub fio: Outcome,
    /// CPU seconds of the target's processes and of fio.
    pub cpu_s: f64,
    /// Flushes that the target's servers counted, where they do.
    pub flushes: Option<f64>,
    /// Bytes resident of the target's processes at the end.
    pub resident_bytes: u64,
    /// Cores that everything else on the machine took meanwhile, the other targets included.
    pub other_cores: f64,
}

/// A target that is ready to be measured.
pub struct Bench {
    /// What it is.
    pub target: Target,
    engine: Engine,
    size: u64,
    pids: Vec<u32>,
    running: Running,
}

/// A cluster, and the directory of its data, which is removed after it has ended: fields are dropped in order. Two front
/// ends of one volume share it.
struct Cluster {
    playground: Playground,
    _dir: TempDir,
}

/// What has to be ended.
enum Running {
    Nothing { _dir: TempDir },
    Memory { _server: Child, _dir: TempDir },
    Cluster { _server: Child, cluster: Rc<Cluster> },
    Ceph { ceph: Ceph, _dir: TempDir },
    Tgt { _server: Tgt },
    TgtRbd { _server: Tgt, ceph: Ceph, _dir: TempDir },
}

impl Bench {
    /// Starts the target and writes it through. `playground` are more arguments for the cluster's start; `others` run
    /// already.
    pub async fn prepare(
        target: Target,
        dir: &Path,
        size: u64,
        playground: &[String],
        others: &[Bench],
    ) -> Result<Self, String> {
        let dir =
            tempfile::Builder::new().prefix("curve-bench-").tempdir_in(dir).map_err(|e| e.to_string())?;
        let file = dir.path().join("file");
        let (engine, pids, running) = match target {
            Target::Disk => (Engine::direct_file(&file), Vec::new(), Running::Nothing { _dir: dir }),
            Target::DiskSync => {
                (Engine::direct_file(&file).syncing(), Vec::new(), Running::Nothing { _dir: dir })
            }
            Target::NbdMemory => nbd_memory(dir, size, Engine::nbd).await?,
            Target::NbdMemoryQemu => nbd_memory(dir, size, Engine::qemu).await?,
            Target::Cluster => {
                let cluster = Cluster::start(dir, size, playground).await?;
                nbd_cluster(cluster, &[], Engine::nbd).await?
            }
            Target::ClusterQemu => {
                let cluster = Cluster::shared(dir, size, playground, others).await?;
                nbd_cluster(cluster, &["--shared"], Engine::qemu).await?
            }
            Target::IscsiCluster => {
                iscsi_cluster(Cluster::shared(dir, size, playground, others).await?).await?
            }
            Target::IscsiMemory => iscsi_memory(dir, size).await?,
            Target::Ceph => {
                let ceph = Ceph::start(dir.path(), size).await?;
                (ceph.engine(), ceph.pids(), Running::Ceph { ceph, _dir: dir })
            }
            Target::Tgt => {
                let tgt = Tgt::start(Store::Memory(size)).await?;
                (Engine::qemu(&tgt.url()), tgt.pids(), Running::Tgt { _server: tgt })
            }
            Target::TgtRbd => tgt_rbd(dir, size).await?,
        };
        fio::fill(&engine, size).await?;
        if matches!(target, Target::Cluster | Target::Ceph) {
            fio::precondition(&engine, size).await?;
        }
        Ok(Self { target, engine, size, pids, running })
    }

    /// CPU seconds that the target's processes have spent.
    pub fn cpu_seconds(&self) -> f64 {
        cpu::seconds(&self.pids)
    }

    /// Runs one case once.
    pub async fn run(&self, case: &Case, runtime: Duration) -> Result<Run, String> {
        let flushes = self.flushes().await?;
        let begun =
            (Instant::now(), cpu::machine_seconds(), self.cpu_seconds(), cpu::ended_children_seconds());
        let fio = fio::run(case, &self.engine, self.size, runtime).await?;
        // In between, nothing but fio was started and ended.
        let cpu_s = self.cpu_seconds() - begun.2 + cpu::ended_children_seconds() - begun.3;
        let other_s = (cpu::machine_seconds() - begun.1 - cpu_s).max(0.0);
        let other_cores = other_s / begun.0.elapsed().as_secs_f64();
        let flushes = self.flushes().await?.zip(flushes).map(|(after, before)| after - before);
        if case.writes() && flushes.is_some_and(|flushes| flushes < 1.0) {
            let (case, target) = (&case.name, self.target);
            return Err(format!("{case}: {target} flushed nothing while writes were acknowledged"));
        }
        Ok(Run { fio, cpu_s, flushes, resident_bytes: cpu::resident_bytes(&self.pids), other_cores })
    }

    async fn flushes(&self) -> Result<Option<f64>, String> {
        match &self.running {
            Running::Nothing { .. } | Running::Memory { .. } | Running::Tgt { .. } => Ok(None),
            Running::Cluster { cluster, .. } => log_flushes(&cluster.playground).await.map(Some),
            Running::Ceph { ceph, .. } | Running::TgtRbd { ceph, .. } => ceph.flushes().await.map(Some),
        }
    }
}

impl Cluster {
    async fn start(dir: TempDir, size: u64, more: &[String]) -> Result<Rc<Self>, String> {
        let place = Some(dir.path().join("p"));
        let options = PlaygroundOptions { dir: place, more: more.to_vec(), ..Default::default() };
        let playground = Playground::start(options).await.map_err(|e| e.to_string())?;
        playground.create("/bench", &format!("{size}B")).await.map_err(|e| e.to_string())?;
        Ok(Rc::new(Self { playground, _dir: dir }))
    }

    /// The cluster whose volume is measured through the other front end, or a new one: what two front ends make of one
    /// volume is to be compared, not two clusters.
    async fn shared(dir: TempDir, size: u64, more: &[String], others: &[Bench]) -> Result<Rc<Self>, String> {
        let of_volume = |bench: &Bench| match (&bench.running, bench.target) {
            (Running::Cluster { cluster, .. }, Target::ClusterQemu | Target::IscsiCluster) => {
                Some(cluster.clone())
            }
            _ => None,
        };
        match others.iter().find_map(of_volume) {
            Some(cluster) => Ok(cluster),
            None => Self::start(dir, size, more).await,
        }
    }

    fn config(&self) -> String {
        self.playground.config().display().to_string()
    }

    /// The cluster's processes and the front end's.
    async fn pids(&self, server: &Child) -> Result<Vec<u32>, String> {
        let mut pids = self.playground.pids().await.map_err(|e| e.to_string())?;
        pids.extend(server.id());
        Ok(pids)
    }
}

/// Starts a server that says `ready URL` when it is, and gives the URL.
async fn serve(program: &str, arguments: &[&str]) -> Result<(String, Child), String> {
    let mut server = Command::new(binary(program))
        .arg("serve")
        .args(arguments)
        .stdout(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot start {program}: {error}"))?;
    let stdout = server.stdout.take().expect("stdout is piped");
    let line = BufReader::new(stdout).lines().next_line().await.map_err(|e| e.to_string())?;
    let url = line.as_deref().and_then(|line| line.strip_prefix("ready "));
    Ok((url.ok_or_else(|| format!("{program} did not start"))?.to_owned(), server))
}

/// How to reach a target, its processes, and what has to be ended.
type Started = (Engine, Vec<u32>, Running);

async fn nbd_memory(dir: TempDir, size: u64, engine: fn(&str) -> Engine) -> Result<Started, String> {
    let socket = dir.path().join("s").display().to_string();
    let arguments = ["/bench", "--memory", &format!("{size}B"), "--socket", &socket];
    let (uri, server) = serve("curve-nbd", &arguments).await?;
    let pids = server.id().into_iter().collect();
    Ok((engine(&uri), pids, Running::Memory { _server: server, _dir: dir }))
}

async fn nbd_cluster(
    cluster: Rc<Cluster>,
    more: &[&str],
    engine: fn(&str) -> Engine,
) -> Result<Started, String> {
    let socket = cluster.playground.dir().join("bench.sock").display().to_string();
    let config = cluster.config();
    let arguments = [&["/bench", "--socket", &socket, "--config", &config], more].concat();
    let (uri, server) = serve("curve-nbd", &arguments).await?;
    let pids = cluster.pids(&server).await?;
    Ok((engine(&uri), pids, Running::Cluster { _server: server, cluster }))
}

const IQN: &str = "iqn.2026-01.bench:curve";

/// The blocks are those that every initiator takes.
async fn iscsi_memory(dir: TempDir, size: u64) -> Result<Started, String> {
    let size = format!("{size}B");
    let arguments = ["--listen", "127.0.0.1:0", "--iqn", IQN, "--lun", "0=/bench", "--memory", &size];
    let (url, server) = serve("curve-iscsi", &arguments).await?;
    let pids = server.id().into_iter().collect();
    Ok((Engine::qemu(&url), pids, Running::Memory { _server: server, _dir: dir }))
}

async fn iscsi_cluster(cluster: Rc<Cluster>) -> Result<Started, String> {
    for arguments in [
        &["iscsi", "target", "create", IQN][..],
        &["iscsi", "lun", "add", IQN, "--lun", "0", "--volume", "/bench", "--block-size", "512"],
    ] {
        let done = cluster.playground.curve(arguments).await;
        done.and_then(curve_harness::Finished::success).map_err(|error| error.to_string())?;
    }
    let config = cluster.config();
    let arguments = ["--gateway", "bench", "--listen", "127.0.0.1:0", "--config", &config];
    let (portal, server) = serve("curve-iscsi", &arguments).await?;
    let pids = cluster.pids(&server).await?;
    Ok((Engine::qemu(&format!("{portal}/{IQN}/0")), pids, Running::Cluster { _server: server, cluster }))
}

async fn tgt_rbd(dir: TempDir, size: u64) -> Result<Started, String> {
    let ceph = Ceph::start(dir.path(), size).await?;
    let store = Store::Rbd { conf: &ceph.conf(), image: Ceph::image() };
    let tgt = Tgt::start(store).await?;
    let pids = [ceph.pids(), tgt.pids()].concat();
    Ok((Engine::qemu(&tgt.url()), pids, Running::TgtRbd { _server: tgt, ceph, _dir: dir }))
}

/// Flushes that the chunkservers' logs made.
async fn log_flushes(playground: &Playground) -> Result<f64, String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_found_by_name() {
        for target in Target::ALL {
            assert_eq!(target.to_string().parse(), Ok(target));
        }
        let refused = "gluster".parse::<Target>().unwrap_err();
        assert!(refused.contains("disk, disk-sync, nbd-memory, cluster, ceph"), "{refused}");
    }
}
