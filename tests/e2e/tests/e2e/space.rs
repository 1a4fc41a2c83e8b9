//! Full disks.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use curve_e2e::{Volume, is_root, turn};
use curve_harness::nbd::{NbdClient, NbdError};
use curve_harness::{PlaygroundOptions, run};
use tempfile::TempDir;

use crate::curvefs::{Cluster, can_mount};

const MIB: usize = 1 << 20;

#[tokio::test]
async fn a_full_disk_refuses_keeps_serving_and_recovers() {
    let _turn = turn("a_full_disk_refuses_keeps_serving_and_recovers").await;
    if !is_root() {
        println!("not root: small file systems cannot be mounted, nothing was tested");
        return;
    }
    let disks = SmallDisks::mount("chunkserver", 3, "1536M").await;
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
    let volume = Volume::start_with(options, "4GiB").await;
    let client = volume.client().await;
    let written = fill(&client).await;
    println!("{written} MiB fit");
    assert!(written > 100, "only {written} MiB fit");
    for at in [0, written / 2, written - 1] {
        let bytes = client.read((at * MIB) as u64, MIB as u32).await.expect("a full disk is read");
        assert!(bytes.iter().all(|byte| *byte == pattern(at)), "MiB {at} is wrong");
    }
    // Chunkservers tell with their next heartbeat, a second later.
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
    let disks = SmallDisks::mount("metaserver", 3, "768M").await;
    let cluster = Cluster::start_in(Some(disks.dir()), &["--metaserver-set=log_size = \"128MiB\""]).await;
    let mount = cluster.mount("m").await;
    let at = |name: &str| mount.dir().join(name);
    for name in ["read", "removed", "moved", "cut"] {
        std::fs::write(at(name), "some bytes").expect("written");
    }
    let status = async || cluster.playground.json(&["cluster", "status"]).await.expect("status").to_string();
    // All but 16 MiB, less than a twentieth.
    let disk = disks.mounts[1].display();
    let fill =
        format!("fallocate -l $(( $(df --output=avail -B1 {disk} | tail -1) - (16 << 20) )) {disk}/filler");
    run(30, "bash", &["-c", &fill]).await.unwrap_or_else(|error| panic!("{error}"));
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

    std::fs::remove_file(disks.mounts[1].join("filler")).expect("there is room again");
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
    async fn mount(role: &str, count: usize, size: &str) -> Self {
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
        this
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
