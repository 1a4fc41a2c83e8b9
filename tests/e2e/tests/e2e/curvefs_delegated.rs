//! Directories in which a mount makes files without asking, with other mounts in its way.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use curve_e2e::turn;
use curve_harness::run;

use crate::curvefs::{Cluster, blocking, can_mount};

/// How long a mount that is dead may keep others from its directories: 5 seconds, and what a busy machine adds.
const DELAY_MAX: Duration = Duration::from_secs(12);

fn make(dir: &Path, name: &str, bytes: &[u8]) {
    let mut file = File::create_new(dir.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    file.write_all(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Each in turn makes a directory with files and the other goes on there at once.
fn ping_pong(a: &Path, b: &Path, rounds: usize) {
    let mut slowest = Duration::ZERO;
    for round in 0..rounds {
        let (one, two) = if round % 2 == 0 { (a, b) } else { (b, a) };
        let dir = format!("ping-{round}");
        fs::create_dir(one.join(&dir)).unwrap();
        let (one, two) = (one.join(&dir), two.join(&dir));
        (0..20).for_each(|n| make(&one, &format!("one-{n:02}"), format!("{round} {n}").as_bytes()));
        let begun = Instant::now();
        make(&two, "two", b"two");
        slowest = slowest.max(begun.elapsed());
        make(&one, "three", b"three");
        assert!(File::create_new(two.join("one-07")).is_err());
        for dir in [&two, &one] {
            assert_eq!(names(dir).len(), 22);
            assert_eq!(fs::read(dir.join("one-19")).unwrap(), format!("{round} 19").as_bytes());
            assert_eq!(fs::read(dir.join("two")).unwrap(), b"two");
        }
    }
    println!("the slowest of {rounds} recalls took {slowest:.0?}");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}

#[tokio::test]
async fn mounts_make_files_in_each_others_directories_and_a_killed_one_is_not_waited_for_long() {
    let _turn = turn("curvefs_delegated").await;
    if !can_mount() {
        return;
    }
    let cluster = Cluster::start(&[]).await;
    let mount = async |at| cluster.mount_with(at, &["-o", "delegate"]).await;
    let (a, b) = (mount("a").await, mount("b").await);
    let (at_a, at_b) = (a.dir().to_path_buf(), b.dir().to_path_buf());
    blocking(move || ping_pong(&at_a, &at_b, 20)).await;

    let at_a = a.dir().to_path_buf();
    blocking(move || {
        fs::create_dir(at_a.join("killed")).unwrap();
        let dir = at_a.join("killed");
        make(&dir, "first", b"1");
        for name in ["synced", "by-dir"] {
            make(&dir, name, name.as_bytes());
            File::open(dir.join(name)).unwrap().sync_all().unwrap();
        }
        File::open(&dir).unwrap().sync_all().unwrap();
        (0..50).for_each(|n| make(&dir, &format!("lost-{n}"), b"perhaps"));
    })
    .await;
    a.kill().await;
    let at_b = b.dir().to_path_buf();
    blocking(move || {
        let (dir, begun) = (at_b.join("killed"), Instant::now());
        make(&dir, "theirs", b"2");
        let waited = begun.elapsed();
        println!("a killed mount was waited for {waited:.1?}");
        assert!(waited < DELAY_MAX, "{waited:?}");
        assert_eq!(fs::read(dir.join("synced")).unwrap(), b"synced");
        assert_eq!(fs::read(dir.join("by-dir")).unwrap(), b"by-dir");
        // What was not synced is whole or not there.
        for name in names(&dir).iter().filter(|name| name.starts_with("lost")) {
            assert_eq!(fs::read(dir.join(name)).unwrap(), b"perhaps", "{name}");
        }
        fs::remove_dir_all(&dir).unwrap();
    })
    .await;
    let tree = b.dir().join("tree").display().to_string();
    run(60, "mkdir", &[&tree]).await.unwrap_or_else(|error| panic!("{error}"));
    run(120, "cp", &["-a", "/usr/include/linux", &tree]).await.unwrap_or_else(|error| panic!("{error}"));
    let other = mount("c").await;
    let copied = other.dir().join("tree/linux").display().to_string();
    let same = run(120, "diff", &["-r", "/usr/include/linux", &copied]).await;
    same.unwrap_or_else(|error| panic!("{error}"));
    for mount in [b, other] {
        mount.unmount().await.unwrap_or_else(|error| panic!("{error}"));
    }
}
