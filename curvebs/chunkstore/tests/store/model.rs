//! Random changes, syncs, crashes and replays against a model: after a crash and the replay of what the owner's marker
//! does not cover, every block is what the model says. A second replica catches up by difference now and then. Large
//! writes are placed before they are logged; what is logged may be truncated before it is applied.

use std::time::Duration;

use bytes::Bytes;
use curve_chunkstore::{Append, ChunkStore, CopysetStore, PlacedRun, block_crc};
use curve_io::sim::{SimDisk, SimDiskConfig};
use curve_types::{ChunkKey, CopysetId, LogIndex, VolumeId};
use proptest::prelude::{Just, Strategy, any, prop, prop_oneof, proptest};
use proptest::test_runner::Config;

use crate::support::{
    BLOCK, BLOCKS, Content, assert_content, block, catch_up, key, open, read_both_ways, run,
};

const COPYSETS: usize = 2;
const MARKER: &str = "applied";

/// A change in the log.
#[derive(Clone, Debug)]
enum Change {
    Write { key: ChunkKey, first: u32, seeds: Vec<u64> },
    Discard { key: ChunkKey, first: u32, blocks: u32 },
    Zeroes { key: ChunkKey, first: u32, blocks: u32, keep: bool },
    DeleteChunk(ChunkKey),
    DeleteVolume(u64),
}

/// What happens to the machine.
#[derive(Clone, Debug)]
enum Event {
    Apply(usize, Change),
    /// Changes are logged; of those only so many stay, which are applied, perhaps after a crash only.
    Log {
        copyset: usize,
        changes: Vec<Change>,
        kept: usize,
        crash: bool,
    },
    Sync(usize),
    /// The sync's future is dropped after so many microseconds.
    CancelledSync(usize, u64),
    /// Changes arrive while a sync runs.
    BusySync(usize, Vec<Change>),
    Crash,
    Kill,
    Maintain,
    Forget(usize),
    CatchUp {
        crash_after: bool,
    },
    RemoveOther,
}

fn keys() -> impl Strategy<Value = ChunkKey> {
    (1u64..3, 0u32..3).prop_map(|(volume, index)| key(volume, index))
}

fn ranges() -> impl Strategy<Value = (u32, u32)> {
    prop_oneof![
        6 => (0..BLOCKS).prop_flat_map(|first| (Just(first), 1..=(BLOCKS - first).min(6))),
        2 => Just((0, BLOCKS)),
        2 => Just((0, BLOCKS / 2)),
        2 => Just((BLOCKS / 2, BLOCKS / 2)),
        1 => Just((BLOCKS / 4, BLOCKS - BLOCKS / 4)),
    ]
}

fn changes() -> impl Strategy<Value = Change> {
    prop_oneof![
        8 => (keys(), ranges(), any::<u64>()).prop_map(|(key, (first, blocks), seed)| {
            let seeds = (0..u64::from(blocks)).map(|n| if seed % 7 == 0 { 0 } else { seed.wrapping_add(n) }).collect();
            Change::Write { key, first, seeds }
        }),
        2 => (keys(), ranges()).prop_map(|(key, (first, blocks))| Change::Discard { key, first, blocks }),
        1 => (keys(), ranges(), any::<bool>())
            .prop_map(|(key, (first, blocks), keep)| Change::Zeroes { key, first, blocks, keep }),
        1 => keys().prop_map(Change::DeleteChunk),
        1 => (1u64..3).prop_map(Change::DeleteVolume),
    ]
}

fn events() -> impl Strategy<Value = Event> {
    let copyset = 0..COPYSETS;
    prop_oneof![
        16 => (copyset.clone(), changes()).prop_map(|(copyset, change)| Event::Apply(copyset, change)),
        4 => (copyset.clone(), prop::collection::vec(changes(), 1..5), 0usize..5, any::<bool>()).prop_map(
            |(copyset, changes, kept, crash)| Event::Log { copyset, changes, kept, crash }
        ),
        5 => copyset.clone().prop_map(Event::Sync),
        2 => (copyset.clone(), 0u64..6000).prop_map(|(copyset, micros)| Event::CancelledSync(copyset, micros)),
        2 => (copyset.clone(), prop::collection::vec(changes(), 1..6))
            .prop_map(|(copyset, changes)| Event::BusySync(copyset, changes)),
        2 => Just(Event::Crash),
        1 => Just(Event::Kill),
        1 => Just(Event::Maintain),
        1 => copyset.prop_map(Event::Forget),
        2 => any::<bool>().prop_map(|crash_after| Event::CatchUp { crash_after }),
        1 => Just(Event::RemoveOther),
    ]
}

