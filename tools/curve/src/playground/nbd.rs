//! An NBD server as a member of the playground: a client daemon with the same start, kill and restart as the servers.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use curve_telemetry::say;

use crate::cli::NbdArgs;
use crate::failure::{Code, Failure};
use crate::playground::layout::Layout;
use crate::playground::plan::{Member, MemberName, Plan, Role};
use crate::playground::process::{self, Launch, State};
use crate::playground::start::{self, Begin};
use crate::playground::{ports, wait};

/// `curve playground nbd PATH…`: serves volumes from a new background member and prints their URIs. Volumes that a
/// running member already serves on the same socket are only announced again.
pub async fn serve(args: &NbdArgs) -> Result<(), Failure> {
    let layout = Layout::existing(&args.dir.dir)?;
    let _lock = layout.lock()?;
    let mut plan = Plan::load(&layout)?;
    let member = wanted(&layout, &plan, args)?;
    if plan.member(member.name).is_err() {
        plan.members.push(member.clone());
        plan.store(&layout)?;
    }
    if process::state(&layout, member.name).0 != State::Running {
        start::launch(&layout, &member, Begin::Plain)?;
    }
    wait::until_serving(&layout, &member, args.timeout.0).await?;
    for path in &member.paths {
        say!("ready {}", uri(path, &member.socket));
    }
    Ok(())
}

/// The URI of a volume behind a socket.
pub(super) fn uri(path: &str, socket: &str) -> String {
    format!("nbd+unix:///{}?socket={socket}", path.trim_start_matches('/'))
}

/// How an NBD member is started. Its log is emptied and its socket removed, so that what is found there is new.
pub(super) fn launch(layout: &Layout, member: &Member, begin: Begin) -> Result<Launch, Failure> {
    remove(Path::new(&member.socket))?;
    remove(&layout.log_file(member.name))?;
    let config = layout.client_config().display().to_string();
    let mut arguments = vec!["serve".to_owned(), "--config".to_owned(), config];
    arguments.extend(["--socket".to_owned(), member.socket.clone()]);
    arguments.extend(["--http".to_owned(), member.http_address()]);
    if member.read_only {
        arguments.push("--read-only".to_owned());
    }
    if member.shared {
        arguments.push("--shared".to_owned());
    }
    // A server that shares shuts out its own predecessor only, which it does by itself.
    if begin == Begin::Replace && !member.read_only && !member.shared {
        arguments.push("--takeover".to_owned());
    }
    arguments.extend(member.paths.iter().cloned());
    Ok(Launch { program: program()?, arguments })
}

fn remove(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Failure::file("remove", path, &error)),
        _ => Ok(()),
    }
}

/// `curve-nbd` beside this program, else from the search path.
fn program() -> Result<PathBuf, Failure> {
    let own = start::own_program()?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let beside = own.parent().map(Path::to_path_buf);
    let candidates = beside.into_iter().chain(std::env::split_paths(&path)).map(|dir| dir.join("curve-nbd"));
    candidates.into_iter().find(|candidate| candidate.is_file()).ok_or_else(|| {
        Failure::new(Code::Environment, "curve-nbd was not found")
            .because(format!("it is neither beside {} nor in $PATH", own.display()))
            .try_this("build it: cargo build --release -p curve-nbd")
    })
}

fn wanted(layout: &Layout, plan: &Plan, args: &NbdArgs) -> Result<Member, Failure> {
    let socket = match &args.socket {
        Some(socket) => Some(
            std::path::absolute(socket)
                .map_err(|error| Failure::file("resolve", socket, &error))?
                .display()
                .to_string(),
        ),
        None => None,
    };
    let same = plan.of(Role::Nbd).find(|member| {
        member.paths == args.paths
            && member.read_only == args.read_only
            && member.shared == args.shared
            && socket.as_ref().is_none_or(|socket| *socket == member.socket)
    });
    if let Some(member) = same {
        return Ok(member.clone());
    }
    let number = plan.of(Role::Nbd).map(|member| member.name.number).max().unwrap_or(0) + 1;
    let name = MemberName { role: Role::Nbd, number };
    let socket = socket.unwrap_or_else(|| layout.socket(name).display().to_string());
    check_length(&socket)?;
    Ok(Member {
        name,
        data_port: 0,
        control_port: 0,
        http_port: ports::choose(None, 1, u64::from(std::process::id()))?,
        zone: String::new(),
        paths: args.paths.clone(),
        socket,
        read_only: args.read_only,
        shared: args.shared,
    })
}

/// `sun_path` has 108 bytes with its terminator.
fn check_length(socket: &str) -> Result<(), Failure> {
    const SOCKET_PATH_BYTES_MAX: usize = 107;
    if socket.len() <= SOCKET_PATH_BYTES_MAX {
        return Ok(());
    }
    Err(Failure::new(Code::Usage, format!("the socket's path has {} bytes: {socket}", socket.len()))
        .because(format!("the system allows {SOCKET_PATH_BYTES_MAX}"))
        .try_this("choose a shorter one with --socket"))
}
