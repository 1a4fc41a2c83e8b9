//! The file systems that are measured, and the S3 client beside them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::str::FromStr;
use std::time::{Duration, Instant};

use curve_harness::{FsMount, Playground, PlaygroundOptions, has_program, is_mount_point, run};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::Case;
use super::s3::S3Client;
use crate::ceph::Ceph;

/// A thing to measure.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FileTarget {
    /// A directory on the disk that the others use.
    Disk,
    /// Three MDSs, three metaservers, an object store, a mount.
    Curvefs,
    /// The same, mounted with `-o nodelegate`.
    CurvefsNodelegate,
    /// Ceph with three OSDs and an MDS, mounted by ceph-fuse.
    CephFuse,
    /// A bucket of the object store, mounted by s3fs.
    S3fs,
    /// The object store by itself: what a client gets that has many objects under way. Only bytes.
    S3Client,
}

impl FileTarget {
    const ALL: [Self; 6] =
        [Self::Disk, Self::Curvefs, Self::CurvefsNodelegate, Self::CephFuse, Self::S3fs, Self::S3Client];

    const fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Curvefs => "curvefs",
            Self::CurvefsNodelegate => "curvefs-nodelegate",
            Self::CephFuse => "ceph-fuse",
            Self::S3fs => "s3fs",
            Self::S3Client => "s3-client",
        }
    }

    /// Whether it can do this at all.
    pub fn takes(self, case: &Case) -> bool {
        self != Self::S3Client || matches!(case.name, "write" | "read")
    }
}

impl fmt::Display for FileTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for FileTarget {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|target| target.name() == name);
        found.ok_or_else(|| format!("no target `{name}`; there are {}", known()))
    }
}

const MOUNT_WITHIN: Duration = Duration::from_secs(60);
/// Bytes that Ceph's OSDs have room for.
const CEPH_BYTES: u64 = 1280 << 20;

/// A mounted target. Dropped in order: the mount, its servers, the directory.
pub struct Mounted {
    target: FileTarget,
    mount: Option<Daemon>,
    servers: Servers,
    server_pids: Vec<u32>,
    mounts: u32,
    dir: TempDir,
}

enum Servers {
    Nothing,
    Playground(Playground),
    S3 { playground: Playground, client: S3Client },
    Ceph(Ceph),
}

enum Daemon {
    Curve(FsMount),
    Other(Other),
}

/// A mount of another program.
struct Other {
    child: Child,
    dir: PathBuf,
}

impl Drop for Other {
    fn drop(&mut self) {
        if is_mount_point(&self.dir) {
            // A mount that is in use stays until its process has ended, which is next.
            let _ = std::process::Command::new("umount").arg("-l").arg(&self.dir).output();
        }
        // One that has ended already is no error here.
        let _ = self.child.start_kill();
    }
}

/// A playground with a file system called `bench`.
pub async fn playground(dir: &Path, partitions: u32) -> Result<Playground, String> {
    let more = ["--fs"].map(str::to_owned).to_vec();
    let options = PlaygroundOptions { dir: Some(dir.join("p")), more, ..Default::default() };
    let playground = Playground::start(options).await.map_err(|error| error.to_string())?;
    let made = playground.create_file_system("bench", &["--partitions", &partitions.to_string()]).await;
    made.map_err(|error| error.to_string())?;
    Ok(playground)
}

impl Mounted {
    /// Starts what is needed and mounts it.
    pub async fn start(target: FileTarget, dir: &Path) -> Result<Self, String> {
        let made = tempfile::Builder::new().prefix("curve-bench-").tempdir_in(dir);
        let dir = made.map_err(|error| format!("{}: {error}", dir.display()))?;
        let servers = match target {
            FileTarget::Disk => Servers::Nothing,
            FileTarget::Curvefs | FileTarget::CurvefsNodelegate | FileTarget::S3fs => {
                Servers::Playground(playground(dir.path(), 3).await?)
            }
            FileTarget::S3Client => {
                let playground = playground(dir.path(), 3).await?;
                let client = S3Client::new(&playground).await?;
                Servers::S3 { playground, client }
            }
            FileTarget::CephFuse => Servers::Ceph(Ceph::start_files(dir.path(), CEPH_BYTES).await?),
        };
        let server_pids = match &servers {
            Servers::Nothing => Vec::new(),
            Servers::Playground(playground) | Servers::S3 { playground, .. } => {
                playground.pids().await.map_err(|error| error.to_string())?
            }
            Servers::Ceph(ceph) => ceph.pids(),
        };
        let mut mounted = Self { target, mount: None, servers, server_pids, mounts: 0, dir };
        mounted.mount().await?;
        Ok(mounted)
    }

    /// What it is.
    pub fn target(&self) -> FileTarget {
        self.target
    }

    /// The S3 client, if that is what is measured.
    pub fn s3(&self) -> Option<&S3Client> {
        match &self.servers {
            Servers::S3 { client, .. } => Some(client),
            _ => None,
        }
    }

    fn mount_point(&self) -> PathBuf {
        self.dir.path().join(format!("m{}", self.mounts))
    }

