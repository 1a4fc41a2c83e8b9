//! Programs that people run on a file system, on a mounted CurveFS. What they leave behind is verified by their own means.
//!
//! Small here; `CURVE_FS_LARGE=1` (`make fs-git`, …) takes sizes of every day.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use curve_e2e::turn;
use curve_harness::{has_program, run};

use crate::curvefs::{Cluster, blocking, can_mount};
use crate::postgres::{Postgres, postgres_bin, processed};

/// `small`, or `large` when the environment asks for it.
fn sized<T>(small: T, large: T) -> T {
    if std::env::var_os("CURVE_FS_LARGE").is_some() { large } else { small }
}

/// Whether the test can be made here; says why not.
fn can_run(program: &str) -> bool {
    let can = can_mount();
    if can && !has_program(program) {
        println!("{program} is missing (make deps); nothing was tested");
        return false;
    }
    can
}

#[tokio::test]
async fn git() {
    let _turn = turn("curvefs_programs::git").await;
    if !can_run("git") {
        return;
    }
    let cluster = Cluster::start(&[]).await;
    let mount = cluster.mount("a").await;
    let source = cluster.dir.path().join("source");
    make_repository(&source);
    let (from, to) = (source.display().to_string(), mount.dir().join("clone").display().to_string());
    for arguments in [
        &["clone", "-q", "--no-hardlinks", &from, &to][..],
        &["-C", &to, "gc", "-q", "--aggressive", "--prune=now"],
        &["-C", &to, "fsck", "--strict"],
    ] {
        run(sized(120, 1200), "git", arguments).await.unwrap_or_else(|error| panic!("{error}"));
    }
    let status = run(30, "git", &["-C", &to, "status", "--porcelain"]).await.expect("status");
    assert_eq!(status.stdout, "", "nothing has changed");
    mount.unmount().await.unwrap_or_else(|error| panic!("{error}"));
}

/// Two processes write to one SQLite database in WAL mode: its shared memory is a mapped file of the mount.
#[tokio::test]
async fn sqlite() {
    let _turn = turn("curvefs_programs::sqlite").await;
    if !can_run("sqlite3") {
        return;
    }
    let cluster = Cluster::start(&[]).await;
    let mount = cluster.mount("a").await;
    let database = mount.dir().join("data.db").display().to_string();
    let made = "PRAGMA journal_mode=WAL; CREATE TABLE t (who INTEGER, n INTEGER, PRIMARY KEY (who, n));";
    run(30, "sqlite3", &[&database, made]).await.unwrap_or_else(|error| panic!("{error}"));
    let each = sized(100, 1000);
    let inserts = |who: u32| {
        let one = |n: u32| format!("INSERT INTO t VALUES ({who}, {n});");
        format!("PRAGMA busy_timeout=60000; {}", (0..each).map(one).collect::<String>())
    };
    let (one, two) = (inserts(1), inserts(2));
    let (first, second) = (["-bail", &database, &one], ["-bail", &database, &two]);
    let (first, second) = tokio::join!(run(600, "sqlite3", &first), run(600, "sqlite3", &second));
    for done in [first, second] {
        done.unwrap_or_else(|error| panic!("{error}"));
    }
    let asked = "SELECT count(*), count(DISTINCT who) FROM t; PRAGMA integrity_check;";
    let said = run(30, "sqlite3", &[&database, asked]).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(said.stdout, format!("{}|2\nok\n", 2 * each));
    mount.unmount().await.unwrap_or_else(|error| panic!("{error}"));
}

/// PostgreSQL under pgbench while a metaserver and the store die; then a crash of the database; then the same on another mount.
#[tokio::test]
async fn postgres() {
    let _turn = turn("curvefs_programs::postgres").await;
    let Some(bin) = postgres_bin().filter(|_| can_run("runuser")) else {
        println!("needs root and PostgreSQL (make deps); nothing was tested");
        return;
    };
    let cluster = Cluster::start(&[]).await;
    let mount = cluster.mount("a").await;
    run(10, "chmod", &["o+x", &cluster.dir.path().display().to_string()]).await.expect("chmod");
    let server = Postgres::init(&bin, mount.dir()).await;
    server.start().await;
    server.pgbench(&["-i", "-q", "-s", sized("1", "20")], 600).await;
    let seconds = sized("15", "120");
    let arguments = ["-n", "-c", "4", "-j", "2", "-T", seconds];
    let load = server.pgbench(&arguments, 600);
    let faults = async {
        for name in ["metaserver-1", "s3-1", "mds-1"] {
            tokio::time::sleep(Duration::from_secs(2)).await;
            cluster.playground.kill(name).await.unwrap_or_else(|error| panic!("{error}"));
            cluster.playground.restart(name).await.unwrap_or_else(|error| panic!("{error}"));
        }
    };
    let (said, ()) = tokio::join!(load, faults);
    assert!(said.contains("number of failed transactions: 0"), "{said}");
    println!("{} transactions in {seconds} s", processed(&said));
    server.check_balances().await;

    let before = server.query("select count(*) from pgbench_history").await;
    server.stop("immediate").await;
    server.start().await;
    assert_eq!(server.query("select count(*) from pgbench_history").await, before);
    server.check_balances().await;
    server.stop("fast").await;
    mount.unmount().await.unwrap_or_else(|error| panic!("{error}"));

    let other = cluster.mount("b").await;
    let server = Postgres::adopt(&bin, other.dir());
    server.start().await;
    assert_eq!(server.query("select count(*) from pgbench_history").await, before);
    let socket_dir = server.home.display().to_string();
    let check = ["-h", &socket_dir, "--install-missing", "--heapallindexed", "postgres"];
    server.tool("pg_amcheck", &check, 600).await;
    server.stop("fast").await;
    other.unmount().await.unwrap_or_else(|error| panic!("{error}"));
}

