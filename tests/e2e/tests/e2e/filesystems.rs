//! File systems on a volume: made, filled, checked, while the cluster loses a chunkserver.

use std::time::Duration;

use curve_e2e::{LoopDevice, Mounted, Volume, is_root, turn};
use curve_harness::run;

/// How a file system is made and checked.
struct FileSystem {
    make: (&'static str, &'static [&'static str]),
    check: (&'static str, &'static [&'static str]),
}

const EXT4: FileSystem =
    FileSystem { make: ("mkfs.ext4", &["-q", "-F"]), check: ("fsck.ext4", &["-f", "-n"]) };
const XFS: FileSystem = FileSystem { make: ("mkfs.xfs", &["-q", "-f"]), check: ("xfs_repair", &["-n"]) };

#[tokio::test]
async fn ext4_is_made_filled_and_checked() {
    let _turn = turn("ext4_is_made_filled_and_checked").await;
    exercise(&EXT4).await;
}

#[tokio::test]
async fn xfs_is_made_filled_and_checked() {
    let _turn = turn("xfs_is_made_filled_and_checked").await;
    exercise(&XFS).await;
}

async fn exercise(kind: &FileSystem) {
    if !is_root() {
        println!("not root: mounts are not possible, nothing was tested");
        return;
    }
    let volume = Volume::start("1GiB").await;
    let disk = LoopDevice::attach(&volume.uri).await;
    on(kind.make, &disk.device).await;

    let mounted = Mounted::mount(&disk.device).await;
    let script = "for i in $(seq 200); do head -c $((i * 997)) /dev/urandom > f$i; done; \
                  head -c 64M /dev/urandom > large; mkdir d; cp f1* d/; rm f2*; sync; \
                  find . -type f | sort | xargs sha256sum > /dev/shm/curve-e2e.sums";
    let first = shell(&mounted, script);
    // A replica is lost in the middle of it.
    let (killed, ()) = tokio::join!(volume.playground.kill("chunkserver-2"), first);
    killed.unwrap_or_else(|error| panic!("{error}"));
    mounted.unmount().await;
    on(kind.check, &disk.device).await;

    volume.playground.restart("chunkserver-2").await.unwrap_or_else(|error| panic!("{error}"));
    let mounted = Mounted::mount(&disk.device).await;
    shell(&mounted, "sha256sum --quiet -c /dev/shm/curve-e2e.sums && rm -f /dev/shm/curve-e2e.sums").await;
    mounted.unmount().await;
    on(kind.check, &disk.device).await;
    println!("{}: every checksum is right, {} finds nothing", kind.make.0, kind.check.0);
}

async fn on((program, arguments): (&str, &[&str]), device: &str) {
    let all: Vec<&str> = arguments.iter().copied().chain([device]).collect();
    run(180, program, &all).await.unwrap_or_else(|error| panic!("{error}"));
}

async fn shell(mounted: &Mounted, script: &str) {
    let script = format!("set -e; cd {}; {script}", mounted.path().display());
    let finished = curve_harness::run_within(Duration::from_secs(300), "bash", &["-c", &script]).await;
    finished.and_then(curve_harness::Finished::success).unwrap_or_else(|error| panic!("{error}"));
}
