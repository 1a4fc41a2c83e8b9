//! `curve-nbd map`, `unmap`, `list-mapped`, `takeover`.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use curve_nbd::kernel::curvetab::{self, TabError};
use curve_nbd::kernel::driver::{Driver, DriverError};
use curve_nbd::kernel::mapping::{Mapping, OnTimeout, Record, Registry};
use curve_nbd::kernel::sysfs;
use curve_telemetry::{say, say_error};
use curve_types::ByteSize;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use thiserror::Error;

use crate::cli::{ListMapped, Map, OnTimeoutArg, Takeover, Unmap};
use crate::keep::program;

const CURVETAB: &str = "/etc/curve/curvetab";
const LOG: &str = "/var/log/curve/curve-nbd.log";
/// How long a process may take to end that was told to; it lets requests in flight finish.
const END_MAX: Duration = Duration::from_secs(40);
const END_LOOK: Duration = Duration::from_millis(10);

/// Why a device is not attached, detached or shown.
#[derive(Debug, Error)]
pub enum MapError {
    /// The device's name is none.
    #[error("`{0}` is no NBD device; devices are /dev/nbd0, /dev/nbd1, …")]
    Device(String),
    /// It is mapped already.
    #[error("{path} is mapped already, as {device}")]
    Mapped {
        /// The volume.
        path: String,
        /// Its device.
        device: String,
    },
    /// It is mapped, and nobody serves it.
    #[error("{path} is mapped as {device}, but no process serves it; run `curve-nbd takeover {device}`")]
    Unserved {
        /// The volume.
        path: String,
        /// Its device.
        device: String,
    },
    /// Nothing of this name is mapped.
    #[error("{0} is not mapped; `curve-nbd list-mapped` shows what is")]
    NotMapped(String),
    /// Somebody uses it.
    #[error("{device} is {}; end that first, or lose what is not written yet with --force", users.join(", "))]
    InUse {
        /// The device.
        device: String,
        /// What uses it.
        users: Vec<String>,
    },
    /// The process behind the device says why it does not work.
    #[error("{0}")]
    Failed(String),
    /// It says nothing.
    #[error("the process behind the device ended without a word; see {LOG}")]
    Silent,
    /// It does not end.
    #[error("process {pid} still serves {device} after {} s; its requests are stuck, see {LOG}", END_MAX.as_secs())]
    Lingers {
        /// The process.
        pid: u32,
        /// Its device.
        device: String,
    },
    /// A line of the curvetab is wrong.
    #[error("{CURVETAB}, {0}")]
    Tab(#[from] TabError),
    /// Some of several went wrong, and each was told.
    #[error("{0} of {1} failed")]
    Some(usize, usize),
    /// The driver refuses.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The system does.
    #[error("{what}: {cause}")]
    System {
        /// What was tried.
        what: String,
        /// Why it failed.
        cause: io::Error,
    },
}

fn system(what: &str) -> impl FnOnce(io::Error) -> MapError + '_ {
    move |cause| MapError::System { what: what.to_owned(), cause }
}

fn registry_failed(cause: io::Error) -> MapError {
    system("the records of /run/curve/nbd")(cause)
}

/// Attaches one volume, or all of the curvetab.
pub fn map(map: &Map) -> Result<(), MapError> {
    let Some(path) = &map.path else { return map_all() };
    // A volume's path is absolute.
    let path = if path.starts_with('/') { path.clone() } else { format!("/{path}") };
    let index = match &map.device {
        Some(device) => Some(sysfs::index_of(device).ok_or_else(|| MapError::Device(device.clone()))?),
        None => None,
    };
    let mut mapping = Mapping {
        path,
        index,
        read_only: map.read_only,
        shared: map.shared,
        block: map.block_size.bytes(),
        on_timeout: match map.on_timeout {
            OnTimeoutArg::Queue => OnTimeout::Queue,
            OnTimeoutArg::Eio => OnTimeout::Eio,
        },
        timeout_ms: u64::try_from(map.timeout.0.as_millis()).unwrap_or(u64::MAX),
        config: config(map.config.as_deref())?,
    };
    check_free(&mapping)?;
    Driver::open()?;
    if map.foreground {
        return serve_here(&mapping, map.takeover);
    }
    let device = start(&mapping, false, map.takeover)?;
    say!("{device}");
    if map.persist {
        // The device of today is the one of tomorrow, so that /etc/fstab can name it.
        mapping.index = sysfs::index_of(&device);
        edit_curvetab(&mapping.path, Some(&mapping))?;
    }
    Ok(())
}

