//! A cluster in one process: real MDSs, and chunkservers that keep their word but store nothing.

mod chunkservers;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use curve_io::sim::{Outage, SimDisk, SimDiskConfig, SimNetwork};
use curve_mds::{MdsConfig, MdsNode, MdsParts, MemberConfig, SealingKeys};
use curve_multiraft::RaftOptions;
use curve_proto::MdsApi;
use curve_proto::mds::HealthLevel;
use curve_proto::transport::MessageMds;
use curve_types::{ByteSize, ClientId, HumanDuration, NodeId, VolumeId};
use tokio::time::{sleep, timeout};

use chunkservers::Fleet;

/// Waits for a condition in simulated time.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let waiting = async {
        while !check().await {
            sleep(Duration::from_millis(200)).await;
        }
    };
    timeout(Duration::from_secs(600), waiting).await.unwrap_or_else(|_| panic!("not in 600 s: {what}"));
}

struct Host {
    disk: SimDisk,
    node: Option<MdsNode>,
}

/// The cluster.
pub struct Cluster {
    network: SimNetwork,
    hosts: Vec<Host>,
    fleet: Fleet,
}

fn name(mds: usize) -> String {
    format!("mds-{}", mds + 1)
}

fn address(mds: usize) -> String {
    format!("{}:1", name(mds))
}

fn seconds(n: u64) -> HumanDuration {
    HumanDuration(Duration::from_secs(n))
}

impl Cluster {
    /// Starts MDSs and chunkservers, each chunkserver in its own zone.
    pub async fn start(mds: usize, chunkservers: usize) -> Self {
        let network = SimNetwork::new(7);
        let disk = |n: usize| SimDisk::new(SimDiskConfig { seed: n as u64, ..SimDiskConfig::default() });
        let hosts = (0..mds).map(|n| Host { disk: disk(n), node: None }).collect();
        let addresses: Vec<String> = (0..mds).map(address).collect();
        let mut cluster = Self { fleet: Fleet::new(network.clone(), addresses), network, hosts };
        for n in 0..mds {
            cluster.start_mds(n).await;
        }
        for n in 0..chunkservers {
            cluster.start_chunkserver(n).await;
        }
        cluster
    }

    /// The network, to add machines to it.
    pub fn network(&self) -> &SimNetwork {
        &self.network
    }

    /// Where the MDSs are.
    pub fn addresses(&self) -> Vec<String> {
        (0..self.hosts.len()).map(address).collect()
    }

    /// Starts an MDS on what its disk holds.
    pub async fn start_mds(&mut self, n: usize) {
        let member =
            |n: usize| MemberConfig { id: n as u64 + 1, data_address: address(n), grpc_address: address(n) };
        let config = MdsConfig {
            id: n as u64 + 1,
            members: (0..self.hosts.len()).map(member).collect(),
            lease: seconds(10),
            down_after: seconds(5),
            dead_after: seconds(60),
            metaserver_dead_after: seconds(60),
            grace_after_failover: seconds(8),
            lost_replica_after: seconds(10),
            reserve: ByteSize(1 << 30),
            ..MdsConfig::default()
        };
        self.network.bring_up(&name(n));
        let parts = MdsParts {
            disk: self.hosts[n].disk.mount(),
            dir: PathBuf::from("mds"),
            network: self.network.node(&name(n)),
            store: None,
            seed: n as u64,
            raft: RaftOptions::default(),
        };
        let node = MdsNode::start(config, parts).await.unwrap();
        node.set_sealing_keys(SealingKeys::parse(&"5a".repeat(32)).unwrap());
        self.hosts[n].node = Some(node);
    }

    /// Power loss of an MDS's machine.
    pub fn kill_mds(&mut self, n: usize) {
        self.network.take_down(&name(n), Outage::Silent);
        self.hosts[n].disk.crash();
        drop(self.hosts[n].node.take());
    }

    /// Replaces the disk of an MDS that does not run by an empty one.
    pub fn wipe_mds(&mut self, n: usize) {
        assert!(self.hosts[n].node.is_none());
        self.hosts[n].disk =
            SimDisk::new(SimDiskConfig { seed: 1000 + n as u64, ..SimDiskConfig::default() });
    }

    /// Waits for a leader and names it.
    pub async fn leader(&self) -> usize {
        loop {
            let leads = |host: &Host| host.node.as_ref().is_some_and(MdsNode::is_leader);
            match self.hosts.iter().position(leads) {
                Some(leader) => return leader,
                None => sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// A caller of the control plane.
    pub fn api(&self, client: u64) -> MdsApi {
        let node = self.network.node(&format!("client-{client}"));
        let transport = Arc::new(MessageMds::framed(node, &self.addresses()));
        MdsApi::new(transport, ClientId(1000 + client), Duration::from_secs(20))
    }

    /// Waits until there are copysets and nothing is wrong.
    pub async fn wait_healthy(&self, api: &MdsApi) {
        eventually("the cluster is healthy", || async {
            let status = api.status().await;
            status.is_ok_and(|status| status.copysets > 0 && status.level == HealthLevel::Ok)
        })
        .await;
    }

    pub async fn start_chunkserver(&mut self, n: usize) {
        self.fleet.start(n).await;
    }

    pub fn stop_chunkserver(&mut self, n: usize) {
        self.fleet.stop(n);
    }

    pub fn move_chunkserver(&mut self, n: usize, host: &str) {
        self.fleet.relocate(n, host);
    }

    /// Gives a stopped chunkserver an empty disk, and so a new token.
    pub fn format_chunkserver(&mut self, n: usize) {
        self.fleet.format(n);
    }

    pub fn chunkserver(&self, n: usize) -> NodeId {
        self.fleet.node(n)
    }

    pub fn refuse_fences(&self, refuse: bool) {
        self.fleet.world().refuse = refuse;
    }

    /// The epoch that each copyset accepts at least for a volume.
    pub fn fences(&self, volume: VolumeId) -> Vec<(u32, u64)> {
        let world = self.fleet.world();
        let of = world.fences.iter().filter(|((_, fenced), _)| *fenced == volume.get());
        of.map(|((copyset, _), epoch)| (*copyset, *epoch)).collect()
    }

    /// Client and epoch of the holders that each copyset's last fence lets go on.
    pub fn kept(&self, volume: VolumeId) -> Vec<Vec<(u64, u64)>> {
        let world = self.fleet.world();
        let of = world.kept.iter().filter(|((_, fenced), _)| *fenced == volume.get());
        of.map(|(_, kept)| kept.clone()).collect()
    }

    /// The copysets that deleted a volume's data.
    pub fn deleted(&self, volume: VolumeId) -> Vec<u32> {
        let world = self.fleet.world();
        world.deleted.iter().filter(|(_, gone)| *gone == volume.get()).map(|(copyset, _)| *copyset).collect()
    }

    pub fn replicas(&self, node: NodeId) -> Vec<u32> {
        let world = self.fleet.world();
        world.replicas.get(&node).map(|replicas| replicas.iter().copied().collect()).unwrap_or_default()
    }

    pub fn lose_replicas(&self, node: NodeId) {
        self.fleet.world().replicas.remove(&node);
    }

    pub fn creations(&self, node: NodeId) -> usize {
        self.fleet.world().creations.get(&node).copied().unwrap_or(0)
    }

    pub fn set_free(&self, node: NodeId, bytes: u64) {
        self.fleet.world().free.insert(node, bytes);
    }
}
