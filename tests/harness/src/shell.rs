//! Runs other programs with a deadline and keeps what they said.

use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use thiserror::Error;
use tokio::process::Command;

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    /// The command, for messages.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

/// Why a program gave no result.
#[derive(Debug, Error)]
pub enum ShellError {
    /// It could not be started.
    #[error("cannot run `{command}`: {error}")]
    Start {
        /// The command.
        command: String,
        /// Why.
        error: std::io::Error,
    },
    /// It did not end in time and was killed, together with what it had started.
    #[error("`{command}` did not end within {seconds} s and was killed")]
    Late {
        /// The command.
        command: String,
        /// The time given.
        seconds: u64,
    },
    /// It ended with another status than 0.
    #[error("`{}` ended with {}\nstdout:\n{}\nstderr:\n{}", .0.command, .0.status, .0.stdout, .0.stderr)]
    Failed(Box<Finished>),
}

impl Finished {
    /// The result, when the status is 0.
    pub fn success(self) -> Result<Self, ShellError> {
        if self.status.success() { Ok(self) } else { Err(ShellError::Failed(Box::new(self))) }
    }
}

/// Whether a program is in the search path.
pub fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

/// Runs a program to its end, whatever its status.
pub async fn run_within(limit: Duration, program: &str, arguments: &[&str]) -> Result<Finished, ShellError> {
    let command = std::iter::once(program).chain(arguments.iter().copied()).collect::<Vec<_>>().join(" ");
    let begun = Instant::now();
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| ShellError::Start { command: command.clone(), error })?;
    let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    match tokio::time::timeout(limit, child.wait_with_output()).await {
        Ok(Ok(output)) => Ok(Finished {
            command,
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            took: begun.elapsed(),
        }),
        Ok(Err(error)) => Err(ShellError::Start { command, error }),
        Err(_) => {
            // The group holds only what this call has started.
            if let Some(group) = group {
                let _ = kill_process_group(group, Signal::KILL);
            }
            Err(ShellError::Late { command, seconds: limit.as_secs() })
        }
    }
}

/// Runs a program that must end with status 0 within `seconds`.
pub async fn run(seconds: u64, program: &str, arguments: &[&str]) -> Result<Finished, ShellError> {
    run_within(Duration::from_secs(seconds), program, arguments).await?.success()
}
