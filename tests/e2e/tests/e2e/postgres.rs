//! PostgreSQL's data directory on a volume, under pgbench, while replicas are lost and the server is crashed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use curve_e2e::{LoopDevice, Mounted, Volume, is_root, turn};
use curve_harness::{Finished, has_program, run, run_within};

#[tokio::test]
async fn postgresql_keeps_its_invariants() {
    let _turn = turn("postgresql_keeps_its_invariants").await;
    let Some(bin) = postgres_bin().filter(|_| is_root() && has_program("runuser")) else {
        println!("needs root and PostgreSQL (make deps); nothing was tested");
        return;
    };
    let volume = Volume::start("2GiB").await;
    let disk = LoopDevice::attach(&volume.uri).await;
    run(60, "mkfs.ext4", &["-q", "-F", &disk.device]).await.unwrap_or_else(|error| panic!("{error}"));
    let mounted = Mounted::mount(&disk.device).await;
    let postgres = Postgres::init(&bin, &mounted).await;
    postgres.start().await;
    postgres.pgbench(&["-i", "-q", "-s", "5"], 180).await;

    let load = postgres.pgbench(&["-n", "-c", "4", "-j", "2", "-T", "15"], 120);
    let faults = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        volume.playground.kill("chunkserver-1").await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        volume.playground.restart("chunkserver-1").await
    };
    let (said, broken) = tokio::join!(load, faults);
    broken.unwrap_or_else(|error| panic!("{error}"));
    let done = said.lines().find(|line| line.contains("actually processed")).expect("pgbench reports");
    println!("{done}");
    assert!(said.contains("number of failed transactions: 0"), "{said}");
    postgres.check_balances().await;

    // A crash of the database: what it acknowledged must be there after its recovery.
    let before = postgres.query("select count(*) from pgbench_history").await;
    postgres.stop("immediate").await;
    postgres.start().await;
    assert_eq!(postgres.query("select count(*) from pgbench_history").await, before);
    postgres.check_balances().await;
    postgres.stop("fast").await;
    mounted.unmount().await;
    run(120, "fsck.ext4", &["-f", "-n", &disk.device]).await.unwrap_or_else(|error| panic!("{error}"));
}

/// A PostgreSQL server, run as the user `postgres`. Stopped when dropped.
struct Postgres {
    bin: PathBuf,
    home: PathBuf,
}

impl Postgres {
    async fn init(bin: &Path, mounted: &Mounted) -> Self {
        let home = mounted.join("pg");
        std::fs::create_dir(&home).expect("a directory");
        let opened = ["o+x".to_owned(), mounted.path().display().to_string()];
        run(10, "chmod", &[&opened[0], &opened[1]]).await.expect("chmod");
        run(10, "chown", &["postgres", &home.display().to_string()]).await.expect("the user postgres exists");
        let this = Self { bin: bin.to_path_buf(), home };
        let data = this.data();
        this.tool("initdb", &["-A", "trust", "--no-instructions", "-D", &data], 120).await;
        this
    }

    fn data(&self) -> String {
        self.home.join("data").display().to_string()
    }

    fn socket_dir(&self) -> String {
        self.home.display().to_string()
    }

    async fn start(&self) {
        let options = format!("-k {} -c listen_addresses='' -c max_wal_size=128MB", self.socket_dir());
        let log = self.home.join("log").display().to_string();
        self.tool("pg_ctl", &["start", "-w", "-t", "60", "-D", &self.data(), "-l", &log, "-o", &options], 90)
            .await;
    }

    async fn stop(&self, mode: &str) {
        self.tool("pg_ctl", &["stop", "-w", "-t", "60", "-m", mode, "-D", &self.data()], 90).await;
    }

    async fn pgbench(&self, arguments: &[&str], seconds: u64) -> String {
        let socket = self.socket_dir();
        let all: Vec<&str> =
            ["-h", &socket].into_iter().chain(arguments.iter().copied()).chain(["postgres"]).collect();
        self.tool("pgbench", &all, seconds).await
    }

    async fn query(&self, sql: &str) -> String {
        let said = self.tool("psql", &["-h", &self.socket_dir(), "-Atc", sql, "postgres"], 60).await;
        said.trim().to_owned()
    }

    /// Every transaction adds one delta to an account, a teller, a branch and the history.
    async fn check_balances(&self) {
        let accounts = self.query("select sum(abalance) from pgbench_accounts").await;
        for table in ["sum(tbalance) from pgbench_tellers", "sum(bbalance) from pgbench_branches"] {
            assert_eq!(self.query(&format!("select {table}")).await, accounts, "{table}");
        }
        assert_eq!(
            self.query("select coalesce(sum(delta), 0) from pgbench_history").await,
            accounts,
            "history"
        );
        println!("the sums over accounts, tellers, branches and history agree: {accounts}");
    }

    async fn tool(&self, name: &str, arguments: &[&str], seconds: u64) -> String {
        let program = self.bin.join(name).display().to_string();
        let mut all = vec!["-u", "postgres", "--", &program];
        all.extend(arguments);
        let finished =
            run_within(Duration::from_secs(seconds), "runuser", &all).await.and_then(Finished::success);
        let finished = finished.unwrap_or_else(|error| panic!("{error}"));
        format!("{}{}", finished.stdout, finished.stderr)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let program = self.bin.join("pg_ctl");
        // Fails when it is stopped already.
        let _ = std::process::Command::new("runuser")
            .args(["-u", "postgres", "--"])
            .arg(program)
            .args(["stop", "-m", "immediate", "-t", "10", "-D", &self.data()])
            .output();
    }
}

fn postgres_bin() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut bins: Vec<PathBuf> = versions.flatten().map(|entry| entry.path().join("bin")).collect();
    bins.sort();
    bins.into_iter().rev().find(|bin| bin.join("initdb").is_file() && bin.join("pgbench").is_file())
}
