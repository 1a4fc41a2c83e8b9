//! Writes per second and CPU per write of three replicas in one process: real logs in a temporary directory, messages
//! handed over in memory. `cargo run --release -p curve-multiraft --example raftbench [-- --memory] [--threads N]`

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use curve_io::sim::{SimDisk, SimDiskConfig};
use curve_io::{BoxFuture, Disk, Handler, Message, Network, RealDisk, Reply, RpcError, ServerHandle};
use curve_log::{Log, LogConfig};
use curve_multiraft::{
    AddressBook, Applied, Group, MultiRaft, Op, RaftOptions, SnapshotFetch, SnapshotPart, SnapshotSource,
    StateMachine,
};
use curve_types::{GroupId, NodeId};
use tokio::sync::oneshot;

/// Hands requests to their handler within the call.
#[derive(Default)]
struct Direct {
    handlers: RwLock<BTreeMap<String, Arc<dyn Handler>>>,
}

struct Answer(oneshot::Sender<Message>);

impl Reply for Answer {
    fn send(self: Box<Self>, message: Message) {
        let _ = self.0.send(message);
    }
}

struct Served(String);

impl ServerHandle for Served {
    fn address(&self) -> String {
        self.0.clone()
    }
}

impl Network for Direct {
    fn call_by(
        &self,
        to: &str,
        request: Message,
        _: Option<tokio::time::Instant>,
        _: Duration,
    ) -> BoxFuture<'static, Result<Message, RpcError>> {
        let (answer, reply) = oneshot::channel();
        if let Some(handler) = self.handlers.read().unwrap().get(to) {
            handler.handle(request, Box::new(Answer(answer)));
        }
        let address = to.to_owned();
        Box::pin(
            async move { reply.await.map_err(|_| RpcError::Broken { address, cause: "dropped".into() }) },
        )
    }

    fn serve<'a>(
        &'a self,
        address: &'a str,
        handler: Arc<dyn Handler>,
    ) -> BoxFuture<'a, io::Result<Box<dyn ServerHandle>>> {
        self.handlers.write().unwrap().insert(address.to_owned(), handler);
        Box::pin(async move { Ok(Box::new(Served(address.to_owned())) as Box<dyn ServerHandle>) })
    }
}

struct Names;

impl AddressBook for Names {
    fn address(&self, node: NodeId) -> Option<String> {
        Some(node.to_string())
    }
}

/// Forgets everything it applies.
struct Sink;

impl StateMachine for Sink {
    fn recovered(&self) -> Option<Bytes> {
        None
    }

    fn apply(&mut self, entries: Vec<Applied>, _: Bytes) -> BoxFuture<'_, io::Result<Vec<Vec<Bytes>>>> {
        let results = entries.iter().map(|entry| vec![Bytes::new(); entry.ops.len()]).collect();
        Box::pin(async move { Ok(results) })
    }

    fn checkpoint(&mut self) -> BoxFuture<'static, io::Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn snapshot(&mut self) -> BoxFuture<'_, io::Result<Arc<dyn SnapshotSource>>> {
        Box::pin(async { Ok(Arc::new(Self) as Arc<dyn SnapshotSource>) })
    }

    fn install(&mut self, _: Arc<dyn SnapshotFetch>, _: Bytes) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

impl SnapshotSource for Sink {
    fn read(&self, _: Bytes) -> BoxFuture<'_, io::Result<SnapshotPart>> {
        Box::pin(async { Ok(SnapshotPart::default()) })
    }
}

/// CPU time of this process so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

