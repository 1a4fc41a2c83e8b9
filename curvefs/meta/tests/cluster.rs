//! Operations over several partitions, while messages are lost, repeated and reordered and leaders die.

mod support;

use curve_types::{Epoch, Sequence};
use curvefs_meta::Outcome;
use curvefs_types::{Answer, FsError, InodeId, MountId, NameOp, Op, Query, RenameMode, Reply, Request};
use proptest::prelude::*;
use support::model::{Model, Said, normal};
use support::net::{Faults, Net};
use support::ops::{Maker, Seed};

fn request(mount: u64, sequence: u64, op: Op) -> Request {
    Request {
        mount: MountId(mount),
        epoch: Epoch(1),
        sequence: Sequence(sequence),
        ack_below: Sequence(sequence),
        now_ns: 1_000 + sequence as i64,
        op,
    }
}

fn made(outcome: &Outcome) -> Option<InodeId> {
    match outcome {
        Ok(Reply::Attr { attr, created: true }) => Some(attr.inode),
        _ => None,
    }
}

/// As in `model.rs`, but which of two errors is found first may differ when they are in two partitions.
fn same(outcome: &Outcome, said: &Result<Said, FsError>, model: &Model) -> bool {
    match (outcome, said) {
        (Err(_), Err(_)) | (Ok(Reply::Done), Ok(Said::Done)) => true,
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
    }
}

/// What a partition cannot do, the model can: it knows no partitions.
fn is_of_one_partition(op: &Op) -> bool {
    match op {
        Op::CopyRange { from, to, .. } => from.slot() == to.slot(),
        _ => true,
    }
}

/// As a leader does it: what is in the way goes away by itself, so the answer is some day another than `Busy`.
fn ask_until_known(net: &mut Net, ticket: u64, request: &Request) -> Outcome {
    for _ in 0..50 {
        net.submit(ticket, request.clone());
        let outcome = net.run_to_answer(ticket);
        if outcome != Err(FsError::Busy) {
            return outcome;
        }
    }
    panic!("{:?} is never answered", request.op);
}

/// One client, whose every answer is compared with the plain tree.
fn follow(seeds: &[Seed], seed: u64, faults: Faults) {
    let mut net = Net::new(3, seed, faults);
    let mut model = Model::new();
    let mut maker = Maker::new(net.places());
    maker.or_open = false;
    for (n, seed) in seeds.iter().enumerate() {
        let op = maker.op(*seed);
        if !is_of_one_partition(&op) {
            continue;
        }
        let request = request(1, n as u64 + 1, op);
        let outcome = ask_until_known(&mut net, n as u64, &request);
        if let (Err(_), None) = (&outcome, made(&outcome)) {
            let mut copy = model.clone();
            let said = copy.apply(&request.op, request.now_ns, Some(InodeId(u64::MAX)));
            assert!(said.is_err(), "{:?}: {outcome:?}, expected {said:?}", request.op);
            continue;
        }
        let said = model.apply(&request.op, request.now_ns, made(&outcome));
        assert!(same(&outcome, &said, &model), "{:?}\n {outcome:?}\n {said:?}\n {model:#?}", request.op);
        model.sweep();
        maker.known.extend(made(&outcome));
    }
    let problems = net.quiesce();
    assert!(problems.is_empty(), "{problems:#?}");
    compare_states(&net, &model, &maker.known);
}

fn compare_states(net: &Net, model: &Model, known: &[InodeId]) {
    for inode in known {
        let found = net.ask_home(Query::GetAttr { inode: *inode });
        let Some(node) = model.nodes.get(inode) else {
            assert_eq!(found, Err(FsError::NotFound), "{inode} is gone");
            continue;
        };
        let Ok(Answer::Attrs { attrs }) = found else { panic!("{inode}: {found:?}") };
        assert_eq!(normal(attrs[0]), model.attr(*inode));
        if node.attr.is_dir() {
            let query = Query::ReadDir { inode: *inode, after: None, limit: 100, plus: false };
            let Ok(Answer::Page { entries, .. }) = net.ask_home(query) else { panic!("no page") };
            let names: Vec<_> = entries.iter().map(|e| (e.name.to_string(), e.dentry.inode)).collect();
            assert_eq!(names, node.entries.clone().into_iter().collect::<Vec<_>>());
        }
    }
}

