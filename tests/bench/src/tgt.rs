//! Debian's tgt, to measure beside our gateway: its daemon with one LUN, on a file in memory or on an image of Ceph.
//!
//! It has what its package gives it: 16 threads for each store, the page cache for files. The file is in `/dev/shm`, so
//! that there is no disk behind it, as there is none behind our LUN in memory.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use curve_harness::{has_program, run_within};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::ports;

const IQN: &str = "iqn.2026-01.bench:tgt";

/// A running tgtd with one LUN.
pub struct Tgt {
    daemon: Child,
    port: u16,
    _memory: Option<TempDir>,
}

/// What is behind the LUN.
pub enum Store<'a> {
    /// A file of this size in memory.
    Memory(u64),
    /// An image of the cluster that a configuration describes.
    Rbd { conf: &'a Path, image: String },
}

impl Tgt {
    /// Starts a daemon whose LUN is at [`Tgt::url`].
    pub async fn start(store: Store<'_>) -> Result<Self, String> {
        if !has_program("tgtd") {
            return Err("tgtd is missing; install it with `tools/deps.sh peers`".to_owned());
        }
        let memory = match &store {
            Store::Memory(_) => Some(TempDir::with_prefix_in("curve-bench-", "/dev/shm")),
            Store::Rbd { .. } => None,
        };
        let memory = memory.transpose().map_err(|error| error.to_string())?;
        let port = ports::free_pair()?;
        std::fs::create_dir_all("/var/run/tgtd").map_err(|error| format!("/var/run/tgtd: {error}"))?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "tgtd", "-f", "-C", &port.to_string(), "--iscsi"]);
        command.arg(format!("portal=127.0.0.1:{port}"));
        if let Store::Rbd { conf, .. } = &store {
            command.env("CEPH_CONF", conf);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let daemon = command.process_group(0).kill_on_drop(true).spawn();
        let daemon = daemon.map_err(|error| format!("cannot start tgtd: {error}"))?;
        let tgt = Self { daemon, port, _memory: memory };
        tgt.answers().await?;
        tgt.add_lun(&store).await?;
        Ok(tgt)
    }

    /// Where an initiator finds the LUN.
    pub fn url(&self) -> String {
        format!("iscsi://127.0.0.1:{}/{IQN}/1", self.port)
    }

    /// The daemon.
    pub fn pids(&self) -> Vec<u32> {
        self.daemon.id().into_iter().collect()
    }

    async fn answers(&self) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            match self.administer(&["--op", "show", "--mode", "target"]).await {
                Ok(()) => return Ok(()),
                Err(error) if begun.elapsed() > Duration::from_secs(20) => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    async fn add_lun(&self, store: &Store<'_>) -> Result<(), String> {
        let (kind, place, options) = match store {
            Store::Memory(size) => {
                let directory = self._memory.as_ref().expect("there is a file if it is in memory");
                let file: PathBuf = directory.path().join("lun");
                let made = std::fs::File::create(&file).and_then(|file| file.set_len(*size));
                made.map_err(|error| format!("{}: {error}", file.display()))?;
                ("rdwr", file.display().to_string(), String::new())
            }
            Store::Rbd { conf, image } => ("rbd", image.clone(), format!("conf={};id=admin", conf.display())),
        };
        self.administer(&["--op", "new", "--mode", "target", "--tid", "1", "-T", IQN]).await?;
        let mut unit = vec!["--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1"];
        unit.extend(["-b", &place, "--bstype", kind]);
        if !options.is_empty() {
            unit.extend(["--bsopts", &options]);
        }
        self.administer(&unit).await?;
        self.administer(&["--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"]).await
    }

    async fn administer(&self, arguments: &[&str]) -> Result<(), String> {
        let port = self.port.to_string();
        let all = [&["-C", &port, "--lld", "iscsi"], arguments].concat();
        let finished = run_within(Duration::from_secs(20), "tgtadm", &all).await;
        finished.and_then(curve_harness::Finished::success).map(drop).map_err(|error| error.to_string())
    }
}

impl Drop for Tgt {
    fn drop(&mut self) {
        // One that has ended already is no error here, nor that it has not made its files.
        let _ = self.daemon.start_kill();
        for suffix in ["", ".lock"] {
            let _ = std::fs::remove_file(format!("/var/run/tgtd/socket.{}{suffix}", self.port));
        }
    }
}
