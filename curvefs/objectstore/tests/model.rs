//! The store against a model, with a disk that fails and with restarts in the middle.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use curvefs_objectstore::{
    After, BlobFile, BlobFiles, Expect, ListQuery, RealFiles, Store, StoreError, StoreLimits, UploadId,
};
use proptest::prelude::*;

/// Fails every call after a number of them; an append that fails leaves half of its bytes.
struct Failing {
    inner: Arc<dyn BlobFiles>,
    left: Arc<AtomicI64>,
}

struct FailingFile {
    inner: Box<dyn BlobFile>,
    left: Arc<AtomicI64>,
}

fn spend(left: &AtomicI64) -> io::Result<()> {
    if left.fetch_sub(1, Ordering::Relaxed) > 0 { Ok(()) } else { Err(io::Error::other("the disk is gone")) }
}

impl BlobFile for FailingFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        spend(&self.left).or_else(|error| self.inner.append(&bytes[..bytes.len() / 2]).and(Err(error)))?;
        self.inner.append(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        spend(&self.left)?;
        self.inner.sync()
    }

    fn read_exact_at(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        self.inner.read_exact_at(into, at)
    }
}

impl BlobFiles for Failing {
    fn create(&self, blob: u64) -> io::Result<Box<dyn BlobFile>> {
        spend(&self.left)?;
        Ok(Box::new(FailingFile { inner: self.inner.create(blob)?, left: self.left.clone() }))
    }

    fn open(&self, blob: u64) -> io::Result<Box<dyn BlobFile>> {
        self.inner.open(blob)
    }

    fn sync_name(&self, blob: u64) -> io::Result<()> {
        spend(&self.left)?;
        self.inner.sync_name(blob)
    }

    fn remove(&self, blob: u64) -> io::Result<()> {
        spend(&self.left)?;
        self.inner.remove(blob)
    }

    fn for_each(&self, found: &mut dyn FnMut(u64) -> io::Result<()>) -> io::Result<()> {
        self.inner.for_each(found)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.inner.free_bytes()
    }
}

#[derive(Clone, Debug)]
enum Action {
    Put { key: usize, size: usize, fill: u8, expect: Expected },
    Delete { keys: Vec<usize> },
    Copy { from: usize, to: usize },
    Upload { key: usize, sizes: Vec<usize>, abort: bool },
    FailAfter { calls: i64 },
    Reopen { clean: bool },
    List { prefix: usize, delimiter: bool, max: usize },
}

#[derive(Clone, Copy, Debug)]
enum Expected {
    Anything,
    Absent,
    Current,
    Wrong,
}

const KEYS: [&str; 8] = ["a", "a/b", "a/b/c", "a/c", "b", "b/", "\u{e4}", "dir/x"];
const PREFIXES: [&str; 5] = ["", "a", "a/", "b", "zz"];
const BUCKET: &str = "bkt";

fn action() -> impl Strategy<Value = Action> {
    let key = 0..KEYS.len();
    // Around the border between rows and files, and around the borders of checksums.
    let size = prop_oneof![0usize..100, 65_000usize..66_000, 130_000usize..200_000];
    let expect = prop_oneof![
        4 => Just(Expected::Anything),
        1 => Just(Expected::Absent),
        1 => Just(Expected::Current),
        1 => Just(Expected::Wrong)
    ];
    prop_oneof![
        6 => (key.clone(), size.clone(), any::<u8>(), expect)
            .prop_map(|(key, size, fill, expect)| Action::Put { key, size, fill, expect }),
        2 => proptest::collection::vec(key.clone(), 1..4).prop_map(|keys| Action::Delete { keys }),
        1 => (key.clone(), key.clone()).prop_map(|(from, to)| Action::Copy { from, to }),
        2 => (key, proptest::collection::vec(size, 1..4), any::<bool>())
            .prop_map(|(key, sizes, abort)| Action::Upload { key, sizes, abort }),
        2 => (0i64..12).prop_map(|calls| Action::FailAfter { calls }),
        2 => any::<bool>().prop_map(|clean| Action::Reopen { clean }),
        2 => (0..PREFIXES.len(), any::<bool>(), 1usize..5)
            .prop_map(|(prefix, delimiter, max)| Action::List { prefix, delimiter, max }),
    ]
}

