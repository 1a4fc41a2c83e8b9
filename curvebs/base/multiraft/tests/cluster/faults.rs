//! Seeded chaos, with two promises checked throughout: nothing acknowledged is lost, and no read is stale. When the
//! faults end, the cluster must heal.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use curve_io::sim::Link;
use curve_multiraft::RaftOptions;
use curve_types::NodeId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::sleep;

use crate::harness::{Client, Cluster, Death, GROUP};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// A register that only grows, written by one task and read by others.
struct Register {
    acknowledged: AtomicU64,
    attempted: AtomicU64,
    done: AtomicBool,
    clients: Mutex<Client>,
}

async fn write(register: Arc<Register>) {
    let mut next = 1u64;
    while !register.done.load(Ordering::Relaxed) {
        let client = register.clients.lock().unwrap().clone();
        register.attempted.store(next, Ordering::Relaxed);
        let put = client.try_put(GROUP, "register", &next.to_le_bytes(), Duration::from_secs(6)).await;
        if put.is_some() {
            register.acknowledged.store(next, Ordering::Relaxed);
            next += 1;
        }
        // Now and then long enough for the group to fall asleep.
        let pause = if next.is_multiple_of(50) { 2000 } else { 3 };
        sleep(Duration::from_millis(pause)).await;
    }
}

type Read = Box<dyn Fn(NodeId) -> Option<u64> + Send + Sync>;

async fn read(register: Arc<Register>, number: usize, value: Arc<Read>) {
    let mut turn = number;
    while !register.done.load(Ordering::Relaxed) {
        turn += 1;
        if turn % 100 < 3 {
            sleep(Duration::from_millis(1500)).await;
        }
        let client = register.clients.lock().unwrap().clone();
        let floor = register.acknowledged.load(Ordering::Relaxed);
        if let Some(node) = client.barrier(GROUP, turn).await
            && let Some(found) = value(node)
        {
            let ceiling = register.attempted.load(Ordering::Relaxed);
            assert!(found >= floor, "{node} served {found} after {floor} had been acknowledged");
            assert!(found <= ceiling, "{node} served {found}, which nobody wrote");
        }
        sleep(Duration::from_millis(7)).await;
    }
}

type Contents = Arc<Mutex<std::collections::BTreeMap<NodeId, Arc<Mutex<crate::machine::Content>>>>>;

fn reader(contents: Contents) -> Arc<Read> {
    Arc::new(Box::new(move |node| {
        let content = contents.lock().unwrap().get(&node)?.clone();
        let content = content.lock().unwrap();
        let (value, _) = content.map.get(&Bytes::from_static(b"register"))?;
        Some(u64::from_le_bytes(value[..].try_into().unwrap()))
    }))
}

/// Starts a process again. One that had not received anything when it died knows of no group.
async fn revive(cluster: &mut Cluster, node: NodeId) {
    // It would wait for the disk, and the scenario for it.
    cluster.disks[&node].set_hung(false);
    cluster.boot(node).await;
    if cluster.group(node, GROUP).is_none() {
        cluster.join(node, GROUP).await;
    }
}

