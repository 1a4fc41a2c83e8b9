//! The kernel's own NBD driver: a virtual machine attaches the volume over TCP with `nbd-client`, and makes, mounts, writes
//! and checks ext4 and xfs on it (`tests/e2e/guest/init`), while a chunkserver is killed; and `curve-nbd map` with all that
//! may happen to the process behind a device (`tests/e2e/guest/map.sh`).

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
    let console = image.join("console");
    let arguments = format!("nbd_port={port} nbd_name=vol");
    let (booted, broken) = tokio::join!(boot(&image, &console, &arguments, None), faults);
    broken.unwrap_or_else(|error| panic!("{error}"));
    judge(&booted);
}

#[tokio::test]
async fn kernel_devices_outlive_the_process_that_serves_them() {
    let _turn = turn("kernel_devices_outlive_the_process_that_serves_them").await;
    if !has_program("qemu-system-x86_64") || !has_program("apt-get") {
        println!("needs qemu-system-x86_64 (make deps) and apt for the guest's kernel; nothing was tested");
        return;
    }
    let image = guest_image().await;
    let playground =
        Playground::start(PlaygroundOptions::default()).await.unwrap_or_else(|error| panic!("{error}"));
    for (path, size) in [("/raw", "256MiB"), ("/kept", "64MiB")] {
        playground.create(path, size).await.unwrap_or_else(|error| panic!("{error}"));
    }
    let program = stripped(&image, &binary("curve-nbd")).await;
    let bytes = program.metadata().expect("it was just made").len();
    let arguments = format!("map_bytes={bytes} mds={}", mds_addresses(&playground));
    let console = image.join("console");
    let grow = async {
        said(&console, "guest: grow now").await;
        playground.curve(&["bs", "resize", "/raw", "--size", "512MiB"]).await?.success()
    };
    let first = boot(&image, &console, &arguments, Some(&program));
    // A guest that ends before it asks for the size has failed, and says why.
    let first = tokio::select! {
        first = first => first,
        grown = async { (grow.await, std::future::pending::<()>().await).0 } => panic!("{grown:?}"),
    };
    judge(&first);
    judge(&boot(&image, &console, &format!("{arguments} again"), Some(&program)).await);
}

/// A smaller copy of a program: the guest has all of it in memory.
async fn stripped(dir: &Path, program: &Path) -> PathBuf {
    let copy = dir.join("program");
    let arguments = ["-o", &copy.display().to_string(), &program.display().to_string()].map(str::to_owned);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let finished = run_within(Duration::from_secs(60), "strip", &arguments).await;
    finished.and_then(curve_harness::Finished::success).unwrap_or_else(|error| panic!("{error}"));
    // A disk has whole sectors.
    let file = std::fs::File::options().write(true).open(&copy).expect("it was just made");
    let bytes = file.metadata().expect("it is open").len();
    file.set_len(bytes.next_multiple_of(512)).expect("there is room");
    copy
}

/// The MDSs' addresses.
fn mds_addresses(playground: &Playground) -> String {
    let text = std::fs::read_to_string(playground.config()).unwrap_or_else(|error| panic!("{error}"));
    let quoted = text.split('"').skip(1).step_by(2);
    quoted.filter(|word| word.starts_with("127.0.0.1:")).collect::<Vec<_>>().join(",")
}

/// Waits until the guest has said something.
async fn said(console: &Path, what: &str) {
    while !std::fs::read_to_string(console).unwrap_or_default().contains(what) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Shows what the guest found, and fails if it failed.
fn judge(console: &str) {
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
    let map = concat!(env!("CARGO_MANIFEST_DIR"), "/guest/map.sh");
    let image = dir.join("initramfs.cpio");
    if made(&image) < [init, script, map].iter().map(|source| made(Path::new(source))).max().flatten() {
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

/// Runs the guest to its end and returns what it wrote to its console. Emulated, since not every test machine can
/// virtualize. `disk` is its /dev/vda.
async fn boot(image: &Path, console: &Path, arguments: &str, disk: Option<&Path>) -> String {
    // What an earlier guest said must not be taken for this one's.
    std::fs::write(console, "").expect("the console's file can be written");
    let kernel = image.join("vmlinuz").display().to_string();
    let initramfs = image.join("initramfs.cpio").display().to_string();
    let serial = format!("file:{}", console.display());
    let append = format!("console=ttyS0 panic=-1 {arguments}");
    let drive = disk.map(|disk| format!("file={},format=raw,if=virtio,readonly=on", disk.display()));
    let fixed = "-accel tcg,thread=multi -m 1024 -smp 2 -display none -no-reboot \
                 -netdev user,id=n -device virtio-net-pci,netdev=n";
    let mut all: Vec<&str> = fixed.split_whitespace().collect();
    all.extend(["-kernel", &kernel, "-initrd", &initramfs, "-serial", &serial, "-append", &append]);
    if let Some(drive) = &drive {
        all.extend(["-drive", drive]);
    }
    let finished = run_within(Duration::from_secs(400), "qemu-system-x86_64", &all).await;
    finished
        .and_then(curve_harness::Finished::success)
        .unwrap_or_else(|error| panic!("{error}\n{}", std::fs::read_to_string(console).unwrap_or_default()));
    let said = std::fs::read(console).expect("the guest has written to it");
    String::from_utf8_lossy(&said).into_owned()
}
