//! One partition against a plain tree: every reply and the final state; requests repeated; replicas that batch
//! differently or start again in between end with the same rows.

mod support;

use bytes::Bytes;
use curve_types::{Epoch, Sequence, Term};
use curvefs_meta::{Entry, Outcome, Partition, check, server_request};
use curvefs_types::{Answer, Ask, FsError, InodeId, MountId, Op, Query, Reply, Request};
use proptest::prelude::*;
use support::model::{Model, Said, cells, normal};
use support::ops::{Maker, Seed};

fn request(sequence: u64, op: Op) -> Request {
    Request {
        mount: MountId(1),
        epoch: Epoch(1),
        sequence: Sequence(sequence),
        ack_below: Sequence(sequence.saturating_sub(3)),
        now_ns: 1_000 + sequence as i64,
        op,
    }
}

fn apply(partition: &Partition, request: &Request) -> Outcome {
    let entry = Entry { term: Term(1), requests: vec![request.clone()] };
    partition.apply(&[entry], None).unwrap().remove(0).remove(0)
}

fn ask(partition: &Partition, query: Query) -> Result<Answer, FsError> {
    partition.query(&Ask { mount: MountId(1), epoch: Epoch(1), query }).unwrap()
}

/// Compares a reply with what the model said, whose state is that after the operation.
fn compare(op: &Op, outcome: &Outcome, said: &Result<Said, FsError>, model: &Model) {
    let same = match (outcome, said) {
        (Err(error), Err(expected)) => error == expected,
        (Ok(Reply::Done), Ok(Said::Done)) => true,
        (Ok(Reply::Attr { attr, created }), Ok(Said::Inode { inode, created: expected })) => {
            created == expected && normal(*attr) == model.attr(*inode)
        }
        (Ok(Reply::Written { attr, base }), Ok(Said::Written { inode, base: expected })) => {
            base == expected && normal(*attr) == model.attr(*inode)
        }
        (
            Ok(Reply::Renamed { moved, other }),
            Ok(Said::Renamed { moved: expected, other: other_expected }),
        ) => {
            normal(*moved) == model.attr(*expected)
                && other.map(normal) == other_expected.map(|inode| model.attr(inode))
        }
        _ => false,
    };
    assert!(same, "{op:?}\n  said {outcome:?}\n  expected {said:?} {model:#?}");
}

fn made(outcome: &Outcome) -> Option<InodeId> {
    match outcome {
        Ok(Reply::Attr { attr, created: true }) => Some(attr.inode),
        _ => None,
    }
}

fn compare_states(partition: &Partition, model: &Model, known: &[InodeId]) {
    for inode in known {
        let found = ask(partition, Query::GetAttr { inode: *inode });
        let Some(node) = model.nodes.get(inode) else {
            assert_eq!(found, Err(FsError::NotFound), "{inode} is gone");
            continue;
        };
        let Ok(Answer::Attrs { attrs }) = found else { panic!("{inode}: {found:?}") };
        assert_eq!(normal(attrs[0]), model.attr(*inode));
        if node.attr.is_dir() {
            let mut names = Vec::new();
            let mut after = None;
            loop {
                let query = Query::ReadDir { inode: *inode, after, limit: 2, plus: true };
                let Ok(Answer::Page { entries, end }) = ask(partition, query) else { panic!("no page") };
                names.extend(entries.iter().map(|entry| (entry.name.to_string(), entry.dentry.inode)));
                after = entries.last().map(|entry| entry.name.clone());
                if end {
                    break;
                }
            }
            assert_eq!(names, node.entries.clone().into_iter().collect::<Vec<_>>());
        }
        let query = Query::Extents { inode: *inode, offset: 0, len: u64::MAX, limit: 1000 };
        let Ok(Answer::Extents { extents, .. }) = ask(partition, query) else { panic!("no extents") };
        let mut expected = node.cells.clone();
        while expected.last() == Some(&None) {
            expected.pop();
        }
        assert_eq!(cells(&extents), expected);
        let Ok(Answer::Names { names }) = ask(partition, Query::ListXattr { inode: *inode }) else {
            panic!()
        };
        assert_eq!(
            names.iter().map(ToString::to_string).collect::<Vec<_>>(),
            node.xattrs.keys().cloned().collect::<Vec<_>>()
        );
    }
}