/// Several clients at once, of which only the invariants are known.
fn together(seeds: &[Seed], seed: u64) {
    const CLIENTS: u64 = 4;
    let mut net = Net::new(3, seed, Faults::MANY);
    let mut maker = Maker::new(net.places());
    // Tickets are never used again: a late answer to an old request is nobody's.
    let mut tickets = [None; CLIENTS as usize];
    for (n, bytes) in seeds.iter().enumerate() {
        let n = n as u64 + 1;
        let client = n % CLIENTS;
        if let Some(ticket) = tickets[client as usize].replace(n) {
            maker.known.extend(made(&net.run_to_answer(ticket)));
        }
        net.submit(n, request(client + 1, n, maker.op(*bytes)));
        for _ in 0..bytes[7] % 8 {
            net.step();
        }
    }
    let problems = net.quiesce();
    assert!(problems.is_empty(), "{problems:#?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn partitions_are_a_plain_tree(seeds in prop::collection::vec(any::<Seed>(), 1..60), seed: u64) {
        follow(&seeds, seed, Faults::NONE);
    }

    #[test]
    fn partitions_are_a_plain_tree_whatever_fails(seeds in prop::collection::vec(any::<Seed>(), 1..60), seed: u64) {
        follow(&seeds, seed, Faults::MANY);
    }

    #[test]
    fn invariants_hold_with_many_clients(seeds in prop::collection::vec(any::<Seed>(), 1..100), seed: u64) {
        together(&seeds, seed);
    }
}

fn mkdir(net: &mut Net, n: u64, parent: InodeId, name: &str, place: u32) -> InodeId {
    let new = curvefs_types::NewInode::plain(curvefs_types::Kind::Directory, 0o755);
    let name = name.try_into().unwrap();
    let op = NameOp::Mkdir { parent, name, new, place: Some(curvefs_types::PartitionId(place)) };
    net.submit(n, request(1, n, op.into()));
    made(&net.run_to_answer(n)).unwrap()
}

/// Two clients move two directories below each other at the same time. One of them must not.
#[test]
fn two_moves_make_no_cycle() {
    for seed in 0..200 {
        let mut net = Net::new(3, seed, Faults::NONE);
        let a = mkdir(&mut net, 1, InodeId::ROOT, "a", 2);
        let b = mkdir(&mut net, 2, InodeId::ROOT, "b", 3);
        let below = |name: &str, new_parent| NameOp::Rename {
            parent: InodeId::ROOT,
            name: name.try_into().unwrap(),
            new_parent,
            new_name: "x".try_into().unwrap(),
            mode: curvefs_types::RenameMode::Replace,
        };
        net.submit(3, request(1, 3, below("a", b).into()));
        net.submit(4, request(2, 1, below("b", a).into()));
        let (first, second) = (net.run_to_answer(3), net.run_to_answer(4));
        assert!(first.is_ok() != second.is_ok(), "seed {seed}: {first:?} {second:?}");
        let problems = net.quiesce();
        assert!(problems.is_empty(), "seed {seed}: {problems:#?}");
    }
}

/// What fails behind the point where another partition is needed: a directory moved onto one that is not empty, which needs
/// the lock on moves from the root's partition.
#[test]
fn a_failure_behind_what_others_have_to_do_is_answered() {
    let mut net = Net::new(3, 1, Faults::NONE);
    let top = mkdir(&mut net, 1, InodeId::ROOT, "top", 2);
    let from = mkdir(&mut net, 2, top, "from", 2);
    mkdir(&mut net, 3, from, "moved", 2);
    let full = mkdir(&mut net, 4, top, "full", 2);
    mkdir(&mut net, 5, full, "child", 2);
    let op = NameOp::Rename {
        parent: from,
        name: "moved".try_into().unwrap(),
        new_parent: top,
        new_name: "full".try_into().unwrap(),
        mode: RenameMode::Replace,
    };
    let outcome = ask_until_known(&mut net, 6, &request(1, 6, op.into()));
    assert_eq!(outcome, Err(FsError::NotEmpty));
}
