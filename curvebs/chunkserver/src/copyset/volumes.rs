//! What a copyset remembers of each volume to decide on its operations: the fence and the clients' windows.

use std::collections::{BTreeMap, VecDeque};

use curve_types::{ClientId, Epoch, LogIndex, Sequence, VolumeId};

use super::fence::Fence;
use super::format::{Action, Mutation, Outcome};

/// The most sequences remembered for one client. It is far above any inflight window; a client that exceeds it has
/// its oldest operations refused as stale when it repeats them.
pub const WINDOW_MAX: usize = 4096;
/// The most clients remembered for one volume within one epoch.
pub const CLIENTS_MAX: usize = 1024;
/// A deleted volume accepts no epoch below this one, which no opener is ever given.
pub const DELETED: Epoch = Epoch(u64::MAX);

/// What to do with a mutation that is being applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Do it.
    Apply,
    /// Do nothing and answer this.
    Answer(Outcome),
}

/// The operations of one client that were applied and whose results it may not have seen yet.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Window {
    /// The highest epoch the client wrote with.
    pub(super) epoch: Epoch,
    /// Smaller sequences are refused: they were answered.
    pub(super) answered_below: u64,
    /// The log index of the client's last operation; the window that was idle longest is dropped first.
    pub(super) last_used: LogIndex,
    /// Applied sequences from `answered_below` up, sorted.
    pub(super) done: VecDeque<u64>,
    /// Those of them that were comparisons which found a difference, with the first byte that differed.
    pub(super) differed: BTreeMap<u64, u32>,
}

impl Window {
    fn forget_below(&mut self, answered_below: u64) {
        if answered_below <= self.answered_below {
            return;
        }
        self.answered_below = answered_below;
        while self.done.front().is_some_and(|first| *first < answered_below) {
            self.done.pop_front();
        }
        self.differed.retain(|sequence, _| *sequence >= answered_below);
    }

    /// What an applied sequence was answered.
    fn answer(&self, sequence: u64) -> Outcome {
        self.differed.get(&sequence).map_or(Outcome::Applied, |at| Outcome::Differs { at: *at })
    }

