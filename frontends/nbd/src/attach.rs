//! `curve-nbd attach`: the process behind one kernel device. Started by [`crate::keep`].

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use curve_blockdev::BlockDevice;
use curve_client::Volume;
use curve_nbd::core::{kernel_flags, kernel_limits};
use curve_nbd::kernel::driver::{Device, Driver, DriverError};
use curve_nbd::kernel::mapping::{Mapping, Record, Registry};
use curve_nbd::kernel::sysfs;
use curve_nbd::session::{SessionError, serve_attached};
use curve_serving::startup::{DRAIN_TIMEOUT, StartError, raise_descriptor_limit};
use curve_serving::volumes::{self, Opening, VolumeError};
use curve_telemetry::init_logging;
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::{info, warn};

use crate::cli::Attach;

/// What may wait in the socket pair, if the system allows that much.
const SEND_BUFFER_BYTES: usize = 2 << 20;
/// How often the device is asked for its size, which the kernel has to be told.
const SIZE_LOOK: Duration = Duration::from_secs(1);
/// How long the kernel may take to see that the last process is gone, and how often it is asked. It tells nobody.
const DEATH_SEEN_MAX: Duration = Duration::from_secs(10);
const DEATH_LOOK: Duration = Duration::from_millis(10);
/// Says to the keeper that the device is gone and nothing is to be started again.
pub const GONE: u8 = 4;

