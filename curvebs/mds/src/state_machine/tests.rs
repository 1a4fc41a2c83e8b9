//! The namespace against a plain model, and replicas against each other.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use curve_io::sim::{SimDisk, SimDiskConfig};
use curve_kv::{KeyRange, MemStore, Reader, Store};
use curve_multiraft::{Applied, Op as RaftOp};
use curve_proto::pb::mds as pb;
use curve_proto::pb::mds::mds_response::Result as Answer;
use curve_proto::pb::mds_state as state;
use curve_proto::pb::mds_state::command::Op;
use curve_types::{LogIndex, Term};
use proptest::prelude::{Just, Strategy, any, prop_assert_eq, prop_oneof, proptest};
use prost::Message;

use super::apply_all;
use crate::namespace;

const MIB: u64 = 1 << 20;

struct Replica {
    store: Arc<dyn Store>,
    index: u64,
}

impl Replica {
    async fn new() -> Self {
        let disk = SimDisk::new(SimDiskConfig::default()).mount();
        let mut replica = Self { store: Arc::new(MemStore::open(disk, "kv").await.unwrap()), index: 0 };
        let found = state::Found {
            id: 1,
            name: "test".into(),
            block_bytes: 4096,
            chunk_bytes: 16 << 20,
            segment_bytes: 1 << 30,
        };
        replica.apply(Op::Found(found));
        replica
    }

    fn commands(&mut self, commands: &[state::Command]) -> Vec<Answer> {
        self.index += 1;
        let ops = commands
            .iter()
            .map(|c| RaftOp { header: c.encode_to_vec().into(), payload: Vec::new() })
            .collect();
        let entry = Applied { index: LogIndex(self.index), term: Term(1), ops };
        let results = apply_all(&*self.store, &[entry], b"marker").unwrap();
        results[0].iter().map(|r| pb::MdsResponse::decode(&r[..]).unwrap().result.unwrap()).collect()
    }

    fn apply(&mut self, op: Op) -> Answer {
        self.commands(&[command(op, 0, 0)]).remove(0)
    }

    fn rows(&self) -> Vec<(Bytes, Bytes)> {
        self.store.scan(&KeyRange::all(), usize::MAX).unwrap()
    }

    fn reader(&self) -> &dyn Reader {
        &*self.store
    }
}

fn command(op: Op, client: u64, sequence: u64) -> state::Command {
    state::Command { now_ms: 7, client, sequence, op: Some(op) }
}

fn code(answer: &Answer) -> Option<pb::ErrorCode> {
    match answer {
        Answer::Error(error) => Some(error.code()),
        _ => None,
    }
}

/// What a plain map of paths would do. `None` is a directory.
#[derive(Default)]
struct Model(BTreeMap<String, Option<u64>>);

impl Model {
    fn is_directory(&self, path: &str) -> Result<(), pb::ErrorCode> {
        let mut at = String::new();
        for name in path.split('/').skip(1).filter(|name| !name.is_empty()) {
            at = format!("{at}/{name}");
            match self.0.get(&at) {
                None => return Err(pb::ErrorCode::NotFound),
                Some(Some(_)) => return Err(pb::ErrorCode::NotDirectory),
                Some(None) => {}
            }
        }
        Ok(())
    }

    fn parent(path: &str) -> &str {
        &path[..path.rfind('/').unwrap()]
    }

    fn add(&mut self, path: &str, what: Option<u64>) -> Result<(), pb::ErrorCode> {
        self.is_directory(Self::parent(path))?;
        if self.0.contains_key(path) {
            return Err(pb::ErrorCode::Exists);
        }
        self.0.insert(path.to_owned(), what);
        Ok(())
    }

    fn get(&self, path: &str) -> Result<Option<u64>, pb::ErrorCode> {
        self.is_directory(Self::parent(path))?;
        self.0.get(path).copied().ok_or(pb::ErrorCode::NotFound)
    }

