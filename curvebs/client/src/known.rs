//! What the exclusive holder of a volume knows of its blocks, so that it can read them from the leader's file unasked.
//!
//! Whoever reads from the leader's file ([`local`](crate::local)) asks the leader each time whether it still leads, whether the
//! reader is still let in, where the blocks are and what their checksums are. A holder that nobody writes beside knows the last
//! two: since it was told, only its own writes have changed them. The first two the leader pledges on a board that its machine's
//! processes can read ([`curve_io::Board`]): until when its lease lasts, and a count that moves with each fence and each term.
//! So a read takes the bytes, looks at the board after that, and is then what it would have been had the leader been asked at that
//! moment. No clock is compared but the one of the machine with itself, and no data is kept.
//!
//! **Invariants.** A checksum is known from an answer or a write of this holder that ended well, and no change of the same block
//! was under way at any time in between, however it ended. A place is known from an answer alone, and no change since then may
//! have moved the block. What is read without its checksum is asked for. A change that was never answered may still land at any
//! time: of its chunk nothing is known any more.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use curve_io::Board;
use curve_proto::pb::data::FileRun;
use curve_types::{BLOCK_BYTES, ChunkIndex};
use tokio::time::Instant;

use crate::local::{FULL_FOR, FileKey, IN_USE, Seat};

/// Blocks of all chunks that the volumes of a process know anything of: 8 bytes each, 1,024 chunks of 16 MiB.
const BLOCKS_MAX: usize = 4 << 20;
/// Blocks that a question is about at least, whatever is read.
const WINDOW: u32 = 64;
/// A change of so many bytes may move blocks to their other plane.
const MOVES_FROM: u64 = 64 << 10;
/// No place in a file.
const NOWHERE: u32 = u32::MAX;
/// More runs than this are a read of many system calls; the leader is asked instead.
const RUNS_MAX: usize = 16;

/// A block as far as it is known. Its checksum is 0 while it is not.
#[derive(Clone, Copy)]
struct Block {
    crc: u32,
    /// Which block of the file.
    at: u32,
}

const UNKNOWN: Block = Block { crc: 0, at: NOWHERE };

/// Under what all answers about a chunk were given.
#[derive(Clone)]
struct Pledged {
    file: FileKey,
    board: Arc<Board>,
    number: u32,
    changes: u64,
}

impl Pledged {
    fn is(&self, other: &Self) -> bool {
        self.file == other.file
            && Arc::ptr_eq(&self.board, &other.board)
            && (self.number, self.changes) == (other.number, other.changes)
    }

    fn holds(&self) -> bool {
        self.board.holds(self.number, self.changes)
    }
}

struct Told {
    pledged: Pledged,
    blocks: Box<[Block]>,
    used: Instant,
    _seat: Seat,
}

/// An operation that is not over.
struct UnderWay {
    id: u64,
    blocks: Range<u32>,
    changes: bool,
    /// Of which of its blocks a change was under way at the same time.
    shared: Vec<Range<u32>>,
}

impl UnderWay {
    fn is_alone_at(&self, block: u32) -> bool {
        !self.shared.iter().any(|shared| shared.contains(&block))
    }
}

#[derive(Default)]
struct Chunk {
    under_way: Vec<UnderWay>,
    told: Option<Told>,
    /// A change was not answered.
    unsettled: bool,
}

impl Chunk {
    fn is_needed(&self) -> bool {
        self.unsettled || self.told.is_some() || !self.under_way.is_empty()
    }
}

#[derive(Default)]
struct State {
    chunks: HashMap<ChunkIndex, Chunk>,
    next_id: u64,
    /// When all that may be known was in use.
    full: Option<Instant>,
}

/// How many blocks all volumes of a process may know anything of.
#[derive(Clone)]
pub struct Memory {
    used: Arc<AtomicUsize>,
    max: usize,
}

impl Default for Memory {
    fn default() -> Self {
        Self { used: Arc::default(), max: BLOCKS_MAX }
    }
}

impl Memory {
    fn seat(&self, blocks: u32) -> Option<Seat> {
        Seat::take(&self.used, blocks as usize, self.max)
    }
}

/// What one holder knows of one volume.
pub struct Known {
    memory: Memory,
    chunk_blocks: u32,
    state: Mutex<State>,
}

/// Blocks that can be read unasked.
pub struct Sight {
    pledged: Pledged,
    /// Where they are.
    pub runs: Vec<FileRun>,
    /// Their checksums.
    pub crcs: Vec<u32>,
}

