//! CurveFS as mounted: by real programs, on many mounts, under faults.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use curve_e2e::{HangingDisk, is_root, seconds_from_env, turn};
use curve_harness::faults::{Clock, Fault, FaultOptions, inflict, inflict_one};
use curve_harness::files::{Expected, FilesChecker, Tolerance, verify};
use curve_harness::{FsMount, Playground, PlaygroundOptions, run};

/// A metaserver that dies: how long changes may wait (the issue says 3 s on a release build).
const GAP_MAX: Duration = Duration::from_secs(if cfg!(debug_assertions) { 6 } else { 3 });

/// A metaserver whose disk hangs: others lead after 2 s.
const HANG_GAP_MAX: Duration = Duration::from_secs(if cfg!(debug_assertions) { 9 } else { 6 });

/// A playground with a file system called `fs`.
pub struct Cluster {
    pub playground: Playground,
    pub dir: tempfile::TempDir,
}

impl Cluster {
    pub async fn start(more: &[&str]) -> Self {
        Self::start_in(None, more).await
    }

    pub async fn start_in(dir: Option<PathBuf>, more: &[&str]) -> Self {
        let more = ["--fs"].iter().chain(more).map(|more| (*more).to_owned()).collect();
        let options = PlaygroundOptions { dir, more, ..PlaygroundOptions::default() };
        let playground = Playground::start(options).await.unwrap_or_else(|error| panic!("{error}"));
        let dir = tempfile::Builder::new().prefix("curve-mounts-").tempdir().expect("a directory");
        playground.create_file_system("fs", &[]).await.unwrap_or_else(|error| panic!("{error}"));
        Self { playground, dir }
    }

    pub async fn mount(&self, at: &str) -> FsMount {
        self.mount_with(at, &[]).await
    }

    pub async fn mount_with(&self, at: &str, more: &[&str]) -> FsMount {
        FsMount::start(&self.playground, "fs", &self.dir.path().join(at), more).await
    }
}

/// Mounts need root here; says so where it is not.
pub fn can_mount() -> bool {
    let can = is_root() && Path::new("/dev/fuse").exists();
    if !can {
        println!("needs root and /dev/fuse; nothing was tested");
    }
    can
}

pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("it does not panic")
}

#[tokio::test]
async fn two_mounts_share_files_and_everything_is_there_after_a_restart() {
    let _turn = turn("two_mounts_share_files").await;
    if !can_mount() {
        return;
    }
    let cluster = Cluster::start(&[]).await;
    let (a, b) = (cluster.mount("a").await, cluster.mount("b").await);
    let (at_a, at_b) = (a.dir().to_path_buf(), b.dir().to_path_buf());
    blocking(move || close_to_open(&at_a, &at_b, 300)).await;
    let (at_a, at_b) = (a.dir().to_path_buf(), b.dir().to_path_buf());
    blocking(move || appends_from_two_mounts(&at_a, &at_b, 200)).await;
    let (at_a, at_b) = (a.dir().to_path_buf(), b.dir().to_path_buf());
    blocking(move || locks_exclude(&at_a, &at_b)).await;

    let mounts = cluster.playground.json(&["fs", "mounts", "fs"]).await.expect("mounts");
    assert!(mounts.to_string().matches("\"directory\"").count() == 2, "{mounts}");
    a.unmount().await.unwrap_or_else(|error| panic!("{error}"));
    b.unmount().await.unwrap_or_else(|error| panic!("{error}"));

    let playground = &cluster.playground;
    playground.verb(60, &["playground", "restart", "--all"]).await.unwrap_or_else(|error| panic!("{error}"));
    let a = cluster.mount("a").await;
    let shared = a.dir().join("appended");
    let lines = blocking(move || fs::read_to_string(shared).expect("it is there").lines().count()).await;
    assert_eq!(lines, 400);
    a.unmount().await.unwrap_or_else(|error| panic!("{error}"));
}

