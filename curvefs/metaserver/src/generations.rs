//! A partition's rows in a store that can be replaced as a whole.
//!
//! A replica that is far behind gets all rows of another one. They may be more than fits into memory, so they cannot be one
//! batch; and a batch at a time over the old rows would leave a mixture after a crash. So they go into a new store beside
//! the old one, and the file `current`, replaced in one step, says which of them counts. All numbers are little-endian.
//!
//! ```text
//!   0   4  magic "CvGn"
//!   4   2  version, 1
//!   6   2  0
//!   8   8  number of the generation, whose rows are in `rows-<number>`
//!  16   4  CRC-32 of everything before it
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::{Buf, BufMut, Bytes};
use curve_io::{BoxFuture, Disk, make_dirs_durable, read_whole, replace_file};
use curve_kv::{KeyRange, KvError, Reader, Row, Store, WriteBatch};

use crate::sealed;

const FILE: &str = "current";
const MAGIC: [u8; 4] = *b"CvGn";
const VERSION: u16 = 1;
/// The names of generations' directories.
const ROWS: &str = "rows-";

/// Opens stores of rows.
pub trait StoreFactory: Send + Sync + 'static {
    /// Opens the store in a directory of the data disk, which is there.
    fn open<'a>(&'a self, dir: &'a Path) -> BoxFuture<'a, Result<Arc<dyn Store>, KvError>>;
}

/// The present generation of a partition's rows.
pub struct GenerationStore {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    factory: Arc<dyn StoreFactory>,
    present: RwLock<Generation>,
}

#[derive(Clone)]
struct Generation {
    number: u64,
    store: Arc<dyn Store>,
}

/// A generation that is being filled. Nothing of it counts before [`GenerationStore::adopt`].
pub struct NextGeneration {
    next: Generation,
}

impl NextGeneration {
    /// Adds rows.
    pub fn add(&self, batch: WriteBatch) -> Result<(), KvError> {
        self.next.store.write(batch, None)
    }
}

impl GenerationStore {
    /// Opens what is in `dir`, which is made when it is missing, and removes what a crash left of other generations.
    pub async fn open(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        factory: Arc<dyn StoreFactory>,
    ) -> Result<Self, KvError> {
        make_dirs_durable(&*disk, &dir).await?;
        let number = match read_whole(&*disk, &dir.join(FILE)).await? {
            Some(bytes) => decode(&bytes).ok_or_else(|| KvError::Corrupt(format!("`{FILE}` is damaged")))?,
            None => 1,
        };
        let kept = name(number);
        for entry in disk.list(&dir)? {
            if entry.is_dir && entry.name.starts_with(ROWS) && entry.name != kept {
                disk.remove_dir_all(&dir.join(&entry.name))?;
            }
        }
        let store = open_one(&*disk, &*factory, &dir.join(kept)).await?;
        Ok(Self { disk, dir, factory, present: RwLock::new(Generation { number, store }) })
    }

    /// The store of the present generation.
    fn store(&self) -> Arc<dyn Store> {
        self.generation().store
    }

    fn generation(&self) -> Generation {
        self.present.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Begins another generation, without rows.
    pub async fn begin(&self) -> Result<NextGeneration, KvError> {
        let number = self.generation().number + 1;
        let dir = self.dir.join(name(number));
        match self.disk.remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let store = open_one(&*self.disk, &*self.factory, &dir).await?;
        Ok(NextGeneration { next: Generation { number, store } })
    }

    /// Makes a generation the present one, durably, with its marker, and removes the one before.
    pub async fn adopt(&self, filled: NextGeneration, marker: &[u8]) -> Result<(), KvError> {
        let NextGeneration { next } = filled;
        next.store.write(WriteBatch::new(), Some(marker))?;
        next.store.flush().await?;
        replace_file(&*self.disk, &self.dir.join(FILE), &encode(next.number)).await?;
        let before = {
            let mut present = self.present.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *present, next)
        };
        let dir = self.dir.join(name(before.number));
        drop(before);
        // What stays is removed at the next start.
        if let Err(error) = self.disk.remove_dir_all(&dir) {
            tracing::warn!(dir = %dir.display(), %error, "the rows of an old generation cannot be removed yet");
        }
        Ok(())
    }
}

