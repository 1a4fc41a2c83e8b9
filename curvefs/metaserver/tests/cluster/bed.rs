//! Metaservers on simulated disks and a simulated network, in virtual time.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use curve_io::sim::{Link, Outage, SimDisk, SimDiskConfig, SimNetwork};
use curve_io::{BoxFuture, Disk};
use curve_kv::{KvError, MemStore, Store};
use curve_types::HumanDuration;
use curvefs_data::{BackendOptions, MemoryBucket, ObjectBackend};
use curvefs_meta::{Partition, check};
use curvefs_metaserver::{
    DataFactory, MetaserverConfig, MetaserverParts, MetaserverServer, Replica, StoreAccess, StoreFactory,
};
use curvefs_types::keys::{Key, tag};
use curvefs_types::{DataBackend, FsId, PartitionId, WriterId};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep};

use crate::client::Client;
use crate::mds::{FS, Mds};

pub const PARTITIONS: u32 = 4;
const PATIENCE: Duration = Duration::from_secs(120);

struct MemStores(Arc<dyn Disk>);

impl StoreFactory for MemStores {
    fn open<'a>(&'a self, dir: &'a Path) -> BoxFuture<'a, Result<Arc<dyn Store>, KvError>> {
        Box::pin(async move {
            let store: Arc<dyn Store> = Arc::new(MemStore::open(self.0.clone(), dir).await?);
            Ok(store)
        })
    }
}

/// One store of data for all.
struct Memory(Arc<dyn DataBackend>);

impl DataFactory for Memory {
    fn open(&self, fs: FsId, _access: StoreAccess) -> Result<Arc<dyn DataBackend>, String> {
        assert_eq!(fs, FS);
        Ok(self.0.clone())
    }
}

pub struct Bed {
    pub network: SimNetwork,
    disks: Vec<SimDisk>,
    servers: Vec<Option<MetaserverServer>>,
    pub mds: Arc<Mds>,
    pub data: Arc<dyn DataBackend>,
    /// Where the data is.
    pub bucket: Arc<MemoryBucket>,
    pub random: StdRng,
    pub seed: u64,
    begun: Instant,
    clients: u64,
}

/// Says which seed it was, should a test fail.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("CURVE_META_SEED={} shows it again", self.0);
        }
    }
}

/// Runs a test on a cluster that has just been made.
pub fn run(seed: u64, servers: usize, test: impl AsyncFnOnce(&mut Bed)) {
    let _said = Seed(seed);
    let begun = std::time::Instant::now();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut bed = Bed::new(seed, servers).await;
        test(&mut bed).await;
        let virtual_time = bed.begun.elapsed();
        println!("seed {seed}: {virtual_time:.0?} in {:.1?}", begun.elapsed());
    });
}

fn name(at: usize) -> String {
    format!("metaserver-{at}")
}

fn address(at: usize) -> String {
    format!("{}:1", name(at))
}

impl Bed {
    async fn new(seed: u64, servers: usize) -> Self {
        let network = SimNetwork::new(seed);
        let disks = (0..servers).map(|at| {
            let seed = seed * 10 + at as u64;
            let delay = Duration::from_micros(100)..Duration::from_millis(2);
            SimDisk::new(SimDiskConfig { seed, sync_delay: delay, ..SimDiskConfig::default() })
        });
        let (data, bucket) = ObjectBackend::in_memory(FS, WriterId(1), BackendOptions::default());
        let mut bed = Self {
            disks: disks.collect(),
            servers: (0..servers).map(|_| None).collect(),
            mds: Arc::new(Mds::new(PARTITIONS)),
            network,
            data: Arc::new(data),
            bucket,
            random: StdRng::seed_from_u64(seed),
            seed,
            begun: Instant::now(),
            clients: 0,
        };
        for at in 0..servers {
            bed.start(at).await;
        }
        bed
    }

    pub async fn start(&mut self, at: usize) {
        self.network.bring_up(&name(at));
        let config = MetaserverConfig {
            zone: format!("zone-{at}"),
            listen_address: address(at),
            garbage_grace: HumanDuration(Duration::from_secs(5)),
            stage_for: HumanDuration(Duration::from_secs(1)),
            ..MetaserverConfig::default()
        };
        let disk = self.disks[at].mount();
        let parts = MetaserverParts {
            disk: disk.clone(),
            dir: PathBuf::from("data"),
            stores: Arc::new(MemStores(disk)),
            data: Arc::new(Memory(self.data.clone())),
            network: self.network.node(&name(at)),
            mds: self.mds.clone(),
            rng: StdRng::seed_from_u64(self.random.random()),
            now_ns: 1_000_000_000_000,
        };
        self.servers[at] = Some(MetaserverServer::start(config, parts).await.unwrap());
    }

