//! Chunkservers, a stand-in for the MDS, and a client of one request at a time.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use curve_chunkserver::{ChunkserverConfig, ChunkserverParts, ChunkserverServer, Replica, StartError};
use curve_chunkstore::{HOLE, block_crc};
use curve_io::sim::{Outage, SimDisk, SimDiskConfig, SimMachine, SimNetwork};
use curve_io::{Disk, Message, Network, OpenMode};
use curve_multiraft::Role;
use curve_proto::pb::data::{
    ChunkReply, CompareAndWriteRequest, FenceRequest, KeptHolder, ReadRequest, WriteRequest,
    WriteZeroesRequest,
};
use curve_proto::{ChunkError, methods};
use curve_types::{ByteSize, CopysetId, Epoch, HumanDuration, NodeId, VolumeId};
use prost::Message as _;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};

use crate::mds::Mds;

pub const CHUNKSERVERS: usize = 3;
pub const BLOCK: usize = 4096;
pub const VOLUME: VolumeId = VolumeId(1);
pub const COPYSET: CopysetId = CopysetId(1);
const CHUNK: u32 = 16 << 20;
/// A client's patience with one operation.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes that no other call with another `n` gives.
pub fn pattern(n: u32, blocks: usize) -> Vec<u8> {
    (0..blocks * BLOCK / 4)
        .flat_map(|i| (n.wrapping_mul(0x9E37_79B9) ^ i as u32 ^ 0x5a00_0000).to_le_bytes())
        .collect()
}

/// One session of one client.
#[derive(Clone, Debug)]
pub struct Writer {
    pub client: u64,
    pub epoch: Epoch,
    pub sequence: u64,
}

impl Writer {
    pub fn new(client: u64, epoch: Epoch) -> Self {
        Self { client, epoch, sequence: 1 }
    }
}

pub struct Bed {
    network: SimNetwork,
    client: Arc<dyn Network>,
    disks: Vec<SimDisk>,
    servers: Vec<Option<ChunkserverServer>>,
    pub mds: Arc<Mds>,
    seed: u64,
}

/// Runs a test on a cluster that has just been made.
pub fn run(seed: u64, test: impl AsyncFnOnce(&mut Bed)) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut bed = Bed::new(seed).await;
        test(&mut bed).await;
    });
}

fn name(at: usize) -> String {
    format!("chunkserver-{at}")
}

fn address(at: usize) -> String {
    format!("{}:1", name(at))
}

impl Bed {
    async fn new(seed: u64) -> Self {
        let network = SimNetwork::new(seed);
        let disks = (0..CHUNKSERVERS).map(|at| {
            let seed = seed * 10 + at as u64;
            let delay = Duration::from_micros(100)..Duration::from_millis(2);
            SimDisk::new(SimDiskConfig { seed, sync_delay: delay, ..SimDiskConfig::default() })
        });
        let mut bed = Self {
            client: network.node("client"),
            disks: disks.collect(),
            servers: (0..CHUNKSERVERS).map(|_| None).collect(),
            mds: Arc::new(Mds::new(COPYSET, CHUNKSERVERS)),
            network,
            seed,
        };
        for at in 0..CHUNKSERVERS {
            bed.start(at).await;
        }
        bed
    }

    fn parts(&mut self, at: usize) -> (ChunkserverConfig, ChunkserverParts) {
        let config = ChunkserverConfig {
            zone: format!("zone-{at}"),
            listen_address: address(at),
            reserve: ByteSize(64 << 20),
            pool_files: 0,
            log_segment: ByteSize(8 << 20),
            scrub_interval: HumanDuration(Duration::from_secs(20)),
            ..ChunkserverConfig::default()
        };
        self.seed += 1;
        let parts = ChunkserverParts {
            disk: self.disks[at].mount(),
            dir: PathBuf::from("data"),
            network: self.network.node(&name(at)),
            mds: self.mds.clone(),
            rng: StdRng::seed_from_u64(self.seed),
        };
        (config, parts)
    }

