//! Nothing is lost, stale or torn while members are killed, frozen and restarted; and how long clients wait.

use std::time::{Duration, Instant};

use curve_e2e::{HangingDisk, Volume, is_root, seconds_from_env, turn};
use curve_harness::PlaygroundOptions;
use curve_harness::checker::Checker;
use curve_harness::faults::{Fault, FaultOptions, inflict, inflict_one, summarize};

/// The promises, from the failure model. Debug builds on two shared cores get some slack; `make soak` runs a release
/// build without.
const STALL_KILL_MAX: Duration = Duration::from_millis(if cfg!(debug_assertions) { 5000 } else { 2000 });
const STALL_PAUSE_MAX: Duration = Duration::from_millis(5000);
/// A disk counts as hung after 2 s; then others take over.
const STALL_HANG_MAX: Duration = Duration::from_millis(if cfg!(debug_assertions) { 8000 } else { 5000 });
const STALL_STOP_MAX: Duration = Duration::from_millis(if cfg!(debug_assertions) { 2500 } else { 200 });

/// The checker under seeded faults for `$CURVE_SOAK_SECONDS` (60 when absent), with `$CURVE_SOAK_SEED`, of the kinds in
/// `$CURVE_SOAK_FAULTS` (`kill,pause,stop`).
#[tokio::test]
async fn soak_checker_under_faults() {
    let _turn = turn("soak_checker_under_faults").await;
    let seed = seconds_from_env("CURVE_SOAK_SEED", 1).as_secs();
    let volume = Volume::start("1GiB").await;
    let checker = Checker::start(volume.checker(seed)).await.expect("it serves");
    let mut options = FaultOptions::new(seed, seconds_from_env("CURVE_SOAK_SECONDS", 60));
    if let Ok(kinds) = std::env::var("CURVE_SOAK_FAULTS") {
        let kinds: Result<_, String> = kinds.split(',').map(str::parse).collect();
        options.faults = kinds.unwrap_or_else(|error| panic!("$CURVE_SOAK_FAULTS: {error}"));
    }
    let events =
        inflict(&volume.playground, &checker, &options).await.unwrap_or_else(|error| panic!("{error}"));
    let report = checker.finish().await;
    println!("seed {seed}: {report}");
    for event in &events {
        if let Some(stall) = report.stall_between(event.began, event.healed) {
            println!("{event}\n           {stall}");
        }
    }
    for (fault, count, longest) in summarize(&events, &report) {
        println!("{fault:?}: {count} times, longest stall {:.3} s", longest.as_secs_f64());
    }
    report.assert_clean();
    for (fault, _, longest) in summarize(&events, &report) {
        let limit = match fault {
            Fault::Kill => STALL_KILL_MAX,
            Fault::Pause => STALL_PAUSE_MAX,
            Fault::Stop => STALL_STOP_MAX,
        };
        assert!(longest <= limit, "{fault:?}: a stall of {longest:?}, promised are {limit:?}");
    }
}

#[tokio::test]
async fn every_chunkserver_stops_gracefully_in_turn() {
    let _turn = turn("every_chunkserver_stops_gracefully_in_turn").await;
    each_chunkserver(Fault::Stop, STALL_STOP_MAX).await;
}

#[tokio::test]
async fn every_chunkserver_is_killed_in_turn() {
    let _turn = turn("every_chunkserver_is_killed_in_turn").await;
    each_chunkserver(Fault::Kill, STALL_KILL_MAX).await;
}

async fn each_chunkserver(fault: Fault, limit: Duration) {
    let volume = Volume::start("1GiB").await;
    let checker = Checker::start(volume.checker(2)).await.expect("it serves");
    let mut events = Vec::new();
    for member in ["chunkserver-1", "chunkserver-2", "chunkserver-3"] {
        let away = Duration::from_secs(2);
        let event = inflict_one(&volume.playground, &checker, fault, member, away, Duration::ZERO).await;
        let event = event.unwrap_or_else(|error| panic!("{error}"));
        println!("{event}");
        events.push(event);
    }
    let report = checker.finish().await;
    println!("{report}");
    report.assert_clean();
    for event in &events {
        let stall = report.longest_between(event.began, event.healed);
        println!("{}: longest stall {:.3} s", event.member, stall.as_secs_f64());
        assert!(stall <= limit, "{event}: a stall of {stall:?}, promised are {limit:?}");
    }
}

#[tokio::test]
async fn a_pause_of_ten_seconds_gives_no_stale_read() {
    let _turn = turn("a_pause_of_ten_seconds_gives_no_stale_read").await;
    let volume = Volume::start("1GiB").await;
    let checker = Checker::start(volume.checker(3)).await.expect("it serves");
    for member in ["chunkserver-1", "chunkserver-3"] {
        let pause = Duration::from_secs(10);
        let event =
            inflict_one(&volume.playground, &checker, Fault::Pause, member, Duration::ZERO, pause).await;
        println!("{}", event.unwrap_or_else(|error| panic!("{error}")));
    }
    let report = checker.finish().await;
    println!("{report}");
    report.assert_clean();
    assert!(report.longest <= STALL_PAUSE_MAX, "a stall of {:?}", report.longest);
}

