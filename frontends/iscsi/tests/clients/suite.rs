//! libiscsi's conformance suite, every family, with data loss allowed.

use crate::gateway::{Gateway, run, text};

/// Runs all tests on a unit with blocks of `block` bytes; none may fail.
fn conforms(block: &str) {
    let gateway = Gateway::memory("100MiB", block, &[]);
    let output =
        run("iscsi-test-cu", "libiscsi-bin", &["--dataloss", "--normal", "--test=ALL", gateway.url()]);
    let text = text(&output);
    let summary = text.lines().find(|line| line.trim_start().starts_with("asserts"));
    let summary = summary.unwrap_or_else(|| panic!("the suite did not come to its end:\n{text}"));
    // asserts, total, ran, passed, failed, inactive
    let failed = summary.split_whitespace().nth(4);
    let lines = || {
        text.lines().filter(|line| line.contains("FAIL") || line.contains("CUnit") || line.contains(".c:"))
    };
    assert_eq!(failed, Some("0"), "{}\n{summary}", lines().collect::<Vec<_>>().join("\n"));
}

#[test]
fn sectors_conform() {
    conforms("512");
}

#[test]
fn blocks_conform() {
    conforms("4096");
}