impl Sight {
    /// The file they are in.
    pub fn file(&self) -> FileKey {
        self.pledged.file
    }

    /// Whether the leader would have answered now, after the bytes were read.
    pub fn holds(&self) -> bool {
        self.pledged.holds()
    }
}

/// What a leader says of blocks: from the first one on, their checksums and where those are that are not holes.
pub struct Answer<'a> {
    /// The file.
    pub file: FileKey,
    /// The board, the number of the pledge on it, and what it had counted before the answer was given.
    pub pledge: (Arc<Board>, u32, u64),
    /// Of all blocks of the question; 0 is a hole.
    pub crcs: &'a [u32],
    /// In order.
    pub runs: &'a [FileRun],
}

/// An operation under way.
pub struct Turn<'a> {
    known: &'a Known,
    chunk: ChunkIndex,
    id: u64,
    blocks: Range<u32>,
    /// A change that was not answered.
    unanswered: bool,
}

impl Known {
    /// Nothing is known. `chunk_bytes` is the size of a chunk.
    pub fn new(memory: Memory, chunk_bytes: u32) -> Self {
        Self { memory, chunk_blocks: chunk_bytes / BLOCK_BYTES as u32, state: Mutex::default() }
    }

    /// All blocks that a part of is in `len` bytes from `offset` on.
    fn blocks(offset: u32, len: u32) -> Range<u32> {
        offset / BLOCK_BYTES as u32..(offset + len).div_ceil(BLOCK_BYTES as u32)
    }

    /// What is needed to read whole blocks unasked, if all of it is known and pledged.
    pub fn sight(&self, chunk: ChunkIndex, offset: u32, len: u32) -> Option<Sight> {
        let mut state = self.lock();
        let told = state.chunks.get_mut(&chunk)?.told.as_mut()?;
        let blocks = Self::blocks(offset, len);
        let blocks = told.blocks.get(blocks.start as usize..blocks.end as usize)?;
        let runs = runs_of(blocks)?;
        if !told.pledged.holds() {
            return None;
        }
        told.used = Instant::now();
        Some(Sight {
            pledged: told.pledged.clone(),
            runs,
            crcs: blocks.iter().map(|block| block.crc).collect(),
        })
    }

