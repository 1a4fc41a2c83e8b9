//! Gateways on the simulated network: production code from the follower of the cluster down to the volume. Only the iSCSI
//! connections above are left out; initiators hand their commands to the target device.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use curve_client::ClientConfig;
use curve_io::sim::{Link, Outage, SimNetwork};
use curve_iscsi::core::Portal;
use curve_iscsi::gateway::{Gateway, GatewayOptions};
use curve_iscsi::sessions::Sessions;
use curve_scsi::{Attachment, Ended, InitiatorPort, Lun, Nexus, Response, Status, TargetDevice, TargetPort};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::info;

use crate::planted::Planted;
use crate::world::{World, cluster_on};

/// The one target, whose unit 0 is the volume.
pub const TARGET: &str = "iqn.2026-01.com.example:sim";
/// How long a command may be waited for; production commands end before that.
const COMMAND_MAX: Duration = Duration::from_secs(60);

/// One life of a gateway: its target, when the cluster has told of it.
pub type Served = watch::Receiver<Option<Arc<TargetDevice>>>;

/// A gateway's host, which outlives its processes.
pub struct GatewayHost {
    /// The name, of the host and of the gateway.
    pub name: String,
    /// The number of its target port: gateways are numbered as they enroll.
    pub number: u16,
    network: SimNetwork,
    mds: Vec<String>,
    planted: Option<Planted>,
    rng: StdRng,
    served: watch::Sender<Option<Arc<TargetDevice>>>,
    process: Option<JoinHandle<()>>,
    crash: watch::Sender<bool>,
}

impl GatewayHost {
    /// A host on which nothing runs yet.
    pub fn new(number: u16, world: &mut World, planted: Option<Planted>) -> Self {
        Self {
            name: format!("gateway-{number}"),
            number,
            network: world.network.clone(),
            mds: world.mds_addresses(),
            planted,
            rng: StdRng::seed_from_u64(world.rng().random()),
            served: watch::Sender::new(None),
            process: None,
            crash: watch::Sender::new(false),
        }
    }

    /// What is served now, and by which life.
    pub fn served(&self) -> Served {
        self.served.subscribe()
    }

    /// Whether a process runs.
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Starts a process.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "a host runs one process");
        let config = ClientConfig {
            io_timeout: "20s".parse().expect("a duration"),
            mds_timeout: "3s".parse().expect("a duration"),
            ..ClientConfig::default()
        };
        self.network.bring_up(&self.name);
        let seed = self.rng.random();
        let cluster = cluster_on(&self.network, &self.name, &self.mds, self.planted, config, seed);
        self.crash = watch::Sender::new(false);
        let (cluster, crash) = (Arc::new(cluster), self.crash.subscribe());
        let (name, served) = (self.name.clone(), self.served.clone());
        self.process = Some(tokio::spawn(async move {
            let sessions = Arc::new(Sessions::default());
            let mut crashed = crash.clone();
            let gateway = loop {
                let options = GatewayOptions {
                    name: name.clone(),
                    portals: vec![Portal { address: Some(format!("{name}:3260")), group: 1 }],
                    traced: false,
                };
                let started = tokio::select! {
                    started = Gateway::start(cluster.clone(), options, sessions.clone()) => started,
                    _ = crashed.wait_for(|crash| *crash) => return,
                };
                match started {
                    Ok(gateway) => break gateway,
                    Err(error) => info!(name, %error, "does not start"),
                }
                sleep(Duration::from_millis(200)).await;
            };
            publish(gateway, served, crash).await;
        }));
    }

    /// The process dies: nothing of it reaches anything any more.
    pub fn crash(&mut self) {
        self.network.take_down(&self.name, Outage::Silent);
        self.served.send_replace(None);
        self.crash.send_replace(true);
        self.process = None;
    }

    /// Cuts it off from hosts, or joins it again.
    pub fn cut_from(&self, hosts: &[String], cut: bool) {
        for host in hosts {
            self.network.cut(&self.name, host, cut);
            self.network.cut(host, &self.name, cut);
        }
    }

    /// How its requests to hosts travel.
    pub fn set_links(&self, hosts: &[String], link: &Link) {
        for host in hosts {
            self.network.set_link(&self.name, host, link.clone());
        }
    }
}

