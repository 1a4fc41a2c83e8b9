//! One run: a cluster, clients, faults, healing, and the verdict.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use curve_blockdev::BlockDevice;
use curve_client::mds::HealthLevel;
use curve_client::{ClientConfig, Cluster, OpenOptions, Volume};
use curve_io::sim::SimDiskStats;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::info;

use crate::convergence;
use crate::faults::{FaultMenu, inflict};
use crate::meters::{CORRUPT_FOUND, Meters, UNASKED_READS};
use crate::planted::Planted;
use crate::tally::Tally;
use crate::workload::{Blocks, Pace, Recorder, Worker, read_all};
use crate::world::{Shape, World};

/// How a run goes.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// The cluster.
    pub shape: Shape,
    /// What may go wrong.
    pub menu: FaultMenu,
    /// How long faults are inflicted, in virtual time.
    pub length: Duration,
    /// Concurrent operations of one client.
    pub workers: usize,
    /// Blocks that are used; a seed may take four or sixteen times as many hot ones.
    pub blocks: Blocks,
    /// Whether a second client takes the volume over now and then.
    pub takeovers: bool,
    /// A bug that the run should find.
    pub planted: Option<Planted>,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            shape: Shape::default(),
            menu: FaultMenu::ALL,
            length: Duration::from_secs(20),
            workers: 4,
            blocks: Blocks { hot: 12, cold: 8 },
            takeovers: true,
            planted: None,
        }
    }
}

/// What a run that passed did; equal for equal seeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Writes acknowledged, writes of unknown outcome, reads.
    pub operations: (usize, usize, usize),
    /// Messages delivered.
    pub messages: u64,
    /// Bytes delivered.
    pub bytes: u64,
    /// Bytes written to all disks.
    pub disk_bytes: u64,
    /// Virtual time of the run in microseconds.
    pub virtual_us: u128,
    /// What went wrong, and what else is worth counting, and how often.
    pub faults: Tally,
}

impl Summary {
    /// What a world did since `began`.
    pub(crate) fn new(operations: (usize, usize, usize), began: Instant, world: &World) -> Self {
        let (network, disks) = (world.network.stats(), disks(world));
        let mut faults = world.tally.clone();
        faults.add("refused-full", disks.refused_full);
        faults.add("slow-reads", disks.slow_reads);
        Self {
            operations,
            messages: network.requests + network.replies,
            bytes: network.bytes,
            disk_bytes: disks.bytes_written,
            virtual_us: began.elapsed().as_micros(),
            faults,
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (acknowledged, unknown, reads) = self.operations;
        write!(f, "writes={acknowledged} unknown={unknown} reads={reads} ")?;
        write!(f, "messages={} bytes={} disk-bytes={} ", self.messages, self.bytes, self.disk_bytes)?;
        write!(f, "virtual-us={} {}", self.virtual_us, self.faults)
    }
}

/// How long a cluster without faults may need for anything.
pub(crate) const HEALING_MAX: Duration = Duration::from_secs(120);

static PANICKED: AtomicBool = AtomicBool::new(false);

/// Counts a panic in any task as a failure of the run.
pub fn watch_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICKED.store(true, Ordering::SeqCst);
        before(info);
    }));
}

/// Plays in virtual time, with all that is random drawn from `seed`. A panic in any task since [`watch_panics`] is a
/// failure.
pub(crate) fn in_virtual_time(
    seed: u64,
    play: impl Future<Output = Result<Summary, String>>,
) -> Result<(Summary, Meters), String> {
    crate::entropy::seed(seed);
    let meters = Meters::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime starts");
    let mut summary = meters.during(|| runtime.block_on(play))?;
    if PANICKED.load(Ordering::SeqCst) {
        return Err("a task panicked; see above".into());
    }
    summary.faults.add("unasked-reads", meters.get(UNASKED_READS));
    Ok((summary, meters))
}

impl Scenario {
    /// Runs under `seed`. The error says what was violated.
    pub fn run(self, seed: u64) -> Result<Summary, String> {
        let (summary, meters) = in_virtual_time(seed, self.play(seed))?;
        let damaged = meters.get(CORRUPT_FOUND);
        if damaged > 0 && !self.menu.bit_flips {
            return Err(format!("replicas found {damaged} damaged blocks, although no bit was flipped"));
        }
        Ok(summary)
    }