/// Whoever removes a file system may go away in the middle; the same command goes on.
#[tokio::test]
async fn a_removal_that_was_interrupted_goes_on() {
    let _turn = turn("a_removal_that_was_interrupted_goes_on").await;
    if !can_mount() {
        return;
    }
    let cluster = Cluster::start(&[]).await;
    let mount = cluster.mount("a").await;
    for n in 0..5u8 {
        // More than what waits in the metadata.
        fs::write(mount.dir().join(format!("f{n}")), [n; 100_000]).expect("written");
    }
    mount.unmount().await.unwrap_or_else(|error| panic!("{error}"));

    let playground = &cluster.playground;
    playground.kill("s3-1").await.unwrap_or_else(|error| panic!("{error}"));
    let remove = ["fs", "rm", "fs", "--yes"];
    let interrupted = playground.curve_within(Duration::from_secs(8), &remove).await;
    assert!(interrupted.is_err(), "it was killed, since its store does not answer");
    let listed = playground.json(&["fs", "ls"]).await.expect("a list").to_string();
    assert!(listed.contains("deleting"), "{listed}");

    playground.restart("s3-1").await.unwrap_or_else(|error| panic!("{error}"));
    let removed = playground.json(&remove).await.expect("removed");
    assert!(removed["objects_deleted"].as_u64().is_some_and(|deleted| deleted >= 5), "{removed}");
    cluster.playground.create_file_system("fs", &[]).await.unwrap_or_else(|error| panic!("{error}"));
}

/// What is closed on one mount is seen by the next open on the other.
fn close_to_open(a: &Path, b: &Path, rounds: u32) {
    let (mut from, mut to) = (a, b);
    for round in 0..rounds {
        let text = format!("{round}\n").repeat(1 + round as usize % 50);
        fs::write(from.join("shared"), &text).expect("written");
        assert_eq!(fs::read_to_string(to.join("shared")).expect("read"), text, "round {round}");
        std::mem::swap(&mut from, &mut to);
    }
}

/// O_APPEND from two mounts at the same time loses nothing.
fn appends_from_two_mounts(a: &Path, b: &Path, each: usize) {
    File::create(a.join("appended")).expect("made");
    std::thread::scope(|scope| {
        for (who, dir) in [("a", a), ("b", b)] {
            scope.spawn(move || {
                for number in 0..each {
                    let mut file = OpenOptions::new().append(true).open(dir.join("appended")).expect("open");
                    file.write_all(format!("{who} {number}\n").as_bytes()).expect("written");
                }
            });
        }
    });
    let text = fs::read_to_string(b.join("appended")).expect("read");
    for who in ["a", "b"] {
        let prefix = format!("{who} ");
        let numbers = text.lines().filter_map(|line| line.strip_prefix(&prefix)?.parse().ok());
        assert_eq!(numbers.collect::<Vec<usize>>(), (0..each).collect::<Vec<_>>(), "{who}");
    }
}

/// fcntl locks exclude processes of other mounts: `flock(1)` cannot show it, SQLite's locks can.
fn locks_exclude(a: &Path, b: &Path) {
    use rustix::fs::{FlockOperation, fcntl_lock};
    let first = File::create(a.join("lock")).expect("made");
    let second = OpenOptions::new().write(true).open(b.join("lock")).expect("open");
    fcntl_lock(&first, FlockOperation::NonBlockingLockExclusive).expect("free");
    let refused = fcntl_lock(&second, FlockOperation::NonBlockingLockExclusive);
    assert!(matches!(refused, Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS)), "{refused:?}");
    fcntl_lock(&first, FlockOperation::Unlock).expect("unlocked");
    fcntl_lock(&second, FlockOperation::NonBlockingLockExclusive).expect("free again");
}

