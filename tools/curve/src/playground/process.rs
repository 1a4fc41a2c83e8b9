//! One member's process: started, recognised again, signalled, waited for.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::failure::{Code, Failure};
use crate::playground::layout::{Layout, replace_file};
use crate::playground::plan::MemberName;

/// What a member's process does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It runs.
    Running,
    /// It is frozen by SIGSTOP.
    Paused,
    /// It was stopped or killed by a command, or never started.
    Stopped,
    /// It is gone though no command stopped it.
    Crashed,
}

/// Tells one process from a later one with the same id.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Identity {
    pid: i32,
    /// Field 22 of `/proc/PID/stat`: clock ticks since boot.
    start_ticks: u64,
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
}

/// A process that was recognised; the pidfd keeps meaning it whatever happens.
#[derive(Debug)]
pub struct Process {
    identity: Identity,
    pidfd: OwnedFd,
}

/// Fields of `/proc/PID/stat` that matter here.
struct ProcStat {
    state: char,
    start_ticks: u64,
}

impl Process {
    /// Starts a member. Its standard output and error are appended to its log.
    pub fn spawn(layout: &Layout, name: MemberName, launch: &Launch) -> Result<Self, Failure> {
        let log_path = layout.log_file(name);
        let log = OpenOptions::new().create(true).append(true).open(&log_path);
        let log = log.map_err(|error| Failure::file("open", &log_path, &error))?;
        let errors = log.try_clone().map_err(|error| Failure::file("duplicate", &log_path, &error))?;
        let child = Command::new(&launch.program)
            .args(&launch.arguments)
            .current_dir(layout.root())
            .env("RUST_BACKTRACE", "1")
            .env_remove("CURVE_MDS")
            .env_remove("CURVE_CONFIG")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(|error| Failure::file("run", &launch.program, &error))?;
        // The process is still our child, so its id cannot have been reused.
        let pid = i32::try_from(child.id()).expect("process ids are positive i32");
        let stat = read_stat(pid)
            .ok_or_else(|| Failure::new(Code::Environment, format!("/proc/{pid} is missing")))?;
        let identity = Identity { pid, start_ticks: stat.start_ticks };
        let text = serde_json::to_string(&identity).expect("an identity is always representable");
        replace_file(&layout.identity_file(name), &(text + "\n"))?;
        replace_file(&layout.pid_file(name), &format!("{pid}\n"))?;
        Self::open(identity)
            .ok_or_else(|| Failure::new(Code::Environment, format!("process {pid} cannot be watched")))
    }

    /// The running process of a member, if there is one.
    pub fn find(layout: &Layout, name: MemberName) -> Option<Self> {
        Self::open(recorded(&layout.identity_file(name))?)
    }

    fn open(identity: Identity) -> Option<Self> {
        let pidfd = pidfd_open(Pid::from_raw(identity.pid)?, PidfdFlags::empty()).ok()?;
        let process = Self { identity, pidfd };
        process.stat().is_some().then_some(process)
    }

    /// Its process id.
    pub const fn pid(&self) -> i32 {
        self.identity.pid
    }

    /// Whether it still runs (a zombie does not).
    pub fn is_alive(&self) -> bool {
        self.stat().is_some()
    }

    /// Sends a signal. A process that is already gone is no error.
    pub fn signal(&self, signal: Signal) -> Result<(), Failure> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => {
                Err(Failure::new(Code::Environment, format!("cannot signal process {}", self.pid()))
                    .because(error)
                    .try_this("run as the user that started the playground"))
            }
        }
    }

    /// Waits until it is gone. `false` when that did not happen in time.
    pub async fn wait_gone(&self, limit: Duration) -> bool {
        let Ok(fd) = self.pidfd.try_clone() else { return !self.is_alive() };
        // SAFETY: an `OwnedFd` keeps its descriptor open, and the same one, for as long as `watch` owns it.
        let watch = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        let Ok(watch) = watch else { return !self.is_alive() };
        // A pidfd becomes readable when its process ends.
        let gone = tokio::time::timeout(limit, watch.readable()).await.is_ok();
        gone || !self.is_alive()
    }

    /// Its line in `/proc`, if that is still this process and not only its remains.
    fn stat(&self) -> Option<ProcStat> {
        read_stat(self.identity.pid)
            .filter(|stat| stat.start_ticks == self.identity.start_ticks && !matches!(stat.state, 'Z' | 'X'))
    }
}

/// What a member's process does, and its id when it lives.
pub fn state(layout: &Layout, name: MemberName) -> (State, Option<i32>) {
    let Some(identity) = recorded(&layout.identity_file(name)) else { return (State::Stopped, None) };
    let Some(process) = Process::open(identity) else { return (State::Crashed, None) };
    match process.stat() {
        Some(stat) if stat.state == 'T' => (State::Paused, Some(identity.pid)),
        Some(_) => (State::Running, Some(identity.pid)),
        None => (State::Crashed, None),
    }
}

/// Forgets a process that a command has ended.
pub fn forget(layout: &Layout, name: MemberName) -> Result<(), Failure> {
    for path in [layout.pid_file(name), layout.identity_file(name)] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(Failure::file("remove", &path, &error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn recorded(path: &Path) -> Option<Identity> {
    serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
}

fn read_stat(pid: i32) -> Option<ProcStat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The command's name, in parentheses, may hold anything, so fields are counted after its last parenthesis.
fn parse_stat(line: &str) -> Option<ProcStat> {
    let mut fields = line.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // `state` is field 3, so field 22 is 18 further on.
    let start_ticks = fields.nth(18)?.parse().ok()?;
    Some(ProcStat { state, start_ticks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_with_odd_names_are_understood() {
        let stat = parse_stat("12 (a) b (c)) T 1 12 12 0 -1 4 5 6 7 8 9 10 11 12 20 0 1 0 98765 1 2")
            .expect("valid");
        assert_eq!((stat.state, stat.start_ticks), ('T', 98765));
        assert!(parse_stat("12 (a").is_none());
    }

    #[test]
    fn a_process_with_another_start_time_is_not_taken_for_ours() {
        let own = i32::try_from(std::process::id()).expect("small");
        let start_ticks = read_stat(own).expect("we run").start_ticks;
        assert!(Process::open(Identity { pid: own, start_ticks }).is_some());
        assert!(Process::open(Identity { pid: own, start_ticks: start_ticks + 1 }).is_none());
    }
}
