//! Holders that are paused, cut off and late, and others that come in instead of them or beside them.
//!
//! Clients hold a volume, alone or shared. In each round some of them become *victims*: their requests travel slowly, they
//! lose touch with the MDSs, and they stop issuing (what SIGSTOP does, and worse: what they have under way is delivered
//! late and twice). A newcomer opens the volume, after their leases lapsed or by displacing them, while servers crash
//! and links fail as in every other run. Sometimes a chunkserver is stranded with the victims: it hears of no other server, so that
//! others lead without it what it led, and whoever runs on its machine may still believe it. Then the victims wake up. What must hold:
//!
//! - from the newcomer's return on, no write of a victim is acknowledged, and none that was under way lands;
//! - reads of a victim fail or are fresh, also of what was never written when it last looked;
//! - holders that were not displaced are never refused, and see each other's writes at once.
//!
//! Each round uses a segment that was not allocated before, so that holes become data under the holders' eyes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use curve_blockdev::{BlockDevice, BlockError};
use curve_client::mds::OpenMode;
use curve_client::{ClientConfig, Cluster, OpenOptions, Volume};
use curve_io::sim::{Link, SimNetwork};
use curve_types::ClientId;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::info;

use crate::faults::{FaultMenu, inflict};
use crate::planted::Planted;
use crate::scenario::{HEALING_MAX, Summary, in_virtual_time, wait_healthy};
use crate::workload::{BLOCK, Recorder, decode, encode};
use crate::world::{Shape, World};

const PATH: &str = "/shared";
const SEGMENT: u64 = 1 << 30;
const CHUNK: u64 = 16 << 20;
const SEGMENTS: u64 = 64;
/// Blocks that are used in each segment.
const BLOCKS: u64 = 4;
const CLIENTS: usize = 4;
const WORKERS: u64 = 3;
/// How long a newcomer may try; servers crash meanwhile.
const OPEN_PATIENCE: Duration = Duration::from_secs(30);

/// How long a chunkserver is cut off from the other servers.
const STRANDED_MAX: Duration = Duration::from_secs(10);

/// A run of this kind.
#[derive(Clone, Copy, Debug)]
pub struct Fencing {
    /// What may go wrong beside what is done to the victims.
    pub menu: FaultMenu,
    /// How long rounds are begun, in virtual time.
    pub length: Duration,
    /// A bug that the run should find.
    pub planted: Option<Planted>,
}

/// How victims are displaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// Their leases run out.
    Lapse,
    /// The newcomer takes over.
    Takeover,
    /// The newcomer names them.
    Named,
    /// An operator ends their sessions.
    Broken,
}

fn offset(block: u64) -> u64 {
    let (segment, within) = (block / BLOCKS, block % BLOCKS);
    segment * SEGMENT + (within % 2) * CHUNK + (within / 2) * BLOCK
}

/// One open of one client, and what its workers share.
struct Life {
    /// Names it in the history; never used twice.
    session: u64,
    client: usize,
    volume: Arc<Volume>,
    paused: watch::Sender<bool>,
    refused: AtomicBool,
    recorder: Recorder,
    round: Arc<AtomicU64>,
}

impl Life {
    fn pick(&self, rng: &mut StdRng) -> u64 {
        let segment =
            if rng.random_bool(0.5) { rng.random_range(0..2) } else { self.round.load(Ordering::Relaxed) };
        segment * BLOCKS + rng.random_range(0..BLOCKS)
    }

