//! NBD clients: nbdinfo, nbdcopy, qemu-img, qemu-io, fio.

use std::path::Path;

use curve_e2e::{Volume, turn};
use curve_harness::run;
use serde_json::Value;

#[tokio::test]
async fn nbdinfo_describes_the_export() {
    let _turn = turn("nbdinfo_describes_the_export").await;
    let volume = Volume::start("1GiB").await;
    let told =
        run(30, "nbdinfo", &["--json", &volume.uri]).await.unwrap_or_else(|error| panic!("{error}")).stdout;
    let told: Value = serde_json::from_str(&told).expect("JSON");
    let export = &told["exports"][0];
    assert_eq!(export["export-size"], 1u64 << 30);
    for ability in
        ["can_flush", "can_fua", "can_multi_conn", "can_trim", "can_zero", "can_fast_zero", "can_cache"]
    {
        assert_eq!(export[ability], true, "{ability} in {export:#}");
    }
    assert_eq!(export["is_read_only"], false);

    let map = async || {
        let map = run(30, "nbdinfo", &["--map", "--json", &volume.uri])
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        serde_json::from_str::<Vec<Value>>(&map.stdout).expect("JSON")
    };
    let fresh = map().await;
    assert!(fresh.iter().all(|extent| extent["type"] == 3), "a fresh volume is one hole: {fresh:?}");
    qemu_io(&volume.uri, &["write -P 7 1M 64k"]).await;
    let written = map().await;
    let data: Vec<&Value> = written.iter().filter(|extent| extent["type"] == 0).collect();
    assert_eq!(data.len(), 1, "{written:?}");
    assert_eq!((&data[0]["offset"], &data[0]["length"]), (&Value::from(1 << 20), &Value::from(64 << 10)));
}

#[tokio::test]
async fn nbdcopy_there_and_back() {
    let _turn = turn("nbdcopy_there_and_back").await;
    let volume = Volume::start("256MiB").await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (there, back) = (path(dir.path(), "there"), path(dir.path(), "back"));
    run(60, "dd", &["if=/dev/urandom", &format!("of={there}"), "bs=1M", "count=256", "status=none"])
        .await
        .expect("random bytes");
    let copied = run(300, "nbdcopy", &["--flush", &there, &volume.uri])
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    println!("256 MiB there in {:.1} s", copied.took.as_secs_f64());
    let copied = run(300, "nbdcopy", &[&volume.uri, &back]).await.unwrap_or_else(|error| panic!("{error}"));
    println!("and back in {:.1} s", copied.took.as_secs_f64());
    run(60, "cmp", &[&there, &back]).await.unwrap_or_else(|error| panic!("{error}"));
}

#[tokio::test]
async fn qemu_img_converts_and_compares() {
    let _turn = turn("qemu_img_converts_and_compares").await;
    let volume = Volume::start("256MiB").await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (raw, qcow2) = (path(dir.path(), "disk.raw"), path(dir.path(), "disk.qcow2"));
    run(30, "qemu-img", &["create", "-q", "-f", "raw", &raw, "256M"]).await.expect("an image");
    for command in ["write -P 1 0 1M", "write -P 2 5M 3M", "write -P 3 200M 16M", "write -P 4 255M 1M"] {
        run(60, "qemu-io", &["-f", "raw", "-c", command, &raw]).await.expect("a pattern");
    }
    run(60, "qemu-img", &["convert", "-O", "qcow2", &raw, &qcow2]).await.expect("converted");
    run(120, "qemu-img", &["convert", "-n", "-f", "qcow2", "-O", "raw", &qcow2, &volume.uri])
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    let compared = run(120, "qemu-img", &["compare", "-f", "raw", "-F", "raw", &raw, &volume.uri])
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    println!("{}", compared.stdout.trim());
}

#[tokio::test]
async fn qemu_io_patterns_zeroes_and_discard() {
    let _turn = turn("qemu_io_patterns_zeroes_and_discard").await;
    let volume = Volume::start("256MiB").await;
    qemu_io(
        &volume.uri,
        &[
            "write -P 0xa5 0 64k",
            "write -P 0x5a 16776960 128k",
            "read -P 0xa5 0 64k",
            "read -P 0x5a 16776960 128k",
            "write -z 4k 8k",
            "read -P 0 4k 8k",
            "read -P 0xa5 12k 52k",
            "discard 32k 32k",
            "read -P 0 32k 32k",
            "write -f -P 0x11 100M 1M",
            "aio_write -P 0x22 101M 1M",
            "aio_write -P 0x33 102M 1M",
            "aio_flush",
            "flush",
            "read -P 0x22 101M 1M",
            "read -P 0x33 102M 1M",
            "read -P 0 200M 4M",
        ],
    )
    .await;
}

