//! The kernel's own NBD driver: a virtual machine attaches the volume over TCP with `nbd-client`, and makes, mounts, writes
//! and checks ext4 and xfs on it (`tests/e2e/guest/init`), while a chunkserver is killed.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use curve_e2e::turn;
use curve_harness::{Playground, PlaygroundOptions, binary, has_program, run_within};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

#[tokio::test]
async fn the_kernels_nbd_driver_in_a_guest() {
    let _turn = turn("the_kernels_nbd_driver_in_a_guest").await;
    if !has_program("qemu-system-x86_64") || !has_program("apt-get") {
        println!("needs qemu-system-x86_64 (make deps) and apt for the guest's kernel; nothing was tested");
        return;
    }
    let image = guest_image().await;
    let playground =
        Playground::start(PlaygroundOptions::default()).await.unwrap_or_else(|error| panic!("{error}"));
    playground.create("/vol", "1GiB").await.unwrap_or_else(|error| panic!("{error}"));
    let (_server, port) = serve_tcp(&playground).await;
    let faults = async {
        tokio::time::sleep(Duration::from_secs(15)).await;
        playground.kill("chunkserver-3").await?;
        playground.restart("chunkserver-3").await
    };
    let (console, broken) = tokio::join!(boot(&image, port), faults);
    broken.unwrap_or_else(|error| panic!("{error}"));
    for line in console.lines().filter(|line| line.contains("guest:") || line.contains("attached:")) {
        println!("{}", line.trim());
    }
    assert!(console.contains("GUEST-OK"), "{console}");
}

/// Kernel and initramfs, made once for each target directory.
async fn guest_image() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/guest/build.sh");
    let init = concat!(env!("CARGO_MANIFEST_DIR"), "/guest/init");
    let made = |path: &Path| path.metadata().and_then(|metadata| metadata.modified()).ok();
    let image = dir.join("initramfs.cpio");
    if made(&image) < made(Path::new(init)).max(made(Path::new(script))) {
        let built = run_within(Duration::from_secs(300), script, &[&dir.display().to_string()]).await;
        let built =
            built.and_then(curve_harness::Finished::success).unwrap_or_else(|error| panic!("{error}"));
        println!("{}", built.stdout.trim());
    }
    dir
}

/// Serves `/vol` on a free port of the loopback.
async fn serve_tcp(playground: &Playground) -> (Child, u16) {
    let mut server = Command::new(binary("curve-nbd"))
        .args(["serve", "/vol", "--listen", "127.0.0.1:0", "--config"])
        .arg(playground.config())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("curve-nbd starts");
    let stdout = server.stdout.take().expect("it is piped");
    let line =
        tokio::time::timeout(Duration::from_secs(30), BufReader::new(stdout).lines().next_line()).await;
    let line = line.expect("curve-nbd is ready in time").expect("it writes").expect("it says `ready URI`");
    let port = line.rsplit_once(':').and_then(|(_, rest)| rest.split('/').next()?.parse().ok());
    (server, port.unwrap_or_else(|| panic!("no port in {line}")))
}

/// Runs the guest to its end and returns its console. Emulated, since not every test machine can virtualize.
async fn boot(image: &Path, port: u16) -> String {
    let kernel = image.join("vmlinuz").display().to_string();
    let initramfs = image.join("initramfs.cpio").display().to_string();
    let append = format!("console=ttyS0 panic=-1 nbd_port={port} nbd_name=vol");
    let arguments = [
        "-accel",
        "tcg,thread=multi",
        "-m",
        "512",
        "-smp",
        "2",
        "-display",
        "none",
        "-no-reboot",
        "-kernel",
        &kernel,
        "-initrd",
        &initramfs,
        "-append",
        &append,
        "-netdev",
        "user,id=n",
        "-device",
        "virtio-net-pci,netdev=n",
        "-serial",
        "stdio",
    ];
    let finished = run_within(Duration::from_secs(300), "qemu-system-x86_64", &arguments).await;
    finished.unwrap_or_else(|error| panic!("{error}")).stdout
}
