//! What operators look with: `curve fs du`, `info`, `stats` and `doctor` on mounts that work, hang and are dead; and mounts on hosts
//! that number their users otherwise.

use std::fs::{self, File, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::time::{Duration, Instant};

use curve_e2e::turn;
use curve_harness::{FsMount, run, run_within};
use rustix::fs::{XattrFlags, getxattr, setxattr};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::curvefs::{Cluster, blocking, can_mount};

const MIB: u64 = 1 << 20;

/// `curve fs …`, whatever its status: the JSON it printed, and the status.
async fn fs_json(cluster: &Cluster, arguments: &[&str]) -> (Value, Option<i32>) {
    let all = [&["fs"], arguments, &["--json"]].concat();
    let ended = cluster.playground.curve(&all).await.expect("it runs");
    let said = if ended.stdout.is_empty() { &ended.stderr } else { &ended.stdout };
    let value = serde_json::from_str(said).unwrap_or_else(|error| panic!("{error}: {said}"));
    (value, ended.status.code())
}

async fn fs_good(cluster: &Cluster, arguments: &[&str]) -> Value {
    let (value, status) = fs_json(cluster, arguments).await;
    assert_eq!(status, Some(0), "{arguments:?}: {value}");
    value
}

fn write(path: &Path, bytes: usize) {
    let mut file = File::create(path).expect("made");
    file.write_all(&vec![7; bytes]).expect("written");
    file.sync_all().expect("durable");
}

/// Files, directories and bytes below a directory, by walking.
fn walk(dir: &Path) -> (u64, u64, u64) {
    let mut sum = (0, 0, 0);
    for entry in fs::read_dir(dir).expect("read") {
        let entry = entry.expect("an entry");
        let metadata = entry.metadata().expect("there");
        if metadata.is_dir() {
            let below = walk(&entry.path());
            sum = (sum.0 + below.0, sum.1 + below.1 + 1, sum.2 + below.2);
        } else {
            // A link's text is in its inode and counts nothing.
            let bytes = if metadata.is_symlink() { 0 } else { metadata.len() };
            sum = (sum.0 + 1, sum.1, sum.2 + bytes);
        }
    }
    sum
}

fn usage(row: &Value) -> (u64, u64, u64) {
    let number = |name: &str| row[name].as_u64().unwrap_or_else(|| panic!("no {name} in {row}"));
    (number("files"), number("directories"), number("bytes"))
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[tokio::test]
async fn usage_and_places_of_files_are_told() {
    let _turn = turn("usage_and_places_of_files_are_told").await;
    if !can_mount() {
        return;
    }
    let cluster = Cluster::start(&[]).await;
    let mount = cluster.mount("a").await;
    let root = mount.dir().to_path_buf();
    du_is_exact(&cluster, &root).await;
    info_has_every_byte(&cluster, &root).await;
    elsewhere_is_refused(&cluster).await;
    wiping_below_a_mount_is_refused(&cluster).await;
    mount.unmount().await.unwrap_or_else(|error| panic!("{error}"));
}

async fn du_is_exact(cluster: &Cluster, root: &Path) {
    let made = root.to_path_buf();
    blocking(move || {
        for (dir, files) in [("x", 3), ("x/y", 4), ("x/y/z", 5), ("w", 2), ("empty", 0)] {
            fs::create_dir_all(made.join(dir)).expect("made");
            for file in 0..files {
                write(&made.join(dir).join(format!("f{file}")), 1000 * (file + 1));
            }
        }
        std::os::unix::fs::symlink("x", made.join("link")).expect("made");
    })
    .await;
    let at = root.to_path_buf();
    let wanted = blocking(move || walk(&at)).await;
    let rows = |depth| {
        let (root, depth) = (text(root), format!("{depth}"));
        async move { fs_good(cluster, &["du", &root, "--depth", &depth]).await }
    };
    // Totals travel from directory to directory; after the last change they become exact.
    let until = Instant::now() + Duration::from_secs(30);
    while usage(&rows(0).await[0]) != wanted {
        assert!(Instant::now() < until, "{} is not {wanted:?}", rows(0).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let all = rows(9).await;
    let all = all.as_array().expect("a list");
    assert_eq!(all.len(), 6, "the root and five directories: {all:?}");
    for row in all {
        let path = row["path"].as_str().expect("a path").to_owned();
        let found = usage(row);
        assert_eq!(blocking(move || walk(Path::new(&path))).await, found, "{row}");
    }
    let depths: Vec<_> =
        rows(1).await.as_array().expect("a list").iter().map(|row| row["depth"].clone()).collect();
    assert_eq!(depths, [0, 1, 1, 1]);
    let x = fs_good(cluster, &["du", &text(&root.join("x"))]).await;
    assert_eq!((x.as_array().map(Vec::len), usage(&x[0]).0), (Some(1), 12));
    let shown = cluster.playground.curve(&["fs", "du", &text(root), "--depth", "1"]).await.expect("it runs");
    assert!(shown.stdout.starts_with("BYTES") && shown.stdout.lines().count() == 5, "{}", shown.stdout);
}

async fn info_has_every_byte(cluster: &Cluster, root: &Path) {
    let path = root.join("sparse");
    let made = path.clone();
    blocking(move || {
        let mut file = File::create(made).expect("made");
        file.write_all(&vec![1; 5 * MIB as usize]).expect("written");
        file.seek(SeekFrom::Start(70 * MIB)).expect("sought");
        file.write_all(&vec![2; MIB as usize]).expect("written");
        file.set_len(80 * MIB).expect("longer");
        file.sync_all().expect("durable");
    })
    .await;
    let info = fs_good(cluster, &["info", &text(&path)]).await;
    let info = &info[0];
    assert_eq!((info["type"].as_str(), info["size"].as_u64()), (Some("file"), Some(80 * MIB)), "{info}");
    assert!(info["inode"].as_u64() > Some(1) && info["partition"].as_u64() > Some(0), "{info}");
    let ranges = info["ranges"].as_array().expect("ranges");
    let mut at = 0;
    for range in ranges {
        assert_eq!(range["offset"].as_u64(), Some(at), "no gap and no overlap: {info}");
        assert_eq!(range["chunk"].as_u64(), Some(at / (64 * MIB)));
        at += range["bytes"].as_u64().expect("bytes");
    }
    assert_eq!((at, info["next"].as_u64()), (80 * MIB, None));
    let sum = |kind: &str| -> u64 {
        let of = ranges.iter().filter(|range| range["kind"] == kind);
        of.filter_map(|range| range["bytes"].as_u64()).sum()
    };
    assert_eq!((sum("data"), sum("hole")), (6 * MIB, 74 * MIB));
    let object = ranges[0]["object"].as_str().expect("an object");
    assert!(object.split('/').count() == 5 && ranges[0]["bucket"] == "curve", "{info}");
    let first = fs_good(cluster, &["info", &text(&path), "--limit", "1"]).await;
    let next = first[0]["next"].as_u64().expect("more").to_string();
    let rest = fs_good(cluster, &["info", &text(&path), "--offset", &format!("{next}B")]).await;
    assert_eq!(rest[0]["ranges"].as_array().map(Vec::len), Some(ranges.len() - 1), "{rest}");
    let dir = fs_good(cluster, &["info", &text(&root.join("x"))]).await;
    assert_eq!((dir[0]["type"].as_str(), dir[0]["usage"]["files"].as_u64()), (Some("directory"), Some(12)));
    let shown = cluster.playground.curve(&["fs", "info", &text(&path)]).await.expect("it runs");
    assert!(shown.stdout.contains(object) && shown.stdout.contains("hole"), "{}", shown.stdout);
}

async fn elsewhere_is_refused(cluster: &Cluster) {
    for verb in ["du", "info", "stats", "doctor"] {
        let (said, status) = fs_json(cluster, &[verb, "/tmp/"]).await;
        assert_eq!((status, said["error"]["code"].as_str()), (Some(3), Some("NOT_FOUND")), "{verb}: {said}");
    }
}

/// Whoever touched the mount would wait for its servers for ever, and so would removing the directory.
async fn wiping_below_a_mount_is_refused(cluster: &Cluster) {
    let at = cluster.playground.dir().join("mnt b");
    let mount = FsMount::start(&cluster.playground, "fs", &at, &[]).await;
    for how in ["--dry-run", "--yes"] {
        let refused = cluster.playground.verb(30, &["playground", "wipe", how]).await.expect_err("a mount");
        let said = refused.to_string();
        assert!(said.contains("IN_USE") && said.contains(&text(&at)), "{how}: {said}");
    }
    let file = at.join("file");
    blocking(move || write(&file, 1000)).await;
    mount.unmount().await.unwrap_or_else(|error| panic!("{error}"));
}

#[tokio::test]
async fn a_mount_tells_what_it_does() {
    let _turn = turn("a_mount_tells_what_it_does").await;
    if !can_mount() {
        return;
    }
    let cluster = Cluster::start(&[]).await;
    // Free now, and hardly taken in the next second.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let http = listener.local_addr().expect("an address").to_string();
    drop(listener);
    let mount = cluster.mount_with("a", &["--http", &http]).await;
    let root = mount.dir().to_path_buf();
    let writer = std::thread::spawn(move || {
        let until = Instant::now() + Duration::from_secs(4);
        while Instant::now() < until {
            write(&root.join("busy"), MIB as usize);
            fs::read(root.join("busy")).expect("read");
        }
    });
    let all = ["fs", "stats", &text(mount.dir()), "--interval", "1s", "--count", "3", "--json"];
    let said = cluster.playground.curve(&all).await.expect("it runs").success().expect("good");
    let lines: Vec<Value> =
        said.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 3);
    for (at, least) in [
        ("/fuse/per_second", 1.0),
        ("/fuse/mean_ms", 0.001),
        ("/written_bytes_per_second", 1000.0),
        ("/meta/per_second", 1.0),
        ("/meta/mean_ms", 0.001),
        ("/store/put/per_second", 1.0),
        ("/store/put/bytes_per_second", 1000.0),
        ("/store/put/mean_ms", 0.001),
        ("/cpu_percent", 0.1),
        ("/resident_bytes", 1e6),
        ("/write_cache_limit_bytes", 1e6),
    ] {
        let value = lines[1].pointer(at).and_then(Value::as_f64);
        assert!(value >= Some(least), "{at} is {value:?}: {}", lines[1]);
    }
    assert_eq!(lines[1].pointer("/store/put/failures_per_second").and_then(Value::as_f64), Some(0.0));
    let shown = cluster
        .playground
        .curve(&["fs", "stats", &text(mount.dir()), "--count", "1"])
        .await
        .expect("it runs");
    assert!(shown.stdout.contains("ops/s") && shown.stdout.lines().count() == 3, "{}", shown.stdout);
    let metrics = run(10, "curl", &["-sS", "--max-time", "5", &format!("http://{http}/metrics")])
        .await
        .expect("metrics");
    for name in ["fuse_requests_total", "meta_microseconds_total", "store_puts_total", "unpublished_bytes"] {
        let line = format!("curve_fs_mount_{name} ");
        assert!(metrics.stdout.lines().any(|one| one.starts_with(&line)), "no {line}in {}", metrics.stdout);
    }
    blocking(move || writer.join().expect("no panic")).await;
    mount.unmount().await.unwrap_or_else(|error| panic!("{error}"));
}

/// Runs the doctor, and gives the codes of what is not well and the exit status.
async fn doctor(cluster: &Cluster, what: &str) -> (Vec<String>, Option<i32>, Value) {
    let ended = cluster.playground.curve(&["fs", "doctor", what, "--json"]).await.expect("it runs");
    let report: Value = serde_json::from_str(&ended.stdout)
        .unwrap_or_else(|error| panic!("{error}: {} {}", ended.stdout, ended.stderr));
    let items = report["items"].as_array().expect("items").iter();
    let bad = items.filter(|item| item["level"] == "ERR").filter_map(|item| item["code"].as_str());
    (bad.map(str::to_owned).collect(), ended.status.code(), report.clone())
}

fn signal(mount: &FsMount, signal: Signal) {
    let pid = Pid::from_raw(mount.pid().try_into().expect("a process id")).expect("a process id");
    kill_process(pid, signal).expect("it lives");
}

#[tokio::test]
async fn the_doctor_finds_what_is_broken() {
    let _turn = turn("the_doctor_finds_what_is_broken").await;
    if !can_mount() {
        return;
    }
    let cluster = Cluster::start(&[]).await;
    let mount = cluster.mount("a").await;
    let dir = text(mount.dir());
    for what in [dir.as_str(), "fs"] {
        let (bad, status, report) = doctor(&cluster, what).await;
        assert!(bad.is_empty() && status == Some(0), "{what}: {report}");
        for code in ["MDS_OK", "PARTITIONS_OK", "STORE_OK"] {
            assert!(report.to_string().contains(code), "{what} lacks {code}: {report}");
        }
    }
    let (_, status, report) = doctor(&cluster, &format!("{dir}/not/there")).await;
    assert_eq!(status, Some(0), "a path in the mount means the mount: {report}");
    assert!(
        ["MOUNT_OK", "LEASE_OK", "UPDATES_OK"].iter().all(|code| report.to_string().contains(code)),
        "{report}"
    );

    cluster.playground.kill("s3-1").await.expect("killed");
    for what in [dir.as_str(), "fs"] {
        let (bad, status, report) = doctor(&cluster, what).await;
        assert_eq!((bad, status), (vec!["STORE_UNREACHABLE".to_owned()], Some(9)), "{report}");
    }
    cluster.playground.restart("s3-1").await.expect("back");

    for name in ["metaserver-1", "metaserver-2"] {
        cluster.playground.pause(name).await.expect("paused");
    }
    let (bad, status, report) = doctor(&cluster, &dir).await;
    assert!(bad.iter().all(|code| code == "PARTITION_UNREACHABLE") && !bad.is_empty(), "{report}");
    assert_eq!(status, Some(9), "a mount says how it is even when no partition answers");
    for name in ["metaserver-1", "metaserver-2"] {
        cluster.playground.resume(name).await.expect("resumed");
    }
    cluster.playground.wait_healthy(120).await.expect("healthy");

    signal(&mount, Signal::STOP);
    let (bad, status, report) = doctor(&cluster, &dir).await;
    assert_eq!((bad, status), (vec!["MOUNT_HUNG".to_owned()], Some(9)), "{report}");
    signal(&mount, Signal::CONT);
    assert_eq!(doctor(&cluster, &dir).await.1, Some(0));

    signal(&mount, Signal::KILL);
    let until = Instant::now() + Duration::from_secs(20);
    while doctor(&cluster, &dir).await.0 != ["MOUNT_DEAD"] {
        assert!(Instant::now() < until, "{}", doctor(&cluster, &dir).await.2);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (said, status) = fs_json(&cluster, &["du", &dir]).await;
    assert_eq!((status, said["error"]["code"].as_str()), (Some(6), Some("UNAVAILABLE")), "{said}");
}

/// Runs a program as another user; whether it went well.
async fn as_user(id: u32, program: &[&str]) -> bool {
    let (user, group) = (format!("--reuid={id}"), format!("--regid={id}"));
    let all = [&[user.as_str(), group.as_str(), "--clear-groups", "--"], program].concat();
    run_within(Duration::from_secs(30), "setpriv", &all).await.expect("it runs").status.success()
}

/// An ACL that lets one more user read and write: `posix_acl_xattr.h`.
fn acl(user: u32) -> Vec<u8> {
    let mut value = vec![2, 0, 0, 0];
    for (tag, permissions, id) in
        [(1u16, 6u16, u32::MAX), (2, 6, user), (4, 0, u32::MAX), (16, 6, u32::MAX), (32, 0, u32::MAX)]
    {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permissions.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}

#[tokio::test]
async fn users_with_other_numbers_are_the_same_users() {
    let _turn = turn("users_with_other_numbers_are_the_same_users").await;
    if !can_mount() {
        return;
    }
    let cluster = Cluster::start(&[]).await;
    fs::set_permissions(cluster.dir.path(), Permissions::from_mode(0o755)).expect("other users may pass");
    let plain = cluster.mount("plain").await;
    fs::set_permissions(plain.dir(), Permissions::from_mode(0o777)).expect("everybody may write");
    let mapped = cluster.mount_with("mapped", &["-o", "uidmap=1000:2000,gidmap=1000:2000:5"]).await;
    let (there, here) = (plain.dir().to_path_buf(), mapped.dir().to_path_buf());
    let owner = |path: &Path| {
        let metadata = fs::symlink_metadata(path).expect("there");
        (metadata.uid(), metadata.gid())
    };
    // Of the file system's users, as this host calls them.
    for (name, fs_id, host_id) in
        [("same", 1500, 1500), ("mapped", 2000, 1000), ("other", 1000, 65534), ("root", 0, 0)]
    {
        write(&there.join(name), 10);
        chown(there.join(name), Some(fs_id), Some(fs_id)).expect("changed");
        fs::set_permissions(there.join(name), Permissions::from_mode(0o600)).expect("private");
        assert_eq!(owner(&here.join(name)), (host_id, host_id), "{name}");
    }
    // Permissions go by them.
    let file = text(&here.join("mapped"));
    assert!(as_user(1000, &["cat", &file]).await, "the owner may read");
    assert!(!as_user(2000, &["cat", &file]).await, "who has the file system's number here is somebody else");
    assert!(!as_user(1000, &["cat", &text(&here.join("other"))]).await, "and the other way round");

    // What is made here belongs to the file system's users.
    assert!(as_user(1000, &["mkdir", &text(&here.join("dir"))]).await);
    assert!(as_user(1000, &["touch", &text(&here.join("dir/file"))]).await);
    assert!(as_user(1000, &["ln", "-s", "x", &text(&here.join("dir/link"))]).await);
    for name in ["dir", "dir/file", "dir/link"] {
        assert_eq!(owner(&here.join(name)), (1000, 1000), "{name}");
        assert_eq!(owner(&there.join(name)), (2000, 2000), "{name}");
    }
    assert!(!as_user(2000, &["touch", &text(&here.join("nobody"))]).await, "it would become another's");
    chown(here.join("same"), Some(1000), Some(1004)).expect("changed");
    let until = Instant::now() + Duration::from_secs(10);
    while owner(&there.join("same")) != (2000, 2004) {
        assert!(Instant::now() < until, "{:?}", owner(&there.join("same")));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let refused = chown(here.join("same"), Some(2000), None).expect_err("it would become another's");
    assert_eq!(refused.raw_os_error(), Some(22));

    // ACLs name the same users.
    let name = "system.posix_acl_access";
    setxattr(here.join("root"), name, &acl(1000), XattrFlags::empty()).expect("set");
    let mut value = [0; 256];
    let len = getxattr(there.join("root"), name, &mut value[..]).expect("there");
    assert_eq!(&value[..len], acl(2000));
    assert!(as_user(1000, &["cat", &text(&here.join("root"))]).await, "the ACL lets it");
    // The other mount's kernel believes attributes for a second.
    let until = Instant::now() + Duration::from_secs(10);
    while !as_user(2000, &["cat", &text(&there.join("root"))]).await {
        assert!(Instant::now() < until, "the same user there");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!as_user(2000, &["cat", &text(&here.join("root"))]).await);

    assert!(cluster_refuses(&cluster, "uidmap=1:2+1:3").await, "a map with a user twice is refused");
    mapped.unmount().await.unwrap_or_else(|error| panic!("{error}"));
    plain.unmount().await.unwrap_or_else(|error| panic!("{error}"));
}

async fn cluster_refuses(cluster: &Cluster, options: &str) -> bool {
    let (dir, config) = (text(&cluster.dir.path().join("refused")), text(&cluster.playground.config()));
    fs::create_dir_all(&dir).expect("made");
    let program = text(&curve_harness::binary("curve-fuse"));
    let all = ["mount", "fs", &dir, "--config", &config, "-o", options];
    let ended = run_within(Duration::from_secs(30), &program, &all).await.expect("it runs");
    !ended.status.success() && ended.stderr.contains("twice")
}
