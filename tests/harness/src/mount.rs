//! A mounted CurveFS: one `curve-fuse` process in the foreground.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::playground::{Playground, binary};
use crate::shell::{ShellError, run};

const MOUNT_WITHIN: Duration = Duration::from_secs(30);
const END_WITHIN: Duration = Duration::from_secs(60);

/// A mount. Dropping it kills the process and unmounts the directory.
#[derive(Debug)]
pub struct FsMount {
    process: Child,
    dir: PathBuf,
    log: PathBuf,
}

/// Whether something is mounted there. Looks at the table only: a mount that hangs is not touched.
pub fn is_mount_point(dir: &Path) -> bool {
    curve_mounts::at(&curve_mounts::all().expect("the kernel's mounts"), dir).is_some()
}

impl FsMount {
    /// Mounts a file system of a playground in `dir`, which is made.
    pub async fn start(playground: &Playground, name: &str, dir: &Path, more: &[&str]) -> Self {
        std::fs::create_dir_all(dir).expect("a directory");
        let file = dir.file_name().expect("a directory has a name").to_string_lossy().into_owned();
        let log = playground.dir().join("log").join(format!("mount-{file}.log"));
        let output = File::options().create(true).append(true).open(&log).expect("a log");
        let mut process = Command::new(binary("curve-fuse"))
            .args(["mount", name])
            .arg(dir)
            .arg("--config")
            .arg(playground.config())
            .args(more)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a descriptor"))
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .expect("curve-fuse starts");
        let until = Instant::now() + MOUNT_WITHIN;
        while !is_mount_point(dir) {
            let ended = process.try_wait().expect("a child can be waited for");
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(ended.is_none(), "curve-fuse ended with {ended:?}: {}", said());
            assert!(Instant::now() < until, "not mounted within {MOUNT_WITHIN:?}: {}", said());
            sleep(Duration::from_millis(20)).await;
        }
        Self { process, dir: dir.to_path_buf(), log }
    }

    /// Another process goes on with the mount, in its place. Returns when programs are served and the one before has ended.
    pub async fn upgrade(&mut self) {
        let output = File::options().append(true).open(&self.log).expect("a log");
        let mut next = Command::new(binary("curve-fuse"))
            .arg("upgrade")
            .arg(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .expect("curve-fuse starts");
        let mut line = String::new();
        let stdout = next.stdout.take().expect("it is piped");
        let read = timeout(MOUNT_WITHIN, BufReader::new(stdout).read_line(&mut line)).await;
        read.unwrap_or_else(|_| panic!("not taken over: {}", self.log())).expect("a pipe can be read");
        assert_eq!(line.trim_end(), format!("took over {}", self.dir.display()), "{}", self.log());
        let mut before = std::mem::replace(&mut self.process, next);
        let ended = timeout(END_WITHIN, before.wait()).await;
        let ended = ended.unwrap_or_else(|_| panic!("the process before runs on: {}", self.log()));
        assert!(ended.expect("a child can be waited for").success(), "{}", self.log());
    }

    /// Where it is mounted.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the process has said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.process.id().expect("it was not waited for")
    }

    /// Unmounts in order: everything that was written is published.
    pub async fn unmount(mut self) -> Result<(), ShellError> {
        let dir = self.dir.display().to_string();
        run(60, &binary("curve-fuse").display().to_string(), &["umount", &dir]).await?;
        let ended = timeout(END_WITHIN, self.process.wait()).await;
        let ended = ended.unwrap_or_else(|_| panic!("curve-fuse runs on after umount: {}", self.log()));
        assert!(ended.expect("a child can be waited for").success(), "{}", self.log());
        Ok(())
    }

    /// SIGKILL, and the directory is free again.
    pub async fn kill(mut self) {
        self.process.kill().await.expect("a child can be killed");
        self.detach();
    }

    fn detach(&self) {
        if is_mount_point(&self.dir) {
            // Lazily: a program that stands in it keeps it busy.
            let ended = std::process::Command::new("umount").arg("-l").arg(&self.dir).output();
            if !ended.as_ref().is_ok_and(|ended| ended.status.success()) {
                eprintln!("cannot unmount {}: {ended:?}", self.dir.display());
            }
        }
    }
}

impl Drop for FsMount {
    fn drop(&mut self) {
        // The process first, or the kernel would wait for it.
        if let Some(pid) = self.process.id().and_then(|id| rustix::process::Pid::from_raw(id as i32)) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        self.detach();
    }
}
