//! A connection to a cluster: control calls, and opening volumes.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};

use curve_io::{Machine, Network, RealMachine};
use curve_proto::mds::{MdsApi, OpenMode, OpenRequest, SessionKey};
use curve_proto::transport::{GrpcMds, MdsTransport};
use curve_rpc::{RpcConfig, RpcNetwork};
use curve_types::{BLOCK_BYTES, ClientId, SECTOR_BYTES, VolumeId};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::call::Caller;
use crate::config::ClientConfig;
use crate::error::ClientError;
use crate::local::{Budget, LocalFiles};
use crate::pulse::{Alive, Pulse};
use crate::route::Router;
use crate::session::Session;
use crate::volume::{Opened, Volume};

/// How to open a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// Who may hold it beside us.
    pub mode: OpenMode,
    /// Shut out whoever stands in the way, lapsed or not.
    pub takeover: bool,
    /// Let 512-byte sectors be addressed; otherwise 4 KiB blocks.
    pub sectors: bool,
}

/// A cluster. Cheap to share; volumes opened from it stay usable after it is dropped.
pub struct Cluster {
    config: ClientConfig,
    network: Arc<dyn Network>,
    mds: Arc<MdsApi>,
    random: Mutex<StdRng>,
    /// Who this is, for the people who find a volume held.
    host: String,
    process: u32,
    pulse: Option<Arc<Pulse>>,
    rpc: Option<Arc<RpcNetwork>>,
    local: Option<Budget>,
}

impl Cluster {
    /// Reaches a cluster over TCP and gRPC. Connects when first used, so a cluster that is down is noticed later.
    /// Must be called inside a tokio runtime.
    pub async fn connect(config: &ClientConfig) -> Result<Self, ClientError> {
        if config.mds_addresses.is_empty() {
            let message =
                "no MDS address is configured; set `mds_addresses` in the configuration, or $CURVE_MDS";
            return Err(ClientError::Config(message.into()));
        }
        let network = RpcNetwork::new(RpcConfig::default());
        let transport = Arc::new(GrpcMds::grpc(&config.mds_addresses));
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_else(|_| "unknown".into());
        let (parts, seed) = ((network.clone(), transport), rand::rng().random());
        let cluster = Self::with_parts(config.clone(), parts.0, parts.1, seed);
        let local = RealMachine::new().map(|machine| Budget::new(Arc::new(machine)));
        Ok(Self {
            host: host.trim().to_owned(),
            process: std::process::id(),
            rpc: Some(network),
            local,
            ..cluster
        })
    }

    /// Reaches a cluster over any network; `seed` feeds all random draws, and nothing of the machine shows in what is
    /// sent. For the simulator.
    pub fn with_parts(
        config: ClientConfig,
        network: Arc<dyn Network>,
        transport: Arc<dyn MdsTransport>,
        seed: u64,
    ) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let caller = ClientId(random.random());
        let mds = Arc::new(MdsApi::new(transport, caller, config.mds_timeout.0));
        Self {
            config,
            network,
            mds,
            random: Mutex::new(random),
            host: "simulated".into(),
            process: 0,
            pulse: None,
            rpc: None,
            local: None,
        }
    }

    /// Volumes that are opened from now on read from the files of chunkservers on this machine.
    pub fn run_on(&mut self, machine: Arc<dyn Machine>) {
        self.local = Some(Budget::new(machine));
    }

    /// Volumes that are opened from now on are given up by a stall of this process: they refuse everything as if another holder
    /// had shut them out, and have to be opened anew.
    pub fn give_up_after_stalls(&mut self, pulse: Arc<Pulse>) {
        if let Some(rpc) = self.rpc.clone() {
            pulse.count_too(move || rpc.clock_leaps());
        }
        self.pulse = Some(pulse);
    }

    /// Control calls: the namespace, copysets, chunkservers, health.
    pub fn mds(&self) -> &MdsApi {
        &self.mds
    }

    /// Opens a volume. Waits until former holders that are displaced are shut out of every copyset.
    pub async fn open(&self, path: &str, options: OpenOptions) -> Result<Arc<Volume>, ClientError> {
        self.open_displacing(path, options, &[]).await
    }

    /// Opens a volume, and shuts out holders that are known to be gone: whatever they have under way can no longer land.
    pub async fn open_displacing(
        &self,
        path: &str,
        options: OpenOptions,
        gone: &[ClientId],
    ) -> Result<Arc<Volume>, ClientError> {
        self.open_as(path.to_owned(), None, options, gone).await
    }

    /// Opens a volume by its id, wherever its name is now.
    pub async fn open_volume(
        &self,
        volume: VolumeId,
        options: OpenOptions,
    ) -> Result<Arc<Volume>, ClientError> {
        self.open_as(String::new(), Some(volume), options, &[]).await
    }

    /// The host's name and this process, as sessions show them.
    pub fn identity(&self) -> (&str, u32) {
        (&self.host, self.process)
    }

    async fn open_as(
        &self,
        path: String,
        volume: Option<VolumeId>,
        options: OpenOptions,
        gone: &[ClientId],
    ) -> Result<Arc<Volume>, ClientError> {
        let client = ClientId(self.random.lock().unwrap_or_else(PoisonError::into_inner).random());
        let request = OpenRequest {
            path,
            volume,
            mode: options.mode,
            client,
            host: self.host.clone(),
            process: self.process,
            takeover: options.takeover,
            displaced: gone.to_vec(),
        };
        let granted = self.mds.open(&request).await?;
        let record = granted.volume;
        let exclusive = options.mode == OpenMode::Exclusive;
        // A gateway that stalls gives up what it holds; nobody but a copyset's leader sees that its requests come late.
        let alone = (exclusive && self.pulse.is_none()).then(|| record.geometry.chunk_bytes());
        let opened = Arc::new(Opened {
            volume: record.id,
            client,
            geometry: record.geometry,
            block_min: if options.sectors { SECTOR_BYTES } else { BLOCK_BYTES } as u32,
            read_only: options.mode == OpenMode::ReadOnly,
            epoch: AtomicU64::new(granted.epoch.get()),
            size: AtomicU64::new(record.size),
            fenced: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            local: self
                .local
                .clone()
                .filter(|_| self.config.local_reads)
                .map(|budget| LocalFiles::new(budget, alone)),
        });
        let key = SessionKey { volume: record.id, client, epoch: granted.epoch };
        let session = Session::start(Arc::clone(&self.mds), key, Arc::clone(&opened), granted.lease);
        let router = Router::new(Arc::clone(&self.mds), key, record.geometry, exclusive);
        let caller = Caller {
            network: Arc::clone(&self.network),
            router: Arc::new(router),
            limits: self.config.retry_limits(),
            alive: self.pulse.clone().map(Alive::now),
        };
        let (inflight_max, io_timeout) = (self.config.inflight_max, self.config.io_deadline());
        Ok(Arc::new(Volume::new(opened, caller, session, inflight_max, io_timeout)))
    }
}