struct World<'a> {
    dir: &'a Path,
    store: Option<Arc<Store>>,
    left: Arc<AtomicI64>,
    model: BTreeMap<String, Vec<u8>>,
    uploads: Vec<(String, UploadId)>,
}

fn limits() -> StoreLimits {
    StoreLimits { object_bytes_max: 190_000, reserve_bytes: 0, part_bytes_min: 0 }
}

fn content(size: usize, fill: u8) -> Vec<u8> {
    (0..size).map(|at| fill.wrapping_add((at / 7) as u8)).collect()
}

impl<'a> World<'a> {
    fn new(dir: &'a Path) -> Self {
        let mut world =
            Self { dir, store: None, left: Arc::default(), model: BTreeMap::new(), uploads: Vec::new() };
        world.open();
        world.store().create_bucket(BUCKET).unwrap();
        world
    }

    fn open(&mut self) {
        self.left = Arc::new(AtomicI64::new(i64::MAX));
        let left = self.left.clone();
        let decorate = |inner| Arc::new(Failing { inner, left }) as Arc<dyn BlobFiles>;
        self.store = Some(Store::open_on(self.dir, limits(), decorate).unwrap());
    }

    fn reopen(&mut self, clean: bool) {
        let store = self.store.take().unwrap();
        if clean {
            store.close().unwrap();
        }
        drop(Arc::into_inner(store).expect("nobody else has it"));
        self.open();
    }

    fn store(&self) -> &Arc<Store> {
        self.store.as_ref().unwrap()
    }

    fn spool(&self, bytes: &[u8]) -> Result<curvefs_objectstore::Spooled, StoreError> {
        let mut spool = self.store().spool(0)?;
        bytes.chunks(10_007).try_for_each(|piece| spool.append(piece))?;
        spool.finish()
    }

    fn put(&mut self, key: &str, bytes: Vec<u8>, expect: Expected) {
        let current = self.model.get(key);
        let (expect, holds) = match expect {
            Expected::Anything => (Expect::Anything, true),
            Expected::Absent => (Expect::Absent, current.is_none()),
            Expected::Current => match self.store().head(BUCKET, key) {
                Ok(row) => (Expect::ETag(row.etag()), true),
                Err(_) => (Expect::Present, false),
            },
            Expected::Wrong => (Expect::ETag("0".repeat(32)), false),
        };
        let put = self
            .spool(&bytes)
            .and_then(|spooled| self.store().put(BUCKET, key, spooled, Vec::new(), &expect));
        match put {
            Ok(row) => {
                assert!(holds && row.size == bytes.len() as u64);
                self.model.insert(key.to_owned(), bytes);
            }
            Err(StoreError::Precondition | StoreError::NoSuchKey) => assert!(!holds),
            Err(StoreError::TooLarge(max)) => assert!(bytes.len() as u64 > max),
            Err(error) => assert!(self.disk_is_gone(), "{error}"),
        }
    }

    fn disk_is_gone(&self) -> bool {
        self.left.load(Ordering::Relaxed) < 0
    }

    fn copy(&mut self, from: &str, to: &str) {
        let copied = self.store().read(BUCKET, from).and_then(|mut source| {
            let size = source.row().size;
            let spooled = self.store().spool_copy(&mut source, 0..size)?;
            self.store().put(BUCKET, to, spooled, Vec::new(), &Expect::Anything)
        });
        match copied {
            Ok(_) => drop(self.model.insert(to.to_owned(), self.model[from].clone())),
            Err(StoreError::NoSuchKey) => assert!(!self.model.contains_key(from)),
            Err(StoreError::TooLarge(_)) => assert!(self.model[from].len() > 190_000),
            Err(error) => assert!(self.disk_is_gone(), "{error}"),
        }
    }