fn settle(partition: &Partition) {
    while apply(partition, &server_request(9, Op::Settle { limit: 3 })) != Ok(Reply::Progress { more: false })
    {
    }
}

fn follow(seeds: &[Seed]) {
    let partition = support::partition(0);
    let mut model = Model::new();
    let mut maker = Maker::new(Vec::new());
    let mut log = Vec::new();
    for (n, seed) in seeds.iter().enumerate() {
        let request = request(n as u64 + 1, maker.op(*seed));
        let outcome = apply(&partition, &request);
        let said = model.apply(&request.op, request.now_ns, made(&outcome));
        compare(&request.op, &outcome, &said, &model);
        model.sweep();
        maker.known.extend(made(&outcome));
        log.push(request.clone());
        if seed[7].is_multiple_of(4) {
            assert_eq!(apply(&partition, &request), outcome, "the first answer again");
            log.push(request);
        }
        let problems = check::problems(&[&partition], false).unwrap();
        assert!(problems.is_empty(), "after {:?}: {problems:#?}", log.last());
    }
    compare_states(&partition, &model, &maker.known);
    same_rows_otherwise(&partition, &log);
    settle(&partition);
    let problems = check::problems(&[&partition], true).unwrap();
    assert!(problems.is_empty(), "{problems:#?}");
}

/// Another replica gets everything in few entries, and is restarted (from its store) between.
fn same_rows_otherwise(partition: &Partition, log: &[Request]) {
    let store = support::store();
    for part in log.chunks(17) {
        let other = Partition::open(store.clone(), &support::birth(0)).unwrap();
        let entries: Vec<_> =
            part.chunks(5).map(|some| Entry { term: Term(1), requests: some.to_vec() }).collect();
        other.apply(&entries, None).unwrap();
    }
    assert_eq!(check::dump(&**partition.store()).unwrap(), check::dump(&*store).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_partition_is_a_plain_tree(seeds in prop::collection::vec(any::<Seed>(), 1..90)) {
        follow(&seeds);
    }
}

/// Entries applied again after a crash, on a state that already has none of them: what was flushed has its marker.
#[test]
fn a_restart_replays_from_the_marker() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let store = std::sync::Arc::new(curve_kv::RocksStore::open(dir.path()).unwrap());
        Partition::open(store, &support::birth(0)).unwrap()
    };
    let mut maker = Maker::new(Vec::new());
    let requests: Vec<_> = (0..60u8)
        .map(|n| request(u64::from(n) + 1, maker.op([n % 9, 0, n, n, n.wrapping_mul(7), n, n, 0])))
        .collect();
    let entries: Vec<_> =
        requests.iter().map(|r| Entry { term: Term(1), requests: vec![r.clone()] }).collect();
    let partition = open();
    for (n, entry) in entries.iter().enumerate().take(40) {
        partition.apply(std::slice::from_ref(entry), Some(&[n as u8 + 1])).unwrap();
    }
    support::runtime().block_on(partition.store().flush()).unwrap();
    partition.apply(&entries[40..50], Some(&[50])).unwrap();
    drop(partition);
    let again = open();
    let applied = again.store().applied().unwrap().unwrap();
    assert!(
        applied == Bytes::from_static(&[40]) || applied == Bytes::from_static(&[50]),
        "a whole batch: {applied:?}"
    );
    again.apply(&entries[usize::from(applied[0])..], Some(&[60])).unwrap();
    let straight = support::partition(0);
    straight.apply(&entries, None).unwrap();
    assert_eq!(check::dump(&**again.store()).unwrap(), check::dump(&**straight.store()).unwrap());
}
