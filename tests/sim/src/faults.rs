//! What goes wrong in a run, drawn from its seed.

use std::path::Path;
use std::time::Duration;

use curve_io::sim::Link;
use rand::Rng;
use tokio::time::{Instant, sleep};
use tracing::info;

use crate::world::{CHUNKSERVER_DIR, Role, World};

/// Which faults a run may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultMenu {
    /// Power losses and kills.
    pub crashes: bool,
    /// Loss, duplication, reordering and delay of messages, cuts and isolation.
    pub network: bool,
    /// Slow syncs.
    pub slow_disks: bool,
    /// Flipped bits in chunk files of one chunkserver.
    pub bit_flips: bool,
}

impl FaultMenu {
    /// Everything.
    pub const ALL: Self = Self { crashes: true, network: true, slow_disks: true, bit_flips: true };
}

/// Inflicts faults for `length`, one after the other and some on top of others, and then ends them all.
pub async fn inflict(world: &mut World, menu: FaultMenu, length: Duration) -> Result<(), String> {
    let until = Instant::now() + length;
    let flipped_host = pick(world, Role::Chunkserver);
    world.may_rebuild = menu.bit_flips;
    while Instant::now() < until {
        let pause = Duration::from_millis(world.rng().random_range(50..1500));
        sleep(pause).await;
        match world.rng().random_range(0..7) {
            0 if menu.crashes => crash_or_kill(world).await?,
            1 if menu.crashes => restart_one(world).await?,
            2 if menu.network => isolate_for_a_while(world).await,
            3 if menu.network => cut_one_way_for_a_while(world).await,
            4 if menu.network => worsen_links(world),
            5 if menu.slow_disks => slow_one_disk(world),
            6 if menu.bit_flips => {
                let flipped =
                    world.disk(flipped_host).flip_random_bit(&Path::new(CHUNKSERVER_DIR).join("store"));
                info!(host = world.name(flipped_host), ?flipped, "flipped a bit");
            }
            _ => {}
        }
    }
    end_all(world).await
}

async fn end_all(world: &mut World) -> Result<(), String> {
    world.network.heal();
    world.network.set_default_link(World::healthy_link());
    for host in 0..world.host_count() {
        world.disk(host).set_sync_delay(Duration::ZERO..Duration::from_millis(1));
    }
    world.start_all().await
}

fn pick(world: &mut World, role: Role) -> usize {
    let hosts: Vec<usize> = (0..world.host_count()).filter(|&host| world.role(host) == role).collect();
    hosts[world.rng().random_range(0..hosts.len())]
}

async fn crash_or_kill(world: &mut World) -> Result<(), String> {
    let hosts = world.host_count();
    let host = world.rng().random_range(0..hosts);
    if !world.is_running(host) {
        return Ok(());
    }
    let power = world.rng().random_bool(0.5);
    info!(host = world.name(host), power, "down");
    if power {
        world.crash(host)
    } else {
        world.kill(host)
    }
    let down = Duration::from_millis(world.rng().random_range(0..4000));
    sleep(down).await;
    // Some stay down until the next round, so that several are down together now and then.
    if world.rng().random_bool(0.7) { start(world, host).await } else { Ok(()) }
}

async fn restart_one(world: &mut World) -> Result<(), String> {
    let down = (0..world.host_count()).find(|&host| !world.is_running(host));
    match down {
        Some(host) => start(world, host).await,
        None => Ok(()),
    }
}

async fn start(world: &mut World, host: usize) -> Result<(), String> {
    info!(host = world.name(host), "up");
    world.start(host).await
}

async fn isolate_for_a_while(world: &mut World) {
    let hosts = world.host_count();
    let host = world.rng().random_range(0..hosts);
    let name = world.name(host).to_owned();
    info!(host = name, "isolated");
    world.network.isolate(&name, true);
    let length = Duration::from_millis(world.rng().random_range(100..4000));
    sleep(length).await;
    world.network.isolate(&name, false);
}

/// Peers cannot reach the host, but clients can: what a stale leader needs to be believed.
async fn cut_one_way_for_a_while(world: &mut World) {
    let host = pick(world, Role::Chunkserver);
    let name = world.name(host).to_owned();
    let both = world.rng().random_bool(0.5);
    let peers: Vec<String> = (0..world.host_count())
        .filter(|&peer| peer != host)
        .map(|peer| world.name(peer).to_owned())
        .collect();
    info!(host = name, both, "cut from its peers");
    for peer in &peers {
        world.network.cut(peer, &name, true);
        if both {
            world.network.cut(&name, peer, true);
        }
    }
    let length = Duration::from_millis(world.rng().random_range(500..5000));
    sleep(length).await;
    for peer in &peers {
        world.network.cut(peer, &name, false);
        world.network.cut(&name, peer, false);
    }
}

fn worsen_links(world: &mut World) {
    let rng = world.rng();
    let slowest = Duration::from_millis(rng.random_range(1..60));
    let link = Link {
        delay: Duration::from_micros(50)..slowest,
        loss: rng.random_range(0.0..0.05),
        duplication: rng.random_range(0.0..0.05),
        reordering: rng.random_range(0.0..0.2),
        cut: false,
    };
    info!(?link, "links worsen");
    world.network.set_default_link(link);
}

fn slow_one_disk(world: &mut World) {
    let hosts = world.host_count();
    let host = world.rng().random_range(0..hosts);
    let slowest = Duration::from_millis(world.rng().random_range(1..400));
    info!(host = world.name(host), ?slowest, "disk slows");
    world.disk(host).set_sync_delay(Duration::ZERO..slowest);
}
