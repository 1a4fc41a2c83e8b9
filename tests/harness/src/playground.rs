//! A playground in a temporary directory, driven through the `curve` binary.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::shell::{Finished, ShellError, run_within};

/// How a playground is made.
#[derive(Clone, Debug)]
pub struct PlaygroundOptions {
    /// Chunkservers.
    pub chunkservers: u16,
    /// MDSs.
    pub mds: u16,
    /// More arguments of `curve playground start`.
    pub more: Vec<String>,
    /// Put the playground here instead of into a new temporary directory.
    pub dir: Option<PathBuf>,
}

impl Default for PlaygroundOptions {
    fn default() -> Self {
        Self { chunkservers: 3, mds: 3, more: Vec::new(), dir: None }
    }
}

/// A running cluster. Dropping it ends its processes; its directory stays when the test failed, and its place is said.
#[derive(Debug)]
pub struct Playground {
    dir: PathBuf,
    temporary: Option<TempDir>,
    curve: PathBuf,
}

/// Where the binaries under test are: `$CURVE_BIN_DIR`, else the target directory that this test or program was built in.
pub fn binary(name: &str) -> PathBuf {
    let dir = std::env::var_os("CURVE_BIN_DIR").map_or_else(
        || {
            let own = std::env::current_exe().expect("a program has a file");
            // target/PROFILE/deps/test-HASH, target/PROFILE/program
            let dir = own.parent().expect("a file lies in a directory");
            if dir.ends_with("deps") { dir.parent().expect("deps lies in PROFILE") } else { dir }
                .to_path_buf()
        },
        PathBuf::from,
    );
    let path = dir.join(name);
    assert!(path.is_file(), "{} is missing: run `cargo build --workspace --bins` first", path.display());
    path
}

impl Playground {
    /// Starts a cluster and waits until it is healthy.
    pub async fn start(options: PlaygroundOptions) -> Result<Self, ShellError> {
        let temporary = match &options.dir {
            Some(_) => None,
            // A short path, since sockets live below it.
            None => Some(tempfile::Builder::new().prefix("curve-").tempdir().expect("a temporary directory")),
        };
        let dir = options
            .dir
            .clone()
            .or(temporary.as_ref().map(|dir| dir.path().to_path_buf()))
            .expect("one is given");
        let playground = Self { dir, temporary, curve: binary("curve") };
        let (chunkservers, mds) = (options.chunkservers.to_string(), options.mds.to_string());
        let mut arguments = vec!["playground", "start", "--chunkservers", &chunkservers, "--mds", &mds];
        arguments.extend(options.more.iter().map(String::as_str));
        playground.verb(180, &arguments).await?;
        Ok(playground)
    }

    /// `D`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `D/curve.toml`.
    pub fn config(&self) -> PathBuf {
        self.dir.join("curve.toml")
    }

    /// `D/data/NAME`.
    pub fn data_dir(&self, name: &str) -> PathBuf {
        self.dir.join("data").join(name)
    }