    pub fn client(&mut self) -> Client {
        self.clients += 1;
        let mount = self.clients;
        let network = self.network.node(&format!("client-{mount}"));
        let servers = (0..self.servers.len()).map(address).collect();
        Client::new(network, self.mds.clone(), PARTITIONS, servers, mount, self.seed)
    }

    pub fn is_up(&self, at: usize) -> bool {
        self.servers[at].is_some()
    }

    /// Power loss.
    pub fn crash(&mut self, at: usize, outage: Outage) {
        self.network.take_down(&name(at), outage);
        self.disks[at].crash();
        self.servers[at] = None;
    }

    pub async fn stop(&mut self, at: usize) {
        self.servers[at].take().unwrap().shutdown().await;
        self.network.take_down(&name(at), Outage::Refused);
        self.disks[at].detach();
    }

    /// Leaves a disk so many free bytes; `None`: it has room again.
    pub fn fill(&self, at: usize, free: Option<u64>) {
        let disk = &self.disks[at];
        disk.set_capacity(free.map_or(SimDiskConfig::default().capacity, |free| disk.used() + free));
    }

    pub fn isolate(&self, at: usize, isolated: bool) {
        self.network.isolate(&name(at), isolated);
    }

    pub fn set_unkind(&self, unkind: bool) {
        let link = if unkind {
            let delay = Duration::from_micros(100)..Duration::from_millis(5);
            Link { delay, loss: 0.02, duplication: 0.05, reordering: 0.2, cut: false }
        } else {
            Link::default()
        };
        self.network.set_default_link(link);
    }

    /// Ends what is unkind, and starts who is down.
    pub async fn heal(&mut self) {
        self.set_unkind(false);
        self.network.heal();
        self.mds.set_down(false);
        for at in 0..self.servers.len() {
            if self.servers[at].is_none() {
                self.start(at).await;
            }
        }
    }

    fn replicas(&self) -> impl Iterator<Item = (usize, Arc<Replica>)> {
        self.servers
            .iter()
            .enumerate()
            .flat_map(|(at, server)| server.iter().flat_map(|s| s.replicas()).map(move |r| (at, r)))
    }

    /// Where a partition is led, if it is.
    pub fn leader(&self, partition: u32) -> Option<(usize, Arc<Replica>)> {
        self.replicas()
            .filter(|(_, replica)| replica.id() == PartitionId(partition))
            .find(|(_, replica)| replica.leadership_term().is_some())
    }

    /// Waits until every partition is led.
    pub async fn wait_until_led(&self) {
        let until = Instant::now() + PATIENCE;
        while !(1..=PARTITIONS).all(|partition| self.leader(partition).is_some()) {
            assert!(Instant::now() < until, "seed {}: not all partitions are led", self.seed);
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until nothing is under way any more; whatever is wrong then is a failure.
    pub async fn settle(&self) {
        let until = Instant::now() + PATIENCE;
        loop {
            let leaders: Vec<_> = (1..=PARTITIONS).filter_map(|partition| self.leader(partition)).collect();
            let partitions: Vec<&Partition> =
                leaders.iter().map(|(_, replica)| replica.partition()).collect();
            let mut wrong = check::problems(&partitions, true).unwrap();
            if partitions.len() < PARTITIONS as usize {
                wrong.push("not all partitions are led".into());
            }
            for (_, replica) in &leaders {
                for kind in [tag::GARBAGE, tag::STAGED] {
                    let rows = curve_kv::KeyRange::prefix(Key::kind(kind));
                    if !replica.partition().store().scan(&rows, 1).unwrap().is_empty() {
                        wrong.push(format!("{} has data to be deleted or stored ({kind:#x})", replica.id()));
                    }
                }
            }
            wrong.extend(self.differences());
            if wrong.is_empty() {
                return;
            }
            assert!(Instant::now() < until, "seed {}: {wrong:#?}", self.seed);
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Replicas whose rows are not their leader's.
    fn differences(&self) -> Vec<String> {
        let differs = |(at, replica): (usize, Arc<Replica>)| {
            let (_, leader) = self.leader(replica.id().0)?;
            let rows = |replica: &Replica| check::dump(&**replica.partition().store()).unwrap();
            (rows(&replica) != rows(&leader))
                .then(|| format!("{} on {at} differs from its leader", replica.id()))
        };
        self.replicas().filter_map(differs).collect()
    }
}
