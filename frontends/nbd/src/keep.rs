//! `curve-nbd keep`: starts the process behind a device, and starts it again whenever it dies.
//!
//! It opens nothing and holds nothing, so that killing it harms nothing: the process goes on, and `curve-nbd takeover`
//! gives the device a keeper again.

use std::io::{self, Write};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use curve_nbd::kernel::mapping::Mapping;
use curve_nbd::kernel::sysfs;

use crate::attach::{GONE, expect_another};
use crate::cli::Attach;

/// The pause before the next start when a process did not live for long; doubles up to the second.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A process that lived for so long is started again at once.
const LIVED: Duration = Duration::from_secs(1);

/// Keeps a device served until it is unmapped or a signal comes.
pub fn keep(what: &Attach) -> ExitCode {
    // Nobody's terminal ends this. It fails where the process leads a group already, which is as good.
    let _ = rustix::process::setsid();
    let kept = curve_telemetry::init_logging().map_err(io::Error::other).and_then(|()| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(run(what))
    });
    match kept {
        Ok(code) => code,
        Err(error) => {
            tell(&format!("failed {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(what: &Attach) -> io::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut mapping: Mapping = serde_json::from_str(&what.mapping)?;
    let mut again = what.again;
    let mut told = false;
    let mut pause = PAUSE_MIN;
    loop {
        let begun = Instant::now();
        let mut child = start(&mapping, again, what.takeover && !told)?;
        if let Some(line) = first_line(&mut child, &mut terminate).await? {
            if let Some(index) = line.strip_prefix("mapped ").and_then(sysfs::index_of) {
                mapping.index = Some(index);
                again = true;
                // From here on nobody waits for what happens.
                if !std::mem::replace(&mut told, true) {
                    tell(&line);
                }
            } else if !told && !what.again {
                tell(&line);
                child.wait().await?;
                return Ok(ExitCode::FAILURE);
            }
        }
        let status = wait(&mut child, &mut terminate).await?;
        if status.success() || status.code() == Some(i32::from(GONE)) {
            info!(%status, "the device is served no longer");
            return Ok(ExitCode::SUCCESS);
        }
        if !again {
            return Ok(ExitCode::FAILURE);
        }
        // At once: what the kernel's timer finds before is found again a second late.
        expect_another(&mapping);
        pause =
            if begun.elapsed() >= LIVED { Duration::ZERO } else { (2 * pause).clamp(PAUSE_MIN, PAUSE_MAX) };
        warn!(%status, ?pause, "the process behind the device died; another one is started");
        tokio::select! {
            () = sleep(pause) => {}
            _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
        }
    }
}

/// Of the program's file as it is now, which may be a later version.
fn start(mapping: &Mapping, again: bool, takeover: bool) -> io::Result<Child> {
    let mut command = Command::new(program()?);
    command.arg("attach").arg("--mapping").arg(serde_json::to_string(mapping)?);
    if again {
        command.arg("--again");
    }
    if takeover {
        command.arg("--takeover");
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()
}

/// The program's file, also after it was replaced by a later version.
pub fn program() -> io::Result<std::path::PathBuf> {
    let path = std::env::current_exe()?;
    Ok(match path.to_str().and_then(|path| path.strip_suffix(" (deleted)")) {
        Some(replaced) => replaced.into(),
        None => path,
    })
}

/// What the process says first; it may wait for the cluster for long before. The signal is passed on meanwhile.
async fn first_line(child: &mut Child, terminate: &mut Signal) -> io::Result<Option<String>> {
    let stdout = child.stdout.take().expect("it is piped");
    let mut lines = BufReader::new(stdout).lines();
    loop {
        tokio::select! {
            line = lines.next_line() => return line,
            _ = terminate.recv() => pass_on(child)?,
        }
    }
}

/// Waits for the end of a process, and passes the signal on.
async fn wait(child: &mut Child, terminate: &mut Signal) -> io::Result<ExitStatus> {
    loop {
        tokio::select! {
            status = child.wait() => return status,
            _ = terminate.recv() => pass_on(child)?,
        }
    }
}

fn pass_on(child: &Child) -> io::Result<()> {
    match child.id().and_then(|pid| rustix::process::Pid::from_raw(pid as i32)) {
        Some(pid) => Ok(rustix::process::kill_process(pid, rustix::process::Signal::TERM)?),
        None => Ok(()),
    }
}

/// Whoever started this reads one line, and may be gone.
fn tell(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
