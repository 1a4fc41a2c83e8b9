//! libiscsi's tools.

use crate::gateway::{Gateway, IQN, run, succeed, text};

const PACKAGE: &str = "libiscsi-bin";

#[test]
fn discovery_lists_portals_and_units() {
    let arguments = [
        "--listen",
        "127.0.0.1:0",
        "--listen",
        "127.0.0.1:0",
        "--iqn",
        IQN,
        "--lun",
        "0=a",
        "--lun",
        "200=b",
        "--memory",
        "8MiB",
    ];
    let gateway = Gateway::start(&arguments);
    let list = succeed("iscsi-ls", PACKAGE, &["-s", &format!("iscsi://{}", gateway.portal())]);
    let portals = gateway.urls.iter().filter(|url| url.ends_with("/0"));
    for url in portals {
        let portal = url.strip_prefix("iscsi://").and_then(|rest| rest.split('/').next()).expect("a URL");
        assert!(list.contains(&format!("Target:{IQN} Portal:{portal},1")), "no {portal} in {list}");
    }
    assert!(list.contains("Lun:0 ") && list.contains("Lun:200 "), "{list}");
}

#[test]
fn what_is_advertised_is_what_discovery_tells() {
    let gateway = Gateway::memory(
        "8MiB",
        "512",
        &["--advertise", "192.0.2.1:3260", "--advertise", "[2001:db8::1]:3260"],
    );
    let list = succeed("iscsi-ls", PACKAGE, &[&format!("iscsi://{}", gateway.portal())]);
    assert!(
        list.contains("Portal:192.0.2.1:3260,1") && list.contains("Portal:[2001:db8::1]:3260,1"),
        "{list}"
    );
}

#[test]
fn a_unit_says_what_it_is() {
    for (block, last) in [("512", "16383"), ("4096", "2047")] {
        let gateway = Gateway::memory("8MiB", block, &[]);
        let inquiry = succeed("iscsi-inq", PACKAGE, &[gateway.url()]);
        assert!(inquiry.contains("DIRECT_ACCESS"), "{inquiry}");
        let capacity = succeed("iscsi-readcapacity16", PACKAGE, &[gateway.url()]);
        for line in [format!("RETURNED LOGICAL BLOCK ADDRESS:{last}"), format!("IN BYTES:{block}")] {
            assert!(capacity.contains(&line), "no `{line}` in\n{capacity}");
        }
    }
}

#[test]
fn secrets_and_names_are_asked_for() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let secret = dir.path().join("secret").display().to_string();
    std::fs::write(&secret, "a-long-enough-secret\n").expect("the file can be written");
    let known = "iqn.2007-10.com.github:sahlberg:libiscsi:iscsi-inq";
    let chap = ["--chap-user", "alice", "--chap-password-file", &secret];
    for (more, password, let_in) in [
        (&chap[..], Some("a-long-enough-secret"), true),
        (&chap, Some("a-wrong-guess-at-it"), false),
        (&chap, None, false),
        (&["--initiator", known], None, true),
        (&["--initiator", "iqn.2026-01.com.example:other"], None, false),
    ] {
        let gateway = Gateway::memory("8MiB", "512", more);
        let url = password.map_or(gateway.url().to_owned(), |password| gateway.url_as("alice", password));
        let output = run("iscsi-inq", PACKAGE, &[&url]);
        let let_in_was = output.status.success() && text(&output).contains("DIRECT_ACCESS");
        assert_eq!(let_in_was, let_in, "{more:?} {password:?}\n{}", text(&output));
    }
}

#[test]
fn load_is_served() {
    let gateway = Gateway::memory("64MiB", "4096", &[]);
    for more in [&["--random"][..], &["--blocks", "64"]] {
        let arguments = [&["--runtime", "1", "--max", "64"], more, &[gateway.url()]].concat();
        let report = succeed("iscsi-perf", PACKAGE, &arguments);
        assert!(report.contains("iops average"), "{report}");
    }
}
