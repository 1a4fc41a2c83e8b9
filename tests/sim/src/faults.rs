//! What goes wrong in a run, drawn from its seed.

use std::path::Path;
use std::time::Duration;

use curve_io::sim::Link;
use rand::Rng;
use rand::seq::SliceRandom;
use tokio::time::{Instant, sleep};
use tracing::info;

use crate::world::{CHUNKSERVER_DIR, Role, World};

/// Which faults a run may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultMenu {
    /// Power losses and kills.
    pub crashes: bool,
    /// Loss, duplication, reordering and delay of messages, cuts, isolation and stalls.
    pub network: bool,
    /// Slow syncs and reads.
    pub slow_disks: bool,
    /// Disks that do not answer for a while.
    pub hung_disks: bool,
    /// Disks without room for a while.
    pub full_disks: bool,
    /// Clocks that run fast or slow.
    pub wrong_clocks: bool,
    /// Flipped bits in chunk files of one chunkserver.
    pub bit_flips: bool,
}

impl FaultMenu {
    /// Everything.
    pub const ALL: Self = Self {
        crashes: true,
        network: true,
        slow_disks: true,
        hung_disks: true,
        full_disks: true,
        wrong_clocks: true,
        bit_flips: true,
    };

    /// Only the kinds that are named; the error is a name that is none.
    pub fn only(names: &[String]) -> Result<Self, String> {
        let mut menu = Self {
            crashes: false,
            network: false,
            slow_disks: false,
            hung_disks: false,
            full_disks: false,
            wrong_clocks: false,
            bit_flips: false,
        };
        for name in names {
            let kind = match name.as_str() {
                "crashes" => &mut menu.crashes,
                "network" => &mut menu.network,
                "slow-disks" => &mut menu.slow_disks,
                "hung-disks" => &mut menu.hung_disks,
                "full-disks" => &mut menu.full_disks,
                "wrong-clocks" => &mut menu.wrong_clocks,
                "bit-flips" => &mut menu.bit_flips,
                _ => return Err(format!("no kind of fault is called {name}")),
            };
            *kind = true;
        }
        Ok(menu)
    }

