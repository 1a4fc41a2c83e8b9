//! Persistent reservations through two gateways that are cut off, slowed and killed, beside servers that crash.
//!
//! One volume is unit 0 of one target, served by two production gateways. In each round the holder of the reservation
//! writes and reads as fast as it can; its gateway is slowed, cut off from the MDSs or killed; and another initiator, mostly
//! through the other gateway, takes the reservation with PREEMPT AND ABORT. What must hold:
//!
//! - from the return of that command on, no write of the preempted initiator is acknowledged, and none that was under way
//!   lands, whichever gateway it came through;
//! - under EXCLUSIVE ACCESS no read of it is let through either;
//! - a holder that nobody preempts is never refused, and what is read is always what was last written.
//!
//! The preempted initiator goes on asking through its own gateway until it has heard of its fate, and through the other one.

mod gateway;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use curve_client::mds::IscsiEdit;
use curve_client::{ClientConfig, Cluster};
use curve_io::sim::Link;
use curve_scsi::Status;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::info;

use self::gateway::{GatewayHost, Session, TARGET, one_block};
use crate::faults::{FaultMenu, inflict};
use crate::planted::Planted;
use crate::scenario::{HEALING_MAX, Summary, in_virtual_time, wait_healthy};
use crate::workload::{BLOCK, Recorder, decode, encode};
use crate::world::{Shape, World};

const PATH: &str = "/reserved";
const CHUNK: u64 = 16 << 20;
const BLOCKS: u64 = 6;
const GATEWAYS: u16 = 2;
const WORKERS: u64 = 3;
/// How long an initiator goes on with a command that does not succeed.
const PATIENCE: Duration = Duration::from_secs(60);
/// PERSISTENT RESERVE OUT service actions.
const RESERVE: u8 = 1;
const PREEMPT_AND_ABORT: u8 = 5;
const REGISTER_AND_IGNORE: u8 = 6;
/// Types of reservations.
const WRITE_EXCLUSIVE: u8 = 1;
const EXCLUSIVE_ACCESS: u8 = 3;

/// A run of this kind.
#[derive(Clone, Copy, Debug)]
pub struct Reservations {
    /// What may go wrong beside what is done to the gateways.
    pub menu: FaultMenu,
    /// How long rounds are begun, in virtual time.
    pub length: Duration,
    /// A bug that the run should find.
    pub planted: Option<Planted>,
}

fn lba(block: u64) -> u64 {
    ((block % 2) * CHUNK + block / 2 * BLOCK) / BLOCK
}

/// One initiator with its registration, and what its workers share.
struct Life {
    /// Names it in the history; never used twice. It is the registered key, too.
    number: u64,
    gateway: usize,
    session: Session,
    /// Somebody has begun to preempt it.
    challenged: AtomicBool,
    /// It was preempted under EXCLUSIVE ACCESS: not even a read of it may be let through.
    shut_off: AtomicBool,
    /// It has heard of it.
    refused: AtomicBool,
    recorder: Recorder,
}

impl Life {
    async fn work(self: Arc<Self>, seed: u64) -> Result<(), String> {
        let mut rng = StdRng::seed_from_u64(seed);
        loop {
            let block = rng.random_range(0..BLOCKS);
            let status =
                if rng.random_bool(0.7) { self.write(block).await } else { self.read(block).await? };
            if status == Some(Status::ReservationConflict) {
                if !self.challenged.load(Ordering::Relaxed) {
                    return Err(format!("{} holds the reservation and was refused", self.number));
                }
                self.refused.store(true, Ordering::Relaxed);
                return Ok(());
            }
            sleep(Duration::from_millis(rng.random_range(0..20))).await;
        }
    }

    async fn write(&self, block: u64) -> Option<Status> {
        let value = self.recorder.history().begin_write_by(block, self.number);
        let response = self.session.send(&one_block(0x8a, lba(block)), vec![encode(value.0)]).await?;
        if response.status == Status::Good {
            self.recorder.history().end_write(value);
        }
        Some(response.status)
    }