    /// Where the cases of a round work.
    pub fn work_dir(&self, round: usize) -> PathBuf {
        self.mount_point().join(format!("round-{round}"))
    }

    /// Unmounts and mounts again: nothing is cached then. Of the disk the kernel forgets what it knows.
    pub async fn remount(&mut self) -> Result<(), String> {
        if self.target == FileTarget::Disk {
            // Only root may; others measure what is cached, and the disk is here for comparison alone.
            let _ = std::fs::write("/proc/sys/vm/drop_caches", "3");
            return Ok(());
        }
        match self.mount.take() {
            Some(Daemon::Curve(mount)) => mount.unmount().await.map_err(|error| error.to_string())?,
            Some(Daemon::Other(other)) => end(other).await?,
            None => return Ok(()),
        }
        self.mount().await
    }

    async fn mount(&mut self) -> Result<(), String> {
        // The directory of a local disk stays the same.
        self.mounts += u32::from(self.target != FileTarget::Disk || self.mounts == 0);
        let at = self.mount_point();
        std::fs::create_dir_all(&at).map_err(|error| error.to_string())?;
        self.mount = match (&self.servers, self.target) {
            (Servers::Playground(playground), FileTarget::S3fs) => {
                Some(Daemon::Other(s3fs(playground, &at).await?))
            }
            (Servers::Playground(playground), target) => {
                let is_plain = target == FileTarget::CurvefsNodelegate;
                let options: &[&str] = if is_plain { &["-o", "nodelegate"] } else { &[] };
                Some(Daemon::Curve(FsMount::start(playground, "bench", &at, options).await))
            }
            (Servers::Ceph(ceph), _) => {
                let conf = ceph.conf().display().to_string();
                let to = at.display().to_string();
                {
                    let arguments = ["-f", "-c", &conf, &to];
                    Some(Daemon::Other(daemon("ceph-fuse", &arguments, &at).await?))
                }
            }
            (Servers::Nothing | Servers::S3 { .. }, _) => None,
        };
        Ok(())
    }

    fn mount_pid(&self) -> Option<u32> {
        match self.mount.as_ref()? {
            Daemon::Curve(mount) => Some(mount.pid()),
            Daemon::Other(other) => other.child.id(),
        }
    }

    /// All processes.
    pub fn pids(&self) -> Vec<u32> {
        self.server_pids.iter().copied().chain(self.mount_pid()).collect()
    }

    /// Bytes that the mount's process has had resident at most.
    pub fn resident_max(&self) -> u64 {
        let status =
            self.mount_pid().and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/status")).ok());
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or_default() << 10
    }

    /// Removes what a round has left.
    pub async fn clean(&self, round: usize) -> Result<(), String> {
        if let Some(client) = self.s3() {
            return client.clean(round).await;
        }
        let dir = self.work_dir(round);
        let removed = tokio::task::spawn_blocking(move || match dir.exists() {
            true => std::fs::remove_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display())),
            false => Ok(()),
        });
        removed.await.map_err(|error| error.to_string())?
    }
}

/// Unmounts, and waits for what the process still has to do.
async fn end(mut mount: Other) -> Result<(), String> {
    let at = mount.dir.display().to_string();
    run(60, "umount", &[&at]).await.map_err(|error| error.to_string())?;
    let ended = tokio::time::timeout(MOUNT_WITHIN, mount.child.wait()).await;
    let ended = ended.map_err(|_| format!("the process of {at} does not end"))?;
    ended.map(drop).map_err(|error| error.to_string())
}

async fn s3fs(playground: &Playground, at: &Path) -> Result<Other, String> {
    use std::os::unix::fs::OpenOptionsExt;
    let secret = std::fs::read_to_string(playground.secret_file()).map_err(|error| error.to_string())?;
    let keys = playground.dir().join("s3fs.keys");
    let made = std::fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(&keys);
    let written = made.and_then(|mut file| {
        std::io::Write::write_all(&mut file, format!("playground:{}\n", secret.trim()).as_bytes())
    });
    written.map_err(|error| format!("{}: {error}", keys.display()))?;
    let url = playground.store_address().await.map_err(|error| error.to_string())?;
    // As its manual advises for many requests at a time.
    let options = format!(
        "passwd_file={},url=http://{url},use_path_request_style,parallel_count=16,multipart_size=10",
        keys.display()
    );
    let to = at.display().to_string();
    daemon("s3fs", &["curve", &to, "-f", "-o", &options], at).await
}

async fn daemon(program: &str, arguments: &[&str], at: &Path) -> Result<Other, String> {
    if !has_program(program) {
        return Err(format!("{program} is missing; install it with `tools/deps.sh test peers`"));
    }
    let child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", program])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot start {program}: {error}"))?;
    let mut mount = Other { child, dir: at.to_path_buf() };
    let begun = Instant::now();
    while !is_mount_point(at) {
        let ended = mount.child.try_wait().map_err(|error| error.to_string())?;
        if let Some(status) = ended {
            return Err(format!("{program} ended with {status}"));
        }
        if begun.elapsed() > MOUNT_WITHIN {
            return Err(format!("{program} did not mount within {MOUNT_WITHIN:?}"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(mount)
}
