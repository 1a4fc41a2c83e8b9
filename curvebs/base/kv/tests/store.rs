//! What every store must do, run on both; and what a crash may leave of the in-memory one.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use curve_io::sim::{DiskFault, SimDisk, SimDiskConfig};
use curve_kv::{KeyRange, KvError, MemStore, Reader, RocksStore, Store, Txn, WriteBatch};
use proptest::prelude::{Strategy, any, prop_assert_eq, prop_oneof, proptest};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn mem() -> Arc<dyn Store> {
    Arc::new(MemStore::open(SimDisk::new(SimDiskConfig::default()).mount(), "kv").await.unwrap())
}

fn rocks(dir: &tempfile::TempDir) -> Arc<dyn Store> {
    Arc::new(RocksStore::open(dir.path()).unwrap())
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    DeleteRange(u8, u8),
    Write(Option<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (any::<u8>(), any::<u8>()).prop_map(|(k, v)| Step::Put(k, v)),
        any::<u8>().prop_map(Step::Delete),
        (any::<u8>(), any::<u8>()).prop_map(|(a, b)| Step::DeleteRange(a.min(b), a.max(b))),
        any::<Option<u8>>().prop_map(Step::Write),
    ]
}

fn key(k: u8) -> Bytes {
    Bytes::from(format!("k{k:03}"))
}

fn follow(store: &dyn Store, steps: &[Step]) {
    let mut model: BTreeMap<Bytes, Bytes> = BTreeMap::new();
    let mut written = (model.clone(), None);
    let mut batch = WriteBatch::new();
    for step in steps {
        match *step {
            Step::Put(k, v) => {
                batch.put(key(k), vec![v]);
                model.insert(key(k), Bytes::from(vec![v]));
            }
            Step::Delete(k) => {
                batch.delete(key(k));
                model.remove(&key(k));
            }
            Step::DeleteRange(a, b) => {
                batch.delete_range(KeyRange { from: key(a), to: Some(key(b)) });
                model.retain(|k, _| *k < key(a) || *k >= key(b));
            }
            Step::Write(marker) => {
                let before = store.view().unwrap();
                store.write(std::mem::take(&mut batch), marker.as_ref().map(std::slice::from_ref)).unwrap();
                assert_eq!(
                    before.scan(&KeyRange::all(), usize::MAX).unwrap(),
                    rows(&written.0),
                    "a view stays"
                );
                written = (model.clone(), marker.or(written.1));
            }
        }
        assert_eq!(store.scan(&KeyRange::all(), usize::MAX).unwrap(), rows(&written.0));
        assert_eq!(store.applied().unwrap(), written.1.map(|m| Bytes::from(vec![m])));
    }
    for k in 0..=255 {
        assert_eq!(store.get(&key(k)).unwrap(), written.0.get(&key(k)).cloned());
    }
    let some = store.scan(&KeyRange::prefix("k1"), 5).unwrap();
    let expected: Vec<_> =
        rows(&written.0).into_iter().filter(|(k, _)| k.starts_with(b"k1")).take(5).collect();
    assert_eq!(some, expected);
}

fn rows(model: &BTreeMap<Bytes, Bytes>) -> Vec<(Bytes, Bytes)> {
    model.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
}

proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(40))]

    #[test]
    fn both_stores_follow_the_model(steps in proptest::collection::vec(step(), 0..40)) {
        runtime().block_on(async {
            follow(&*mem().await, &steps);
            let dir = tempfile::tempdir().unwrap();
            follow(&*rocks(&dir), &steps);
        });
    }

    #[test]
    fn a_transaction_reads_its_own_changes(
        base in proptest::collection::btree_map(0u8..20, any::<u8>(), 0..15),
        changes in proptest::collection::vec((0u8..20, any::<Option<u8>>(), any::<bool>()), 0..20),
        limit in 0usize..12,
    ) {
        runtime().block_on(async {
            let store = mem().await;
            let mut batch = WriteBatch::new();
            let mut model: BTreeMap<Bytes, Bytes> = BTreeMap::new();
            for (k, v) in base {
                batch.put(key(k), vec![v]);
                model.insert(key(k), vec![v].into());
            }
            store.write(batch, None).unwrap();
            let mut txn = Txn::new(&*store);
            for (k, v, keep) in changes {
                let before = model.clone();
                match v {
                    Some(v) => { txn.put(key(k), vec![v]); model.insert(key(k), vec![v].into()); }
                    None => { txn.delete(key(k)); model.remove(&key(k)); }
                }
                assert_eq!(txn.get(&key(k)).unwrap(), model.get(&key(k)).cloned());
                if keep { txn.keep() } else { txn.discard(); model = before; }
                let expected: Vec<_> = rows(&model).into_iter().take(limit).collect();
                assert_eq!(txn.scan(&KeyRange::all(), limit).unwrap(), expected);
            }
            store.write(txn.into_batch(), Some(b"m")).unwrap();
            prop_assert_eq!(store.scan(&KeyRange::all(), usize::MAX).unwrap(), rows(&model));
            Ok(())
        })?;
    }

    #[test]
    fn a_crash_leaves_what_was_flushed_or_is_newer_and_whole(flush_at in 0u8..20, crash_in_flush in any::<bool>(), seed in any::<u64>()) {
        runtime().block_on(async {
            let disk = SimDisk::new(SimDiskConfig { seed, ..SimDiskConfig::default() });
            let store = MemStore::open(disk.mount(), "mds/kv").await.unwrap();
            let mut flushed = None;
            for n in 0u8..20 {
                let mut batch = WriteBatch::new();
                batch.put("a", vec![n]);
                batch.put("b", vec![n]);
                store.write(batch, Some(&[n])).unwrap();
                if n == flush_at {
                    store.flush().await.unwrap();
                    flushed = Some(n);
                }
            }
            if crash_in_flush {
                disk.set_fault(DiskFault::Syncs);
                assert!(store.flush().await.is_err());
                assert_eq!(store.write(WriteBatch::new(), None), Err(KvError::Stopped));
            }
            disk.crash();
            let store = MemStore::open(disk.mount(), "mds/kv").await.unwrap();
            let found = store.applied().unwrap().map(|m| m[0]);
            prop_assert_eq!(found, flushed);
            for name in ["a", "b"] {
                prop_assert_eq!(store.get(name.as_bytes()).unwrap().map(|v| v[0]), found);
            }
            Ok(())
        })?;
    }
}

#[test]
fn rocks_keeps_what_was_flushed_and_the_marker_of_the_same_batch() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let store = rocks(&dir);
        let mut batch = WriteBatch::new();
        batch.put("a", "1");
        store.write(batch, Some(b"one")).unwrap();
        store.flush().await.unwrap();
    });
    let store = rocks(&dir);
    assert_eq!(store.applied().unwrap(), Some(Bytes::from("one")));
    assert_eq!(store.get(b"a").unwrap(), Some(Bytes::from("1")));
}

#[test]
fn rocks_names_corruption() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let store = rocks(&dir);
        let mut batch = WriteBatch::new();
        for n in 0..2000 {
            batch.put(format!("key-{n:05}"), format!("value {n} ").repeat(20));
        }
        store.write(batch, Some(b"one")).unwrap();
        store.flush().await.unwrap();
    });
    let tables = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let table = tables.filter(|path| path.extension().is_some_and(|e| e == "sst")).max().unwrap();
    let mut bytes = std::fs::read(&table).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xFF;
    std::fs::write(&table, bytes).unwrap();
    let found = RocksStore::open(dir.path()).and_then(|store| store.scan(&KeyRange::all(), usize::MAX));
    assert!(matches!(found, Err(KvError::Corrupt(_))), "{:?}", found.map(|rows| rows.len()));
}
