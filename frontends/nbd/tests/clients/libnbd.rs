//! libnbd's tools.

use crate::server::{Server, noise, run, scratch, socket, succeed};

const PACKAGE: &str = "libnbd-bin";

#[test]
fn nbdinfo_sees_every_ability() {
    let dir = scratch();
    let server = Server::memory(dir.path(), "64MiB", &[]);
    let info = succeed("nbdinfo", PACKAGE, &[server.uri()]);
    for line in [
        "newstyle-fixed without TLS, using structured packets",
        "export=\"demo\"",
        "export-size: 67108864",
        "base:allocation",
        "is_read_only: false",
        "can_cache: true",
        "can_df: true",
        "can_fast_zero: true",
        "can_flush: true",
        "can_fua: true",
        "can_multi_conn: true",
        "can_trim: true",
        "can_zero: true",
        "block_size_minimum: 4096",
        "block_size_maximum: 33554432",
    ] {
        assert!(info.contains(line), "no `{line}` in\n{info}");
    }
}

#[test]
fn a_read_only_export_says_so() {
    let dir = scratch();
    let server = Server::memory(dir.path(), "1MiB", &["--read-only", "--block-size", "512"]);
    let info = succeed("nbdinfo", PACKAGE, &[server.uri()]);
    for line in ["is_read_only: true", "can_trim: false", "can_zero: false", "block_size_minimum: 512"] {
        assert!(info.contains(line), "no `{line}` in\n{info}");
    }
}

#[test]
fn every_name_of_an_export_works() {
    let dir = scratch();
    let path = socket(dir.path());
    let path = path.to_str().unwrap();
    let server = Server::start(&["/demo", "/team/db", "--memory", "1MiB", "--socket", path]);
    assert_eq!(server.uris.len(), 2);
    let list = succeed("nbdinfo", PACKAGE, &["--list", &format!("nbd+unix:///?socket={path}")]);
    assert!(list.contains("export=\"demo\"") && list.contains("export=\"team/db\""), "{list}");
    for name in ["demo", "%2Fdemo", "team/db", ""] {
        let uri = format!("nbd+unix:///{name}?socket={path}");
        assert_eq!(succeed("nbdinfo", PACKAGE, &["--size", &uri]).trim(), "1048576", "{uri}");
    }
    let unknown = run("nbdinfo", PACKAGE, &[&format!("nbd+unix:///other?socket={path}")]);
    let message = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(!unknown.status.success() && message.contains("No such file"), "{message}");
}

#[test]
fn nbdcopy_brings_back_what_it_took_there() {
    let dir = scratch();
    let server = Server::memory(dir.path(), "32MiB", &[]);
    let [original, back] = ["original", "back"].map(|name| dir.path().join(name).display().to_string());
    let mut image = noise(1, 32 << 20);
    // Holes and zeros, which nbdcopy sends as trims and zeroes, and reads back as holes.
    image[4 << 20..12 << 20].fill(0);
    image[20 << 20..(20 << 20) + 4096].fill(0);
    std::fs::write(&original, &image).unwrap();
    succeed("nbdcopy", PACKAGE, &["--connections=4", "--flush", &original, server.uri()]);
    succeed("nbdcopy", PACKAGE, &["--connections=4", server.uri(), &back]);
    assert!(std::fs::read(&back).unwrap() == image, "the copy differs");
    let map = succeed("nbdinfo", PACKAGE, &["--map", server.uri()]);
    let hole = map.lines().find(|line| line.split_whitespace().next() == Some("4194304")).unwrap_or_default();
    assert_eq!(hole.split_whitespace().nth(1), Some("8388608"), "{map}");
}

#[test]
fn nbdcopy_works_over_tcp() {
    let dir = scratch();
    let server = Server::start(&["/demo", "--memory", "8MiB", "--listen", "127.0.0.1:0", "--threads", "2"]);
    assert!(server.uri().starts_with("nbd://127.0.0.1:"), "{}", server.uri());
    let [original, back] = ["original", "back"].map(|name| dir.path().join(name).display().to_string());
    std::fs::write(&original, noise(2, 8 << 20)).unwrap();
    succeed("nbdcopy", PACKAGE, &[&original, server.uri()]);
    succeed("nbdcopy", PACKAGE, &[server.uri(), &back]);
    assert!(std::fs::read(&back).unwrap() == std::fs::read(&original).unwrap(), "the copy differs");
}

#[test]
fn the_map_follows_writes_and_discards() {
    let dir = scratch();
    let server = Server::memory(dir.path(), "16MiB", &[]);
    let map = || {
        let map = succeed("nbdinfo", PACKAGE, &["--map", server.uri()]);
        let fields = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
        map.lines().map(fields).collect::<Vec<_>>()
    };
    assert_eq!(map(), ["0 16777216 3 hole,zero"]);
    let io = |command: &str| succeed("qemu-io", "qemu-utils", &["-f", "raw", "-c", command, server.uri()]);
    io("write -P 1 4M 8M");
    assert_eq!(map(), ["0 4194304 3 hole,zero", "4194304 8388608 0 data", "12582912 4194304 3 hole,zero"]);
    io("discard 4M 8M");
    assert_eq!(map(), ["0 16777216 3 hole,zero"]);
}
