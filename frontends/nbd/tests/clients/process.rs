//! The daemon as a process: starting, refusing, draining.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::server::{Server, program, scratch, socket, succeed};

fn refusal(arguments: &[&str]) -> (Option<i32>, String) {
    let output = program().args(arguments).output().expect("curve-nbd can be started");
    assert!(output.stdout.is_empty(), "{arguments:?} printed {:?}", String::from_utf8_lossy(&output.stdout));
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_socket_of_a_dead_server_is_replaced_and_that_of_a_live_one_is_not() {
    let dir = scratch();
    let path = socket(dir.path());
    let first = Server::memory(dir.path(), "1MiB", &[]);
    let (code, message) =
        refusal(&["serve", "/demo", "--memory", "1MiB", "--socket", path.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(message.contains("another server is listening") && message.contains("--socket"), "{message}");
    first.signal(Signal::KILL);
    first.wait();
    assert!(path.exists(), "a killed server leaves its socket");
    let second = Server::memory(dir.path(), "1MiB", &[]);
    assert_eq!(succeed("nbdinfo", "libnbd-bin", &["--size", second.uri()]).trim(), "1048576");
    second.signal(Signal::TERM);
    assert_eq!(second.wait(), Some(0));
    assert!(!path.exists(), "an orderly end removes the socket");
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let dir = scratch();
    let path = socket(dir.path());
    std::fs::write(&path, "precious").unwrap();
    let (code, message) =
        refusal(&["serve", "/demo", "--memory", "1MiB", "--socket", path.to_str().unwrap()]);
    assert!(code == Some(1) && message.contains("not a socket"), "{message}");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[test]
fn refusals_say_what_to_do() {
    let dir = scratch();
    let path = socket(dir.path());
    let path = path.to_str().unwrap();
    let missing = dir.path().join("none.toml").display().to_string();
    let odd = dir.path().join("odd.toml").display().to_string();
    std::fs::write(&odd, "mds_adresses = []\n").unwrap();
    for (arguments, code, hint) in [
        (&["serve", "/demo", "--socket", path, "--config", &missing][..], 1, "none.toml"),
        (&["serve", "/demo", "--socket", path, "--config", &odd], 1, "mds_addresses"),
        (&["serve", "/demo", "--socket", path, "--memory", "1000B"], 1, "multiple of 4096"),
        (
            &[
                "serve",
                "/demo",
                "--socket",
                path,
                "--memory",
                "1MiB",
                "--tls-cert",
                &missing,
                "--tls-key",
                &missing,
            ],
            1,
            "none.toml",
        ),
        (&["serve", "/demo", "--listen", "256.0.0.1:1", "--memory", "1MiB"], 1, "256.0.0.1:1"),
        (&["serve", "/demo", "--socket", "/nonexistent/x", "--memory", "1MiB"], 1, "/nonexistent/x"),
        (&["serve", "/demo", "--sokket", path], 2, "--socket"),
        (&["serv"], 2, "serve"),
    ] {
        let (exit, message) = refusal(arguments);
        assert_eq!(exit, Some(code), "{arguments:?}: {message}");
        assert!(message.contains(hint), "no `{hint}` in: {message}");
    }
}

#[test]
fn help_has_examples_and_completions_complete() {
    let help = String::from_utf8(program().args(["serve", "--help"]).output().unwrap().stdout).unwrap();
    assert!(help.contains("Examples:") && help.contains("nbdinfo"), "{help}");
    let completion = program().args(["completion", "bash"]).output().unwrap();
    assert!(
        completion.status.success()
            && completion
                .stdout
                .windows(9)
                .any(|text| text == b"--socket\0" || text.starts_with(b"--socket"))
    );
}

#[test]
fn sigterm_under_load_ends_in_order() {
    let dir = scratch();
    let server = Server::memory(dir.path(), "32MiB", &[]);
    let mut load = Command::new("fio")
        .args(["--name=load", "--ioengine=nbd", "--rw=randwrite", "--bs=4k", "--iodepth=32", "--size=32m"])
        .args(["--time_based", "--runtime=20", &format!("--uri={}", server.uri())])
        .arg(format!("--aux-path={}", dir.path().display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("cannot run fio; install it with: apt-get install fio");
    wait_for_requests(server.pid());
    server.signal(Signal::TERM);
    assert_eq!(server.wait(), Some(0));
    let _ = load.kill();
    let _ = load.wait();
}

/// Waits until a process has used CPU for more than its start.
fn wait_for_requests(pid: u32) {
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the server runs");
        stat.split_whitespace().skip(13).take(2).map(|field| field.parse::<u64>().unwrap()).sum::<u64>()
    };
    let start = std::time::Instant::now();
    while ticks() < 10 {
        assert!(start.elapsed().as_secs() < 15, "no load arrived");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn metrics_and_health_are_served() {
    let dir = scratch();
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let server = Server::memory(dir.path(), "8MiB", &["--http", &address]);
    succeed("qemu-io", "qemu-utils", &["-f", "raw", "-c", "write 0 64k", server.uri()]);
    let get = |path: &str| {
        let mut stream = TcpStream::connect(&address).expect("the HTTP port is open");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let metrics = get("/metrics");
    assert!(metrics.contains(r#"curve_block_bytes_total{device="/demo",op="write"} 65536"#), "{metrics}");
    let health = get("/healthz");
    assert!(health.starts_with("HTTP/1.1 200") && health.contains("OK"), "{health}");
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_throttled_server_keeps_to_its_rate() {
    let dir = scratch();
    let server = Server::memory(dir.path(), "8MiB", &["--ops-per-second", "100"]);
    let begin = std::time::Instant::now();
    let mut arguments = vec!["-f", "raw"];
    (0..60).for_each(|_| arguments.extend(["-c", "read 0 4k"]));
    arguments.push(server.uri());
    succeed("qemu-io", "qemu-utils", &arguments);
    // 100 ms are saved up, the other 50 operations take 10 ms each.
    assert!(begin.elapsed().as_millis() >= 400, "{:?}", begin.elapsed());
}

#[test]
fn a_listener_that_is_not_ours_counts_as_live() {
    let dir = scratch();
    let path = socket(dir.path());
    let _other = UnixListener::bind(&path).unwrap();
    let (code, message) =
        refusal(&["serve", "/demo", "--memory", "1MiB", "--socket", path.to_str().unwrap()]);
    assert!(code == Some(1) && message.contains("another server is listening"), "{message}");
}
