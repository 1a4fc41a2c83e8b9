//! Stops, kills, freezes and restarts members.

use std::path::Path;
use std::time::Duration;

use curve_telemetry::{say, say_error};
use rustix::process::Signal;

use crate::failure::{Code, Failure};
use crate::playground::layout::Layout;
use crate::playground::plan::{Member, Plan, Role};
use crate::playground::process::{self, Process, State};
use crate::playground::start::{self, Begin};
use crate::playground::wait;

/// How long a killed process may take to be gone; only a disk that hangs keeps one longer.
const KILLED_GONE_WITHIN: Duration = Duration::from_secs(10);

/// Stops members in order: clients first, MDSs last, so that each can say goodbye to the next.
pub async fn stop(dir: &Path, names: &[String], timeout: Duration) -> Result<(), Failure> {
    let layout = Layout::existing(dir)?;
    let _lock = layout.lock()?;
    let mut members = Plan::load(&layout)?.select(names)?;
    members.sort_by_key(|member| std::cmp::Reverse(member.name));
    stop_members(&layout, &members, timeout).await?;
    for member in &members {
        say!("{} stopped", member.name);
    }
    Ok(())
}

/// Kills members at once.
pub async fn kill(dir: &Path, names: &[String], all: bool) -> Result<(), Failure> {
    let (layout, members) = named(dir, names, all, "killed")?;
    let _lock = layout.lock()?;
    let mut processes = Vec::new();
    for member in &members {
        if let Some(process) = Process::find(&layout, member.name) {
            process.signal(Signal::KILL)?;
            processes.push(process);
        }
    }
    for process in processes {
        wait_killed(&process).await?;
    }
    for member in &members {
        process::forget(&layout, member.name)?;
        say!("{} killed", member.name);
    }
    Ok(())
}

/// Freezes members.
pub fn pause(dir: &Path, names: &[String], all: bool) -> Result<(), Failure> {
    signal_all(dir, names, all, Signal::STOP, "paused")
}

/// Lets frozen members go on.
pub fn resume(dir: &Path, names: &[String], all: bool) -> Result<(), Failure> {
    signal_all(dir, names, all, Signal::CONT, "resumed")
}

/// How members are started again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Restart {
    /// How long to wait for the cluster's health; `None` waits only until the processes answer.
    pub health_within: Option<Duration>,
    /// Servers move their data aside and start empty.
    pub rebuild: bool,
}

/// Starts members again, after stopping in order those that run.
pub async fn restart(dir: &Path, names: &[String], all: bool, how: Restart) -> Result<(), Failure> {
    let (layout, members) = named(dir, names, all, "restarted")?;
    if let Some(other) = members.iter().find(|member| how.rebuild && !member.name.role.has_replicas()) {
        return Err(Failure::new(Code::Usage, format!("{} has nothing to rebuild", other.name))
            .because("no replica has what it keeps")
            .try_this("name MDSs, chunkservers or metaservers"));
    }
    let _lock = layout.lock()?;
    let plan = Plan::load(&layout)?;
    stop_members(&layout, &members, Duration::from_secs(30)).await?;
    for member in &members {
        let begin = match member.name.role {
            Role::Nbd => Begin::Replace,
            _ if how.rebuild => Begin::Rebuild,
            _ => Begin::Plain,
        };
        start::launch(&layout, member, begin)?;
    }
    let limit = how.health_within.unwrap_or(Duration::from_secs(30));
    for member in members.iter().filter(|member| member.name.role == Role::Nbd) {
        wait::until_serving(&layout, member, limit).await?;
    }
    match how.health_within {
        Some(limit) => wait::until_healthy(&layout, &plan, limit).await?,
        None => wait::until_answering(&layout, &members, limit).await?,
    }
    for member in &members {
        say!("{} restarted", member.name);
    }
    Ok(())
}

/// Stops what is running of `members`; a member that does not end in time is killed, and that is said.
pub(super) async fn stop_members(
    layout: &Layout,
    members: &[Member],
    timeout: Duration,
) -> Result<(), Failure> {
    for role in Role::ALL.into_iter().rev() {
        let of_role: Vec<&Member> = members.iter().filter(|member| member.name.role == role).collect();
        let mut running = Vec::new();
        for member in &of_role {
            if let Some(process) = Process::find(layout, member.name) {
                process.signal(Signal::TERM)?;
                // A frozen process takes the signal only when it goes on.
                process.signal(Signal::CONT)?;
                running.push((member.name, process));
            }
        }
        for (name, process) in running {
            if !process.wait_gone(timeout).await {
                say_error!("{name} did not stop within {} s; killing it", timeout.as_secs());
                process.signal(Signal::KILL)?;
                wait_killed(&process).await?;
            }
        }
        for member in of_role {
            process::forget(layout, member.name)?;
        }
    }
    Ok(())
}

async fn wait_killed(process: &Process) -> Result<(), Failure> {
    if process.wait_gone(KILLED_GONE_WITHIN).await {
        return Ok(());
    }
    Err(Failure::new(Code::TimedOut, format!("process {} was killed but is not gone", process.pid()))
        .because("it waits for a disk that does not answer")
        .try_this("look at dmesg and the disk"))
}

fn signal_all(dir: &Path, names: &[String], all: bool, signal: Signal, done: &str) -> Result<(), Failure> {
    let (layout, members) = named(dir, names, all, done)?;
    for member in &members {
        let process = Process::find(&layout, member.name).ok_or_else(|| {
            Failure::new(Code::Conflict, format!("{} does not run", member.name)).try_this(format!(
                "curve playground restart {} --dir {}",
                member.name,
                dir.display()
            ))
        })?;
        process.signal(signal)?;
        say!("{} {done}", member.name);
    }
    Ok(())
}

fn named(dir: &Path, names: &[String], all: bool, done: &str) -> Result<(Layout, Vec<Member>), Failure> {
    let layout = Layout::existing(dir)?;
    if names.is_empty() && !all {
        return Err(Failure::new(Code::Usage, format!("which members shall be {done}?"))
            .try_this("name them (mds-1 chunkserver-2), or pass --all"));
    }
    let members = Plan::load(&layout)?.select(names)?;
    Ok((layout, members))
}

/// Whether any member has a process.
pub(super) fn any_alive(layout: &Layout, plan: &Plan) -> bool {
    plan.members
        .iter()
        .any(|member| matches!(process::state(layout, member.name).0, State::Running | State::Paused))
}
