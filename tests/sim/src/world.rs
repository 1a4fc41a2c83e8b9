//! A cluster in one process: production MDSs and chunkservers on simulated disks and a simulated network.
//!
//! A host is a disk that outlives its processes. Killing a process voids its network life and its disk mount; what is
//! left of its tasks can reach nothing and is dropped with the server's handle. All hosts run on one thread under
//! tokio's paused clock, so a run is as fast as its computing and the same for the same seed.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use curve_chunkserver::{ChunkserverConfig, ChunkserverParts, ChunkserverServer, StartError, set_aside_on};
use curve_client::{ClientConfig, Cluster};
use curve_io::Machine;
use curve_io::sim::{Link, Outage, SimDisk, SimDiskConfig, SimMachine, SimNetwork};
use curve_mds::{MdsConfig, MdsNode, MdsParts, MemberConfig};
use curve_multiraft::{RaftOptions, Role as RaftRole};
use curve_proto::transport::MessageMds;
use curve_types::{ByteSize, GroupId, HumanDuration};
use futures::FutureExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::timeout;
use tracing::info;

use crate::clock::ClockRate;
use crate::planted::Planted;
use crate::tally::Tally;

/// How large a world is.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// MDSs.
    pub mds: usize,
    /// Chunkservers, each in a zone of its own.
    pub chunkservers: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Self { mds: 3, chunkservers: 3 }
    }
}

/// What a host runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// A member of the MDS group.
    Mds,
    /// A chunkserver.
    Chunkserver,
}

enum Process {
    /// Held for its tasks, which end with it.
    Mds {
        node: MdsNode,
    },
    Chunkserver(ChunkserverServer),
}

struct Host {
    name: String,
    role: Role,
    number: usize,
    disk: SimDisk,
    process: Option<Process>,
    /// Whether the disk has been full since the process was started.
    was_full: bool,
    is_full: bool,
}

/// A cluster and the randomness that drives it.
pub struct World {
    /// The network, for faults.
    pub network: SimNetwork,
    shape: Shape,
    hosts: Vec<Host>,
    rng: StdRng,
    /// Whether a chunkserver that finds its disk damaged is rebuilt, as an operator would, instead of failing the run.
    pub may_rebuild: bool,
    /// Whether clocks may be wrong.
    pub wrong_clocks: bool,
    /// What went wrong so far.
    pub tally: Tally,
    flipped_host: usize,
    planted: Option<Planted>,
}

/// How long a start may take, without faults on the network.
const START_MAX: Duration = Duration::from_secs(60);
const DISK_BYTES: u64 = 64 << 30;

/// Why a process did not start.
enum NotStarted {
    /// Its disk is damaged, and it says so.
    Damaged(String),
    Other(String),
}

impl fmt::Display for NotStarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Damaged(cause) | Self::Other(cause)) = self;
        f.write_str(cause)
    }
}

/// Where a chunkserver keeps its data on its disk.
pub const CHUNKSERVER_DIR: &str = "chunkserver";

fn address(role: Role, number: usize) -> String {
    match role {
        Role::Mds => format!("mds-{number}:1"),
        Role::Chunkserver => format!("chunkserver-{number}:1"),
    }
}

fn millis(n: u64) -> HumanDuration {
    HumanDuration(Duration::from_millis(n))
}

