//! A partition: its state machine over a store.

use std::sync::Arc;

use curve_kv::{KvError, Store, Txn};
use curve_types::Term;
use curvefs_types::keys::Key;
use curvefs_types::{
    Answer, Ask, Attr, DIRECTORY_BYTES, Dentry, FsError, FsId, InodeId, Kind, MountId, NameOp, Part,
    PartitionId, Reply, Request, TimeNs, Usage, Wire,
};

use crate::apply::apply_one;
use crate::fail::Fail;
use crate::mounts::{Outcome, admit};
use crate::others::{Others, Planning, Walk};
use crate::query::Asking;
use crate::rows::{Header, InodeRange, UsageRow};
use crate::step::{Change, TxnView};
use crate::view::View;

/// What a partition is born with: the same on every replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Birth {
    /// The file system.
    pub fs: FsId,
    /// Its own id.
    pub partition: PartitionId,
    /// Where it makes inodes; slot 0 has the root.
    pub slot: u32,
    /// The inodes it holds, those of its slot among them.
    pub ranges: Vec<InodeRange>,
    /// The time of birth.
    pub now_ns: TimeNs,
    /// Owner, group and mode of the root.
    pub root: (u32, u32, u32),
}

impl Birth {
    /// A partition that holds a slot and nothing else.
    pub fn of_slot(fs: FsId, partition: PartitionId, slot: u32) -> Self {
        let first = InodeId(u64::from(slot) << curvefs_types::SERIAL_BITS);
        let last = InodeId(first.0 | ((1 << curvefs_types::SERIAL_BITS) - 1));
        Self { fs, partition, slot, ranges: vec![InodeRange { first, last }], now_ns: 0, root: (0, 0, 0o755) }
    }
}

/// The requests of one log entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The term in which it was proposed.
    pub term: Term,
    /// Requests, in order.
    pub requests: Vec<Request>,
}

/// What an operation over several partitions needs of the others.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// Parts, in the order in which each partition has to do its own.
    pub parts: Vec<Part>,
    /// Where `MakeDir` goes.
    pub place: Option<PartitionId>,
    /// Walks to make with `LockTree` held.
    pub walks: Vec<Walk>,
}

/// How a request is to be run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Route {
    /// It was applied before: this is the answer.
    Known(Outcome),
    /// Propose it as it is.
    Alone,
    /// A rename from elsewhere: look the source up there and ask again.
    NeedsSource,
    /// Coordinate it.
    Across(Plan),
}

/// A partition of a file system's metadata: requests in, replies out, rows in a store. Owns nothing but the store, so that
/// it can be made again at any time from what is there.
///
/// Requests of many entries become one batch with the marker, so a crash leaves the state after whole entries. Apply
/// reads its rows and the request and nothing else: every replica ends with the same rows.
#[derive(Clone)]
pub struct Partition {
    store: Arc<dyn Store>,
}