    fn delete(&mut self, path: &str) -> Result<(), pb::ErrorCode> {
        let below = format!("{path}/");
        if self.get(path)?.is_none() && self.0.keys().any(|other| other.starts_with(&below)) {
            return Err(pb::ErrorCode::NotEmpty);
        }
        self.0.remove(path);
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), pb::ErrorCode> {
        let what = self.get(from)?;
        self.is_directory(Self::parent(to)).or_else(|error| {
            // A path into itself is told as such, when it exists.
            if what.is_none() && self.is_directory(Self::parent(to)).is_ok() { Ok(()) } else { Err(error) }
        })?;
        let into_itself = Self::parent(to) == from || Self::parent(to).starts_with(&format!("{from}/"));
        if what.is_none() && into_itself {
            return Err(pb::ErrorCode::Conflict);
        }
        if self.0.contains_key(to) {
            return Err(pb::ErrorCode::Exists);
        }
        let below = format!("{from}/");
        let moved: Vec<String> =
            self.0.keys().filter(|path| *path == from || path.starts_with(&below)).cloned().collect();
        for path in moved {
            let what = self.0.remove(&path).unwrap();
            self.0.insert(format!("{to}{}", &path[from.len()..]), what);
        }
        Ok(())
    }

    fn resize(&mut self, path: &str, size: u64) -> Result<(), pb::ErrorCode> {
        match self.get(path)? {
            None => Err(pb::ErrorCode::IsDirectory),
            Some(old) if size < old => Err(pb::ErrorCode::BadSize),
            Some(_) => {
                self.0.insert(path.to_owned(), Some(size));
                Ok(())
            }
        }
    }

    fn follow(&mut self, op: &Op) -> Result<(), pb::ErrorCode> {
        match op {
            Op::CreateVolume(op) => self.add(&op.path, Some(op.size)),
            Op::MakeDirectory(op) => self.add(&op.path, None),
            Op::Delete(op) => self.delete(&op.path),
            Op::Rename(op) => self.rename(&op.from, &op.to),
            Op::Resize(op) => self.resize(&op.path, op.size),
            other => unreachable!("{other:?}"),
        }
    }
}

fn path() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof![Just("a"), Just("b"), Just("c")], 1..4)
        .prop_map(|names| names.iter().map(|name| format!("/{name}")).collect())
}

fn operation() -> impl Strategy<Value = Op> {
    let size = || (1u64..5).prop_map(|n| n * MIB);
    prop_oneof![
        3 => (path(), size()).prop_map(|(path, size)| Op::CreateVolume(pb::CreateVolume { path, size })),
        3 => path().prop_map(|path| Op::MakeDirectory(pb::MakeDirectory { path, parents: false })),
        2 => path().prop_map(|path| Op::Delete(state::Delete { path, lapsed: Vec::new() })),
        2 => (path(), path()).prop_map(|(from, to)| Op::Rename(pb::Rename { from, to })),
        1 => (path(), size()).prop_map(|(path, size)| Op::Resize(pb::Resize { path, size })),
    ]
}

