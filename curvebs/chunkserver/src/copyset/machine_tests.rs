//! The state machine over a chunk store on a disk that crashes, against a model that never does.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use curve_chunkstore::{ChunkStore, ChunkStoreConfig, block_crc};
use curve_io::BoxFuture;
use curve_io::sim::{SimDisk, SimDiskConfig, SimNetwork};
use curve_multiraft::{Applied, Op, SnapshotFetch, SnapshotPart, SnapshotSource, StateMachine};
use curve_node::PeerBook;
use curve_types::{
    ChunkKey, ClientId, CopysetId, Epoch, Geometry, LogIndex, NodeId, Sequence, Term, VolumeId,
};
use proptest::prelude::*;

use super::format::{Action, CopysetOp, Mutation, Outcome};
use super::replica::Replica;
use super::state_machine::CopysetMachine;
use crate::metrics::Metrics;
use crate::peers::Peers;

const COPYSET: CopysetId = CopysetId(1);
const BLOCK: usize = 4096;

struct Bed {
    disk: SimDisk,
    replica: Arc<Replica>,
    machine: CopysetMachine,
}

impl Bed {
    async fn open(disk: SimDisk) -> Self {
        let config = ChunkStoreConfig { pool_files: 0, reserve_bytes: 0, ..ChunkStoreConfig::default() };
        let store = ChunkStore::open(disk.mount(), Path::new("store"), config).await.unwrap();
        let copyset = store.create_copyset(COPYSET).await.unwrap();
        let network = SimNetwork::new(1).node("here");
        let peers = Peers::new(NodeId(1), network, Arc::new(PeerBook::default()));
        let replica = Replica::new(copyset, Geometry::default(), Arc::new(Metrics::default()), peers, None);
        let machine = CopysetMachine::open(replica.clone()).await.unwrap();
        Self { disk, replica, machine }
    }

    async fn new(seed: u64) -> Self {
        Self::open(SimDisk::new(SimDiskConfig { seed, ..SimDiskConfig::default() })).await
    }

    async fn crash(self) -> Self {
        self.disk.crash();
        let disk = self.disk.clone();
        drop(self);
        Self::open(disk).await
    }

    fn recovered_index(&self) -> usize {
        self.machine.recovered().map_or(0, |marker| text(&marker).parse().unwrap())
    }

    async fn apply(&mut self, index: usize, op: &Op) -> Outcome {
        let entry = Applied { index: LogIndex(index as u64), term: Term(1), ops: vec![op.clone()] };
        let results = self.machine.apply(vec![entry], index.to_string().into()).await.unwrap();
        Outcome::decode(&results[0][0]).unwrap()
    }

    /// Appends an operation to a log that does not hold what was placed: returns what it holds.
    async fn append(&self, index: usize, op: &Op) -> Op {
        let placer = self.machine.placer().unwrap();
        let len = op.payload.iter().map(Bytes::len).sum();
        let mut heads = [(op.header.clone(), len)].into_iter();
        let Some(place) = placer.append(LogIndex(index as u64), &mut heads) else { return op.clone() };
        place(vec![op.clone()]).await.unwrap().map_or(op.clone(), |mut ops| ops.remove(0))
    }

    async fn restore(&self, logged: &Op) -> Option<Op> {
        let restored = self.machine.placer().unwrap().restore(vec![logged.clone()]).await.unwrap();
        restored.map(|mut ops| ops.remove(0))
    }