    async fn read(&self, block: u64) -> Result<Option<Status>, String> {
        let denied = self.shut_off.load(Ordering::Relaxed);
        let started = self.recorder.history().tick();
        let Some(response) = self.session.send(&one_block(0x88, lba(block)), Vec::new()).await else {
            return Ok(None);
        };
        if response.status == Status::Good {
            // Whoever takes the reservation next may allow reads again.
            if denied && self.shut_off.load(Ordering::Relaxed) {
                return Err(format!("a read of {} was let through after it was preempted", self.number));
            }
            let value = decode(&response.data_in.concat()).map_err(|error| format!("{block}: {error}"))?;
            self.recorder.history().end_read(block, value, started);
        }
        Ok(Some(response.status))
    }
}

impl Reservations {
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
        let mut driver = Driver::new(&mut world, shape, self.planted).await?;
        let until = Instant::now() + self.length;
        let (inflicted, driven) =
            tokio::join!(inflict(&mut world, self.menu, self.length), driver.run(until));
        inflicted?;
        driven?;
        driver.finish().await?;
        world.tally.add("preempted", driver.preempted);
        world.tally.add("gateways-killed", driver.killed);
        Ok(Summary::new(driver.recorder.history().counts(), began, &world))
    }
}

/// What drives the rounds.
struct Driver {
    mds: Vec<String>,
    chunkservers: Vec<String>,
    operator: Cluster,
    gateways: Vec<GatewayHost>,
    recorder: Recorder,
    rng: StdRng,
    lives: u64,
    holder: Option<Arc<Life>>,
    /// Who must not even read now.
    former: Vec<Arc<Life>>,
    workers: JoinSet<Result<(), String>>,
    preempted: u64,
    killed: u64,
}

impl Driver {
    async fn new(world: &mut World, shape: Shape, planted: Option<Planted>) -> Result<Self, String> {
        let operator = world.client("operator", ClientConfig::default());
        wait_healthy(&operator).await?;
        let mds = operator.mds();
        let setup = async {
            mds.create_volume(PATH, 1 << 30).await?;
            mds.iscsi_edit(IscsiEdit::CreateTarget(TARGET.into())).await?;
            let (target, path) = (TARGET.into(), PATH.into());
            mds.iscsi_edit(IscsiEdit::AddLun { target, number: 0, path, block_bytes: 4096, read_only: false })
                .await
        };
        timeout(HEALING_MAX, setup).await.map_err(|_| "no unit")?.map_err(|error| error.to_string())?;
        let hosts = |role: &str, count| (1..=count).map(|number| format!("{role}-{number}")).collect();
        let mut gateways = Vec::new();
        for number in 1..=GATEWAYS {
            let mut gateway = GatewayHost::new(number, world, planted);
            gateway.start();
            // One after the other, so that the MDS gives each the number of its name.
            let mut served = gateway.served();
            let ready = timeout(HEALING_MAX, served.wait_for(Option::is_some)).await;
            ready.map_err(|_| "a gateway does not serve")?.map_err(|error| error.to_string())?;
            gateways.push(gateway);
        }
        Ok(Self {
            mds: hosts("mds", shape.mds),
            chunkservers: hosts("chunkserver", shape.chunkservers),
            operator,
            gateways,
            recorder: Recorder::default(),
            rng: StdRng::seed_from_u64(world.rng().random()),
            lives: 0,
            holder: None,
            former: Vec::new(),
            workers: JoinSet::new(),
            preempted: 0,
            killed: 0,
        })
    }

    /// Plays rounds until `until`, and goes on, now without faults, until somebody was preempted at least once.
    async fn run(&mut self, until: Instant) -> Result<(), String> {
        while Instant::now() < until || (self.preempted == 0 && Instant::now() < until + HEALING_MAX) {
            self.round().await?;
            let pause = self.rng.random_range(100..1000);
            sleep(Duration::from_millis(pause)).await;
            self.workers_are_well()?;
        }
        Ok(())
    }

