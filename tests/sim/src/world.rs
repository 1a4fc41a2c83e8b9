//! A cluster in one process: production MDSs and chunkservers on simulated disks and a simulated network.
//!
//! A host is a disk that outlives its processes. Killing a process voids its network life and its disk mount; what is
//! left of its tasks can reach nothing and is dropped with the server's handle. All hosts run on one thread under
//! tokio's paused clock, so a run is as fast as its computing and the same for the same seed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use curve_chunkserver::{ChunkserverConfig, ChunkserverParts, ChunkserverServer, StartError, set_aside_on};
use curve_client::{ClientConfig, Cluster};
use curve_io::sim::{Link, Outage, SimDisk, SimDiskConfig, SimNetwork};
use curve_mds::{MdsConfig, MdsNode, MdsParts, MemberConfig};
use curve_proto::transport::MessageMds;
use curve_types::{ByteSize, HumanDuration};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tracing::info;

use crate::planted::Planted;

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
        _node: MdsNode,
    },
    Chunkserver(ChunkserverServer),
}

struct Host {
    name: String,
    role: Role,
    number: usize,
    disk: SimDisk,
    process: Option<Process>,
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
    planted: Option<Planted>,
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
                capacity: 64 << 30,
                sync_delay: Duration::from_micros(100)..Duration::from_millis(2),
            }),
            process: None,
        };
        let mut hosts = Vec::new();
        for number in 1..=shape.mds {
            hosts.push(host(Role::Mds, number, rng.random()));
        }
        for number in 1..=shape.chunkservers {
            hosts.push(host(Role::Chunkserver, number, rng.random()));
        }
        Self { network, shape, hosts, rng, may_rebuild: false, planted }
    }

    /// A link without faults.
    pub fn healthy_link() -> Link {
        Link { delay: Duration::from_micros(50)..Duration::from_micros(500), ..Link::default() }
    }

    /// Draws from the world's own generator.
    pub fn rng(&mut self) -> &mut StdRng {
        &mut self.rng
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

    /// Starts a host's process on what its disk holds.
    pub async fn start(&mut self, host: usize) -> Result<(), String> {
        let seed = self.rng.random();
        let at = &self.hosts[host];
        assert!(at.process.is_none(), "a host runs one process");
        self.network.bring_up(&at.name);
        let process = match at.role {
            Role::Mds => Process::Mds { _node: self.start_mds(at, seed).await? },
            Role::Chunkserver => Process::Chunkserver(self.start_chunkserver(at, seed).await?),
        };
        self.hosts[host].process = Some(process);
        Ok(())
    }

    async fn start_mds(&self, host: &Host, seed: u64) -> Result<MdsNode, String> {
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
        };
        MdsNode::start(config, parts).await.map_err(|error| format!("{}: {error}", host.name))
    }

    async fn start_chunkserver(&self, host: &Host, seed: u64) -> Result<ChunkserverServer, String> {
        let address = address(Role::Chunkserver, host.number);
        let mut config = ChunkserverConfig {
            zone: format!("zone-{}", host.number),
            listen_address: address,
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
            ..ChunkserverConfig::default()
        };
        if self.planted == Some(Planted::LeaseTooLong) && host.number == 1 {
            config.lease = millis(60_000);
        }
        let network = self.network.node(&host.name);
        let parts = |attempt| ChunkserverParts {
            disk: match self.planted {
                Some(bug) => bug.disk(host.disk.mount(), Path::new(CHUNKSERVER_DIR)),
                None => host.disk.mount(),
            },
            dir: PathBuf::from(CHUNKSERVER_DIR),
            network: network.clone(),
            mds: Arc::new(MessageMds::framed(network.clone(), &self.mds_addresses())),
            rng: StdRng::seed_from_u64(seed ^ attempt),
        };
        match ChunkserverServer::start(config.clone(), parts(0)).await {
            Err(StartError::LogCorrupt(_) | StartError::StoreCorrupt(_) | StartError::Replica(_))
                if self.may_rebuild =>
            {
                info!(host = host.name, "refuses its damaged disk and is rebuilt");
                let aside = set_aside_on(&*host.disk.mount(), Path::new(CHUNKSERVER_DIR)).await;
                aside.map_err(|error| format!("{}: cannot set aside: {error}", host.name))?;
                ChunkserverServer::start(config, parts(1)).await
            }
            started => started,
        }
        .map_err(|error| format!("{}: {error}", host.name))
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

    /// A client of its own host.
    pub fn client(&mut self, name: &str, config: ClientConfig) -> Cluster {
        self.network.bring_up(name);
        let network = self.network.node(name);
        let network = match self.planted {
            Some(bug) => bug.client_network(network),
            None => network,
        };
        let transport = Arc::new(MessageMds::framed(network.clone(), &self.mds_addresses()));
        Cluster::with_parts(config, network, transport, self.rng.random())
    }
}
