//! A partition as a Raft group's state machine: requests out of the log, outcomes back, rows and marker in one batch.
//!
//! An operation is one encoded `Request`, in the header if it is small, else in the payload; its result is the outcome in
//! the bytes that travel to the mount. A part of a snapshot is a page of rows (`curve_kv::Page`), asked for by the key before
//! it; its header is one byte, 1 when more rows follow. The rows that a partition is born with are rows as any other, so
//! they come with a snapshot, too.
//!
//! **Snapshots in bounded memory.** The source is a view of the store (RocksDB's snapshot: as of one moment, it costs only
//! that overwritten rows stay until it ends), read a page of half a MiB at a time, when the replica asks for it; the replica
//! writes each page to the tables of a new generation. A checkpoint of the files was considered in place of the view: it
//! copies no less over the network, ties the replica to the source's table format and to its whole tables, and leaves a
//! second directory to be removed after a crash.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use curve_io::BoxFuture;
use curve_kv::{Page, Reader, RowsOfPage, Store, WriteBatch};
use curve_multiraft::{Applied, Op, SnapshotFetch, SnapshotPart, SnapshotSource, StateMachine};
use curvefs_meta::{Entry, Outcome, Partition};
use curvefs_proto::outcome_bytes;
use curvefs_types::{FsError, Op as MetaOp, Request, Wire};
use tokio::sync::watch;

use crate::generations::GenerationStore;

/// Larger requests travel as payload, which is not copied and not limited to a frame's header.
const HEADER_BYTES_MAX: usize = 4 << 10;

/// A request as an operation of the group's log.
pub fn op_of(request: &Request) -> Op {
    let bytes = request.encode();
    if bytes.len() <= HEADER_BYTES_MAX {
        Op { header: bytes, payload: Vec::new() }
    } else {
        Op { header: Bytes::new(), payload: vec![bytes] }
    }
}

fn request_of(op: &Op) -> Option<Request> {
    let request = match op.payload.as_slice() {
        [] => Request::decode(&op.header),
        [one] => Request::decode(one),
        many => Request::decode(&many.concat()),
    };
    request.ok()
}

/// Rings when something was applied that others may wait for.
#[derive(Debug, Default)]
pub struct Bells {
    /// A transaction has ended here, or a mount has given something back: what it held is free.
    pub freed: watch::Sender<()>,
    /// Rows may have changed that workers look at; the workers' own changes do not ring.
    pub changed: watch::Sender<()>,
}

impl Bells {
    fn ring(&self, ops: &[&MetaOp]) {
        let freed = |op: &&MetaOp| match op {
            MetaOp::Finish { .. } | MetaOp::Revoke { .. } | MetaOp::ReleaseMount { .. } => true,
            MetaOp::Publish { dirs, .. } => dirs.iter().any(|published| published.give_back),
            _ => false,
        };
        if ops.iter().any(freed) {
            self.freed.send_replace(());
        }
        let own = |op: &&MetaOp| {
            matches!(
                op,
                MetaOp::Settle { .. }
                    | MetaOp::ToldDone { .. }
                    | MetaOp::Drain { .. }
                    | MetaOp::Reclaimed { .. }
                    | MetaOp::Stored { .. }
                    | MetaOp::Forget { .. }
                    | MetaOp::Resolve { .. }
            )
        };
        if !ops.iter().all(own) {
            self.changed.send_replace(());
        }
    }
}

/// The state machine of one replica.
pub struct PartitionMachine {
    partition: Partition,
    store: Arc<GenerationStore>,
    recovered: Option<Bytes>,
    bells: Arc<Bells>,
}

impl PartitionMachine {
    /// Over an open partition, whose rows are in `store`.
    pub fn new(partition: Partition, store: Arc<GenerationStore>, bells: Arc<Bells>) -> io::Result<Self> {
        let recovered = store.applied()?;
        Ok(Self { partition, store, recovered, bells })
    }

