//! A copyset and an MDS that do as they are told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use curve_client::mds::OpenMode;
use curve_client::{ClientConfig, Cluster, OpenOptions, Volume};
use curve_io::{BoxFuture, File, Handler, Message, Network, Pledge, RpcError, ServerHandle};
use curve_proto::ChunkError;
use curve_proto::methods;
use curve_proto::pb::data::{
    BlockStatusRequest, ChunkReply, CompareAndWriteRequest, DiscardRequest, Extent as WireExtent, FilePlace,
    FileRun, FileSight, ReadRequest, WriteRequest,
};
use curve_proto::pb::mds as pb;
use curve_proto::pb::mds::mds_request::Op;
use curve_proto::pb::mds::mds_response::Result as Answer;
use curve_proto::transport::{MdsCallError, MdsTransport};
use curve_types::{Epoch, NodeId};
use prost::Message as _;

pub const BLOCK: usize = 4096;

/// What the scripted cluster holds and how it misbehaves.
#[derive(Default)]
pub struct World {
    pub blocks: BTreeMap<(u32, u32), Bytes>,
    pub leader: u64,
    pub dead: Vec<u64>,
    pub silent: Vec<u64>,
    pub held_epoch: u64,
    pub refuse: Option<ChunkError>,
    pub damage_reads: u32,
    /// A file of the machine that holds what is read, where the reader runs on it.
    pub file: Option<Arc<dyn File>>,
    /// Where it pledges what need not be asked for; the file then holds the first chunk as it is.
    pub pledge: Option<Pledge>,
    /// The file is changed before it is read from.
    pub changes: bool,
    pub mds_down: bool,
    pub calls: Vec<(u64, u16)>,
    /// How long the requests that must arrive by some time may be on their way.
    pub hurried: Vec<Duration>,
    pub writes: Vec<WriteRequest>,
    pub compares: Vec<CompareAndWriteRequest>,
    pub differs_at: Option<u32>,
    pub segments: BTreeSet<u32>,
    /// Bytes of the volume beyond the 4 GiB that it has at first.
    pub grown: u64,
    pub segment_questions: usize,
}

#[derive(Clone, Default)]
pub struct Scripted(pub Arc<Mutex<World>>);

impl Scripted {
    pub fn with<T>(&self, act: impl FnOnce(&mut World) -> T) -> T {
        act(&mut self.0.lock().unwrap())
    }
}

pub fn address(node: u64) -> String {
    format!("host-{node}:1")
}

impl Network for Scripted {
    fn call_by(
        &self,
        to: &str,
        request: Message,
        arrives_by: Option<tokio::time::Instant>,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Message, RpcError>> {
        let within = arrives_by.map(|by| by - tokio::time::Instant::now());
        self.with(|world| world.hurried.extend(within));
        let node: u64 = to["host-".len()..to.len() - 2].parse().unwrap();
        let (silent, answer) = self.with(|world| {
            world.calls.push((node, request.method));
            (world.silent.contains(&node), world.answer(node, to, request))
        });
        let address = to.to_owned();
        Box::pin(async move {
            if silent {
                tokio::time::sleep(deadline).await;
                return Err(RpcError::Deadline { address, deadline_ms: deadline.as_millis() as u64 });
            }
            answer
        })
    }

    fn serve<'a>(
        &'a self,
        _: &'a str,
        _: Arc<dyn Handler>,
    ) -> BoxFuture<'a, std::io::Result<Box<dyn ServerHandle>>> {
        Box::pin(async { Err(std::io::ErrorKind::Unsupported.into()) })
    }
}

impl World {
    fn answer(&mut self, node: u64, to: &str, request: Message) -> Result<Message, RpcError> {
        if self.dead.contains(&node) {
            return Err(RpcError::Unreachable { address: to.into(), cause: "connection refused".into() });
        }
        let (reply, payload) = match self.serve(node, request) {
            Ok(served) => served,
            Err(error) => (ChunkReply::error(&error), Vec::new()),
        };
        Ok(Message { method: 0, header: reply.encode_to_vec().into(), payload })
    }

