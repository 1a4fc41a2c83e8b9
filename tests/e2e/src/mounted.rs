//! A volume as a block device and as a mounted file system, without the kernel's NBD driver: `nbdfuse` makes a file of
//! it, a loop device makes a block device of the file.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use curve_harness::{run, run_within};
use tempfile::TempDir;

/// Whether loop devices and mounts are possible.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// An nbdkit on a socket of its own. Ended when dropped.
struct Nbdkit {
    uri: String,
    process: Child,
    _dir: TempDir,
}

impl Nbdkit {
    /// Serves what these arguments say: filters, the plugin, and what both are told.
    async fn serve(arguments: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("curve-nbdkit-").tempdir().expect("a temporary directory");
        let (socket, pid_file) = (dir.path().join("socket"), dir.path().join("pid"));
        let process = Command::new("nbdkit")
            .args(["--foreground", "--unix"])
            .arg(&socket)
            .arg("--pidfile")
            .arg(&pid_file)
            .args(arguments)
            .stdin(Stdio::null())
            .spawn()
            .expect("nbdkit is installed (make deps)");
        let this = Self { uri: format!("nbd+unix:///?socket={}", socket.display()), process, _dir: dir };
        exists(&pid_file, "nbdkit").await;
        this
    }
}

impl Drop for Nbdkit {
    fn drop(&mut self) {
        // Fails when it has ended, which is as well.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An NBD server that passes every request on to another one. When that one is gone, it connects and asks again, for a minute:
/// what the kernel's driver does under `curve-nbd map`, and nbdfuse does not. Ended when dropped.
pub struct Reconnecting {
    /// Where it is.
    pub uri: String,
    _nbdkit: Nbdkit,
}

impl Reconnecting {
    /// Before the server at this URI.
    pub async fn before(uri: &str) -> Self {
        let uri = format!("uri={uri}");
        let retries = ["retries=60", "retry-delay=1", "retry-exponential=no"];
        let arguments = [&["--filter=retry", "nbd", &uri][..], &retries].concat();
        let nbdkit = Nbdkit::serve(&arguments).await;
        Self { uri: nbdkit.uri.clone(), _nbdkit: nbdkit }
    }
}

/// Waits for the file that a server writes when it is ready.
async fn exists(pid_file: &Path, who: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !pid_file.exists() {
        assert!(Instant::now() < deadline, "{who} did not become ready");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A loop device over an NBD export. Taken apart when dropped.
pub struct LoopDevice {
    /// `/dev/loopN`.
    pub device: String,
    fuse: Child,
    dir: TempDir,
}

impl LoopDevice {
    /// Attaches an export.
    pub async fn attach(uri: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("curve-loop-").tempdir().expect("a temporary directory");
        let pid_file = dir.path().join("pid");
        let mount = dir.path().join("fuse");
        std::fs::create_dir(&mount).expect("a directory");
        let fuse = Command::new("nbdfuse")
            .arg("-P")
            .arg(&pid_file)
            .arg(mount.join("disk"))
            .arg(uri)
            .stdin(Stdio::null())
            .spawn()
            .expect("nbdfuse is installed (make deps)");
        let mut this = Self { device: String::new(), fuse, dir };
        exists(&pid_file, "nbdfuse").await;
        let disk = mount.join("disk").display().to_string();
        let finished = run(30, "losetup", &["--find", "--show", "--sector-size", "4096", &disk])
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        this.device = finished.stdout.trim().to_owned();
        println!("{uri} is {}", this.device);
        this
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        if !self.device.is_empty() {
            end("losetup", &["-d", &self.device]);
        }
        end("fusermount3", &["-u", &self.dir.path().join("fuse").display().to_string()]);
        let deadline = Instant::now() + Duration::from_secs(10);
        while matches!(self.fuse.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.fuse.kill();
        let _ = self.fuse.wait();
    }
}

/// A mounted file system. Unmounted when dropped.
pub struct Mounted {
    dir: TempDir,
    mounted: bool,
}

impl Mounted {
    /// Mounts a device.
    pub async fn mount(device: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("curve-mnt-").tempdir().expect("a temporary directory");
        let path = dir.path().display().to_string();
        run(120, "mount", &[device, &path]).await.unwrap_or_else(|error| panic!("{error}"));
        Self { dir, mounted: true }
    }

    /// Where.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A path below.
    pub fn join(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Unmounts; everything is written out before this returns.
    pub async fn unmount(mut self) {
        let path = self.dir.path().display().to_string();
        run_within(Duration::from_secs(300), "umount", &[&path])
            .await
            .and_then(curve_harness::Finished::success)
            .unwrap_or_else(|error| panic!("{error}"));
        self.mounted = false;
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.mounted {
            end("umount", &["-l", &self.dir.path().display().to_string()]);
        }
    }
}

/// A file system whose disk can be made to hang: to answer nothing, neither reads nor writes. Unmounted when dropped.
pub struct HangingDisk {
    dir: PathBuf,
    /// Unmounted before the device goes, and that before its server.
    _device: LoopDevice,
    server: Nbdkit,
    _image: TempDir,
}

impl HangingDisk {
    /// Mounts an empty ext4 of so many bytes (`1G`) at a directory, which is made.
    pub async fn mount(dir: &Path, size: &str) -> Self {
        let image = tempfile::Builder::new().prefix("curve-hang-").tempdir().expect("a temporary directory");
        let file = image.path().join("image").display().to_string();
        run(30, "truncate", &["-s", size, &file]).await.unwrap_or_else(|error| panic!("{error}"));
        let server = Nbdkit::serve(&["file", &file]).await;
        let device = LoopDevice::attach(&server.uri).await;
        run(60, "mkfs.ext4", &["-q", "-F", "-m", "0", &device.device])
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        std::fs::create_dir_all(dir).expect("a directory");
        run(30, "mount", &[&device.device, &dir.display().to_string()])
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        Self { dir: dir.to_owned(), _device: device, server, _image: image }
    }

    /// From now on nothing is answered.
    pub fn hang(&self) {
        self.signal("-STOP");
    }

    /// What was asked meanwhile is answered now.
    pub fn answer(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        end("kill", &[signal, &self.server.process.id().to_string()]);
    }
}

impl Drop for HangingDisk {
    fn drop(&mut self) {
        self.answer();
        end("umount", &["-l", &self.dir.display().to_string()]);
    }
}

/// Runs a clean-up command; what it says is only of interest to people.
fn end(program: &str, arguments: &[&str]) {
    match Command::new(program).args(arguments).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => eprintln!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => eprintln!("{program} {arguments:?}: {error}"),
    }
}
