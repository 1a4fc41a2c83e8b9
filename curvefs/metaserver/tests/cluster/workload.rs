//! What clients do: some alone below names of their own, each answer compared with a plain tree; some together in each
//! other's way, of which only the invariants are known.

use std::sync::{Arc, Mutex};

use curvefs_proto::Outcome;
use curvefs_types::{
    Answer, Attr, DataRef, FsError, InodeId, Name, NameOp, Op, PartitionId, Query, Reply, WriterId,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::bed::PARTITIONS;
use crate::client::Client;
use crate::model::{Model, Said, normal};
use crate::ops::Maker;

fn places() -> Vec<PartitionId> {
    (1..=PARTITIONS).map(PartitionId).collect()
}

fn made(outcome: &Outcome<Reply>) -> Option<InodeId> {
    match outcome {
        Ok(Reply::Attr { attr, created: true }) => Some(attr.inode),
        _ => None,
    }
}

/// The leader's clock is not the model's.
fn timeless(attr: Attr) -> Attr {
    Attr { atime: 0, mtime: 0, ctime: 0, ..normal(attr) }
}

/// As in the tests of `curvefs-meta`: which of two errors is found first may differ when they are in two partitions.
fn same(outcome: &Outcome<Reply>, said: &Result<Said, FsError>, model: &Model) -> bool {
    let attr_of = |inode: &InodeId| timeless(model.attr(*inode));
    match (outcome, said) {
        (Err(_), Err(_)) | (Ok(Reply::Done), Ok(Said::Done)) => true,
        (Ok(Reply::Attr { attr, created }), Ok(Said::Inode { inode, created: expected })) => {
            created == expected && timeless(*attr) == attr_of(inode)
        }
        (Ok(Reply::Written { attr, base }), Ok(Said::Written { inode, base: expected })) => {
            base == expected && timeless(*attr) == attr_of(inode)
        }
        (Ok(Reply::Renamed { moved, other }), Ok(Said::Renamed { moved: m, other: o })) => {
            timeless(*moved) == attr_of(m) && other.map(timeless) == o.as_ref().map(attr_of)
        }
        _ => false,
    }
}

/// Gives the names of an operation a client's own beginning.
fn own_names(op: &mut Op, own: &str) {
    let rename = |name: &mut Name| *name = Name::new(format!("{own}{name}")).unwrap();
    let Op::Name { op } = op else { return };
    match op {
        NameOp::Create { name, .. }
        | NameOp::Mkdir { name, .. }
        | NameOp::Unlink { name, .. }
        | NameOp::Rmdir { name, .. }
        | NameOp::Link { name, .. } => rename(name),
        NameOp::Rename { name, new_name, .. } => {
            rename(name);
            rename(new_name);
        }
    }
}

/// Gives written slices a client's own writer: no two mounts have one.
fn own_slices(op: &mut Op, own: u64) {
    let Op::Write { extents, .. } = op else { return };
    for extent in extents {
        if let DataRef::Slice { slice, .. } = &mut extent.data {
            slice.writer = WriterId(100 + own);
        }
    }
}

/// Whether one client alone can know what comes of it.
fn is_private(op: &Op) -> bool {
    match op {
        Op::Name { op: NameOp::Link { inode, .. } } => *inode != InodeId::ROOT,
        Op::Name { .. } => true,
        Op::CopyRange { from, to, .. } => from.slot() == to.slot() && *to != InodeId::ROOT,
        other => other.home() != Some(InodeId::ROOT),
    }
}

/// One client and its plain tree.
pub struct Private {
    pub client: Client,
    model: Model,
    maker: Maker,
    random: StdRng,
    own: String,
}

impl Private {
    pub fn new(client: Client, seed: u64) -> Self {
        let mut maker = Maker::new(places());
        maker.or_open = false;
        let own = format!("p{}-", client.mount.0);
        Self { client, model: Model::new(), maker, random: StdRng::seed_from_u64(seed), own }
    }

    /// Makes changes, each of which is answered as the tree says.
    pub async fn work(&mut self, changes: usize) {
        for n in 0..changes {
            let mut op = self.maker.op(self.random.random());
            own_names(&mut op, &self.own);
            own_slices(&mut op, self.client.mount.0);
            if !is_private(&op) {
                continue;
            }
            let outcome = self.client.change(op.clone()).await;
            if outcome.is_err() {
                let said = self.model.clone().apply(&op, 0, Some(InodeId(u64::MAX)));
                assert!(said.is_err(), "{}{n} {op:?}: {outcome:?}, expected {said:?}", self.own);
                continue;
            }
            let said = self.model.apply(&op, 0, made(&outcome));
            assert!(same(&outcome, &said, &self.model), "{}{n} {op:?}\n {outcome:?}\n {said:?}", self.own);
            self.model.sweep();
            self.maker.known.extend(made(&outcome));
            if self.random.random_bool(0.3) {
                self.look().await;
            }
        }
    }

    /// One inode is as it was left.
    async fn look(&mut self) {
        let known = &self.maker.known;
        let inode = known[self.random.random_range(0..known.len())];
        self.check(inode).await;
    }

    async fn check(&mut self, inode: InodeId) {
        let found = self.client.query(Query::GetAttr { inode }).await;
        let Some(node) = self.model.nodes.get(&inode).cloned() else {
            assert_eq!(found, Err(FsError::NotFound), "{}: {inode} is gone", self.own);
            return;
        };
        let Ok(Answer::Attrs { attrs }) = found else { panic!("{}: {inode}: {found:?}", self.own) };
        if inode != InodeId::ROOT {
            assert_eq!(timeless(attrs[0]), timeless(node.attr), "{}", self.own);
        }
        if node.attr.is_dir() {
            let query = Query::ReadDir { inode, after: None, limit: 1000, plus: false };
            let page = self.client.query(query).await;
            let Ok(Answer::Page { entries, end: true }) = page else { panic!("{}: {page:?}", self.own) };
            let entries = entries.iter().map(|entry| (entry.name.to_string(), entry.dentry.inode));
            let own: Vec<_> = entries.filter(|(name, _)| name.starts_with(&self.own)).collect();
            assert_eq!(own, node.entries.into_iter().collect::<Vec<_>>(), "{}", self.own);
        }
    }

    /// Everything that was acknowledged is there, and nothing else.
    pub async fn check_all(&mut self) {
        for inode in self.maker.known.clone() {
            self.check(inode).await;
        }
    }

    /// Gives up what it holds, so that what has no name can end.
    pub async fn close_all(&mut self) {
        for inode in self.maker.known.clone() {
            let closed = self.client.change(Op::Close { inodes: vec![inode] }).await;
            assert_eq!(closed, Ok(Reply::Done));
            let said = self.model.apply(&Op::Close { inodes: vec![inode] }, 0, None);
            assert_eq!(said, Ok(Said::Done));
        }
        self.model.sweep();
    }
}

/// Changes in each other's way.
pub async fn disturb(mut client: Client, maker: Arc<Mutex<Maker>>, seed: u64, changes: usize) -> Client {
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..changes {
        let mut op = maker.lock().unwrap().op(random.random());
        own_names(&mut op, "all-");
        own_slices(&mut op, 0);
        // The root's attributes are what is born in it, everybody's.
        if op.home().is_none() || !matches!(op, Op::Name { .. }) && op.home() == Some(InodeId::ROOT) {
            continue;
        }
        let outcome = client.change(op.clone()).await;
        let strange = matches!(outcome, Err(FsError::Corrupt | FsError::Forgotten | FsError::Fenced));
        assert!(!strange, "{op:?}: {outcome:?}");
        maker.lock().unwrap().known.extend(made(&outcome));
    }
    client
}

/// What those who disturb share.
pub fn shared_maker() -> Arc<Mutex<Maker>> {
    Arc::new(Mutex::new(Maker::new(places())))
}
