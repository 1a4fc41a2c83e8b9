//! Random operations on a file through two mounts, against a plain vector of bytes.

mod support;

use curvefs_types::{InodeId, MountOptions};
use curvefs_vfs::{OpenMode, Space, Vfs};
use proptest::prelude::*;
use support::{ROOT, RW, World, close, name, root, strict};

const LENGTH_MAX: u64 = 40_000;

#[derive(Clone, Debug)]
enum Step {
    Write { at: u64, len: u64, byte: u8 },
    Append { len: u64, byte: u8 },
    Read { at: u64, len: u64 },
    Truncate { length: u64 },
    Punch { at: u64, len: u64 },
    Allocate { at: u64, len: u64, keep_size: bool },
    Copy { from: u64, to: u64, len: u64 },
    Fsync,
    Reopen,
    Switch,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let at = || 0..LENGTH_MAX;
    let len = || prop_oneof![1..20u64, 1..9000u64];
    let step = prop_oneof![
        6 => (at(), len(), 1u8..).prop_map(|(at, len, byte)| Step::Write { at, len, byte }),
        3 => (len(), 1u8..).prop_map(|(len, byte)| Step::Append { len, byte }),
        6 => (at(), len()).prop_map(|(at, len)| Step::Read { at, len }),
        2 => at().prop_map(|length| Step::Truncate { length }),
        2 => (at(), len()).prop_map(|(at, len)| Step::Punch { at, len }),
        1 => (at(), len(), any::<bool>()).prop_map(|(at, len, keep_size)| Step::Allocate { at, len, keep_size }),
        1 => (at(), at(), len()).prop_map(|(from, to, len)| Step::Copy { from, to, len }),
        2 => Just(Step::Fsync),
        1 => Just(Step::Reopen),
        1 => Just(Step::Switch),
    ];
    prop::collection::vec(step, 1..80)
}

/// The file as bytes, and as it is open now.
struct Run {
    mounts: [Vfs; 2],
    current: usize,
    inode: InodeId,
    plain: u64,
    append: u64,
    model: Vec<u8>,
}

impl Run {
    async fn new(world: &World) -> Self {
        // Little memory, so that budgets and caches are felt.
        let small = MountOptions { write_cache_bytes: 16 << 10, read_cache_bytes: 16 << 10, ..strict() };
        let mounts = [world.mount_as(small.clone()).0, world.mount_as(small).0];
        let (entry, opened) = mounts[0].create(ROOT, name("f"), 0o644, (RW, true), root()).await.unwrap();
        close(&mounts[0], opened.handle).await.unwrap();
        let mut run =
            Self { mounts, current: 0, inode: entry.attr.inode, plain: 0, append: 0, model: Vec::new() };
        run.open().await;
        run
    }

    fn vfs(&self) -> &Vfs {
        &self.mounts[self.current]
    }

    async fn open(&mut self) {
        self.plain = self.vfs().open(self.inode, RW).await.unwrap().handle;
        self.append = self.vfs().open(self.inode, OpenMode { append: true, ..RW }).await.unwrap().handle;
    }

    async fn close(&mut self) {
        close(self.vfs(), self.plain).await.unwrap();
        close(self.vfs(), self.append).await.unwrap();
    }

    fn grow(&mut self, length: u64) {
        let length = self.model.len().max(length as usize);
        self.model.resize(length, 0);
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Write { at, len, byte } => {
                self.vfs().write(self.plain, at, vec![byte; len as usize], false).await.unwrap();
                self.grow(at + len);
                self.model[at as usize..(at + len) as usize].fill(byte);
            }
            Step::Append { len, byte } => {
                self.vfs().write(self.append, 0, vec![byte; len as usize], false).await.unwrap();
                self.grow(self.model.len() as u64 + len);
                let end = self.model.len();
                self.model[end - len as usize..].fill(byte);
            }
            Step::Read { at, len } => self.check(at, len).await,
            Step::Truncate { length } => {
                let (attr, _) = self.vfs().truncate(self.inode, length, false).await.unwrap();
                assert_eq!(attr.length, length);
                self.model.resize(length as usize, 0);
            }
            Step::Punch { at, len } => {
                self.vfs().fallocate(self.plain, at, len, Space::Punch).await.unwrap();
                let end = self.model.len();
                self.model[(at as usize).min(end)..((at + len) as usize).min(end)].fill(0);
            }
            Step::Allocate { at, len, keep_size } => {
                self.vfs().fallocate(self.plain, at, len, Space::Allocate { keep_size }).await.unwrap();
                if !keep_size {
                    self.grow(at + len);
                }
            }
            Step::Copy { from, to, len } => self.copy(from, to, len).await,
            Step::Fsync => self.vfs().fsync(self.plain).await.unwrap(),
            Step::Reopen => {
                self.close().await;
                self.open().await;
            }
            Step::Switch => {
                self.close().await;
                self.current = 1 - self.current;
                self.open().await;
            }
        }
    }

    async fn copy(&mut self, from: u64, to: u64, len: u64) {
        let overlaps = from < to + len && to < from + len;
        if overlaps {
            return;
        }
        let copied = self.vfs().copy_range((self.plain, from), (self.plain, to), len).await.unwrap();
        let there = (self.model.len() as u64).saturating_sub(from).min(len);
        assert_eq!(copied, there);
        if copied > 0 {
            self.grow(to + copied);
            self.model.copy_within(from as usize..(from + copied) as usize, to as usize);
        }
    }

    async fn check(&self, at: u64, len: u64) {
        let bytes = self.vfs().read(self.plain, at, len as u32).await.unwrap();
        let end = self.model.len();
        let expected = &self.model[(at as usize).min(end)..((at + len) as usize).min(end)];
        assert!(bytes == expected, "{at}+{len}: {} bytes, expected {}", bytes.len(), expected.len());
    }

    async fn check_all(&self) {
        self.check(0, LENGTH_MAX * 10).await;
        let (attr, _) = self.vfs().get_attr(self.inode).await.unwrap();
        assert_eq!(attr.length, self.model.len() as u64);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn two_mounts_are_as_a_vector_of_bytes(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new().await;
            let mut run = Run::new(&world).await;
            for step in steps {
                run.step(step).await;
                run.check_all().await;
            }
            run.step(Step::Switch).await;
            run.check_all().await;
            run.close().await;
            // What is garbage is in no file any more: the bytes stay.
            world.fs.collect(&*world.data).await.unwrap();
            run.open().await;
            run.check_all().await;
        });
    }
}
