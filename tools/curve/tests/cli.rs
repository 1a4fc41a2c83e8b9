//! The command line as a user meets it: what it says when something is wrong, and with which exit status.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn curve(dir: &Path, arguments: &[&str]) -> Output {
    saying(dir, arguments, Stdio::piped())
}

fn saying(dir: &Path, arguments: &[&str], to: Stdio) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_curve"));
    command.args(arguments).current_dir(dir).env_remove("CURVE_MDS").env_remove("CURVE_CONFIG").stdout(to);
    let child = command.stderr(Stdio::piped()).spawn().expect("the binary runs");
    child.wait_with_output().expect("it ends")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn every_command_has_help_with_examples() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for command in [
        &["playground", "start"][..],
        &["playground", "status"],
        &["playground", "kill"],
        &["playground", "wipe"],
        &["bs", "create"],
        &["bs", "stat"],
        &["bs", "ls"],
        &["bs", "rm"],
        &["bs", "mv"],
        &["bs", "resize"],
        &["bs", "du"],
        &["bs", "mkdir"],
        &["bs", "holders"],
        &["bs", "fence"],
        &["fs", "create"],
        &["fs", "ls"],
        &["fs", "stat"],
        &["fs", "rm"],
        &["fs", "mounts"],
        &["fs", "evict"],
        &["fs", "set-keys"],
        &["fs", "du"],
        &["fs", "info"],
        &["fs", "stats"],
        &["fs", "doctor"],
        &["iscsi", "target", "create"],
        &["iscsi", "target", "rm"],
        &["iscsi", "target", "ls"],
        &["iscsi", "lun", "add"],
        &["iscsi", "lun", "rm"],
        &["iscsi", "auth", "set"],
        &["iscsi", "auth", "rm"],
        &["iscsi", "acl", "add"],
        &["iscsi", "acl", "rm"],
        &["iscsi", "acl", "ls"],
        &["iscsi", "gateway", "ls"],
        &["iscsi", "gateway", "rm"],
        &["iscsi", "sessions"],
        &["iscsi", "reservations"],
        &["cluster", "status"],
        &["cluster", "copysets"],
        &["cluster", "chunkservers"],
        &["serve"],
        &["completion"],
    ] {
        let output = curve(dir.path(), &[command, &["--help"]].concat());
        assert!(output.status.success(), "{command:?}");
        assert!(text(&output.stdout).contains("Examples:"), "{command:?} has no examples");
    }
}

#[test]
fn failures_have_a_code_a_remedy_and_their_exit_status() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (arguments, exit, code, hint) in [
        (&["playground", "status", "--dir", "none"][..], 3, "NOT_FOUND", "curve playground start"),
        (&["playground", "wipe", "--dir", "none", "--yes"], 3, "NOT_FOUND", "curve playground start"),
        (&["bs", "ls"], 8, "CONFIG", "--config"),
        (&["--config", "none.toml", "bs", "ls"], 8, "CONFIG", "none.toml"),
        (&["serve", "mds"], 2, "USAGE", "--config"),
        (&["fs", "du", "."], 3, "NOT_FOUND", "findmnt"),
        (&["fs", "info", "."], 3, "NOT_FOUND", "findmnt"),
        (&["fs", "stats", "."], 3, "NOT_FOUND", "findmnt"),
        (&["fs", "doctor", "."], 3, "NOT_FOUND", "findmnt"),
        (&["fs", "doctor", "data"], 8, "CONFIG", "--config"),
        (&["explain", "NO_SUCH_CODE"], 3, "NOT_FOUND", "curve explain"),
        (&["playground", "start", "--dir", "p", "--mds", "2"], 2, "USAGE", "--mds 3"),
    ] {
        let output = curve(dir.path(), arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(exit), "{arguments:?}: {said}");
        assert!(said.starts_with(&format!("curve: {code}:")) && said.contains(hint), "{arguments:?}: {said}");
    }
}

#[test]
fn too_few_file_descriptors_are_found_at_the_start() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let script =
        format!("ulimit -n 200 && exec {} serve mds --config none.toml", env!("CARGO_BIN_EXE_curve"));
    let output =
        Command::new("bash").args(["-c", &script]).current_dir(dir.path()).output().expect("it runs");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(10), "{said}");
    assert!(said.contains("file descriptors") && said.contains("ulimit -n"), "{said}");
}

#[test]
fn wrong_arguments_name_what_is_right() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (arguments, hint) in [
        (&["bs", "create", "/a"][..], "--size"),
        (&["bs", "create", "/a", "--size", "4096"], "GiB"),
        (&["bs", "creat", "/a"], "create"),
        (&["bs", "create", "/a", "--sise", "1GiB"], "--size"),
        (&["playground", "start", "--chunkservers", "0"], "1..=200"),
    ] {
        let output = curve(dir.path(), arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(hint), "{arguments:?}: {said}");
    }
}

#[test]
fn an_unknown_configuration_key_is_refused_with_the_nearest() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(dir.path().join("curve.toml"), "mds_adresses = [\"127.0.0.1:1\"]\n").expect("a file");
    let output = curve(dir.path(), &["bs", "ls", "--json"]);
    assert_eq!(output.status.code(), Some(8));
    let said: serde_json::Value = serde_json::from_slice(&output.stderr).expect("an error as JSON");
    assert_eq!(said["error"]["code"], "CONFIG");
    let message = said["error"]["message"].as_str().expect("a message");
    assert!(message.contains("mds_addresses") && message.contains("curve.toml:1"), "{message}");
}

#[test]
fn a_playground_is_not_made_of_what_was_mistyped() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (set, says) in [
        (["--mds-set", "dead_aftr = '9s'"], "`dead_after`"),
        (["--chunkserver-set", "reserve = 'much'"], "`reserve`"),
        (["--metaserver-set", "zone = 1"], "`zone`"),
    ] {
        let refused = curve(dir.path(), &["playground", "start", "--fs", "--dir", "p", set[0], set[1]]);
        let said = text(&refused.stderr);
        assert!(!refused.status.success() && said.contains(says) && said.contains(set[0]), "{said}");
        assert!(!dir.path().join("p/playground.json").exists() && !dir.path().join("p/curve.toml").exists());
    }
}

#[test]
fn a_cluster_that_is_down_is_said_to_be_down() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(dir.path().join("c.toml"), "mds_addresses = [\"127.0.0.1:1\"]\nmds_timeout = \"500ms\"\n")
        .expect("a file");
    let output = curve(dir.path(), &["--config", "c.toml", "bs", "create", "/a", "--size", "1GiB"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{said}");
    assert!(said.starts_with("curve: UNAVAILABLE:") && said.contains("majority"), "{said}");
}

#[test]
fn completion_knows_the_commands() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for shell in ["bash", "zsh", "fish"] {
        let output = curve(dir.path(), &["completion", shell]);
        assert!(output.status.success() && text(&output.stdout).contains("playground"), "{shell}");
    }
}

#[test]
fn a_reader_that_leaves_is_no_failure_and_a_full_disk_is_one() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for arguments in [&["explain"][..], &["completion", "bash"]] {
        let (_, unread) = std::io::pipe().expect("a pipe");
        let output = saying(dir.path(), arguments, unread.into());
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()), "{arguments:?}");
        let full = File::options().write(true).open("/dev/full").expect("a full disk");
        let output = saying(dir.path(), arguments, full.into());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(10), "{said}");
        assert!(said.contains("standard output") && said.contains("No space"), "{said}");
    }
}
