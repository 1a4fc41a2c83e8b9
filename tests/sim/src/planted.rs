//! Bugs that are planted on purpose, to prove that a run would find them.
//!
//! Each is planted on a seam, beside code that stays as it is: a disk that lies, a log that a crash has doctored, a
//! network that forges, a setting that contradicts the others. So nothing in the production code knows of them.

use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use curve_io::sim::SimMachine;
use curve_io::{
    Board, BoxFuture, DirEntry, Disk, File, FilePlace, Handler, Machine, Message, Network, OpenMode,
    RpcError, ServerHandle, Space,
};
use curve_proto::methods;
use curve_proto::pb::data::WriteRequest;
use prost::Message as _;

mod hasty;
mod recovery;

/// A bug that may be planted into a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Planted {
    /// Chunkservers acknowledge before their log is durable.
    AcknowledgeBeforeFlush,
    /// The log is trimmed although the chunks it protected are not durable.
    TrimBeforeChunkSync,
    /// A leader believes in its lease for longer than the others wait before they elect another.
    LeaseTooLong,
    /// Copysets accept writes of whatever epoch.
    StaleEpochAccepted,
    /// A replica forgets at a restart to whom it gave its last vote.
    VoteForgotten,
    /// What a crash left of the last records of the log passes for whole.
    TornRecordAccepted,
    /// A large write is logged before its payload is durable where it was placed.
    LoggedBeforePlaced,
    /// A reader looks once at what chunkservers on its machine pledge, and believes it for ever.
    PledgeForEver,
    /// A change of reservations is answered before all gateways enforce it.
    UnsettledAnswered,
}

impl Planted {
    /// All of them, by name.
    pub const ALL: [(&str, Self); 9] = [
        ("acknowledge-before-flush", Self::AcknowledgeBeforeFlush),
        ("trim-before-chunk-sync", Self::TrimBeforeChunkSync),
        ("lease-too-long", Self::LeaseTooLong),
        ("stale-epoch-accepted", Self::StaleEpochAccepted),
        ("vote-forgotten", Self::VoteForgotten),
        ("torn-record-accepted", Self::TornRecordAccepted),
        ("logged-before-placed", Self::LoggedBeforePlaced),
        ("pledge-for-ever", Self::PledgeForEver),
        ("unsettled-answered", Self::UnsettledAnswered),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        let found = Self::ALL.iter().find(|(_, bug)| *bug == self);
        found.map(|(name, _)| *name).expect("all bugs have a name")
    }

    /// A chunkserver's disk with the bug.
    pub fn disk(self, disk: Arc<dyn Disk>, dir: &Path) -> Arc<dyn Disk> {
        let chunks = || dir.join("store").join("copysets");
        let (under, lie) = match self {
            Self::AcknowledgeBeforeFlush => (dir.join("log"), Lie::Sync(Duration::from_millis(500))),
            Self::TrimBeforeChunkSync => (chunks(), Lie::Sync(Duration::from_secs(5))),
            Self::LoggedBeforePlaced => (chunks(), Lie::Placing(Duration::from_secs(5))),
            _ => return disk,
        };
        Arc::new(LyingDisk { inner: disk, under, lie })
    }

    /// Has the bug act on what a chunkserver's disk holds before its process starts. Returns how often it did.
    pub async fn doctor(self, disk: &dyn Disk, dir: &Path) -> io::Result<u64> {
        let log = dir.join("log");
        match self {
            Self::VoteForgotten => recovery::forget_votes(disk, &log).await,
            Self::TornRecordAccepted => recovery::accept_torn_records(disk, &log).await,
            _ => Ok(0),
        }
    }

    /// A client's machine with the bug.
    pub fn machine(self, machine: Arc<SimMachine>) -> Arc<dyn Machine> {
        match self {
            Self::PledgeForEver => Arc::new(TrustingMachine(machine)),
            _ => machine,
        }
    }

    /// A client's network with the bug.
    pub fn client_network(self, network: Arc<dyn Network>) -> Arc<dyn Network> {
        match self {
            Self::StaleEpochAccepted => Arc::new(ForgingNetwork(network)),
            Self::UnsettledAnswered => Arc::new(hasty::HastyNetwork(network)),
            _ => network,
        }
    }
}

