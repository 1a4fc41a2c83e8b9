//! Two iSCSI gateways, one truth: targets, secrets, access lists and reservations live in the MDS group.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use curve_e2e::iscsi::{CONFLICT, Gateway, Initiator};
use curve_e2e::turn;
use curve_harness::{Playground, PlaygroundOptions, run_within};
use serde_json::Value;
use tokio::task::JoinSet;

const IQN: &str = "iqn.2026-01.com.example:db";
const A: &str = "iqn.2026-01.com.example.host:a";
const B: &str = "iqn.2026-01.com.example.host:b";
const LEASE: Duration = Duration::from_secs(3);
/// PERSISTENT RESERVE OUT service actions, and WRITE EXCLUSIVE.
const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const RELEASE: u8 = 2;
const PREEMPT_AND_ABORT: u8 = 5;
const WRITE_EXCLUSIVE: u8 = 1;

/// A cluster with short leases, the volume `/db`, and the target with it as unit 0.
async fn cluster() -> Playground {
    let more = ["--mds-set", "lease = \"3s\""].map(str::to_owned).to_vec();
    let options = PlaygroundOptions { more, ..PlaygroundOptions::default() };
    let playground = Playground::start(options).await.unwrap_or_else(|error| panic!("{error}"));
    playground.create("/db", "1GiB").await.unwrap_or_else(|error| panic!("{error}"));
    iscsi(&playground, &["target", "create", IQN]).await;
    iscsi(&playground, &["lun", "add", IQN, "--lun", "0", "--volume", "/db"]).await;
    playground
}

/// `curve iscsi … --json`, which must succeed.
async fn iscsi(playground: &Playground, arguments: &[&str]) -> Value {
    let all = [&["iscsi"], arguments].concat();
    playground.json(&all).await.unwrap_or_else(|error| panic!("{error}"))
}

