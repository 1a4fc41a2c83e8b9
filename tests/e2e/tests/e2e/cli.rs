//! The command line against a cluster.

use curve_e2e::turn;
use curve_harness::{Playground, PlaygroundOptions};
use serde_json::Value;

#[tokio::test]
async fn volumes_and_directories() {
    let _turn = turn("volumes_and_directories").await;
    let playground = Playground::start(PlaygroundOptions::default()).await.expect("it starts");
    let created = playground.json(&["bs", "create", "/demo", "--size", "4GiB"]).await.expect("created");
    assert_eq!(created["size"], 4u64 << 30);
    playground.json(&["bs", "mkdir", "/vms"]).await.expect("a directory");
    playground.json(&["bs", "create", "/vms/web", "--size", "1GiB"]).await.expect("a volume in it");

    let listed = playground.json(&["bs", "ls", "/"]).await.expect("a list");
    assert_eq!(names(&listed), ["demo", "vms"]);
    playground.json(&["bs", "mv", "/vms/web", "/vms/web-1"]).await.expect("renamed");
    assert_eq!(names(&playground.json(&["bs", "ls", "/vms"]).await.expect("a list")), ["web-1"]);
    let grown = playground.json(&["bs", "resize", "/demo", "--size", "5GiB"]).await.expect("grown");
    assert_eq!(grown["size"], 5u64 << 30);
    let usage = playground.json(&["bs", "du", "/"]).await.expect("sums");
    assert_eq!((&usage["volumes"], &usage["size"]), (&Value::from(2), &Value::from(6u64 << 30)));
    assert_eq!(usage["allocated"], 0, "volumes are thin");

    let dry = playground.json(&["bs", "rm", "/demo", "--dry-run"]).await.expect("a dry run");
    assert_eq!(dry["dry_run"], true);
    assert_eq!(playground.json(&["bs", "stat", "/demo"]).await.expect("still there")["type"], "volume");
    playground.json(&["bs", "rm", "/demo", "--yes"]).await.expect("removed");

    for (arguments, exit, code) in [
        (&["bs", "stat", "/demo"][..], 3, "NOT_FOUND"),
        (&["bs", "create", "/vms", "--size", "1GiB"], 4, "ALREADY_EXISTS"),
        (&["bs", "rm", "/vms", "--yes"], 4, "NOT_EMPTY"),
        (&["bs", "create", "relative", "--size", "1GiB"], 2, "USAGE"),
        (&["bs", "create", "/odd", "--size", "1000KiB"], 2, "USAGE"),
        (&["bs", "resize", "/vms/web-1", "--size", "512MiB"], 2, "USAGE"),
    ] {
        let finished = playground.curve(arguments).await.expect("it runs");
        assert_eq!(finished.status.code(), Some(exit), "{arguments:?}: {}", finished.stderr);
        assert!(finished.stderr.contains(code) && finished.stderr.contains("remedy:"), "{}", finished.stderr);
    }
}

#[tokio::test]
async fn the_cluster_describes_itself() {
    let _turn = turn("the_cluster_describes_itself").await;
    let playground = Playground::start(PlaygroundOptions::default()).await.expect("it starts");
    let status = playground.json(&["cluster", "status"]).await.expect("status");
    assert_eq!(status["health"], "OK", "{status:#}");
    assert_eq!(status["mds"].as_array().map(Vec::len), Some(3));
    assert_eq!(status["chunkservers"]["up"], 3);
    let chunkservers = playground.json(&["cluster", "chunkservers"]).await.expect("chunkservers");
    let mut zones: Vec<&str> = list(&chunkservers).iter().filter_map(|c| c["zone"].as_str()).collect();
    zones.sort_unstable();
    zones.dedup();
    assert_eq!(zones.len(), 3, "each in a zone of its own");
    let copysets = playground.json(&["cluster", "copysets"]).await.expect("copysets");
    for copyset in list(&copysets) {
        assert_eq!(copyset["members"].as_array().map(Vec::len), Some(3), "{copyset}");
    }

    playground.kill("chunkserver-2").await.expect("killed");
    let noticed =
        |status: &Value| list(&status["items"]).iter().any(|item| item["code"] == "CHUNKSERVER_DOWN");
    let worse = async || playground.json(&["cluster", "status"]).await.is_ok_and(|status| noticed(&status));
    let begun = std::time::Instant::now();
    while !worse().await {
        assert!(begun.elapsed().as_secs() < 30, "a dead chunkserver is not noticed");
    }
    let status = playground.json(&["cluster", "status"]).await.expect("status");
    for item in list(&status["items"]) {
        for field in ["code", "summary", "cause", "remedy"] {
            assert!(item[field].as_str().is_some_and(|text| !text.is_empty()), "{field} of {item}");
        }
    }
    let checked = playground.curve(&["cluster", "status", "--check"]).await.expect("it runs");
    assert_eq!(checked.status.code(), Some(9));
    playground.restart("chunkserver-2").await.expect("healthy again");
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn names(value: &Value) -> Vec<&str> {
    list(value).iter().filter_map(|entry| entry["name"].as_str()).collect()
}