    fn upload(&mut self, key: &str, sizes: &[usize], abort: bool) {
        let store = self.store().clone();
        let id = store.create_upload(BUCKET, key, Vec::new()).unwrap();
        let (mut whole, mut wanted) = (Vec::new(), Vec::new());
        for (at, size) in sizes.iter().enumerate() {
            let bytes = content(*size, at as u8);
            let number = at as u16 + 1;
            // Twice, since the last one counts.
            for bytes in [&bytes[..size / 2], &bytes[..]] {
                let part = self.spool(bytes).and_then(|it| store.put_part(BUCKET, key, id, number, it));
                match part {
                    Ok(part) if bytes.len() == *size => wanted.push((number, part.etag)),
                    Ok(_) => {}
                    Err(StoreError::TooLarge(_)) => {}
                    Err(error) => assert!(self.disk_is_gone(), "{error}"),
                }
            }
            wanted.dedup_by_key(|(number, _)| *number);
            whole.extend_from_slice(&bytes);
        }
        if abort {
            store.abort_upload(BUCKET, key, id).unwrap();
        } else if wanted.len() == sizes.len() {
            let row = store.complete_upload(BUCKET, key, id, &wanted, &Expect::Anything);
            match row {
                Ok(row) => {
                    assert_eq!(usize::from(row.parts), sizes.len());
                    self.model.insert(key.to_owned(), whole);
                }
                // The shorter of two parts is in its place, since the disk failed between them.
                Err(StoreError::InvalidPart(_)) => {
                    assert!(self.disk_is_gone());
                    self.uploads.push((key.to_owned(), id));
                }
                Err(error) => panic!("{error}"),
            }
        } else {
            self.uploads.push((key.to_owned(), id));
        }
    }

    fn list(&self, prefix: &str, delimiter: bool, max: usize) {
        let delimiter = delimiter.then(|| "/".to_owned());
        let (mut found, mut after) = (Vec::new(), After::Nothing);
        loop {
            let query = ListQuery { prefix: prefix.into(), delimiter: delimiter.clone(), after, max };
            let page = self.store().list(BUCKET, &query).unwrap();
            assert!(page.objects.len() + page.prefixes.len() <= max);
            found.extend(page.objects.into_iter().map(|(key, _)| key));
            found.extend(page.prefixes);
            match page.next {
                Some(next) => after = next,
                None => break,
            }
        }
        let mut expected = self.model.keys().filter(|key| key.starts_with(prefix)).map(|key| {
            let rest = &key[prefix.len()..];
            match rest.find('/').filter(|_| delimiter.is_some()) {
                Some(at) => key[..=prefix.len() + at].to_owned(),
                None => key.clone(),
            }
        });
        let mut expected = expected.by_ref().collect::<Vec<_>>();
        expected.sort();
        expected.dedup();
        found.sort();
        assert_eq!(found, expected, "prefix {prefix:?} delimiter {delimiter:?}");
    }

    fn check(&self) {
        for key in KEYS {
            match self.store().read(BUCKET, key) {
                Ok(mut reader) => {
                    let (size, mut bytes) = (reader.row().size, Vec::new());
                    while (bytes.len() as u64) < size {
                        bytes.extend_from_slice(&reader.read(bytes.len() as u64, 70_001).unwrap());
                    }
                    assert!(self.model.get(key) == Some(&bytes), "{key}");
                    if size > 3 {
                        let part = reader.read(size / 2, 2).unwrap();
                        let at = size as usize / 2;
                        assert_eq!(part[..], bytes[at..at + part.len()]);
                    }
                }
                Err(StoreError::NoSuchKey) => assert!(!self.model.contains_key(key), "{key} is lost"),
                Err(error) => panic!("{key}: {error}"),
            }
        }
    }

    fn run(&mut self, action: Action) {
        match action {
            Action::Put { key, size, fill, expect } => self.put(KEYS[key], content(size, fill), expect),
            Action::Delete { keys } => {
                let keys = keys.iter().map(|key| KEYS[*key].to_owned()).collect::<Vec<_>>();
                self.store().delete(BUCKET, &keys).unwrap();
                keys.iter().for_each(|key| drop(self.model.remove(key)));
            }
            Action::Copy { from, to } => self.copy(KEYS[from], KEYS[to]),
            Action::Upload { key, sizes, abort } => self.upload(KEYS[key], &sizes, abort),
            Action::FailAfter { calls } => self.left.store(calls, Ordering::Relaxed),
            Action::Reopen { clean } => self.reopen(clean && !self.disk_is_gone()),
            Action::List { prefix, delimiter, max } => self.list(PREFIXES[prefix], delimiter, max),
        }
    }
}