    pub async fn start(&mut self, at: usize) {
        self.try_start(at).await.unwrap();
    }

    pub async fn try_start(&mut self, at: usize) -> Result<(), StartError> {
        self.network.bring_up(&name(at));
        let (config, parts) = self.parts(at);
        self.servers[at] = Some(ChunkserverServer::start(config, parts).await?);
        Ok(())
    }

    /// A chunkserver's data directory, as a process would see it.
    pub fn data(&self, at: usize) -> (Arc<dyn Disk>, &'static Path) {
        (self.disks[at].mount(), Path::new("data"))
    }

    /// Power loss.
    pub fn crash(&mut self, at: usize) {
        self.network.take_down(&name(at), Outage::Refused);
        self.disks[at].crash();
        self.servers[at] = None;
    }

    pub async fn stop(&mut self, at: usize) {
        self.servers[at].take().unwrap().shutdown().await;
        self.network.take_down(&name(at), Outage::Refused);
        self.disks[at].detach();
    }

    pub fn replica(&self, at: usize) -> Arc<Replica> {
        self.servers[at].as_ref().unwrap().replicas().into_iter().next().unwrap()
    }

    fn running(&self) -> impl Iterator<Item = (usize, Arc<Replica>)> {
        self.servers
            .iter()
            .enumerate()
            .filter_map(|(at, server)| Some((at, server.as_ref()?.replicas().into_iter().next()?)))
    }