/// The server of such a disk lives, answers on the network, and can do nothing.
#[tokio::test]
async fn a_disk_that_hangs_stops_nobody() {
    let _turn = turn("a_disk_that_hangs_stops_nobody").await;
    if !is_root() {
        println!("not root: disks cannot be made to hang, nothing was tested");
        return;
    }
    let dir = tempfile::Builder::new().prefix("curve-hang-").tempdir().expect("a temporary directory");
    let place = dir.path().join("p");
    let disk = HangingDisk::mount(&place.join("data/chunkserver-1"), "3G").await;
    let more = ["--chunkserver-set=pool_files = 2", "--chunkserver-set=log_size = \"256MiB\""];
    let options = PlaygroundOptions {
        dir: Some(place),
        more: more.map(str::to_owned).to_vec(),
        ..PlaygroundOptions::default()
    };
    let volume = Volume::start_with(options, "1GiB").await;
    let playground = &volume.playground;
    let metric = async |name: &str| {
        playground.metric("chunkserver-1", name).await.expect("metrics").unwrap_or_default()
    };
    let checker = Checker::start(volume.checker(6)).await.expect("it serves");
    let mut hung = Vec::new();
    for _ in 0..2 {
        let until = Instant::now() + Duration::from_secs(120);
        while metric("curve_chunkserver_copysets_led").await == 0.0 || checker.progress().0 < 100 {
            assert!(Instant::now() < until, "chunkserver-1 leads nothing");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let began = checker.elapsed();
        disk.hang();
        tokio::time::sleep(Duration::from_secs(12)).await;
        hung.push((began, checker.elapsed()));
        let status = playground.json(&["cluster", "status"]).await.expect("status");
        assert!(status["items"].to_string().contains("CHUNKSERVER_DOWN"), "{status}");
        disk.answer();
        playground.wait_healthy(60).await.unwrap_or_else(|error| panic!("{error}"));
    }
    let report = checker.finish().await;
    println!("{report}");
    report.assert_clean();
    for (began, ended) in hung {
        let stall = report.longest_between(began, ended);
        println!("the disk hung from {:.1} s: {:?}", began.as_secs_f64(), report.stall_between(began, ended));
        assert!(stall <= STALL_HANG_MAX, "a stall of {stall:?}, promised are {STALL_HANG_MAX:?}");
    }
    drop((volume, disk));
}

#[tokio::test]
async fn open_volumes_go_on_without_any_mds() {
    let _turn = turn("open_volumes_go_on_without_any_mds").await;
    let volume = Volume::start("1GiB").await;
    // Its only segment is allocated before the MDSs go.
    let checker = Checker::start(volume.checker(4)).await.expect("it serves");
    while checker.progress().0 < 100 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for member in ["mds-1", "mds-2", "mds-3"] {
        volume.playground.kill(member).await.unwrap_or_else(|error| panic!("{error}"));
    }
    // Longer than leases and sessions.
    let before = checker.progress();
    let created =
        volume.playground.curve(&["bs", "create", "/other", "--size", "1GiB"]).await.expect("it runs");
    assert_eq!(created.status.code(), Some(6), "{}", created.stderr);
    assert!(created.stderr.contains("UNAVAILABLE") && created.stderr.contains("MDS"), "{}", created.stderr);
    tokio::time::sleep(Duration::from_secs(15)).await;
    let after = checker.progress();
    println!("without any MDS: {} writes, {} reads", after.0 - before.0, after.1 - before.1);
    assert!(after.0 > before.0 + 100 && after.1 > before.1 + 100, "I/O goes on: {before:?} to {after:?}");

    for member in ["mds-1", "mds-2", "mds-3"] {
        volume
            .playground
            .verb(60, &["playground", "restart", member, "--no-wait"])
            .await
            .unwrap_or_else(|error| panic!("{error}"));
    }
    volume.playground.wait_healthy(60).await.unwrap_or_else(|error| panic!("{error}"));
    volume.playground.create("/other", "1GiB").await.unwrap_or_else(|error| panic!("{error}"));
    let report = checker.finish().await;
    println!("{report}");
    report.assert_clean();
    assert!(report.longest <= STALL_STOP_MAX, "losing the MDSs stalled I/O for {:?}", report.longest);
}

#[tokio::test]
async fn a_killed_nbd_server_is_replaced_without_loss() {
    let _turn = turn("a_killed_nbd_server_is_replaced_without_loss").await;
    let volume = Volume::start("1GiB").await;
    let mut options = volume.checker(5);
    options.reconnect_within = Duration::from_secs(60);
    let checker = Checker::start(options).await.expect("it serves");
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        volume.playground.kill("nbd-1").await.unwrap_or_else(|error| panic!("{error}"));
        let restarted = volume.playground.verb(60, &["playground", "restart", "nbd-1", "--no-wait"]).await;
        println!(
            "served again after {:.3} s",
            restarted.unwrap_or_else(|error| panic!("{error}")).took.as_secs_f64()
        );
    }
    let report = checker.finish().await;
    println!("{report}");
    report.assert_clean();
    assert!(report.reconnects > 0);
}
