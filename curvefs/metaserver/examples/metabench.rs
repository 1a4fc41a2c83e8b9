//! What metaservers do in a second: three of them with real logs, RocksDB and sockets, in one process on one thread, which
//! makes clients and replicas share a core. `metabench [--seconds N]`.

#[path = "../tests/cluster/client.rs"]
#[allow(dead_code, reason = "of the tests, which use all of it")]
mod client;
#[path = "../tests/cluster/mds.rs"]
#[allow(dead_code, reason = "of the tests, which use all of it")]
mod mds;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::Client;
use curve_io::RealDisk;
use curve_rpc::{RpcConfig, RpcNetwork};
use curvefs_metaserver::{
    DataFactory, MetaserverConfig, MetaserverParts, MetaserverServer, RocksFactory, StoreAccess,
};
use curvefs_types::{
    DataBackend, FsId, InodeId, Kind, Name, NameOp, NewInode, Op, PartitionId, Query, RenameMode, Reply,
};
use mds::Mds;
use rand::SeedableRng;
use rand::rngs::StdRng;

const SERVERS: usize = 3;
const PARTITIONS: u32 = 3;

struct NoData;

impl DataFactory for NoData {
    fn open(&self, _fs: FsId, _access: StoreAccess) -> Result<Arc<dyn DataBackend>, String> {
        Err("nothing is written here".into())
    }
}

/// CPU time of this process so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

fn socket(root: &Path, at: usize) -> String {
    format!("unix:{}", root.join(format!("s{at}")).display())
}

async fn start(root: &Path, mds: &Arc<Mds>, at: usize) -> MetaserverServer {
    let dir = root.join(at.to_string());
    std::fs::create_dir_all(&dir).unwrap();
    let config = MetaserverConfig { listen_address: socket(root, at), ..MetaserverConfig::default() };
    let parts = MetaserverParts {
        disk: Arc::new(RealDisk::new(dir.clone())),
        dir: PathBuf::new(),
        stores: Arc::new(RocksFactory::new(dir, 64 << 20, 8 << 20).unwrap()),
        data: Arc::new(NoData),
        network: RpcNetwork::new(RpcConfig::default()),
        mds: mds.clone(),
        rng: StdRng::seed_from_u64(at as u64),
        now_ns: 1_000_000_000_000,
    };
    MetaserverServer::start(config, parts).await.unwrap()
}

fn name(text: String) -> Name {
    Name::new(text).unwrap()
}

fn new_inode(kind: Kind) -> NewInode {
    NewInode::plain(kind, 0o755)
}

async fn make(client: &mut Client, op: NameOp) -> InodeId {
    match client.change(Op::from(op)).await {
        Ok(Reply::Attr { attr, .. }) => attr.inode,
        other => panic!("{other:?}"),
    }
}

/// One client with directories of its own.
struct Worker {
    client: Client,
    home: InodeId,
    away: InodeId,
    done: u64,
    last: InodeId,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum What {
    Create,
    Stat,
    Rename,
    RenameAcross,
    MkdirAcross,
}

impl Worker {
    async fn once(&mut self, what: What) {
        self.done += 1;
        let text = |n| name(format!("f{n}"));
        match what {
            What::Create => {
                let op = NameOp::Create {
                    parent: self.home,
                    name: text(self.done),
                    new: new_inode(Kind::File),
                    open: false,
                    or_open: false,
                };
                self.last = make(&mut self.client, op).await;
            }
            What::Stat => assert!(self.client.query(Query::GetAttr { inode: self.last }).await.is_ok()),
            What::Rename | What::RenameAcross => {
                let there = if what == What::Rename { self.home } else { self.away };
                let (from, to) =
                    if self.done.is_multiple_of(2) { (self.home, there) } else { (there, self.home) };
                let op = NameOp::Rename {
                    parent: from,
                    name: name(format!("r{}", self.done)),
                    new_parent: to,
                    new_name: name(format!("r{}", self.done + 1)),
                    mode: RenameMode::Replace,
                };
                let renamed = self.client.change(op.into()).await;
                assert!(renamed.is_ok(), "{renamed:?}");
            }
            What::MkdirAcross => {
                let place = Some(PartitionId(self.away.slot() + 1));
                let op = NameOp::Mkdir {
                    parent: self.home,
                    name: name(format!("d{}", self.done)),
                    new: new_inode(Kind::Directory),
                    place,
                };
                make(&mut self.client, op).await;
            }
        }
    }

