//! A key-value state machine that checkpoints to a file, sends only keys that changed, and keeps large values out of the
//! log: each in a file of its own, which is named in the log.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use curve_io::{BoxFuture, Disk, OpenMode, read_whole, replace_file};
use curve_multiraft::{
    Applied, Op, Place, Placer, SnapshotFetch, SnapshotPart, SnapshotSource, StateMachine,
};
use curve_types::LogIndex;

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
    /// Values that were placed, and of those that were made whole again for a follower.
    pub placed: u64,
    pub restored: u64,
    /// No value can be made whole again.
    pub altered: bool,
}

/// Values of this size and above are placed.
pub const PLACED_BYTES_MIN: usize = 2048;
/// What the key of a placed value begins with in the log; its payload is the name of a file.
const PLACED: u8 = 0xFF;

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

fn read_file(disk: &dyn Disk, name: &[u8]) -> io::Result<Bytes> {
    let name = std::str::from_utf8(name).expect("a file's name");
    let file = disk.open(Path::new(name), OpenMode::Existing)?;
    let mut bytes = vec![0; file.len()? as usize];
    file.read_at(0, &mut bytes)?;
    Ok(bytes.into())
}

async fn place(kv: Kv, index: LogIndex, mut ops: Vec<Op>) -> io::Result<Option<Vec<Op>>> {
    for (n, op) in ops.iter_mut().enumerate().filter(|(_, op)| op.len() - op.header.len() >= PLACED_BYTES_MIN)
    {
        let name = format!("{}-{index}-{n}.value", kv.path.display());
        let file = kv.disk.open(Path::new(&name), OpenMode::Create)?;
        file.set_len(0)?;
        match file.write_parts_durably(0, op.payload.clone()).await {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(None),
            written => written?,
        }
        kv.disk.sync_dir(Path::new("")).await?;
        kv.content.lock().unwrap().placed += 1;
        *op = Op { header: [&[PLACED], &op.header[..]].concat().into(), payload: vec![name.into()] };
    }
    Ok(Some(ops))
}

impl Placer for Kv {
    fn append(&self, index: LogIndex, ops: &mut dyn Iterator<Item = (Bytes, usize)>) -> Option<Place> {
        let large = ops.filter(|(_, len)| *len >= PLACED_BYTES_MIN).count();
        let kv = self.clone();
        if large == 0 {
            return None;
        }
        Some(Box::new(move |ops| Box::pin(place(kv, index, ops))))
    }

    fn wants_checkpoint(&self) -> bool {
        false
    }

    fn restore(&self, ops: Vec<Op>) -> BoxFuture<'static, io::Result<Option<Vec<Op>>>> {
        let kv = self.clone();
        Box::pin(async move {
            let mut content = kv.content.lock().unwrap();
            let restore = |op: Op| match op.header.first() {
                Some(&PLACED) => {
                    let value = read_file(&*kv.disk, &op.payload.concat())?;
                    Ok(Op { header: op.header.slice(1..), payload: vec![value] })
                }
                _ => Ok(op),
            };
            content.restored += 1;
            let restored = ops.into_iter().map(restore).collect::<io::Result<Vec<_>>>()?;
            Ok(Some(restored).filter(|_| !content.altered))
        })
    }
}

impl StateMachine for Kv {
    fn placer(&self) -> Option<Arc<dyn Placer>> {
        Some(Arc::new(self.clone()))
    }

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
                    let (key, value) = match op.header.first() {
                        Some(&PLACED) => (op.header.slice(1..), read_file(&*self.disk, &value).unwrap()),
                        _ => (op.header, value),
                    };
                    let old = content.map.insert(key, (value, entry.index.get()));
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
