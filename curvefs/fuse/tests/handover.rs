//! A mount that another process goes on with: programs notice nothing.

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use curvefs_types::MountOptions;
use rustix::fs::{FlockOperation, fcntl_lock};
use support::World;

fn with_mounts(mounts: usize, test: impl FnOnce(&mut World)) {
    if let Some(mut world) = World::mounted(mounts, &MountOptions::default()) {
        test(&mut world);
        world.end();
    }
}

#[test]
fn a_session_that_was_stopped_goes_on() {
    with_mounts(1, |world| {
        let file = world.dir(0).join("f");
        for round in 0..20 {
            world.pause(0, || ());
            fs::write(&file, format!("{round}")).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), format!("{round}"));
        }
    });
}

#[test]
fn what_comes_while_nobody_serves_waits() {
    with_mounts(1, |world| {
        let file = world.dir(0).join("f");
        let (done, is_done) = mpsc::channel();
        let writing = std::thread::spawn({
            let file = file.clone();
            move || is_done.recv().map(|()| fs::write(&file, "late").unwrap())
        });
        world.replace(0, || {
            done.send(()).unwrap();
            std::thread::sleep(Duration::from_millis(100));
            assert!(!writing.is_finished());
        });
        writing.join().unwrap().unwrap();
        assert_eq!(fs::read_to_string(file).unwrap(), "late");
    });
}

#[test]
fn open_files_go_on_under_load() {
    with_mounts(2, |world| {
        let (dir, other) = (world.dir(0), world.dir(1));
        let mut held = File::create(dir.join("locked")).unwrap();
        held.write_all(b"before").unwrap();
        fcntl_lock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
        let mut gone = File::create_new(dir.join("gone")).unwrap();
        gone.write_all(b"still there").unwrap();
        fs::remove_file(dir.join("gone")).unwrap();
        let (ended, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let writers: Vec<_> = (0..4)
            .map(|who| {
                let (dir, ended, written) = (dir.clone(), ended.clone(), written.clone());
                std::thread::spawn(move || {
                    let path = dir.join(format!("log{who}"));
                    let mut log = OpenOptions::new().create(true).append(true).open(&path).unwrap();
                    let (mut number, mut longest) = (0u64, Duration::ZERO);
                    while !ended.load(Ordering::Relaxed) {
                        let begun = Instant::now();
                        log.write_all(format!("{number:08}\n").as_bytes()).unwrap();
                        if number.is_multiple_of(7) {
                            log.sync_data().unwrap();
                        }
                        longest = longest.max(begun.elapsed());
                        number += 1;
                        written.fetch_add(1, Ordering::Relaxed);
                    }
                    (path, number, longest)
                })
            })
            .collect();
        for _ in 0..10 {
            let before = written.load(Ordering::Relaxed);
            while written.load(Ordering::Relaxed) < before + 100 {
                std::thread::sleep(Duration::from_millis(1));
            }
            world.replace(0, || ());
            let mut text = String::new();
            gone.seek(SeekFrom::Start(0)).unwrap();
            // Not through a handle for writing only.
            let again = File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&gone)));
            again.unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "still there");
            let second = OpenOptions::new().write(true).open(other.join("locked")).unwrap();
            assert!(fcntl_lock(&second, FlockOperation::NonBlockingLockExclusive).is_err(), "it is locked");
        }
        ended.store(true, Ordering::Relaxed);
        for writer in writers {
            let (path, number, longest) = writer.join().unwrap();
            let expected: String = (0..number).map(|number| format!("{number:08}\n")).collect();
            assert!(fs::read_to_string(path).unwrap() == expected);
            println!("{number} appends, the longest took {longest:?}");
        }
        held.write_all_at(b"after.", 0).unwrap();
        drop(held);
        let second = OpenOptions::new().write(true).open(other.join("locked")).unwrap();
        fcntl_lock(&second, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert_eq!(fs::read(other.join("locked")).unwrap(), b"after.");
    });
}

#[test]
fn who_waits_for_a_lock_waits_on() {
    with_mounts(2, |world| {
        let (dir, other) = (world.dir(0), world.dir(1));
        let holder = File::create(other.join("lock")).unwrap();
        fcntl_lock(&holder, FlockOperation::NonBlockingLockExclusive).unwrap();
        let waiting = std::thread::spawn(move || {
            let file = OpenOptions::new().write(true).open(dir.join("lock")).unwrap();
            fcntl_lock(&file, FlockOperation::LockExclusive).unwrap();
            file.write_all_at(b"mine", 0).unwrap();
        });
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(50));
            world.replace(0, || std::thread::sleep(Duration::from_millis(20)));
            world.pause(0, || ());
            assert!(!waiting.is_finished());
        }
        fcntl_lock(&holder, FlockOperation::Unlock).unwrap();
        waiting.join().unwrap();
        assert_eq!(fs::read(other.join("lock")).unwrap(), b"mine");
    });
}