/// The configuration file by its full name: the process that serves may be started from anywhere.
fn config(explicit: Option<&Path>) -> Result<Option<PathBuf>, MapError> {
    match curve_config::find_client_config(explicit) {
        Ok(path) => fs::canonicalize(&path).map(Some).map_err(system("the client configuration")),
        // What is wrong, whoever opens the volume will say; $CURVE_MDS may stand in for the file.
        Err(_) => Ok(None),
    }
}

fn check_free(mapping: &Mapping) -> Result<(), MapError> {
    let registry = Registry::default();
    let found = registry.find(&mapping.path).map_err(registry_failed)?;
    let Some(record) = found else { return Ok(()) };
    let (path, device) = (record.mapping.path.clone(), sysfs::device_of(record.index()));
    match (sysfs::is_attached(record.index()), record.is_served()) {
        (true, true) => Err(MapError::Mapped { path, device }),
        (true, false) => Err(MapError::Unserved { path, device }),
        // Somebody detached the device by other means.
        (false, _) => registry.remove(record.index()).map(drop).map_err(registry_failed),
    }
}

fn map_all() -> Result<(), MapError> {
    let text = curvetab::read(Path::new(CURVETAB)).map_err(system(CURVETAB))?;
    let mappings = curvetab::parse(&text)?;
    let registry = Registry::default();
    let mut wanted = Vec::new();
    for mapping in mappings {
        match registry.find(&mapping.path).map_err(registry_failed)? {
            Some(record) if sysfs::is_attached(record.index()) => {
                if !record.is_served() {
                    take_over_one(&record)?;
                }
            }
            _ => wanted.push(mapping),
        }
    }
    // Named devices first, so that nobody who takes any free one takes theirs.
    wanted.sort_by_key(|mapping| mapping.index.is_none());
    each(
        &wanted,
        |mapping| mapping.path.clone(),
        |mapping| {
            let device = start(mapping, false, false)?;
            say!("{device} {}", mapping.path);
            Ok(())
        },
    )
}

/// Does something with each, and tells what went wrong with which.
fn each<T>(
    all: &[T],
    name: impl Fn(&T) -> String,
    mut act: impl FnMut(&T) -> Result<(), MapError>,
) -> Result<(), MapError> {
    let mut failed = 0;
    for one in all {
        if let Err(error) = act(one) {
            failed += 1;
            say_error!("curve-nbd: {}: {error}", name(one));
        }
    }
    if failed == 0 { Ok(()) } else { Err(MapError::Some(failed, all.len())) }
}

fn keeper(mapping: &Mapping, again: bool, takeover: bool) -> Result<Command, MapError> {
    let json = serde_json::to_string(mapping).expect("our own types are always representable");
    let mut command = Command::new(program().map_err(system("the program's own file"))?);
    command.arg("keep").arg("--mapping").arg(json);
    for (given, flag) in [(again, "--again"), (takeover, "--takeover")] {
        if given {
            command.arg(flag);
        }
    }
    command.stdin(Stdio::null());
    Ok(command)
}

