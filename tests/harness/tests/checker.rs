//! The checker against servers whose behaviour is known: nbdkit's memory disk, correct and broken on purpose.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use curve_harness::checker::{Checker, CheckerOptions, Report};
use curve_harness::nbd::{NbdClient, NbdError};

struct Nbdkit {
    child: Child,
    socket: PathBuf,
}

impl Nbdkit {
    fn start(dir: &Path, arguments: &[&str]) -> Self {
        let socket = dir.join("nbd.sock");
        let child = Command::new("nbdkit")
            .args(["-f", "-U"])
            .arg(&socket)
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nbdkit is installed (make deps)");
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(Instant::now() < deadline, "nbdkit does not listen on {}", socket.display());
            std::thread::yield_now();
        }
        Self { child, socket }
    }
}

impl Drop for Nbdkit {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn check(arguments: &[&str]) -> Report {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = Nbdkit::start(dir.path(), arguments);
    let checker = Checker::start(CheckerOptions::new(server.socket.clone(), "", 1)).await.expect("it serves");
    tokio::time::sleep(Duration::from_secs(2)).await;
    checker.finish().await
}

#[tokio::test]
async fn a_correct_device_is_clean() {
    let report = check(&["memory", "512M"]).await;
    println!("{report}");
    report.assert_clean();
    assert!(report.zeroes > 0 && report.flushes > 0);
}

#[tokio::test]
async fn io_errors_are_reported() {
    let report = check(&["--filter=error", "memory", "512M", "error=EIO", "error-pwrite-rate=5%"]).await;
    assert!(!report.errors.is_empty() && report.violations.is_empty(), "{report}");
}

#[tokio::test]
async fn a_slow_device_shows_as_stalls() {
    let report = check(&["--filter=delay", "memory", "512M", "delay-write=300ms"]).await;
    report.assert_clean();
    assert!(report.longest >= Duration::from_millis(300), "{report}");
    assert!(report.longest_between(Duration::ZERO, report.ran) == report.longest);
}

#[tokio::test]
async fn a_device_that_forgets_writes_is_found() {
    // The null plugin accepts every write and reads as zeros.
    let report = check(&["null", "512M"]).await;
    assert!(report.violations.iter().any(|violation| violation.contains("lost")), "{report}");
}

#[tokio::test]
async fn wrong_requests_get_the_protocols_errors() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = Nbdkit::start(dir.path(), &["memory", "1M"]);
    for structured in [true, false] {
        let client = NbdClient::connect(&server.socket, "", structured).await.expect("it serves");
        assert_eq!(client.export().size, 1 << 20);
        match client.read(1 << 20, 4096).await {
            Err(NbdError::Refused { errno: 22, .. }) => {}
            other => panic!("a read after the end gave {other:?}"),
        }
        assert_eq!(client.read(0, 4096).await.expect("the connection lives"), vec![0; 4096]);
    }
}