impl Partition {
    /// Over a store, which is given the partition's first rows if it is empty.
    pub fn open(store: Arc<dyn Store>, birth: &Birth) -> Result<Self, KvError> {
        if store.get(&Key::Header {}.encode())?.is_none() {
            let mut txn = Txn::new(&*store);
            bear(&mut txn, birth);
            txn.keep();
            let batch = txn.into_batch();
            store.write(batch, None)?;
        }
        Ok(Self { store })
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Applies entries, and sets the marker, in one step.
    pub fn apply(&self, entries: &[Entry], marker: Option<&[u8]>) -> Result<Vec<Vec<Outcome>>, KvError> {
        let mut txn = Txn::new(&*self.store);
        let mut outcomes = Vec::with_capacity(entries.len());
        for entry in entries {
            let each = entry.requests.iter().map(|request| apply_one(&mut txn, entry.term, request));
            outcomes.push(each.collect::<Result<_, _>>()?);
        }
        self.store.write(txn.into_batch(), marker)?;
        Ok(outcomes)
    }

    /// Answers a question. What it touches of a transaction gives `Busy`: ask again when that has gone on.
    pub fn query(&self, ask: &Ask) -> Result<Result<Answer, FsError>, KvError> {
        let view = self.store.view()?;
        split(Asking::new(&*view, ask.mount).and_then(|asking| asking.answer(ask)))
    }

    /// The mount that a directory is delegated to.
    pub fn holder_of(&self, dir: InodeId) -> Result<Option<MountId>, KvError> {
        let row = self.store.get(&Key::Delegation { dir }.encode())?;
        Ok(row.and_then(|row| MountId::from_row(&row).ok()))
    }

    /// The answer to a request that was applied before, or what forbids it.
    pub fn known(&self, request: &Request) -> Result<Option<Outcome>, KvError> {
        let view = self.store.view()?;
        let txn = Txn::new(&*view);
        let known = split(admit(&txn, request))?;
        Ok(known.unwrap_or_else(|error| Some(Err(error))))
    }

    /// How a request is to be run. `source` is what a rename's source names, if that was looked up elsewhere.
    pub fn route(&self, request: &Request, source: Option<Dentry>) -> Result<Route, KvError> {
        // Entries may be applied meanwhile.
        let view = self.store.view()?;
        let mut txn = Txn::new(&*view);
        match split(admit(&txn, request))? {
            Ok(None) => {}
            Ok(Some(outcome)) => return Ok(Route::Known(outcome)),
            Err(error) => return Ok(Route::Known(Err(error))),
        }
        let curvefs_types::Op::Name { op } = &request.op else { return Ok(Route::Alone) };
        if let NameOp::Rename { parent, .. } = op {
            let header = split(TxnView(&txn).header())?;
            if source.is_none()
                && header.is_ok_and(|header| !header.holds(*parent) && header.holds(op.home()))
            {
                return Ok(Route::NeedsSource);
            }
        }
        let (done, plan) = plan(&mut txn, request, op, source);
        let planned = split(done)?;
        txn.discard();
        // A partition alone cannot say again what it knows from another one, or what it found behind something that another one has
        // to do: it would only say `Busy`, for ever. And nothing has changed.
        let with_others = source.is_some() || !plan.parts.is_empty();
        Ok(match planned {
            Ok(()) if !plan.parts.is_empty() => Route::Across(plan),
            Err(error @ (FsError::Busy | FsError::Delegated { .. })) => Route::Known(Err(error)),
            Ok(()) if with_others => Route::Known(Ok(Reply::Done)),
            Err(error) if with_others => Route::Known(Err(error)),
            // What fails alone is proposed, so that the answer is remembered.
            Ok(()) | Err(_) => Route::Alone,
        })
    }
}

/// A dry run: how it ends, and what it needs of others up to there.
fn plan(
    txn: &mut Txn<'_>,
    request: &Request,
    op: &NameOp,
    source: Option<Dentry>,
) -> (Result<(), Fail>, Plan) {
    let planning = Others::Planning(Planning { source, ..Planning::default() });
    let mut change = match Change::begin(txn, request.now_ns, request.mount, Term(0), planning) {
        Ok(change) => change,
        Err(failed) => return (Err(failed), Plan::default()),
    };
    let done = change.name_op(op).map(drop);
    let Others::Planning(planning) = change.others else { unreachable!("planning stays planning") };
    (done, Plan { parts: planning.parts, place: planning.place, walks: planning.walks })
}

fn split<T>(step: Result<T, Fail>) -> Result<Result<T, FsError>, KvError> {
    match step {
        Ok(value) => Ok(Ok(value)),
        Err(Fail::Fs(error)) => Ok(Err(error)),
        Err(Fail::Store(error)) => Err(error),
    }
}

fn bear(txn: &mut Txn<'_>, birth: &Birth) {
    let is_root = birth.slot == InodeId::ROOT.slot();
    let header = Header {
        fs: birth.fs,
        partition: birth.partition,
        ranges: birth.ranges.clone(),
        slot: birth.slot,
        next_serial: if is_root { InodeId::ROOT.serial() + 1 } else { 1 },
        totals: if is_root { Usage::DIRECTORY } else { Usage::default() },
        staged: 0,
    };
    txn.put(Key::Header {}.encode(), header.to_row());
    if !is_root {
        return;
    }
    let (uid, gid, mode) = birth.root;
    let root = Attr {
        inode: InodeId::ROOT,
        kind: Kind::Directory,
        mode,
        uid,
        gid,
        nlink: 2,
        rdev: 0,
        flags: 0,
        length: DIRECTORY_BYTES,
        allocated: 0,
        atime: birth.now_ns,
        mtime: birth.now_ns,
        ctime: birth.now_ns,
        parent: InodeId::ROOT,
        version: 1,
        generation: 1,
    };
    txn.put(Key::Inode { inode: InodeId::ROOT }.encode(), root.to_row());
    let usage = UsageRow { version: 1, ..UsageRow::default() };
    txn.put(Key::Usage { dir: InodeId::ROOT }.encode(), usage.to_row());
}

/// A request of the servers themselves.
pub fn server_request(now_ns: TimeNs, op: curvefs_types::Op) -> Request {
    Request {
        mount: MountId::SERVERS,
        epoch: Default::default(),
        sequence: Default::default(),
        ack_below: Default::default(),
        now_ns,
        op,
    }
}