/// Starts a keeper and waits until the device works.
fn start(mapping: &Mapping, again: bool, takeover: bool) -> Result<String, MapError> {
    let mut command = keeper(mapping, again, takeover)?;
    let mut child = command
        .current_dir("/")
        .stdout(Stdio::piped())
        .stderr(log()?)
        .spawn()
        .map_err(system("cannot start the process behind the device"))?;
    let mut line = String::new();
    let stdout = child.stdout.take().expect("it is piped");
    BufReader::new(stdout).read_line(&mut line).map_err(system("the process behind the device"))?;
    let line = line.trim_end();
    match (line.strip_prefix("mapped "), line.strip_prefix("failed ")) {
        (Some(device), _) => Ok(device.to_owned()),
        (None, Some(why)) => Err(MapError::Failed(why.to_owned())),
        (None, None) => Err(MapError::Silent),
    }
}

/// The log that the processes behind devices append to.
fn log() -> Result<fs::File, MapError> {
    let path = Path::new(LOG);
    let made = path.parent().map_or(Ok(()), fs::create_dir_all);
    made.and_then(|()| fs::File::options().create(true).append(true).open(path)).map_err(system(LOG))
}

/// Runs the keeper in the foreground.
fn serve_here(mapping: &Mapping, takeover: bool) -> Result<(), MapError> {
    use std::os::unix::process::CommandExt;
    // Only an error comes back.
    Err(system("cannot start the process behind the device")(keeper(mapping, false, takeover)?.exec()))
}

fn edit_curvetab(path: &str, mapping: Option<&Mapping>) -> Result<(), MapError> {
    let file = Path::new(CURVETAB);
    let text = curvetab::read(file).map_err(system(CURVETAB))?;
    let new = curvetab::with(&text, path, mapping);
    if new == text { Ok(()) } else { curvetab::write(file, &new).map_err(system(CURVETAB)) }
}

/// The records that names or `--all` mean.
fn chosen(names: &[String], all: bool) -> Result<Vec<Record>, MapError> {
    let registry = Registry::default();
    if all {
        return registry.all().map_err(registry_failed);
    }
    let find = |name: &String| {
        registry.find(name).map_err(registry_failed)?.ok_or_else(|| MapError::NotMapped(name.clone()))
    };
    names.iter().map(find).collect()
}

/// Detaches.
pub fn unmap(unmap: &Unmap) -> Result<(), MapError> {
    let records = chosen(&unmap.names, unmap.all)?;
    each(&records, |record| sysfs::device_of(record.index()), |record| unmap_one(record, unmap))
}

fn unmap_one(record: &Record, unmap: &Unmap) -> Result<(), MapError> {
    let (index, device) = (record.index(), sysfs::device_of(record.index()));
    if !unmap.force {
        let users = sysfs::users(index).map_err(system("what uses the device"))?;
        if !users.is_empty() {
            return Err(MapError::InUse { device, users });
        }
    }
    let mut driver = Driver::open()?;
    // Without its record the process does not attach the device again.
    let registry = Registry::default();
    registry.remove(index).map_err(registry_failed)?;
    match driver.disconnect(index) {
        Ok(()) | Err(DriverError::NotAttached) => {}
        Err(error) => {
            registry.put(record).map_err(registry_failed)?;
            return Err(error.into());
        }
    }
    wait_for_end(record)?;
    if unmap.forget {
        edit_curvetab(&record.mapping.path, None)?;
    }
    Ok(())
}

fn wait_for_end(record: &Record) -> Result<(), MapError> {
    let until = Instant::now() + END_MAX;
    while record.is_served() {
        if Instant::now() > until {
            return Err(MapError::Lingers { pid: record.pid, device: sysfs::device_of(record.index()) });
        }
        std::thread::sleep(END_LOOK);
    }
    Ok(())
}

/// Replaces the processes behind devices.
pub fn take_over(takeover: &Takeover) -> Result<(), MapError> {
    let records = chosen(&takeover.names, takeover.all)?;
    each(&records, |record| sysfs::device_of(record.index()), take_over_one)
}