/// The sources of this project: from here to the mount with rsync, compared by checksum.
async fn sources_on(mount: &Path) -> PathBuf {
    let from = format!("{}/", Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").display());
    let to = mount.join("sources");
    let target = format!("{}/", to.display());
    let what = ["--exclude=/target*", "--exclude=/playground", "--exclude=/.git", &from, &target];
    run(300, "rsync", &[&["-a", "--delete"], &what[..]].concat())
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    let again = [&["-a", "--checksum", "--dry-run", "--itemize-changes", "--delete"], &what[..]].concat();
    let differs = run(300, "rsync", &again).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(differs.stdout, "", "rsync found differences");
    to
}

/// Once more onto the same directory: what has not changed is not copied, what has is, what is gone goes.
#[tokio::test]
async fn rsync() {
    let _turn = turn("curvefs_programs::rsync").await;
    if !can_run("rsync") {
        return;
    }
    let cluster = Cluster::start(&[]).await;
    let mount = cluster.mount("a").await;
    let sources = sources_on(mount.dir()).await;
    let work = sources.clone();
    let changed = move || {
        fs::write(work.join("README.md"), "other").expect("written");
        fs::rename(work.join("curvefs"), work.join("moved")).expect("renamed");
        fs::create_dir(work.join("extra")).expect("made");
        fs::hard_link(work.join("Cargo.toml"), work.join("extra/link")).expect("linked");
    };
    blocking(changed).await;
    let (from, to) = (format!("{}/", sources.display()), format!("{}/", mount.dir().join("copy").display()));
    for arguments in [
        &["-a", "--hard-links", "--partial", "--inplace", &from, &to][..],
        &["-a", "--hard-links", "--delete", &from, &to],
    ] {
        run(300, "rsync", arguments).await.unwrap_or_else(|error| panic!("{error}"));
    }
    let compared = ["-r", &from, &to];
    run(300, "diff", &compared).await.unwrap_or_else(|error| panic!("{error}"));
    sources_on(mount.dir()).await;
    mount.unmount().await.unwrap_or_else(|error| panic!("{error}"));
}

/// A crate of this project with what it depends on; the second build finds nothing to do.
#[tokio::test]
async fn build() {
    let _turn = turn("curvefs_programs::build").await;
    if !can_run("cargo") || !can_run("rsync") {
        return;
    }
    let cluster = Cluster::start(&[]).await;
    let mount = cluster.mount("a").await;
    let sources = sources_on(mount.dir()).await;
    let manifest = sources.join("Cargo.toml").display().to_string();
    let target = sources.join("target").display().to_string();
    let package = sized("curvefs-types", "curve-chunkserver");
    let arguments = [
        "build",
        "--offline",
        "--locked",
        "--manifest-path",
        &manifest,
        "--target-dir",
        &target,
        "-p",
        package,
    ];
    let first = run(sized(600, 3600), "cargo", &arguments).await.unwrap_or_else(|error| panic!("{error}"));
    assert!(
        first.stderr.contains("Compiling curvefs-types") || first.stderr.contains(package),
        "{}",
        first.stderr
    );
    let second = run(600, "cargo", &arguments).await.unwrap_or_else(|error| panic!("{error}"));
    assert!(!second.stderr.contains("Compiling"), "{}", second.stderr);
    println!(
        "built in {:.1} s; looked at again in {:.1} s",
        first.took.as_secs_f64(),
        second.took.as_secs_f64()
    );
    mount.unmount().await.unwrap_or_else(|error| panic!("{error}"));
}

/// The load of a file server by four clients; each operation must end as its record says.
#[tokio::test]
async fn dbench() {
    let _turn = turn("curvefs_programs::dbench").await;
    if !can_run("dbench") {
        return;
    }
    let cluster = Cluster::start(&[]).await;
    let mount = cluster.mount("a").await;
    let (seconds, dir) = (sized("10", "120"), mount.dir().display().to_string());
    let said =
        run(600, "dbench", &["-t", seconds, "-D", &dir, "4"]).await.unwrap_or_else(|error| panic!("{error}"));
    let result = said.stdout.lines().find(|line| line.starts_with("Throughput"));
    println!("{}", result.unwrap_or_else(|| panic!("{}", said.stdout)));
    mount.unmount().await.unwrap_or_else(|error| panic!("{error}"));
}

/// A repository of 30 files in ten commits; 300 in a hundred when large.
fn make_repository(dir: &Path) {
    let git = |arguments: &[&str]| {
        // A commit would begin to collect garbage in the background, and take loose objects away from under whoever copies them.
        let options = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "maintenance.auto=false"];
        let ended =
            std::process::Command::new("git").args(options).arg("-C").arg(dir).args(arguments).output();
        let ended = ended.expect("git runs");
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    };
    fs::create_dir_all(dir).expect("a directory");
    git(&["init", "-q"]);
    for commit in 0..sized(10, 100) {
        for file in 0..sized(30, 300) {
            let sub: PathBuf = dir.join(format!("d{}", file % 7));
            fs::create_dir_all(&sub).expect("a directory");
            let text = format!("{commit} {file}\n").repeat(20 + file * 7);
            fs::write(sub.join(format!("f{file}")), text).expect("written");
        }
        git(&["add", "-A"]);
        git(&["commit", "-q", "-m", &format!("commit {commit}")]);
    }
}
