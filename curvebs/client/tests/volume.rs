//! An open volume against a scripted copyset: three members, one of which leads, and an MDS that can be silenced.
//! Time is tokio's paused clock, so every wait is checked for its length and none is waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use curve_blockdev::{Allocation, BlockDevice, BlockError, Compared, Extent, ZeroMode};
use curve_client::mds::OpenMode;
use curve_client::{ClientConfig, Cluster, OpenOptions, Pulse, Volume};
use curve_io::sim::{SimDisk, SimDiskConfig, SimMachine};
use curve_io::{
    BoxFuture, File, Handler, Machine, Message, Network, OpenMode as FileMode, RpcError, ServerHandle,
};
use curve_proto::ChunkError;
use curve_proto::methods;
use curve_proto::pb::data::{
    BlockStatusRequest, ChunkReply, CompareAndWriteRequest, DiscardRequest, Extent as WireExtent, FilePlace,
    FileRun, ReadRequest, WriteRequest,
};
use curve_proto::pb::mds as pb;
use curve_proto::pb::mds::mds_request::Op;
use curve_proto::pb::mds::mds_response::Result as Answer;
use curve_proto::transport::{MdsCallError, MdsTransport};
use curve_types::{Epoch, NodeId};
use prost::Message as _;

const BLOCK: usize = 4096;

/// What the scripted cluster holds and how it misbehaves.
#[derive(Default)]
struct World {
    blocks: BTreeMap<(u32, u32), Bytes>,
    leader: u64,
    dead: Vec<u64>,
    silent: Vec<u64>,
    held_epoch: u64,
    refuse: Option<ChunkError>,
    damage_reads: u32,
    /// A file of the machine that holds what is read, where the reader runs on it.
    file: Option<Arc<dyn File>>,
    /// The file is changed before it is read from.
    changes: bool,
    mds_down: bool,
    calls: Vec<(u64, u16)>,
    /// How long the requests that must arrive by some time may be on their way.
    hurried: Vec<Duration>,
    writes: Vec<WriteRequest>,
    compares: Vec<CompareAndWriteRequest>,
    differs_at: Option<u32>,
    segments: BTreeSet<u32>,
    /// Bytes of the volume beyond the 4 GiB that it has at first.
    grown: u64,
    segment_questions: usize,
}

#[derive(Clone, Default)]
struct Scripted(Arc<Mutex<World>>);

impl Scripted {
    fn with<T>(&self, act: impl FnOnce(&mut World) -> T) -> T {
        act(&mut self.0.lock().unwrap())
    }
}

