//! Drives the device: several connections, each with several workers that write, read, trim and flush at random.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::judge::Judge;
use super::report::Report;
use super::stamp::{BLOCK, Stamp};
use crate::nbd::{NbdClient, NbdError};

/// How the checker works.
#[derive(Clone, Debug)]
pub struct CheckerOptions {
    /// The server's Unix socket.
    pub socket: PathBuf,
    /// The export.
    pub export: String,
    /// Decides what is done; the order of completions is up to the world.
    pub seed: u64,
    /// Connections.
    pub connections: u32,
    /// Operations in flight on each connection.
    pub depth: u32,
    /// Blocks in all.
    pub blocks: u64,
    /// Runs of blocks this far apart in the volume, in bytes, so that several chunks take part.
    pub lane_bytes: u64,
    /// Blocks of one lane.
    pub lane_blocks: u64,
    /// Whether to trim and to write zeros.
    pub zeroes: bool,
    /// How long to go on connecting when the server is gone; zero makes a lost connection an error.
    pub reconnect_within: Duration,
}

impl CheckerOptions {
    /// Sixteen chunks of 16 MiB, 256 blocks in each, from four connections with four operations each.
    pub fn new(socket: PathBuf, export: &str, seed: u64) -> Self {
        Self {
            socket,
            export: export.to_owned(),
            seed,
            connections: 4,
            depth: 4,
            blocks: 4096,
            lane_bytes: 16 << 20,
            lane_blocks: 256,
            zeroes: true,
            reconnect_within: Duration::ZERO,
        }
    }
}

/// State that all workers share. Locks are held for a moment, never across an await.
struct Shared {
    options: CheckerOptions,
    run: u64,
    judge: Mutex<Judge>,
    report: Mutex<Report>,
    begun: Instant,
    stop: AtomicBool,
}

/// What a worker asks of the device; may be asked again over another connection.
enum Operation {
    Write { offset: u64, payload: Bytes },
    Read { offset: u64, len: u32 },
    Trim { offset: u64, len: u32 },
    WriteZeroes { offset: u64, len: u32 },
    Flush,
}

impl Operation {
    const fn name(&self) -> &'static str {
        match self {
            Self::Write { .. } => "write",
            Self::Read { .. } => "read",
            Self::Trim { .. } => "trim",
            Self::WriteZeroes { .. } => "write-zeroes",
            Self::Flush => "flush",
        }
    }

    /// The bytes of a read; empty for all else.
    async fn run(&self, client: &NbdClient) -> Result<Vec<u8>, NbdError> {
        match self {
            Self::Write { offset, payload } => {
                client.write(*offset, payload.clone()).await.map(|()| Vec::new())
            }
            Self::Read { offset, len } => client.read(*offset, *len).await,
            Self::Trim { offset, len } => client.trim(*offset, *len).await.map(|()| Vec::new()),
            Self::WriteZeroes { offset, len } => {
                client.write_zeroes(*offset, *len).await.map(|()| Vec::new())
            }
            Self::Flush => client.flush().await.map(|()| Vec::new()),
        }
    }
}

/// A running checker.
pub struct Checker {
    shared: Arc<Shared>,
    workers: JoinSet<()>,
}

/// A connection that several workers share and that is made again when it is lost.
struct Link {
    current: tokio::sync::Mutex<Arc<NbdClient>>,
}

impl Checker {
    /// Connects and begins.
    pub async fn start(options: CheckerOptions) -> Result<Self, NbdError> {
        assert!(options.blocks.is_multiple_of(options.lane_blocks), "lanes are whole");
        let run = StdRng::from_os_rng().random();
        let shared = Arc::new(Shared {
            judge: Mutex::new(Judge::new(run, options.blocks)),
            report: Mutex::new(Report::default()),
            run,
            begun: Instant::now(),
            stop: AtomicBool::new(false),
            options,
        });
        let mut workers = JoinSet::new();
        for connection in 0..shared.options.connections {
            let client = shared.connect(connection).await?;
            let link = Arc::new(Link { current: tokio::sync::Mutex::new(Arc::new(client)) });
            for worker in 0..shared.options.depth {
                let seed = shared.options.seed ^ (u64::from(connection) << 40) ^ (u64::from(worker) << 52);
                workers.spawn(work(Arc::clone(&shared), Arc::clone(&link), seed));
            }
        }
        Ok(Self { shared, workers })
    }

    /// Time since the begin: the clock of the report's stalls.
    pub fn elapsed(&self) -> Duration {
        self.shared.begun.elapsed()
    }

    /// Acknowledged writes and judged reads up to now.
    pub fn progress(&self) -> (u64, u64) {
        let report = self.shared.report.lock().expect("no holder panics");
        (report.writes, report.reads)
    }

    /// Ends the workload, reads every block once more, and reports. Operations in flight are waited for.
    pub async fn finish(mut self) -> Report {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.workers.join_next().await {
            ended.expect("workers do not panic");
        }
        self.shared.read_everything().await;
        let mut report = self.shared.report.lock().expect("no holder panics").clone();
        report.ran = self.shared.begun.elapsed();
        report
    }
}

impl Shared {
    async fn connect(&self, connection: u32) -> Result<NbdClient, NbdError> {
        // Both kinds of replies are exercised.
        NbdClient::connect(&self.options.socket, &self.options.export, connection.is_multiple_of(2)).await
    }

    fn offset(&self, block: u64) -> u64 {
        let (lane, inside) = (block / self.options.lane_blocks, block % self.options.lane_blocks);
        lane * self.options.lane_bytes + inside * BLOCK as u64
    }