/// A change as it is in the log.
#[derive(Clone, Debug)]
struct Logged {
    change: Change,
    /// What of it was placed, and the rest.
    placed: Option<(Vec<PlacedRun>, Vec<Bytes>)>,
}

/// One copyset's truth.
#[derive(Default)]
struct Truth {
    log: Vec<Logged>,
    /// How much of the log is applied.
    applied: usize,
    content: Content,
    /// The last marker that was saved.
    marker: u64,
}

impl Truth {
    fn note(&mut self, change: &Change) {
        let content = &mut self.content;
        match change {
            Change::Write { key, first, seeds } => {
                content.extend(seeds.iter().enumerate().map(|(n, seed)| ((*key, first + n as u32), *seed)));
            }
            Change::Discard { key, first, blocks } | Change::Zeroes { key, first, blocks, .. } => {
                content.retain(|(k, b), _| k != key || !(*first..first + blocks).contains(b));
            }
            Change::DeleteChunk(key) => content.retain(|(k, _), _| k != key),
            Change::DeleteVolume(volume) => content.retain(|(k, _), _| k.volume != VolumeId(*volume)),
        }
    }
}

fn append(change: &Change) -> Append {
    match change {
        Change::Write { key, first, seeds } => {
            Append::Write { key: *key, offset: first * BLOCK, len: seeds.len() as u32 * BLOCK }
        }
        Change::Discard { key, .. } | Change::Zeroes { key, .. } | Change::DeleteChunk(key) => {
            Append::Clear(*key)
        }
        Change::DeleteVolume(volume) => Append::ClearVolume(VolumeId(*volume)),
    }
}

fn payload(change: &Change) -> Vec<Bytes> {
    match change {
        Change::Write { seeds, .. } => seeds.iter().map(|seed| block(*seed)).collect(),
        _ => Vec::new(),
    }
}

/// Appends a change: places it, if it is to be, and returns what the log holds.
async fn log(copyset: &CopysetStore, change: &Change, index: u64) -> Logged {
    let payload = payload(change);
    let plan = copyset.note_append(LogIndex(index), [append(change)].into_iter());
    let placed = match plan {
        Some(plan) => copyset.place(plan, |_| &payload[..]).await.unwrap(),
        None => None,
    };
    let placed = placed.and_then(|ops| ops.into_iter().next()).map(|(_, runs, rest)| (runs, rest));
    Logged { change: change.clone(), placed }
}

/// Applies from memory: the place is remembered, the payload at hand.
fn apply(copyset: &CopysetStore, logged: &Logged, index: u64) {
    if let Change::Write { key, first, seeds } = &logged.change {
        let payload = payload(&logged.change);
        let taken = copyset.take_placed(LogIndex(index), 0, first * BLOCK, &payload);
        assert_eq!(taken, logged.placed);
        match taken {
            Some(_) => replay(copyset, logged, index),
            None => crate::support::write(copyset, *key, *first, seeds, index),
        }
    } else {
        replay(copyset, logged, index);
    }
    copyset.note_applied(LogIndex(index));
}

/// Applies from the log alone.
fn replay(copyset: &CopysetStore, logged: &Logged, index: u64) {
    let at = LogIndex(index);
    match &logged.change {
        Change::Write { key, first, .. } if logged.placed.is_some() => {
            let (runs, rest) = logged.placed.as_ref().unwrap();
            let crcs: Vec<_> = payload(&logged.change).iter().map(|block| block_crc(block)).collect();
            copyset.write_placed(*key, first * BLOCK, runs, rest, &crcs, at).unwrap();
        }
        Change::Write { key, first, seeds } => crate::support::write(copyset, *key, *first, seeds, index),
        Change::Discard { key, first, blocks } => {
            copyset.discard(*key, first * BLOCK, blocks * BLOCK, at).unwrap()
        }
        Change::Zeroes { key, first, blocks, keep } => {
            copyset.write_zeroes(*key, first * BLOCK, blocks * BLOCK, *keep, at).unwrap();
        }
        Change::DeleteChunk(key) => copyset.delete_chunk(*key, at).unwrap(),
        Change::DeleteVolume(volume) => copyset.delete_volume(VolumeId(*volume), at).unwrap(),
    }
}

/// A machine with one disk and two copysets, and a second machine with a replica of the first copyset.
struct World {
    disk: SimDisk,
    store: std::sync::Arc<ChunkStore>,
    truth: [Truth; COPYSETS],
    replica_disk: SimDisk,
    replica: std::sync::Arc<ChunkStore>,
    replica_applied: u64,
}

fn id(copyset: usize) -> CopysetId {
    CopysetId(copyset as u32 + 1)
}

