//! fio's nbd engine, which checks every block it reads back.

use crate::server::{Server, scratch, succeed};

fn verify(server: &Server, dir: &std::path::Path, more: &[&str]) {
    let uri = format!("--uri={}", server.uri());
    let mut arguments = vec![
        "--name=verify",
        "--ioengine=nbd",
        &uri,
        "--rw=randwrite",
        "--size=32m",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--do_verify=1",
        "--randseed=1",
    ];
    arguments.extend(more);
    // fio leaves a file with its state behind if a verification fails.
    let aux = format!("--aux-path={}", dir.display());
    arguments.push(&aux);
    let report = succeed("fio", "fio", &arguments);
    assert!(report.contains("err= 0"), "{report}");
}

#[test]
fn small_blocks_deep() {
    let dir = scratch();
    let server = Server::memory(dir.path(), "32MiB", &[]);
    verify(&server, dir.path(), &["--bs=4k", "--iodepth=64"]);
}

#[test]
fn mixed_sizes_with_trims_over_two_threads() {
    let dir = scratch();
    let server = Server::memory(dir.path(), "32MiB", &["--threads", "2"]);
    verify(&server, dir.path(), &["--bsrange=4k-1m", "--blockalign=4k", "--iodepth=32"]);
}