/// A file-level checker for `$CURVE_FS_SOAK_SECONDS` (60 when absent) while every kind of server dies or is paused.
#[tokio::test]
async fn files_survive_faults() {
    let _turn = turn("files_survive_faults").await;
    if !can_mount() {
        return;
    }
    let cluster = Cluster::start(&[]).await;
    let mount = cluster.mount("a").await;
    let seed = seconds_from_env("CURVE_SOAK_SEED", 1).as_secs();
    let checker = FilesChecker::start(mount.dir(), seed, vec![Expected::default(); 4], Tolerance::None);
    let options = FaultOptions::new(seed, seconds_from_env("CURVE_FS_SOAK_SECONDS", 60));
    let events = inflict(&cluster.playground, &checker, &options).await;
    let events = events.unwrap_or_else(|error| panic!("{error}\n{}", mount.log()));
    let (mut expected, report) = blocking(|| checker.finish()).await;
    for event in &events {
        println!("{event}: longest {:?}", report.longest_between(event.began, event.healed));
    }
    println!("seed {seed}: {} changes, {} reads", report.changes, report.reads);
    report.assert_clean();
    mount.unmount().await.unwrap_or_else(|error| panic!("{error}"));
    let other = cluster.mount("b").await;
    let root = other.dir().to_path_buf();
    let violations = blocking(move || verify(&root, &mut expected)).await;
    assert_eq!(violations, Vec::<String>::new());
    other.unmount().await.unwrap_or_else(|error| panic!("{error}"));
}

