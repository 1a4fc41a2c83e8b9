//! Replicas that were away.

use std::collections::VecDeque;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use curve_e2e::{Volume, turn};
use curve_harness::nbd::NbdClient;
use curve_harness::{Playground, PlaygroundOptions};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

const MIB: usize = 1 << 20;
/// The volume is changed in stripes: of each, this many first bytes are. A whole one of the pieces in which a chunk
/// remembers changes, so that what is copied can be compared with what was changed.
const CHANGED: usize = 64 << 10;
const STRIPE: usize = 256 << 10;
const BLOCK: usize = 4 << 10;
/// More than the log keeps, so that what was missed is no longer in it.
const MISSED_MIB: usize = 512;
const LOG: &str = "--chunkserver-set=log_size = \"256MiB\"";
const WRITES_IN_FLIGHT: usize = 16;

/// A quarter of the volume (`CURVE_CATCHUP_MIB`, 512 when absent) is changed while a chunkserver is away: in every
/// stripe 64 KiB, in writes of 64 KiB and of 4 KiB, scattered over the volume. It comes back while fio reads and
/// writes. fio only writes to what is changed anyway, so no more than that can differ.
#[tokio::test]
async fn a_replica_that_was_away_receives_only_what_changed() {
    let _turn = turn("a_replica_that_was_away_receives_only_what_changed").await;
    let mib = std::env::var("CURVE_CATCHUP_MIB").map_or(512, |text| text.parse().expect("whole MiB"));
    let changed_mib = mib * CHANGED / STRIPE;
    let options = PlaygroundOptions { more: vec![LOG.to_owned()], ..PlaygroundOptions::default() };
    let volume = Volume::start_with(options, &format!("{mib}MiB")).await;
    let client = Arc::new(volume.client().await);
    write_all(&client, (0..mib).map(|at| (at * MIB, MIB, 1)).collect()).await;
    let fio = Fio::start(&volume.uri, mib);

    volume.playground.stop("chunkserver-2").await.unwrap_or_else(|error| panic!("{error}"));
    let rounds = MISSED_MIB.div_ceil(changed_mib);
    for round in 0..rounds {
        write_all(&client, changes(mib, round as u8 + 2)).await;
    }
    let begun = Instant::now();
    volume.playground.restart("chunkserver-2").await.unwrap_or_else(|error| panic!("{error}"));
    let copied = settled(&volume.playground, "chunkserver-2").await;
    let took = begun.elapsed().as_secs_f64();
    // Since its start, everything that reached it by its log was appended there, what fio wrote meanwhile too.
    let logged = metric(&volume.playground, "chunkserver-2", "curve_log_appended_bytes_total").await;
    let (operations, written) = fio.finish().await;

    let missed_by_log = (logged - 1.1 * written).max(0.0);
    let [copied, logged, written, received] =
        [copied, logged, written, copied + missed_by_log].map(|bytes| bytes / MIB as f64);
    println!(
        "{changed_mib} MiB of {mib} changed in {rounds} rounds; healthy after {took:.1} s; copied {copied:.1} MiB, by \
         the log {logged:.1} MiB, of which fio wrote up to {written:.1} ({operations} operations, no error)"
    );
    assert!(copied > 0.0, "nothing was copied: the log had everything, and this tested nothing");
    assert!(received <= 1.1 * changed_mib as f64, "{received:.1} MiB received for {changed_mib} changed");
    verify(&client, mib, rounds as u8 + 1).await;
}

/// The writes that change the first part of every stripe to `fill`, in an order that jumps about.
fn changes(mib: usize, fill: u8) -> VecDeque<(usize, usize, u8)> {
    let stripes = mib * MIB / STRIPE;
    // A prime that divides no volume's number of stripes: every stripe comes once.
    let order = (0..stripes).map(|n| n * 7919 % stripes);
    order
        .flat_map(|stripe| {
            let len = if stripe % 2 == 0 { CHANGED } else { BLOCK };
            (0..CHANGED / len).map(move |part| (stripe * STRIPE + part * len, len, fill))
        })
        .collect()
}

