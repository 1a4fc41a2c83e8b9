//! The store of the simulator: in memory, flushed as one image through the disk seam.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use curve_io::{BoxFuture, Disk, make_dirs_durable, read_whole, replace_file};

use crate::error::KvError;
use crate::format::{Image, decode, encode};
use crate::store::{Change, KeyRange, Reader, Row, Store, WriteBatch};

const IMAGE: &str = "image";

/// Keeps everything in memory; a flush writes the whole store to a new file and renames it over the old one. What was
/// not flushed is gone after a crash, exactly as with RocksDB without its log. For small state.
pub struct MemStore {
    shared: Arc<Shared>,
}

struct Shared {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    state: Mutex<State>,
    /// One flush at a time: an older image must not be renamed over a newer one.
    flushing: tokio::sync::Mutex<()>,
}

struct State {
    image: Arc<Image>,
    failed: bool,
}

impl MemStore {
    /// Opens the store in `dir`, which is made when it is missing.
    pub async fn open(disk: Arc<dyn Disk>, dir: impl Into<PathBuf>) -> Result<Self, KvError> {
        let dir = dir.into();
        make_dirs_durable(&*disk, &dir).await?;
        let image = match read_whole(&*disk, &dir.join(IMAGE)).await? {
            Some(bytes) => decode(bytes)?,
            None => Image::default(),
        };
        let state = Mutex::new(State { image: Arc::new(image), failed: false });
        Ok(Self { shared: Arc::new(Shared { disk, dir, state, flushing: tokio::sync::Mutex::default() }) })
    }

    fn image(&self) -> Arc<Image> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).image.clone()
    }
}

impl Shared {
    async fn flush(&self, image: Arc<Image>) -> Result<(), KvError> {
        Ok(replace_file(&*self.disk, &self.dir.join(IMAGE), &encode(&image)).await?)
    }
}

fn get(image: &Image, key: &[u8]) -> Option<Bytes> {
    image.rows.get(key).cloned()
}

fn scan(image: &Image, range: &KeyRange, limit: usize) -> Vec<Row> {
    if range.is_empty() {
        return Vec::new();
    }
    let rows = image.rows.range::<[u8], _>(range.bounds()).take(limit);
    rows.map(|(key, value)| (key.clone(), value.clone())).collect()
}

impl Reader for MemStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        Ok(get(&self.image(), key))
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<Row>, KvError> {
        Ok(scan(&self.image(), range, limit))
    }

    fn applied(&self) -> Result<Option<Bytes>, KvError> {
        Ok(self.image().applied.clone())
    }
}

struct View(Arc<Image>);

impl Reader for View {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        Ok(get(&self.0, key))
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<Row>, KvError> {
        Ok(scan(&self.0, range, limit))
    }

    fn applied(&self) -> Result<Option<Bytes>, KvError> {
        Ok(self.0.applied.clone())
    }
}

impl Store for MemStore {
    fn write(&self, batch: WriteBatch, applied: Option<&[u8]>) -> Result<(), KvError> {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.failed {
            return Err(KvError::Stopped);
        }
        let image = Arc::make_mut(&mut state.image);
        for change in batch.changes {
            match change {
                Change::Put(key, value) => drop(image.rows.insert(key, value)),
                Change::Delete(key) => drop(image.rows.remove(&key)),
                Change::DeleteRange(range) => image.rows.retain(|key, _| !range.contains(key)),
            }
        }
        if let Some(applied) = applied {
            image.applied = Some(Bytes::copy_from_slice(applied));
        }
        Ok(())
    }

    fn flush(&self) -> BoxFuture<'static, Result<(), KvError>> {
        let shared = self.shared.clone();
        Box::pin(async move {
            let _one = shared.flushing.lock().await;
            let image = {
                let state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
                if state.failed {
                    return Err(KvError::Stopped);
                }
                state.image.clone()
            };
            let flushed = shared.flush(image).await;
            if flushed.is_err() {
                shared.state.lock().unwrap_or_else(PoisonError::into_inner).failed = true;
            }
            flushed
        })
    }

    fn view(&self) -> Result<Arc<dyn Reader>, KvError> {
        Ok(Arc::new(View(self.image())))
    }
}

impl std::fmt::Debug for MemStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemStore").field("dir", &self.shared.dir).finish_non_exhaustive()
    }
}
