//! What is mapped: a record for each device, so that another process can go on with it.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use curve_serving::process;
use serde::{Deserialize, Serialize};

use super::sysfs;

/// What an I/O does that cannot finish.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnTimeout {
    /// It waits, as a disk's queue does.
    Queue,
    /// It fails with EIO.
    Eio,
}

/// How a volume is mapped.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mapping {
    /// The volume.
    pub path: String,
    /// The device it has or is to have; a free one if none is named.
    pub index: Option<u32>,
    /// Refuse writes.
    pub read_only: bool,
    /// Beside other writers.
    pub shared: bool,
    /// Smallest unit that may be addressed: 512 or 4096 bytes.
    pub block: u32,
    /// What an I/O does that cannot finish.
    pub on_timeout: OnTimeout,
    /// After how long `OnTimeout::Eio` fails it.
    pub timeout_ms: u64,
    /// The client's configuration file.
    pub config: Option<PathBuf>,
}

impl Mapping {
    /// How long an I/O may wait; `None`: for ever.
    pub fn patience(&self) -> Option<Duration> {
        (self.on_timeout == OnTimeout::Eio).then(|| Duration::from_millis(self.timeout_ms))
    }

    /// What the kernel is to show, and whoever reattaches must know.
    pub fn backend(&self) -> String {
        format!("curve:{}", self.path)
    }
}

/// A mapping at work, as its file has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// What and how.
    pub mapping: Mapping,
    /// The process that serves the device now or did last.
    pub pid: u32,
    /// When that process started, in the kernel's ticks since boot: tells it from a later one of the same number.
    pub started: u64,
}

impl Record {
    /// A record for this process.
    pub fn own(mapping: Mapping) -> Self {
        let pid = std::process::id();
        Self { mapping, pid, started: started(pid).unwrap_or(0) }
    }

    /// Whether the process still serves.
    pub fn is_served(&self) -> bool {
        started(self.pid) == Some(self.started)
    }

    /// The device.
    pub fn index(&self) -> u32 {
        self.mapping.index.unwrap_or(0)
    }
}

/// When a process started; nothing if there is none that lives.
fn started(pid: u32) -> Option<u64> {
    parse_started(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Field 22 of proc_pid_stat(5), of a process that has not ended.
fn parse_started(stat: &str) -> Option<u64> {
    if process::is_dead(stat) {
        return None;
    }
    process::fields_after_name(stat).nth(19)?.parse().ok()
}

/// The records of this host: a directory with `nbdN.json` for each device. It is empty after a reboot, as the devices are.
#[derive(Clone, Debug)]
pub struct Registry {
    dir: PathBuf,
}

impl Default for Registry {
    fn default() -> Self {
        Self::at("/run/curve/nbd")
    }
}

impl Registry {
    /// A registry in another place.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    fn file(&self, index: u32) -> PathBuf {
        self.dir.join(format!("nbd{index}.json"))
    }

    /// Stores a record in one step.
    pub fn put(&self, record: &Record) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let path = self.file(record.index());
        let new = path.with_extension(format!("new.{}", std::process::id()));
        let mut file = fs::File::create(&new)?;
        file.write_all(&serde_json::to_vec_pretty(record)?)?;
        fs::rename(&new, &path)
    }

    /// The record of a device.
    pub fn get(&self, index: u32) -> io::Result<Option<Record>> {
        read(&self.file(index))
    }

    /// Removes the record of a device; says whether there was one.
    pub fn remove(&self, index: u32) -> io::Result<bool> {
        match fs::remove_file(self.file(index)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// All records, by device.
    pub fn all(&self) -> io::Result<Vec<Record>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut records = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                records.extend(read(&path)?);
            }
        }
        records.sort_by_key(Record::index);
        Ok(records)
    }

    /// The record that a user means: by device, or by volume.
    pub fn find(&self, name: &str) -> io::Result<Option<Record>> {
        if let Some(index) = sysfs::index_of(name) {
            return self.get(index);
        }
        let wanted = name.trim_start_matches('/');
        Ok(self.all()?.into_iter().find(|record| record.mapping.path.trim_start_matches('/') == wanted))
    }
}

fn read(path: &Path) -> io::Result<Option<Record>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let invalid = |error| {
        let message = format!("{}: {error}; remove the file if no daemon serves this device", path.display());
        io::Error::new(io::ErrorKind::InvalidData, message)
    };
    serde_json::from_slice(&bytes).map(Some).map_err(invalid)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample(path: &str, index: Option<u32>) -> Mapping {
        Mapping {
            path: path.to_owned(),
            index,
            read_only: false,
            shared: false,
            block: 4096,
            on_timeout: OnTimeout::Queue,
            timeout_ms: 30_000,
            config: None,
        }
    }

    #[test]
    fn records_are_kept_by_device_and_found_by_either_name() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::at(dir.path().join("run"));
        assert_eq!(registry.all().unwrap(), []);
        for (path, index) in [("/b", 7), ("/a", 2)] {
            registry.put(&Record::own(sample(path, Some(index)))).unwrap();
        }
        let paths: Vec<_> = registry.all().unwrap().into_iter().map(|record| record.mapping.path).collect();
        assert_eq!(paths, ["/a", "/b"]);
        let found = |name: &str| registry.find(name).unwrap().map(|record| record.index());
        assert_eq!((found("b"), found("/dev/nbd2"), found("/c")), (Some(7), Some(2), None));
        assert!(registry.get(7).unwrap().unwrap().is_served());
        assert!(registry.remove(7).unwrap() && !registry.remove(7).unwrap());
        std::fs::write(dir.path().join("run/nbd9.json"), "{").unwrap();
        assert!(registry.all().unwrap_err().to_string().contains("nbd9.json"));
    }

    #[test]
    fn a_process_of_the_same_number_is_told_apart() {
        let mut record = Record::own(sample("/a", Some(0)));
        record.started += 1;
        assert!(!record.is_served());
        let fields = "1 1 1 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 4711 9 9";
        assert_eq!(parse_started(&format!("9 (odd ) name) S {fields}")), Some(4711));
        assert_eq!(parse_started(&format!("9 (curve-nbd) Z {fields}")), None);
    }
}
