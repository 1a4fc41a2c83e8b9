//! Measures the RPC alone between two threads with a runtime each: 4 KiB writes and reads at depth 1 and 32, and 1 MiB
//! ones at depth 8.
//!
//! `cargo run --release -p curve-rpc --example rpcbench [seconds] [tcp|unix|multi]`; CPU is that of both sides.
//! `multi` runs both sides on one runtime of two worker threads instead.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use curve_io::{Handler, Message, Network, Reply};
use curve_rpc::{RpcConfig, RpcNetwork};
use rustix::time::{ClockId, clock_gettime};

const WRITE: u16 = 1;
const READ: u16 = 2;
const BLOCK: usize = 1 << 20;

struct Store {
    block: Bytes,
}

#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    method: u16,
    depth: u32,
    bytes: usize,
}

const LOADS: [Load; 6] = [
    Load { name: "write 4 KiB", method: WRITE, depth: 1, bytes: 4 << 10 },
    Load { name: "write 4 KiB", method: WRITE, depth: 32, bytes: 4 << 10 },
    Load { name: "read  4 KiB", method: READ, depth: 1, bytes: 4 << 10 },
    Load { name: "read  4 KiB", method: READ, depth: 32, bytes: 4 << 10 },
    Load { name: "write 1 MiB", method: WRITE, depth: 8, bytes: 1 << 20 },
    Load { name: "read  1 MiB", method: READ, depth: 8, bytes: 1 << 20 },
];

impl Handler for Store {
    fn handle(&self, request: Message, reply: Box<dyn Reply>) {
        let payload = match request.method {
            READ => {
                let len: [u8; 4] = request.header[..4].try_into().expect("a length");
                vec![self.block.slice(..u32::from_le_bytes(len) as usize)]
            }
            _ => Vec::new(),
        };
        reply.send(Message { method: request.method, header: Bytes::from_static(&[1; 8]), payload });
    }
}

fn cpu_us() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

async fn work(network: &Arc<RpcNetwork>, address: &str, load: Load, ends: Instant) -> u64 {
    let block = Bytes::from(vec![7; load.bytes]);
    let mut header = vec![2; 64];
    header[..4].copy_from_slice(&(load.bytes as u32).to_le_bytes());
    let header = Bytes::from(header);
    let mut ops = 0;
    while Instant::now() < ends {
        let payload = if load.method == WRITE { vec![block.clone()] } else { Vec::new() };
        let request = Message { method: load.method, header: header.clone(), payload };
        network.call(address, request, Duration::from_secs(5)).await.expect("the server answers");
        ops += 1;
    }
    ops
}

async fn measure(network: &Arc<RpcNetwork>, address: &str, seconds: f64) {
    for load in LOADS {
        let (cpu, begun, stats) = (cpu_us(), Instant::now(), network.stats());
        let ends = begun + Duration::from_secs_f64(seconds);
        let workers: Vec<_> = (0..load.depth)
            .map(|_| {
                let (network, address) = (Arc::clone(network), address.to_owned());
                tokio::spawn(async move { work(&network, &address, load, ends).await })
            })
            .collect();
        let mut ops = 0;
        for worker in workers {
            ops += worker.await.expect("a worker does not panic");
        }
        let elapsed = begun.elapsed().as_secs_f64();
        let after = network.stats();
        println!(
            "{} depth {:2}: {:8.0} ops/s, {:7.2} us CPU/op, {:7.1} us/op, {:4.1} requests a socket write",
            load.name,
            load.depth,
            ops as f64 / elapsed,
            (cpu_us() - cpu) / ops as f64,
            elapsed * 1e6 / ops as f64 * f64::from(load.depth),
            (after.requests_sent - stats.requests_sent) as f64
                / (after.socket_writes - stats.socket_writes) as f64,
        );
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

async fn serve(asked: String) -> (Arc<RpcNetwork>, Box<dyn curve_io::ServerHandle>) {
    let network = RpcNetwork::new(RpcConfig::default());
    let handler = Arc::new(Store { block: Bytes::from(vec![9; BLOCK]) });
    let handle = network.serve(&asked, handler).await.expect("the address is free");
    (network, handle)
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments.next().map_or(2.0, |text| text.parse().expect("seconds"));
    let mode = arguments.next().unwrap_or_else(|| "tcp".to_owned());
    let asked = match mode.as_str() {
        "unix" => format!(
            "unix:{}",
            std::env::temp_dir().join(format!("rpcbench.{}", std::process::id())).display()
        ),
        _ => "127.0.0.1:0".to_owned(),
    };
    let network = RpcNetwork::new(RpcConfig::default());
    if mode == "multi" {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        return runtime.block_on(async {
            let (_server, handle) = serve(asked).await;
            let address = handle.address();
            tokio::spawn(async move { measure(&network, &address, seconds).await }).await.expect("no panic");
        });
    }
    let (send_address, address) = mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = thread::Builder::new()
        .name("server".to_owned())
        .spawn(move || {
            runtime().block_on(async {
                let (_network, handle) = serve(asked).await;
                send_address.send(handle.address()).expect("the client waits");
                let _ = stopped.await;
            });
        })
        .expect("a thread");
    let address = address.recv().expect("the server has an address");
    runtime().block_on(async { measure(&network, &address, seconds).await });
    drop(stop);
    server.join().expect("the server does not panic");
}