    fn apply_all(&self, applied: &[Applied], marker: &[u8]) -> io::Result<Vec<Vec<Bytes>>> {
        let decoded: Vec<Vec<Option<Request>>> =
            applied.iter().map(|entry| entry.ops.iter().map(request_of).collect()).collect();
        let entries: Vec<Entry> = applied
            .iter()
            .zip(&decoded)
            .map(|(entry, requests)| Entry {
                term: entry.term,
                requests: requests.iter().flatten().cloned().collect(),
            })
            .collect();
        let outcomes = self.partition.apply(&entries, Some(marker))?;
        let ops: Vec<&MetaOp> = decoded.iter().flatten().flatten().map(|request| &request.op).collect();
        self.bells.ring(&ops);
        let answers = |(requests, outcomes): (&Vec<Option<Request>>, Vec<Outcome>)| {
            let mut outcomes = outcomes.into_iter();
            let answer = |request: &Option<Request>| match request {
                Some(_) => outcomes.next().unwrap_or(Err(FsError::Corrupt)),
                // Written by a newer program; every replica says so.
                None => Err(FsError::Corrupt),
            };
            requests.iter().map(answer).map(|outcome| outcome_bytes(&outcome)).collect()
        };
        Ok(decoded.iter().zip(outcomes).map(answers).collect())
    }
}

impl StateMachine for PartitionMachine {
    fn recovered(&self) -> Option<Bytes> {
        self.recovered.clone()
    }

    fn apply(&mut self, entries: Vec<Applied>, marker: Bytes) -> BoxFuture<'_, io::Result<Vec<Vec<Bytes>>>> {
        Box::pin(std::future::ready(self.apply_all(&entries, &marker)))
    }

    fn checkpoint(&mut self) -> BoxFuture<'static, io::Result<()>> {
        let flush = self.store.flush();
        Box::pin(async move { Ok(flush.await?) })
    }

    fn snapshot(&mut self) -> BoxFuture<'_, io::Result<Arc<dyn SnapshotSource>>> {
        let source = self.store.view().map(|view| -> Arc<dyn SnapshotSource> { Arc::new(Source { view }) });
        Box::pin(std::future::ready(source.map_err(io::Error::from)))
    }

    fn install(&mut self, fetch: Arc<dyn SnapshotFetch>, marker: Bytes) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            install(&self.store, &*fetch, &marker).await?;
            self.bells.freed.send_replace(());
            self.bells.changed.send_replace(());
            Ok(())
        })
    }
}

struct Source {
    view: Arc<dyn Reader>,
}

impl SnapshotSource for Source {
    fn read(&self, request: Bytes) -> BoxFuture<'_, io::Result<SnapshotPart>> {
        let page = Page::read(&*self.view, &request);
        let part = page.map(|page| SnapshotPart {
            header: Bytes::from(vec![u8::from(page.more)]),
            payload: vec![page.rows],
        });
        Box::pin(std::future::ready(part.map_err(io::Error::from)))
    }
}