async fn start(groups: u64, root: &Path, memory: bool) -> (Vec<Group>, Vec<Arc<MultiRaft>>, Vec<Log>) {
    let members: Vec<NodeId> = (1..=3).map(NodeId).collect();
    let network = Arc::new(Direct::default());
    let (mut nodes, mut logs) = (Vec::new(), Vec::new());
    for node in &members {
        let disk: Arc<dyn Disk> = match memory {
            true => SimDisk::new(SimDiskConfig::default()).mount(),
            false => Arc::new(RealDisk::new(root.join(node.to_string()))),
        };
        disk.create_dir_all(Path::new("log")).unwrap();
        let (log, _) = Log::open(disk, Path::new("log"), LogConfig::default()).await.unwrap();
        let raft = MultiRaft::new(
            *node,
            log.clone(),
            network.clone(),
            Arc::new(Names),
            node.get(),
            RaftOptions::default(),
        );
        network.serve(&node.to_string(), raft.clone()).await.unwrap();
        for group in 1..=groups {
            raft.create_group(GroupId(group), &members, Box::new(Sink)).await.unwrap();
        }
        nodes.push(raft);
        logs.push(log);
    }
    let mut leaders = Vec::new();
    for group in 1..=groups {
        loop {
            let leads =
                nodes.iter().filter_map(|node| node.group(GroupId(group)).map(|group| (node.node(), group)));
            let leader =
                leads.into_iter().find(|(node, group)| *group.watch_leader().borrow() == Some(*node));
            if let Some((_, group)) = leader {
                leaders.push(group);
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    (leaders, nodes, logs)
}

async fn worker(group: Group, until: Instant, payload: Bytes) -> (u64, Vec<Duration>) {
    let (mut count, mut times) = (0, Vec::new());
    while Instant::now() < until {
        let begin = Instant::now();
        let op = Op { header: Bytes::from_static(&[0; 48]), payload: vec![payload.clone()] };
        group.propose(op).await.unwrap();
        times.push(begin.elapsed());
        count += 1;
    }
    (count, times)
}

async fn measure(groups: u64, depth: usize, memory: bool) {
    let root = tempfile::tempdir().unwrap();
    let (leaders, nodes, logs) = start(groups, root.path(), memory).await;
    let payload = Bytes::from(vec![7; 4096]);
    let flushes = || logs.iter().map(|log| log.stats().flushes).sum::<u64>();
    let (cpu_before, flushes_before, begin) = (cpu(), flushes(), Instant::now());
    let until = begin + Duration::from_secs(3);
    // The depth is for all groups together, but each group gets at least one.
    let workers: Vec<_> = (0..depth.max(1))
        .map(|n| tokio::spawn(worker(leaders[n % leaders.len()].clone(), until, payload.clone())))
        .collect();
    let (mut count, mut times) = (0, Vec::new());
    for worker in workers {
        let (some, mut took) = worker.await.unwrap();
        count += some;
        times.append(&mut took);
    }
    let (elapsed, used) = (begin.elapsed(), cpu() - cpu_before);
    times.sort();
    println!(
        "{groups:>3} groups, depth {depth:>2}: {:>8.0} writes/s, {:>6.1} us CPU/write, p50 {:>6} us, p99 {:>6} us, {:.2} syncs/write",
        count as f64 / elapsed.as_secs_f64(),
        used.as_secs_f64() * 1e6 / count as f64,
        times[times.len() / 2].as_micros(),
        times[times.len() * 99 / 100].as_micros(),
        (flushes() - flushes_before) as f64 / count as f64,
    );
    for node in nodes {
        node.halt().await;
    }
    for log in logs {
        log.close().await;
    }
}

async fn idle(groups: u64) {
    let root = tempfile::tempdir().unwrap();
    let (_, nodes, logs) = start(groups, root.path(), false).await;
    for wait in [2, 10] {
        tokio::time::sleep(Duration::from_secs(wait)).await;
        let (before, begin) = (cpu(), Instant::now());
        tokio::time::sleep(Duration::from_secs(5)).await;
        let share = (cpu() - before).as_secs_f64() / begin.elapsed().as_secs_f64();
        println!(
            "{groups:>3} idle groups, 3 replicas each in this process: {:.1} % of a core",
            share * 100.0
        );
    }
    for node in nodes {
        node.halt().await;
    }
    for log in logs {
        log.close().await;
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let memory = args.iter().any(|arg| arg == "--memory");
    let threads =
        args.iter().position(|arg| arg == "--threads").map(|at| args[at + 1].parse::<usize>().unwrap());
    let runtime = match threads {
        Some(threads) => {
            tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build().unwrap()
        }
        None => tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
    };
    runtime.block_on(async {
        if args.iter().any(|arg| arg == "--idle") {
            idle(100).await;
            return;
        }
        for depth in [32, 1] {
            for groups in [1, 4, 8, 32] {
                measure(groups, depth, memory).await;
            }
        }
    });
}
