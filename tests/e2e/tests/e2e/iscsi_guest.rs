//! Linux's own initiator: a virtual machine with open-iscsi and dm-multipath (`tests/e2e/guest/iscsi.sh`) logs in at two
//! gateways, which are killed while it writes.

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use curve_e2e::guest::{Guest, judge};
use curve_e2e::iscsi::Gateway;
use curve_e2e::turn;
use curve_harness::{Finished, Playground, PlaygroundOptions, run_within};

const TARGET: &str = "iqn.2026-01.com.example";
const INITIATOR: &str = "iqn.2026-01.com.example.host:guest";
/// What the guest writes, and later trims.
const FILE_BYTES: u64 = 64 << 20;
/// The host, as QEMU's user network calls it.
const HOST: &str = "10.0.2.2";

#[tokio::test]
async fn linux_logs_in_and_keeps_its_io_through_two_gateways() {
    let _turn = turn("linux_logs_in_and_keeps_its_io_through_two_gateways").await;
    let Some(guest) = Guest::made("iscsi").await else { return };
    let playground =
        Playground::start(PlaygroundOptions::default()).await.unwrap_or_else(|error| panic!("{error}"));
    targets(&playground, guest.dir()).await;
    let ports = [free_port(), free_port()];
    let arguments = format!("gateways={HOST}:{},{HOST}:{} target={TARGET}", ports[0], ports[1]);
    let mut gateways = [start(&playground, 0, &ports).await, start(&playground, 1, &ports).await];
    let host = async {
        for (number, gateway) in gateways.iter_mut().enumerate() {
            let name = format!("gw-{}", number + 1);
            guest.said(&format!("guest: kill {name} now")).await;
            gateway.take().expect("it runs").kill();
            guest.said(&format!("guest: start {name} again")).await;
            *gateway = start(&playground, number, &ports).await;
        }
        grow_and_measure(&playground, &guest).await;
    };
    let booted = guest.boot(&arguments, None);
    tokio::pin!(booted, host);
    tokio::select! {
        // A guest that ends before the host's part is done has failed and says why, unless this is only looking at what
        // was trimmed.
        console = &mut booted => {
            judge(&console);
            tokio::time::timeout(Duration::from_secs(90), host).await.expect("the guest waits for the host");
        }
        () = &mut host => judge(&booted.await),
    }
}

/// Four targets, each with a volume as unit 0: without CHAP, with CHAP and a list of initiators, with mutual CHAP, and one for
/// the paths.
async fn targets(playground: &Playground, dir: &Path) {
    let (secret, theirs) = (dir.join("secret"), dir.join("their-secret"));
    std::fs::write(&secret, "a-long-enough-secret\n").expect("writable");
    std::fs::write(&theirs, "who-the-gateway-is\n").expect("writable");
    let (secret, theirs) = (secret.display().to_string(), theirs.display().to_string());
    for (name, block_bytes) in [("plain", "512"), ("chap", "4096"), ("mutual", "512"), ("paths", "512")] {
        let (volume, target) = (format!("/{name}"), format!("{TARGET}:{name}"));
        playground.create(&volume, "512MiB").await.unwrap_or_else(|error| panic!("{error}"));
        iscsi(playground, &["target", "create", &target]).await;
        let unit = ["lun", "add", &target, "--lun", "0", "--volume", &volume, "--block-size", block_bytes];
        iscsi(playground, &unit).await;
    }
    let (chap, mutual) = (format!("{TARGET}:chap"), format!("{TARGET}:mutual"));
    let one_way = ["--user", "alice", "--password-file", &secret];
    let both_ways = ["--mutual-user", "gate", "--mutual-password-file", &theirs];
    iscsi(playground, &[&["auth", "set", &chap], &one_way[..]].concat()).await;
    iscsi(playground, &["acl", "add", &chap, "--initiator", INITIATOR]).await;
    iscsi(playground, &[&["auth", "set", &mutual], &one_way[..], &both_ways].concat()).await;
}

async fn iscsi(playground: &Playground, arguments: &[&str]) -> serde_json::Value {
    let all = [&["iscsi"], arguments].concat();
    playground.json(&all).await.unwrap_or_else(|error| panic!("{error}"))
}

/// Gateway `gw-1` or `gw-2`, which tells discovery how the guest reaches it.
async fn start(playground: &Playground, number: usize, ports: &[u16; 2]) -> Option<Gateway> {
    let (name, port) = (format!("gw-{}", number + 1), ports[number]);
    let advertise = format!("{HOST}:{port}");
    let listen = format!("127.0.0.1:{port}");
    Some(Gateway::start_at(playground, &name, &listen, &["--advertise", &advertise]).await)
}

/// A port that was free a moment ago: the guest must know it before the gateway starts, and again after it was killed.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// The volume grows under the guest's file system. Then the guest has written, the host looks how much and grows the volume a
/// little to say so; the guest has trimmed, the host looks again.
async fn grow_and_measure(playground: &Playground, guest: &Guest) {
    guest.said("guest: grow now").await;
    grow(playground, "1GiB").await;
    guest.said("guest: 64 MiB are written").await;
    let sessions = iscsi(playground, &["sessions"]).await;
    for gateway in ["gw-1", "gw-2"] {
        let mut all = sessions.as_array().expect("a list").iter();
        let through = all.any(|session| session["gateway"] == gateway && session["initiator"] == INITIATOR);
        assert!(through, "no session through {gateway}: {sessions}");
    }
    let before = used_bytes(playground).await;
    grow(playground, "1025MiB").await;
    guest.said("guest: trimmed").await;
    let begun = Instant::now();
    loop {
        let after = used_bytes(playground).await;
        // Three replicas; journal and bitmaps may have been written meanwhile.
        if after + 3 * FILE_BYTES * 3 / 4 <= before {
            println!("fstrim has given back {} of {} MiB", (before - after) >> 20, before >> 20);
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{before} bytes before, {after} after");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn grow(playground: &Playground, size: &str) {
    let grown = playground.curve(&["bs", "resize", "/paths", "--size", size]).await;
    grown.and_then(Finished::success).unwrap_or_else(|error| panic!("{error}"));
}

/// What the copysets' files take on the disks: `curve bs du` counts whole segments, in which trimmed blocks are holes.
async fn used_bytes(playground: &Playground) -> u64 {
    let places = ["chunkserver-1", "chunkserver-2", "chunkserver-3"]
        .map(|name| playground.data_dir(name).join("store/copysets").display().to_string());
    let arguments = ["-skc", &places[0], &places[1], &places[2]];
    // Files may come and go while it counts, which makes its status 1.
    let du =
        run_within(Duration::from_secs(30), "du", &arguments).await.unwrap_or_else(|error| panic!("{error}"));
    let total = du.stdout.lines().find_map(|line| line.strip_suffix("\ttotal")?.parse::<u64>().ok());
    total.unwrap_or_else(|| panic!("no total in {du:?}")) << 10
}
