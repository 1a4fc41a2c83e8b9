//! The daemon itself.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::gateway::{Gateway, IQN, program, succeed, text};

fn refusal(arguments: &[&str]) -> (Option<i32>, String) {
    let output = program().args(arguments).output().expect("curve-iscsi can be started");
    (output.status.code(), text(&output))
}

#[test]
fn refusals_say_what_to_do() {
    let good = ["serve", "--listen", "127.0.0.1:0", "--iqn", IQN, "--lun", "0=a", "--memory", "8MiB"];
    let dir = tempfile::tempdir().expect("a temporary directory");
    let short = dir.path().join("short").display().to_string();
    std::fs::write(&short, "too short").expect("the file can be written");
    for (more, hint) in [
        (&["--lun", "0=b"][..], "unit 0 is given twice"),
        (&["--listen", "127.0.0.1:notaport"], "cannot listen on 127.0.0.1:notaport"),
        (&["--chap-user", "u", "--chap-password-file", "/nowhere"], "cannot read the secret in /nowhere"),
        (&["--chap-user", "u", "--chap-password-file", &short], "12 to 255 bytes, this one 9"),
    ] {
        let (code, message) = refusal(&[&good, more].concat());
        assert!(code == Some(1) && message.contains(hint), "{code:?} no `{hint}` in: {message}");
    }
    let odd = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--iqn",
        IQN,
        "--lun",
        "0=a",
        "--memory",
        "1001KiB",
        "--block-size",
        "4096",
    ];
    let (code, message) = refusal(&odd);
    assert!(code == Some(1) && message.contains("no multiple of 4096 bytes"), "{message}");
}

#[test]
fn a_signal_ends_it_in_order() {
    let gateway = Gateway::memory("8MiB", "512", &[]);
    gateway.signal(rustix::process::Signal::TERM);
    assert_eq!(gateway.wait(), Some(0));
}

#[test]
fn metrics_and_health_are_served() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let gateway = Gateway::memory("8MiB", "512", &["--http", &address]);
    succeed("iscsi-inq", "libiscsi-bin", &[gateway.url()]);
    let get = |path: &str| {
        let mut stream = TcpStream::connect(&address).expect("the HTTP port is open");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let metrics = get("/metrics");
    assert!(metrics.contains(r#"curve_iscsi_logins_total{result="admitted"}"#), "{metrics}");
    let health = get("/healthz");
    assert!(health.starts_with("HTTP/1.1 200") && health.contains("OK"), "{health}");
}

/// Connections that never log in: the gateway holds a bounded number of them and goes on serving.
#[test]
fn ten_thousand_idle_connections_keep_nobody_out() {
    let gateway = Gateway::memory("8MiB", "512", &[]);
    let begin = Instant::now();
    let mut idle = std::collections::VecDeque::new();
    for _ in 0..10_000 {
        idle.push_back(TcpStream::connect(gateway.portal()).expect("the gateway accepts"));
        // As many as this process may have open, too.
        if idle.len() > 800 {
            idle.pop_front();
        }
    }
    succeed("iscsi-inq", "libiscsi-bin", &[gateway.url()]);
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
}
