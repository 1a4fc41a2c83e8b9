//! What POSIX asks of a file system, of a CurveFS mounted over the network: the suite pjdfstest, and random operations on one
//! file of one and of two mounts.
//!
//! Few operations here; `make fs-posix` sets `CURVE_FSX=1000000` and installs pjdfstest, without which its test is passed over.

use std::path::PathBuf;
use std::time::Duration;

use curve_e2e::turn;
use curve_harness::{fsx, run};

use crate::curvefs::{Cluster, blocking, can_mount};

/// Users that every Debian has: the suite changes between them.
const CONFIGURATION: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.01
allow_remount = false
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"], ["bin", "bin"]]
"#;

/// `$PJDFSTEST`, the suite's program.
#[tokio::test]
async fn pjdfstest_passes() {
    let _turn = turn("curvefs_posix::pjdfstest").await;
    let Some(suite) = std::env::var_os("PJDFSTEST").map(PathBuf::from).filter(|_| can_mount()) else {
        println!("$PJDFSTEST is not set (make fs-posix); nothing was tested");
        return;
    };
    let cluster = Cluster::start(&[]).await;
    let mount = cluster.mount("a").await;
    run(10, "chmod", &["755", &cluster.dir.path().display().to_string()]).await.expect("chmod");
    let configuration = cluster.dir.path().join("pjdfstest.toml");
    std::fs::write(&configuration, CONFIGURATION).expect("written");
    let (configuration, dir) = (configuration.display().to_string(), mount.dir().display().to_string());
    let said = run(1200, &suite.display().to_string(), &["-c", &configuration, "-p", &dir]).await;
    let said = said.unwrap_or_else(|error| panic!("{error}"));
    let told = |line: &&str| !line.ends_with("success") && !line.trim().is_empty();
    println!("{}", said.stdout.lines().filter(told).collect::<Vec<_>>().join("\n"));
    mount.unmount().await.unwrap_or_else(|error| panic!("{error}"));
}

fn operations(few: u64) -> u64 {
    std::env::var("CURVE_FSX").ok().and_then(|ops| ops.parse().ok()).unwrap_or(few)
}

#[tokio::test]
async fn fsx_on_one_mount() {
    let _turn = turn("curvefs_posix::fsx_on_one_mount").await;
    if !can_mount() {
        return;
    }
    let cluster = Cluster::start(&[]).await;
    let mount = cluster.mount("a").await;
    let dirs = vec![mount.dir().to_path_buf()];
    blocking(move || {
        fsx::run("curvefs_posix::exerciser", &dirs, operations(3_000), Duration::from_secs(7200))
    })
    .await;
    mount.unmount().await.unwrap_or_else(|error| panic!("{error}"));
}

#[tokio::test]
async fn fsx_alternates_between_two_mounts() {
    let _turn = turn("curvefs_posix::fsx_alternates_between_two_mounts").await;
    if !can_mount() {
        return;
    }
    let cluster = Cluster::start(&[]).await;
    let (a, b) = (cluster.mount("a").await, cluster.mount("b").await);
    let dirs = vec![a.dir().to_path_buf(), b.dir().to_path_buf()];
    let ops = operations(5_000) / 5;
    blocking(move || fsx::run("curvefs_posix::exerciser", &dirs, ops, Duration::from_secs(7200))).await;
    for mount in [a, b] {
        mount.unmount().await.unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
#[ignore = "run by the others, in a process of its own"]
fn exerciser() {
    fsx::exerciser();
}