fn disk(seed: u64) -> SimDisk {
    let delay = Duration::from_micros(100)..Duration::from_micros(900);
    SimDisk::new(SimDiskConfig { seed, sync_delay: delay, ..SimDiskConfig::default() })
}

impl World {
    async fn new(seed: u64) -> Self {
        let (disk, replica_disk) = (disk(seed), disk(seed ^ 1));
        let (store, replica) = (open(&disk).await, open(&replica_disk).await);
        for copyset in 0..COPYSETS {
            store.create_copyset(id(copyset)).await.unwrap().begin_appends(LogIndex(0));
        }
        replica.create_copyset(id(0)).await.unwrap();
        Self { disk, store, truth: Default::default(), replica_disk, replica, replica_applied: 0 }
    }

    async fn apply(&mut self, copyset: usize, change: &Change) {
        self.log(copyset, change).await;
        self.apply_logged(copyset);
    }

    async fn log(&mut self, copyset: usize, change: &Change) {
        let truth = &mut self.truth[copyset];
        let index = truth.log.len() as u64 + 1;
        truth.log.push(log(&self.store.copyset(id(copyset)).unwrap(), change, index).await);
    }

    fn apply_logged(&mut self, copyset: usize) {
        let truth = &mut self.truth[copyset];
        let store = self.store.copyset(id(copyset)).unwrap();
        while truth.applied < truth.log.len() {
            let logged = truth.log[truth.applied].clone();
            truth.applied += 1;
            truth.note(&logged.change);
            apply(&store, &logged, truth.applied as u64);
        }
    }

    async fn save_marker(&mut self, copyset: usize, marker: u64) {
        let store = self.store.copyset(id(copyset)).unwrap();
        store.save_record(MARKER, &marker.to_le_bytes()).await.unwrap();
        store.note_checkpoint(LogIndex(marker));
        self.truth[copyset].marker = marker;
    }

    /// After a restart: the log is applied again from the marker on.
    async fn replay(&mut self) {
        self.store = open(&self.disk).await;
        assert_eq!(self.store.damaged_copysets(), []);
        for (copyset, truth) in self.truth.iter_mut().enumerate() {
            let store = self.store.copyset(id(copyset)).unwrap();
            let marker = match store.load_record(MARKER).await.unwrap() {
                Some(bytes) => u64::from_le_bytes(bytes[..].try_into().unwrap()),
                None => 0,
            };
            assert_eq!(marker, truth.marker);
            store.begin_appends(LogIndex(marker));
            for (n, logged) in truth.log.clone().iter().enumerate().skip(marker as usize) {
                if n >= truth.applied {
                    truth.note(&logged.change);
                }
                replay(&store, logged, n as u64 + 1);
            }
            truth.applied = truth.log.len();
            store.note_applied(LogIndex(truth.log.len() as u64));
        }
    }

    async fn catch_up(&mut self, crash_after: bool) {
        let from = self.store.copyset(id(0)).unwrap();
        let to = self.replica.copyset(id(0)).unwrap();
        catch_up(&from, &to, self.replica_applied).await;
        if crash_after {
            self.replica_disk.crash();
            self.replica = open(&self.replica_disk).await;
            assert_eq!(self.replica.damaged_copysets(), []);
            let to = self.replica.copyset(id(0)).unwrap();
            catch_up(&from, &to, self.replica_applied).await;
        }
        let to = self.replica.copyset(id(0)).unwrap();
        to.sync().await.unwrap();
        self.replica_applied = self.truth[0].log.len() as u64;
        check(&to, &self.truth[0].content).await;
        for (volume, index) in [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)] {
            let (ours, theirs) = (from.digest(key(volume, index)).await, to.digest(key(volume, index)).await);
            assert_eq!(ours.unwrap().hash, theirs.unwrap().hash, "{volume}/{index}");
        }
    }

    async fn step(&mut self, event: Event) {
        match event {
            Event::Apply(copyset, change) => self.apply(copyset, &change).await,
            Event::Log { copyset, changes, kept, crash } => {
                for change in &changes {
                    self.log(copyset, change).await;
                }
                let kept = self.truth[copyset].applied + kept;
                self.truth[copyset].log.truncate(kept);
                if crash {
                    self.disk.crash();
                    self.replay().await;
                }
                self.apply_logged(copyset);
            }
            Event::Sync(copyset) => {
                let applied = self.truth[copyset].log.len() as u64;
                self.store.copyset(id(copyset)).unwrap().sync().await.unwrap();
                self.save_marker(copyset, applied).await;
            }
            Event::CancelledSync(copyset, micros) => {
                let store = self.store.copyset(id(copyset)).unwrap();
                if let Ok(synced) = tokio::time::timeout(Duration::from_micros(micros), store.sync()).await {
                    synced.unwrap();
                }
            }
            Event::BusySync(copyset, changes) => {
                let applied = self.truth[copyset].log.len() as u64;
                let store = self.store.copyset(id(copyset)).unwrap();
                let busy = async {
                    for change in &changes {
                        tokio::time::sleep(Duration::from_micros(300)).await;
                        self.apply(copyset, change).await;
                    }
                };
                tokio::join!(store.sync(), busy).0.unwrap();
                self.save_marker(copyset, applied).await;
            }
            Event::Crash => {
                self.disk.crash();
                self.replay().await;
            }
            Event::Kill => {
                self.disk.detach();
                self.replay().await;
            }
            Event::Maintain => {
                // Long enough for room that large writes left behind to be given back.
                tokio::time::sleep(Duration::from_secs(700)).await;
                self.store.maintain().await.unwrap();
            }
            Event::Forget(copyset) => {
                let store = self.store.copyset(id(copyset)).unwrap();
                store.forget_deletions(LogIndex(self.truth[copyset].log.len() as u64 / 2));
            }
            Event::CatchUp { crash_after } => self.catch_up(crash_after).await,
            Event::RemoveOther => {
                self.store.remove_copyset(id(1)).await.unwrap();
                self.store.create_copyset(id(1)).await.unwrap().begin_appends(LogIndex(0));
                self.truth[1] = Truth::default();
            }
        }
    }
}