impl FromStr for Planted {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        let names = || Self::ALL.map(|(name, _)| name).join(", ");
        found.map(|(_, bug)| *bug).ok_or_else(|| format!("no bug `{name}`; there are {}", names()))
    }
}

/// A machine on which what was once pledged holds for ever.
struct TrustingMachine(Arc<SimMachine>);

impl Machine for TrustingMachine {
    fn id(&self) -> u64 {
        self.0.id()
    }

    fn open(&self, place: FilePlace, path: &Path) -> io::Result<Arc<dyn File>> {
        self.0.open(place, path)
    }

    fn board(&self, place: FilePlace, path: &Path) -> io::Result<Arc<Board>> {
        Ok(self.0.board(place, path)?.for_ever())
    }

    fn files_max(&self) -> usize {
        self.0.files_max()
    }
}

/// What is said to be durable so much too early.
#[derive(Clone, Copy)]
enum Lie {
    /// Everything.
    Sync(Duration),
    /// Only what is written and made durable in one go.
    Placing(Duration),
}

/// A disk whose syncs below one directory return before they are done.
struct LyingDisk {
    inner: Arc<dyn Disk>,
    under: PathBuf,
    lie: Lie,
}

struct LyingFile(Arc<dyn File>, Lie);

impl LyingFile {
    fn sync_late(&self, late_by: Duration) -> BoxFuture<'static, io::Result<()>> {
        let file = Arc::clone(&self.0);
        tokio::spawn(async move {
            tokio::time::sleep(late_by).await;
            // Nobody waits for it; that is the bug.
            let _ = file.sync().await;
        });
        Box::pin(async { Ok(()) })
    }
}

impl Disk for LyingDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let file = self.inner.open(path, mode)?;
        Ok(if path.starts_with(&self.under) { Arc::new(LyingFile(file, self.lie)) } else { file })
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.inner.list(path)
    }

    fn sync_dir<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<()>> {
        self.inner.sync_dir(path)
    }

    fn space(&self) -> io::Result<Space> {
        self.inner.space()
    }

    fn board(&self) -> Option<Arc<Board>> {
        self.inner.board()
    }
}

impl File for LyingFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buf)
    }

    fn read(self: Arc<Self>, offset: u64, len: usize) -> BoxFuture<'static, io::Result<Bytes>> {
        Arc::clone(&self.0).read(offset, len)
    }

    fn write_at(&self, offset: u64, parts: &[io::IoSlice<'_>]) -> io::Result<()> {
        self.0.write_at(offset, parts)
    }

    fn sync(self: Arc<Self>) -> BoxFuture<'static, io::Result<()>> {
        match self.1 {
            Lie::Sync(late_by) => self.sync_late(late_by),
            Lie::Placing(_) => Arc::clone(&self.0).sync(),
        }
    }

    fn write_parts_durably(
        self: Arc<Self>,
        offset: u64,
        parts: Vec<Bytes>,
    ) -> BoxFuture<'static, io::Result<()>> {
        let slices: Vec<_> = parts.iter().map(|part| io::IoSlice::new(part)).collect();
        let (Lie::Sync(late_by) | Lie::Placing(late_by)) = self.1;
        match self.0.write_at(offset, &slices) {
            Ok(()) => self.sync_late(late_by),
            Err(error) => Box::pin(async { Err(error) }),
        }
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.allocate(offset, len)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.punch(offset, len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
}

/// A network that makes the epoch of every write the highest there is.
struct ForgingNetwork(Arc<dyn Network>);

impl Network for ForgingNetwork {
    fn call_by(
        &self,
        address: &str,
        mut request: Message,
        arrives_by: Option<tokio::time::Instant>,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Message, RpcError>> {
        if request.method == methods::WRITE
            && let Ok(mut write) = WriteRequest::decode(request.header.clone())
        {
            write.epoch = u64::MAX >> 1;
            request.header = write.encode_to_vec().into();
        }
        self.0.call_by(address, request, arrives_by, deadline)
    }

    fn serve<'a>(
        &'a self,
        address: &'a str,
        handler: Arc<dyn Handler>,
    ) -> BoxFuture<'a, io::Result<Box<dyn ServerHandle>>> {
        self.0.serve(address, handler)
    }
}