    fn workers_are_well(&mut self) -> Result<(), String> {
        while let Some(ended) = self.workers.try_join_next() {
            ended.map_err(|error| error.to_string())??;
        }
        Ok(())
    }

    /// Somebody registers, the holder is troubled and then preempted, and the newcomer writes in its place.
    async fn round(&mut self) -> Result<(), String> {
        let newcomer = self.newcomer();
        if !self.register(&newcomer).await {
            self.mend().await;
            return Ok(());
        }
        let holder = self.holder.clone();
        if let Some(holder) = &holder {
            self.trouble(holder.gateway).await;
        }
        let came = self.take(&newcomer).await;
        if came {
            self.holder = Some(newcomer.clone());
            // What it sees now is what the preempted may change no more.
            for block in 0..BLOCKS {
                newcomer.read(block).await?;
            }
            for _ in 0..WORKERS {
                self.workers.spawn(newcomer.clone().work(self.rng.random()));
            }
        }
        let pause = self.rng.random_range(50..800);
        sleep(Duration::from_millis(pause)).await;
        self.mend().await;
        if let Some(holder) = holder.filter(|_| came) {
            self.hears(&holder).await?;
        }
        Ok(())
    }

    /// Another initiator than all before, mostly through another gateway than the holder's.
    fn newcomer(&mut self) -> Arc<Life> {
        self.lives += 1;
        let gateway = match &self.holder {
            Some(holder) if self.rng.random_bool(0.2) => holder.gateway,
            Some(holder) => (holder.gateway + 1) % self.gateways.len(),
            None => 0,
        };
        self.life(gateway, self.lives)
    }

    fn life(&self, gateway: usize, number: u64) -> Arc<Life> {
        Arc::new(Life {
            number,
            gateway,
            session: Session::new(number, &self.gateways[gateway]),
            challenged: AtomicBool::new(false),
            shut_off: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            recorder: self.recorder.clone(),
        })
    }

