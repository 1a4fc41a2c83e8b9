//! Snapshots of the MDS's state: all rows, page by page. The state is small, so a follower takes it whole and swaps
//! it in with one batch.
//!
//! A request is the key after which to go on, empty for the beginning. A part's payload is rows, each as key length
//! (4, little-endian), key, value length (4), value; its header is one byte, 1 when more rows follow.

use std::io;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use curve_io::BoxFuture;
use curve_kv::{KeyRange, KvError, Reader, Store, WriteBatch};
use curve_multiraft::{SnapshotFetch, SnapshotPart, SnapshotSource};

/// A page ends after this much; one row may go over it, and rows are far smaller than the rest of a frame.
const PAGE_BYTES: usize = 512 << 10;
const PAGE_ROWS: usize = 4096;

struct Source {
    view: Arc<dyn Reader>,
}

/// Serves the rows of a view.
pub(super) fn source(view: Arc<dyn Reader>) -> Arc<dyn SnapshotSource> {
    Arc::new(Source { view })
}

impl SnapshotSource for Source {
    fn read(&self, request: Bytes) -> BoxFuture<'_, io::Result<SnapshotPart>> {
        Box::pin(std::future::ready(page(&*self.view, &request).map_err(io::Error::from)))
    }
}

fn page(view: &dyn Reader, after: &[u8]) -> Result<SnapshotPart, KvError> {
    let range = if after.is_empty() { KeyRange::all() } else { KeyRange::all().after(after) };
    let rows = view.scan(&range, PAGE_ROWS)?;
    let full = rows.len() == PAGE_ROWS;
    let mut payload = BytesMut::new();
    let mut more = full;
    for (key, value) in rows {
        if payload.len() >= PAGE_BYTES {
            more = true;
            break;
        }
        for part in [&key, &value] {
            payload.put_u32_le(u32::try_from(part.len()).expect("rows are small"));
            payload.put_slice(part);
        }
    }
    Ok(SnapshotPart { header: Bytes::from(vec![u8::from(more)]), payload: vec![payload.freeze()] })
}

fn take(rows: &mut Bytes) -> io::Result<Bytes> {
    let short = || io::Error::new(io::ErrorKind::InvalidData, "a snapshot part ends early");
    let len = rows.try_get_u32_le().map_err(|_| short())? as usize;
    if rows.len() < len { Err(short()) } else { Ok(rows.split_to(len)) }
}

/// Replaces all rows with those that `fetch` serves.
pub(super) async fn install(
    store: Arc<dyn Store>,
    fetch: Arc<dyn SnapshotFetch>,
    marker: Bytes,
) -> io::Result<()> {
    let mut batch = WriteBatch::new();
    batch.delete_range(KeyRange::all());
    let mut after = Bytes::new();
    loop {
        let part = fetch.read(after.clone()).await?;
        for mut rows in part.payload {
            while rows.has_remaining() {
                let (key, value) = (take(&mut rows)?, take(&mut rows)?);
                after = key.clone();
                batch.put(key, value);
            }
        }
        if part.header.first() != Some(&1) {
            break;
        }
    }
    store.write(batch, Some(&marker))?;
    store.flush().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use curve_io::sim::{SimDisk, SimDiskConfig};
    use curve_kv::MemStore;

    use super::*;

    struct Direct(Arc<dyn SnapshotSource>);

    impl SnapshotFetch for Direct {
        fn read(&self, request: Bytes) -> BoxFuture<'_, io::Result<SnapshotPart>> {
            self.0.read(request)
        }
    }

    async fn store(name: &str) -> Arc<dyn Store> {
        Arc::new(MemStore::open(SimDisk::new(SimDiskConfig::default()).mount(), name).await.unwrap())
    }

    #[tokio::test]
    async fn an_installed_store_equals_the_source_and_forgets_what_it_had() {
        let (from, to) = (store("a").await, store("b").await);
        let mut batch = WriteBatch::new();
        for n in 0..9000u32 {
            batch.put(n.to_be_bytes().to_vec(), vec![n as u8; 200]);
        }
        from.write(batch, Some(b"from")).unwrap();
        let mut old = WriteBatch::new();
        old.put("old", "row");
        to.write(old, Some(b"old")).unwrap();
        let fetch = Arc::new(Direct(source(from.view().unwrap())));
        install(to.clone(), fetch, Bytes::from("marker")).await.unwrap();
        let all = |store: &Arc<dyn Store>| store.scan(&KeyRange::all(), usize::MAX).unwrap();
        assert_eq!(all(&to), all(&from));
        assert_eq!(to.applied().unwrap(), Some(Bytes::from("marker")));
    }
}
