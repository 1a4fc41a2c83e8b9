//! What programs see of a mounted file system, by the system calls they make.

mod support;

use std::fs;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use curvefs_types::MountOptions;
use rustix::fs::{FlockOperation, XattrFlags, fcntl_lock, flock, renameat_with};
use support::World;

fn with_mounts(mounts: usize, test: impl FnOnce(&World)) {
    if let Some(world) = World::mounted(mounts, &MountOptions::default()) {
        test(&world);
        world.end();
    }
}

fn sh(dir: &Path, script: &str) -> String {
    let output = Command::new("sh").arg("-euc").arg(script).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn basic_programs_work() {
    with_mounts(1, |world| {
        let dir = world.dir(0);
        sh(
            &dir,
            "mkdir -p a/b && echo hello > a/b/f && cat a/b/f && cp -a a c && diff -r a c && mv c d && rm -r a",
        );
        assert_eq!(sh(&dir, "find d | sort"), "d\nd/b\nd/b/f\n");
        sh(&dir, "seq 1 100000 > n && sort -rn n | sort -n | cmp - n && sed -i s/1/x/g n && grep -c x n");
        sh(
            &dir,
            "mkdir t && cd t && for i in $(seq 200); do echo $i > f$i; done && tar cf ../t.tar . && mkdir ../u && tar xf ../t.tar -C ../u && diff -r . ../u",
        );
        assert_eq!(sh(&dir, "ls u | wc -l").trim(), "200");
        sh(
            &dir,
            "rm -rf u t d && dd if=/dev/zero of=z bs=1M count=20 conv=fsync status=none && test $(stat -c %s z) = 20971520",
        );
        assert!(fs::read(dir.join("z")).unwrap().iter().all(|byte| *byte == 0));
    });
}

#[test]
fn metadata_calls_mean_what_they_do_elsewhere() {
    with_mounts(1, |world| {
        let dir = world.dir(0);
        fs::write(dir.join("f"), b"abc").unwrap();
        fs::hard_link(dir.join("f"), dir.join("g")).unwrap();
        assert_eq!(fs::metadata(dir.join("f")).unwrap().nlink(), 2);
        symlink("f", dir.join("l")).unwrap();
        assert_eq!(fs::read(dir.join("l")).unwrap(), b"abc");
        fs::set_permissions(dir.join("f"), fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(fs::metadata(dir.join("g")).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(fs::create_dir(dir.join("f")).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(dir.join("f/x")).unwrap_err().kind(), ErrorKind::NotADirectory);
        let long = "n".repeat(256);
        assert_eq!(fs::write(dir.join(&long), b"").unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
        fs::write(dir.join(&long[..255]), b"").unwrap();
        fs::create_dir(dir.join("d")).unwrap();
        fs::create_dir(dir.join("d/e")).unwrap();
        assert_eq!(fs::metadata(dir.join("d")).unwrap().nlink(), 3);
        assert_eq!(fs::remove_dir(dir.join("d")).unwrap_err().raw_os_error(), Some(libc::ENOTEMPTY));
        assert_eq!(
            fs::rename(dir.join("d"), dir.join("d/e/d")).unwrap_err().raw_os_error(),
            Some(libc::EINVAL)
        );
        let cwd = rustix::fs::CWD;
        let exchange = rustix::fs::RenameFlags::EXCHANGE;
        renameat_with(cwd, dir.join("f"), cwd, dir.join("d"), exchange).unwrap();
        assert!(fs::metadata(dir.join("f")).unwrap().is_dir());
        sh(&dir, "mkfifo p && touch -d @1000000000 g");
        assert!(fs::metadata(dir.join("p")).unwrap().file_type().is_fifo());
        assert_eq!(fs::metadata(dir.join("g")).unwrap().mtime(), 1_000_000_000);
        let stat = rustix::fs::statvfs(&dir).unwrap();
        assert!(stat.f_bfree > 0 && stat.f_namemax == 255);
    });
}

#[test]
fn an_open_file_outlives_its_name() {
    with_mounts(1, |world| {
        let path = world.dir(0).join("f");
        let mut file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        file.write_all(b"still here").unwrap();
        fs::remove_file(&path).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "still here");
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        file.sync_all().unwrap();
    });
}

#[test]
fn direct_and_synchronous_files_work() {
    with_mounts(1, |world| {
        let path = world.dir(0).join("f");
        let flags = libc::O_DIRECT | libc::O_SYNC;
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(flags)
            .open(&path)
            .unwrap();
        // Any address will do for FUSE, which copies.
        file.write_all_at(&[7; 8192], 4096).unwrap();
        assert_eq!(world.vfs(0).unpublished_bytes(), 0);
        let mut bytes = [1; 12288];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes[..4096].iter().all(|b| *b == 0) && bytes[4096..].iter().all(|b| *b == 7));
    });
}

#[test]
fn holes_are_found_and_xattrs_kept() {
    with_mounts(1, |world| {
        let path = world.dir(0).join("f");
        let file = fs::File::create_new(&path).unwrap();
        file.write_all_at(&[1; 4096], 1 << 20).unwrap();
        let seek = |at, whence| {
            // SAFETY: the descriptor is open; the call takes numbers alone.
            unsafe { libc::lseek(file.as_raw_fd(), at, whence) }
        };
        assert_eq!(seek(0, libc::SEEK_DATA), 1 << 20);
        assert_eq!(seek(0, libc::SEEK_HOLE), 0);
        assert_eq!(seek(1 << 20, libc::SEEK_HOLE), (1 << 20) + 4096);
        assert_eq!(file.metadata().unwrap().blocks(), 8);
        let mut value = [0u8; 64];
        rustix::fs::setxattr(&path, "user.k", b"v", XattrFlags::CREATE).unwrap();
        assert_eq!(rustix::fs::getxattr(&path, "user.k", &mut value[..]).unwrap(), 1);
        let usage = rustix::fs::getxattr(world.dir(0), "curve.dir.rentries", &mut value[..]).unwrap();
        assert_eq!(&value[..usage], b"1");
        rustix::fs::removexattr(&path, "user.k").unwrap();
        let gone = rustix::fs::getxattr(&path, "user.k", &mut value[..]);
        assert_eq!(gone.err(), Some(rustix::io::Errno::NODATA));
    });
}

#[test]
fn two_mounts_see_each_other_at_open() {
    with_mounts(2, |world| {
        let (a, b) = (world.dir(0).join("f"), world.dir(1).join("f"));
        for round in 0..200u32 {
            let text = format!("{round} {}", "x".repeat((round as usize * 37) % 9000));
            let (from, to) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
            fs::write(from, &text).unwrap();
            assert_eq!(fs::read_to_string(to).unwrap(), text);
        }
    });
}

#[test]
fn appends_of_two_mounts_are_all_kept() {
    with_mounts(2, |world| {
        let append = |mount: usize| {
            fs::OpenOptions::new().append(true).create(true).open(world.dir(mount).join("log")).unwrap()
        };
        let (one, two) = (append(0), append(1));
        std::thread::scope(|scope| {
            for (who, mut file) in [("one", one), ("two", two)] {
                scope.spawn(move || {
                    for i in 0..500 {
                        file.write_all(format!("{who} {i}\n").as_bytes()).unwrap();
                    }
                });
            }
        });
        let text = fs::read_to_string(world.dir(0).join("log")).unwrap();
        for who in ["one", "two"] {
            let lines: Vec<String> =
                text.lines().filter(|line| line.starts_with(who)).map(String::from).collect();
            let expected: Vec<String> = (0..500).map(|i| format!("{who} {i}")).collect();
            assert_eq!(lines, expected);
        }
    });
}

#[test]
fn locks_exclude_across_mounts() {
    with_mounts(2, |world| {
        let open = |mount: usize| {
            fs::OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(world.dir(mount).join("f"))
                .unwrap()
        };
        let (one, two) = (open(0), open(1));
        fcntl_lock(&one, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert!(fcntl_lock(&two, FlockOperation::NonBlockingLockShared).is_err());
        let waits = std::thread::spawn(move || {
            fcntl_lock(&two, FlockOperation::LockExclusive).unwrap();
            two
        });
        std::thread::sleep(Duration::from_millis(50));
        assert!(!waits.is_finished());
        drop(one);
        drop(waits.join().unwrap());
        let (one, two) = (open(0), open(1));
        flock(&one, FlockOperation::LockExclusive).unwrap();
        assert!(flock(&two, FlockOperation::NonBlockingLockExclusive).is_err());
        flock(&one, FlockOperation::Unlock).unwrap();
        flock(&two, FlockOperation::NonBlockingLockExclusive).unwrap();
    });
}

#[test]
fn whoever_waits_for_a_lock_can_be_killed() {
    with_mounts(1, |world| {
        let path = world.dir(0).join("f");
        let file = fs::File::create_new(&path).unwrap();
        flock(&file, FlockOperation::LockExclusive).unwrap();
        let mut waiter = Command::new("flock").arg(&path).arg("true").spawn().unwrap();
        std::thread::sleep(Duration::from_millis(200));
        assert!(waiter.try_wait().unwrap().is_none());
        waiter.kill().unwrap();
        assert!(!waiter.wait().unwrap().success());
        // Its timer interrupts the call by a signal that it handles.
        let mut timed = Command::new("flock");
        timed.args(["--wait", "0.3", "--conflict-exit-code", "7"]).arg(&path).arg("true");
        assert_eq!(timed.status().unwrap().code(), Some(7));
    });
}

#[test]
fn large_directories_are_listed_whole() {
    with_mounts(1, |world| {
        let dir = world.dir(0);
        for i in 0..2500 {
            fs::write(dir.join(format!("f{i}")), b"").unwrap();
        }
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2500);
        let sizes = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
        assert_eq!(sizes.sum::<u64>(), 0);
        sh(&dir, "rm -f f*1* && find . -name 'f*' -delete");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    });
}