#[tokio::test]
async fn fio_verifies_checksums() {
    let _turn = turn("fio_verifies_checksums").await;
    let volume = Volume::start("1GiB").await;
    let uri = format!("--uri={}", volume.uri);
    let common =
        ["--ioengine=nbd", &uri, "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--minimal"];
    for job in [
        &["--name=small", "--rw=randwrite", "--bs=4k", "--iodepth=32", "--size=32m"][..],
        &[
            "--name=mixed",
            "--rw=randwrite",
            "--bsrange=4k-256k",
            "--bs_unaligned=0",
            "--iodepth=16",
            "--size=256m",
        ],
        &["--name=large", "--rw=write", "--bs=1m", "--iodepth=8", "--size=512m"],
    ] {
        let arguments: Vec<&str> = common.iter().copied().chain(job.iter().copied()).collect();
        let finished = run(300, "fio", &arguments).await.unwrap_or_else(|error| panic!("{error}"));
        println!("{}: verified in {:.1} s", job[0], finished.took.as_secs_f64());
    }
    // All run on one machine and nobody else has the volume open.
    let unasked = volume.playground.metric("nbd-1", "curve_client_unasked_reads_total").await;
    let unasked = unasked.expect("the server tells").unwrap_or(0.0);
    assert!(unasked > 1000.0, "only {unasked} reads were taken from the leader's files unasked");
}

#[tokio::test]
async fn a_volume_has_one_writer_and_any_readers() {
    let _turn = turn("a_volume_has_one_writer_and_any_readers").await;
    let volume = Volume::start("256MiB").await;
    let second = volume
        .playground
        .serve_nbd(&["/vol"], &["--socket", "/tmp/curve-second.sock", "--timeout", "10s"])
        .await;
    let said = second.expect_err("a second writer is refused").to_string();
    assert!(said.contains("is open by"), "it says by whom: {said}");
    qemu_io(&volume.uri, &["write -P 9 0 64k"]).await;
    let status = volume.playground.json(&["bs", "stat", "/vol"]).await.expect("stat");
    assert_eq!(status["holders"].as_array().map(Vec::len), Some(1), "{status:#}");
    let refused = volume.playground.curve(&["bs", "rm", "/vol", "--yes"]).await.expect("it runs");
    assert_eq!(refused.status.code(), Some(4), "an open volume is not removed: {}", refused.stderr);
}

#[tokio::test]
async fn read_only_exports_refuse_writes_and_growing_shows() {
    let _turn = turn("read_only_exports_refuse_writes_and_growing_shows").await;
    let volume = Volume::start("256MiB").await;
    let reader = volume
        .playground
        .serve_nbd(&["/vol"], &["--read-only"])
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    let uri = format!("nbd+unix:///vol?socket={}", reader.display());
    let told = run(30, "nbdinfo", &["--json", &uri]).await.expect("info").stdout;
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(told["exports"][0]["is_read_only"], true);

    volume.playground.json(&["bs", "resize", "/vol", "--size", "512MiB"]).await.expect("grown");
    let begun = std::time::Instant::now();
    loop {
        let size = run(30, "nbdinfo", &["--size", &volume.uri]).await.expect("info").stdout;
        if size.trim() == "536870912" {
            break;
        }
        assert!(begun.elapsed().as_secs() < 30, "new connections still see {size}");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    qemu_io(&volume.uri, &["write -P 8 500M 1M", "read -P 8 500M 1M"]).await;
}

/// Runs commands in one qemu-io over the export.
pub async fn qemu_io(uri: &str, commands: &[&str]) {
    let mut arguments = vec!["-f", "raw"];
    for command in commands {
        arguments.extend(["-c", command]);
    }
    arguments.push(uri);
    let finished = run(120, "qemu-io", &arguments).await.unwrap_or_else(|error| panic!("{error}"));
    let said = format!("{}{}", finished.stdout, finished.stderr);
    assert!(!said.contains("failed") && !said.contains("error"), "{said}");
}

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).display().to_string()
}