fn address(node: u64) -> String {
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

async fn open(config: ClientConfig) -> (Scripted, Arc<Volume>) {
    open_as(OpenMode::Exclusive, config).await
}

async fn open_as(mode: OpenMode, config: ClientConfig) -> (Scripted, Arc<Volume>) {
    let world = Scripted::default();
    world.with(|world| world.leader = 1);
    let cluster = Cluster::with_parts(config, Arc::new(world.clone()), Arc::new(world.clone()), 42);
    let volume = cluster.open("/demo", OpenOptions { mode, ..OpenOptions::default() }).await.unwrap();
    (world, volume)
}

#[tokio::test(start_paused = true)]
async fn on_the_machine_of_the_leader_the_bytes_are_taken_from_its_file() {
    let world = Scripted::default();
    let disk = SimDisk::new(SimDiskConfig::default());
    let file = disk.mount().open(Path::new("chunk"), FileMode::CreateNew).unwrap();
    world.with(|world| (world.leader, world.file) = (1, Some(file)));
    for (local_reads, calls) in [(true, [1, 1, 2]), (false, [1, 1, 1])] {
        let config = ClientConfig { local_reads, ..ClientConfig::default() };
        let mut cluster = Cluster::with_parts(config, Arc::new(world.clone()), Arc::new(world.clone()), 42);
        cluster.run_on(Arc::new(SimMachine::new(vec![disk.clone()])));
        let volume =
            cluster.open("/demo", OpenOptions { sectors: true, ..Default::default() }).await.unwrap();
        let data: Bytes = (0..4 * BLOCK).map(|i| (i / 100) as u8 + 1).collect::<Vec<u8>>().into();
        volume.write(4 * BLOCK as u64, vec![data.clone()]).await.unwrap();
        let read = async |changes| {
            world.with(|world| (world.changes, _) = (changes, world.calls.clear()));
            let bytes = volume.read(4 * BLOCK as u64 + 512, 8192).await.unwrap().concat();
            assert_eq!(bytes, data.slice(512..512 + 8192));
            world.with(|world| world.calls.len())
        };
        // What was changed is asked for again.
        assert_eq!([read(false).await, read(false).await, read(true).await], calls);
        volume.close().await.unwrap();
    }
}

/// A machine that knows which of the files that were opened on it are still open.
struct Watched(SimMachine, Mutex<Vec<Weak<dyn File>>>);

impl Watched {
    fn open_files(&self) -> usize {
        self.1.lock().unwrap().iter().filter(|file| file.strong_count() > 0).count()
    }
}

impl Machine for Watched {
    fn id(&self) -> u64 {
        self.0.id()
    }

    fn open(&self, place: curve_io::FilePlace, path: &Path) -> std::io::Result<Arc<dyn File>> {
        let file = self.0.open(place, path)?;
        self.1.lock().unwrap().push(Arc::downgrade(&file));
        Ok(file)
    }

    fn files_max(&self) -> usize {
        self.0.files_max()
    }
}

#[tokio::test(start_paused = true)]
async fn files_that_are_not_read_from_are_closed_also_by_who_was_shut_out() {
    for fenced in [false, true] {
        let world = Scripted::default();
        let disk = SimDisk::new(SimDiskConfig::default());
        let file = disk.mount().open(Path::new("chunk"), FileMode::CreateNew).unwrap();
        world.with(|world| (world.leader, world.file) = (1, Some(file)));
        let (parts, config) = ((Arc::new(world.clone()), Arc::new(world.clone())), ClientConfig::default());
        let mut cluster = Cluster::with_parts(config, parts.0, parts.1, 42);
        let machine = Arc::new(Watched(SimMachine::new(vec![disk]), Mutex::default()));
        cluster.run_on(machine.clone());
        let volume = cluster.open("/demo", OpenOptions::default()).await.unwrap();
        volume.write(0, vec![pattern(1, 1)]).await.unwrap();
        volume.read(0, 4096).await.unwrap();
        assert_eq!(machine.open_files(), 1);
        if fenced {
            world.with(|world| world.held_epoch = 2);
            assert_eq!(volume.read(0, 4096).await, Err(BlockError::Fenced));
        }
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(machine.open_files(), 0, "fenced: {fenced}");
    }
}

fn pattern(byte: u8, blocks: usize) -> Bytes {
    vec![byte; blocks * BLOCK].into()
}

#[tokio::test(start_paused = true)]
async fn reads_what_was_written_across_chunks_and_frames() {
    let (world, volume) = open(ClientConfig::default()).await;
    let data: Bytes = (0..3 << 20).map(|i: u32| (i / 4096) as u8).collect::<Vec<u8>>().into();
    let offset = (16 << 20) - (1 << 20) - 8192;
    volume.write(offset, vec![data.slice(..5000), data.slice(5000..)]).await.unwrap();
    assert_eq!(volume.read(offset, 3 << 20).await.unwrap().concat(), data);
    assert!(world.with(|world| world.writes.iter().map(|write| write.chunk).max()) == Some(1), "two chunks");
    assert_eq!(volume.read(0, 8192).await.unwrap().concat(), vec![0; 8192]);
    volume.close().await.unwrap();
    assert_eq!(volume.read(0, 4096).await, Err(BlockError::Closed));
}

#[tokio::test(start_paused = true)]
async fn a_volume_never_written_needs_no_segment() {
    let (world, volume) = open(ClientConfig::default()).await;
    assert_eq!(volume.read(8192, 4096).await.unwrap().concat(), vec![0; 4096]);
    volume.discard(0, 1 << 30).await.unwrap();
    volume.write_zeroes(0, 1 << 30, ZeroMode::default()).await.unwrap();
    assert_eq!(
        volume.block_status(0, 1 << 30).await.unwrap(),
        [Extent { len: 1 << 30, allocation: Allocation::Hole }]
    );
    assert!(world.with(|world| world.segments.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn follows_hints_and_finds_a_new_leader() {
    let (world, volume) = open(ClientConfig::default()).await;
    world.with(|world| world.leader = 3);
    volume.write(0, vec![pattern(1, 1)]).await.unwrap();
    assert_eq!(
        world.with(|world| std::mem::take(&mut world.calls)),
        [(1, methods::WRITE), (3, methods::WRITE)]
    );
    world.with(|world| {
        world.dead = vec![3];
        world.leader = 2;
    });
    let started = tokio::time::Instant::now();
    volume.write(0, vec![pattern(2, 1)]).await.unwrap();
    assert!(started.elapsed() < Duration::from_millis(100), "took {:?}", started.elapsed());
    assert_eq!(volume.read(0, 4096).await.unwrap().concat(), pattern(2, 1));
}

#[tokio::test(start_paused = true)]
async fn waits_through_an_election_and_keeps_its_sequence() {
    let (world, volume) = open(ClientConfig::default()).await;
    world.with(|world| {
        world.leader = 0;
        world.dead = vec![1];
    });
    let healing = {
        let world = world.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(1200)).await;
            world.with(|world| world.leader = 2);
        }
    };
    let started = tokio::time::Instant::now();
    let (written, ()) = tokio::join!(volume.write(0, vec![pattern(3, 1)]), healing);
    written.unwrap();
    assert!(started.elapsed() < Duration::from_millis(1450), "took {:?}", started.elapsed());
    let tries = world.with(|world| world.writes.clone());
    assert_eq!(tries.len(), 1);
    assert_eq!((tries[0].sequence, tries[0].answered_below), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_paused_leader_costs_one_try() {
    let (world, volume) = open(ClientConfig::default()).await;
    world.with(|world| {
        world.silent = vec![1];
        world.leader = 2;
    });
    let started = tokio::time::Instant::now();
    volume.write(0, vec![pattern(4, 1)]).await.unwrap();
    let took = started.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_millis(1100), "took {took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_paused_leader_costs_one_try_although_the_others_elect_late() {
    let (world, volume) = open(ClientConfig::default()).await;
    world.with(|world| {
        world.silent = vec![1];
        world.leader = 0;
    });
    let elected = {
        let world = world.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(1600)).await;
            world.with(|world| world.leader = 3);
        }
    };
    let started = tokio::time::Instant::now();
    let (written, ()) = tokio::join!(volume.write(0, vec![pattern(4, 1)]), elected);
    written.unwrap();
    assert!(started.elapsed() < Duration::from_millis(1800), "took {:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_slow_once_is_asked_again() {
    let (world, volume) = open(ClientConfig::default()).await;
    world.with(|world| world.silent = vec![1]);
    let better = {
        let world = world.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            world.with(|world| world.silent.clear());
        }
    };
    let started = tokio::time::Instant::now();
    let (written, ()) = tokio::join!(volume.write(0, vec![pattern(4, 1)]), better);
    written.unwrap();
    assert!(started.elapsed() < Duration::from_millis(3500), "took {:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_fence_is_final() {
    let (world, volume) = open(ClientConfig::default()).await;
    world.with(|world| world.held_epoch = 2);
    assert_eq!(volume.write(0, vec![pattern(5, 1)]).await, Err(BlockError::Fenced));
    world.with(|world| world.held_epoch = 0);
    assert_eq!(volume.write(0, vec![pattern(5, 1)]).await, Err(BlockError::Fenced));
    assert_eq!(volume.read(0, 4096).await, Err(BlockError::Fenced));
    assert!(world.with(|world| world.writes.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn damage_on_the_way_is_noticed() {
    let (world, volume) = open(ClientConfig::default()).await;
    volume.write(0, vec![pattern(6, 2)]).await.unwrap();
    world.with(|world| world.damage_reads = 1);
    assert_eq!(volume.read(0, 8192).await.unwrap().concat(), pattern(6, 2));
    world.with(|world| world.damage_reads = u32::MAX);
    assert_eq!(volume.read(0, 4096).await, Err(BlockError::Corrupt { offset: 0, len: 4096 }));
}

#[tokio::test(start_paused = true)]
async fn goes_on_without_an_mds_until_it_needs_a_segment() {
    let (world, volume) = open(ClientConfig::default()).await;
    volume.write(0, vec![pattern(7, 1)]).await.unwrap();
    world.with(|world| world.mds_down = true);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    volume.write(4096, vec![pattern(8, 1)]).await.unwrap();
    assert_eq!(volume.read(0, 8192).await.unwrap().concat()[4096..], pattern(8, 1));

    let waiting = volume.write(3 << 30, vec![pattern(9, 1)]);
    let back = async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        world.with(|world| world.mds_down = false);
    };
    let (written, ()) = tokio::join!(waiting, back);
    written.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_io_timeout_ends_the_wait_and_gives_the_sequence_up() {
    let config = ClientConfig { io_timeout: "3s".parse().unwrap(), ..ClientConfig::default() };
    let (world, volume) = open(config).await;
    world.with(|world| world.leader = 0);
    assert_eq!(volume.write(0, vec![pattern(1, 1)]).await, Err(BlockError::TimedOut { seconds: 3 }));
    world.with(|world| world.leader = 1);
    volume.write(0, vec![pattern(2, 1)]).await.unwrap();
    let write = world.with(|world| world.writes[0].clone());
    assert_eq!(
        (write.sequence, write.answered_below),
        (2, 2),
        "the late first write would now be refused as stale"
    );
}

/// A write that waits for a leader while the process is stopped is not sent when it goes on: whoever waited for it may have
/// repeated it elsewhere, and written more.
#[tokio::test(start_paused = true)]
async fn a_stall_of_the_process_gives_up_what_is_under_way() {
    let world = Scripted::default();
    let (parts, config) = ((Arc::new(world.clone()), Arc::new(world.clone())), ClientConfig::default());
    let mut cluster = Cluster::with_parts(config, parts.0, parts.1, 42);
    let now = Arc::new(Mutex::new(Duration::ZERO));
    let clock = now.clone();
    cluster.give_up_after_stalls(Arc::new(Pulse::with_clock(Duration::from_secs(3), move || {
        *clock.lock().unwrap()
    })));
    let volume = cluster.open("/demo", OpenOptions::default()).await.unwrap();
    let stall = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        *now.lock().unwrap() += Duration::from_secs(4);
        world.with(|world| world.leader = 1);
    };
    let (written, ()) = tokio::join!(volume.write(0, vec![pattern(1, 1)]), stall);
    assert_eq!(written, Err(BlockError::Fenced));
    assert_eq!(volume.write(0, vec![pattern(2, 1)]).await, Err(BlockError::Fenced), "for good");
    assert!(world.with(|world| world.writes.is_empty()));
    let anew = cluster.open("/demo", OpenOptions::default()).await.unwrap();
    anew.write(0, vec![pattern(3, 1)]).await.unwrap();
    let (calls, hurried) = world.with(|world| (world.calls.len(), world.hurried.clone()));
    assert_eq!(
        hurried,
        vec![Duration::from_millis(1500); calls],
        "the process may be stopped after it asked, too"
    );
}

#[tokio::test(start_paused = true)]
async fn refusals_become_the_devices_errors() {
    let (world, volume) = open(ClientConfig::default()).await;
    for (refusal, expected) in [
        (ChunkError::NoSpace, BlockError::NoSpace),
        (ChunkError::Busy { message: "busy".into() }, BlockError::Closed),
    ] {
        let busy = matches!(refusal, ChunkError::Busy { .. });
        world.with(|world| world.refuse = Some(refusal));
        let written = volume.write(0, vec![pattern(1, 1)]).await;
        assert_eq!(written, if busy { Ok(()) } else { Err(expected) });
    }
    let size = 4 << 30;
    assert_eq!(volume.read(size, 4096).await, Err(BlockError::BadRange { offset: size, len: 4096, size }));
    assert_eq!(volume.read(512, 4096).await, Err(BlockError::BadRange { offset: 512, len: 4096, size }));
}

const SEGMENT: u64 = 1 << 30;

/// Another holder allocates a segment of the volume and fills its first block.
fn write_elsewhere(world: &Scripted, segment: u32, byte: u8) {
    world.with(|world| {
        world.segments.insert(segment);
        world.blocks.insert((segment * 64, 0), pattern(byte, 1));
    });
}

#[tokio::test(start_paused = true)]
async fn what_another_holder_allocates_is_seen_at_once() {
    for mode in [OpenMode::Shared, OpenMode::ReadOnly] {
        let (world, volume) = open_as(mode, ClientConfig::default()).await;
        write_elsewhere(&world, 0, 1);
        assert_eq!(volume.read(0, 4096).await.unwrap().concat(), pattern(1, 1));
        for _ in 0..2 {
            assert_eq!(volume.read(2 * SEGMENT, 4096).await.unwrap().concat(), pattern(0, 1));
        }
        write_elsewhere(&world, 2, 7);
        assert_eq!(volume.read(2 * SEGMENT, 4096).await.unwrap().concat(), pattern(7, 1), "{mode:?}");
        let status = volume.block_status(3 * SEGMENT, 4096).await.unwrap();
        assert_eq!(status, [Extent { len: 4096, allocation: Allocation::Hole }]);
    }
}

#[tokio::test(start_paused = true)]
async fn beside_others_a_hole_waits_for_the_mds_and_the_rest_goes_on() {
    let (world, volume) = open_as(OpenMode::Shared, ClientConfig::default()).await;
    volume.write(0, vec![pattern(1, 1)]).await.unwrap();
    assert_eq!(volume.read(SEGMENT, 4096).await.unwrap().concat(), pattern(0, 1));
    world.with(|world| world.mds_down = true);
    let hole = volume.read(SEGMENT, 4096);
    let others = async {
        for _ in 0..30 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let begun = tokio::time::Instant::now();
            assert_eq!(volume.read(0, 4096).await.unwrap().concat(), pattern(1, 1));
            assert!(begun.elapsed() < Duration::from_millis(100), "allocated data is read at once");
        }
        // Written by another holder in the last moment before this one's question is answered.
        write_elsewhere(&world, 1, 9);
        world.with(|world| world.mds_down = false);
    };
    let (read, ()) = tokio::join!(hole, others);
    assert_eq!(read.unwrap().concat(), pattern(9, 1));
}

#[tokio::test(start_paused = true)]
async fn many_who_ask_for_a_hole_share_the_answer() {
    let (world, volume) = open_as(OpenMode::Shared, ClientConfig::default()).await;
    let reads = (0..100).map(|i| volume.read(SEGMENT + i * 4096, 4096));
    for read in futures::future::join_all(reads).await {
        assert_eq!(read.unwrap().concat(), pattern(0, 1));
    }
    assert_eq!(
        world.with(|world| world.segment_questions),
        2,
        "the first, and one for all that asked while it ran"
    );
}

#[tokio::test(start_paused = true)]
async fn an_exclusive_holders_hole_is_confirmed_by_a_copyset_and_needs_no_mds() {
    let (world, volume) = open(ClientConfig::default()).await;
    volume.write(0, vec![pattern(1, 1)]).await.unwrap();
    assert_eq!(volume.read(SEGMENT, 4096).await.unwrap().concat(), pattern(0, 1));
    world.with(|world| {
        world.mds_down = true;
        world.calls.clear();
    });
    assert_eq!(volume.read(SEGMENT, 4096).await.unwrap().concat(), pattern(0, 1));
    assert_eq!(world.with(|world| std::mem::take(&mut world.calls)), [(1, methods::BLOCK_STATUS)]);

    // Somebody else was let in: the copysets were fenced first, then it allocated and wrote.
    world.with(|world| world.held_epoch = 2);
    write_elsewhere(&world, 1, 5);
    assert_eq!(volume.read(SEGMENT, 4096).await, Err(BlockError::Fenced), "no stale zeros");
    assert_eq!(volume.discard(2 * SEGMENT, 4096).await, Err(BlockError::Fenced));
}

#[tokio::test(start_paused = true)]
async fn a_hole_of_a_volume_without_data_is_asked_of_the_mds() {
    let (world, volume) = open(ClientConfig::default()).await;
    for _ in 0..2 {
        assert_eq!(volume.read(0, 4096).await.unwrap().concat(), pattern(0, 1));
    }
    assert_eq!(world.with(|world| world.segment_questions), 2, "there is no copyset to ask");
}

#[tokio::test(start_paused = true)]
async fn an_operation_beyond_the_end_asks_whether_the_volume_has_grown() {
    let (world, volume) = open_as(OpenMode::Shared, ClientConfig::default()).await;
    let size = 4 << 30;
    assert_eq!(
        volume.write(size, vec![pattern(1, 1)]).await,
        Err(BlockError::BadRange { offset: size, len: 4096, size })
    );
    world.with(|world| world.grown = 1 << 20);
    volume.write(size, vec![pattern(1, 1)]).await.unwrap();
    assert_eq!(volume.read(size, 4096).await.unwrap().concat(), pattern(1, 1));
    assert_eq!(volume.shape().size, size + (1 << 20));
}

#[tokio::test(start_paused = true)]
async fn a_comparison_is_one_request_of_one_chunk_and_is_repeated_under_its_number() {
    let (world, volume) = open(ClientConfig::default()).await;
    let compare =
        |offset, blocks| volume.compare_and_write(offset, vec![pattern(1, blocks)], vec![pattern(2, blocks)]);
    world.with(|world| world.refuse = Some(ChunkError::Busy { message: "an election".into() }));
    assert_eq!(compare(8192, 1).await, Ok(Compared::Written));
    world.with(|world| world.differs_at = Some(515));
    assert_eq!(compare((16 << 20) + 4096, 1).await, Ok(Compared::Differs { at: 515 }));
    let (asked, calls) =
        world.with(|world| (std::mem::take(&mut world.compares), std::mem::take(&mut world.calls)));
    assert_eq!(calls.len(), 3, "one of them was refused");
    let place = |r: &CompareAndWriteRequest| (r.chunk, r.offset, r.sequence, r.answered_below);
    assert_eq!(asked.iter().map(place).collect::<Vec<_>>(), [(0, 8192, 1, 1), (1, 4096, 2, 2)]);
    assert_ne!(asked[0].expected_crcs, asked[0].crcs);
    // What two copysets would have to decide together, or is too long, or has no two equal halves.
    let unequal = volume.compare_and_write(0, vec![pattern(1, 1)], vec![pattern(2, 2)]).await;
    for refused in [compare((16 << 20) - 4096, 2).await, compare(0, 17).await, unequal] {
        assert!(matches!(refused, Err(BlockError::Unsupported(_))), "{refused:?}");
    }
    assert!(matches!(compare(512, 1).await, Err(BlockError::BadRange { .. })));
    assert!(world.with(|world| world.calls.is_empty()));
}
