//! A gateway without sockets.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use curve_blockdev::{BlockDevice, MemoryDevice};
use curve_client::Pulse;
use curve_iscsi::catalog::{Catalog, CatalogSource, Target};
use curve_iscsi::core::{Access, Account, Credentials, NodeName, Portal, Secret, TargetEntry};
use curve_iscsi::server::{self, Portals, ServerLimits};
use curve_iscsi::session::{self, LOGIN_TIMEOUT, SessionContext, SessionError};
use curve_iscsi::sessions::Sessions;
use curve_scsi::{Identity, LogicalUnit, Lun, TargetDevice, UnitOptions};
use tokio::io::DuplexStream;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::initiator::Initiator;

/// The target that lets everybody in.
pub const OPEN: &str = "iqn.t:open";
/// The target that wants CHAP from one initiator.
pub const GUARDED: &str = "iqn.t:guarded";
/// Who may use the guarded one.
pub const ALICE: &str = "iqn.i:alice";

/// One gateway with two targets, both with the same unit 0 of 1 MiB and 512-byte blocks.
pub struct World {
    pub device: Arc<dyn BlockDevice>,
    catalog: CatalogSource,
    sessions: Arc<Sessions>,
    stop: watch::Sender<bool>,
    log: Log,
    _publisher: watch::Sender<Arc<Catalog>>,
}

/// A connection as the gateway sees it.
pub struct Served {
    pub ended: JoinHandle<Result<(), SessionError>>,
    pub evict: oneshot::Sender<()>,
}

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic under the lock").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl World {
    pub fn new() -> Self {
        Self::with(Arc::new(MemoryDevice::new(1 << 20, 512)))
    }

    pub fn with(device: Arc<dyn BlockDevice>) -> Self {
        let options = UnitOptions { block_bytes: 512, read_only: false };
        let unit =
            LogicalUnit::new(Identity::of_volume([7; 16]), device.clone(), options).expect("512 is 512");
        let target = |name: &str, access, credentials| {
            let name = NodeName::new(name).expect("a good name");
            let device = TargetDevice::new(name.as_str());
            device.insert(Lun::new(0).expect("0 is a number"), unit.clone());
            Target { entry: TargetEntry { name, alias: None, access, credentials }, device }
        };
        let account = Account {
            user: "alice".to_owned(),
            secret: Secret::new(b"secret of alice".to_vec()).expect("long enough"),
        };
        let credentials = Credentials::new(account, None).expect("good credentials");
        let alice = NodeName::new(ALICE).expect("a good name");
        let targets = vec![
            target(OPEN, Access::All, None),
            target(GUARDED, Access::Only([alice].into()), Some(credentials)),
        ];
        let catalog = Catalog::new(targets, vec![Portal { address: None, group: 1 }], None);
        let (publisher, catalog) = watch::channel(Arc::new(catalog));
        let (stop, _) = watch::channel(false);
        Self { device, catalog, sessions: Arc::default(), stop, log: Log::default(), _publisher: publisher }
    }

    /// Sessions from now on end when the clock has jumped.
    pub fn with_clock(mut self, clock: Arc<AtomicU64>) -> Self {
        let seconds = move || Duration::from_secs(clock.load(Ordering::Relaxed));
        let pulse = Pulse::with_clock(Duration::from_secs(3), seconds);
        self.sessions = Arc::new(Sessions::ending_with_stalls(Arc::new(pulse)));
        self
    }

    /// Connects.
    pub fn connect(&self) -> (DuplexStream, Served) {
        let (client, server) = tokio::io::duplex(64 << 10);
        let context = SessionContext {
            catalog: self.catalog.clone(),
            sessions: self.sessions.clone(),
            local: "10.0.0.1:3260".to_owned(),
            login_timeout: LOGIN_TIMEOUT,
        };
        let (evict, evicted) = oneshot::channel();
        let ended = tokio::spawn(session::serve(server, context, evicted, self.stop.subscribe()));
        (client, Served { ended, evict })
    }

    /// Serves on a real port of its own thread until the world ends, and gives its address.
    pub fn listen(&self, limits: ServerLimits) -> std::net::SocketAddr {
        let (catalog, sessions, stopping) =
            (self.catalog.clone(), self.sessions.clone(), self.stop.subscribe());
        let (ready, address) = std::sync::mpsc::channel();
        let log = self.log.clone();
        std::thread::spawn(move || {
            let writer = move || log.clone();
            let told = tracing_subscriber::fmt().with_writer(writer).with_ansi(false).finish();
            let _told = tracing::subscriber::set_default(told);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime starts").block_on(async move {
                let portals = Portals::bind(&["127.0.0.1:0".to_owned()]).await.expect("a free port");
                ready.send(portals.addresses()[0]).expect("the test waits");
                server::run(portals, catalog, sessions, limits, stopping).await;
            });
        });
        address.recv().expect("the server starts")
    }

    /// What was logged from level `info` on.
    pub fn log(&self) -> String {
        String::from_utf8(self.log.0.lock().expect("no panic under the lock").clone()).expect("text")
    }

    /// Connects and logs in to the open target under an ISID, with keys of one's own.
    pub async fn login(&self, isid: u8, keys: &str) -> (Initiator<DuplexStream>, Served) {
        let (stream, served) = self.connect();
        let mut initiator = Initiator::new(stream, isid);
        let names = format!("InitiatorName=iqn.i:a TargetName={OPEN} {keys}");
        let answer = initiator.login(0x87, &names).await;
        assert_eq!(answer.status, 0, "{answer:?}");
        initiator.agree(&answer.text);
        (initiator, served)
    }

    /// What SIGTERM does.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Bytes of the device.
    pub async fn read(&self, offset: u64, len: u32) -> Vec<u8> {
        self.device.read(offset, len).await.expect("it reads").concat()
    }
}
