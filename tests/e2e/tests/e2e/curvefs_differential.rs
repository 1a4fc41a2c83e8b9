//! Random system calls on a mounted CurveFS and on ext4, with the mount taken down, killed and made anew in between: every
//! answer agrees, and so does all that is there at the end.
//!
//! `CURVE_DIFFERENTIAL=10000` sequences are `make fs-posix`'s; a failing one is made small and printed.

use std::sync::{Arc, Mutex};

use curve_e2e::{Mounted, turn};
use curve_harness::differential::{Side, Step, steps};
use curve_harness::{FsMount, run};
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tokio::runtime::Handle;

use crate::curvefs::{Cluster, blocking, can_mount};

/// The mount under test and what it is compared with.
///
/// The mount ends before the servers that it needs, also when a test fails: fields are dropped in order.
struct Pair {
    mount: Option<FsMount>,
    cluster: Cluster,
    trusted: Mounted,
    runtime: Handle,
    sequence: u64,
    mounts: u64,
    calls: u64,
    refused: u64,
}

impl Pair {
    fn again(&mut self, crash: bool) {
        let mount = self.mount.take().expect("it is mounted");
        self.mounts += 1;
        self.runtime.block_on(async {
            if crash {
                mount.kill().await;
            } else {
                mount.unmount().await.unwrap_or_else(|error| panic!("{error}"));
            }
            self.mount = Some(self.cluster.mount("a").await);
        });
    }

    fn play(&mut self, steps: &[Step]) -> Result<(), TestCaseError> {
        self.sequence += 1;
        let name = self.sequence.to_string();
        let at = self.mount.as_ref().expect("it is mounted").dir().join(&name);
        let (mut tested, mut trusted) = (Side::new(at), Side::new(self.trusted.join(&name)));
        for (number, step) in steps.iter().enumerate() {
            match step {
                Step::Remount => {
                    tested.close();
                    trusted.close();
                    self.again(false);
                }
                Step::Crash => {
                    tested.sync();
                    self.again(true);
                    tested.close();
                    trusted.close();
                }
                _ => {}
            }
            let (found, expected) = (tested.apply(step), trusted.apply(step));
            self.calls += 1;
            self.refused += u64::from(expected.starts_with("errno"));
            if found != expected {
                return Err(TestCaseError::fail(format!(
                    "step {number}, {step:?}: {found}; on ext4: {expected}"
                )));
            }
        }
        tested.close();
        trusted.close();
        let (found, expected) =
            (tested.tree().expect("it can be read"), trusted.tree().expect("it can be read"));
        if found != expected {
            return Err(TestCaseError::fail(format!("at the end: {found:#?}; on ext4: {expected:#?}")));
        }
        let at = self.mount.as_ref().expect("it is mounted").dir().join(&name);
        for at in [self.trusted.join(&name), at] {
            let removed = std::fs::remove_dir_all(&at);
            removed.map_err(|error| TestCaseError::fail(format!("rm -r {}: {error}", at.display())))?;
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_mount_answers_as_ext4_does() {
    let _turn = turn("curvefs_differential").await;
    if !can_mount() {
        return;
    }
    let cases = std::env::var("CURVE_DIFFERENTIAL").ok().and_then(|cases| cases.parse().ok()).unwrap_or(150);
    let cluster = Cluster::start(&["--mds-set", "mount_lease = '3s'"]).await;
    let image = cluster.dir.path().join("ext4").display().to_string();
    run(60, "mkfs.ext4", &["-q", &image, "512M"]).await.unwrap_or_else(|error| panic!("{error}"));
    let (trusted, mount) = (Mounted::mount(&image).await, cluster.mount("a").await);
    let pair = Pair {
        cluster,
        mount: Some(mount),
        trusted,
        runtime: Handle::current(),
        sequence: 0,
        mounts: 1,
        calls: 0,
        refused: 0,
    };
    let mut pair = blocking(move || compare(pair, cases)).await;
    let Pair { sequence, mounts, calls, refused, .. } = pair;
    println!("{sequence} sequences, {mounts} mounts, {calls} calls, {refused} of them refused");
    assert!(refused > 0 && refused < calls * 3 / 4, "most calls have to mean something");
    let mount = pair.mount.take().expect("it is mounted");
    mount.unmount().await.unwrap_or_else(|error| panic!("{error}"));
    pair.trusted.unmount().await;
}

fn compare(pair: Pair, cases: u32) -> Pair {
    let config = Config { cases, max_shrink_iters: 400, failure_persistence: None, ..Config::default() };
    let pair = Arc::new(Mutex::new(pair));
    let mut runner = TestRunner::new(config);
    let ended = runner.run(&steps(1..100), |steps| pair.lock().expect("no test panics").play(&steps));
    let pair = Arc::into_inner(pair).expect("the runner has ended").into_inner().expect("no test panicked");
    if let Err(error) = ended {
        let log = pair.mount.as_ref().map(FsMount::log).unwrap_or_default();
        panic!("{error}\nlog of the mount:\n{}", log.lines().rev().take(20).collect::<Vec<_>>().join("\n"));
    }
    pair
}
