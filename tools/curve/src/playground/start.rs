//! Makes a playground, or starts what is missing of one, and waits for its health.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::cli::StartArgs;
use crate::failure::{Code, Failure};
use crate::playground::control::stop_members;
use crate::playground::layout::Layout;
use crate::playground::plan::{Member, MemberName, Plan, Role};
use crate::playground::process::{self, Launch, Process, State};
use crate::playground::{configs, ports, status, wait};
use crate::serve::raise_descriptor_limit;

/// Ports set aside for each member.
const PORTS_PER_MEMBER: u16 = 4;
/// What `--fs` starts, with one object store: as many as a partition has replicas.
const METASERVERS: u16 = 3;

/// Starts the playground. On failure what this call has started is stopped again; logs and data stay.
pub async fn start(args: &StartArgs) -> Result<(), Failure> {
    raise_descriptor_limit()?;
    let layout = Layout::at(&args.dir.dir)?;
    layout.create()?;
    let _lock = layout.lock()?;
    let plan = plan(&layout, args)?;
    let files = configs::compose(&layout, &plan, args)?;
    if !layout.plan_file().is_file() {
        plan.store(&layout)?;
    }
    configs::write(&layout, &plan, &files)?;
    let mut started: Vec<Member> = Vec::new();
    for member in plan.servers() {
        if !matches!(process::state(&layout, member.name).0, State::Running | State::Paused) {
            launch(&layout, member, Begin::Plain)?;
            started.push(member.clone());
        }
    }
    if let Err(failure) = wait::until_healthy(&layout, &plan, args.timeout.0).await {
        stop_members(&layout, &started, Duration::from_secs(5)).await?;
        return Err(failure);
    }
    status::print_started(&layout, &plan, started.is_empty());
    Ok(())
}

/// How a process begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Begin {
    /// With what it left.
    Plain,
    /// A server moves its data aside and begins empty.
    Rebuild,
    /// An NBD server shuts out the session of the process that it replaces, which is known to be gone.
    Replace,
}

/// Starts one member's process.
pub(super) fn launch(layout: &Layout, member: &Member, begin: Begin) -> Result<(), Failure> {
    let launch = match member.name.role {
        Role::Nbd => super::nbd::launch(layout, member, begin)?,
        Role::Mds | Role::Chunkserver | Role::Metaserver | Role::S3 => {
            let config = layout.config_file(member.name).display().to_string();
            let mut arguments =
                vec!["serve".to_owned(), member.name.role.prefix().to_owned(), "--config".to_owned(), config];
            if begin == Begin::Rebuild {
                arguments.push("--rebuild".to_owned());
            }
            Launch { program: own_program()?, arguments }
        }
    };
    Process::spawn(layout, member.name, &launch).map(drop)
}

/// This program's file. A rebuilt program has ` (deleted)` appended by the kernel; the new file is what is wanted then.
pub(super) fn own_program() -> Result<PathBuf, Failure> {
    let path = std::env::current_exe().map_err(|error| {
        Failure::new(Code::Environment, "cannot find this program's own file").because(error)
    })?;
    let text = path.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or_else(|| path.clone(), PathBuf::from))
}

fn plan(layout: &Layout, args: &StartArgs) -> Result<Plan, Failure> {
    if layout.plan_file().is_file() {
        let plan = Plan::load(layout)?;
        check_same(&plan, args)?;
        return Ok(plan);
    }
    if args.mds.is_multiple_of(2) {
        return Err(Failure::new(Code::Usage, format!("{} MDSs have no useful majority", args.mds))
            .try_this("use an odd number: --mds 1 or --mds 3"));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    let seed = now ^ u64::from(std::process::id()).rotate_left(32);
    let counts = counts(args);
    let count = counts.iter().map(|(_, count)| count).sum::<u16>() * PORTS_PER_MEMBER;
    let base = ports::choose(args.port_base, count, seed)?;
    let names = counts
        .into_iter()
        .flat_map(|(role, count)| (1..=count).map(move |number| MemberName { role, number }));
    let members =
        names.enumerate().map(|(slot, name)| member(name, base + slot as u16 * PORTS_PER_MEMBER)).collect();
    Ok(Plan { version: Plan::VERSION, cluster: format!("playground-{seed:016x}"), members })
}

/// How many servers of each role are asked for.
fn counts(args: &StartArgs) -> [(Role, u16); 4] {
    let (metaservers, stores) = if args.fs { (METASERVERS, 1) } else { (0, 0) };
    [
        (Role::Mds, args.mds),
        (Role::Chunkserver, args.chunkservers),
        (Role::Metaserver, metaservers),
        (Role::S3, stores),
    ]
}

fn member(name: MemberName, port: u16) -> Member {
    let zone = match name.role {
        Role::Chunkserver | Role::Metaserver => format!("zone-{}", name.number),
        Role::Mds | Role::S3 | Role::Nbd => String::new(),
    };
    Member {
        name,
        data_port: port,
        control_port: if name.role == Role::Mds { port + 1 } else { 0 },
        http_port: port + 2,
        zone,
        paths: Vec::new(),
        socket: String::new(),
        read_only: false,
        shared: false,
    }
}

/// An existing playground is started as it is; other numbers were probably a mistake.
fn check_same(plan: &Plan, args: &StartArgs) -> Result<(), Failure> {
    let wanted = counts(args);
    let has = |role| plan.of(role).count();
    // Starting it again without `--fs` starts everything it has.
    let same = wanted.iter().all(|(role, count)| {
        has(*role) == usize::from(*count) || !args.fs && matches!(role, Role::Metaserver | Role::S3)
    });
    if same {
        return Ok(());
    }
    let list = |count: &dyn Fn(Role) -> usize| {
        let each = wanted.iter().map(|(role, _)| format!("{} {}", count(*role), role.prefix()));
        each.collect::<Vec<_>>().join(", ")
    };
    let asked = |role| wanted.iter().find(|(of, _)| *of == role).map_or(0, |(_, count)| usize::from(*count));
    let (mds, chunkservers) = (has(Role::Mds), has(Role::Chunkserver));
    let fs = if has(Role::Metaserver) > 0 { " --fs" } else { "" };
    Err(Failure::new(Code::Conflict, format!("{} exists with other members", args.dir.dir.display()))
        .because(format!("it has {}; asked for were {}", list(&has), list(&asked)))
        .try_this(format!("pass --mds {mds} --chunkservers {chunkservers}{fs}, or use another directory")))
}