/// Fills a new generation, a page at a time, and lets it count when it is whole.
async fn install(store: &GenerationStore, fetch: &dyn SnapshotFetch, marker: &[u8]) -> io::Result<()> {
    let next = store.begin().await?;
    let mut after = Bytes::new();
    loop {
        let part = fetch.read(after.clone()).await?;
        let mut batch = WriteBatch::new();
        for row in part.payload.into_iter().flat_map(RowsOfPage::new) {
            let (key, value) = row?;
            after = key.clone();
            batch.put(key, value);
        }
        let more = part.header.first() == Some(&1);
        if more && batch.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a part of a snapshot has no rows"));
        }
        next.add(batch)?;
        if !more {
            break;
        }
    }
    store.adopt(next, marker).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use curve_io::sim::{SimDisk, SimDiskConfig};
    use curve_types::{Epoch, LogIndex, Sequence, Term};
    use curvefs_meta::{Birth, check};
    use curvefs_proto::outcome_of;
    use curvefs_types::{FsId, InodeId, Kind, MountId, Name, NameOp, NewInode, PartitionId, Reply};

    use super::*;
    use crate::generations::tests::open as open_store;

    async fn machine(disk: &SimDisk) -> PartitionMachine {
        let store = Arc::new(open_store(disk).await);
        let partition = Partition::open(store.clone(), &Birth::of_slot(FsId(1), PartitionId(1), 0)).unwrap();
        PartitionMachine::new(partition, store, Arc::default()).unwrap()
    }

    fn disk() -> SimDisk {
        SimDisk::new(SimDiskConfig::default())
    }

    fn mkdir(sequence: u64, bytes: usize) -> Request {
        let xattrs = (bytes > 0).then(|| curvefs_types::Xattr {
            name: curvefs_types::XattrName::new("user.big").unwrap(),
            value: vec![7; bytes].into(),
        });
        let new = NewInode {
            kind: Kind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            rdev: 0,
            target: Bytes::new(),
            xattrs: xattrs.into_iter().collect(),
        };
        let name = Name::new(format!("dir-{sequence}")).unwrap();
        Request {
            mount: MountId(1),
            epoch: Epoch(1),
            sequence: Sequence(sequence),
            ack_below: Sequence(0),
            now_ns: sequence as i64,
            op: NameOp::Mkdir { parent: InodeId::ROOT, name, new, place: None }.into(),
        }
    }

    fn entry(index: u64, requests: &[Request]) -> Applied {
        Applied { index: LogIndex(index), term: Term(1), ops: requests.iter().map(op_of).collect() }
    }

    #[tokio::test]
    async fn requests_of_all_sizes_are_applied_once_and_strange_ones_answered() {
        let disk = disk();
        let mut machine = machine(&disk).await;
        assert_eq!(machine.recovered(), None);
        let mut strange = entry(2, &[mkdir(2, 0)]);
        strange.ops.insert(0, Op { header: Bytes::from_static(b"what"), payload: Vec::new() });
        let big = mkdir(1, 60 << 10);
        assert!(!op_of(&big).payload.is_empty());
        let entries = vec![entry(1, &[big.clone(), big]), strange];
        let answers = machine.apply(entries, "m".into()).await.unwrap();
        let answer = |at: usize, op: usize| outcome_of::<Reply>(&answers[at][op]).unwrap();
        assert!(answer(0, 0).is_ok());
        assert_eq!(answer(0, 0), answer(0, 1));
        assert_eq!(answer(1, 0), Err(FsError::Corrupt));
        assert!(answer(1, 1).is_ok());
        machine.checkpoint().await.unwrap();
        drop(machine);
        disk.crash();
        let machine = self::machine(&disk).await;
        assert_eq!(machine.recovered(), Some("m".into()));
    }

    struct Direct(Arc<dyn SnapshotSource>);

    impl SnapshotFetch for Direct {
        fn read(&self, request: Bytes) -> BoxFuture<'_, io::Result<SnapshotPart>> {
            self.0.read(request)
        }
    }

    #[tokio::test]
    async fn an_installed_replica_equals_its_source_and_goes_on() {
        let (from_disk, to_disk) = (disk(), disk());
        let (mut from, mut to) = (machine(&from_disk).await, machine(&to_disk).await);
        to.apply(vec![entry(1, &[mkdir(9, 0)])], "old".into()).await.unwrap();
        for n in 1..40 {
            from.apply(vec![entry(n, &[mkdir(n, 60 << 10)])], "new".into()).await.unwrap();
        }
        let fetch = Arc::new(Direct(from.snapshot().await.unwrap()));
        to.install(fetch, "new".into()).await.unwrap();
        to_disk.crash();
        drop(to);
        let mut to = machine(&to_disk).await;
        assert_eq!(to.recovered(), Some("new".into()));
        for machine in [&mut from, &mut to] {
            machine.apply(vec![entry(50, &[mkdir(50, 0)])], "more".into()).await.unwrap();
        }
        assert_eq!(check::dump(&*from.store).unwrap(), check::dump(&*to.store).unwrap());
        assert!(check::problems(&[&to.partition], false).unwrap().is_empty());
    }
}