    /// `D/log/NAME.log`, as text.
    pub fn log(&self, name: &str) -> String {
        let bytes = std::fs::read(self.dir.join("log").join(format!("{name}.log"))).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Runs `curve` with this cluster's configuration, whatever its status.
    pub async fn curve(&self, arguments: &[&str]) -> Result<Finished, ShellError> {
        self.curve_within(Duration::from_secs(60), arguments).await
    }

    /// The same with a deadline.
    pub async fn curve_within(&self, limit: Duration, arguments: &[&str]) -> Result<Finished, ShellError> {
        let config = self.config().display().to_string();
        let mut all = vec!["--config", &config];
        all.extend(arguments);
        run_within(limit, &self.curve.display().to_string(), &all).await
    }

    /// Runs `curve … --json`, which must succeed.
    pub async fn json(&self, arguments: &[&str]) -> Result<Value, ShellError> {
        let mut all = arguments.to_vec();
        all.push("--json");
        let finished = self.curve(&all).await?.success()?;
        Ok(serde_json::from_str(&finished.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", finished.stdout)))
    }

    /// Creates a volume.
    pub async fn create(&self, path: &str, size: &str) -> Result<(), ShellError> {
        self.curve(&["bs", "create", path, "--size", size]).await?.success().map(drop)
    }

    /// Where the object store of a playground with `--fs` answers.
    pub async fn store_address(&self) -> Result<String, ShellError> {
        let members = self.members().await?;
        let store = members.iter().find(|member| member["role"] == "s3").expect("it was started with --fs");
        Ok(store["address"].as_str().expect("every member has one").to_owned())
    }

    /// The secret key of that store; its access key is `playground`, its bucket `curve`.
    pub fn secret_file(&self) -> PathBuf {
        self.dir.join("etc/s3.secret")
    }

    /// Creates a file system in that store. `more` are more arguments of `curve fs create`.
    pub async fn create_file_system(&self, name: &str, more: &[&str]) -> Result<(), ShellError> {
        let endpoint = format!("http://{}", self.store_address().await?);
        let secret = self.secret_file().display().to_string();
        let place = ["--backend", "s3", "--endpoint", &endpoint, "--bucket", "curve"];
        let keys = ["--access-key", "playground", "--secret-key-file", &secret];
        let arguments = [&["fs", "create", name], &place[..], &keys[..], more].concat();
        self.curve(&arguments).await?.success().map(drop)
    }

    /// Serves volumes from a new background `curve-nbd`; returns the Unix socket.
    pub async fn serve_nbd(&self, paths: &[&str], more: &[&str]) -> Result<PathBuf, ShellError> {
        let mut arguments = vec!["playground", "nbd"];
        arguments.extend(paths);
        arguments.extend(more);
        let finished = self.verb(60, &arguments).await?;
        let ready = finished.stdout.lines().find_map(|line| line.split_once("?socket="));
        let (_, socket) = ready.unwrap_or_else(|| panic!("no `ready URI` in {}", finished.stdout));
        Ok(PathBuf::from(socket))
    }

    /// `curve playground VERB NAME… --dir D`, which must succeed.
    pub async fn verb(&self, seconds: u64, arguments: &[&str]) -> Result<Finished, ShellError> {
        let dir = self.dir.display().to_string();
        let mut all = arguments.to_vec();
        all.extend(["--dir", &dir]);
        let program = self.curve.display().to_string();
        run_within(Duration::from_secs(seconds), &program, &all).await?.success()
    }

    /// SIGKILL.
    pub async fn kill(&self, name: &str) -> Result<(), ShellError> {
        self.verb(30, &["playground", "kill", name]).await.map(drop)
    }

    /// SIGTERM, and waits until it is gone.
    pub async fn stop(&self, name: &str) -> Result<(), ShellError> {
        self.verb(60, &["playground", "stop", name]).await.map(drop)
    }

    /// Starts a member again and waits until the cluster is healthy.
    pub async fn restart(&self, name: &str) -> Result<(), ShellError> {
        self.verb(150, &["playground", "restart", name, "--timeout", "120s"]).await.map(drop)
    }

    /// SIGSTOP.
    pub async fn pause(&self, name: &str) -> Result<(), ShellError> {
        self.verb(30, &["playground", "pause", name]).await.map(drop)
    }

    /// SIGCONT.
    pub async fn resume(&self, name: &str) -> Result<(), ShellError> {
        self.verb(30, &["playground", "resume", name]).await.map(drop)
    }

    /// Waits until the cluster is healthy.
    pub async fn wait_healthy(&self, seconds: u64) -> Result<(), ShellError> {
        let timeout = format!("{seconds}s");
        self.verb(seconds + 10, &["playground", "wait", "--timeout", &timeout]).await.map(drop)
    }

    /// `curve playground status --json`, the list of members.
    pub async fn members(&self) -> Result<Vec<Value>, ShellError> {
        let status = self.verb(30, &["playground", "status", "--json"]).await?;
        let mut status: Value = serde_json::from_str(&status.stdout).expect("status prints JSON");
        match status["members"].take() {
            Value::Array(members) => Ok(members),
            other => panic!("members is {other}"),
        }
    }

    /// The names of the servers.
    pub async fn servers(&self) -> Result<Vec<String>, ShellError> {
        let members = self.members().await?;
        let names = members
            .iter()
            .filter(|member| member["role"] != "nbd")
            .filter_map(|member| member["name"].as_str());
        Ok(names.map(str::to_owned).collect())
    }

    /// The process ids of all living members, NBD servers among them.
    pub async fn pids(&self) -> Result<Vec<u32>, ShellError> {
        let members = self.members().await?;
        let pids = members.iter().filter_map(|member| u32::try_from(member["pid"].as_u64()?).ok());
        Ok(pids.collect())
    }

    /// A member's `http_address`.
    pub async fn http_address(&self, name: &str) -> Result<String, ShellError> {
        let members = self.members().await?;
        let member = members.iter().find(|member| member["name"] == name).expect("the member exists");
        Ok(member["http_address"].as_str().expect("every member has one").to_owned())
    }

    /// The sum of a Prometheus metric over all its labels at one member; `None` when it does not exist.
    pub async fn metric(&self, name: &str, metric: &str) -> Result<Option<f64>, ShellError> {
        let url = format!("http://{}/metrics", self.http_address(name).await?);
        let text = crate::shell::run(10, "curl", &["-sS", "--max-time", "5", &url]).await?.stdout;
        Ok(sum_metric(&text, metric))
    }
}

fn sum_metric(text: &str, metric: &str) -> Option<f64> {
    let values = text.lines().filter_map(|line| {
        let (key, value) = line.rsplit_once(' ')?;
        (key.split('{').next() == Some(metric)).then(|| value.parse::<f64>().ok())?
    });
    values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

impl Drop for Playground {
    fn drop(&mut self) {
        let dir = self.dir.display().to_string();
        let failed = std::thread::panicking();
        let keep = failed || self.temporary.is_none();
        let verb: &[&str] = if keep { &["kill", "--all"] } else { &["wipe", "--yes"] };
        // Members end at once on SIGKILL, so this does not hang; a failure here must not hide the test's own.
        let ended = std::process::Command::new(&self.curve)
            .arg("playground")
            .args(verb)
            .args(["--dir", &dir])
            .stdin(std::process::Stdio::null())
            .output();
        if let Err(error) = ended {
            eprintln!("cannot end the playground in {dir}: {error}");
        }
        if failed && let Some(temporary) = self.temporary.take() {
            eprintln!("the playground's logs and data stay in {}", temporary.keep().display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_over_labels() {
        let text = "# HELP a b\na{x=\"1\"} 2\na{x=\"2\"} 3\nab 7\nb 1.5\n";
        assert_eq!(sum_metric(text, "a"), Some(5.0));
        assert_eq!(sum_metric(text, "b"), Some(1.5));
        assert_eq!(sum_metric(text, "c"), None);
    }
}
