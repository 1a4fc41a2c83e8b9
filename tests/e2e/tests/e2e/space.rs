//! Full disks.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use curve_e2e::{Volume, is_root, turn};
use curve_harness::checker::{Checker, CheckerOptions};
use curve_harness::nbd::{NbdClient, NbdError};
use curve_harness::{Playground, PlaygroundOptions, run};
use tempfile::TempDir;

use crate::curvefs::{Cluster, can_mount};

const MIB: usize = 1 << 20;

#[tokio::test]
async fn a_full_disk_refuses_keeps_serving_and_recovers() {
    let _turn = turn("a_full_disk_refuses_keeps_serving_and_recovers").await;
    let Some((disks, volume)) = small_volume("1536M", "4GiB").await else { return };
    let client = volume.client().await;
    let written = fill(&client).await;
    println!("{written} MiB fit");
    assert!(written > 100, "only {written} MiB fit");
    for at in [0, written / 2, written - 1] {
        let bytes = client.read((at * MIB) as u64, MIB as u32).await.expect("a full disk is read");
        assert!(bytes.iter().all(|byte| *byte == pattern(at)), "MiB {at} is wrong");
    }
    // Chunkservers tell when they first refuse something, which may be under way.
    let begun = Instant::now();
    loop {
        let status = volume.playground.json(&["cluster", "status"]).await.expect("status");
        println!("health while full: {} {}", status["health"], status["items"]);
        if status["health"] != "OK" {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(3), "nobody is told of full disks");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    // Half is given back; then there is room again.
    for at in 0..written / 2 {
        client.trim((at * MIB) as u64, MIB as u32).await.expect("a full disk takes a trim");
    }
    client.flush().await.expect("a flush");
    let begun = Instant::now();
    loop {
        match client.write(0, payload(0)).await {
            Ok(()) => break,
            Err(NbdError::Refused { errno: 28, .. }) => {}
            Err(error) => panic!("{error}"),
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "freed space is not used");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("writable again {:.1} s after half was given back", begun.elapsed().as_secs_f64());
    let bytes = client.read(((written - 1) * MIB) as u64, MIB as u32).await.expect("readable");
    assert!(bytes.iter().all(|byte| *byte == pattern(written - 1)));
    drop((client, volume, disks));
}

#[tokio::test]
async fn a_full_metaserver_gives_enospc_keeps_serving_and_recovers() {
    let _turn = turn("a_full_metaserver_gives_enospc").await;
    if !can_mount() {
        return;
    }
    let Some(disks) = SmallDisks::mount("metaserver", 3, "768M").await else { return };
    let cluster = Cluster::start_in(Some(disks.dir()), &["--metaserver-set=log_size = \"128MiB\""]).await;
    let mount = cluster.mount("m").await;
    let at = |name: &str| mount.dir().join(name);
    for name in ["read", "removed", "moved", "cut"] {
        std::fs::write(at(name), "some bytes").expect("written");
    }
    let status = async || cluster.playground.json(&["cluster", "status"]).await.expect("status").to_string();
    // All but 16 MiB, less than a twentieth.
    disks.take_all_but(1, 16 << 20).await;
    let begun = Instant::now();
    while !status().await.contains("METASERVER_FULL") {
        assert!(begun.elapsed() < Duration::from_secs(30), "nobody says that a metaserver is full");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // Other metaservers hear of it within a heartbeat.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let refused = |error: std::io::Error| assert_eq!(error.raw_os_error(), Some(28), "{error}");
    refused(std::fs::create_dir(at("new")).unwrap_err());
    refused(std::fs::File::create(at("new")).unwrap_err());
    let file = std::fs::OpenOptions::new().append(true).open(at("read")).expect("opened");
    let written = (&file).write_all(b"more").and_then(|()| file.sync_all());
    refused(written.unwrap_err());
    drop(file);
    assert!(std::fs::read_to_string(at("read")).expect("read").starts_with("some bytes"));
    std::fs::remove_file(at("removed")).expect("removed");
    std::fs::rename(at("moved"), at("there")).expect("moved");
    std::fs::OpenOptions::new().write(true).truncate(true).open(at("cut")).expect("cut");

    disks.make_room(1);
    let begun = Instant::now();
    while std::fs::create_dir(at("new")).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(30), "freed space is not used");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("writable again {:.1} s after there was room", begun.elapsed().as_secs_f64());
    std::fs::write(at("new/file"), "some bytes").expect("written");
    cluster.playground.wait_healthy(60).await.unwrap_or_else(|error| panic!("{error}"));
    mount.unmount().await.unwrap_or_else(|error| panic!("{error}"));
    drop((cluster, disks));
}

/// The longest stall while a disk is filled, which is seen within a fraction of a second.
const STALL_FULL_MAX: Duration = Duration::from_secs(3);

#[tokio::test]
async fn disks_that_something_else_fills_stop_nobody_as_long_as_others_have_room() {
    let _turn = turn("disks_that_something_else_fills").await;
    let Some((disks, volume)) = small_volume("3G", "1GiB").await else { return };
    // What is there needs no room when it is written again.
    let options = CheckerOptions { zeroes: false, ..volume.checker(8) };
    let client = volume.client().await;
    for lane in 0..options.blocks / options.lane_blocks {
        client.write(lane * options.lane_bytes, Bytes::from(vec![0; MIB])).await.expect("written");
    }
    drop(client);
    let playground = &volume.playground;
    let led = async || {
        let metric = "curve_chunkserver_copysets_led";
        playground.metric("chunkserver-1", metric).await.expect("metrics").unwrap_or_default()
    };
    let checker = Checker::start(options).await.expect("it serves");
    let until = Instant::now() + Duration::from_secs(120);
    while led().await == 0.0 || checker.progress().0 < 100 {
        assert!(Instant::now() < until, "chunkserver-1 leads nothing");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let began = checker.elapsed();
    disks.fill(0).await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(led().await, 0.0, "a chunkserver whose disk is full leads");
    let status = playground.json(&["cluster", "status"]).await.expect("status");
    assert!(status["items"].to_string().contains("CAPACITY_FULL"), "{status}");
    let one_full = (began, checker.elapsed());

    disks.fill(1).await;
    disks.fill(2).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = checker.progress();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(checker.progress().0, before.0, "something is written although there is no room");
    (0..3).for_each(|disk| disks.make_room(disk));
    let freed = Instant::now();
    while checker.progress().0 == before.0 {
        assert!(freed.elapsed() < Duration::from_secs(20), "nothing is written although there is room");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("written again {:.1} s after there was room", freed.elapsed().as_secs_f64());
    // Nobody has ended.
    playground.wait_healthy(60).await.unwrap_or_else(|error| panic!("{error}"));
    let report = checker.finish().await;
    println!("{report}");
    report.assert_clean();
    let stall = report.longest_between(one_full.0, one_full.1);
    println!("while one disk was full: {:?}", report.stall_between(one_full.0, one_full.1));
    assert!(stall <= STALL_FULL_MAX, "a stall of {stall:?}, promised are {STALL_FULL_MAX:?}");
    drop((volume, disks));
}

#[tokio::test]
async fn an_mds_whose_disk_is_full_hands_over_says_so_and_goes_on_when_there_is_room() {
    let _turn = turn("an_mds_whose_disk_is_full").await;
    let Some(disks) = SmallDisks::mount("mds", 3, "256M").await else { return };
    let options = PlaygroundOptions { dir: Some(disks.dir()), ..PlaygroundOptions::default() };
    let playground = Playground::start(options).await.unwrap_or_else(|error| panic!("{error}"));
    let status = async || playground.json(&["cluster", "status"]).await.expect("status");
    let leader = async || {
        let status = status().await;
        let all = status["mds"].as_array().expect("a list");
        all.iter().position(|mds| mds["leader"] == true).expect("one leads")
    };
    let first = leader().await;
    let name = format!("mds-{}", first + 1);
    disks.fill(first).await;
    let filled = Instant::now();
    while !status().await["items"].to_string().contains("MDS_DISK_FULL") {
        assert!(filled.elapsed() < Duration::from_secs(10), "nobody says that {name}'s disk is full");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_ne!(leader().await, first);
    playground.create("/one", "1GiB").await.unwrap_or_else(|error| panic!("{error}"));
    // It does not start either, and says why.
    playground.restart(&name).await.expect_err("it does not start on a full disk");
    let log = playground.log(&name);
    assert!(log.contains("4MiB must be"), "{log}");
    assert!(!log.contains("Assertion"), "{log}");
    playground.create("/two", "1GiB").await.unwrap_or_else(|error| panic!("{error}"));

    let others = (0..3).filter(|disk| *disk != first);
    for disk in others {
        disks.fill(disk).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let refused = playground.curve(&["bs", "create", "/three", "--size", "1GiB"]).await.expect("it runs");
    assert_eq!(refused.status.code(), Some(6), "{}", refused.stderr);
    assert!(refused.stderr.contains("UNAVAILABLE") && refused.stderr.contains("full"), "{}", refused.stderr);

    (0..3).for_each(|disk| disks.make_room(disk));
    playground.restart(&name).await.unwrap_or_else(|error| panic!("{error}"));
    playground.create("/four", "1GiB").await.unwrap_or_else(|error| panic!("{error}"));
    playground.wait_healthy(60).await.unwrap_or_else(|error| panic!("{error}"));
    drop((playground, disks));
}

/// A volume on three chunkservers with small disks, a small log and a small reserve; nothing where disks cannot be mounted.
async fn small_volume(disk: &str, volume: &str) -> Option<(SmallDisks, Volume)> {
    let disks = SmallDisks::mount("chunkserver", 3, disk).await?;
    let more = [
        "--chunkserver-set=reserve = \"256MiB\"",
        "--chunkserver-set=pool_files = 2",
        "--chunkserver-set=log_size = \"256MiB\"",
        "--mds-set=reserve = \"64MiB\"",
    ];
    let options = PlaygroundOptions {
        dir: Some(disks.dir()),
        more: more.map(str::to_owned).to_vec(),
        ..PlaygroundOptions::default()
    };
    let volume = Volume::start_with(options, volume).await;
    Some((disks, volume))
}

/// Writes MiB after MiB until there is no space; returns how many were acknowledged.
async fn fill(client: &NbdClient) -> usize {
    let begun = Instant::now();
    for at in 0..4096 {
        match client.write((at * MIB) as u64, payload(at)).await {
            Ok(()) => {}
            Err(NbdError::Refused { errno: 28, .. }) => return at,
            Err(error) => panic!("MiB {at}: expected success or no space, got {error}"),
        }
        assert!(begun.elapsed() < Duration::from_secs(300), "a full disk must refuse, not hang; MiB {at}");
    }
    panic!("4 GiB fit on disks of 1.5 GiB")
}

const fn pattern(at: usize) -> u8 {
    (at % 251) as u8 + 1
}

fn payload(at: usize) -> Bytes {
    Bytes::from(vec![pattern(at); MIB])
}

/// Small file systems where servers will keep their data. Unmounted when dropped.
struct SmallDisks {
    dir: TempDir,
    mounts: Vec<PathBuf>,
}

impl SmallDisks {
    /// Nothing where file systems cannot be mounted.
    async fn mount(role: &str, count: usize, size: &str) -> Option<Self> {
        if !is_root() {
            println!("not root: small file systems cannot be mounted, nothing was tested");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("curve-small-").tempdir().expect("a temporary directory");
        let mut this = Self { dir, mounts: Vec::new() };
        for number in 1..=count {
            let image = this.dir.path().join(format!("disk-{number}.img")).display().to_string();
            let mount = this.dir().join("data").join(format!("{role}-{number}"));
            std::fs::create_dir_all(&mount).expect("a directory");
            run(30, "truncate", &["-s", size, &image]).await.unwrap_or_else(|error| panic!("{error}"));
            run(60, "mkfs.ext4", &["-q", "-F", "-m", "0", &image])
                .await
                .unwrap_or_else(|error| panic!("{error}"));
            let options = ["-o", "loop", &image, &mount.display().to_string()];
            run(30, "mount", &options).await.unwrap_or_else(|error| panic!("{error}"));
            this.mounts.push(mount);
        }
        Some(this)
    }

    /// Something else takes all room, in two steps, as what fills a disk mostly does.
    async fn fill(&self, disk: usize) {
        // Less than any server needs, and then nothing.
        self.take_all_but(disk, 6 << 20).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        self.take_all_but(disk, 0).await;
    }

    /// Something else takes all room but so many bytes.
    async fn take_all_but(&self, disk: usize, bytes: u64) {
        let filler = self.filler(disk);
        let name = filler.join(format!("all-but-{bytes}"));
        let (filler, name) = (filler.display(), name.display());
        let script = format!(
            "mkdir -p {filler}\n\
             bytes=$(( $(df --output=avail -B1 {filler} | tail -1) - {bytes} ))\n\
             [ $bytes -le 0 ] || fallocate -l $bytes {name} || head -c $bytes /dev/zero >> {name} || true"
        );
        run(60, "bash", &["-c", &script]).await.unwrap_or_else(|error| panic!("{error}"));
    }

    /// What was taken is given back.
    fn make_room(&self, disk: usize) {
        std::fs::remove_dir_all(self.filler(disk)).expect("it was filled");
    }

    fn filler(&self, disk: usize) -> PathBuf {
        self.mounts[disk].join("filler")
    }

    /// Where the playground goes.
    fn dir(&self) -> PathBuf {
        self.dir.path().join("p")
    }
}

impl Drop for SmallDisks {
    fn drop(&mut self) {
        for mount in &self.mounts {
            unmount(mount);
        }
    }
}

fn unmount(mount: &Path) {
    if let Err(error) = Command::new("umount").arg("-l").arg(mount).output() {
        eprintln!("umount {}: {error}", mount.display());
    }
}