/// Every path that can be reached, with its size when it is a volume.
fn listing(replica: &Replica) -> BTreeMap<String, Option<u64>> {
    let mut found = BTreeMap::new();
    let mut pending = vec![String::new()];
    while let Some(directory) = pending.pop() {
        let path = if directory.is_empty() { "/".to_owned() } else { directory.clone() };
        let op = pb::List { path, after: String::new(), limit: 100 };
        for entry in namespace::list(replica.reader(), &op, &|_| Ok(Vec::new())).unwrap().entries {
            let path = format!("{directory}/{}", entry.name);
            if entry.volume.is_none() {
                pending.push(path.clone());
            }
            found.insert(path, entry.volume.map(|volume| volume.size));
        }
    }
    found
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(200))]

    #[test]
    fn the_namespace_follows_a_map_of_paths(ops in proptest::collection::vec(operation(), 1..60)) {
        let mut replica = runtime().block_on(Replica::new());
        let mut model = Model::default();
        for op in ops {
            let expected = model.follow(&op);
            let answer = replica.apply(op.clone());
            prop_assert_eq!(code(&answer), expected.err(), "{:?}", op);
            prop_assert_eq!(&listing(&replica), &model.0, "{:?}", op);
        }
        let sums = namespace::disk_usage(replica.reader(), "/").unwrap();
        prop_assert_eq!(sums.size, model.0.values().flatten().sum::<u64>());
        prop_assert_eq!(sums.volumes, model.0.values().flatten().count() as u64);
    }

    #[test]
    fn the_same_commands_make_the_same_rows_however_they_are_batched(
        ops in proptest::collection::vec((operation(), 0u64..3, 1u64..10), 1..60), batch in 1usize..10
    ) {
        let (mut one, mut other) = runtime().block_on(async { (Replica::new().await, Replica::new().await) });
        let commands: Vec<state::Command> = ops.into_iter().map(|(op, client, seq)| command(op, client, seq)).collect();
        let answers: Vec<Answer> = commands.iter().flat_map(|c| one.commands(std::slice::from_ref(c))).collect();
        let batched: Vec<Answer> = commands.chunks(batch).flat_map(|chunk| other.commands(chunk)).collect();
        prop_assert_eq!(answers, batched);
        prop_assert_eq!(one.rows(), other.rows());
    }

    #[test]
    fn a_retry_gets_the_first_answer_and_changes_nothing(ops in proptest::collection::vec(operation(), 1..30), again in any::<proptest::sample::Index>()) {
        let mut replica = runtime().block_on(Replica::new());
        let commands: Vec<_> = ops.into_iter().enumerate().map(|(i, op)| command(op, 5, i as u64 + 1)).collect();
        let answers = replica.commands(&commands);
        let rows = replica.rows();
        let at = again.index(commands.len());
        prop_assert_eq!(replica.commands(&commands[at..=at]).remove(0), answers[at].clone());
        prop_assert_eq!(replica.rows(), rows);
    }
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let mut replica = runtime().block_on(Replica::new());
    for size in [0, 1, MIB + 512, (64 << 40) + MIB] {
        let answer = replica.apply(Op::CreateVolume(pb::CreateVolume { path: "/v".into(), size }));
        assert_eq!(code(&answer), Some(pb::ErrorCode::BadSize), "{size}");
    }
    let largest = replica.apply(Op::CreateVolume(pb::CreateVolume { path: "/v".into(), size: 64 << 40 }));
    assert_eq!(code(&largest), None);
}

fn open(client: u64, mode: pb::OpenMode, lapsed: &[u64], takeover: bool) -> Op {
    let open = pb::Open { path: "/v".into(), mode: mode.into(), client, takeover, ..pb::Open::default() };
    Op::Open(state::Open { open: Some(open), lapsed: lapsed.to_vec() })
}

/// The epoch that an open got, or its refusal.
fn epoch(answer: &Answer) -> Result<u64, pb::ErrorCode> {
    match answer {
        Answer::Opened(opened) => Ok(opened.epoch),
        other => Err(code(other).unwrap()),
    }
}

#[test]
fn who_may_open_beside_whom() {
    use pb::OpenMode::{Exclusive, ReadOnly, Shared};
    let held = Err(pb::ErrorCode::HeldBy);
    for (first, second, lapsed, takeover, expected) in [
        (Exclusive, Exclusive, false, false, held),
        (Exclusive, Exclusive, true, false, Ok(2)),
        (Exclusive, Exclusive, false, true, Ok(2)),
        (Exclusive, Shared, false, false, held),
        (Shared, Exclusive, false, false, held),
        (Shared, Shared, false, false, Ok(1)),
        (Exclusive, ReadOnly, false, false, Ok(1)),
        (Exclusive, ReadOnly, true, false, Ok(1)),
        (ReadOnly, Exclusive, false, false, Ok(1)),
        (ReadOnly, ReadOnly, false, false, Ok(1)),
    ] {
        let mut replica = runtime().block_on(Replica::new());
        replica.apply(Op::CreateVolume(pb::CreateVolume { path: "/v".into(), size: MIB }));
        assert_eq!(epoch(&replica.apply(open(1, first, &[], false))), Ok(1));
        let lapsed: &[u64] = if lapsed { &[1] } else { &[] };
        let answer = replica.apply(open(2, second, lapsed, takeover));
        assert_eq!(
            epoch(&answer),
            expected,
            "{second:?} beside {first:?}, lapsed {lapsed:?}, takeover {takeover}"
        );
        // Asking again is no second opening.
        if expected.is_ok() {
            assert_eq!(epoch(&replica.apply(open(2, second, &[], false))), expected);
        }
    }
}

fn segment(replica: &Replica, client: u64, epoch: u64) -> Result<pb::SegmentMap, crate::rows::Refusal> {
    let op = pb::Segment { volume: 1, index: 0, epoch, allocate: false, client };
    crate::placement::segment(replica.reader(), &op)
}