    async fn play(self, seed: u64) -> Result<Summary, String> {
        let began = Instant::now();
        let mut world = World::new(seed, self.shape, self.planted);
        world.wrong_clocks = self.menu.wrong_clocks;
        let (recorder, pace) = (Recorder::default(), Pace::default());
        // Few blocks meet more often; many keep longer what was written.
        let hot = self.blocks.hot * [1, 4, 16][world.rng().random_range(0..3usize)];
        let blocks = Blocks { hot, ..self.blocks };
        timeout(HEALING_MAX, world.start_all()).await.map_err(|_| "the cluster does not start")??;
        let operator = world.client("operator", ClientConfig::default());
        wait_healthy(&operator).await?;
        let volume =
            timeout(HEALING_MAX, create(&operator)).await.map_err(|_| "the volume cannot be created")??;
        info!(%volume, "the cluster is up");

        let mut clients = JoinSet::new();
        let config =
            ClientConfig { io_timeout: "20s".parse().expect("a duration"), ..ClientConfig::default() };
        let count = if self.takeovers { 2 } else { 1 };
        for number in 1..=count {
            let cluster = world.client(&format!("client-{number}"), config.clone());
            let (recorder, pace, seed) = (recorder.clone(), pace.clone(), world.rng().random());
            let workers = self.workers;
            clients.spawn(Client { cluster, recorder, pace, blocks, workers, seed }.run());
        }
        let changing = tokio::spawn(pace.clone().change(StdRng::seed_from_u64(world.rng().random())));
        inflict(&mut world, self.menu, self.length).await?;
        wait_healthy(&operator).await?;
        // Operations that began under faults must end now that there are none.
        changing.abort();
        pace.rest(true);
        sleep(Duration::from_secs(5)).await;
        while let Some(ended) = clients.try_join_next() {
            ended.map_err(|error| error.to_string())??;
        }
        clients.abort_all();
        let last = open(&operator).await?;
        read_all(&last, &recorder, blocks, HEALING_MAX).await?;
        recorder.history().check()?;
        world.restart_failed().await?;
        convergence::check(&world, self.menu.bit_flips.then_some(world.flipped_host())).await?;
        let operations = recorder.history().counts();
        if operations.0 == 0 || operations.2 == 0 {
            return Err(format!("nothing was done: {operations:?}"));
        }
        Ok(Summary::new(operations, began, &world))
    }
}

/// All disks together.
fn disks(world: &World) -> SimDiskStats {
    let mut sum = SimDiskStats::default();
    for stats in (0..world.host_count()).map(|host| world.disk(host).stats()) {
        sum.bytes_written += stats.bytes_written;
        sum.refused_full += stats.refused_full;
        sum.slow_reads += stats.slow_reads;
    }
    sum
}

pub(crate) async fn wait_healthy(operator: &Cluster) -> Result<(), String> {
    let until = Instant::now() + HEALING_MAX;
    let mut last = "no answer".to_owned();
    while Instant::now() < until {
        match operator.mds().status().await {
            Ok(status) if status.level == HealthLevel::Ok && status.copysets > 0 => return Ok(()),
            Ok(status) => last = format!("{:?} with {} copysets", status.health, status.copysets),
            Err(error) => last = error.to_string(),
        }
        sleep(Duration::from_millis(500)).await;
    }
    Err(format!("the cluster is not healthy {HEALING_MAX:?} after all faults stopped: {last}"))
}

async fn create(operator: &Cluster) -> Result<String, String> {
    let created = operator.mds().create_volume("/sim", 1 << 30).await.map_err(|error| error.to_string())?;
    Ok(created.volume.id.to_string())
}

/// Opens the volume, whoever holds it.
async fn open(cluster: &Cluster) -> Result<Arc<Volume>, String> {
    let until = Instant::now() + HEALING_MAX;
    let options = OpenOptions { takeover: true, ..OpenOptions::default() };
    loop {
        match cluster.open("/sim", options).await {
            Ok(volume) => return Ok(volume),
            Err(error) if Instant::now() > until => {
                return Err(format!("the volume cannot be opened: {error}"));
            }
            Err(_) => sleep(Duration::from_millis(200)).await,
        }
    }
}

/// Opens the volume again and again, each time shutting the other client out, and works until it is shut out itself.
struct Client {
    cluster: Cluster,
    recorder: Recorder,
    pace: Pace,
    blocks: Blocks,
    workers: usize,
    seed: u64,
}

impl Client {
    async fn run(self) -> Result<(), String> {
        let mut life = 0;
        loop {
            let volume = open_while_faults_last(&self.cluster).await;
            self.recorder.history().open(volume.epoch().get());
            life += 1;
            let mut workers = JoinSet::new();
            for worker in 0..self.workers as u64 {
                let seed = self.seed ^ (life << 8) ^ worker;
                let (volume, recorder, pace) =
                    (Arc::clone(&volume), self.recorder.clone(), self.pace.clone());
                workers.spawn(Worker { pace, volume, recorder, blocks: self.blocks, seed }.run());
            }
            while let Some(ended) = workers.join_next().await {
                ended.map_err(|error| error.to_string())??;
            }
            // Leave the other client some time before it is shut out in turn.
            sleep(Duration::from_millis(1000 + (self.seed ^ life) % 3000)).await;
            let _ = volume.close().await;
        }
    }
}

async fn open_while_faults_last(cluster: &Cluster) -> Arc<Volume> {
    let options = OpenOptions { takeover: true, ..OpenOptions::default() };
    loop {
        match cluster.open("/sim", options).await {
            Ok(volume) => return volume,
            Err(error) => {
                info!(%error, "not opened");
                sleep(Duration::from_millis(300)).await;
            }
        }
    }
}
