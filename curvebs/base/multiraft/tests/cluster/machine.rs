//! A key-value state machine that checkpoints to a file and sends only keys that changed.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use curve_io::{BoxFuture, Disk, read_whole, replace_file};
use curve_multiraft::{Applied, SnapshotFetch, SnapshotPart, SnapshotSource, StateMachine};

/// A key's value and the log index of its last change.
pub type Value = (Bytes, u64);

/// What a test may look at.
#[derive(Default)]
pub struct Content {
    pub map: BTreeMap<Bytes, Value>,
    pub marker: Option<Bytes>,
    /// Entries and operations applied since the process started.
    pub entries: u64,
    pub ops: u64,
    /// Bytes of values that were fetched from leaders.
    pub fetched: u64,
    pub installs: u64,
    pub checkpoints: u64,
    /// The next installs fail after this many keys.
    pub fail_install_after: Option<usize>,
}

#[derive(Clone)]
pub struct Kv {
    pub content: Arc<Mutex<Content>>,
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl Kv {
    pub async fn open(disk: Arc<dyn Disk>, name: &str) -> Self {
        let path = PathBuf::from(name);
        let mut content = Content::default();
        if let Some(bytes) = read_whole(disk.as_ref(), &path).await.unwrap() {
            let (marker, map) = decode(bytes);
            content.marker = Some(marker);
            content.map = map;
        }
        Self { content: Arc::new(Mutex::new(content)), disk, path }
    }
}

fn put(to: &mut BytesMut, bytes: &[u8]) {
    to.put_u32_le(bytes.len() as u32);
    to.put_slice(bytes);
}

fn take(from: &mut Bytes) -> Bytes {
    let len = from.get_u32_le() as usize;
    from.split_to(len)
}

fn encode(marker: &Bytes, map: &BTreeMap<Bytes, Value>) -> Bytes {
    let mut to = BytesMut::new();
    put(&mut to, marker);
    for (key, (value, index)) in map {
        put(&mut to, key);
        put(&mut to, value);
        to.put_u64_le(*index);
    }
    to.freeze()
}

fn decode(mut from: Bytes) -> (Bytes, BTreeMap<Bytes, Value>) {
    let marker = take(&mut from);
    let mut map = BTreeMap::new();
    while !from.is_empty() {
        let key = take(&mut from);
        let value = take(&mut from);
        map.insert(key, (value, from.get_u64_le()));
    }
    (marker, map)
}

impl StateMachine for Kv {
    fn recovered(&self) -> Option<Bytes> {
        self.content.lock().unwrap().marker.clone()
    }

    fn apply(&mut self, entries: Vec<Applied>, marker: Bytes) -> BoxFuture<'_, io::Result<Vec<Vec<Bytes>>>> {
        Box::pin(async move {
            let mut content = self.content.lock().unwrap();
            content.marker = Some(marker);
            let mut results = Vec::new();
            for entry in entries {
                content.entries += 1;
                content.ops += entry.ops.len() as u64;
                let old = entry.ops.into_iter().map(|op| {
                    let value = Bytes::from(op.payload.concat());
                    let old = content.map.insert(op.header, (value, entry.index.get()));
                    old.map(|(value, _)| value).unwrap_or_default()
                });
                results.push(old.collect());
            }
            Ok(results)
        })
    }

    fn checkpoint(&mut self) -> BoxFuture<'static, io::Result<()>> {
        let mut content = self.content.lock().unwrap();
        content.checkpoints += 1;
        let bytes = encode(content.marker.as_ref().unwrap(), &content.map);
        let (disk, path) = (self.disk.clone(), self.path.clone());
        Box::pin(async move { replace_file(disk.as_ref(), &path, &bytes).await })
    }

    fn snapshot(&mut self) -> BoxFuture<'_, io::Result<Arc<dyn SnapshotSource>>> {
        let map = self.content.lock().unwrap().map.clone();
        Box::pin(async move { Ok(Arc::new(Frozen { map }) as Arc<dyn SnapshotSource>) })
    }

    fn install(&mut self, fetch: Arc<dyn SnapshotFetch>, marker: Bytes) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            let manifest = fetch.read(Bytes::new()).await?;
            let mut manifest = Bytes::from(manifest.payload.concat());
            let fail_after = self.content.lock().unwrap().fail_install_after.take();
            let mut count = 0;
            while !manifest.is_empty() {
                let key = take(&mut manifest);
                let index = manifest.get_u64_le();
                let known =
                    self.content.lock().unwrap().map.get(&key).is_some_and(|(_, known)| *known >= index);
                if known {
                    continue;
                }
                if fail_after == Some(count) {
                    return Err(io::Error::other("told to fail"));
                }
                count += 1;
                let part = fetch.read(key.clone()).await?;
                let value = Bytes::from(part.payload.concat());
                let mut content = self.content.lock().unwrap();
                content.fetched += value.len() as u64;
                content.map.insert(key, (value, index));
            }
            let bytes = {
                let mut content = self.content.lock().unwrap();
                content.installs += 1;
                content.marker = Some(marker.clone());
                encode(&marker, &content.map)
            };
            replace_file(self.disk.as_ref(), &self.path, &bytes).await
        })
    }
}

struct Frozen {
    map: BTreeMap<Bytes, Value>,
}

impl SnapshotSource for Frozen {
    fn read(&self, request: Bytes) -> BoxFuture<'_, io::Result<SnapshotPart>> {
        let payload = if request.is_empty() {
            let mut list = BytesMut::new();
            for (key, (_, index)) in &self.map {
                put(&mut list, key);
                list.put_u64_le(*index);
            }
            list.freeze()
        } else {
            self.map[&request].0.clone()
        };
        Box::pin(async move { Ok(SnapshotPart { header: Bytes::new(), payload: vec![payload] }) })
    }
}