impl World {
    /// Makes the hosts; nothing runs yet.
    pub fn new(seed: u64, shape: Shape, planted: Option<Planted>) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let network = SimNetwork::new(rng.random());
        network.set_default_link(Self::healthy_link());
        let host = |role, number, seed| Host {
            name: address(role, number).trim_end_matches(":1").to_owned(),
            role,
            number,
            disk: SimDisk::new(SimDiskConfig {
                seed,
                capacity: DISK_BYTES,
                sync_delay: Duration::from_micros(100)..Duration::from_millis(2),
            }),
            process: None,
            was_full: false,
            is_full: false,
        };
        let mut hosts = Vec::new();
        for number in 1..=shape.mds {
            hosts.push(host(Role::Mds, number, rng.random()));
        }
        for number in 1..=shape.chunkservers {
            hosts.push(host(Role::Chunkserver, number, rng.random()));
        }
        let flipped_host = shape.mds + rng.random_range(0..shape.chunkservers);
        let (may_rebuild, wrong_clocks, tally) = (false, false, Tally::default());
        Self { network, shape, hosts, rng, may_rebuild, wrong_clocks, tally, flipped_host, planted }
    }

    /// A link without faults.
    pub fn healthy_link() -> Link {
        Link { delay: Duration::from_micros(50)..Duration::from_micros(500), ..Link::default() }
    }

    /// Draws from the world's own generator.
    pub fn rng(&mut self) -> &mut StdRng {
        &mut self.rng
    }

    /// The one chunkserver whose chunk files get bits flipped: no two copies of a block may be damaged.
    pub fn flipped_host(&self) -> usize {
        self.flipped_host
    }

    /// Hosts in all.
    pub fn host_count(&self) -> usize {
        self.hosts.len()
    }

    /// A host's name.
    pub fn name(&self, host: usize) -> &str {
        &self.hosts[host].name
    }

    /// What a host runs.
    pub fn role(&self, host: usize) -> Role {
        self.hosts[host].role
    }

    /// A host's disk, for faults.
    pub fn disk(&self, host: usize) -> &SimDisk {
        &self.hosts[host].disk
    }

    /// Whether a host's process runs.
    pub fn is_running(&self, host: usize) -> bool {
        self.hosts[host].process.is_some()
    }

    /// Starts every host that does not run. A chunkserver's first start waits for the MDS, so MDSs come first.
    pub async fn start_all(&mut self) -> Result<(), String> {
        for host in 0..self.hosts.len() {
            if !self.is_running(host) {
                self.start(host).await?;
            }
        }
        Ok(())
    }

    /// Starts a host's process on what its disk holds. It may stay down if its disk is full.
    pub async fn start(&mut self, host: usize) -> Result<(), String> {
        match self.try_start(host).await {
            Ok(()) => Ok(()),
            Err(error) if self.hosts[host].is_full => {
                info!(host = self.hosts[host].name, %error, "does not start with a full disk");
                self.tally.count("starts-refused");
                self.kill(host);
                Ok(())
            }
            Err(NotStarted::Damaged(error)) if self.may_rebuild => {
                info!(host = self.hosts[host].name, error, "refuses its damaged disk and is rebuilt");
                self.tally.count("rebuilds");
                self.rebuild(host).await
            }
            Err(error) => Err(format!("{}: {error}", self.hosts[host].name)),
        }
    }

    /// What the operator does: the damaged disk is set aside, and the chunkserver registers anew. That needs an MDS.
    async fn rebuild(&mut self, host: usize) -> Result<(), String> {
        for mds in 0..self.hosts.len() {
            if self.hosts[mds].role == Role::Mds && !self.is_running(mds) {
                // One with a full disk stays down; the others are a majority or come up when it is over.
                if let Err(error) = self.try_start(mds).await {
                    info!(host = self.hosts[mds].name, %error, "does not start");
                    self.kill(mds);
                }
            }
        }
        let at = &self.hosts[host];
        let aside = set_aside_on(&*at.disk.mount(), Path::new(CHUNKSERVER_DIR)).await;
        aside.map_err(|error| format!("{}: cannot set aside: {error}", at.name))?;
        let started = self.try_start(host).await;
        started.map_err(|error| format!("{} after it was set aside: {error}", self.hosts[host].name))
    }

    async fn try_start(&mut self, host: usize) -> Result<(), NotStarted> {
        let seed = self.rng.random();
        let rate = if self.wrong_clocks && self.rng.random() {
            self.tally.count("wrong-clocks");
            ClockRate::draw(&mut self.rng)
        } else {
            ClockRate::TRUE
        };
        let at = &self.hosts[host];
        assert!(at.process.is_none(), "a host runs one process");
        self.network.bring_up(&at.name);
        let process = match at.role {
            Role::Mds => {
                let starting = timeout(START_MAX, self.start_mds(at, seed, rate));
                let node = starting.await.map_err(|_| NotStarted::Other("the start hangs".into()))?;
                Process::Mds { node: node? }
            }
            Role::Chunkserver => {
                let mut doctored = 0;
                if let Some(bug) = self.planted {
                    let disk = at.disk.mount();
                    let doctor = bug.doctor(&*disk, Path::new(CHUNKSERVER_DIR)).await;
                    doctored = doctor.map_err(|error| NotStarted::Other(error.to_string()))?;
                }
                let starting = timeout(START_MAX, self.start_chunkserver(at, seed, rate));
                let server = starting.await.map_err(|_| NotStarted::Other("the start hangs".into()))?;
                self.tally.add("planted", doctored);
                Process::Chunkserver(server?)
            }
        };
        let at = &mut self.hosts[host];
        at.was_full = at.is_full;
        at.process = Some(process);
        Ok(())
    }

    async fn start_mds(&self, host: &Host, seed: u64, rate: ClockRate) -> Result<MdsNode, NotStarted> {
        let member = |number: usize| {
            let address = address(Role::Mds, number);
            MemberConfig { id: number as u64, data_address: address.clone(), grpc_address: address }
        };
        let config = MdsConfig {
            cluster: "sim".into(),
            id: host.number as u64,
            members: (1..=self.shape.mds).map(member).collect(),
            lease: millis(2000),
            heartbeat_interval: millis(500),
            down_after: millis(3000),
            dead_after: millis(15_000),
            grace_after_failover: millis(3000),
            lost_replica_after: millis(10_000),
            reserve: ByteSize(1 << 20),
            ..MdsConfig::default()
        };
        let parts = MdsParts {
            disk: host.disk.mount(),
            dir: PathBuf::from("mds"),
            network: self.network.node(&host.name),
            store: None,
            seed,
            raft: rate.raft(RaftOptions::default()),
        };
        MdsNode::start(rate.mds(config), parts).await.map_err(|error| NotStarted::Other(error.to_string()))
    }

    async fn start_chunkserver(
        &self,
        host: &Host,
        seed: u64,
        rate: ClockRate,
    ) -> Result<ChunkserverServer, NotStarted> {
        let mut config = rate.chunkserver(ChunkserverConfig {
            zone: format!("zone-{}", host.number),
            listen_address: address(Role::Chunkserver, host.number),
            reserve: ByteSize(1 << 20),
            pool_files: 0,
            log_segment: ByteSize(8 << 20),
            // Small, so that a run of seconds sees checkpoints, trimmed logs and snapshots.
            checkpoint_after: ByteSize(256 << 10),
            log_keep: ByteSize(64 << 10),
            cached_chunks: 64,
            heartbeat_interval: millis(500),
            scrub_rate: ByteSize(1 << 20),
            scrub_interval: millis(10_000),
            // Some ask a majority for each read; not where a bug is to be found that may be one of leases.
            lease_reads: self.planted.is_some() || !seed.is_multiple_of(8),
            ..ChunkserverConfig::default()
        });
        if self.planted == Some(Planted::LeaseTooLong) && host.number == 1 {
            // As long as cuts last, and not so long that it would not lead again in this run after a restart.
            config.lease = millis(5000);
        }
        let network = self.network.node(&host.name);
        let parts = ChunkserverParts {
            disk: match self.planted {
                Some(bug) => bug.disk(host.disk.mount(), Path::new(CHUNKSERVER_DIR)),
                None => host.disk.mount(),
            },
            dir: PathBuf::from(CHUNKSERVER_DIR),
            network: network.clone(),
            mds: Arc::new(MessageMds::framed(network, &self.mds_addresses())),
            rng: StdRng::seed_from_u64(seed),
        };
        ChunkserverServer::start(config, parts).await.map_err(|error| match error {
            StartError::LogCorrupt(_) | StartError::StoreCorrupt(_) | StartError::Replica(_) => {
                NotStarted::Damaged(error.to_string())
            }
            other => NotStarted::Other(other.to_string()),
        })
    }

    /// What a supervisor does: starts anew what has ended since its disk failed, which only a full disk may cause.
    pub async fn restart_failed(&mut self) -> Result<(), String> {
        for host in 0..self.hosts.len() {
            let Some(server) = self.chunkserver(host) else { continue };
            let Some(cause) = server.failed().now_or_never() else { continue };
            let at = &self.hosts[host];
            if !at.was_full {
                return Err(format!("{} has failed on a disk that was never full: {cause}", at.name));
            }
            info!(host = at.name, %cause, "has failed");
            self.tally.count("failures");
            self.kill(host);
            self.start(host).await?;
        }
        Ok(())
    }

    /// Fills a host's disk but for so many bytes.
    pub fn fill_disk(&mut self, host: usize, free: u64) {
        let at = &mut self.hosts[host];
        at.disk.set_capacity(at.disk.used() + free);
        (at.is_full, at.was_full) = (true, true);
    }

    /// The host whose disk is full, if there is one.
    pub fn full_disk(&self) -> Option<usize> {
        self.hosts.iter().position(|host| host.is_full)
    }

    /// Gives a full disk its room back. An MDS that has failed needs a new start, which its operator is told.
    pub async fn free_disk(&mut self, host: usize) -> Result<(), String> {
        self.hosts[host].is_full = false;
        self.hosts[host].disk.set_capacity(DISK_BYTES);
        if let Some(Process::Mds { node }) = &self.hosts[host].process
            && node.failed()
        {
            self.tally.count("failures");
            self.kill(host);
        }
        if self.is_running(host) { self.restart_failed().await } else { self.start(host).await }
    }

    /// The groups that a running chunkserver leads.
    pub fn led_by(&self, host: usize) -> BTreeSet<GroupId> {
        let Some(server) = self.chunkserver(host) else { return BTreeSet::new() };
        let groups = server.raft().groups();
        let led = groups.iter().filter(|group| group.status().role == RaftRole::Leader);
        led.map(|group| group.id()).collect()
    }

    /// Addresses of the MDS group.
    pub fn mds_addresses(&self) -> Vec<String> {
        (1..=self.shape.mds).map(|number| address(Role::Mds, number)).collect()
    }

    /// Power loss: the machine is silent, un-synced writes are kept or lost at random.
    pub fn crash(&mut self, host: usize) {
        self.end(host, Outage::Silent);
        self.hosts[host].disk.crash();
    }

    /// The process dies and the machine lives: everything written is still there.
    pub fn kill(&mut self, host: usize) {
        self.end(host, Outage::Refused);
        self.hosts[host].disk.detach();
    }

    fn end(&mut self, host: usize, outage: Outage) {
        self.network.take_down(&self.hosts[host].name, outage);
        self.hosts[host].process = None;
    }

    /// A running chunkserver.
    pub fn chunkserver(&self, host: usize) -> Option<&ChunkserverServer> {
        match &self.hosts[host].process {
            Some(Process::Chunkserver(server)) => Some(server),
            _ => None,
        }
    }

    /// A client of its own host, of whom half read from the files of chunkservers as if they ran on their machines.
    pub fn client(&mut self, name: &str, config: ClientConfig) -> Cluster {
        self.network.bring_up(name);
        let seed = self.rng.random();
        let mut cluster = cluster_on(&self.network, name, &self.mds_addresses(), self.planted, config, seed);
        if seed % 2 == 1 {
            let disks = self.hosts.iter().map(|host| host.disk.clone()).collect();
            let machine = Arc::new(SimMachine::new(disks));
            let machine: Arc<dyn Machine> = match self.planted {
                Some(bug) => bug.machine(machine),
                None => machine,
            };
            cluster.run_on(machine);
        }
        cluster
    }
}

/// The cluster as seen from a host that is up.
pub fn cluster_on(
    network: &SimNetwork,
    host: &str,
    mds: &[String],
    planted: Option<Planted>,
    config: ClientConfig,
    seed: u64,
) -> Cluster {
    let network = network.node(host);
    let network = match planted {
        Some(bug) => bug.client_network(network),
        None => network,
    };
    let transport = Arc::new(MessageMds::framed(network.clone(), mds));
    Cluster::with_parts(config, network, transport, seed)
}
