//! `curve-fuse mount` and `curve-fuse upgrade`: in this process, or in one of its own that is waited for until the mount is usable.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use curve_serving::startup::StartError;
use curve_telemetry::init_logging;
use tracing::error;

use crate::checks::Plan;
use crate::cli::{Mount, Upgrade};
use crate::error::FuseError;
use crate::{daemon, mounts, notify};

const LOG: &str = "/var/log/curve/curve-fuse.log";
/// What the process behind a mount says first.
const MOUNTED: &str = "mounted ";
const TOOK_OVER: &str = "took over ";
const FAILED: &str = "failed ";

/// Mounts, and returns when the mount is usable (`--background`) or over.
pub fn mount(mount: &Mount) -> Result<(), FuseError> {
    let plan = Plan::new(mount)?;
    if mount.background {
        let arguments = [vec!["mount".into()], arguments(mount, &plan)?].concat();
        return start(&arguments, plan.log.as_deref());
    }
    if let Some(path) = &plan.log {
        log_to(path)?;
    }
    init_logging().map_err(StartError::from)?;
    daemon::run(&plan, || {
        notify::ready();
        tell(&format!("{MOUNTED}{}", plan.dir.display()))
    })
}

/// Goes on with a mount, and returns when that is done (`--background`) or the mount is over.
pub fn upgrade(upgrade: &Upgrade) -> Result<(), FuseError> {
    let dir =
        mounts::full_name(&upgrade.dir).map_err(FuseError::system(upgrade.dir.display().to_string()))?;
    if upgrade.background {
        return start(&["upgrade".into(), dir.into()], None);
    }
    init_logging().map_err(StartError::from)?;
    run_upgrade(&dir)
}

fn run_upgrade(dir: &Path) -> Result<(), FuseError> {
    daemon::run_upgrade(dir, || tell(&format!("{TOOK_OVER}{}", dir.display())))
}

/// The process behind a mount: says in one line how it went, and goes on.
pub fn serve_as_child(mount: &Mount) -> ExitCode {
    as_child(|| {
        let plan = Plan::new(mount)?;
        init_logging().map_err(StartError::from)?;
        daemon::run(&plan, || tell(&format!("{MOUNTED}{}", plan.dir.display())))
    })
}

/// The process that goes on with a mount, in the same way.
pub fn upgrade_as_child(upgrade: &Upgrade) -> ExitCode {
    as_child(|| {
        init_logging().map_err(StartError::from)?;
        run_upgrade(&upgrade.dir)
    })
}

fn as_child(serve: impl FnOnce() -> Result<(), FuseError>) -> ExitCode {
    // Nobody's terminal ends this. It fails where the process leads a group already, which is as good.
    let _ = rustix::process::setsid();
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            error!(error = %failure, "not served");
            // Whoever waits reads one line, and is gone if the mount was usable before.
            let _ = tell(&format!("{FAILED}{failure}"));
            ExitCode::FAILURE
        }
    }
}

fn tell(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Starts a process and waits for its line.
fn start(arguments: &[OsString], log: Option<&Path>) -> Result<(), FuseError> {
    let log = log.map_or_else(default_log, Path::to_owned);
    let program = std::env::current_exe().map_err(FuseError::system("the program's own file"))?;
    let mut command = Command::new(program);
    command.args(arguments).arg("--child");
    let mut child = command
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(open_log(&log)?)
        .spawn()
        .map_err(FuseError::system("cannot start the process behind the mount"))?;
    let mut line = String::new();
    let stdout = child.stdout.take().expect("it is piped");
    let read = BufReader::new(stdout).read_line(&mut line);
    read.map_err(FuseError::system("the process behind the mount"))?;
    let line = line.trim_end();
    let is_usable = line.starts_with(MOUNTED) || line.starts_with(TOOK_OVER);
    match (is_usable, line.strip_prefix(FAILED)) {
        (true, _) => tell(line).map_err(FuseError::system("standard output")),
        (false, Some(why)) => Err(FuseError::Failed(why.to_owned())),
        (false, None) => Err(FuseError::Silent(log)),
    }
}

/// The same command line, by full names: the process is started in another directory.
fn arguments(mount: &Mount, plan: &Plan) -> Result<Vec<OsString>, FuseError> {
    let mut all = vec![mount.name.clone().into(), plan.dir.clone().into_os_string()];
    for options in &mount.options {
        all.extend(["-o".into(), options.into()]);
    }
    if !mount.mds.is_empty() {
        all.extend(["--mds".into(), mount.mds.join(",").into()]);
    }
    let config = match curve_config::find_client_config(plan.config.as_deref()) {
        Ok(found) => Some(found.canonicalize().map_err(FuseError::system("the client configuration"))?),
        // What is wrong is said by who reads it; the MDSs' addresses may stand in for the file.
        Err(_) => plan.config.clone(),
    };
    if let Some(path) = config {
        all.extend(["--config".into(), path.into_os_string()]);
    }
    if let Some(http) = &mount.http {
        all.extend(["--http".into(), http.into()]);
    }
    all.extend(mount.sloppy.then_some("--sloppy".into()));
    Ok(all)
}

fn default_log() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return LOG.into();
    }
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/state"));
    state.or(home).unwrap_or_else(std::env::temp_dir).join("curve/curve-fuse.log")
}

/// Sends the log there from now on.
pub fn log_to(path: &Path) -> Result<(), FuseError> {
    let log = open_log(path)?;
    rustix::stdio::dup2_stderr(&log).map_err(|error| FuseError::system("standard error")(error.into()))
}

fn open_log(path: &Path) -> Result<File, FuseError> {
    let made = path.parent().map_or(Ok(()), fs::create_dir_all);
    let opened = made.and_then(|()| File::options().create(true).append(true).open(path));
    opened.map_err(FuseError::system(format!("the log {}", path.display())))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command as Parsed};

    #[test]
    fn the_child_is_told_what_its_parent_was() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("curve.toml");
        fs::write(&config, "").unwrap();
        let mount = Mount {
            name: "data:/x".into(),
            dir: "here".into(),
            options: vec!["ro,log=/l".into(), "soft".into()],
            mds: vec!["a:1".into(), "b:2".into()],
            http: Some("h:1".into()),
            config: Some(config.clone()),
            sloppy: true,
            background: true,
            ..Mount::default()
        };
        let plan = Plan::new(&Mount { dir: dir.path().into(), ..mount.clone() });
        // Where there is no /dev/fuse there is no plan, and nothing to compare.
        let Ok(plan) = plan else { return };
        let args = [vec!["curve-fuse".into(), "mount".into()], arguments(&mount, &plan).unwrap()].concat();
        let Parsed::Mount(child) = Cli::try_parse_from(args).unwrap().command else { panic!() };
        assert_eq!((&child.name, &child.options, &child.mds), (&mount.name, &mount.options, &mount.mds));
        assert_eq!(child.dir, dir.path().canonicalize().unwrap());
        assert_eq!(
            (child.config, child.http, child.sloppy),
            (Some(config.canonicalize().unwrap()), mount.http, true)
        );
        assert!(!child.background);
    }

    #[test]
    fn a_log_is_made_with_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b.log");
        writeln!(open_log(&path).unwrap(), "x").unwrap();
        writeln!(open_log(&path).unwrap(), "y").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "x\ny\n");
        assert!(open_log(dir.path()).unwrap_err().to_string().contains("the log"));
    }
}
