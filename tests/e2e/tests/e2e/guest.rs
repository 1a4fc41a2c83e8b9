//! The kernel's own NBD driver: a virtual machine attaches the volume over TCP with `nbd-client`, and makes, mounts, writes
//! and checks ext4 and xfs on it (`tests/e2e/guest/init`), while a chunkserver is killed; and `curve-nbd map` with all that
//! may happen to the process behind a device (`tests/e2e/guest/map.sh`).

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use curve_e2e::guest::{Guest, judge};
use curve_e2e::turn;
use curve_harness::{Playground, PlaygroundOptions, binary, run_within};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

#[tokio::test]
async fn the_kernels_nbd_driver_in_a_guest() {
    let _turn = turn("the_kernels_nbd_driver_in_a_guest").await;
    let Some(guest) = Guest::made("nbd").await else { return };
    let playground =
        Playground::start(PlaygroundOptions::default()).await.unwrap_or_else(|error| panic!("{error}"));
    playground.create("/vol", "1GiB").await.unwrap_or_else(|error| panic!("{error}"));
    let (_server, port) = serve_tcp(&playground).await;
    let faults = async {
        tokio::time::sleep(Duration::from_secs(15)).await;
        playground.kill("chunkserver-3").await?;
        playground.restart("chunkserver-3").await
    };
    let arguments = format!("nbd_port={port} nbd_name=vol");
    let (booted, broken) = tokio::join!(guest.boot(&arguments, None), faults);
    broken.unwrap_or_else(|error| panic!("{error}"));
    judge(&booted);
}

#[tokio::test]
async fn kernel_devices_outlive_the_process_that_serves_them() {
    let _turn = turn("kernel_devices_outlive_the_process_that_serves_them").await;
    let Some(guest) = Guest::made("nbd").await else { return };
    let playground =
        Playground::start(PlaygroundOptions::default()).await.unwrap_or_else(|error| panic!("{error}"));
    for (path, size) in [("/raw", "256MiB"), ("/kept", "64MiB")] {
        playground.create(path, size).await.unwrap_or_else(|error| panic!("{error}"));
    }
    let program = stripped(guest.dir(), &binary("curve-nbd")).await;
    let bytes = program.metadata().expect("it was just made").len();
    let arguments = format!("map_bytes={bytes} mds={}", mds_addresses(&playground));
    let grow = async {
        guest.said("guest: grow now").await;
        playground.curve(&["bs", "resize", "/raw", "--size", "512MiB"]).await?.success()
    };
    let first = guest.boot(&arguments, Some(&program));
    // A guest that ends before it asks for the size has failed, and says why.
    let first = tokio::select! {
        first = first => first,
        grown = async { (grow.await, std::future::pending::<()>().await).0 } => panic!("{grown:?}"),
    };
    judge(&first);
    judge(&guest.boot(&format!("{arguments} again"), Some(&program)).await);
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