async fn check(store: &CopysetStore, content: &Content) {
    for volume in 1..3 {
        for index in 0..3 {
            let key = key(volume, index);
            assert_content(&read_both_ways(store, key).await, key, content);
        }
    }
    let report = store.scrub_step(None, u64::MAX).await.unwrap();
    assert!(report.bad.is_empty() && report.next.is_none());
}

/// What was placed is found as it was, or known to be gone.
async fn check_placed(store: &CopysetStore, log: &[Logged]) {
    for Logged { change, placed } in log.iter().rev().take(20) {
        let (Change::Write { key, first, .. }, Some((runs, rest))) = (change, placed) else { continue };
        let blocks = payload(change);
        let crcs: Vec<_> = blocks.iter().map(|block| block_crc(block)).collect();
        let found = store.read_placed(*key, first * BLOCK, runs, rest, &crcs).await.unwrap();
        assert!(found.is_none_or(|found| found.concat() == blocks.concat()));
    }
}

async fn live_through(seed: u64, events: Vec<Event>) {
    let mut world = World::new(seed).await;
    for event in events {
        let checked = !matches!(event, Event::Apply(..));
        world.step(event).await;
        for copyset in (0..COPYSETS).filter(|_| checked) {
            let store = world.store.copyset(id(copyset)).unwrap();
            check(&store, &world.truth[copyset].content).await;
            check_placed(&store, &world.truth[copyset].log).await;
        }
    }
    world.disk.crash();
    world.replay().await;
    world.catch_up(false).await;
}

/// Enough to find most mistakes; `PROPTEST_CASES` has it look longer.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(64)
}

proptest! {
    #![proptest_config(Config { cases: cases(), failure_persistence: None, ..Config::default() })]
    #[test]
    fn the_store_equals_its_model(seed in any::<u64>(), events in prop::collection::vec(events(), 1..70)) {
        run(live_through(seed, events));
    }
}

/// The replica has missed that the volume was deleted, and is told only that the chunk was made again.
#[test]
fn a_chunk_made_again_after_its_volume_was_deleted_replaces_what_a_replica_has() {
    let apply = |change| Event::Apply(0, change);
    run(live_through(
        0,
        vec![
            apply(Change::Write { key: key(2, 0), first: 0, seeds: vec![1] }),
            Event::CatchUp { crash_after: false },
            apply(Change::DeleteVolume(2)),
            apply(Change::Zeroes { key: key(2, 0), first: 16, blocks: 16, keep: true }),
            apply(Change::Write { key: key(1, 0), first: 0, seeds: vec![2] }),
            Event::Forget(0),
            Event::CatchUp { crash_after: false },
        ],
    ));
}

#[test]
fn two_runs_of_a_seed_do_the_same_io() {
    let stats = || {
        run(async {
            let mut world = World::new(7).await;
            for n in 0..200u64 {
                let seeds = vec![n; 1 + n as usize % 4];
                world
                    .apply(0, &Change::Write { key: key(1, n as u32 % 40), first: n as u32 % 28, seeds })
                    .await;
                if n % 17 == 0 {
                    world.step(Event::Sync(0)).await;
                }
                if n % 60 == 59 {
                    world.step(Event::Crash).await;
                }
            }
            (world.disk.stats(), world.disk.files())
        })
    };
    assert_eq!(stats(), stats());
    assert_ne!(block(1), block(2));
}
