//! Where everything of a playground is, and the lock that one changing command holds.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::failure::{Code, Failure};
use crate::playground::plan::MemberName;

/// The directory of a playground, as an absolute path, so that it does not matter where commands run.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

/// Held while a command changes the playground; given up when dropped.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "the open file is the lock")] File);

impl Layout {
    /// The layout below `dir`, which need not exist.
    pub fn at(dir: &Path) -> Result<Self, Failure> {
        let root = std::path::absolute(dir).map_err(|error| Failure::file("resolve", dir, &error))?;
        Ok(Self { root })
    }

    /// The layout of a playground that exists.
    pub fn existing(dir: &Path) -> Result<Self, Failure> {
        let layout = Self::at(dir)?;
        if layout.plan_file().is_file() {
            return Ok(layout);
        }
        Err(Failure::new(Code::NotFound, format!("there is no playground in {}", layout.root.display()))
            .because(format!("{} does not exist", layout.plan_file().display()))
            .try_this(format!("curve playground start --dir {}", dir.display())))
    }

    /// `D`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `D/playground.json`.
    pub fn plan_file(&self) -> PathBuf {
        self.root.join("playground.json")
    }

    /// `D/curve.toml`.
    pub fn client_config(&self) -> PathBuf {
        self.root.join("curve.toml")
    }

    /// `D/run/NAME.pid`.
    pub fn pid_file(&self, name: MemberName) -> PathBuf {
        self.root.join("run").join(format!("{name}.pid"))
    }

    /// `D/run/NAME.json`.
    pub fn identity_file(&self, name: MemberName) -> PathBuf {
        self.root.join("run").join(format!("{name}.json"))
    }

    /// `D/run/NAME.sock`.
    pub fn socket(&self, name: MemberName) -> PathBuf {
        self.root.join("run").join(format!("{name}.sock"))
    }

    /// `D/log/NAME.log`.
    pub fn log_file(&self, name: MemberName) -> PathBuf {
        self.root.join("log").join(format!("{name}.log"))
    }

    /// `D/etc/NAME.toml`.
    pub fn config_file(&self, name: MemberName) -> PathBuf {
        self.root.join("etc").join(format!("{name}.toml"))
    }

    /// `D/etc/secrets.key`: seals CHAP secrets.
    pub fn secrets_key(&self) -> PathBuf {
        self.root.join("etc").join("secrets.key")
    }

    /// `D/etc/s3.secret`: the secret key of the object store.
    pub fn s3_secret(&self) -> PathBuf {
        self.root.join("etc").join("s3.secret")
    }

    /// `D/data/NAME`.
    pub fn data_dir(&self, name: MemberName) -> PathBuf {
        self.root.join("data").join(name.to_string())
    }

    /// Makes the directories.
    pub fn create(&self) -> Result<(), Failure> {
        for part in ["", "run", "log", "etc", "data"] {
            let dir = self.root.join(part);
            fs::create_dir_all(&dir).map_err(|error| Failure::file("create", &dir, &error))?;
        }
        Ok(())
    }

    /// Takes the lock, or says that another command works here.
    pub fn lock(&self) -> Result<Lock, Failure> {
        let path = self.root.join("run").join("lock");
        let file = File::create(&path).map_err(|error| Failure::file("open", &path, &error))?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Lock(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(Failure::new(Code::InUse, format!("another command works on {}", self.root.display()))
                    .try_this("wait until it is done"))
            }
            Err(error) => Err(Failure::file("lock", &path, &error.into())),
        }
    }

    /// The last `lines` lines of a member's log.
    pub fn log_tail(&self, name: MemberName, lines: usize) -> String {
        const TAIL_BYTES_MAX: usize = 64 << 10;
        let Ok(bytes) = fs::read(self.log_file(name)) else { return String::from("(no log)\n") };
        let tail = &bytes[bytes.len().saturating_sub(TAIL_BYTES_MAX)..];
        let text = String::from_utf8_lossy(tail);
        let all: Vec<&str> = text.lines().collect();
        let mut out = all[all.len().saturating_sub(lines)..].join("\n");
        out.push('\n');
        out
    }
}

/// Replaces a small file so that a reader sees the old or the new content.
pub fn replace_file(path: &Path, content: &str) -> Result<(), Failure> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    fs::write(&fresh, content).map_err(|error| Failure::file("write", &fresh, &error))?;
    fs::rename(&fresh, path).map_err(|error| Failure::file("rename", &fresh, &error))
}