    fn record(&mut self, sequence: u64) {
        // Sequences arrive nearly in order, so the place is at or near the end.
        match self.done.back() {
            Some(last) if *last >= sequence => {
                if let Err(at) = self.done.binary_search(&sequence) {
                    self.done.insert(at, sequence);
                }
            }
            _ => self.done.push_back(sequence),
        }
        if self.done.len() > WINDOW_MAX {
            let oldest = self.done[self.done.len() - 1 - WINDOW_MAX];
            self.forget_below(oldest + 1);
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct VolumeState {
    /// Whose operations are accepted.
    pub(super) fence: Fence,
    pub(super) clients: BTreeMap<ClientId, Window>,
}

/// Fences and windows of all volumes of one copyset.
///
/// Pure: the same operations in the same order give the same decisions on every replica, and the table is stored with
/// the applied index it belongs to, so a replay after a crash decides as the first run did.
///
/// - An operation whose epoch is below the volume's fence is refused, unless the fence keeps its client. A fence only
///   tightens.
/// - An operation whose `(client, sequence)` was applied gets its first answer and is not done again: that it was applied,
///   or where the comparison differed.
/// - A sequence below the client's `answered_below` is refused as stale: the client has its answer, so this is a late
///   copy, and doing it again could undo a later write.
/// - When a fence rises, the windows of clients that it refuses are dropped. Those it keeps stay: a kept client's
///   repeated operation must find its first result, whatever happens to others. A session never carries its sequences
///   over into a higher epoch.
///
/// Cost: 8 bytes per operation in flight and about 100 bytes per client and volume; a deleted volume leaves its fence
/// behind, since a delayed write must not bring its chunks back.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VolumeTable {
    pub(super) volumes: BTreeMap<VolumeId, VolumeState>,
}

impl VolumeTable {
    /// Decides on a mutation logged at `index` in `term`, and remembers it as done when the answer is to apply it.
    pub fn decide(&mut self, m: &Mutation, index: LogIndex, term: curve_types::Term) -> Decision {
        let volume = self.volumes.entry(m.key.volume).or_default();
        if !volume.fence.accepts(m.client, m.epoch) {
            return Decision::Answer(Outcome::Fenced { held: volume.fence.lowest });
        }
        if !volume.clients.contains_key(&m.client) && volume.clients.len() >= CLIENTS_MAX {
            volume.drop_idlest();
        }
        let window = volume.clients.entry(m.client).or_default();
        window.epoch = window.epoch.max(m.epoch);
        window.last_used = index;
        window.forget_below(m.answered_below.get());
        let sequence = m.sequence.get();
        if sequence < window.answered_below {
            return Decision::Answer(Outcome::Stale);
        }
        if window.done.back().is_some_and(|last| *last >= sequence)
            && window.done.binary_search(&sequence).is_ok()
        {
            return Decision::Answer(window.answer(sequence));
        }
        if m.read_in.is_some_and(|read_in| read_in != term) {
            return Decision::Answer(Outcome::AnotherTerm);
        }
        if !m.more {
            if let Action::Miscompare { at } = m.action {
                window.differed.insert(sequence, at);
            }
            window.record(sequence);
        }
        Decision::Apply
    }

    /// Raises a volume's fence, keeping some holders of lower epochs; a lower one changes nothing. Returns the fence that
    /// holds now.
    pub fn fence(&mut self, volume: VolumeId, epoch: Epoch, kept: &[(ClientId, Epoch)]) -> &Fence {
        let VolumeState { fence, clients } = self.volumes.entry(volume).or_default();
        if fence.raise(epoch, kept) {
            clients.retain(|client, window| fence.accepts(*client, window.epoch));
        }
        fence
    }

    /// Shuts a volume for good. Returns the fence that does.
    pub fn delete(&mut self, volume: VolumeId) -> &Fence {
        self.fence(volume, DELETED, &[])
    }

    /// All volumes with a fence, in order.
    pub fn fences(&self) -> impl Iterator<Item = (VolumeId, &Fence)> {
        self.volumes
            .iter()
            .filter(|(_, state)| state.fence.lowest > Epoch(0))
            .map(|(volume, state)| (*volume, &state.fence))
    }

    /// Sequences a client's window holds; for tests and status.
    pub fn remembered(&self, volume: VolumeId, client: ClientId) -> Vec<Sequence> {
        let window = self.volumes.get(&volume).and_then(|state| state.clients.get(&client));
        window.map(|w| w.done.iter().copied().map(Sequence).collect()).unwrap_or_default()
    }
}

impl VolumeState {
    fn drop_idlest(&mut self) {
        let idlest =
            self.clients.iter().min_by_key(|(client, window)| (window.last_used, **client)).map(|(c, _)| *c);
        if let Some(client) = idlest {
            self.clients.remove(&client);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use curve_types::{ChunkKey, Term};
    use proptest::prelude::*;

    use super::*;
    fn op(epoch: u64, client: u64, sequence: u64, answered_below: u64) -> Mutation {
        Mutation {
            key: ChunkKey { volume: VolumeId(1), index: 0 },
            epoch: Epoch(epoch),
            client: ClientId(client),
            sequence: Sequence(sequence),
            answered_below: Sequence(answered_below),
            offset: 0,
            len: 4096,
            read_in: None,
            more: false,
            action: Action::Write,
        }
    }

    fn decide(table: &mut VolumeTable, m: Mutation) -> Decision {
        table.decide(&m, LogIndex(1), Term(1))
    }

    #[test]
    fn a_table_of_decisions() {
        use Outcome::{Applied, Fenced, Stale};
        let mut table = VolumeTable::default();
        let steps: [(Mutation, Decision); 7] = [
            (op(1, 1, 1, 1), Decision::Apply),
            (op(1, 1, 1, 1), Decision::Answer(Applied)),
            (op(1, 1, 3, 1), Decision::Apply),
            (op(1, 1, 2, 1), Decision::Apply),
            (op(1, 1, 4, 3), Decision::Apply),
            (op(1, 1, 2, 1), Decision::Answer(Stale)),
            (op(1, 1, 3, 1), Decision::Answer(Applied)),
        ];
        for (m, expected) in steps {
            assert_eq!(decide(&mut table, m), expected, "{m:?}");
        }
        assert_eq!(table.fence(VolumeId(1), Epoch(2), &[]).lowest, Epoch(2));
        assert_eq!(decide(&mut table, op(1, 1, 5, 3)), Decision::Answer(Fenced { held: Epoch(2) }));
        assert_eq!(decide(&mut table, op(2, 2, 1, 1)), Decision::Apply);
        assert_eq!(table.fence(VolumeId(1), Epoch(1), &[]).lowest, Epoch(2), "a fence never falls");
        assert_eq!(table.remembered(VolumeId(1), ClientId(1)), [], "a fenced client is forgotten");
    }

    #[test]
    fn a_kept_client_keeps_its_epoch_and_its_results() {
        let mut table = VolumeTable::default();
        for client in [1, 2] {
            assert_eq!(decide(&mut table, op(1, client, 1, 1)), Decision::Apply);
        }
        table.fence(VolumeId(1), Epoch(2), &[(ClientId(1), Epoch(1))]);
        let repeated = decide(&mut table, op(1, 1, 1, 1));
        assert_eq!(repeated, Decision::Answer(Outcome::Applied), "its first result is still known");
        assert_eq!(decide(&mut table, op(1, 1, 2, 1)), Decision::Apply);
        assert_eq!(decide(&mut table, op(1, 2, 2, 1)), Decision::Answer(Outcome::Fenced { held: Epoch(2) }));
        assert_eq!(table.remembered(VolumeId(1), ClientId(2)), []);
    }

    #[test]
    fn a_part_of_an_operation_does_not_finish_it() {
        let mut table = VolumeTable::default();
        let first = Mutation { more: true, ..op(1, 1, 1, 1) };
        assert_eq!(decide(&mut table, first), Decision::Apply);
        assert_eq!(decide(&mut table, first), Decision::Apply);
        assert_eq!(decide(&mut table, op(1, 1, 1, 1)), Decision::Apply);
        assert_eq!(decide(&mut table, first), Decision::Answer(Outcome::Applied));
    }

    #[test]
    fn a_merged_write_of_another_term_is_not_done_and_not_remembered() {
        let mut table = VolumeTable::default();
        let merged = Mutation { read_in: Some(Term(2)), ..op(1, 1, 1, 1) };
        assert_eq!(table.decide(&merged, LogIndex(1), Term(3)), Decision::Answer(Outcome::AnotherTerm));
        assert_eq!(table.decide(&merged, LogIndex(2), Term(2)), Decision::Apply);
        assert_eq!(table.decide(&merged, LogIndex(3), Term(3)), Decision::Answer(Outcome::Applied));
    }

    #[test]
    fn a_repeated_comparison_gets_its_first_answer_whatever_it_finds_now() {
        let mut table = VolumeTable::default();
        let compared = |sequence, below, action| Mutation {
            read_in: Some(Term(1)),
            action,
            ..op(1, 1, sequence, below)
        };
        let differs = |at| Action::Miscompare { at };
        // Found a difference; the repeat finds none, or another one.
        assert_eq!(decide(&mut table, compared(1, 1, differs(512))), Decision::Apply);
        for action in [Action::Write, differs(7)] {
            let again = decide(&mut table, compared(1, 1, action));
            assert_eq!(again, Decision::Answer(Outcome::Differs { at: 512 }));
        }
        // Was equal and written; the repeat finds what it wrote itself.
        assert_eq!(decide(&mut table, compared(2, 1, Action::Write)), Decision::Apply);
        assert_eq!(decide(&mut table, compared(2, 1, differs(0))), Decision::Answer(Outcome::Applied));
        // Found in one term and logged in another: not decided.
        let late = table.decide(&compared(3, 1, differs(0)), LogIndex(9), Term(2));
        assert_eq!(late, Decision::Answer(Outcome::AnotherTerm));
        assert_eq!(decide(&mut table, compared(3, 3, Action::Write)), Decision::Apply);
        assert_eq!(table.volumes[&VolumeId(1)].clients[&ClientId(1)].differed.len(), 0, "answered");
    }

    #[test]
    fn a_deleted_volume_stays_shut() {
        let mut table = VolumeTable::default();
        table.delete(VolumeId(1));
        assert_eq!(
            decide(&mut table, op(u64::MAX - 1, 1, 1, 1)),
            Decision::Answer(Outcome::Fenced { held: DELETED })
        );
    }

    #[test]
    fn a_client_that_never_answers_is_bounded() {
        let mut table = VolumeTable::default();
        for sequence in 1..=(WINDOW_MAX as u64 + 10) {
            assert_eq!(decide(&mut table, op(1, 1, sequence, 1)), Decision::Apply);
        }
        assert_eq!(table.remembered(VolumeId(1), ClientId(1)).len(), WINDOW_MAX);
        assert_eq!(decide(&mut table, op(1, 1, 10, 1)), Decision::Answer(Outcome::Stale));
        assert_eq!(decide(&mut table, op(1, 1, 11, 1)), Decision::Answer(Outcome::Applied));
    }

    #[test]
    fn the_idlest_client_makes_room() {
        let mut table = VolumeTable::default();
        for client in 0..=CLIENTS_MAX as u64 {
            let m = op(1, client, 1, 1);
            assert_eq!(table.decide(&m, LogIndex(client + 1), Term(1)), Decision::Apply);
        }
        assert_eq!(table.volumes[&VolumeId(1)].clients.len(), CLIENTS_MAX);
        assert_eq!(table.remembered(VolumeId(1), ClientId(0)), []);
    }

    /// A well-behaved client: sends each sequence, perhaps many times and late, and never repeats one it knows of.
    #[derive(Clone, Debug)]
    enum Step {
        Send { client: u64, sequence: u64, differs: Option<u32> },
        Answered { client: u64 },
        Fence { epoch: u64, kept: Option<u64> },
        NewEpoch { client: u64 },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            8 => (0u64..3, 1u64..20, proptest::option::weighted(0.3, 0u32..512))
                .prop_map(|(client, sequence, differs)| Step::Send { client, sequence, differs }),
            3 => (0u64..3).prop_map(|client| Step::Answered { client }),
            1 => (1u64..5, proptest::option::of(0u64..3)).prop_map(|(epoch, kept)| Step::Fence { epoch, kept }),
            1 => (0u64..3).prop_map(|client| Step::NewEpoch { client }),
        ];
        proptest::collection::vec(step, 1..200)
    }

    proptest! {
        /// Against a model that remembers everything for ever: nothing is applied twice within an epoch, nothing below
        /// the fence is applied, and an applied operation is never refused while its client still waits for it.
        #[test]
        fn behaves_as_a_model_that_forgets_nothing(steps in steps()) {
            let mut table = VolumeTable::default();
            let mut fence = 0u64;
            // Names of clients that go on below the fence.
            let mut kept_names: BTreeSet<u64> = BTreeSet::new();
            let mut epoch: HashMap<u64, u64> = HashMap::new();
            let mut below: HashMap<u64, u64> = HashMap::new();
            // A session that gets a new epoch is a new client to the copyset.
            let mut applied: BTreeMap<(u64, u64, u64), Option<u32>> = BTreeMap::new();
            for (i, step) in steps.iter().enumerate() {
                match *step {
                    Step::Send { client, sequence, differs } => {
                        let e = *epoch.get(&client).unwrap_or(&1);
                        let name = client * 100 + e;
                        let low = *below.get(&name).unwrap_or(&1);
                        let action = differs.map_or(Action::Write, |at| Action::Miscompare { at });
                        let m = Mutation { action, ..op(e, name, sequence, low) };
                        let got = table.decide(&m, LogIndex(i as u64 + 1), Term(1));
                        let expected = if e < fence && !kept_names.contains(&name) {
                            Decision::Answer(Outcome::Fenced { held: Epoch(fence) })
                        } else if sequence < low {
                            Decision::Answer(Outcome::Stale)
                        } else if let Some(first) = applied.get(&(e, name, sequence)) {
                            Decision::Answer(first.map_or(Outcome::Applied, |at| Outcome::Differs { at }))
                        } else {
                            applied.insert((e, name, sequence), differs);
                            Decision::Apply
                        };
                        prop_assert_eq!(got, expected);
                    }
                    Step::Answered { client } => {
                        let e = *epoch.get(&client).unwrap_or(&1);
                        let name = client * 100 + e;
                        let low = below.entry(name).or_insert(1);
                        while applied.contains_key(&(e, name, *low)) {
                            *low += 1;
                        }
                    }
                    Step::Fence { epoch: at, kept } => {
                        let own = kept.map(|client| *epoch.get(&client).unwrap_or(&1));
                        let pair = kept.zip(own).map(|(client, e)| (client * 100 + e, e));
                        if at > fence {
                            let accepted = |(name, e): &(u64, u64)| *e >= fence || kept_names.contains(name);
                            kept_names = pair.filter(accepted).map(|(name, _)| name).into_iter().collect();
                            fence = at;
                        }
                        let list: Vec<_> = pair.map(|(name, e)| (ClientId(name), Epoch(e))).into_iter().collect();
                        prop_assert_eq!(table.fence(VolumeId(1), Epoch(at), &list).lowest, Epoch(fence));
                    }
                    Step::NewEpoch { client } => {
                        epoch.insert(client, fence.max(1));
                    }
                }
                let again = super::super::record::decode_table(&super::super::record::encode_table(&table)).unwrap();
                prop_assert_eq!(&again, &table);
            }
        }
    }
}