    fn serve(&mut self, node: u64, request: Message) -> Result<(ChunkReply, Vec<Bytes>), ChunkError> {
        if node != self.leader {
            let hint = (self.leader != 0).then(|| (NodeId(self.leader), address(self.leader)));
            return Err(ChunkError::NotLeader { hint });
        }
        if let Some(error) = self.refuse.take() {
            return Err(error);
        }
        match request.method {
            methods::WRITE => {
                self.write(WriteRequest::decode(request.header).unwrap(), &request.payload.concat())
            }
            methods::COMPARE_AND_WRITE => {
                self.compares.push(CompareAndWriteRequest::decode(request.header).unwrap());
                assert_eq!(request.payload.concat().len(), 2 * BLOCK, "both halves");
                Ok((ChunkReply { differs_at: self.differs_at, ..ChunkReply::ok() }, Vec::new()))
            }
            methods::READ => self.read(&ReadRequest::decode(request.header).unwrap()),
            methods::DISCARD => {
                let discard = DiscardRequest::decode(request.header).unwrap();
                let first = discard.offset / BLOCK as u32;
                for block in first..first + discard.len / BLOCK as u32 {
                    self.blocks.remove(&(discard.chunk, block));
                }
                Ok((ChunkReply::ok(), Vec::new()))
            }
            methods::BLOCK_STATUS => {
                let status = BlockStatusRequest::decode(request.header).unwrap();
                self.check_fence(status.epoch)?;
                let first = status.offset / BLOCK as u32;
                let extents = (first..first + status.len / BLOCK as u32).map(|block| WireExtent {
                    len: BLOCK as u32,
                    allocated: self.blocks.contains_key(&(status.chunk, block)),
                });
                Ok((ChunkReply { extents: extents.collect(), ..ChunkReply::ok() }, Vec::new()))
            }
            other => Err(ChunkError::BadRequest { message: format!("method {other}") }),
        }
    }

    fn check_fence(&self, epoch: u64) -> Result<(), ChunkError> {
        let held = self.held_epoch;
        if epoch < held { Err(ChunkError::Fenced { held: Epoch(held) }) } else { Ok(()) }
    }

    fn write(&mut self, write: WriteRequest, data: &[u8]) -> Result<(ChunkReply, Vec<Bytes>), ChunkError> {
        self.check_fence(write.epoch)?;
        assert!(data.len() <= 1 << 20, "a payload is at most one frame");
        for (i, block) in data.chunks(BLOCK).enumerate() {
            assert_eq!(write.crcs[i], crc32fast::hash(block), "checksums are made by the client");
            self.blocks
                .insert((write.chunk, write.offset / BLOCK as u32 + i as u32), Bytes::copy_from_slice(block));
        }
        if let (Some(_), Some(file)) = (&self.pledge, &self.file) {
            file.write_at(write.offset.into(), &[std::io::IoSlice::new(data)]).unwrap();
        }
        self.writes.push(write);
        Ok((ChunkReply::ok(), Vec::new()))
    }

    fn read(&mut self, read: &ReadRequest) -> Result<(ChunkReply, Vec<Bytes>), ChunkError> {
        self.check_fence(read.epoch)?;
        let first = read.offset / BLOCK as u32;
        let (mut crcs, mut data) = (Vec::new(), Vec::new());
        for block in first..first + read.len / BLOCK as u32 {
            let stored = self.blocks.get(&(read.chunk, block));
            crcs.push(stored.map_or(0, |bytes| crc32fast::hash(bytes)));
            data.extend_from_slice(stored.map_or(&[0; BLOCK][..], |bytes| bytes));
        }
        if let (Some(pledge), Some(file), 1) = (&self.pledge, &self.file, read.machine) {
            let (place, board) = (file.place().unwrap(), pledge.board().place().unwrap());
            let window = read.around / BLOCK as u32..(read.around + read.around_len) / BLOCK as u32;
            let stored = |block: u32| self.blocks.get(&(read.chunk, block));
            let runs = window.clone().filter(|block| stored(*block).is_some());
            let sight = FileSight {
                crcs: window.map(|block| stored(block).map_or(0, |bytes| crc32fast::hash(bytes))).collect(),
                runs: runs
                    .map(|block| FileRun { offset: u64::from(block) * BLOCK as u64, blocks: 1 })
                    .collect(),
                board_device: board.device,
                board_inode: board.inode,
                board_path: "/board".into(),
                pledge: pledge.number(),
                changes: pledge.changes(),
            };
            let place = FilePlace {
                device: place.device,
                inode: place.inode,
                runs: vec![FileRun { offset: read.offset.into(), blocks: read.len / BLOCK as u32 }],
                path: "/file".into(),
                sight: (read.around_len > 0).then_some(sight),
            };
            return Ok((ChunkReply { crcs, place: Some(place), ..ChunkReply::ok() }, Vec::new()));
        }
        if read.machine == 1
            && let Some(file) = &self.file
        {
            file.write_at(0, &[std::io::IoSlice::new(&data)]).unwrap();
            if self.changes {
                file.punch(0, 4096).unwrap();
            }
            let place = file.place().unwrap();
            let place = FilePlace {
                device: place.device,
                inode: place.inode,
                runs: vec![FileRun { offset: 0, blocks: read.len / BLOCK as u32 }],
                path: if read.path { "/file".into() } else { String::new() },
                sight: None,
            };
            return Ok((ChunkReply { crcs, place: Some(place), ..ChunkReply::ok() }, Vec::new()));
        }
        if self.damage_reads > 0 {
            self.damage_reads -= 1;
            data[17] ^= 0x40;
        }
        Ok((ChunkReply { crcs, ..ChunkReply::ok() }, vec![data.into()]))
    }
}