#[test]
fn live_holders_go_on_below_the_epoch_and_displaced_ones_do_not() {
    use pb::OpenMode::Shared;
    let mut replica = runtime().block_on(Replica::new());
    replica.apply(Op::CreateVolume(pb::CreateVolume { path: "/v".into(), size: MIB }));
    for client in [1, 2] {
        assert_eq!(epoch(&replica.apply(open(client, Shared, &[], false))), Ok(1));
    }
    assert_eq!(epoch(&replica.apply(open(3, Shared, &[1], false))), Ok(2), "the lapsed one is displaced");
    assert!(
        segment(&replica, 1, 1).is_err()
            && segment(&replica, 2, 1).is_ok()
            && segment(&replica, 3, 2).is_ok()
    );
    assert!(segment(&replica, 2, 2).is_ok(), "the newest epoch needs no session");
    // A copy of the displaced client's open makes a new session, which says nothing of the old one's requests.
    assert_eq!(epoch(&replica.apply(open(1, Shared, &[], false))), Ok(2));
    assert!(segment(&replica, 1, 1).is_err());
    let sessions = crate::lease::sessions_of(replica.reader(), 1).unwrap();
    assert_eq!(sessions.iter().map(|s| (s.client, s.epoch)).collect::<Vec<_>>(), [(1, 2), (2, 1), (3, 2)]);
}

#[test]
fn breaking_sessions_raises_the_epoch_once() {
    let mut replica = runtime().block_on(Replica::new());
    replica.apply(Op::CreateVolume(pb::CreateVolume { path: "/v".into(), size: MIB }));
    for client in [1, 2] {
        replica.apply(open(client, pb::OpenMode::Shared, &[], false));
    }
    for expected in [2, 2] {
        let op = pb::BreakSessions { path: "/v".into(), clients: vec![1, 9] };
        let Answer::Volume(volume) = replica.apply(Op::BreakSessions(op)) else { panic!("no volume") };
        assert_eq!(volume.epoch, expected);
    }
    assert!(segment(&replica, 1, 1).is_err() && segment(&replica, 2, 1).is_ok());
    let key = |client, epoch| Some(pb::SessionKey { volume: 1, client, epoch });
    // The end of another session of the same client is not this one's.
    replica.apply(Op::Close(pb::Close { session: key(2, 2), drained: false }));
    assert_eq!(crate::lease::sessions_of(replica.reader(), 1).unwrap().len(), 1);
    replica.apply(Op::Close(pb::Close { session: key(2, 1), drained: false }));
    assert_eq!(epoch(&replica.apply(open(3, pb::OpenMode::ReadOnly, &[], false))), Ok(2));
    assert_eq!(epoch(&replica.apply(open(4, pb::OpenMode::Shared, &[], false))), Ok(3), "a stray writer");
}

#[test]
fn late_reports_do_not_bring_old_members_back() {
    let mut replica = runtime().block_on(Replica::new());
    for n in 0..4u8 {
        let register = pb::Register {
            token: vec![n; 16].into(),
            address: format!("h:{n}"),
            block_bytes: 4096,
            chunk_bytes: 16 << 20,
            segment_bytes: 1 << 30,
            ..pb::Register::default()
        };
        replica.apply(Op::Register(register));
    }
    let members = pb::Members { nodes: vec![101, 102, 103] };
    replica.apply(Op::CreateCopysets(state::CreateCopysets { copysets: vec![members] }));
    let report = |term, members_index, members: &[u64]| {
        let members = members.to_vec();
        Op::CopysetChanges(state::CopysetChanges {
            changes: vec![state::CopysetChange { id: 1, term, members_index, members, ..Default::default() }],
        })
    };
    let row = |replica: &Replica| -> state::CopysetRow {
        crate::rows::get(replica.reader(), &crate::keys::copyset(1)).unwrap().unwrap()
    };
    replica.apply(report(3, 9, &[101, 102, 104]));
    assert_eq!((row(&replica).members, row(&replica).version), (vec![101, 102, 104], 2));
    replica.apply(report(2, 20, &[101, 102, 103]));
    replica.apply(report(3, 8, &[101, 102, 103]));
    assert_eq!(row(&replica).members, [101, 102, 104]);
    replica.apply(report(4, 2, &[102, 103, 104]));
    assert_eq!((row(&replica).members, row(&replica).version), (vec![102, 103, 104], 3));
}