    /// A change begins: nothing is known of its blocks until it has ended well.
    pub fn change(&self, chunk: ChunkIndex, offset: u32, len: u32, moves: bool) -> Turn<'_> {
        let blocks = Self::blocks(offset, len);
        let mut state = self.lock();
        if let Some(told) = state.chunks.get_mut(&chunk).and_then(|chunk| chunk.told.as_mut()) {
            let moves = moves || u64::from(len) >= MOVES_FROM;
            for block in &mut told.blocks[blocks.start as usize..blocks.end as usize] {
                *block = if moves { UNKNOWN } else { Block { crc: 0, ..*block } };
            }
        }
        self.begin(&mut state, chunk, blocks, true)
    }

    /// A read begins that will be answered with what is to be known of the blocks around it.
    pub fn question(&self, chunk: ChunkIndex, offset: u32, len: u32) -> Turn<'_> {
        let blocks = Self::blocks(offset, len);
        let first = blocks.start / WINDOW * WINDOW;
        let end = blocks.end.next_multiple_of(WINDOW).min(self.chunk_blocks);
        self.begin(&mut self.lock(), chunk, first..end, false)
    }

    fn begin(&self, state: &mut State, index: ChunkIndex, blocks: Range<u32>, changes: bool) -> Turn<'_> {
        let id = state.next_id;
        state.next_id += 1;
        let chunk = state.chunks.entry(index).or_default();
        let mut shared = Vec::new();
        for other in &mut chunk.under_way {
            let both = blocks.start.max(other.blocks.start)..blocks.end.min(other.blocks.end);
            if both.is_empty() {
                continue;
            }
            if other.changes {
                shared.push(both.clone());
            }
            if changes {
                other.shared.push(both);
            }
        }
        chunk.under_way.push(UnderWay { id, blocks: blocks.clone(), changes, shared });
        Turn { known: self, chunk: index, id, blocks, unanswered: changes }
    }

    /// Forgets everything of chunks that were not read from for so long.
    pub fn forget_unused(&self, since: Duration) {
        self.lock().chunks.retain(|_, chunk| {
            if chunk.told.as_ref().is_some_and(|told| told.used.elapsed() >= since) {
                chunk.told = None;
            }
            chunk.is_needed()
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Room to know one more chunk, perhaps after another one was forgotten.
    fn seat(&mut self, memory: &Memory, blocks: u32) -> Option<Seat> {
        if let Some(seat) = memory.seat(blocks) {
            return Some(seat);
        }
        if self.full.is_some_and(|since| since.elapsed() < FULL_FOR) {
            return None;
        }
        let told = self.chunks.values_mut().filter_map(|chunk| Some((chunk.told.as_ref()?.used, chunk)));
        match told.min_by_key(|(used, _)| *used) {
            Some((used, chunk)) if used.elapsed() >= IN_USE => {
                chunk.told = None;
                memory.seat(blocks)
            }
            _ => {
                self.full = Some(Instant::now());
                None
            }
        }
    }
}

impl Turn<'_> {
    /// The bytes of the chunk that the question is about: their offset and number.
    pub fn window(&self) -> (u32, u32) {
        let block = BLOCK_BYTES as u32;
        (self.blocks.start * block, (self.blocks.end - self.blocks.start) * block)
    }

    /// The change has ended well.
    pub fn changed(mut self) {
        self.unanswered = false;
    }

    /// The change has ended well, and the blocks, all of them whole, have these checksums.
    pub fn written(mut self, crcs: &[u32]) {
        self.unanswered = false;
        let mut state = self.known.lock();
        let Some((under_way, Some(told))) = self.parts(&mut state) else { return };
        if self.blocks.len() != crcs.len() {
            return;
        }
        for (block, crc) in self.blocks.clone().zip(crcs).filter(|(block, _)| under_way.is_alone_at(*block)) {
            let known = &mut told.blocks[block as usize];
            if known.at != NOWHERE {
                known.crc = *crc;
            }
        }
    }

    /// The question was answered.
    pub fn answered(self, answer: &Answer<'_>) {
        let Some(places) = places(answer).filter(|places| places.len() == self.blocks.len()) else { return };
        let (board, number, changes) = answer.pledge.clone();
        let pledged = Pledged { file: answer.file, board, number, changes };
        let mut state = self.known.lock();
        let Some(chunk) = state.chunks.get_mut(&self.chunk).filter(|chunk| !chunk.unsettled) else { return };
        if chunk.told.as_ref().is_none_or(|told| !told.pledged.is(&pledged)) {
            chunk.told = None;
            let Some(seat) = state.seat(&self.known.memory, self.known.chunk_blocks) else { return };
            let blocks = vec![UNKNOWN; self.known.chunk_blocks as usize].into();
            let told = Told { pledged, blocks, used: Instant::now(), _seat: seat };
            state.chunks.entry(self.chunk).or_default().told = Some(told);
        }
        let Some((under_way, Some(told))) = self.parts(&mut state) else { return };
        for (block, place) in self.blocks.clone().zip(places) {
            if under_way.is_alone_at(block) {
                told.blocks[block as usize] = place;
            }
        }
    }

    /// This operation, and what is known of its chunk.
    fn parts<'s>(&self, state: &'s mut State) -> Option<(&'s UnderWay, Option<&'s mut Told>)> {
        let chunk = state.chunks.get_mut(&self.chunk)?;
        let under_way = chunk.under_way.iter().find(|other| other.id == self.id)?;
        Some((under_way, chunk.told.as_mut()))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.known.lock();
        if let Some(chunk) = state.chunks.get_mut(&self.chunk) {
            chunk.under_way.retain(|other| other.id != self.id);
            if self.unanswered {
                (chunk.unsettled, chunk.told) = (true, None);
            }
            if !chunk.is_needed() {
                state.chunks.remove(&self.chunk);
            }
        }
    }
}

/// Where known blocks are; `None` when one of them is not known, or they are too scattered.
fn runs_of(blocks: &[Block]) -> Option<Vec<FileRun>> {
    let mut runs: Vec<FileRun> = Vec::with_capacity(1);
    let mut next = NOWHERE;
    for block in blocks {
        if block.crc == 0 || block.at == NOWHERE {
            return None;
        }
        let many = runs.len() == RUNS_MAX;
        match runs.last_mut() {
            Some(run) if block.at == next => run.blocks += 1,
            _ if many => return None,
            _ => runs.push(FileRun { offset: u64::from(block.at) * BLOCK_BYTES, blocks: 1 }),
        }
        next = block.at + 1;
    }
    Some(runs)
}