    async fn work(self: Arc<Self>, seed: u64) -> Result<(), String> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut paused = self.paused.subscribe();
        loop {
            let slept = *paused.borrow();
            if paused.wait_for(|paused| !paused).await.is_err() {
                return Ok(());
            }
            // Whoever wakes up looks first: its first write would tell it.
            if slept && !self.look().await? {
                return Ok(());
            }
            let block = self.pick(&mut rng);
            let goes_on =
                if rng.random_bool(0.5) { self.write(block).await } else { self.read(block).await? };
            if !goes_on {
                return Ok(());
            }
            sleep(Duration::from_millis(rng.random_range(0..30))).await;
        }
    }

    /// Reads all blocks that are in use.
    async fn look(&self) -> Result<bool, String> {
        for segment in [0, 1, self.round.load(Ordering::Relaxed)] {
            for block in segment * BLOCKS..(segment + 1) * BLOCKS {
                if !self.read(block).await? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    async fn write(&self, block: u64) -> bool {
        let value = self.recorder.history().begin_write_by(block, self.session);
        let result = self.volume.write(offset(block), vec![encode(value.0)]).await;
        if result.is_ok() {
            self.recorder.history().end_write(value);
        }
        self.goes_on(result.err())
    }

    async fn read(&self, block: u64) -> Result<bool, String> {
        let started = self.recorder.history().tick();
        match self.volume.read(offset(block), BLOCK as u32).await {
            Ok(parts) => {
                let value = decode(&parts.concat()).map_err(|error| format!("block {block}: {error}"))?;
                self.recorder.history().end_read(block, value, started);
                Ok(true)
            }
            Err(BlockError::Corrupt { .. }) => Err(format!("block {block}: corrupt on every replica")),
            Err(error) => Ok(self.goes_on(Some(error))),
        }
    }

    fn goes_on(&self, error: Option<BlockError>) -> bool {
        match error {
            Some(BlockError::Fenced) => {
                self.refused.store(true, Ordering::Relaxed);
                false
            }
            Some(BlockError::Closed) => false,
            _ => true,
        }
    }
}

/// What drives the rounds.
struct Driver {
    network: SimNetwork,
    servers: (Vec<String>, Vec<String>),
    operator: Cluster,
    clients: Vec<Cluster>,
    recorder: Recorder,
    rng: StdRng,
    round: Arc<AtomicU64>,
    sessions: u64,
    /// Who holds the volume, as far as this knows.
    holding: Vec<Arc<Life>>,
    /// Who was shut out and has not noticed.
    out: Vec<Arc<Life>>,
    /// Rung when the victims have woken.
    awake: Arc<Notify>,
    workers: JoinSet<Result<(), String>>,
    /// Rounds in which somebody was shut out, and victims in all.
    displaced: (u64, u64),
}

fn name(client: usize) -> String {
    format!("client-{client}")
}

impl Fencing {
    /// Runs under `seed`. The error says what was violated.
    pub fn run(self, seed: u64) -> Result<Summary, String> {
        in_virtual_time(seed, self.play(seed)).map(|(summary, _)| summary)
    }

    async fn play(self, seed: u64) -> Result<Summary, String> {
        let began = Instant::now();
        let shape = Shape::default();
        let mut world = World::new(seed, shape, self.planted);
        world.wrong_clocks = self.menu.wrong_clocks;
        timeout(HEALING_MAX, world.start_all()).await.map_err(|_| "the cluster does not start")??;
        let mut driver = Driver::new(&mut world, shape).await?;
        let until = Instant::now() + self.length;
        let (inflicted, driven) =
            tokio::join!(inflict(&mut world, self.menu, self.length), driver.run(until));
        inflicted?;
        driven?;
        driver.finish().await?;
        if driver.displaced.0 == 0 {
            return Err("nobody was ever shut out".into());
        }
        Ok(Summary::new(driver.recorder.history().counts(), began, &world))
    }
}

impl Driver {
    async fn new(world: &mut World, shape: Shape) -> Result<Self, String> {
        let operator = world.client("operator", ClientConfig::default());
        wait_healthy(&operator).await?;
        let create = operator.mds().create_volume(PATH, SEGMENTS * SEGMENT);
        timeout(HEALING_MAX, create).await.map_err(|_| "no volume")?.map_err(|error| error.to_string())?;
        let config = ClientConfig {
            io_timeout: "20s".parse().expect("a duration"),
            mds_timeout: "3s".parse().expect("a duration"),
            ..ClientConfig::default()
        };
        let clients = (0..CLIENTS).map(|client| world.client(&name(client), config.clone())).collect();
        let hosts = |role: &str, count| (1..=count).map(|number| format!("{role}-{number}")).collect();
        let rng = StdRng::seed_from_u64(world.rng().random());
        Ok(Self {
            network: world.network.clone(),
            servers: (hosts("mds", shape.mds), hosts("chunkserver", shape.chunkservers)),
            operator,
            clients,
            recorder: Recorder::default(),
            rng,
            round: Arc::new(AtomicU64::new(2)),
            sessions: 0,
            holding: Vec::new(),
            out: Vec::new(),
            awake: Arc::default(),
            workers: JoinSet::new(),
            displaced: (0, 0),
        })
    }

    /// Plays rounds until `until`, and goes on, now without faults, until somebody was shut out at least once.
    async fn run(&mut self, until: Instant) -> Result<(), String> {
        let goes_on = |displaced: u64| {
            Instant::now() < until || (displaced == 0 && Instant::now() < until + HEALING_MAX)
        };
        while goes_on(self.displaced.0) {
            let (mode, beside) = self.company();
            for client in beside {
                // Whoever holds it from the round before, in another mode, is displaced here, too.
                self.come_in(client, OpenOptions { mode, takeover: true, ..OpenOptions::default() }, &[])
                    .await?;
            }
            let pause = self.rng.random_range(200..1500);
            sleep(Duration::from_millis(pause)).await;
            self.displace().await?;
            self.workers_are_well()?;
            let next = (self.round.load(Ordering::Relaxed) + 1).min(SEGMENTS - 1);
            self.round.store(next, Ordering::Relaxed);
        }
        Ok(())
    }

    fn workers_are_well(&mut self) -> Result<(), String> {
        while let Some(ended) = self.workers.try_join_next() {
            ended.map_err(|error| error.to_string())??;
        }
        Ok(())
    }

    /// Clients that hold nothing now, in random order.
    fn idle(&mut self) -> Vec<usize> {
        let busy: BTreeSet<usize> = self.holding.iter().chain(&self.out).map(|life| life.client).collect();
        let mut idle: Vec<usize> = (0..CLIENTS).filter(|client| !busy.contains(client)).collect();
        idle.shuffle(&mut self.rng);
        idle
    }

    /// Who opens the volume at the begin of a round. One client is left to come in later.
    fn company(&mut self) -> (OpenMode, Vec<usize>) {
        let shared = self.rng.random_bool(0.6);
        let mut idle = self.idle();
        let wanted = if shared { self.rng.random_range(1..=3) } else { 1 };
        idle.truncate(wanted.min(idle.len().saturating_sub(1)));
        (if shared { OpenMode::Shared } else { OpenMode::Exclusive }, idle)
    }

    /// Opens the volume for a client, judges what that did to the others, and begins to work.
    async fn come_in(
        &mut self,
        client: usize,
        options: OpenOptions,
        named: &[ClientId],
    ) -> Result<bool, String> {
        let until = Instant::now() + OPEN_PATIENCE;
        let volume = loop {
            match self.clients[client].open_displacing(PATH, options, named).await {
                Ok(volume) => break volume,
                Err(error) if Instant::now() > until => {
                    info!(client, %error, "gives up opening");
                    return Ok(false);
                }
                Err(_) => sleep(Duration::from_millis(200)).await,
            }
        };
        let returned = self.recorder.history().tick();
        info!(client, mode = ?options.mode, epoch = %volume.epoch(), "has opened");
        self.judge(Some((&volume, returned))).await?;
        self.sessions += 1;
        let life = Arc::new(Life {
            session: self.sessions,
            client,
            volume,
            paused: watch::Sender::new(false),
            refused: AtomicBool::new(false),
            recorder: self.recorder.clone(),
            round: Arc::clone(&self.round),
        });
        // The newcomer looks at everything first: what it sees is what no victim may change any more.
        life.look().await?;
        for _ in 0..WORKERS {
            self.workers.spawn(Arc::clone(&life).work(self.rng.random()));
        }
        self.holding.push(life);
        Ok(true)
    }

    /// Compares who holds the volume with who was refused. With a newcomer, whoever the MDS no longer lists was shut out
    /// when its open returned.
    async fn judge(&mut self, newcomer: Option<(&Volume, u64)>) -> Result<(), String> {
        let before: Vec<bool> =
            self.holding.iter().map(|life| life.refused.load(Ordering::Relaxed)).collect();
        let Some(entry) = self.patient_stat().await else { return Ok(()) };
        let listed: BTreeMap<ClientId, u64> =
            entry.holders.iter().map(|holder| (holder.client, holder.epoch.get())).collect();
        let epoch = entry.volume.map_or(0, |volume| volume.epoch.get());
        let mut stay = Vec::new();
        for (life, refused) in std::mem::take(&mut self.holding).into_iter().zip(before) {
            if listed.get(&life.volume.client()) == Some(&life.volume.epoch().get()) {
                if refused {
                    return Err(format!("session {} holds the volume and was refused", life.session));
                }
                stay.push(life);
                continue;
            }
            // A raise that the newcomer has not waited for may have displaced it a moment ago.
            if let Some((volume, returned)) = newcomer
                && volume.epoch().get() == epoch
                && life.volume.epoch().get() < epoch
            {
                self.recorder.history().shut_out(life.session, returned);
                self.displaced.1 += 1;
            }
            self.out.push(life);
        }
        self.holding = stay;
        Ok(())
    }

    async fn patient_stat(&self) -> Option<curve_client::mds::Entry> {
        let until = Instant::now() + OPEN_PATIENCE;
        while Instant::now() < until {
            match self.operator.mds().stat(PATH).await {
                Ok(entry) => return Some(entry),
                Err(_) => sleep(Duration::from_millis(200)).await,
            }
        }
        None
    }

    /// Makes victims of some holders, lets a newcomer in, and wakes the victims.
    async fn displace(&mut self) -> Result<(), String> {
        let Some(newcomer) = self.idle().first().copied() else { return self.break_one().await };
        let alone = self.rng.random_bool(0.3);
        let mode = if alone { OpenMode::Exclusive } else { OpenMode::Shared };
        let mut victims: Vec<Arc<Life>> = self.holding.clone();
        if !alone && victims.len() > 1 {
            victims.shuffle(&mut self.rng);
            let count = self.rng.random_range(1..victims.len());
            victims.truncate(count);
        }
        let way = [Way::Lapse, Way::Takeover, Way::Named, Way::Broken][self.rng.random_range(0..4)];
        info!(?way, ?mode, victims = ?victims.iter().map(|v| v.session).collect::<Vec<_>>(), "displacing");
        self.disturb(&victims).await;
        if self.rng.random_bool(0.4) {
            self.strand();
        }
        let named: Vec<ClientId> = victims.iter().map(|life| life.volume.client()).collect();
        let options = OpenOptions { mode, takeover: way == Way::Takeover, ..OpenOptions::default() };
        match way {
            Way::Lapse => sleep(Duration::from_millis(2200)).await,
            Way::Broken => self.break_sessions(&named).await,
            Way::Takeover | Way::Named => {}
        }
        // Beside shared holders a takeover displaces nobody, so that the victims must be named.
        let names = matches!(way, Way::Named | Way::Takeover);
        let came = self.come_in(newcomer, options, if names { &named } else { &[] }).await?;
        let gone = victims.iter().filter(|victim| self.out.iter().any(|life| life.session == victim.session));
        self.displaced.0 += u64::from(came && gone.count() > 0);
        // The newcomer changes what the victims may know.
        let meanwhile = self.rng.random_range(0..500);
        sleep(Duration::from_millis(meanwhile)).await;
        self.wake().await
    }

    /// Every client holds the volume: an operator ends one of them, or nobody would ever be displaced again.
    async fn break_one(&mut self) -> Result<(), String> {
        if let Some(victim) = self.holding.choose(&mut self.rng).cloned() {
            info!(victim = victim.session, "ending one of all");
            self.disturb(std::slice::from_ref(&victim)).await;
            self.break_sessions(&[victim.volume.client()]).await;
            self.judge(None).await?;
            self.displaced.0 += u64::from(self.out.iter().any(|life| life.session == victim.session));
        }
        self.wake().await
    }

    /// Ends sessions as an operator does. From the return on their holders are shut out, newcomer or not.
    async fn break_sessions(&mut self, clients: &[ClientId]) {
        let broken = self.operator.mds().break_sessions(PATH, clients, OPEN_PATIENCE).await;
        if broken.is_err() {
            return;
        }
        let returned = self.recorder.history().tick();
        for life in self.holding.iter().filter(|life| clients.contains(&life.volume.client())) {
            self.recorder.history().shut_out(life.session, returned);
        }
    }

    /// What the victims send travels slowly and twice for a moment; then they lose the MDSs and stop issuing. Or they only stop,
    /// with nothing under way that would tell them later.
    async fn disturb(&mut self, victims: &[Arc<Life>]) {
        let slowed = self.rng.random_bool(0.6);
        for life in victims.iter().filter(|_| slowed) {
            let slowest = Duration::from_millis(self.rng.random_range(300..5000));
            let delay = Duration::from_millis(50)..slowest;
            let slow = Link { delay, loss: 0.0, duplication: 0.3, reordering: 0.5, cut: false };
            for chunkserver in &self.servers.1 {
                self.network.set_link(&name(life.client), chunkserver, slow.clone());
            }
        }
        let meanwhile = self.rng.random_range(20..400);
        sleep(Duration::from_millis(meanwhile)).await;
        for life in victims {
            life.paused.send_replace(true);
            self.cut_from_mds(life.client, true);
        }
    }

    /// Cuts a chunkserver off from all other servers until the victims have woken, but not for long: one that has to start
    /// anew needs an MDS.
    fn strand(&mut self) {
        let Some(stranded) = self.servers.1.choose(&mut self.rng).cloned() else { return };
        let servers = self.servers.0.iter().chain(&self.servers.1);
        let others: Vec<String> = servers.filter(|other| **other != stranded).cloned().collect();
        let network = self.network.clone();
        let link = move |cut| {
            for other in &others {
                network.cut(&stranded, other, cut);
                network.cut(other, &stranded, cut);
            }
        };
        link(true);
        let awake = self.awake.clone();
        tokio::spawn(async move {
            let _ = timeout(STRANDED_MAX, awake.notified()).await;
            link(false);
        });
    }

    fn cut_from_mds(&self, client: usize, cut: bool) {
        for mds in &self.servers.0 {
            self.network.cut(&name(client), mds, cut);
            self.network.cut(mds, &name(client), cut);
        }
    }

    /// The victims go on, without the MDS at first, so that it is the copysets that must refuse them. Returns when all
    /// that were shut out have noticed, or some time later.
    async fn wake(&mut self) -> Result<(), String> {
        let asleep: Vec<Arc<Life>> = self.holding.iter().chain(&self.out).cloned().collect();
        for life in &asleep {
            for chunkserver in &self.servers.1 {
                self.network.set_link(&name(life.client), chunkserver, World::healthy_link());
            }
            life.paused.send_replace(false);
        }
        let pause = self.rng.random_range(100..1500);
        sleep(Duration::from_millis(pause)).await;
        for life in &asleep {
            self.cut_from_mds(life.client, false);
        }
        self.awake.notify_waiters();
        self.judge(None).await?;
        let until = Instant::now() + Duration::from_secs(3);
        while Instant::now() < until && self.out.iter().any(|life| !life.refused.load(Ordering::Relaxed)) {
            sleep(Duration::from_millis(50)).await;
        }
        self.out.retain(|life| !life.refused.load(Ordering::Relaxed));
        Ok(())
    }

    /// After all faults: everybody is shut out, nothing is left that could land, and the history must be one that could
    /// have been.
    async fn finish(&mut self) -> Result<(), String> {
        wait_healthy(&self.operator).await?;
        self.wake().await?;
        sleep(Duration::from_secs(5)).await;
        self.workers_are_well()?;
        let options = OpenOptions { takeover: true, ..OpenOptions::default() };
        let opening = self.operator.open(PATH, options);
        let last = timeout(HEALING_MAX, opening).await.map_err(|_| "the volume cannot be opened")?;
        let last = last.map_err(|error| format!("the volume cannot be opened: {error}"))?;
        let returned = self.recorder.history().tick();
        self.judge(Some((&last, returned))).await?;
        let until = Instant::now() + Duration::from_secs(40);
        while !self.workers.is_empty() && Instant::now() < until {
            sleep(Duration::from_millis(100)).await;
            self.workers_are_well()?;
        }
        if !self.workers.is_empty() {
            return Err(format!("{} workers of displaced holders go on", self.workers.len()));
        }
        for block in 0..(self.round.load(Ordering::Relaxed) + 1) * BLOCKS {
            let started = self.recorder.history().tick();
            let read = timeout(HEALING_MAX, last.read(offset(block), BLOCK as u32)).await;
            let parts = read.map_err(|_| format!("block {block} cannot be read"))?;
            let parts = parts.map_err(|error| format!("block {block}: {error}"))?;
            self.recorder.history().end_read(block, decode(&parts.concat())?, started);
        }
        self.recorder.history().check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_do_not_overlap() {
        let offsets: BTreeSet<u64> = (0..SEGMENTS * BLOCKS).map(offset).collect();
        assert_eq!(offsets.len() as u64, SEGMENTS * BLOCKS);
        assert!(
            offsets.iter().all(|offset| offset.is_multiple_of(BLOCK) && offset + BLOCK <= SEGMENTS * SEGMENT)
        );
    }
}
