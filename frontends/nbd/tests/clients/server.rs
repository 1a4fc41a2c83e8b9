//! A `curve-nbd` process, and the tools that talk to it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A running server, ended when this is dropped.
pub struct Server {
    child: Child,
    /// What it printed after `ready`.
    pub uris: Vec<String>,
}

/// A directory for one test's files.
pub fn scratch() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// The program under test.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_curve-nbd"));
    command.env_remove("CURVE_CONFIG").env_remove("CURVE_MDS");
    command
}

impl Server {
    /// Starts `curve-nbd serve` with these arguments and waits until it is ready.
    pub fn start(arguments: &[&str]) -> Self {
        let paths =
            arguments.iter().filter(|argument| argument.starts_with('/') && !argument.contains('.')).count();
        let mut child = program()
            .arg("serve")
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("curve-nbd can be started");
        let stdout = child.stdout.take().expect("stdout is piped");
        let lines = BufReader::new(stdout).lines().take(paths.max(1));
        let uris = lines.map(|line| {
            let line = line.expect("stdout is text");
            line.strip_prefix("ready ").unwrap_or_else(|| panic!("unexpected line {line}")).to_owned()
        });
        let uris: Vec<String> = uris.collect();
        assert!(!uris.is_empty(), "curve-nbd {arguments:?} ended before it was ready");
        Self { child, uris }
    }

    /// One memory device of `size` on a socket in `dir`.
    pub fn memory(dir: &Path, size: &str, more: &[&str]) -> Self {
        let socket = socket(dir);
        let arguments = ["/demo", "--memory", size, "--socket", socket.to_str().expect("a plain path")];
        Self::start(&[&arguments, more].concat())
    }

    /// The first export.
    pub fn uri(&self) -> &str {
        &self.uris[0]
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("the server runs");
    }

    /// Waits for the end, at most 20 seconds, and gives the exit code.
    pub fn wait(mut self) -> Option<i32> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the server did not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail if it has ended, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The socket that [`Server::memory`] uses.
pub fn socket(dir: &Path) -> PathBuf {
    dir.join("nbd.sock")
}

/// Runs a tool; `package` is what to install if it is missing.
pub fn run(tool: &str, package: &str, arguments: &[&str]) -> Output {
    match Command::new(tool).args(arguments).output() {
        Ok(output) => output,
        Err(error) => panic!("cannot run {tool}: {error}; install it with: apt-get install {package}"),
    }
}

/// Runs a tool that must succeed, and gives what it printed.
pub fn succeed(tool: &str, package: &str, arguments: &[&str]) -> String {
    let output = run(tool, package, arguments);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{tool} {arguments:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

/// Bytes that do not compress and do not repeat, from a seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    use rand::{RngCore, SeedableRng};
    let mut bytes = vec![0; len];
    rand::rngs::StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}
