//! MDSs as they run in processes: RocksDB, real sockets, gRPC, HTTP.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use curve_mds::{MdsConfig, MdsServer, MemberConfig, StartError};
use curve_proto::MdsApi;
use curve_proto::transport::GrpcMds;
use curve_types::ClientId;

/// Addresses that were free a moment ago.
fn free_addresses(n: usize) -> Vec<String> {
    let listeners: Vec<TcpListener> = (0..n).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect()
}

fn configs(dir: &Path) -> Vec<MdsConfig> {
    let addresses = free_addresses(6);
    let members: Vec<MemberConfig> = (0..3)
        .map(|n| MemberConfig {
            id: n as u64 + 1,
            data_address: addresses[2 * n].clone(),
            grpc_address: addresses[2 * n + 1].clone(),
        })
        .collect();
    let config = |n: usize| MdsConfig {
        id: n as u64 + 1,
        members: members.clone(),
        data_dir: dir.join(format!("mds-{n}")),
        http_address: "127.0.0.1:0".into(),
        ..MdsConfig::default()
    };
    (0..3).map(config).collect()
}

async fn start(config: &MdsConfig) -> MdsServer {
    MdsServer::start(config.clone()).await.unwrap()
}

#[tokio::test]
async fn three_processes_keep_what_they_acknowledged_through_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let configs = configs(dir.path());
    let mut servers = Vec::new();
    for config in &configs {
        servers.push(start(config).await);
    }
    let again = MdsServer::start(configs[0].clone()).await;
    assert!(matches!(again, Err(StartError::InUse { .. })), "two processes on one directory");
    let addresses: Vec<String> = configs.iter().map(|config| config.me().grpc_address.clone()).collect();
    let api = MdsApi::new(Arc::new(GrpcMds::grpc(&addresses)), ClientId(9), Duration::from_secs(20));
    api.make_directory("/team", false).await.unwrap();
    let volume = api.create_volume("/team/disk", 4 << 30).await.unwrap().volume;
    assert!(volume.created_at_ms > 1_700_000_000_000, "the wall clock is set: {}", volume.created_at_ms);

    // One after the other is stopped and started; the API never fails.
    for (n, config) in configs.iter().enumerate() {
        servers.remove(0).shutdown().await;
        let stopped = Instant::now();
        assert_eq!(api.stat("/team/disk").await.unwrap().volume.as_ref(), Some(&volume));
        println!("answered {:?} after MDS {} had stopped", stopped.elapsed(), n + 1);
        servers.push(start(config).await);
    }

    // All of them at once.
    for server in servers.drain(..) {
        server.shutdown().await;
    }
    for config in &configs {
        servers.push(start(config).await);
    }
    assert_eq!(api.stat("/team/disk").await.unwrap().volume.as_ref(), Some(&volume));
    let status = api.status().await.unwrap();
    assert_eq!((status.mds.len(), status.volumes), (3, 1));
    for server in servers.drain(..) {
        server.shutdown().await;
    }

    // One finds its state damaged: it says what to do, and that helps.
    damage_tables(&configs[0].data_dir.join("state"));
    let refusal = MdsServer::start(configs[0].clone()).await.err().expect("damaged").to_string();
    assert!(refusal.contains("corrupt") && refusal.contains("--rebuild"), "{refusal}");
    std::fs::remove_dir_all(&configs[0].data_dir).unwrap();
    for config in &configs {
        servers.push(start(config).await);
    }
    let whole = async {
        loop {
            let status = api.status().await.unwrap();
            let rejoining = status.health.iter().any(|item| item.code.starts_with("MDS_"));
            if !rejoining && status.mds.iter().all(|mds| mds.up && mds.lag == 0) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), whole).await.expect("the empty one is filled again");
    servers.remove(1).shutdown().await;
    assert_eq!(api.stat("/team/disk").await.unwrap().volume.as_ref(), Some(&volume));
    for server in servers {
        server.shutdown().await;
    }
}

/// Flips a byte in the middle of each of RocksDB's tables.
fn damage_tables(state: &Path) {
    let paths = std::fs::read_dir(state).unwrap().map(|entry| entry.unwrap().path());
    let tables: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == "sst")).collect();
    assert!(!tables.is_empty(), "a graceful stop flushes");
    for table in tables {
        let mut bytes = std::fs::read(&table).unwrap();
        bytes[20] ^= 0xFF;
        std::fs::write(&table, bytes).unwrap();
    }
}