fn blobs(dir: &Path) -> usize {
    let mut count = 0;
    let mut found = |_| {
        count += 1;
        Ok(())
    };
    RealFiles::open(&dir.join("blobs")).unwrap().for_each(&mut found).unwrap();
    count
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_what_the_model_says(actions in proptest::collection::vec(action(), 1..30)) {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::new(dir.path());
        for action in actions {
            world.run(action);
            world.check();
        }
        world.reopen(false);
        world.check();
        for (key, id) in std::mem::take(&mut world.uploads) {
            world.store().abort_upload(BUCKET, &key, id).unwrap();
        }
        world.list("", false, 3);
        let keys = KEYS.map(str::to_owned);
        world.store().delete(BUCKET, &keys).unwrap();
        world.model.clear();
        world.check();
        world.store().delete_bucket(BUCKET).unwrap();
        prop_assert_eq!(blobs(dir.path()), 0, "nothing is left");
    }
}

fn with_object(size: usize) -> (tempfile::TempDir, Arc<Store>) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreLimits::default()).unwrap();
    store.create_bucket(BUCKET).unwrap();
    put(&store, "k", &content(size, 1));
    (dir, store)
}

fn put(store: &Arc<Store>, key: &str, bytes: &[u8]) {
    let mut spool = store.spool(bytes.len() as u64).unwrap();
    spool.append(bytes).unwrap();
    store.put(BUCKET, key, spool.finish().unwrap(), Vec::new(), &Expect::Anything).unwrap();
}

#[test]
fn a_reader_goes_on_with_what_it_opened() {
    for size in [100, 300_000] {
        let (dir, store) = with_object(size);
        let mut first = store.read(BUCKET, "k").unwrap();
        put(&store, "k", b"another");
        let mut second = store.read(BUCKET, "k").unwrap();
        store.delete(BUCKET, &["k".to_owned()]).unwrap();
        assert_eq!(first.read(0, 50).unwrap(), content(size, 1)[..50]);
        assert_eq!(second.read(0, 50).unwrap(), &b"another"[..]);
        drop((first, second));
        assert_eq!(blobs(dir.path()), 0);
    }
}

#[test]
fn damage_is_an_error_and_never_other_bytes() {
    let (dir, store) = with_object(300_000);
    let mut files = Vec::new();
    RealFiles::open(&dir.path().join("blobs"))
        .unwrap()
        .for_each(&mut |blob| {
            files.push(dir.path().join(format!("blobs/{:02x}/{blob:016x}", blob & 0xff)));
            Ok(())
        })
        .unwrap();
    let [file] = &files[..] else { panic!("{files:?}") };
    let good = std::fs::read(file).unwrap();
    let mut bad = good.clone();
    bad[70_000] ^= 1;
    std::fs::write(file, &bad).unwrap();
    let mut reader = store.read(BUCKET, "k").unwrap();
    assert!(matches!(reader.read(65_536, 10), Err(StoreError::Damaged(_))));
    assert_eq!(reader.read(0, 10).unwrap(), good[..10], "the block before it is good");
    std::fs::write(file, &good[..100]).unwrap();
    assert!(matches!(reader.read(65_536, 10), Err(StoreError::Damaged(_))));
    drop(reader);
    std::fs::remove_file(file).unwrap();
    assert!(matches!(store.read(BUCKET, "k").unwrap().read(0, 1), Err(StoreError::Damaged(_))));
}

#[test]
fn a_full_disk_and_a_second_process_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let limits = StoreLimits { reserve_bytes: u64::MAX / 2, ..StoreLimits::default() };
    let store = Store::open(dir.path(), limits).unwrap();
    assert!(matches!(store.spool(1), Err(StoreError::NoSpace { .. })));
    assert!(matches!(Store::open(dir.path(), limits), Err(StoreError::Io(_))));
}
