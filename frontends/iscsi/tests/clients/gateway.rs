//! A `curve-iscsi` process, and the tools that talk to it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The target that [`Gateway::memory`] serves.
pub const IQN: &str = "iqn.2026-01.com.example:disk";

/// A running gateway, ended when this is dropped.
pub struct Gateway {
    child: Child,
    /// What it printed after `ready`.
    pub urls: Vec<String>,
}

/// The program under test.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_curve-iscsi"));
    command.env_remove("CURVE_CONFIG").env_remove("CURVE_MDS");
    command
}

impl Gateway {
    /// Starts `curve-iscsi serve` with these arguments and waits until it is ready.
    pub fn start(arguments: &[&str]) -> Self {
        let count = |flag: &str| arguments.iter().filter(|argument| **argument == flag).count();
        let lines = count("--listen") * count("--lun");
        let child = program().arg("serve").args(arguments).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("curve-iscsi can be started");
        let stdout = child.stdout.take().expect("stdout is piped");
        let urls = BufReader::new(stdout).lines().take(lines).map(|line| {
            let line = line.expect("stdout is text");
            line.strip_prefix("ready ").unwrap_or_else(|| panic!("unexpected line {line}")).to_owned()
        });
        let urls: Vec<String> = urls.collect();
        assert_eq!(urls.len(), lines, "curve-iscsi {arguments:?} ended before it was ready");
        Self { child, urls }
    }

    /// Unit 0 in memory on a free port.
    pub fn memory(size: &str, block: &str, more: &[&str]) -> Self {
        let arguments = [
            "--listen",
            "127.0.0.1:0",
            "--iqn",
            IQN,
            "--lun",
            "0=disk",
            "--memory",
            size,
            "--block-size",
            block,
        ];
        Self::start(&[&arguments, more].concat())
    }

    /// The first unit on the first portal.
    pub fn url(&self) -> &str {
        &self.urls[0]
    }

    /// `host:port` of the first portal.
    pub fn portal(&self) -> &str {
        self.url().strip_prefix("iscsi://").and_then(|rest| rest.split('/').next()).expect("a URL")
    }

    /// The first unit's URL with credentials.
    pub fn url_as(&self, user: &str, password: &str) -> String {
        self.url().replacen("iscsi://", &format!("iscsi://{user}%{password}@"), 1)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("the gateway runs");
    }

    /// Waits for the end, at most 20 seconds, and gives the exit code.
    pub fn wait(mut self) -> Option<i32> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the gateway did not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Both fail if it has ended, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a tool; `package` is what to install if it is missing.
pub fn run(tool: &str, package: &str, arguments: &[&str]) -> Output {
    // No tool may take longer than this, whatever the gateway does.
    let bounded = [&["120", tool], arguments].concat();
    match Command::new("timeout").args(bounded).output() {
        Ok(output) if output.status.code() == Some(127) => {
            panic!("cannot run {tool}; install it with: apt-get install {package}")
        }
        Ok(output) => output,
        Err(error) => panic!("cannot run timeout: {error}"),
    }
}

/// Everything that a tool printed.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs a tool that must succeed, and gives what it printed.
pub fn succeed(tool: &str, package: &str, arguments: &[&str]) -> String {
    let output = run(tool, package, arguments);
    assert!(output.status.success(), "{tool} {arguments:?}: {}\n{}", output.status, text(&output));
    text(&output)
}