/// Waits for something that gateways do a moment later.
async fn soon(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !check().await {
        assert!(begun.elapsed() < Duration::from_secs(20), "not within 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Runs a tool; its output, whatever its status.
async fn tool(program: &str, arguments: &[&str]) -> (bool, String) {
    let finished = run_within(Duration::from_secs(60), program, arguments).await;
    let finished = finished.unwrap_or_else(|error| panic!("{error} (libiscsi-bin, qemu-block-extra)"));
    (finished.status.success(), format!("{}{}", finished.stdout, finished.stderr))
}

#[tokio::test]
async fn gateways_serve_what_the_cluster_says() {
    let _turn = turn("gateways_serve_what_the_cluster_says").await;
    let playground = cluster().await;
    let (one, two) = (Gateway::start(&playground, "gw-1").await, Gateway::start(&playground, "gw-2").await);
    soon("each gateway tells of both", async || {
        let (_, list) = tool("iscsi-ls", &[&format!("iscsi://{}", one.portal)]).await;
        list.contains(&format!("{},1", one.portal)) && list.contains(&format!("{},2", two.portal))
    })
    .await;
    let url = |gateway: &Gateway, user: &str| format!("iscsi://{user}{}/{IQN}/0", gateway.portal);
    // The same disk through both: serial number, and the ports of both in their groups.
    let (mut a, mut b) =
        (Initiator::ready(&one.portal, A, IQN).await, Initiator::ready(&two.portal, A, IQN).await);
    let serial = a.good(&[0x12, 1, 0x80, 0, 255, 0], b"", 255).await;
    assert_eq!(serial, b.good(&[0x12, 1, 0x80, 0, 255, 0], b"", 255).await);
    let listed = iscsi(&playground, &["target", "ls", IQN]).await;
    assert_eq!(String::from_utf8_lossy(&serial[4..]), listed[0]["luns"][0]["serial"].as_str().expect("text"));
    let mut groups = [0; 12];
    (groups[0], groups[1], groups[8]) = (0xa3, 0x0a, 255);
    let (through_a, through_b) = (a.good(&groups, b"", 255).await, b.good(&groups, b"", 255).await);
    assert_eq!((through_a.len(), &through_a), (4 + 2 * 12, &through_b));
    // What one writes, the other reads.
    let write = ["-f", "raw", "-c", "write -P 0x5a 1M 64k", &url(&one, "")];
    let read = ["-f", "raw", "-c", "read -P 0x5a 1M 64k", &url(&two, "")];
    for arguments in [&write[..], &read] {
        let (done, said) = tool("qemu-io", arguments).await;
        assert!(done && !said.contains("failed") && !said.contains("Pattern"), "{said}");
    }
    soon("sessions are told", async || {
        let sessions = iscsi(&playground, &["sessions"]).await;
        let of = |gateway: &str| {
            let mut all = sessions.as_array().expect("a list").iter();
            all.any(|session| session["gateway"] == gateway && session["initiator"] == A)
        };
        of("gw-1") && of("gw-2")
    })
    .await;
    // A volume that grows is heard of, and a unit that comes or goes.
    playground
        .curve(&["bs", "resize", "/db", "--size", "2GiB"])
        .await
        .expect("it runs")
        .success()
        .expect("grown");
    soon("the unit has grown", async || a.command(&[0; 6], b"", 0).await.code() == Some((6, 0x2a, 0x09)))
        .await;
    playground.create("/logs", "1GiB").await.expect("created");
    iscsi(&playground, &["lun", "add", IQN, "--lun", "5", "--volume", "/logs", "--block-size", "4096"]).await;
    soon("a unit has come", async || b.command(&[0; 6], b"", 0).await.code() == Some((6, 0x3f, 0x0e))).await;
    let luns = b.good(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0], b"", 255).await;
    assert_eq!((luns.len(), luns[17]), (8 + 2 * 8, 5));
    iscsi(&playground, &["lun", "rm", IQN, "--lun", "5", "--yes"]).await;
    soon("a unit has gone", async || {
        b.good(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0], b"", 255).await.len() == 16
    })
    .await;
    soon("its volume is given up", async || {
        playground.json(&["bs", "holders", "/logs"]).await.is_ok_and(|held| held == Value::Array(vec![]))
    })
    .await;
    drop((a, b));
    stopped_in_order_it_leaves_nothing_behind(&playground, two).await;
}

async fn stopped_in_order_it_leaves_nothing_behind(playground: &Playground, two: Gateway) {
    assert_eq!(two.stop().await, Some(0));
    let gateways = iscsi(playground, &["gateway", "ls"]).await;
    assert_eq!((&gateways[0]["state"], &gateways[1]["state"]), (&"up".into(), &"stopped".into()));
    iscsi(playground, &["target", "rm", IQN, "--yes"]).await;
    soon("the volume is given up", async || {
        playground.json(&["bs", "holders", "/db"]).await.is_ok_and(|held| held == Value::Array(vec![]))
    })
    .await;
}

#[tokio::test]
async fn secrets_and_lists_are_asked_for_by_every_gateway() {
    let _turn = turn("secrets_and_lists_are_asked_for_by_every_gateway").await;
    let playground = cluster().await;
    let (one, two) = (Gateway::start(&playground, "gw-1").await, Gateway::start(&playground, "gw-2").await);
    // A list: whoever is not on it is refused, also one who is in already.
    let mut stranger = Initiator::ready(&one.portal, B, IQN).await;
    iscsi(&playground, &["acl", "add", IQN, "--initiator", A]).await;
    soon("the stranger's session is ended", async || stranger.try_command(&[0; 6], b"", 0).await.is_none())
        .await;
    for gateway in [&one, &two] {
        soon("the list is known", async || {
            Initiator::login(&gateway.portal, B, IQN).await.err() == Some(0x0202)
        })
        .await;
        Initiator::ready(&gateway.portal, A, IQN).await;
    }
    iscsi(&playground, &["acl", "add", IQN, "--initiator", "any"]).await;
    // Secrets.
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("secret").display().to_string();
    std::fs::write(&file, "a-long-enough-secret\n").expect("writable");
    iscsi(&playground, &["auth", "set", IQN, "--user", "alice", "--password-file", &file]).await;
    for gateway in [&one, &two] {
        soon("the secret is asked for", async || {
            Initiator::login(&gateway.portal, A, IQN).await.err() == Some(0x0201)
        })
        .await;
        for (secret, let_in) in [("a-long-enough-secret", true), ("a-wrong-guess-at-it", false)] {
            let url = format!("iscsi://alice%{secret}@{}/{IQN}/0", gateway.portal);
            let (_, said) = tool("iscsi-inq", &[&url]).await;
            assert_eq!(said.contains("DIRECT_ACCESS"), let_in, "{secret}: {said}");
        }
    }
    // No MDS has it in the clear on its disk, nor in its log.
    for member in ["mds-1", "mds-2", "mds-3"] {
        let place = playground.data_dir(member).display().to_string();
        let (found, said) = tool("grep", &["-r", "-l", "a-long-enough-secret", &place]).await;
        assert!(!found, "{said}");
        assert!(!playground.log(member).contains("a-long-enough-secret"));
    }
    let listed = iscsi(&playground, &["target", "ls", IQN]).await;
    assert_eq!(listed[0]["auth"]["user"], "alice");
    assert!(!listed.to_string().contains("a-long-enough"));
    for (arguments, code) in [
        (&["target", "create", IQN][..], "ALREADY_EXISTS"),
        (&["target", "create", "disk"], "USAGE"),
        (&["lun", "add", IQN, "--lun", "1", "--volume", "/none"], "NOT_FOUND"),
        (&["lun", "add", IQN, "--lun", "1", "--volume", "/db"], "CONFLICT"),
        (&["acl", "ls", "iqn.x:none"], "NOT_FOUND"),
    ] {
        let finished = playground.curve(&[&["iscsi"], arguments].concat()).await.expect("it runs");
        let said = finished.stderr;
        assert!(said.contains(code) && said.contains("remedy:"), "{arguments:?}: {said}");
    }
}

/// Writes blocks 0 to 7 over and over until it is refused; says how many writes were answered with GOOD.
async fn storm(mut initiator: Initiator) -> (u64, Initiator) {
    let mut written = 0;
    loop {
        for lba in 0..8 {
            let answer = initiator.write(lba, 0xaa).await;
            match (answer.status, answer.code()) {
                (0, _) => written += 1,
                // Aborted, then told what happened, then refused.
                (0x40, _) | (_, Some((6, ..))) => {}
                (CONFLICT, _) => return (written, initiator),
                _ => panic!("{answer:02x?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_reservation_holds_on_every_gateway_and_outlives_them_all() {
    let _turn = turn("a_reservation_holds_on_every_gateway_and_outlives_them_all").await;
    let playground = cluster().await;
    let (one, two) = (Gateway::start(&playground, "gw-1").await, Gateway::start(&playground, "gw-2").await);
    let mut a = Initiator::ready(&one.portal, A, IQN).await;
    let mut b = Initiator::ready(&two.portal, B, IQN).await;
    assert_eq!(a.reserve_out(REGISTER, 0, 0, 0xa, true).await.status, 0);
    assert_eq!(a.reserve_out(RESERVE, WRITE_EXCLUSIVE, 0xa, 0, false).await.status, 0);
    assert_eq!((b.keys().await, b.reservation().await), (vec![0xa], Some((0xa, WRITE_EXCLUSIVE))));
    assert_eq!(b.write(0, 0xbb).await.status, CONFLICT);
    assert_eq!(b.reserve_out(REGISTER, 0, 0, 0xb, true).await.status, 0);
    // A writes as fast as it can through one gateway, and is preempted through the other.
    let mut storms = JoinSet::new();
    storms.spawn(storm(a));
    tokio::time::sleep(Duration::from_millis(500)).await;
    let preempted = b.reserve_out(PREEMPT_AND_ABORT, WRITE_EXCLUSIVE, 0xb, 0xa, false).await;
    assert_eq!(preempted.status, 0, "{preempted:02x?}");
    for lba in 0..8 {
        assert_eq!(b.write(lba, 0xbb).await.status, 0);
    }
    let (written, mut a) = storms.join_next().await.expect("one storm").expect("no panic");
    assert!(written > 0, "it had written");
    tokio::time::sleep(Duration::from_secs(1)).await;
    for lba in 0..8 {
        assert_eq!(b.read(lba).await, 0xbb, "nothing of A lands after the command has returned");
        assert_eq!(a.read(lba).await, 0xbb);
    }
    assert_eq!((a.keys().await, a.reservation().await), (vec![0xb], Some((0xb, WRITE_EXCLUSIVE))));
    let listed = iscsi(&playground, &["reservations"]).await;
    assert_eq!((&listed[0]["reservation"]["initiator"], &listed[0]["aptpl"]), (&B.into(), &true.into()));
    assert_eq!(listed[0]["registrations"][0]["gateway"], "gw-2", "{listed}");
    // A gateway that is killed is waited for no longer than its lease, and one that is paused is shut out.
    one.kill();
    let begun = Instant::now();
    assert_eq!(b.reserve_out(REGISTER, 0, 0xb, 0xc, true).await.status, 0);
    println!("a change beside a killed gateway took {:.1} s", begun.elapsed().as_secs_f64());
    assert!(begun.elapsed() < LEASE + Duration::from_secs(5));
    // Everything dies.
    two.kill();
    for member in ["mds-1", "mds-2", "mds-3"] {
        playground.kill(member).await.expect("killed");
    }
    playground.verb(150, &["playground", "restart", "--all"]).await.expect("restarted");
    let (one, two) = (Gateway::start(&playground, "gw-1").await, Gateway::start(&playground, "gw-2").await);
    let mut a = Initiator::ready(&one.portal, A, IQN).await;
    let mut b = Initiator::ready(&two.portal, B, IQN).await;
    assert_eq!((a.keys().await, a.reservation().await), (vec![0xc], Some((0xc, WRITE_EXCLUSIVE))));
    assert_eq!(a.write(0, 0xaa).await.status, CONFLICT);
    assert_eq!(b.write(0, 0xcc).await.status, 0, "the nexus is the same one");
    assert_eq!(b.reserve_out(RELEASE, WRITE_EXCLUSIVE, 0xc, 0, false).await.status, 0);
    assert_eq!(a.write(0, 0xaa).await.status, 0);
}

#[tokio::test]
async fn a_paused_gateway_is_shut_out_and_comes_back() {
    let _turn = turn("a_paused_gateway_is_shut_out_and_comes_back").await;
    let playground = cluster().await;
    let (one, two) = (Gateway::start(&playground, "gw-1").await, Gateway::start(&playground, "gw-2").await);
    let mut a = Initiator::ready(&one.portal, A, IQN).await;
    let mut b = Initiator::ready(&two.portal, B, IQN).await;
    assert_eq!(a.write(0, 0xa0).await.status, 0);
    // Requests wait in its socket while it is paused.
    let mut writing = JoinSet::new();
    one.signal(rustix::process::Signal::STOP);
    writing.spawn(async move {
        let answer = a.try_command(&[0x2a, 0, 0, 0, 0, 1, 0, 0, 1, 0], &[0xaa; 512], 0).await;
        (answer, a)
    });
    let begun = Instant::now();
    assert_eq!(b.reserve_out(REGISTER, 0, 0, 0xb, false).await.status, 0);
    assert_eq!(b.reserve_out(RESERVE, WRITE_EXCLUSIVE, 0xb, 0, false).await.status, 0);
    println!("a reservation beside a paused gateway took {:.1} s", begun.elapsed().as_secs_f64());
    for lba in 0..2 {
        assert_eq!(b.write(lba, 0xbb).await.status, 0);
    }
    // So long that it notices by itself.
    tokio::time::sleep(Duration::from_secs(4).saturating_sub(begun.elapsed())).await;
    one.signal(rustix::process::Signal::CONT);
    let (answer, _) = writing.join_next().await.expect("one").expect("no panic");
    assert!(answer.is_none(), "its write came too late: {answer:02x?}");
    // It takes a new seat and serves by the new state.
    let mut a = serving_again(&one).await;
    assert_eq!(a.write(1, 0xaa).await.status, CONFLICT);
    for lba in 0..2 {
        assert_eq!((a.read(lba).await, b.read(lba).await), (0xbb, 0xbb));
    }
    assert_eq!((a.keys().await, a.reservation().await), (vec![0xb], Some((0xb, WRITE_EXCLUSIVE))));
    assert_eq!(a.reserve_out(REGISTER, 0, 0, 0xa, false).await.status, 0, "it takes part again");
    assert_eq!(b.keys().await, [0xa, 0xb]);
}

/// Logs in, once the gateway has a volume again; until then it says that this path cannot be used.
async fn serving_again(gateway: &Gateway) -> Initiator {
    let mut a = Initiator::ready(&gateway.portal, A, IQN).await;
    soon("the gateway serves again", async || {
        a.command(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], b"", 512).await.status == 0
    })
    .await;
    a
}

/// Hosts with several paths repeat a write through another gateway when one does not answer, and write on. Nothing shuts the
/// first gateway out, but what it finds in its socket when it goes on must not be written.
#[tokio::test]
async fn a_gateway_that_was_stopped_writes_nothing_late() {
    let _turn = turn("a_gateway_that_was_stopped_writes_nothing_late").await;
    let playground = cluster().await;
    let (one, two) = (Gateway::start(&playground, "gw-1").await, Gateway::start(&playground, "gw-2").await);
    let mut b = Initiator::ready(&two.portal, B, IQN).await;
    for round in 0..3_u8 {
        let mut initiators = Vec::new();
        for number in 0..16 {
            let name = format!("{A}-{number}");
            initiators.push(Initiator::ready(&one.portal, &name, IQN).await);
        }
        // Under way in the gateway when it is stopped, at any stage.
        let mut writing = JoinSet::new();
        let goes_on = Arc::new(AtomicBool::new(false));
        for mut a in initiators {
            let goes_on = goes_on.clone();
            writing.spawn(async move {
                let mut before = 0_u32;
                let cdb = [0x2a, 0, 0, 0, 0, 9, 0, 0, 1, 0];
                loop {
                    match a.try_command(&cdb, &[0xa0 + round; 512], 0).await {
                        Some(_) if !goes_on.load(Ordering::Relaxed) => before += 1,
                        _ => return before,
                    }
                }
            });
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        one.signal(rustix::process::Signal::STOP);
        // Longer than a gateway may be away; hosts wait 5 s.
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(b.write(9, 0xa0 + round).await.status, 0);
        assert_eq!(b.write(9, 0xb0 + round).await.status, 0);
        goes_on.store(true, Ordering::Relaxed);
        one.signal(rustix::process::Signal::CONT);
        while let Some(ended) = writing.join_next().await {
            // One may still be answered: what was done before the stop is good, and an error is the truth.
            assert!(ended.expect("no panic") > 0, "nothing was under way");
        }
        assert_eq!(b.read(9).await, 0xb0 + round, "round {round}");
        assert_eq!(serving_again(&one).await.read(9).await, 0xb0 + round, "round {round}");
        assert_eq!(b.read(9).await, 0xb0 + round, "round {round}");
    }
}

/// A block of 512 bytes with a number in it.
fn counter(number: u32) -> Vec<u8> {
    number.to_le_bytes().repeat(128)
}

/// Adds one to the number in a block, so often, by COMPARE AND WRITE. Says how often somebody else was faster.
async fn add(mut initiator: Initiator, lba: u8, times: u32) -> u32 {
    let (mut seen, mut lost) = (0, 0);
    for _ in 0..times {
        while let Some(at) = initiator.compare_and_write(lba, &counter(seen), &counter(seen + 1)).await {
            let found = initiator.good(&[0x28, 0, 0, 0, 0, lba, 0, 0, 1, 0], b"", 512).await;
            assert!(at < 4, "the first number differs, or none does: {at}");
            seen = u32::from_le_bytes(found[..4].try_into().expect("4 bytes"));
            lost += 1;
        }
        seen += 1;
    }
    lost
}

#[tokio::test]
async fn no_increment_by_compare_and_write_through_two_gateways_is_lost() {
    const TIMES: u32 = 100;
    let _turn = turn("no_increment_by_compare_and_write_through_two_gateways_is_lost").await;
    let playground = cluster().await;
    let (one, two) = (Gateway::start(&playground, "gw-1").await, Gateway::start(&playground, "gw-2").await);
    let mut adders = JoinSet::new();
    for (gateway, name) in [(&one, A), (&two, B), (&one, B), (&two, A)] {
        // Two counters in one block of 4 KiB; each is shared by both gateways.
        for lba in [2, 3] {
            let name = format!("{name}.{lba}");
            adders.spawn(add(Initiator::ready(&gateway.portal, &name, IQN).await, lba, TIMES));
        }
    }
    // A chunkserver dies meanwhile, and with it the leaders that it has.
    tokio::time::sleep(Duration::from_millis(500)).await;
    playground.kill("chunkserver-1").await.expect("killed");
    let lost: u32 = adders.join_all().await.into_iter().sum();
    println!("{} increments, {lost} miscompares", 8 * TIMES);
    assert!(lost > 0, "they did meet");
    // ORWRITE (16): bits that others add are kept, whichever gateway they come through.
    let mut bits = JoinSet::new();
    for bit in 0..8u8 {
        let gateway = if bit % 2 == 0 { &one } else { &two };
        let mut initiator = Initiator::ready(&gateway.portal, &format!("{A}.bit{bit}"), IQN).await;
        bits.spawn(async move {
            let mut cdb = [0; 16];
            (cdb[0], cdb[9], cdb[13]) = (0x8b, 8, 1);
            initiator.good(&cdb, &[1 << bit; 512], 0).await;
        });
    }
    bits.join_all().await;
    for gateway in [&one, &two] {
        let mut reader = Initiator::ready(&gateway.portal, A, IQN).await;
        for lba in [2, 3] {
            let found = reader.good(&[0x28, 0, 0, 0, 0, lba, 0, 0, 1, 0], b"", 512).await;
            assert_eq!(found, counter(4 * TIMES));
        }
        assert_eq!(reader.read(8).await, 0xff);
    }
    // Of two chunks together nothing can be said: refused, not torn.
    let mut cdb = [0; 16];
    (cdb[0], cdb[13]) = (0x89, 2);
    cdb[2..10].copy_from_slice(&((16u64 << 20) / 512 - 1).to_be_bytes());
    let mut a = Initiator::ready(&one.portal, A, IQN).await;
    assert_eq!(a.command(&cdb, &[0; 2048], 0).await.code(), Some((5, 0x24, 0)));
    let limits = a.good(&[0x12, 1, 0xb0, 0, 255, 0], b"", 255).await;
    assert_eq!(limits[5], 128, "MAXIMUM COMPARE AND WRITE LENGTH: 64 KiB");
}

/// The families of libiscsi's suite that have a second nexus: it goes through the second gateway.
const TWO_NEXUSES: [&str; 9] = [
    "MultipathIO",
    "ProutRegister",
    "ProutReserve",
    "ProutClear",
    "ProutPreempt",
    "PrinReadKeys",
    "PrinServiceactionRange",
    "PrinReportCapabilities",
    "Reserve6",
];

#[tokio::test]
async fn the_conformance_suite_passes_through_two_gateways() {
    let _turn = turn("the_conformance_suite_passes_through_two_gateways").await;
    let playground = cluster().await;
    let (one, two) = (Gateway::start(&playground, "gw-1").await, Gateway::start(&playground, "gw-2").await);
    let url = |gateway: &Gateway| format!("iscsi://{}/{IQN}/0", gateway.portal);
    for family in TWO_NEXUSES {
        let test = format!("--test=ALL.{family}");
        let arguments = ["--dataloss", "--normal", &test, &url(&one), &url(&two)];
        let finished = run_within(Duration::from_secs(200), "iscsi-test-cu", &arguments).await;
        let finished = finished.unwrap_or_else(|error| panic!("{error} (libiscsi-bin)"));
        let said = format!("{}{}", finished.stdout, finished.stderr);
        assert!(said.contains("matching LU device identifier for all (2) paths"), "one disk: {said}");
        let line = said.lines().find(|line| line.trim_start().starts_with("tests "));
        let line = line.unwrap_or_else(|| panic!("{family} did not come to its end:\n{said}"));
        // tests, total, ran, passed, failed, inactive
        let counts: Vec<&str> = line.split_whitespace().collect();
        assert_eq!((counts[1], counts[4]), (counts[3], "0"), "{family}: {said}");
        println!("{family}: {} tests passed in {:.1} s", counts[3], finished.took.as_secs_f64());
    }
}