/// The blocks of an answer; `None` when it contradicts itself. Holes are left unknown.
fn places(answer: &Answer<'_>) -> Option<Vec<Block>> {
    let mut runs = answer.runs.iter();
    let (mut at, mut left) = (0, 0);
    let mut blocks = Vec::with_capacity(answer.crcs.len());
    for &crc in answer.crcs {
        if crc == 0 {
            blocks.push(UNKNOWN);
            continue;
        }
        if left == 0 {
            let run = runs.next().filter(|run| run.offset.is_multiple_of(BLOCK_BYTES) && run.blocks > 0)?;
            at = u32::try_from(run.offset / BLOCK_BYTES).ok()?;
            left = run.blocks;
        }
        blocks.push(Block { crc, at });
        at = at.checked_add(1)?;
        left -= 1;
    }
    Some(blocks)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use proptest::prelude::*;

    use super::*;

    const CHUNK: ChunkIndex = ChunkIndex(3);
    const FILE: FileKey = (1, 2);
    const BLOCKS: u32 = 8;
    const B: u32 = BLOCK_BYTES as u32;

    struct Leader {
        board: Arc<Board>,
        pledge: curve_io::Pledge,
    }

    impl Leader {
        fn new() -> Self {
            let board = Board::create().unwrap();
            let pledge = board.pledge().unwrap();
            pledge.hold_always();
            Self { board, pledge }
        }

        fn answer(&self, question: Turn<'_>, crcs: &[u32], runs: &[FileRun]) {
            let pledge = (self.board.clone(), self.pledge.number(), self.pledge.changes());
            question.answered(&Answer { file: FILE, pledge, crcs, runs });
        }
    }

    fn known() -> Known {
        Known::new(Memory::default(), BLOCKS * B)
    }

    fn run(block: u64, blocks: u32) -> FileRun {
        FileRun { offset: block * BLOCK_BYTES, blocks }
    }

    /// What can be read unasked of one block: where it is and its checksum.
    fn seen(known: &Known, block: u32) -> Option<(u64, u32)> {
        let sight = known.sight(CHUNK, block * B, B)?;
        assert!(sight.holds() && sight.file() == FILE);
        assert_eq!((sight.runs.len(), sight.crcs.len()), (1, 1));
        Some((sight.runs[0].offset / BLOCK_BYTES, sight.crcs[0]))
    }

    #[tokio::test]
    async fn what_was_told_is_known_until_it_changes() {
        let (known, leader) = (known(), Leader::new());
        let question = known.question(CHUNK, B, B);
        assert_eq!(question.window(), (0, BLOCKS * B));
        leader.answer(question, &[11, 12, 0, 14, 15, 16, 0, 18], &[run(100, 2), run(200, 4)]);
        let all = |known: &Known| (0..BLOCKS).map(|block| seen(known, block)).collect::<Vec<_>>();
        let told = |block, crc| Some((block, crc));
        let expected = [
            told(100, 11),
            told(101, 12),
            None,
            told(200, 14),
            told(201, 15),
            told(202, 16),
            None,
            told(203, 18),
        ];
        assert_eq!(all(&known), expected);
        let sight = known.sight(CHUNK, 3 * B, 3 * B).unwrap();
        assert_eq!((sight.runs, sight.crcs), (vec![run(200, 3)], vec![14, 15, 16]));
        assert!(known.sight(CHUNK, B, 3 * B).is_none() && known.sight(ChunkIndex(4), B, B).is_none());

        let change = known.change(CHUNK, B + 512, B, false);
        assert_eq!([seen(&known, 0), seen(&known, 1), seen(&known, 2)], [told(100, 11), None, None]);
        change.changed();
        assert_eq!(seen(&known, 1), None, "nobody said what is there");
        known.change(CHUNK, B, 2 * B, false).written(&[22, 23]);
        assert_eq!([seen(&known, 1), seen(&known, 2)], [told(101, 22), None], "the second one has no place");
        known.change(CHUNK, 3 * B, B, true).written(&[24]);
        assert_eq!(seen(&known, 3), None, "it may have moved");
    }

    #[tokio::test]
    async fn what_may_have_been_changed_meanwhile_is_not_known() {
        let (known, leader) = (known(), Leader::new());
        let crcs = [1, 2, 3, 4, 5, 6, 7, 8];
        let tell = |question| leader.answer(question, &crcs, &[run(0, 8)]);
        // A change that begins, one that ends, and one that does both while the question is asked.
        let question = known.question(CHUNK, 0, B);
        let change = known.change(CHUNK, 5 * B, B, false);
        tell(question);
        let seen_now = || [4, 5, 6].map(|block| seen(&known, block));
        let others = [Some((4, 5)), None, Some((6, 7))];
        assert_eq!(seen_now(), others);
        let question = known.question(CHUNK, 0, B);
        change.written(&[9]);
        tell(question);
        assert_eq!(seen_now(), others);
        let question = known.question(CHUNK, 0, B);
        known.change(CHUNK, 5 * B, B, false).written(&[9]);
        tell(question);
        assert_eq!(seen_now(), others);
        tell(known.question(CHUNK, 0, B));
        assert_eq!(seen_now(), [Some((4, 5)), Some((5, 6)), Some((6, 7))]);

        // Of two changes at a time nobody knows which one was the last.
        let (first, second) = (known.change(CHUNK, 0, 2 * B, false), known.change(CHUNK, B, 2 * B, false));
        second.written(&[32, 33]);
        first.written(&[31, 32]);
        assert_eq!([0, 1, 2].map(|block| seen(&known, block)), [Some((0, 31)), None, Some((2, 33))]);
        known.change(CHUNK, B, B, false).written(&[42]);
        assert_eq!(seen(&known, 1), Some((1, 42)));

        // One that is never answered may land whenever it likes.
        drop(known.change(CHUNK, 7 * B, B, false));
        tell(known.question(CHUNK, 0, B));
        assert_eq!([0, 7].map(|block| seen(&known, block)), [None; 2]);
        known.forget_unused(Duration::ZERO);
        tell(known.question(CHUNK, 0, B));
        assert_eq!(seen(&known, 0), None);
    }

    #[tokio::test]
    async fn the_pledge_ends_it() {
        let (known, leader) = (known(), Leader::new());
        let ask = |crc: u32| leader.answer(known.question(CHUNK, 0, B), &[crc; 8], &[run(0, 8)]);
        ask(1);
        let sight = known.sight(CHUNK, 0, B).unwrap();
        leader.pledge.change();
        assert!(!sight.holds() && seen(&known, 0).is_none());
        ask(2);
        assert_eq!(seen(&known, 0), Some((0, 2)));
        leader.pledge.hold(None);
        assert_eq!(seen(&known, 0), None);
        leader.pledge.hold(Some(Instant::now() + Duration::from_secs(60)));
        assert_eq!(seen(&known, 0), Some((0, 2)), "it was only not sure for a while");
        let question = known.question(CHUNK, 0, B);
        let before = leader.pledge.changes();
        leader.pledge.change();
        let pledge = (leader.board.clone(), leader.pledge.number(), before);
        question.answered(&Answer { file: FILE, pledge, crcs: &[3; 8], runs: &[run(0, 8)] });
        assert_eq!(seen(&known, 0), None, "it changed after the answer");
    }

    #[tokio::test]
    async fn what_contradicts_itself_is_not_believed() {
        let (known, leader) = (known(), Leader::new());
        let odd = FileRun { offset: 5, blocks: 8 };
        let bad: [(&[u32], &[FileRun]); 5] = [
            (&[1; 8], &[run(0, 7)]),
            (&[1; 8], &[run(0, 0), run(0, 8)]),
            (&[1; 7], &[run(0, 7)]),
            (&[1; 8], &[odd]),
            (&[1; 8], &[run(u64::from(u32::MAX) - 4, 8)]),
        ];
        for (crcs, runs) in bad {
            leader.answer(known.question(CHUNK, 0, B), crcs, runs);
            assert_eq!(seen(&known, 0), None);
        }
        let scattered: Vec<_> = (0..8).map(|n| run(n * 2, 1)).collect();
        leader.answer(known.question(CHUNK, 0, B), &[1; 8], &scattered);
        assert_eq!(known.sight(CHUNK, 0, 8 * B).unwrap().runs, scattered);
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_much_is_kept() {
        const MANY: u32 = 32;
        let memory = Memory { max: (MANY * BLOCKS) as usize, ..Memory::default() };
        let (known, leader) = (Known::new(memory, BLOCKS * B), Leader::new());
        let ask = |chunk| leader.answer(known.question(ChunkIndex(chunk), 0, B), &[1; 8], &[run(0, 8)]);
        let is_known = |chunk| known.sight(ChunkIndex(chunk), 0, B).is_some();
        (0..MANY).for_each(ask);
        ask(MANY);
        assert!(is_known(0) && !is_known(MANY), "all are in use");
        tokio::time::advance(IN_USE).await;
        assert!(is_known(0));
        ask(MANY);
        assert!(is_known(0) && is_known(MANY));
        assert_eq!((0..MANY).filter(|chunk| is_known(*chunk)).count() as u32, MANY - 1);
        tokio::time::advance(Duration::from_secs(10)).await;
        known.forget_unused(Duration::from_secs(10));
        assert!(known.lock().chunks.is_empty());
        assert_eq!(known.memory.used.load(Ordering::Relaxed), 0);
    }

    /// What goes on, in turn; `usize` picks one of those that are under way.
    #[derive(Clone, Debug)]
    enum Step {
        Change { first: u32, blocks: u32, moves: bool },
        EndChange(usize),
        Question { first: u32, blocks: u32 },
        Answer(usize),
        Fence,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let range = || (0..BLOCKS).prop_flat_map(|first| (Just(first), 1..=BLOCKS - first));
        let step = prop_oneof![
            3 => (range(), any::<bool>()).prop_map(|((first, blocks), moves)| Step::Change { first, blocks, moves }),
            3 => any::<usize>().prop_map(Step::EndChange),
            3 => range().prop_map(|(first, blocks)| Step::Question { first, blocks }),
            3 => any::<usize>().prop_map(Step::Answer),
            1 => Just(Step::Fence),
        ];
        proptest::collection::vec(step, 1..60)
    }

    proptest! {
        /// A leader whose blocks have versions and move. Changes land at once, late, or before they are answered; answers are
        /// of the moment when they are asked for or of when they arrive. What is known is always what is there, where it is.
        #[test]
        fn what_is_known_is_so(steps in steps(), seed in any::<u64>()) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _entered = runtime.enter();
            let (known, leader) = (known(), Leader::new());
            let mut random = seed;
            let mut draw = |below: u64| {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (random >> 33) % below
            };
            // Of each block: its checksum and place.
            let mut blocks: Vec<(u32, u32)> = (0..BLOCKS).map(|n| (n + 1, n)).collect();
            let mut version = 100;
            let mut changes: Vec<(Turn<'_>, u32, Vec<u32>, bool, bool)> = Vec::new();
            let mut questions = Vec::new();
            for step in steps {
                match step {
                    Step::Change { first, blocks: count, moves } => {
                        let turn = known.change(CHUNK, first * B, count * B, moves);
                        version += count;
                        let crcs: Vec<u32> = (version..version + count).collect();
                        let early = draw(2) == 0;
                        if early {
                            land(&mut blocks, first, &crcs, moves);
                        }
                        changes.push((turn, first, crcs, moves, early));
                    }
                    Step::EndChange(n) if !changes.is_empty() => {
                        let n = n % changes.len();
                        let (turn, first, crcs, moves, landed) = changes.swap_remove(n);
                        if !landed {
                            land(&mut blocks, first, &crcs, moves);
                        }
                        turn.written(&crcs);
                    }
                    Step::Question { first, blocks: count } => {
                        let turn = known.question(CHUNK, first * B, count * B);
                        questions.push((turn, blocks.clone(), leader.pledge.changes()));
                    }
                    Step::Answer(n) if !questions.is_empty() => {
                        let n = n % questions.len();
                        let (turn, then, counted) = questions.swap_remove(n);
                        let told = if draw(2) == 0 { &then } else { &blocks };
                        let crcs: Vec<u32> = told.iter().map(|(crc, _)| *crc).collect();
                        let runs: Vec<_> = told.iter().map(|(_, at)| run(u64::from(*at), 1)).collect();
                        let pledge = (leader.board.clone(), leader.pledge.number(), counted);
                        turn.answered(&Answer { file: FILE, pledge, crcs: &crcs, runs: &runs });
                    }
                    Step::Fence => leader.pledge.change(),
                    Step::EndChange(_) | Step::Answer(_) => {}
                }
                for (block, (crc, at)) in (0..BLOCKS).zip(&blocks) {
                    if let Some(seen) = seen(&known, block) {
                        prop_assert_eq!(seen, (u64::from(*at), *crc));
                    }
                }
            }
        }
    }

    fn land(blocks: &mut [(u32, u32)], first: u32, crcs: &[u32], moves: bool) {
        for (block, crc) in blocks[first as usize..].iter_mut().zip(crcs) {
            *block = (*crc, if moves { block.1 ^ 64 } else { block.1 });
        }
    }
}
