//! The playground itself: process control, idempotence, and errors.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use curve_e2e::turn;
use curve_harness::{Playground, PlaygroundOptions, binary, run_within};

#[tokio::test]
async fn members_can_be_stopped_killed_paused_and_restarted() {
    let _turn = turn("members_can_be_stopped_killed_paused_and_restarted").await;
    let playground = Playground::start(PlaygroundOptions::default()).await.expect("it starts");
    for name in ["mds-1", "mds-2", "mds-3", "chunkserver-1", "chunkserver-2", "chunkserver-3"] {
        let pid_file = playground.dir().join(format!("run/{name}.pid"));
        let pid: u32 =
            std::fs::read_to_string(&pid_file).expect("a pid file").trim().parse().expect("a number");
        assert!(Path::new(&format!("/proc/{pid}")).exists(), "{name} has a process of its own");
        assert!(playground.data_dir(name).is_dir(), "{name} has a data directory");
        assert!(playground.dir().join(format!("log/{name}.log")).is_file());
    }
    let state = async |name: &str| {
        let members = playground.members().await.expect("status");
        let member = members.into_iter().find(|member| member["name"] == name).expect("known");
        member["state"].as_str().expect("a state").to_owned()
    };
    playground.pause("mds-2").await.expect("paused");
    assert_eq!(state("mds-2").await, "paused");
    playground.resume("mds-2").await.expect("resumed");
    assert_eq!(state("mds-2").await, "running");
    playground.kill("chunkserver-1").await.expect("killed");
    assert_eq!(state("chunkserver-1").await, "stopped");
    playground.restart("chunkserver-1").await.expect("restarted");
    playground.stop("mds-1").await.expect("stopped");
    assert_eq!(state("mds-1").await, "stopped");

    // Starting again starts what is missing and leaves the rest alone.
    let before = playground.pids().await.expect("pids");
    playground.verb(120, &["playground", "start"]).await.expect("started again");
    let after = playground.pids().await.expect("pids");
    assert_eq!((before.len(), after.len()), (5, 6));
    assert!(before.iter().all(|pid| after.contains(pid)), "running members were left alone");

    let other = playground.verb(30, &["playground", "start", "--chunkservers", "4"]).await;
    assert!(other.is_err_and(|error| error.to_string().contains("CONFLICT")));
    let unknown = playground.verb(30, &["playground", "kill", "chunkserver-9"]).await;
    assert!(unknown.is_err_and(|error| error.to_string().contains("chunkserver-3")));
}

/// A server hurries while the MDS has something for it to do, and only then.
#[tokio::test]
async fn an_idle_cluster_sends_few_heartbeats() {
    let _turn = turn("an_idle_cluster_sends_few_heartbeats").await;
    let options = PlaygroundOptions { more: vec!["--fs".into()], ..PlaygroundOptions::default() };
    let playground = Playground::start(options).await.expect("it starts");
    let sent = async || {
        let mut all = Vec::new();
        for n in 1..=3 {
            for role in ["chunkserver", "metaserver"] {
                let metric = format!("curve_{role}_heartbeats_total");
                let sent = playground.metric(&format!("{role}-{n}"), &metric).await.expect("metrics");
                all.push(sent.expect("the metric"));
            }
        }
        all
    };
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let (before, begun) = (sent().await, Instant::now());
        tokio::time::sleep(Duration::from_secs(4)).await;
        let (after, seconds) = (sent().await, begun.elapsed().as_secs_f64());
        let rates: Vec<f64> =
            before.iter().zip(&after).map(|(before, after)| (after - before) / seconds).collect();
        if rates.iter().all(|rate| (0.2..1.6).contains(rate)) {
            break;
        }
        assert!(Instant::now() < until, "heartbeats a second: {rates:?}");
    }
}

/// A full disk below the logs, or a reader of a log that ended or was stopped, stops no server.
#[tokio::test]
async fn servers_go_on_when_their_logs_cannot_be_written() {
    let _turn = turn("servers_go_on_when_their_logs_cannot_be_written").await;
    let options = PlaygroundOptions { more: vec!["--fs".into()], ..PlaygroundOptions::default() };
    let playground = Playground::start(options).await.expect("it starts");
    let full = || Stdio::from(File::options().write(true).open("/dev/full").expect("a full disk"));
    let (ended, stopped) = (std::io::pipe().expect("a pipe"), std::io::pipe().expect("a pipe"));
    let mut servers = Vec::new();
    for (role, log) in
        [("mds", full()), ("chunkserver", stopped.1.into()), ("metaserver", full()), ("s3", ended.1.into())]
    {
        let name = format!("{role}-1");
        playground.kill(&name).await.expect("killed");
        let config = playground.dir().join(format!("etc/{name}.toml"));
        let mut server = tokio::process::Command::new(binary("curve"));
        server.args(["serve", role, "--config"]).arg(config).env("CURVE_LOG", "trace").stderr(log);
        servers.push((name, server.kill_on_drop(true).spawn().expect("it starts")));
    }
    drop(ended.0);
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let mut silent = Vec::new();
        for (name, server) in &mut servers {
            assert_eq!(server.try_wait().expect("a child"), None, "{name} ended");
            match playground.metric(name, "curve_telemetry_log_lines_lost_total").await {
                Ok(Some(lines)) if lines > 0.0 => {}
                other => silent.push(format!("{name}: {other:?}")),
            }
        }
        let status = playground.json(&["cluster", "status"]).await;
        if silent.is_empty() && status.as_ref().is_ok_and(|status| status["health"] == "OK") {
            break;
        }
        assert!(Instant::now() < until, "{silent:?} {status:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn a_start_that_fails_shows_the_log_and_leaves_nothing_running() {
    let _turn = turn("a_start_that_fails_shows_the_log_and_leaves_nothing_running").await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let place = dir.path().join("p").display().to_string();
    let curve = binary("curve").display().to_string();
    let limit = Duration::from_secs(60);
    // No machine has this address (RFC 5737).
    let elsewhere = "http_address = \"192.0.2.1:1\"";
    let wrong = ["playground", "start", "--dir", &place, "--chunkserver-set", elsewhere, "--timeout", "20s"];
    let finished = run_within(limit, &curve, &wrong).await.expect("it ends");
    assert_ne!(finished.status.code(), Some(0));
    assert!(finished.stderr.contains("192.0.2.1"), "the log's tail names the address: {}", finished.stderr);
    let status = run_within(limit, &curve, &["playground", "status", "--dir", &place, "--json"])
        .await
        .expect("it ends");
    assert!(!status.stdout.contains("\"running\""), "{}", status.stdout);
    let wiped =
        run_within(limit, &curve, &["playground", "wipe", "--dir", &place, "--yes"]).await.expect("it ends");
    assert!(wiped.status.success(), "{}", wiped.stderr);
    assert!(!dir.path().join("p").exists(), "the directory is gone");
}