// long: one scenario; its steps share the cluster, the random numbers and who is down
async fn chaos(seed: u64, steps: u32) {
    let quick_to_sleep = seed.is_multiple_of(2);
    let mut rng = StdRng::seed_from_u64(seed);
    let options = RaftOptions {
        log_keep_entries: 50,
        log_keep_bytes: 8 << 10,
        checkpoint_log_bytes: 4 << 10,
        quiesce_after: quick_to_sleep.then_some(Duration::from_millis(200)),
        ..RaftOptions::default()
    };
    let mut cluster = Cluster::three(seed, options).await;
    let contents = Contents::default();
    let note = |cluster: &Cluster| {
        let mut contents = contents.lock().unwrap();
        contents.clear();
        contents.extend(cluster.running.keys().map(|node| (*node, cluster.content(*node, GROUP))));
    };
    let members_change = seed.is_multiple_of(3);
    if members_change {
        cluster.boot(NodeId(4)).await;
        cluster.join(NodeId(4), GROUP).await;
    }
    note(&cluster);
    let register = Arc::new(Register {
        acknowledged: AtomicU64::new(0),
        attempted: AtomicU64::new(0),
        done: AtomicBool::new(false),
        clients: Mutex::new(cluster.clients()),
    });
    let mut tasks = vec![tokio::spawn(write(register.clone()))];
    for number in 0..3 {
        tasks.push(tokio::spawn(read(register.clone(), number, reader(contents.clone()))));
    }
    let mut down: Option<NodeId> = None;
    let mut installs = 0;
    for _ in 0..steps {
        let node = NodeId(rng.random_range(1..=if members_change { 4 } else { 3 }));
        let hangs = rng.random_range(0..4u8);
        if hangs < 2 {
            cluster.disks[&node].set_hung(hangs == 1);
        }
        match rng.random_range(0..if members_change { 11 } else { 8 }) {
            0 | 1 if down.is_none() => {
                let death = if rng.random() { Death::Kill } else { Death::PowerLoss };
                installs += cluster.content(node, GROUP).lock().unwrap().installs;
                cluster.kill(node, death).await;
                down = Some(node);
            }
            2 | 3 => {
                if let Some(node) = down.take() {
                    revive(&mut cluster, node).await;
                }
            }
            4 => cluster.isolate(node, true),
            5 => cluster.net.heal(),
            6 => cluster.net.set_default_link(Link {
                delay: Duration::from_micros(50)..Duration::from_millis(rng.random_range(1..80)),
                loss: rng.random_range(0.0..0.05),
                duplication: 0.02,
                reordering: 0.05,
                cut: false,
            }),
            8.. => {
                if let Some(group) = cluster.leader_now(GROUP).and_then(|leader| cluster.group(leader, GROUP))
                {
                    tokio::spawn(async move {
                        let members = group.status().members;
                        match members.contains(&node) {
                            true if members.len() > 3 => group.remove_member(node).await,
                            true => Ok(()),
                            false => group.add_member(node).await,
                        }
                    });
                }
            }
            _ => {
                if let Some(group) = cluster.leader_now(GROUP).and_then(|leader| cluster.group(leader, GROUP))
                {
                    tokio::spawn(async move { group.transfer_leader(node).await });
                }
            }
        }
        note(&cluster);
        *register.clients.lock().unwrap() = cluster.clients();
        sleep(Duration::from_millis(rng.random_range(50..3000))).await;
    }
    cluster.net.heal();
    cluster.disks.values().for_each(|disk| disk.set_hung(false));
    cluster.net.set_default_link(Link::default());
    if let Some(node) = down {
        revive(&mut cluster, node).await;
    }
    note(&cluster);
    *register.clients.lock().unwrap() = cluster.clients();
    let before = register.acknowledged.load(Ordering::Relaxed);
    crate::harness::wait("progress after the faults", || {
        (register.acknowledged.load(Ordering::Relaxed) > before + 10).then_some(())
    })
    .await;
    register.done.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.expect("no promise was broken");
    }
    cluster.converged(GROUP).await;
    let leader = cluster.leader(GROUP).await;
    let last = reader(contents)(leader).unwrap();
    assert!(last >= register.acknowledged.load(Ordering::Relaxed));
    let install_of = |node: &NodeId| cluster.content(*node, GROUP).lock().unwrap().installs;
    installs += cluster.running.keys().map(install_of).sum::<u64>();
    let status = cluster.status(leader);
    println!("{last} writes, term {}, {installs} installs, members {:?}", status.term, status.members);
}

#[test]
fn promises_hold_under_seeded_faults() {
    let seeds = std::env::var("CURVE_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(6);
    let first = std::env::var("CURVE_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1000);
    for seed in first..first + seeds {
        println!("seed {seed}");
        runtime().block_on(chaos(seed, 25));
    }
}

#[test]
fn two_runs_of_a_seed_are_the_same() {
    let run = || {
        runtime().block_on(async {
            let mut cluster = Cluster::three(77, RaftOptions::default()).await;
            let mut trace = Vec::new();
            for round in 0..4u64 {
                for n in 0..10u64 {
                    trace.push(
                        cluster.clients().put(GROUP, &n.to_string(), &round.to_le_bytes()).await.index.get(),
                    );
                }
                let leader = cluster.leader(GROUP).await;
                trace.push(leader.get());
                cluster.kill(leader, Death::PowerLoss).await;
                trace.push(cluster.leader(GROUP).await.get());
                cluster.boot(leader).await;
                let stats = cluster.net.stats();
                trace.extend([stats.requests, stats.replies, stats.bytes]);
            }
            trace
        })
    };
    assert_eq!(run(), run());
}
