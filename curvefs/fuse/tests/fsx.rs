//! Random operations on a mounted file, mapped memory among them, against a buffer.
//!
//! `FSX_OPS` sets how many, `FSX_SEED` repeats a run.

mod support;

use std::time::Duration;

use curve_harness::fsx;
use curvefs_types::MountOptions;
use support::World;

fn run(mounts: usize, ops: u64, options: &MountOptions) {
    let Some(world) = World::mounted(mounts, options) else { return };
    let dirs: Vec<_> = (0..mounts).map(|mount| world.dir(mount)).collect();
    fsx::run("exerciser", &dirs, ops, Duration::from_secs(600));
    world.end();
}

#[test]
#[ignore = "run by the others, in a process of its own"]
fn exerciser() {
    fsx::exerciser();
}

#[test]
fn one_mount() {
    run(1, 20_000, &MountOptions::default());
}

#[test]
fn two_mounts_take_turns() {
    run(2, 4_000, &MountOptions::default());
}

#[test]
fn little_memory() {
    let options =
        MountOptions { write_cache_bytes: 1 << 20, read_cache_bytes: 256 << 10, ..MountOptions::default() };
    run(1, 3_000, &options);
}