    fn allows(self, fault: Fault) -> bool {
        match fault {
            Fault::Crash | Fault::Restart => self.crashes,
            Fault::Isolate | Fault::Stall | Fault::CutFromPeers | Fault::WorsenLinks => self.network,
            Fault::CrashVoter => self.crashes && self.network,
            Fault::SlowDisk => self.slow_disks,
            Fault::HungDisk => self.hung_disks,
            Fault::FullDisk => self.full_disks,
            Fault::FlipBit => self.bit_flips,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    Crash,
    Restart,
    Isolate,
    Stall,
    CutFromPeers,
    WorsenLinks,
    CrashVoter,
    SlowDisk,
    HungDisk,
    FullDisk,
    FlipBit,
}

/// How often each is drawn, relative to the others. (Wrong clocks are drawn at each start of a process.)
const WEIGHTS: [(Fault, u32); 11] = [
    (Fault::Crash, 6),
    (Fault::Restart, 4),
    (Fault::Isolate, 3),
    (Fault::Stall, 2),
    (Fault::CutFromPeers, 6),
    (Fault::WorsenLinks, 3),
    (Fault::CrashVoter, 3),
    (Fault::SlowDisk, 4),
    (Fault::HungDisk, 2),
    (Fault::FullDisk, 4),
    (Fault::FlipBit, 3),
];

/// A fault that the menu has; none if it has none.
fn draw(world: &mut World, menu: FaultMenu) -> Option<Fault> {
    let allowed = || WEIGHTS.iter().filter(|(fault, _)| menu.allows(*fault));
    let total: u32 = allowed().map(|(_, weight)| weight).sum();
    let mut left = if total == 0 { return None } else { world.rng().random_range(0..total) };
    for (fault, weight) in allowed() {
        if left < *weight {
            return Some(*fault);
        }
        left -= weight;
    }
    unreachable!("the draw is below the sum of all weights")
}

/// Inflicts faults for `length`, one after the other and some on top of others, and then ends them all.
pub async fn inflict(world: &mut World, menu: FaultMenu, length: Duration) -> Result<(), String> {
    let until = Instant::now() + length;
    (world.may_rebuild, world.wrong_clocks) = (menu.bit_flips, menu.wrong_clocks);
    while Instant::now() < until {
        let pause = Duration::from_millis(world.rng().random_range(50..1500));
        sleep(pause).await;
        world.restart_failed().await?;
        let Some(fault) = draw(world, menu) else { continue };
        match fault {
            Fault::Crash => crash_or_kill(world).await?,
            Fault::Restart => restart_one(world).await?,
            Fault::Isolate => isolate_for_a_while(world).await,
            Fault::Stall => stall_for_a_while(world).await,
            Fault::CutFromPeers => cut_one_way_for_a_while(world).await,
            Fault::WorsenLinks => worsen_links(world),
            Fault::CrashVoter => crash_voter(world).await?,
            Fault::SlowDisk => slow_one_disk(world),
            Fault::HungDisk => hang_for_a_while(world).await,
            Fault::FullDisk => fill_or_free_a_disk(world).await?,
            Fault::FlipBit => flip_a_bit(world),
        }
    }
    end_all(world).await
}

async fn end_all(world: &mut World) -> Result<(), String> {
    world.network.heal();
    world.network.set_default_link(World::healthy_link());
    for host in 0..world.host_count() {
        world.disk(host).set_sync_delay(Duration::ZERO..Duration::from_millis(1));
        world.disk(host).set_read_delay(Duration::ZERO..Duration::ZERO);
    }
    while let Some(host) = world.full_disk() {
        world.free_disk(host).await?;
    }
    world.start_all().await?;
    world.restart_failed().await
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
    if world.rng().random() {
        wait_for_writes(world, host).await;
    }
    end(world, host);
    let down = Duration::from_millis(world.rng().random_range(0..4000));
    sleep(down).await;
    // Some stay down until the next round, so that several are down together now and then.
    if world.rng().random_bool(0.7) { start(world, host).await } else { Ok(()) }
}

/// Waits, not for long, until the host's log writes something that is not durable yet: the moment for a torn record.
async fn wait_for_writes(world: &World, host: usize) {
    let log = match world.role(host) {
        Role::Mds => Path::new("mds/log"),
        Role::Chunkserver => Path::new("chunkserver/log"),
    };
    for _ in 0..500 {
        if world.disk(host).has_unsynced(log) {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
}

/// Ends a process, by power loss or by a kill.
fn end(world: &mut World, host: usize) {
    let power = world.rng().random_bool(0.5);
    info!(host = world.name(host), power, "down");
    if power {
        world.tally.count("power-losses");
        world.crash(host)
    } else {
        world.tally.count("kills");
        world.kill(host)
    }
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
    world.tally.count("isolations");
    world.network.isolate(&name, true);
    let length = Duration::from_millis(world.rng().random_range(100..4000));
    sleep(length).await;
    world.network.isolate(&name, false);
}

/// All that a host sends and is sent comes late, at once: requests whose callers have gone on long ago.
async fn stall_for_a_while(world: &mut World) {
    let hosts = world.host_count();
    let host = world.rng().random_range(0..hosts);
    let name = world.name(host).to_owned();
    info!(host = name, "stalls");
    world.tally.count("stalls");
    world.network.stall(&name, true);
    let length = Duration::from_millis(world.rng().random_range(500..8000));
    sleep(length).await;
    world.network.stall(&name, false);
}

fn peers_of(world: &World, host: usize) -> Vec<usize> {
    (0..world.host_count()).filter(|&peer| peer != host).collect()
}

/// Stops what `hosts` send to `to`, and what it sends to them if `both`; or lets it pass again.
fn cut(world: &World, to: usize, hosts: &[usize], both: bool, cut: bool) {
    for host in hosts {
        world.network.cut(world.name(*host), world.name(to), cut);
        if both {
            world.network.cut(world.name(to), world.name(*host), cut);
        }
    }
}

/// Peers cannot reach the host, but clients can: what a stale leader needs to be believed. More often than not it is a
/// host that leads something.
async fn cut_one_way_for_a_while(world: &mut World) {
    let mut host = pick(world, Role::Chunkserver);
    if world.led_by(host).is_empty() {
        host = pick(world, Role::Chunkserver);
    }
    let both = world.rng().random_bool(0.7);
    let peers = peers_of(world, host);
    info!(host = world.name(host), both, "cut from its peers");
    world.tally.count("cuts");
    cut(world, host, &peers, both, true);
    let length = Duration::from_millis(world.rng().random_range(500..5000));
    sleep(length).await;
    cut(world, host, &peers, true, false);
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
    world.tally.count("bad-links");
    world.network.set_default_link(link);
}

/// The case for which votes are durable: a leader is cut off, another is elected, and whoever voted for it goes down at
/// once. When it is back, it meets the old leader, and the new one is cut off.
async fn crash_voter(world: &mut World) -> Result<(), String> {
    let mut trio: Vec<usize> =
        (0..world.host_count()).filter(|&host| world.chunkserver(host).is_some()).collect();
    trio.shuffle(world.rng());
    let [old, one, two] = trio[..] else { return Ok(()) };
    info!(old = world.name(old), "cut off, so that others elect");
    cut(world, old, &[one, two], true, true);
    let slow = Duration::from_millis(world.rng().random_range(5..30));
    let link = Link { delay: slow / 2..slow, ..World::healthy_link() };
    world.network.set_link(world.name(one), world.name(two), link.clone());
    world.network.set_link(world.name(two), world.name(one), link);
    let elected = wait_for_leader(world, [one, two]).await;
    if let Some((new, voter)) = elected {
        world.tally.count("voters-crashed");
        info!(new = world.name(new), "elected");
        end(world, voter);
        cut(world, new, &[old, voter], true, true);
        cut(world, old, &[voter], true, false);
        let down = Duration::from_millis(world.rng().random_range(0..500));
        sleep(down).await;
        start(world, voter).await?;
        let length = Duration::from_millis(world.rng().random_range(500..4000));
        sleep(length).await;
    }
    world.network.heal();
    Ok(())
}

/// Waits until one of the two leads a group that it did not lead before; returns it and the other.
async fn wait_for_leader(world: &World, pair: [usize; 2]) -> Option<(usize, usize)> {
    let before = pair.map(|host| world.led_by(host));
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        for n in 0..2 {
            if !world.led_by(pair[n]).is_subset(&before[n]) {
                return Some((pair[n], pair[1 - n]));
            }
        }
        sleep(Duration::from_millis(1)).await;
    }
    None
}

fn slow_one_disk(world: &mut World) {
    let hosts = world.host_count();
    let host = world.rng().random_range(0..hosts);
    let slowest = Duration::from_millis(world.rng().random_range(11..500));
    info!(host = world.name(host), ?slowest, "disk slows");
    world.tally.count("slow-disks");
    let delay = Duration::from_millis(10)..slowest;
    world.disk(host).set_sync_delay(delay.clone());
    world.disk(host).set_read_delay(delay);
}

/// Mostly for longer than it takes until others lead.
async fn hang_for_a_while(world: &mut World) {
    let hosts = world.host_count();
    let host = world.rng().random_range(0..hosts);
    let time = Duration::from_millis(world.rng().random_range(500..7000));
    info!(host = world.name(host), ?time, "disk hangs");
    world.tally.count("hung-disks");
    world.disk(host).set_hung(true);
    sleep(time).await;
    world.disk(host).set_hung(false);
}

/// One disk is full at a time. Sometimes a little room is left, sometimes none at all.
async fn fill_or_free_a_disk(world: &mut World) -> Result<(), String> {
    if let Some(host) = world.full_disk() {
        info!(host = world.name(host), "disk has room again");
        return world.free_disk(host).await;
    }
    let hosts = world.host_count();
    let host = world.rng().random_range(0..hosts);
    let free = if world.rng().random() { 0 } else { world.rng().random_range(0..4 << 20) };
    info!(host = world.name(host), free, "disk is full");
    world.tally.count("full-disks");
    world.fill_disk(host, free);
    Ok(())
}

fn flip_a_bit(world: &mut World) {
    let host = world.flipped_host();
    let flipped = world.disk(host).flip_random_bit(&Path::new(CHUNKSERVER_DIR).join("store"));
    info!(host = world.name(host), ?flipped, "flipped a bit");
    if flipped.is_some() {
        world.tally.count("bit-flips");
    }
}