    /// Registers the life's number as its key, whatever is registered for it.
    async fn register(&self, life: &Life) -> bool {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let sent = life.session.reserve_out(REGISTER_AND_IGNORE, 0, 0, life.number);
            if sent.await == Some(Status::Good) {
                return true;
            }
            sleep(Duration::from_millis(100)).await;
        }
        info!(life = life.number, "gives up registering");
        false
    }

    /// The key that holds the reservation, as far as a gateway knows.
    async fn held(&self, life: &Life) -> Option<u64> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let sent = life.session.send(&[0x5e, 1, 0, 0, 0, 0, 0, 0, 64, 0], Vec::new()).await;
            if let Some(response) = sent.filter(|response| response.status == Status::Good) {
                let data = response.data_in.concat();
                return data.get(8..16).map(|key| u64::from_be_bytes(key.try_into().expect("8 bytes")));
            }
            sleep(Duration::from_millis(100)).await;
        }
        None
    }

    /// Takes the reservation, from whoever holds it. After an answer that leaves open what happened it is asked for again. If
    /// that finds another state than was thought, an earlier try was made, or one of a newcomer that gave up: then the next
    /// change that is answered proves that what was made before it is enforced.
    async fn take(&mut self, newcomer: &Arc<Life>) -> bool {
        let holder = self.holder.clone();
        let kind = [WRITE_EXCLUSIVE, EXCLUSIVE_ACCESS][usize::from(self.rng.random_bool(0.4))];
        if let Some(holder) = &holder {
            holder.challenged.store(true, Ordering::Relaxed);
        }
        for former in self.former.drain(..) {
            former.shut_off.store(false, Ordering::Relaxed);
        }
        let mut held = holder.as_ref().map(|holder| holder.number);
        let until = Instant::now() + PATIENCE;
        loop {
            let action = if held.is_some() { PREEMPT_AND_ABORT } else { RESERVE };
            let sent = newcomer.session.reserve_out(action, kind, newcomer.number, held.unwrap_or(0));
            match sent.await {
                Some(Status::Good) => break,
                Some(Status::ReservationConflict) => {
                    if !self.register(newcomer).await {
                        return false;
                    }
                    held = self.held(newcomer).await;
                    if held == Some(newcomer.number) {
                        break;
                    }
                }
                _ if Instant::now() > until => {
                    info!(life = newcomer.number, "gives up taking the reservation");
                    return false;
                }
                _ => sleep(Duration::from_millis(100)).await,
            }
        }
        let Some(holder) = holder else { return true };
        let returned = self.recorder.history().tick();
        self.recorder.history().shut_out(holder.number, returned);
        if kind == EXCLUSIVE_ACCESS {
            holder.shut_off.store(true, Ordering::Relaxed);
            self.former.push(holder.clone());
        }
        self.preempted += 1;
        info!(preempted = holder.number, by = newcomer.number, kind, "has preempted");
        true
    }

    /// Slows a gateway's way to the chunkservers, and cuts it off from the MDSs or kills it; or does nothing.
    async fn trouble(&mut self, gateway: usize) {
        let host = &mut self.gateways[gateway];
        if self.rng.random_bool(0.7) {
            let slowest = Duration::from_millis(self.rng.random_range(100..4000));
            let delay = Duration::from_millis(20)..slowest;
            let slow = Link { delay, loss: 0.0, duplication: 0.3, reordering: 0.5, cut: false };
            host.set_links(&self.chunkservers, &slow);
            let meanwhile = self.rng.random_range(10..300);
            sleep(Duration::from_millis(meanwhile)).await;
        }
        match self.rng.random_range(0..10) {
            0..5 => host.cut_from(&self.mds, true),
            5..7 => {
                info!(gateway = host.name, "is killed");
                host.crash();
                self.killed += 1;
            }
            _ => {}
        }
    }

    /// All gateways are well again.
    async fn mend(&mut self) {
        for gateway in &mut self.gateways {
            gateway.cut_from(&self.mds, false);
            gateway.set_links(&self.chunkservers, &World::healthy_link());
            if !gateway.is_running() {
                gateway.start();
            }
        }
    }

    /// The preempted initiator tries through the other gateway, too, and hears of its fate through its own some time later.
    async fn hears(&mut self, preempted: &Arc<Life>) -> Result<(), String> {
        let other = (preempted.gateway + 1) % self.gateways.len();
        let aside = self.life(other, preempted.number);
        aside.challenged.store(true, Ordering::Relaxed);
        aside.shut_off.store(preempted.shut_off.load(Ordering::Relaxed), Ordering::Relaxed);
        for block in 0..BLOCKS {
            if aside.write(block).await == Some(Status::Good) {
                return Err(format!("a write of {} through another gateway was let in", preempted.number));
            }
            aside.read(block).await?;
        }
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until && !preempted.refused.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// After all faults: somebody preempts the last holder, nothing is left that could land, and the history must be one
    /// that could have been.
    async fn finish(&mut self) -> Result<(), String> {
        self.mend().await;
        wait_healthy(&self.operator).await?;
        let last = self.newcomer();
        if !self.register(&last).await {
            return Err("no change of reservations is possible after all faults".into());
        }
        if self.holder.is_some() && !self.take(&last).await {
            return Err("nobody can be preempted after all faults".into());
        }
        sleep(Duration::from_secs(30)).await;
        self.workers_are_well()?;
        let until = Instant::now() + Duration::from_secs(90);
        while !self.workers.is_empty() && Instant::now() < until {
            sleep(Duration::from_millis(100)).await;
            self.workers_are_well()?;
        }
        if !self.workers.is_empty() {
            return Err(format!("{} workers of preempted initiators go on", self.workers.len()));
        }
        for block in 0..BLOCKS {
            let until = Instant::now() + HEALING_MAX;
            while last.read(block).await? != Some(Status::Good) {
                if Instant::now() > until {
                    return Err(format!("block {block} cannot be read"));
                }
                sleep(Duration::from_millis(100)).await;
            }
        }
        self.recorder.history().check()
    }
}