impl MdsTransport for Scripted {
    fn call(
        &self,
        request: pb::MdsRequest,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<pb::MdsResponse, MdsCallError>> {
        let answer = self.with(|world| if world.mds_down { None } else { Some(world.control(request)) });
        Box::pin(async move {
            match answer {
                Some(answer) => {
                    // Others may ask meanwhile.
                    tokio::task::yield_now().await;
                    Ok(pb::MdsResponse { result: Some(answer) })
                }
                None => {
                    tokio::time::sleep(deadline).await;
                    Err(MdsCallError::Unavailable {
                        waited_ms: 0,
                        addresses: "mds".into(),
                        cause: "down".into(),
                    })
                }
            }
        })
    }
}

impl World {
    fn control(&mut self, request: pb::MdsRequest) -> Answer {
        let volume = pb::Volume {
            id: 7,
            size: (4 << 30) + self.grown,
            epoch: 1,
            block_bytes: 4096,
            chunk_bytes: 16 << 20,
            segment_bytes: 1 << 30,
            ..pb::Volume::default()
        };
        match request.op.unwrap() {
            Op::Open(_) => Answer::Opened(pb::Opened { volume: Some(volume), lease_ms: 8000, epoch: 1 }),
            Op::Refresh(refresh) => Answer::Refreshed(pb::Refreshed {
                sessions: refresh
                    .sessions
                    .into_iter()
                    .map(|session| pb::SessionState {
                        session: Some(session),
                        volume: Some(volume),
                        error: None,
                    })
                    .collect(),
                lease_ms: 8000,
            }),
            Op::Close(_) => Answer::Done(pb::Empty {}),
            Op::Segment(segment) => {
                self.segment_questions += 1;
                if segment.allocate {
                    self.segments.insert(segment.index);
                }
                let copysets = if self.segments.contains(&segment.index) { vec![1; 64] } else { Vec::new() };
                Answer::SegmentMap(pb::SegmentMap { copysets })
            }
            Op::GetCopysets(_) => Answer::Copysets(pb::Copysets {
                copysets: vec![pb::Copyset {
                    id: 1,
                    members: (1..=3)
                        .map(|node| pb::CopysetMember {
                            node,
                            address: address(node),
                            up: true,
                            ..Default::default()
                        })
                        .collect(),
                    leader: 1,
                    ..pb::Copyset::default()
                }],
            }),
            other => panic!("unexpected control call {other:?}"),
        }
    }
}

pub async fn open(config: ClientConfig) -> (Scripted, Arc<Volume>) {
    open_as(OpenMode::Exclusive, config).await
}

pub async fn open_as(mode: OpenMode, config: ClientConfig) -> (Scripted, Arc<Volume>) {
    let world = Scripted::default();
    world.with(|world| world.leader = 1);
    let cluster = Cluster::with_parts(config, Arc::new(world.clone()), Arc::new(world.clone()), 42);
    let volume = cluster.open("/demo", OpenOptions { mode, ..OpenOptions::default() }).await.unwrap();
    (world, volume)
}

pub fn pattern(byte: u8, blocks: usize) -> Bytes {
    vec![byte; blocks * BLOCK].into()
}