/// Tells of the target as the gateway serves it, until the gateway's host crashes.
async fn publish(
    gateway: Gateway,
    served: watch::Sender<Option<Arc<TargetDevice>>>,
    mut crash: watch::Receiver<bool>,
) {
    let mut catalog = gateway.catalog();
    loop {
        let now = catalog.borrow_and_update().clone();
        let device = (!now.login().targets.is_empty()).then(|| now.target(0).1.clone());
        let has_unit = device.filter(|device| device.unit(unit()).is_some());
        let unchanged = |known: &Option<Arc<TargetDevice>>| match (known, &has_unit) {
            (Some(known), Some(device)) => Arc::ptr_eq(known, device),
            (None, None) => true,
            _ => false,
        };
        if !*crash.borrow() && !unchanged(&served.borrow()) {
            served.send_replace(has_unit);
        }
        tokio::select! {
            // A unit comes into its target without a new catalog.
            () = sleep(Duration::from_millis(50)) => {}
            _ = crash.wait_for(|crash| *crash) => return gateway.abandon(),
        }
    }
}

fn unit() -> Lun {
    Lun::new(0).expect("in range")
}

/// An initiator's session through a gateway, which it opens anew after the gateway was.
pub struct Session {
    initiator: u64,
    port: u16,
    served: Served,
    attached: tokio::sync::Mutex<Option<Arc<Attachment>>>,
}

impl Session {
    /// A session of an initiator that is not open yet.
    pub fn new(initiator: u64, gateway: &GatewayHost) -> Self {
        let attached = tokio::sync::Mutex::default();
        Self { initiator, port: gateway.number, served: gateway.served(), attached }
    }

    /// Sends a command. Nothing: the gateway does not serve, or the command's end is not known.
    pub async fn send(&self, cdb: &[u8], data_out: Vec<Bytes>) -> Option<Response> {
        let attachment = self.attachment().await?;
        // A task must run to its end, so that it has one of its own.
        let task = attachment.task(unit().into(), cdb);
        let ended = tokio::spawn(async move {
            let _attachment = attachment;
            task.execute(data_out).await
        });
        match timeout(COMMAND_MAX, ended).await {
            Ok(Ok(Ended::Completed(response))) => Some(response),
            Ok(Ok(Ended::Aborted)) | Ok(Err(_)) | Err(_) => None,
        }
    }

    async fn attachment(&self) -> Option<Arc<Attachment>> {
        let device = self.served.borrow().clone()?;
        let mut attached = self.attached.lock().await;
        if let Some(known) = attached.as_ref().filter(|known| Arc::ptr_eq(known.target(), &device)) {
            return Some(known.clone());
        }
        let initiator = InitiatorPort {
            name: format!("iqn.2026-01.com.example.host:{}", self.initiator).into(),
            isid: [0x40, 0, 0, 0, 0, 1],
        };
        let target_port = TargetPort { name: TARGET.into(), relative_id: self.port, portal_group: self.port };
        let attachment = Arc::new(device.attach(Nexus { initiator, target_port }));
        *attached = Some(attachment.clone());
        Some(attachment)
    }

    /// PERSISTENT RESERVE OUT: how it ended.
    pub async fn reserve_out(&self, action: u8, kind: u8, key: u64, service_key: u64) -> Option<Status> {
        let mut list = [key.to_be_bytes(), service_key.to_be_bytes()].concat();
        list.extend([0; 8]);
        let cdb = [0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0];
        self.send(&cdb, vec![list.into()]).await.map(|response| response.status)
    }
}

/// READ(16) or WRITE(16) of one block of 4 KiB.
pub fn one_block(opcode: u8, lba: u64) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[13]) = (opcode, 1);
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb
}