#[derive(Debug, Error)]
enum AttachError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Logging(#[from] curve_telemetry::LoggingError),
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error(transparent)]
    Driver(#[from] DriverError),
    #[error("{0}")]
    System(#[from] io::Error),
    #[error("the mapping cannot be read: {0}")]
    Mapping(#[from] serde_json::Error),
    #[error("requests were still in flight {} s after the signal", DRAIN_TIMEOUT.as_secs())]
    Undrained,
}

/// Tells the driver that the next process is on its way: see [`Driver::expect_another`].
pub fn expect_another(mapping: &Mapping) {
    let Some(index) = mapping.index else { return };
    let told = Driver::open().and_then(|mut driver| driver.expect_another(index, &mapping.backend()));
    if let Err(error) = told {
        warn!(%error, "what was under way waits for the kernel's timer");
    }
}

/// Serves until the device is unmapped, or a signal comes: then the device stays and its I/O waits.
pub fn attach(what: &Attach) -> ExitCode {
    let result = prepare().and_then(|runtime| runtime.block_on(run(what)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The keeper reads one line and tells whoever waits; the log has it in any case.
            tracing::error!(%error, "not served");
            let _ = writeln!(io::stdout(), "failed {error}");
            match error {
                AttachError::Driver(DriverError::NotAttached) => ExitCode::from(GONE),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn prepare() -> Result<tokio::runtime::Runtime, AttachError> {
    init_logging()?;
    raise_descriptor_limit()?;
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

async fn run(what: &Attach) -> Result<(), AttachError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mapping: Mapping = serde_json::from_str(&what.mapping)?;
    if what.again {
        // Also if no keeper saw the last one die.
        expect_another(&mapping);
    }
    let volume = tokio::select! {
        opened = open(&mapping, what.takeover) => opened?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let (stop, stopping) = watch::channel(false);
    let mut attached = Attached::new(mapping, volume, what.again).await?;
    announce(attached.index)?;
    {
        let mut serving = pin!(attached.serve(stopping));
        tokio::select! {
            served = &mut serving => served?,
            _ = terminate.recv() => drain(&stop, serving).await?,
            _ = interrupt.recv() => drain(&stop, serving).await?,
        }
    }
    attached.close().await
}

/// Lets requests that were taken finish. What the kernel sends from now on waits for the next process.
async fn drain(
    stop: &watch::Sender<bool>,
    serving: impl Future<Output = Result<(), AttachError>>,
) -> Result<(), AttachError> {
    info!("told to stop; the device stays, and its I/O waits");
    stop.send_replace(true);
    timeout(DRAIN_TIMEOUT, serving).await.map_err(|_| AttachError::Undrained)?
}

async fn open(mapping: &Mapping, takeover: bool) -> Result<Arc<Volume>, AttachError> {
    let opening = Opening {
        config: mapping.config.clone(),
        read_only: mapping.read_only,
        shared: mapping.shared,
        takeover,
        block: mapping.block,
        io_timeout: Some(mapping.patience().unwrap_or(Duration::ZERO)),
    };
    let opened = volumes::open(std::slice::from_ref(&mapping.path), &opening).await?;
    Ok(opened.into_iter().next().expect("one was asked for").1)
}

/// Tells the keeper that the device works.
fn announce(index: u32) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "mapped {}", sysfs::device_of(index))?;
    out.flush()
}

/// One device and the volume behind it.
struct Attached {
    driver: Driver,
    registry: Registry,
    record: Record,
    volume: Arc<Volume>,
    index: u32,
    socket: Option<UnixStream>,
}

impl Attached {
    async fn new(mapping: Mapping, volume: Arc<Volume>, again: bool) -> Result<Self, AttachError> {
        let mut driver = Driver::open()?;
        let device = describe(&mapping, &*volume);
        let (ours, kernels) = pair()?;
        let index = match (again, mapping.index) {
            (true, Some(index)) => {
                reconnect(&mut driver, index, &device, &kernels).await?;
                index
            }
            (_, wanted) => driver.connect(wanted, &device, kernels.as_fd())?,
        };
        drop(kernels);
        look_often(index);
        let record = Record::own(Mapping { index: Some(index), ..mapping });
        let registry = Registry::default();
        registry.put(&record)?;
        info!(device = sysfs::device_of(index), volume = record.mapping.path, again, "attached");
        Ok(Self { driver, registry, record, volume, index, socket: Some(ours) })
    }

    /// Serves until told to stop, or until the device is no longer ours.
    async fn serve(&mut self, stopping: watch::Receiver<bool>) -> Result<(), AttachError> {
        loop {
            if let Err(error) = self.session(stopping.clone()).await {
                warn!(%error, "the kernel's connection ended");
            }
            if *stopping.borrow() {
                return Ok(());
            }
            let ours = self.registry.get(self.index)?.is_some_and(|record| record == self.record);
            if !ours || !sysfs::is_attached(self.index) {
                info!("unmapped");
                if ours {
                    self.registry.remove(self.index)?;
                }
                return Ok(());
            }
            // The kernel gave the connection up and waits for another. Nothing of the old one is under way any more.
            let (socket, kernels) = pair()?;
            let device = describe(&self.record.mapping, &*self.volume);
            reconnect(&mut self.driver, self.index, &device, &kernels).await?;
            look_often(self.index);
            self.socket = Some(socket);
        }
    }

    /// One connection, and the size meanwhile.
    async fn session(&mut self, stopping: watch::Receiver<bool>) -> Result<(), SessionError> {
        let Some(socket) = self.socket.take() else { return Ok(()) };
        let volume = self.volume.clone();
        let limits = kernel_limits(&volume.shape());
        let serving = serve_attached(socket, &*volume, limits, stopping);
        tokio::pin!(serving);
        let mut look = interval(SIZE_LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                served = &mut serving => return served,
                _ = look.tick() => self.follow_size(),
            }
        }
    }

    fn follow_size(&mut self) {
        let device = describe(&self.record.mapping, &*self.volume);
        if sysfs::size(self.index).is_none_or(|known| known == device.size) {
            return;
        }
        match self.driver.resize(self.index, &device) {
            Ok(()) => {
                look_often(self.index);
                info!(size = device.size, "the volume has grown, and the device with it");
            }
            Err(error) => warn!(%error, "the device does not follow the volume's size"),
        }
    }

    async fn close(self) -> Result<(), AttachError> {
        match timeout(DRAIN_TIMEOUT, self.volume.close()).await {
            Ok(Ok(())) => Ok(()),
            // Its lease ends by itself, and who opens the volume on this host shuts this process out.
            Ok(Err(error)) => Err(io::Error::other(error).into()),
            Err(_) => Err(AttachError::Undrained),
        }
    }
}

/// To be called whenever the driver was told of the device, which sets its timer back to 30 s.
fn look_often(index: u32) {
    if let Err(error) = sysfs::set_io_timeout(index) {
        warn!(%error, "what is under way when this process dies will wait for the kernel's own 30 s");
    }
}

fn describe(mapping: &Mapping, volume: &dyn BlockDevice) -> Device {
    let shape = volume.shape();
    Device {
        size: shape.size,
        block: mapping.block,
        flags: kernel_flags(&shape),
        dead_timeout: mapping.patience(),
        backend: mapping.backend(),
    }
}

/// Our end and the kernel's.
fn pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, kernels) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    for end in [&ours, &kernels] {
        set_socket_send_buffer_size(end, SEND_BUFFER_BYTES)?;
    }
    let ours = std::os::unix::net::UnixStream::from(ours);
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, kernels))
}

/// Gives the driver a new socket as soon as it has seen that the old one is dead.
async fn reconnect(
    driver: &mut Driver,
    index: u32,
    device: &Device,
    socket: &OwnedFd,
) -> Result<(), DriverError> {
    let until = Instant::now() + DEATH_SEEN_MAX;
    loop {
        match driver.reconnect(index, device, socket.as_fd()) {
            Err(DriverError::Alive) if Instant::now() < until => sleep(DEATH_LOOK).await,
            done => return done,
        }
    }
}