#[tokio::test]
async fn what_was_synced_survives_the_death_of_the_mount() {
    let _turn = turn("what_was_synced_survives_the_death_of_the_mount").await;
    if !can_mount() {
        return;
    }
    let cluster = Cluster::start(&["--mds-set", "mount_lease = '3s'"]).await;
    let mut expected = vec![Expected::default(); 3];
    for round in 0..4 {
        let mount = cluster.mount("a").await;
        let root = mount.dir().to_path_buf();
        let (violations, before) = blocking(move || (verify(&root, &mut expected), expected)).await;
        if round > 0 {
            assert_eq!(violations, Vec::<String>::new(), "round {round}");
        }
        let checker = FilesChecker::start(mount.dir(), round, before, Tolerance::Gone);
        while checker.changes() < 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        mount.kill().await;
        let (after, report) = blocking(|| checker.finish()).await;
        assert!(report.violations.is_empty(), "{:?}", report.violations);
        expected = after;
    }
    // Dead mounts are shut out after their lease, and nothing of them is left.
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let mounts = cluster.playground.json(&["fs", "mounts", "fs"]).await.expect("mounts");
        if !mounts.to_string().contains("\"directory\"") {
            break;
        }
        assert!(Instant::now() < until, "dead mounts stay: {mounts}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test]
async fn a_metaserver_that_dies_delays_changes_for_a_moment() {
    let _turn = turn("a_metaserver_that_dies").await;
    if !can_mount() {
        return;
    }
    let cluster = Cluster::start(&[]).await;
    let mount = cluster.mount("a").await;
    let checker = FilesChecker::start(mount.dir(), 7, vec![Expected::default(); 4], Tolerance::None);
    let mut events = Vec::new();
    for member in ["metaserver-1", "metaserver-2", "metaserver-3"] {
        let away = Duration::from_secs(4);
        let event =
            inflict_one(&cluster.playground, &checker, Fault::Kill, member, away, Duration::ZERO).await;
        events.push(event.unwrap_or_else(|error| panic!("{error}")));
    }
    let (_, report) = blocking(|| checker.finish()).await;
    report.assert_clean();
    for event in &events {
        let gap = report.longest_between(event.began, event.healed);
        println!("{event}: longest {gap:?}");
        assert!(gap <= GAP_MAX, "{event}: {gap:?}");
    }
    mount.unmount().await.unwrap_or_else(|error| panic!("{error}"));
}

/// The servers of such disks live, answer on the network, and can do nothing.
#[tokio::test]
async fn disks_of_metaservers_and_of_the_leading_mds_that_hang_delay_changes_for_a_moment() {
    let _turn = turn("disks_of_metaservers_and_of_the_leading_mds_that_hang").await;
    if !can_mount() {
        return;
    }
    let dir = tempfile::Builder::new().prefix("curve-hang-").tempdir().expect("a temporary directory");
    let place = dir.path().join("p");
    let mut disks = Vec::new();
    for name in ["metaserver-1", "metaserver-2", "metaserver-3", "mds-1"] {
        disks.push((name, HangingDisk::mount(&place.join("data").join(name), "2G").await));
    }
    let more = ["--metaserver-set=log_size = \"128MiB\"", "--mds-set=reserve = \"64MiB\""];
    let cluster = Cluster::start_in(Some(place), &more).await;
    let playground = &cluster.playground;
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let status = playground.json(&["cluster", "status"]).await.expect("status");
        let leads = |mds: &&serde_json::Value| mds["leader"] == true;
        match status["mds"].as_array().expect("a list").iter().find(leads).map(|mds| mds["id"].as_u64()) {
            Some(Some(1)) => break,
            Some(Some(id)) => playground.restart(&format!("mds-{id}")).await.expect("restarted"),
            other => println!("{other:?} leads"),
        }
        assert!(Instant::now() < until, "mds-1 never leads");
    }
    let mount = cluster.mount("a").await;
    let checker = FilesChecker::start(mount.dir(), 9, vec![Expected::default(); 4], Tolerance::None);
    // A server that stands still says nothing, and leads nothing.
    let led = async |name: &str| {
        let metric = if name == "mds-1" { "curve_mds_leader" } else { "curve_metaserver_partitions_led" };
        playground.metric(name, metric).await.ok().flatten().unwrap_or_default()
    };
    let (mut hung, mut replaced) = (Vec::new(), BTreeSet::new());
    // Whoever leads what nobody uses asks nothing of its disk, and leaders are moved now and then.
    for (name, disk) in disks.iter().cycle().take(12) {
        let leads = led(name).await > 0.0;
        let began = checker.elapsed();
        disk.hang();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let asked = Instant::now();
        cluster
            .playground
            .create(&format!("/v{}", hung.len()), "1GiB")
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        println!("a volume was made in {:?}", asked.elapsed());
        assert!(asked.elapsed() <= HANG_GAP_MAX);
        tokio::time::sleep(Duration::from_secs(6)).await;
        if leads && led(name).await == 0.0 {
            replaced.insert(*name);
        }
        hung.push((began, checker.elapsed()));
        disk.answer();
        playground.wait_healthy(60).await.unwrap_or_else(|error| panic!("{error}"));
        if replaced.contains("mds-1") && replaced.len() > 1 {
            break;
        }
    }
    let (_, report) = blocking(|| checker.finish()).await;
    report.assert_clean();
    let gaps: Vec<Duration> =
        hung.into_iter().map(|(began, ended)| report.longest_between(began, ended)).collect();
    println!("the longest gaps: {gaps:?}");
    assert!(replaced.contains("mds-1") && replaced.len() > 1, "only {replaced:?} were replaced");
    assert!(gaps.iter().all(|gap| *gap <= HANG_GAP_MAX), "{gaps:?}");
    mount.unmount().await.unwrap_or_else(|error| panic!("{error}"));
    drop((cluster, disks));
}

/// The object store is away for a while: programs wait, then go on.
#[tokio::test]
async fn a_store_that_is_away_is_waited_for() {
    let _turn = turn("a_store_that_is_away_is_waited_for").await;
    if !can_mount() {
        return;
    }
    let cluster = Cluster::start(&[]).await;
    let mount = cluster.mount("a").await;
    cluster.playground.kill("s3-1").await.expect("killed");
    let path = mount.dir().join("file").display().to_string();
    // Not in this process: what it starts would wait for the file, too, since that is closed there.
    let writing = tokio::spawn(async move {
        let (to, bytes) = (format!("of={path}"), ["bs=100000", "count=1", "conv=fsync"]);
        let arguments = [&["if=/dev/zero", to.as_str()], &bytes[..]].concat();
        run(120, "dd", &arguments).await
    });
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!writing.is_finished(), "nothing can be durable without a store");
    cluster.playground.restart("s3-1").await.expect("back");
    let written = tokio::time::timeout(Duration::from_secs(60), writing).await.expect("it goes on");
    written.expect("no panic").expect("no error");
    let path = mount.dir().join("file");
    let found = blocking(move || fs::read(path)).await.expect("read");
    assert!(found == [0; 100_000]);
    mount.unmount().await.unwrap_or_else(|error| panic!("{error}"));
}
