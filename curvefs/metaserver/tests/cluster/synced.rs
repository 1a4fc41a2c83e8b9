//! A mount that syncs few bytes at a time: they wait in the partition until its leader has moved them to the store.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use curvefs_types::{
    Answer, DataBackend, DataRef, Extent, FsError, InodeId, Op, PartitionId, Place, Query, SetAttr, SliceId,
    SliceRef, Staged, WriterId,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::sleep;

use crate::client::Client;
use crate::{create, mkdir};

const BYTES_MAX: usize = 9000;

pub struct Syncing {
    pub client: Client,
    data: Arc<dyn DataBackend>,
    random: StdRng,
    serial: u64,
    files: Vec<(InodeId, Vec<u8>)>,
}

impl Syncing {
    pub async fn new(mut client: Client, data: Arc<dyn DataBackend>, partitions: u32, seed: u64) -> Self {
        let mut files = Vec::new();
        for place in 1..=partitions {
            let own = format!("s{}-{place}", client.mount.0);
            let dir = mkdir(&mut client, InodeId::ROOT, &own, place).await;
            assert_eq!(dir.slot(), PartitionId(place).0 - 1);
            files.push((create(&mut client, dir, "f").await, Vec::new()));
        }
        Self { client, data, random: StdRng::seed_from_u64(seed), serial: 0, files }
    }

    pub async fn work(&mut self, changes: usize) {
        for _ in 0..changes {
            let at = self.random.random_range(0..self.files.len());
            if self.random.random_bool(0.1) {
                let (inode, bytes) = &mut self.files[at];
                bytes.resize(self.random.random_range(0..BYTES_MAX), 0);
                let op = Op::Truncate { inode: *inode, length: bytes.len() as u64, kill_priv: false };
                self.client.change(op).await.unwrap();
            } else {
                self.write(at).await;
            }
            if self.random.random_bool(0.3) {
                self.check(at).await;
            }
            // Longer than the leader waits, now and then.
            if self.random.random_bool(0.1) {
                sleep(Duration::from_millis(self.random.random_range(0..3000))).await;
            }
        }
    }

    async fn write(&mut self, at: usize) {
        self.serial += 1;
        let len = self.random.random_range(1..3000usize);
        let offset = self.random.random_range(0..BYTES_MAX - len);
        let mut content = vec![0; len];
        self.random.fill(&mut content[..]);
        let (inode, bytes) = &mut self.files[at];
        bytes.resize(bytes.len().max(offset + len), 0);
        bytes[offset..offset + len].copy_from_slice(&content);
        let slice = SliceId { writer: WriterId(500 + self.client.mount.0), serial: self.serial };
        let data = DataRef::Slice { slice, bytes: len as u32, at: 0 };
        let slice = SliceRef { slice, bytes: len as u32 };
        let op = Op::Write {
            inode: *inode,
            place: Place::AtOffsets,
            extents: vec![Extent::checked(offset as u64, len as u32, data).unwrap()],
            length: 0,
            mtime: 1,
            expect: None,
            kill_priv: false,
            set: SetAttr::default(),
            staged: vec![Staged { slice, content: content.into() }],
        };
        self.client.change(op).await.unwrap();
    }

    /// Reads a file as a mount does.
    async fn check(&mut self, at: usize) {
        let (inode, expected) = self.files[at].clone();
        let query = Query::Extents { inode, offset: 0, len: 1 << 20, limit: 1000 };
        let Ok(Answer::Extents { attr, extents, staged, .. }) = self.client.query(query).await else {
            panic!()
        };
        let mut bytes = vec![0; attr.length as usize];
        for extent in extents {
            let slice = extent.data.slice().unwrap().slice;
            let part = if staged.contains(&slice) { self.staged(inode, extent).await } else { None };
            let part = match part {
                Some(part) => part,
                None => self.data.read(extent).await.unwrap().concat().into(),
            };
            bytes[extent.offset as usize..extent.end() as usize].copy_from_slice(&part);
        }
        assert!(bytes == expected, "{inode}: {} bytes, expected {}", bytes.len(), expected.len());
    }

    async fn staged(&mut self, inode: InodeId, extent: Extent) -> Option<Bytes> {
        let DataRef::Slice { slice, at, .. } = extent.data else { return None };
        match self.client.query(Query::Staged { inode, slice }).await {
            Ok(Answer::Staged { content }) => {
                content.map(|content| content.slice(at as usize..(at + extent.len) as usize))
            }
            other => panic!("{other:?}"),
        }
    }

    /// Reads everything from the store alone. Gives how many slices there are.
    pub async fn check_stored(&mut self) -> usize {
        let mut slices = std::collections::BTreeSet::new();
        for at in 0..self.files.len() {
            self.check(at).await;
            let query = Query::Extents { inode: self.files[at].0, offset: 0, len: 1 << 20, limit: 1000 };
            let answer: Result<Answer, FsError> = self.client.query(query).await;
            let Ok(Answer::Extents { extents, staged, .. }) = answer else { panic!() };
            assert_eq!(staged, [], "nothing waits any more");
            slices.extend(extents.iter().map(|extent| extent.data.slice().unwrap().slice));
        }
        slices.len()
    }
}
