//! QEMU's tools.

use crate::server::{Server, noise, run, scratch, succeed};

const PACKAGE: &str = "qemu-utils";

#[test]
fn an_image_is_converted_and_compared() {
    let dir = scratch();
    let server = Server::memory(dir.path(), "32MiB", &[]);
    let [raw, qcow2] = ["image.raw", "image.qcow2"].map(|name| dir.path().join(name).display().to_string());
    let mut image = noise(3, 32 << 20);
    image[8 << 20..24 << 20].fill(0);
    std::fs::write(&raw, &image).unwrap();
    succeed("qemu-img", PACKAGE, &["convert", "-n", "-f", "raw", "-O", "raw", &raw, server.uri()]);
    succeed("qemu-img", PACKAGE, &["compare", "-f", "raw", "-F", "raw", &raw, server.uri()]);
    succeed("qemu-img", PACKAGE, &["convert", "-f", "raw", "-O", "qcow2", server.uri(), &qcow2]);
    succeed("qemu-img", PACKAGE, &["compare", "-f", "raw", "-F", "qcow2", &raw, &qcow2]);
    let map = succeed("qemu-img", PACKAGE, &["map", "--output=json", "-f", "raw", server.uri()]);
    assert!(
        map.contains(r#""start": 8388608, "length": 16777216, "depth": 0, "present": true, "zero": true"#),
        "{map}"
    );
}

/// Runs qemu-io commands in one connection; each must succeed.
fn io(server: &Server, commands: &[&str]) {
    let mut arguments = vec!["-f", "raw", "-t", "none", "--discard=unmap"];
    commands.iter().for_each(|command| arguments.extend(["-c", command]));
    arguments.push(server.uri());
    let output = run("qemu-io", PACKAGE, &arguments);
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // qemu-io exits with 0 although a pattern did not match.
    let failed = ["failed", "error", "Pattern"].iter().any(|word| text.contains(word));
    assert!(output.status.success() && !failed, "{commands:?}\n{text}");
}

#[test]
fn patterns_are_read_back() {
    let dir = scratch();
    for block in ["512", "4096"] {
        let server = Server::memory(dir.path(), "8MiB", &["--block-size", block]);
        io(
            &server,
            &[
                "write -P 0x11 0 1M",
                "write -f -P 0x22 512k 64k",
                // QEMU turns what is unaligned into reads and writes of whole blocks.
                "write -P 0x33 1000 3000",
                "read -P 0x11 0 1000",
                "read -P 0x33 1000 3000",
                "read -P 0x22 512k 64k",
                "write -z 64k 64k",
                "read -P 0 64k 64k",
                "write -z -u 128k 64k",
                "read -P 0 128k 64k",
                "discard 256k 64k",
                "read -P 0 256k 64k",
                "flush",
                "aio_write -P 0x44 2M 1M",
                "aio_write -P 0x55 3M 1M",
                "aio_flush",
                "read -P 0x44 2M 1M",
                "read -P 0x55 3M 1M",
                "read -P 0x11 320k 192k",
            ],
        );
        // A new connection sees the same.
        io(&server, &["read -P 0x55 3M 1M", "read -P 0x33 1000 3000"]);
    }
}

#[test]
fn requests_as_large_as_allowed() {
    let dir = scratch();
    let server = Server::memory(dir.path(), "80MiB", &[]);
    io(
        &server,
        &["write -P 0x66 0 32M", "read -P 0x66 0 32M", "write -z 0 80M", "read -P 0 0 32M", "discard 0 80M"],
    );
}
