//! Files that a mount makes without asking, through the kernel.

mod support;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use curvefs_types::MountOptions;
use support::World;

const FILES: usize = 3000;
const MOVED: usize = 900;

fn make(path: &Path, bytes: &[u8]) {
    File::create_new(path).and_then(|mut file| file.write_all(bytes)).unwrap();
}

fn count(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().map(Result::unwrap).count()
}

#[test]
fn mounts_go_on_in_each_others_directories() {
    let Some(world) = World::mounted(2, &MountOptions::default()) else { return };
    for round in 0..30 {
        let (one, two) = if round % 2 == 0 { (0, 1) } else { (1, 0) };
        let dir = world.dir(one).join(format!("d{round}"));
        fs::create_dir(&dir).unwrap();
        (0..20).for_each(|n| make(&dir.join(format!("one-{n:02}")), format!("{round} {n}").as_bytes()));
        let there = world.dir(two).join(format!("d{round}"));
        let begun = Instant::now();
        make(&there.join("two"), b"two");
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        make(&dir.join("three"), b"three");
        assert!(File::create_new(there.join("one-07")).is_err());
        for dir in [&there, &dir] {
            assert_eq!(count(dir), 22);
            assert_eq!(fs::read(dir.join("one-19")).unwrap(), format!("{round} 19").as_bytes());
            assert_eq!(fs::read(dir.join("two")).unwrap(), b"two");
        }
    }
    let made = [0, 1].map(|mount| world.vfs(mount).delegations());
    assert!(made.iter().all(|counts| counts.recalls >= 15 && counts.unpublished == 0), "{made:?}");
}

#[test]
fn many_files_and_a_tree_are_made_in_few_batches() {
    let Some(world) = World::mounted(2, &MountOptions::default()) else { return };
    let dir = world.dir(0).join("many");
    fs::create_dir(&dir).unwrap();
    let begun = Instant::now();
    (0..FILES).for_each(|n| make(&dir.join(format!("f{n:05}")), b""));
    println!("{:.0} files a second", FILES as f64 / begun.elapsed().as_secs_f64());
    let counts = world.vfs(0).delegations();
    println!("{counts:?}");
    assert!(counts.made >= FILES as u64 - 1 && counts.batches < 200, "{counts:?}");
    assert_eq!(count(&world.dir(1).join("many")), FILES);

    let plain = tempfile::tempdir().unwrap();
    for n in 0..600 {
        let sub = plain.path().join(format!("tree/d{:02}/e{}", n % 20, n % 3));
        fs::create_dir_all(&sub).unwrap();
        fs::write(sub.join(format!("f{n}")), vec![b'x'; n * 13]).unwrap();
    }
    let archive = plain.path().join("archive.tar");
    let run = |command: &mut Command| {
        let ended = command.output().unwrap();
        assert!(ended.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ended.stderr));
    };
    run(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(plain.path()).arg("tree"));
    let begun = Instant::now();
    run(Command::new("tar").arg("-xpf").arg(&archive).arg("-C").arg(world.dir(0)));
    println!(
        "tar: {:.0} files a second; {:?}",
        600.0 / begun.elapsed().as_secs_f64(),
        world.vfs(0).delegations()
    );
    let tree = plain.path().join("tree");
    for mount in [1, 0] {
        let there = world.dir(mount).join("tree");
        run(Command::new("diff").arg("-r").arg(&tree).arg(&there));
        // Times and modes, of directories too.
        let said = |dir: &Path| {
            let listed = Command::new("find").arg(dir).args(["-printf", "%P %m %T@\n"]).output().unwrap();
            let mut lines: Vec<_> =
                String::from_utf8(listed.stdout).unwrap().lines().map(String::from).collect();
            lines.sort();
            // A tar keeps whole seconds.
            lines.into_iter().map(|line| line.split('.').next().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(said(&there), said(&tree));
    }
}

/// What `git`, `rsync` and compilers do, and then removal; by who made the directory and by somebody else.
#[test]
fn names_move_in_few_batches() {
    let Some(world) = World::mounted(2, &MountOptions::default()) else { return };
    let dirs = [0, 1].map(|mount| world.dir(mount).join("moving"));
    fs::create_dir(&dirs[0]).unwrap();
    (0..MOVED).for_each(|n| make(&dirs[0].join(format!("f{n:05}")), b"old"));
    for (mount, from, to) in [(0, "f", "g"), (1, "g", "h")] {
        let (dir, begun) = (&dirs[mount], Instant::now());
        let before = world.vfs(mount).delegations().batches;
        for n in 0..MOVED {
            fs::rename(dir.join(format!("{from}{n:05}")), dir.join(format!("{to}{n:05}"))).unwrap();
        }
        println!("mount {mount}: {:.0} renames a second", MOVED as f64 / begun.elapsed().as_secs_f64());
        let batches = world.vfs(mount).delegations().batches - before;
        assert!(batches < MOVED as u64 / 8, "{batches}");
        let begun = Instant::now();
        for n in (0..MOVED).step_by(3) {
            make(&dir.join("tmp"), b"new");
            fs::rename(dir.join("tmp"), dir.join(format!("{to}{n:05}"))).unwrap();
        }
        println!(
            "mount {mount}: {:.0} replaced a second",
            MOVED as f64 / 3.0 / begun.elapsed().as_secs_f64()
        );
        for n in (1..MOVED).step_by(3).filter(|_| mount == 1) {
            fs::remove_file(dir.join(format!("{to}{n:05}"))).unwrap();
        }
        println!("{:?}, {before} batches before", world.vfs(mount).delegations());
    }
    for dir in &dirs {
        assert_eq!(count(dir), MOVED - MOVED / 3);
        for n in 0..MOVED {
            let found = fs::read(dir.join(format!("h{n:05}"))).ok();
            let expected: Option<&[u8]> = [Some(&b"new"[..]), None, Some(b"old")][n % 3];
            assert_eq!(found.as_deref(), expected, "{n}");
        }
    }
    fs::remove_dir_all(&dirs[0]).unwrap();
    assert_eq!(count(&world.dir(1)), 0);
    world.end();
}