    async fn block(&self, key: ChunkKey, block: u32) -> u8 {
        let data = self.replica.store().read(key, block * BLOCK as u32, BLOCK as u32).await.unwrap();
        let bytes = data.parts.concat();
        assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a block is one write");
        bytes[0]
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What the tests do, small enough for proptest to shrink.
#[derive(Clone, Copy, Debug)]
enum Step {
    Write {
        chunk: u32,
        block: u32,
        len: u32,
        fill: u8,
        client: u64,
        sequence: u64,
        epoch: u64,
    },
    Discard {
        chunk: u32,
        block: u32,
        len: u32,
        client: u64,
        sequence: u64,
        epoch: u64,
    },
    /// A comparison that the leader found to differ.
    Miscompare {
        chunk: u32,
        at: u32,
        client: u64,
        sequence: u64,
        epoch: u64,
    },
    Fence {
        epoch: u64,
    },
}

fn key(chunk: u32) -> ChunkKey {
    ChunkKey { volume: VolumeId(1), index: chunk }
}

fn op_of(step: Step) -> Op {
    let mutation = |chunk, block: u32, len: u32, client, sequence, epoch, action| Mutation {
        key: key(chunk),
        epoch: Epoch(epoch),
        client: ClientId(client),
        sequence: Sequence(sequence),
        answered_below: Sequence(0),
        offset: block * BLOCK as u32,
        len: len * BLOCK as u32,
        read_in: None,
        more: false,
        action,
    };
    match step {
        Step::Write { chunk, block, len, fill, client, sequence, epoch } => {
            let payload = Bytes::from(vec![fill; len as usize * BLOCK]);
            let crcs = vec![block_crc(&payload[..BLOCK]); len as usize];
            let op = CopysetOp::Mutation(mutation(chunk, block, len, client, sequence, epoch, Action::Write));
            Op { header: op.encode(&crcs), payload: vec![payload] }
        }
        Step::Discard { chunk, block, len, client, sequence, epoch } => {
            let op =
                CopysetOp::Mutation(mutation(chunk, block, len, client, sequence, epoch, Action::Discard));
            Op { header: op.encode(&[]), payload: Vec::new() }
        }
        Step::Miscompare { chunk, at, client, sequence, epoch } => {
            let action = Action::Miscompare { at };
            let op = CopysetOp::Mutation(mutation(chunk, 0, 1, client, sequence, epoch, action));
            Op { header: op.encode(&[]), payload: Vec::new() }
        }
        Step::Fence { epoch } => {
            let op = CopysetOp::Fence { volume: VolumeId(1), epoch: Epoch(epoch) };
            Op { header: op.encode(&[]), payload: Vec::new() }
        }
    }
}

/// The same meaning in a few lines, on memory that never forgets.
#[derive(Default)]
struct Model {
    fence: u64,
    /// By client and sequence: the highest epoch, and where a comparison differed.
    done: BTreeMap<(u64, u64), (u64, Option<u32>)>,
    blocks: BTreeMap<(u32, u32), u8>,
}

impl Model {
    fn apply(&mut self, step: Step) -> Outcome {
        let mut differs = None;
        let (chunk, block, len, fill, client, sequence, epoch) = match step {
            Step::Fence { epoch } => {
                if epoch > self.fence {
                    self.fence = epoch;
                    let done = std::mem::take(&mut self.done);
                    // A client is remembered as long as its highest epoch is accepted.
                    let highest = |client| {
                        done.iter()
                            .filter(|((c, _), _)| *c == client)
                            .map(|(_, (e, _))| *e)
                            .max()
                            .unwrap_or(0)
                    };
                    self.done = done
                        .iter()
                        .filter(|((c, _), _)| highest(*c) >= epoch)
                        .map(|(k, e)| (*k, *e))
                        .collect();
                }
                return Outcome::Applied;
            }
            Step::Write { chunk, block, len, fill, client, sequence, epoch } => {
                (chunk, block, len, fill, client, sequence, epoch)
            }
            Step::Discard { chunk, block, len, client, sequence, epoch } => {
                (chunk, block, len, 0, client, sequence, epoch)
            }
            Step::Miscompare { chunk, at, client, sequence, epoch } => {
                differs = Some(at);
                (chunk, 0, 0, 0, client, sequence, epoch)
            }
        };
        if epoch < self.fence {
            return Outcome::Fenced { held: Epoch(self.fence) };
        }
        let answer = |differs: Option<u32>| differs.map_or(Outcome::Applied, |at| Outcome::Differs { at });
        if let Some((highest, first)) = self.done.get_mut(&(client, sequence)) {
            *highest = (*highest).max(epoch);
            return answer(*first);
        }
        self.done.insert((client, sequence), (epoch, differs));
        for b in block..block + len {
            self.blocks.insert((chunk, b), fill);
        }
        answer(differs)
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let place = (0u32..2, 0u32..12, 1u32..4);
    let who = (1u64..3, 1u64..15);
    let large = (0u32..2, prop_oneof![Just(0u32), Just(16), 0u32..20], 16u32..40);
    let step = prop_oneof![
        6 => (large, who.clone(), 1u8..255).prop_map(|((chunk, block, len), (client, sequence), fill)| {
            Step::Write { chunk, block, len, fill, client, sequence, epoch: client }
        }),
        8 => (place.clone(), who.clone(), 1u8..255).prop_map(|((chunk, block, len), (client, sequence), fill)| {
            Step::Write { chunk, block, len, fill, client, sequence, epoch: client }
        }),
        2 => (0u32..2, 0u32..4096, who.clone()).prop_map(|(chunk, at, (client, sequence))| {
            Step::Miscompare { chunk, at, client, sequence, epoch: client }
        }),
        2 => (place, who).prop_map(|((chunk, block, len), (client, sequence))| {
            Step::Discard { chunk, block, len, client, sequence, epoch: client }
        }),
        1 => (1u64..3).prop_map(|epoch| Step::Fence { epoch }),
    ];
    proptest::collection::vec(step, 1..60)
}

async fn check_contents(bed: &Bed, model: &Model) {
    for chunk in 0..2 {
        for block in 0..64 {
            let expected = model.blocks.get(&(chunk, block)).copied().unwrap_or(0);
            assert_eq!(bed.block(key(chunk), block).await, expected, "chunk {chunk} block {block}");
        }
    }
}

/// Applies all steps; checkpoints after some, crashes after some, and replays from what was recovered. Each operation
/// must be decided as in a run without crashes, however often it is applied.
async fn run(seed: u64, steps: &[Step], checkpoints: &[usize], crashes: &[usize]) {
    let mut model = Model::default();
    let expected: Vec<Outcome> = steps.iter().map(|step| model.apply(*step)).collect();
    let mut bed = Bed::new(seed).await;
    let mut crashes = crashes.to_vec();
    let mut checkpointed = 0;
    let mut log: Vec<Op> = Vec::new();
    let mut at = 0;
    while at < steps.len() {
        at += 1;
        let outcome = match log.get(at - 1) {
            Some(logged) => bed.apply(at, logged).await,
            None => {
                let op = op_of(steps[at - 1]);
                log.push(bed.append(at, &op).await);
                bed.apply(at, &op).await
            }
        };
        assert_eq!(outcome, expected[at - 1], "operation {at} {:?}", steps[at - 1]);
        if checkpoints.contains(&at) {
            bed.machine.checkpoint().await.unwrap();
            checkpointed = at;
        }
        if let Some(i) = crashes.iter().position(|crash| *crash == at) {
            crashes.remove(i);
            bed = bed.crash().await;
            assert_eq!(bed.recovered_index(), checkpointed, "exactly what was checkpointed");
            at = checkpointed;
        }
    }
    check_contents(&bed, &model).await;
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(future);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn crashes_and_replays_change_nothing(
        seed in any::<u64>(),
        steps in steps(),
        checkpoints in proptest::collection::vec(1usize..60, 0..4),
        crashes in proptest::collection::vec(1usize..60, 0..4),
    ) {
        block_on(run(seed, &steps, &checkpoints, &crashes));
    }
}

/// A machine whose chunk 0 has 64 blocks that a checkpoint holds.
async fn with_a_chunk() -> Bed {
    let mut bed = Bed::new(9).await;
    let write = op_of(Step::Write { chunk: 0, block: 0, len: 64, fill: 1, client: 1, sequence: 1, epoch: 1 });
    assert_eq!(bed.append(1, &write).await, write, "there is no chunk yet");
    bed.apply(1, &write).await;
    bed.machine.checkpoint().await.unwrap();
    bed
}

#[test]
fn a_large_write_is_in_the_log_by_its_place_only() {
    block_on(async {
        let bed = with_a_chunk().await;
        let large = |sequence, fill, epoch| {
            op_of(Step::Write { chunk: 0, block: 8, len: 44, fill, client: 1, sequence, epoch })
        };
        let logged = bed.append(2, &large(2, 2, 1)).await;
        assert_eq!(logged.payload.concat().len(), (8 + 4) * BLOCK, "head and tail of less than an extent");
        let restored = bed.restore(&logged).await.unwrap();
        assert_eq!(restored.header, large(2, 2, 1).header);
        assert_eq!(restored.payload.concat(), large(2, 2, 1).payload.concat());
        let mut bed = bed.crash().await;
        assert_eq!(bed.block(key(0), 20).await, 1, "not applied");
        assert_eq!(bed.apply(2, &logged).await, Outcome::Applied);
        for (block, fill) in [(7, 1), (8, 2), (15, 2), (16, 2), (51, 2), (52, 1)] {
            assert_eq!(bed.block(key(0), block).await, fill);
        }
        let small = Step::Write { chunk: 0, block: 17, len: 1, fill: 3, client: 1, sequence: 3, epoch: 1 };
        bed.apply(3, &op_of(small)).await;
        assert_eq!(bed.restore(&logged).await, None, "overwritten in part");
    });
}

#[test]
fn a_large_write_that_is_refused_or_repeated_changes_nothing() {
    block_on(async {
        let mut bed = with_a_chunk().await;
        bed.append(2, &op_of(Step::Fence { epoch: 5 })).await;
        let old =
            op_of(Step::Write { chunk: 0, block: 0, len: 32, fill: 9, client: 1, sequence: 7, epoch: 1 });
        let logged = bed.append(3, &old).await;
        assert_ne!(logged, old, "it was placed, whatever becomes of it");
        bed.apply(2, &op_of(Step::Fence { epoch: 5 })).await;
        assert!(matches!(bed.apply(3, &old).await, Outcome::Fenced { .. }));
        assert_eq!(bed.block(key(0), 3).await, 1);
        let mut bed = bed.crash().await;
        bed.apply(2, &op_of(Step::Fence { epoch: 5 })).await;
        assert!(matches!(bed.apply(3, &logged).await, Outcome::Fenced { .. }));
        assert_eq!(bed.block(key(0), 3).await, 1);
    });
}

#[test]
fn a_checkpoint_that_was_not_finished_counts_for_nothing() {
    block_on(async {
        let write =
            |sequence, fill| Step::Write { chunk: 0, block: 0, len: 1, fill, client: 1, sequence, epoch: 1 };
        let mut bed = Bed::new(3).await;
        bed.apply(1, &op_of(write(1, 11))).await;
        bed.machine.checkpoint().await.unwrap();
        bed.apply(2, &op_of(write(2, 22))).await;
        drop(bed.machine.checkpoint());
        let mut bed = bed.crash().await;
        assert_eq!(bed.recovered_index(), 1);
        assert_eq!(bed.apply(2, &op_of(write(2, 22))).await, Outcome::Applied);
        assert_eq!(bed.block(key(0), 0).await, 22);
    });
}

#[test]
fn a_deleted_volume_is_gone_and_cannot_be_written() {
    block_on(async {
        let write = Step::Write { chunk: 0, block: 0, len: 1, fill: 7, client: 1, sequence: 1, epoch: 5 };
        let mut bed = Bed::new(4).await;
        bed.apply(1, &op_of(write)).await;
        let delete = CopysetOp::DeleteVolume { volume: VolumeId(1) }.encode(&[]);
        bed.apply(2, &Op { header: delete, payload: Vec::new() }).await;
        assert!(matches!(bed.apply(3, &op_of(write)).await, Outcome::Fenced { .. }));
        assert!(bed.replica.store().chunks().is_empty());
        assert!(bed.replica.fences().refused(VolumeId(1), ClientId(1), Epoch(5)).is_some());
    });
}

struct Direct {
    source: Arc<dyn SnapshotSource>,
    bytes: AtomicUsize,
}

impl SnapshotFetch for Direct {
    fn read(&self, request: Bytes) -> BoxFuture<'_, io::Result<SnapshotPart>> {
        Box::pin(async move {
            let part = self.source.read(request).await?;
            // What arrives over the network is one part.
            let payload = vec![Bytes::from(part.payload.concat())];
            self.bytes.fetch_add(payload[0].len(), Ordering::Relaxed);
            Ok(SnapshotPart { header: part.header, payload })
        })
    }
}

#[test]
fn a_replica_that_was_away_gets_only_what_changed() {
    block_on(async {
        let write = |chunk, block, len, fill, sequence| {
            op_of(Step::Write { chunk, block, len, fill, client: 1, sequence, epoch: 1 })
        };
        let mut leader = Bed::new(5).await;
        let mut follower = Bed::new(6).await;
        for i in 1..=16usize {
            let op = write(0, (i as u32 - 1) * 64, 64, 1, i as u64);
            leader.apply(i, &op).await;
            follower.apply(i, &op).await;
        }
        follower.machine.checkpoint().await.unwrap();
        leader.apply(17, &write(0, 3, 2, 9, 17)).await;
        leader.apply(18, &write(1, 0, 1, 8, 18)).await;
        leader.apply(19, &op_of(Step::Fence { epoch: 2 })).await;

        let source = leader.machine.snapshot().await.unwrap();
        // What is written while the snapshot travels may or may not travel with it; the log brings it anyway.
        leader
            .apply(20, &op_of(Step::Discard { chunk: 1, block: 5, len: 1, client: 2, sequence: 1, epoch: 2 }))
            .await;
        let fetch = Arc::new(Direct { source, bytes: AtomicUsize::new(0) });
        follower.machine.install(fetch.clone(), "19".into()).await.unwrap();
        let moved = fetch.bytes.load(Ordering::Relaxed);
        assert!(moved < 3 * (64 << 10), "{moved} bytes for three changed blocks of a 4 MiB chunk");

        let mut follower = follower.crash().await;
        assert_eq!(follower.recovered_index(), 19, "an installed snapshot is durable");
        let fences: Vec<_> = follower.machine.volumes().fences().map(|(_, fence)| fence.lowest).collect();
        assert_eq!(fences, [Epoch(2)]);
        follower
            .apply(20, &op_of(Step::Discard { chunk: 1, block: 5, len: 1, client: 2, sequence: 1, epoch: 2 }))
            .await;
        for (chunk, block) in [(0, 2), (0, 3), (0, 4), (0, 5), (0, 1023), (1, 0), (1, 1), (1, 5)] {
            assert_eq!(follower.block(key(chunk), block).await, leader.block(key(chunk), block).await);
        }
        for chunk in 0..2 {
            let (ours, theirs) = (follower.replica.store(), leader.replica.store());
            let (ours, theirs) =
                (ours.digest(key(chunk)).await.unwrap(), theirs.digest(key(chunk)).await.unwrap());
            assert_eq!((ours.hash, ours.blocks), (theirs.hash, theirs.blocks), "chunk {chunk}");
        }
    });
}

#[test]
fn an_install_that_broke_off_can_be_made_again() {
    block_on(async {
        let write = |block, fill, sequence| {
            op_of(Step::Write { chunk: 0, block, len: 1, fill, client: 1, sequence, epoch: 1 })
        };
        let mut leader = Bed::new(7).await;
        let follower = Bed::new(8).await;
        for i in 1..=20usize {
            leader.apply(i, &write(i as u32 * 20, i as u8, i as u64)).await;
        }
        struct Breaks(Direct, AtomicUsize);
        impl SnapshotFetch for Breaks {
            fn read(&self, request: Bytes) -> BoxFuture<'_, io::Result<SnapshotPart>> {
                if self.1.fetch_sub(1, Ordering::Relaxed) == 0 {
                    return Box::pin(async { Err(io::Error::other("the leader went away")) });
                }
                self.0.read(request)
            }
        }
        let source = leader.machine.snapshot().await.unwrap();
        let direct = || Direct { source: source.clone(), bytes: AtomicUsize::new(0) };
        let mut follower = follower;
        for left in [0, 1] {
            let breaks = Arc::new(Breaks(direct(), AtomicUsize::new(left)));
            assert!(follower.machine.install(breaks, "20".into()).await.is_err());
            follower = follower.crash().await;
            assert_eq!(follower.recovered_index(), 0);
        }
        follower.machine.install(Arc::new(direct()), "20".into()).await.unwrap();
        for i in 1..=20u32 {
            assert_eq!(follower.block(key(0), i * 20).await, i as u8);
        }
        assert_eq!(follower.apply(21, &write(20, 99, 1)).await, Outcome::Applied, "remembered as done");
        assert_eq!(follower.block(key(0), 20).await, 1, "and not done again");
    });
}