    /// Runs one operation to its end, over new connections where that is allowed. `None` when it failed.
    async fn carry_out(&self, link: &Link, block: u64, operation: Operation) -> Option<Vec<u8>> {
        let name = operation.name();
        let begun = Instant::now();
        let mut lost_at: Option<Instant> = None;
        let outcome = loop {
            let client = Arc::clone(&*link.current.lock().await);
            match operation.run(&client).await {
                Err(NbdError::Lost(why)) => {
                    let lost_at = *lost_at.get_or_insert_with(Instant::now);
                    if lost_at.elapsed() >= self.options.reconnect_within {
                        break Err(NbdError::Lost(why));
                    }
                    self.reconnect(link, &client).await;
                }
                outcome => break outcome,
            }
        };
        let mut report = self.report.lock().expect("no holder panics");
        report.finished(name, block, begun - self.begun, begun.elapsed());
        outcome.map_err(|error| report.error(format!("{name} of block {block}: {error}"))).ok()
    }

    /// Replaces a lost connection, unless another worker of the link already did.
    async fn reconnect(&self, link: &Link, lost: &Arc<NbdClient>) {
        const RETRY_EVERY: Duration = Duration::from_millis(20);
        let mut current = link.current.lock().await;
        if !Arc::ptr_eq(&current, lost) {
            return;
        }
        match self.connect(0).await {
            Ok(client) => {
                *current = Arc::new(client);
                self.report.lock().expect("no holder panics").reconnects += 1;
            }
            // The server is away; there is nothing to wait on but time.
            Err(_) => tokio::time::sleep(RETRY_EVERY).await,
        }
    }

    async fn write(&self, link: &Link, first: u64, count: u64) {
        let sequences = self.judge.lock().expect("no holder panics").begin_write(first, count, false);
        let Some(sequences) = sequences else { return };
        let payload = Stamp::fill_run(self.run, first, &sequences);
        let offset = self.offset(first);
        let outcome = self.carry_out(link, first, Operation::Write { offset, payload }).await;
        self.judge.lock().expect("no holder panics").end_write(first, &sequences, outcome.is_some());
        if outcome.is_some() {
            self.report.lock().expect("no holder panics").writes += 1;
        }
    }

    async fn zero(&self, link: &Link, first: u64, count: u64, trim: bool) {
        let sequences = self.judge.lock().expect("no holder panics").begin_write(first, count, true);
        let Some(sequences) = sequences else { return };
        let (offset, len) = (self.offset(first), count as u32 * BLOCK as u32);
        let operation =
            if trim { Operation::Trim { offset, len } } else { Operation::WriteZeroes { offset, len } };
        let outcome = self.carry_out(link, first, operation).await;
        self.judge.lock().expect("no holder panics").end_write(first, &sequences, outcome.is_some());
        if outcome.is_some() {
            self.report.lock().expect("no holder panics").zeroes += 1;
        }
    }

    async fn read(&self, link: &Link, first: u64, count: u64) {
        let ticket = self.judge.lock().expect("no holder panics").begin_read(first, count);
        let (offset, len) = (self.offset(first), count as u32 * BLOCK as u32);
        let outcome = self.carry_out(link, first, Operation::Read { offset, len }).await;
        let Some(bytes) = outcome else { return };
        let violations = self.judge.lock().expect("no holder panics").end_read(&ticket, &bytes);
        let at = self.begun.elapsed().as_secs_f64();
        let mut report = self.report.lock().expect("no holder panics");
        report.reads += 1;
        for violation in violations {
            report.violation(format!("at {at:.3} s: {violation}"));
        }
    }

    async fn flush(&self, link: &Link) {
        let outcome = self.carry_out(link, 0, Operation::Flush).await;
        if outcome.is_some() {
            self.report.lock().expect("no holder panics").flushes += 1;
        }
    }

    async fn read_everything(&self) {
        const BLOCKS_AT_ONCE: u64 = 64;
        let Ok(client) = self.connect(0).await else {
            self.report
                .lock()
                .expect("no holder panics")
                .error("cannot connect for the last reading".to_owned());
            return;
        };
        let link = Link { current: tokio::sync::Mutex::new(Arc::new(client)) };
        let step = BLOCKS_AT_ONCE.min(self.options.lane_blocks);
        for first in (0..self.options.blocks).step_by(step as usize) {
            self.read(&link, first, step.min(self.options.blocks - first)).await;
        }
        link.current.lock().await.disconnect().await;
    }
}

async fn work(shared: Arc<Shared>, link: Arc<Link>, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    while !shared.stop.load(Ordering::Relaxed) {
        let lane = random.random_range(0..shared.options.blocks / shared.options.lane_blocks);
        let count = if random.random_bool(0.7) { 1 } else { random.random_range(2..=16) };
        let inside = random.random_range(0..=shared.options.lane_blocks - count);
        let first = lane * shared.options.lane_blocks + inside;
        match random.random_range(0..100) {
            0..50 => shared.write(&link, first, count).await,
            50..94 => shared.read(&link, first, count).await,
            94..98 if shared.options.zeroes => shared.zero(&link, first, count, random.random()).await,
            _ => shared.flush(&link).await,
        }
        // Workers that find their blocks taken would otherwise not let the others run.
        tokio::task::yield_now().await;
    }
}

/// Writes one stamped block directly, for tests that need a known value.
pub async fn write_stamp(client: &NbdClient, offset: u64, stamp: Stamp) -> Result<(), NbdError> {
    let mut bytes = vec![0; BLOCK];
    stamp.fill(&mut bytes);
    client.write(offset, Bytes::from(bytes)).await
}
