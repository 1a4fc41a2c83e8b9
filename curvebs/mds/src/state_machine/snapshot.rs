//! Snapshots of the MDS's state: all rows, page by page. The state is small, so a follower takes it whole and swaps
//! it in with one batch.
//!
//! A request is the key after which to go on, empty for the beginning. A part's payload is a page of rows (`curve_kv::Page`);
//! its header is one byte, 1 when more rows follow.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use curve_io::BoxFuture;
use curve_kv::{KeyRange, Page, Reader, RowsOfPage, Store, WriteBatch};
use curve_multiraft::{SnapshotFetch, SnapshotPart, SnapshotSource};

struct Source {
    view: Arc<dyn Reader>,
}

/// Serves the rows of a view.
pub(super) fn source(view: Arc<dyn Reader>) -> Arc<dyn SnapshotSource> {
    Arc::new(Source { view })
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
        for row in part.payload.into_iter().flat_map(RowsOfPage::new) {
            let (key, value) = row?;
            after = key.clone();
            batch.put(key, value);
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