    /// Who leads; waits for an election.
    pub async fn leader(&self) -> usize {
        let until = Instant::now() + PATIENCE;
        loop {
            let leads = |replica: &Replica| replica.group().is_some_and(|g| g.status().role == Role::Leader);
            if let Some((at, _)) = self.running().find(|(_, replica)| leads(replica)) {
                return at;
            }
            assert!(Instant::now() < until, "nobody leads");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until all running replicas have applied the same.
    pub async fn settle(&self) {
        let until = Instant::now() + PATIENCE;
        loop {
            let applied: Vec<_> = self
                .running()
                .map(|(_, r)| r.group().unwrap().status())
                .map(|s| (s.applied, s.last_log))
                .collect();
            if applied.windows(2).all(|pair| pair[0] == pair[1]) && applied.iter().all(|(a, l)| a == l) {
                return;
            }
            assert!(Instant::now() < until, "the replicas do not converge: {applied:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn assert_replicas_equal(&self) {
        let mut seen = Vec::new();
        for (_, replica) in self.running() {
            let mut chunks = Vec::new();
            for key in replica.store().chunks() {
                let digest = replica.store().digest(key).await.unwrap();
                chunks.push((key, digest.hash, digest.blocks));
            }
            seen.push(chunks);
        }
        assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "the replicas differ: {seen:?}");
    }

    pub async fn checkpoint(&self, at: usize) {
        self.replica(at).group().unwrap().checkpoint().await.unwrap();
    }

    /// Makes the chunks of a replica reach its disk.
    pub async fn flush(&self, at: usize) {
        self.replica(at).store().sync().await.unwrap();
    }

    /// Flips a bit wherever a chunk file holds these bytes; says how often.
    pub fn flip_data(&self, at: usize, wanted: &[u8]) -> usize {
        self.flip(at, "data/store", 512, wanted)
    }

    /// Flips a bit wherever the log holds these bytes; says how often.
    pub fn flip_log(&self, at: usize, wanted: &[u8]) -> usize {
        self.flip(at, "data/log", 1, wanted)
    }

    fn flip(&self, at: usize, below: &str, align: usize, wanted: &[u8]) -> usize {
        let mount = self.disks[at].mount();
        let mut flipped = 0;
        for (path, len) in self.disks[at].files() {
            if !path.starts_with(below) {
                continue;
            }
            let mut bytes = vec![0; len as usize];
            mount.open(&path, OpenMode::Existing).unwrap().read_at(0, &mut bytes).unwrap();
            for start in (0..bytes.len().saturating_sub(wanted.len() - 1)).step_by(align) {
                if bytes[start..start + wanted.len()] == *wanted {
                    self.disks[at].flip_bit(&path, start as u64 + 100, 3).unwrap();
                    flipped += 1;
                }
            }
        }
        flipped
    }

    pub fn fill_disk(&self, at: usize) {
        let space = self.disks[at].mount().space().unwrap();
        self.disks[at].set_capacity(space.total - space.free + (63 << 20));
    }

    pub fn hang_disk(&self, at: usize, hangs: bool) {
        self.disks[at].set_hung(hangs);
    }

    pub fn free_disk(&self, at: usize) {
        self.disks[at].set_capacity(1 << 40);
    }

    pub async fn write(&self, writer: &mut Writer, block: u32, bytes: Vec<u8>) -> Result<(), ChunkError> {
        self.write_bytes(writer, block * BLOCK as u32, bytes).await
    }

    pub async fn write_bytes(
        &self,
        writer: &mut Writer,
        offset: u32,
        bytes: Vec<u8>,
    ) -> Result<(), ChunkError> {
        let payload = Bytes::from(bytes);
        let first = (BLOCK - offset as usize % BLOCK).min(payload.len());
        let (head, rest) = payload.split_at(first);
        let crcs = std::iter::once(head).chain(rest.chunks(BLOCK)).map(block_crc).collect();
        let request = WriteRequest {
            copyset: COPYSET.get(),
            volume: VOLUME.get(),
            chunk: offset / CHUNK,
            offset: offset % CHUNK,
            epoch: writer.epoch.get(),
            client: writer.client,
            sequence: writer.sequence,
            answered_below: 1,
            crcs,
        };
        self.call(methods::WRITE, request.encode_to_vec(), vec![payload]).await?;
        writer.sequence += 1;
        Ok(())
    }

    /// Compares and writes within a block; where they differed, or `None` if it was written.
    pub async fn compare(
        &self,
        writer: &mut Writer,
        offset: u32,
        expected: &[u8],
        bytes: &[u8],
    ) -> Result<Option<u32>, ChunkError> {
        let request = CompareAndWriteRequest {
            copyset: COPYSET.get(),
            volume: VOLUME.get(),
            chunk: offset / CHUNK,
            offset: offset % CHUNK,
            epoch: writer.epoch.get(),
            client: writer.client,
            sequence: writer.sequence,
            answered_below: 1,
            expected_crcs: vec![block_crc(expected)],
            crcs: vec![block_crc(bytes)],
        };
        let payload = [expected, bytes].map(Bytes::copy_from_slice).to_vec();
        let (reply, _) = self.call(methods::COMPARE_AND_WRITE, request.encode_to_vec(), payload).await?;
        writer.sequence += 1;
        Ok(reply.differs_at)
    }

    pub async fn zero_bytes(&self, writer: &mut Writer, offset: u32, len: u32) -> Result<(), ChunkError> {
        let request = WriteZeroesRequest {
            copyset: COPYSET.get(),
            volume: VOLUME.get(),
            chunk: 0,
            offset,
            len,
            epoch: writer.epoch.get(),
            client: writer.client,
            sequence: writer.sequence,
            answered_below: 1,
            keep_allocated: false,
        };
        self.call(methods::WRITE_ZEROES, request.encode_to_vec(), Vec::new()).await?;
        writer.sequence += 1;
        Ok(())
    }

    pub async fn read(&self, epoch: Epoch, block: u32, blocks: u32) -> Result<Vec<u8>, ChunkError> {
        self.read_as(0, epoch, block, blocks).await
    }

    pub async fn read_as(
        &self,
        client: u64,
        epoch: Epoch,
        block: u32,
        blocks: u32,
    ) -> Result<Vec<u8>, ChunkError> {
        let len = blocks * BLOCK as u32;
        let (reply, payload) = self.ask(client, epoch, block, blocks, 0).await?;
        assert_eq!(reply.place, None);
        let bytes = if payload.is_empty() { vec![0; len as usize] } else { payload.to_vec() };
        for (bytes, crc) in bytes.chunks(BLOCK).zip(&reply.crcs) {
            assert!(
                *crc == HOLE && bytes.iter().all(|b| *b == 0) || block_crc(bytes) == *crc,
                "a wrong checksum"
            );
        }
        Ok(bytes)
    }

    /// The machine of all disks.
    pub fn machine(&self) -> SimMachine {
        SimMachine::new(self.disks.clone())
    }

    /// A read as somebody on `machine` asks for it.
    pub async fn ask(
        &self,
        client: u64,
        epoch: Epoch,
        block: u32,
        blocks: u32,
        machine: u64,
    ) -> Result<(ChunkReply, Bytes), ChunkError> {
        let request = read_request(client, epoch, block, blocks, machine);
        self.call(methods::READ, request.encode_to_vec(), Vec::new()).await
    }

    /// What one chunkserver says to a read, whoever leads.
    pub async fn read_once(&self, at: usize, epoch: Epoch, block: u32) -> Result<ChunkReply, ChunkError> {
        let header = read_request(0, epoch, block, 1, 0).encode_to_vec().into();
        let message = Message { method: methods::READ, header, payload: Vec::new() };
        let reply = self.client.call(&address(at), message, PATIENCE).await.expect("an answer in time");
        ChunkReply::decode(&*reply.header).unwrap().outcome()
    }

    pub async fn fence(&self, epoch: Epoch) -> Result<(), ChunkError> {
        self.fence_keeping(epoch, &[]).await
    }

    pub async fn fence_keeping(&self, epoch: Epoch, kept: &[(u64, Epoch)]) -> Result<(), ChunkError> {
        let kept = kept.iter().map(|&(client, epoch)| KeptHolder { client, epoch: epoch.get() }).collect();
        let (copyset, volume, epoch) = (COPYSET.get(), VOLUME.get(), epoch.get());
        let request = FenceRequest { copyset, volume, epoch, kept };
        self.call(methods::FENCE, request.encode_to_vec(), Vec::new()).await.map(|_| ())
    }

    /// Asks one after the other until one answers.
    async fn call(
        &self,
        method: u16,
        header: Vec<u8>,
        payload: Vec<Bytes>,
    ) -> Result<(ChunkReply, Bytes), ChunkError> {
        let until = Instant::now() + PATIENCE;
        let header = Bytes::from(header);
        let mut at = 0;
        loop {
            let message = Message { method, header: header.clone(), payload: payload.clone() };
            let reply = self.client.call(&address(at), message, Duration::from_secs(2)).await;
            let error = match reply {
                Ok(reply) => match ChunkReply::decode(&*reply.header).unwrap().outcome() {
                    Ok(header) => return Ok((header, reply.payload.concat().into())),
                    Err(error) => error,
                },
                Err(error) => ChunkError::Stopped { message: error.to_string() },
            };
            match &error {
                ChunkError::NotLeader { hint: Some((node, _)) } => at = self.place_of(*node),
                ChunkError::Busy { .. } => {}
                ChunkError::NotLeader { hint: None } | ChunkError::NoCopyset | ChunkError::Stopped { .. } => {
                    at = (at + 1) % CHUNKSERVERS;
                }
                _ => return Err(error),
            }
            assert!(Instant::now() < until, "no answer in time: {error}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn place_of(&self, node: NodeId) -> usize {
        let address = self.mds.address(node).unwrap();
        (0..CHUNKSERVERS).find(|at| self::address(*at) == address).unwrap()
    }
}

fn read_request(client: u64, epoch: Epoch, block: u32, blocks: u32, machine: u64) -> ReadRequest {
    ReadRequest {
        copyset: COPYSET.get(),
        volume: VOLUME.get(),
        chunk: block * BLOCK as u32 / CHUNK,
        offset: block * BLOCK as u32 % CHUNK,
        len: blocks * BLOCK as u32,
        epoch: epoch.get(),
        client,
        machine,
        path: machine != 0,
        around: 0,
        around_len: 16 * BLOCK as u32,
    }
}