async fn open_one(
    disk: &dyn Disk,
    factory: &dyn StoreFactory,
    dir: &Path,
) -> Result<Arc<dyn Store>, KvError> {
    make_dirs_durable(disk, dir).await?;
    factory.open(dir).await
}

impl Reader for GenerationStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.store().get(key)
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<Row>, KvError> {
        self.store().scan(range, limit)
    }

    fn applied(&self) -> Result<Option<Bytes>, KvError> {
        self.store().applied()
    }
}

impl Store for GenerationStore {
    fn write(&self, batch: WriteBatch, applied: Option<&[u8]>) -> Result<(), KvError> {
        self.store().write(batch, applied)
    }

    fn flush(&self) -> BoxFuture<'static, Result<(), KvError>> {
        self.store().flush()
    }

    fn view(&self) -> Result<Arc<dyn Reader>, KvError> {
        self.store().view()
    }
}

fn name(number: u64) -> String {
    format!("{ROWS}{number}")
}

pub(crate) fn encode(number: u64) -> Bytes {
    let mut out = sealed::begin(MAGIC, VERSION, 0);
    out.put_u64_le(number);
    sealed::seal(out)
}

pub(crate) fn decode(bytes: &[u8]) -> Option<u64> {
    let (_, mut content) = sealed::open(bytes, MAGIC, VERSION)?;
    (content.len() == 8).then(|| content.get_u64_le())
}

#[cfg(test)]
pub(crate) mod tests {
    use curve_io::sim::{SimDisk, SimDiskConfig};
    use curve_kv::MemStore;

    use super::*;

    /// Stores in memory.
    pub(crate) struct MemFactory(pub Arc<dyn Disk>);

    impl StoreFactory for MemFactory {
        fn open<'a>(&'a self, dir: &'a Path) -> BoxFuture<'a, Result<Arc<dyn Store>, KvError>> {
            Box::pin(async move {
                let store: Arc<dyn Store> = Arc::new(MemStore::open(self.0.clone(), dir).await?);
                Ok(store)
            })
        }
    }

    pub(crate) async fn open(disk: &SimDisk) -> GenerationStore {
        let factory = Arc::new(MemFactory(disk.mount()));
        GenerationStore::open(disk.mount(), "p".into(), factory).await.unwrap()
    }

    fn one(key: &'static str) -> WriteBatch {
        let mut batch = WriteBatch::new();
        batch.put(key, key);
        batch
    }

    #[tokio::test]
    async fn a_generation_counts_as_a_whole_or_not_at_all() {
        let disk = SimDisk::new(SimDiskConfig::default());
        let store = open(&disk).await;
        store.write(one("old"), Some(b"1")).unwrap();
        store.flush().await.unwrap();
        let next = store.begin().await.unwrap();
        next.add(one("new")).unwrap();
        drop((next, store));
        disk.crash();

        let store = open(&disk).await;
        assert_eq!(store.get(b"old").unwrap(), Some("old".into()));
        let next = store.begin().await.unwrap();
        next.add(one("new")).unwrap();
        store.adopt(next, b"2").await.unwrap();
        assert_eq!(store.get(b"old").unwrap(), None);
        drop(store);
        disk.crash();

        let store = open(&disk).await;
        assert_eq!(store.get(b"new").unwrap(), Some("new".into()));
        assert_eq!(store.applied().unwrap(), Some("2".into()));
        let names: Vec<_> = disk.mount().list(Path::new("p")).unwrap().into_iter().map(|e| e.name).collect();
        assert_eq!(names, ["current", "rows-2"]);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = encode(7);
        assert_eq!(decode(&bytes), Some(7));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&flipped), None);
        }
        assert_eq!(decode(&[]), None);
    }
}
