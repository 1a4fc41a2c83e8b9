//! An embedded object store in a process of its own, `curve serve s3`.

use std::fs::File;
use std::process::Stdio;
use std::time::{Duration, Instant};

use curve_harness::binary;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::place::{REGION, StorePlace};

const READY_WITHIN: Duration = Duration::from_secs(30);
const END_WITHIN: Duration = Duration::from_secs(30);
const BUCKET: &str = "bucket";
const ACCESS_KEY: &str = "access";
const SECRET_KEY: &str = "a-secret-key";

/// `curve serve s3` on loopback, with one bucket. Killed when dropped.
pub struct ServedStore {
    process: Child,
    address: String,
    dir: TempDir,
}

impl ServedStore {
    /// Starts it on a free port and waits until it answers.
    pub async fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("curve-s3-").tempdir().expect("a temporary directory");
        // Free now, and hardly taken in the next second.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        drop(listener);
        let path = dir.path().display();
        let config = format!(
            "data_dir = '{path}/data'\nlisten_address = '{address}'\nhttp_address = ''\nbuckets = ['{BUCKET}']\n\
             access_key = '{ACCESS_KEY}'\nsecret_key_file = '{path}/secret'\nreserve = '0'\n"
        );
        std::fs::write(dir.path().join("s3.toml"), config).expect("written");
        std::fs::write(dir.path().join("secret"), SECRET_KEY).expect("written");
        let log = File::create(dir.path().join("log")).expect("a log");
        let process = Command::new(binary("curve"))
            .args(["serve", "s3", "--config"])
            .arg(dir.path().join("s3.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("curve starts");
        let mut this = Self { process, address, dir };
        let until = Instant::now() + READY_WITHIN;
        while tokio::net::TcpStream::connect(&this.address).await.is_err() {
            let ended = this.process.try_wait().expect("a child can be waited for");
            assert!(ended.is_none() && Instant::now() < until, "no store ({ended:?}): {}", this.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        this
    }

    /// What a client needs.
    pub fn place(&self) -> StorePlace {
        StorePlace {
            endpoint: format!("http://{}", self.address),
            region: REGION.into(),
            bucket: BUCKET.into(),
            access_key: ACCESS_KEY.into(),
            secret_key: SECRET_KEY.into(),
        }
    }

    /// What the process has said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// SIGTERM, after which it must end in order.
    pub async fn stop(mut self) {
        let pid = self.process.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        kill_process(pid.expect("it was not waited for"), Signal::TERM).expect("it lives");
        let ended = tokio::time::timeout(END_WITHIN, self.process.wait()).await;
        let ended = ended.unwrap_or_else(|_| panic!("it runs on after SIGTERM: {}", self.log()));
        assert!(ended.expect("a child can be waited for").success(), "{}", self.log());
    }
}