    /// Renames find a file where they begin.
    async fn prepare(&mut self, what: What) {
        if matches!(what, What::Rename | What::RenameAcross) {
            let next = self.done + 1;
            let odd = !next.is_multiple_of(2);
            let parent = if odd && what == What::RenameAcross { self.away } else { self.home };
            let op = NameOp::Create {
                parent,
                name: name(format!("r{next}")),
                new: new_inode(Kind::File),
                open: false,
                or_open: true,
            };
            make(&mut self.client, op).await;
        }
    }
}

async fn measure(workers: Vec<Worker>, what: What, seconds: u64) -> Vec<Worker> {
    let depth = workers.len();
    let (before, begin) = (cpu(), Instant::now());
    let until = begin + Duration::from_secs(seconds);
    let running: Vec<_> = workers
        .into_iter()
        .map(|mut worker| {
            tokio::spawn(async move {
                let mut times = Vec::new();
                worker.prepare(what).await;
                while Instant::now() < until {
                    let one = Instant::now();
                    worker.once(what).await;
                    times.push(one.elapsed());
                }
                (worker, times)
            })
        })
        .collect();
    let (mut workers, mut times) = (Vec::new(), Vec::new());
    for running in running {
        let (worker, mut took) = running.await.unwrap();
        workers.push(worker);
        times.append(&mut took);
    }
    times.sort();
    let (elapsed, used) = (begin.elapsed(), cpu() - before);
    println!(
        "{:<12} depth {depth:>3}: {:>7.0}/s, {:>6.1} us CPU, p50 {:>6} us, p99 {:>6} us",
        format!("{what:?}"),
        times.len() as f64 / elapsed.as_secs_f64(),
        used.as_secs_f64() * 1e6 / times.len() as f64,
        times[times.len() / 2].as_micros(),
        times[times.len() * 99 / 100].as_micros(),
    );
    workers
}

async fn run(seconds: u64) {
    let root = tempfile::tempdir().unwrap();
    let mds = Arc::new(Mds::new(PARTITIONS));
    let mut servers = Vec::new();
    for at in 0..SERVERS {
        servers.push(start(root.path(), &mds, at).await);
    }
    let addresses: Vec<String> = (0..SERVERS).map(|at| socket(root.path(), at)).collect();
    for depth in [1, 8, 64] {
        let mut workers = Vec::new();
        for n in 0..depth {
            let network = RpcNetwork::new(RpcConfig::default());
            let mount = depth * 1000 + n;
            let mut client = Client::new(network, mds.clone(), PARTITIONS, addresses.clone(), mount, 0);
            let mut dirs = Vec::new();
            for side in 0..2 {
                let op = NameOp::Mkdir {
                    parent: InodeId::ROOT,
                    name: name(format!("w{mount}-{side}")),
                    new: new_inode(Kind::Directory),
                    place: Some(PartitionId((n + side) as u32 % PARTITIONS + 1)),
                };
                dirs.push(make(&mut client, op).await);
            }
            workers.push(Worker { client, home: dirs[0], away: dirs[1], done: 0, last: dirs[0] });
        }
        for what in [What::Create, What::Stat, What::Rename, What::RenameAcross, What::MkdirAcross] {
            workers = measure(workers, what, seconds).await;
        }
    }
    for server in servers {
        server.shutdown().await;
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let seconds =
        args.iter().position(|arg| arg == "--seconds").map_or(3, |at| args[at + 1].parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run(seconds));
}