/// Does all writes (offset, length, byte), some at a time.
async fn write_all(client: &Arc<NbdClient>, writes: VecDeque<(usize, usize, u8)>) {
    let writes = Arc::new(Mutex::new(writes));
    let next = move || writes.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let mut workers = JoinSet::new();
    for _ in 0..WRITES_IN_FLIGHT {
        let (client, next) = (Arc::clone(client), next.clone());
        workers.spawn(async move {
            while let Some((offset, len, fill)) = next() {
                let written = client.write(offset as u64, Bytes::from(vec![fill; len])).await;
                written.unwrap_or_else(|error| panic!("write at {offset}: {error}"));
            }
        });
    }
    while let Some(done) = workers.join_next().await {
        done.expect("every write is acknowledged");
    }
}

/// Some stripes hold what was written last; the blocks that fio uses are left out.
async fn verify(client: &NbdClient, mib: usize, fill: u8) {
    for stripe in (0..mib * MIB / STRIPE).step_by(97) {
        let at = stripe * STRIPE;
        let bytes = client.read(at as u64, STRIPE as u32).await.expect("readable");
        assert!(bytes[BLOCK..CHANGED].iter().all(|byte| *byte == fill), "stripe {stripe} lost its change");
        assert!(
            bytes[CHANGED..].iter().all(|byte| *byte == 1),
            "stripe {stripe} changed where it should not"
        );
    }
}

async fn metric(playground: &Playground, name: &str, metric: &str) -> f64 {
    playground.metric(name, metric).await.unwrap_or_else(|error| panic!("{error}")).unwrap_or(0.0)
}

/// The bytes received by snapshots, once they grow no more and every copyset is whole.
async fn settled(playground: &Playground, name: &str) -> f64 {
    let begun = Instant::now();
    let mut last = -1.0;
    loop {
        let received = metric(playground, name, "curve_chunkserver_snapshot_received_bytes_total").await;
        let status = playground.json(&["cluster", "status"]).await.unwrap_or_else(|error| panic!("{error}"));
        if received == last && status["health"] == "OK" {
            return received;
        }
        last = received;
        assert!(begun.elapsed() < Duration::from_secs(300), "does not settle: {status:#}");
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// fio in the background: random reads and writes of the first block of stripes, at a moderate rate.
struct Fio(Child);

impl Fio {
    fn start(uri: &str, mib: usize) -> Self {
        let child = Command::new("fio")
            .args(["--name=meanwhile", "--ioengine=nbd", "--rw=randrw", "--bs=4k", "--iodepth=4"])
            .args([format!("--uri={uri}"), format!("--size={mib}m"), format!("--blockalign={STRIPE}")])
            .args(["--rate_iops=100,100", "--norandommap", "--time_based", "--runtime=1200"])
            .args(["--thread=1", "--output-format=json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("fio starts");
        Self(child)
    }

    /// Ends it; returns its operations and the bytes it wrote. It must not have seen an error.
    async fn finish(self) -> (u64, f64) {
        let id = self.0.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)).expect("fio still runs");
        kill_process(id, Signal::INT).expect("it is our child");
        let output = tokio::time::timeout(Duration::from_secs(60), self.0.wait_with_output()).await;
        let output = output.expect("fio ends when asked").expect("its output is read");
        let text = String::from_utf8_lossy(&output.stdout);
        let json = text.find('{').map_or("", |at| &text[at..]);
        let report: Value = serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {text}"));
        let job = &report["jobs"][0];
        assert_eq!(job["error"], 0, "fio saw an error: {text}");
        let number = |side: &str, key: &str| job[side][key].as_f64().expect("fio counts");
        let operations = number("read", "total_ios") + number("write", "total_ios");
        assert!(operations > 0.0, "fio did nothing");
        (operations as u64, number("write", "io_bytes"))
    }
}
