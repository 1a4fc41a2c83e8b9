//! PostgreSQL's data directory on a volume, under pgbench, while replicas, MDSs and the NBD server are killed, and the database
//! is crashed.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use curve_e2e::{LoopDevice, Mounted, Reconnecting, Volume, is_root, turn};
use curve_harness::{Playground, ShellError, binary, has_program, run, run_within};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

#[tokio::test]
async fn postgresql_keeps_its_invariants() {
    let _turn = turn("postgresql_keeps_its_invariants").await;
    let Some(bin) = postgres_bin().filter(|_| is_root() && has_program("runuser")) else {
        println!("needs root and PostgreSQL (make deps); nothing was tested");
        return;
    };
    let volume = Volume::start("2GiB").await;
    // nbdfuse gives a connection up that has ended; this server does not.
    let reconnecting = Reconnecting::before(&volume.uri).await;
    let disk = LoopDevice::attach(&reconnecting.uri).await;
    run(60, "mkfs.ext4", &["-q", "-F", &disk.device]).await.unwrap_or_else(|error| panic!("{error}"));
    let mounted = Mounted::mount(&disk.device).await;
    let postgres = Postgres::init(&bin, mounted.path()).await;
    postgres.start().await;
    postgres.pgbench(&["-i", "-q", "-s", "5"], 180).await;

    let broken = AtomicBool::new(false);
    let faults = async {
        let done = kill_everything_in_turn(&volume.playground, &postgres).await;
        broken.store(true, Ordering::Relaxed);
        done
    };
    // The load goes on for as long as something is killed, and for a moment after it.
    let load = async {
        let mut transactions = 0;
        loop {
            let last = broken.load(Ordering::Relaxed);
            let said = postgres.pgbench(&["-n", "-c", "4", "-j", "2", "-T", "4"], 120).await;
            assert!(said.contains("number of failed transactions: 0"), "{said}");
            transactions += processed(&said);
            if last {
                return transactions;
            }
        }
    };
    let (transactions, done) = tokio::join!(load, faults);
    done.unwrap_or_else(|error| panic!("{error}"));
    println!("{transactions} transactions, none failed");
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

/// A chunkserver, an MDS, and twice the server of the device; each is back before the next one goes.
async fn kill_everything_in_turn(playground: &Playground, postgres: &Postgres) -> Result<(), ShellError> {
    more_commits(postgres, "before anything is killed").await;
    for name in ["chunkserver-1", "mds-1"] {
        playground.kill(name).await?;
        more_commits(postgres, &format!("without {name}")).await;
        playground.restart(name).await?;
    }
    for _ in 0..2 {
        playground.kill("nbd-1").await?;
        playground.verb(60, &["playground", "restart", "nbd-1", "--no-wait"]).await?;
        more_commits(postgres, "after the server's restart").await;
    }
    Ok(())
}

/// Waits until transactions end again, which took a write to the volume.
async fn more_commits(postgres: &Postgres, when: &str) {
    let count = async || {
        let history = postgres.query("select count(*) from pgbench_history").await;
        history.parse::<u64>().expect("a number")
    };
    let (begun, before) = (Instant::now(), count().await);
    while count().await < before + 50 {
        assert!(begun.elapsed() < Duration::from_secs(90), "no transaction ends any more");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("{when}, 50 transactions took {:.1} s", begun.elapsed().as_secs_f64());
}

/// How many transactions pgbench has made.
pub(crate) fn processed(said: &str) -> u64 {
    let line = said.lines().find(|line| line.contains("actually processed")).expect("pgbench reports");
    line.rsplit(' ')
        .next()
        .and_then(|word| word.parse().ok())
        .unwrap_or_else(|| panic!("no number in {line}"))
}

/// What a cluster of databases does when it has lost touch with its primary: it starts the standby on the same volume
/// without knowing whether the primary is dead. Here it is alive and under load.
#[tokio::test]
async fn postgresql_fails_over_while_the_old_primary_still_runs() {
    let _turn = turn("postgresql_fails_over_while_the_old_primary_still_runs").await;
    let Some(bin) = postgres_bin().filter(|_| is_root() && has_program("runuser")) else {
        println!("needs root and PostgreSQL (make deps); nothing was tested");
        return;
    };
    let volume = Volume::start("2GiB").await;
    let primary_disk = LoopDevice::attach(&volume.uri).await;
    run(60, "mkfs.ext4", &["-q", "-F", &primary_disk.device]).await.unwrap_or_else(|error| panic!("{error}"));
    let primary_mount = Mounted::mount(&primary_disk.device).await;
    let primary = Postgres::init(&bin, primary_mount.path()).await;
    primary.start().await;
    primary.pgbench(&["-i", "-q", "-s", "5"], 180).await;

    // Each transaction that a client was told of is a line here, outside the volume.
    let acknowledged = tempfile::tempdir().expect("a temporary directory");
    let log = acknowledged.path().join("log").display().to_string();
    run(10, "chmod", &["777", &acknowledged.path().display().to_string()]).await.expect("chmod");
    let prefix = format!("--log-prefix={log}");
    let arguments = ["-n", "-c", "4", "-j", "2", "-T", "40", "-l", &prefix];
    let load = primary.try_pgbench(&arguments, 120);
    let failover = async {
        for name in ["chunkserver-2", "mds-1"] {
            tokio::time::sleep(Duration::from_secs(2)).await;
            volume.playground.kill(name).await?;
            volume.playground.restart(name).await?;
        }
        Ok::<_, ShellError>(take_over(&volume.playground).await)
    };
    let (ended, taken_over) = tokio::join!(load, failover);
    let (_server, uri) = taken_over.unwrap_or_else(|error| panic!("{error}"));
    assert!(ended.is_err(), "the primary went on although it was shut out: {ended:?}");

    let standby_disk = LoopDevice::attach(&uri).await;
    let standby_mount = Mounted::mount(&standby_disk.device).await;
    let standby = Postgres::adopt(&bin, standby_mount.path());
    // They name a process of the other host, which here is the same one.
    for lock in ["data/postmaster.pid", ".s.PGSQL.5432.lock"] {
        std::fs::remove_file(standby.home.join(lock)).expect("the primary wrote it");
    }
    standby.start().await;
    let kept: usize = standby.query("select count(*) from pgbench_history").await.parse().expect("a number");
    let lines = |entry: std::fs::DirEntry| {
        std::fs::read_to_string(entry.path()).expect("pgbench's log").lines().count()
    };
    let told: usize = std::fs::read_dir(acknowledged.path()).expect("a directory").flatten().map(lines).sum();
    println!("{told} transactions were acknowledged, {kept} are there");
    assert!(told > 0 && kept >= told, "{told} transactions were acknowledged, {kept} are there");
    standby.check_balances().await;
    let socket_dir = standby.socket_dir();
    let check = ["-h", &socket_dir, "--install-missing", "--heapallindexed", "postgres"];
    standby.tool("pg_amcheck", &check, 120).await;
    standby.pgbench(&["-n", "-c", "2", "-T", "3"], 60).await;
    standby.check_balances().await;
    standby.stop("fast").await;
    standby_mount.unmount().await;
    run(120, "fsck.ext4", &["-f", "-n", &standby_disk.device])
        .await
        .unwrap_or_else(|error| panic!("{error}"));
}

/// Another host's server for the volume, which shuts the first one out; and its URI.
async fn take_over(playground: &Playground) -> (Child, String) {
    let mut server = Command::new(binary("curve-nbd"))
        .args(["serve", "/vol", "--takeover", "--socket"])
        .arg(playground.dir().join("run/standby.sock"))
        .arg("--config")
        .arg(playground.config())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("curve-nbd starts");
    let stdout = server.stdout.take().expect("it is piped");
    let line =
        tokio::time::timeout(Duration::from_secs(30), BufReader::new(stdout).lines().next_line()).await;
    let line = line.expect("curve-nbd is ready in time").expect("it writes").expect("it says `ready URI`");
    (server, line.trim_start_matches("ready ").to_owned())
}

/// A PostgreSQL server, run as the user `postgres`. Stopped when dropped.
pub(crate) struct Postgres {
    bin: PathBuf,
    pub(crate) home: PathBuf,
}

impl Postgres {
    /// A new server in a directory, `pg` in `mounted`.
    pub(crate) async fn init(bin: &Path, mounted: &Path) -> Self {
        let home = mounted.join("pg");
        std::fs::create_dir(&home).expect("a directory");
        let opened = ["o+x".to_owned(), mounted.display().to_string()];
        run(10, "chmod", &[&opened[0], &opened[1]]).await.expect("chmod");
        run(10, "chown", &["postgres", &home.display().to_string()]).await.expect("the user postgres exists");
        let this = Self { bin: bin.to_path_buf(), home };
        let data = this.data();
        this.tool("initdb", &["-A", "trust", "--no-instructions", "-D", &data], 300).await;
        this
    }

    /// A server over the data directory that another one has left.
    pub(crate) fn adopt(bin: &Path, mounted: &Path) -> Self {
        Self { bin: bin.to_path_buf(), home: mounted.join("pg") }
    }

    fn data(&self) -> String {
        self.home.join("data").display().to_string()
    }

    fn socket_dir(&self) -> String {
        self.home.display().to_string()
    }

    pub(crate) async fn start(&self) {
        let options = format!("-k {} -c listen_addresses='' -c max_wal_size=128MB", self.socket_dir());
        let log = self.home.join("log").display().to_string();
        let data = self.data();
        let arguments = ["start", "-w", "-t", "60", "-D", &data, "-l", &log, "-o", &options];
        if let Err(error) = self.try_tool("pg_ctl", &arguments, 90).await {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            panic!("{error}\n{}", said.lines().rev().take(20).collect::<Vec<_>>().join("\n"));
        }
    }

    pub(crate) async fn stop(&self, mode: &str) {
        // The first line is the number of the process, which ends after its file: until then it stands in the directory.
        let file = Path::new(&self.data()).join("postmaster.pid");
        let number =
            std::fs::read_to_string(file).ok().and_then(|text| Some(text.lines().next()?.to_owned()));
        self.tool("pg_ctl", &["stop", "-w", "-t", "60", "-m", mode, "-D", &self.data()], 90).await;
        let process = Path::new("/proc").join(number.expect("the server runs"));
        let until = Instant::now() + Duration::from_secs(60);
        while process.exists() {
            assert!(Instant::now() < until, "{} does not end", process.display());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn pgbench(&self, arguments: &[&str], seconds: u64) -> String {
        self.try_pgbench(arguments, seconds).await.unwrap_or_else(|error| panic!("{error}"))
    }

    async fn try_pgbench(&self, arguments: &[&str], seconds: u64) -> Result<String, ShellError> {
        let socket = self.socket_dir();
        let all: Vec<&str> =
            ["-h", &socket].into_iter().chain(arguments.iter().copied()).chain(["postgres"]).collect();
        self.try_tool("pgbench", &all, seconds).await
    }

    pub(crate) async fn query(&self, sql: &str) -> String {
        let said = self.tool("psql", &["-h", &self.socket_dir(), "-Atc", sql, "postgres"], 60).await;
        said.trim().to_owned()
    }

    /// Every transaction adds one delta to an account, a teller, a branch and the history.
    pub(crate) async fn check_balances(&self) {
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

    pub(crate) async fn tool(&self, name: &str, arguments: &[&str], seconds: u64) -> String {
        self.try_tool(name, arguments, seconds).await.unwrap_or_else(|error| panic!("{error}"))
    }

    async fn try_tool(&self, name: &str, arguments: &[&str], seconds: u64) -> Result<String, ShellError> {
        let program = self.bin.join(name).display().to_string();
        let mut all = vec!["-u", "postgres", "--", &program];
        all.extend(arguments);
        let finished = run_within(Duration::from_secs(seconds), "runuser", &all).await?.success()?;
        Ok(format!("{}{}", finished.stdout, finished.stderr))
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

pub(crate) fn postgres_bin() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut bins: Vec<PathBuf> = versions.flatten().map(|entry| entry.path().join("bin")).collect();
    bins.sort();
    bins.into_iter().rev().find(|bin| bin.join("initdb").is_file() && bin.join("pgbench").is_file())
}