fn take_over_one(record: &Record) -> Result<(), MapError> {
    let device = sysfs::device_of(record.index());
    if !sysfs::is_attached(record.index()) {
        return Err(MapError::NotMapped(device));
    }
    let served = record.is_served();
    if served && let Some(pid) = Pid::from_raw(record.pid as i32) {
        // It ends in order, and its keeper with it.
        kill_process(pid, Signal::TERM)
            .map_err(|error| system("cannot end the old process")(error.into()))?;
        wait_for_end(record)?;
    }
    start(&record.mapping, true, false)?;
    say!("{device} {}", record.mapping.path);
    Ok(())
}

/// A device as it is shown.
#[derive(Debug, Serialize)]
struct Shown {
    device: String,
    path: String,
    size: Option<u64>,
    read_only: bool,
    shared: bool,
    block_size: u32,
    on_timeout: OnTimeout,
    /// `served`, `waiting` for a process, or `detached`.
    state: &'static str,
    pid: Option<u32>,
    users: Vec<String>,
}

fn shown(record: Record) -> Shown {
    let index = record.index();
    let served = record.is_served();
    Shown {
        device: sysfs::device_of(index),
        size: sysfs::size(index),
        state: match (sysfs::is_attached(index), served) {
            (false, _) => "detached",
            (true, true) => "served",
            (true, false) => "waiting",
        },
        pid: served.then_some(record.pid),
        users: sysfs::users(index).unwrap_or_else(|error| vec![format!("it cannot be told: {error}")]),
        read_only: record.mapping.read_only,
        shared: record.mapping.shared,
        block_size: record.mapping.block,
        on_timeout: record.mapping.on_timeout,
        path: record.mapping.path,
    }
}

/// Shows what is mapped.
pub fn list(list: &ListMapped) -> Result<(), MapError> {
    let records = Registry::default().all().map_err(registry_failed)?;
    let all: Vec<Shown> = records.into_iter().map(shown).collect();
    let mut out = io::stdout().lock();
    let text = match list.json {
        true => serde_json::to_string_pretty(&all).expect("our own types are always representable"),
        false => table(&all),
    };
    writeln!(out, "{text}").map_err(system("standard output"))
}

fn table(all: &[Shown]) -> String {
    let mut rows = vec![["DEVICE", "VOLUME", "SIZE", "MODE", "STATE", "USE"].map(str::to_owned)];
    rows.extend(all.iter().map(|one| {
        let mode = match (one.read_only, one.shared) {
            (true, _) => "read-only",
            (false, true) => "shared",
            (false, false) => "exclusive",
        };
        let state = one.pid.map_or(one.state.to_owned(), |pid| format!("{} by {pid}", one.state));
        let size = one.size.map_or("-".to_owned(), |size| ByteSize(size).to_string());
        [one.device.clone(), one.path.clone(), size, mode.to_owned(), state, one.users.join(", ")]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let line = |row: &[String; 6]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_aligned_and_says_what_is_wrong() {
        let one = Shown {
            device: "/dev/nbd0".to_owned(),
            path: "/db".to_owned(),
            size: Some(4 << 30),
            read_only: false,
            shared: false,
            block_size: 4096,
            on_timeout: OnTimeout::Queue,
            state: "waiting",
            pid: None,
            users: vec!["mounted at /mnt".to_owned()],
        };
        let text = table(&[one]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "DEVICE     VOLUME  SIZE  MODE       STATE    USE");
        assert_eq!(lines[1], "/dev/nbd0  /db     4GiB  exclusive  waiting  mounted at /mnt");
    }

    #[test]
    fn every_failure_is_told_and_counted() {
        let result = each(
            &[1, 2, 3],
            |n| n.to_string(),
            |n| {
                if *n == 2 { Err(MapError::Silent) } else { Ok(()) }
            },
        );
        assert!(matches!(result, Err(MapError::Some(1, 3))));
    }
}
