//! A mount: granted by the MDS, kept alive, ended.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use curve_io::Network;
use curve_proto::MdsError;
use curve_proto::mds::{BadReply, MdsApi};
use curve_proto::pb::fs as pb;
use curve_proto::pb::fs::fs_request::Op;
use curve_proto::pb::fs::fs_response::Result as Answer;
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::client::{Client, MountState};
use crate::grant::{FileSystem, Grant, Held, MountKey, Refreshed};
use crate::router::{BadPartitions, Partitions};
use crate::trail::RetryLimits;

/// How many times a lease is refreshed before it would run out.
const REFRESHES_PER_LEASE: u32 = 3;
/// After a refresh that failed.
const REFRESH_AGAIN: Duration = Duration::from_secs(1);
/// The partitions are asked for no more often.
const MAP_INTERVAL: Duration = Duration::from_millis(300);
/// How long a grant that is in progress is asked for.
const OPEN_MAX: Duration = Duration::from_secs(30);

/// What is to be mounted, and who mounts it, for people.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MountRequest {
    /// The file system.
    pub name: String,
    /// Random, for each process that mounts: asking again gets the same mount.
    pub nonce: u64,
    /// This machine.
    pub host: String,
    /// This process.
    pub process: u32,
    /// Where it is mounted.
    pub directory: String,
    /// With what options.
    pub options: String,
    /// Nothing will be changed.
    pub read_only: bool,
}

/// Why there is no mount.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum MountError {
    /// The MDS refuses, or does not answer.
    #[error(transparent)]
    Mds(#[from] MdsError),
    /// The MDS tells of partitions that cannot be.
    #[error("the MDS's partitions cannot be used: {0}")]
    Partitions(#[from] BadPartitions),
}

impl From<BadReply> for MountError {
    fn from(bad: BadReply) -> Self {
        Self::Mds(bad.into())
    }
}

/// A mounted file system at the MDS. Dropping it lets the lease run out; [`Mount::close`] ends it at once.
///
/// Two tasks live with it: one refreshes the lease each third of it and takes over new versions of record and partitions; one
/// asks for the partitions when a call has found them out of date, so that no call waits for the MDS.
///
/// **The lease stops nobody.** That it runs out only allows the MDS to end the mount; what refuses an ended mount is its epoch, at
/// every partition. So a mount survives any time without an MDS: when one answers again, it says whether the mount is over
/// (`NOT_HELD`), and a partition may say so before.
pub struct Mount {
    mds: Arc<MdsApi>,
    client: Arc<Client>,
    grant: Grant,
    record: watch::Receiver<FileSystem>,
    reachable: watch::Receiver<bool>,
    silent: Arc<AtomicBool>,
    refreshed: watch::Receiver<Instant>,
    tasks: Mutex<JoinSet<()>>,
}

impl Mount {
    /// Asks for a mount, and keeps it. Must be called inside a tokio runtime.
    pub async fn open(
        mds: Arc<MdsApi>,
        network: Arc<dyn Network>,
        request: &MountRequest,
        limits: RetryLimits,
    ) -> Result<Self, MountError> {
        let grant = ask(&mds, request).await?;
        tracing::info!(mount = %grant.key.mount, fs = %grant.key.fs, name = request.name, "granted");
        Self::keep(mds, network, grant, limits, request.nonce)
    }

    /// Keeps a mount that another process has kept so far. The MDS is asked for record and partitions, which renews the lease;
    /// it does not grant the mount again, so that everything that partitions have of it stays. The numbers of changes are told
    /// by [`Client::set_numbers`]. Must be called inside a tokio runtime.
    pub async fn take_over(
        mds: Arc<MdsApi>,
        network: Arc<dyn Network>,
        held: Held,
        limits: RetryLimits,
        seed: u64,
    ) -> Result<Self, MountError> {
        let Held { key, writer } = held;
        // No version is 0, so the answer has both.
        let refreshed = refresh(&mds, key, 0, 0).await?;
        let file_system = refreshed.file_system.ok_or(BadReply("record of the file system"))?;
        let partitions = refreshed.partitions.ok_or(BadReply("list of partitions"))?;
        let grant = Grant { key, writer, lease: refreshed.lease, file_system, partitions };
        Self::keep(mds, network, grant, limits, seed)
    }

    fn keep(
        mds: Arc<MdsApi>,
        network: Arc<dyn Network>,
        grant: Grant,
        limits: RetryLimits,
        seed: u64,
    ) -> Result<Self, MountError> {
        let client = Client::new(network, grant.key, grant.partitions.clone(), limits, seed)?;
        let client = Arc::new(client);
        let (news, record) = watch::channel(grant.file_system.clone());
        let (reached, reachable) = watch::channel(true);
        let (refreshing, refreshed) = watch::channel(Instant::now());
        let silent = Arc::new(AtomicBool::new(false));
        let keeper = Keeper {
            mds: mds.clone(),
            client: client.clone(),
            news,
            reached,
            silent: silent.clone(),
            refreshing,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(keeper.keep_lease(grant.lease));
        tasks.spawn(keep_map(mds.clone(), client.clone()));
        Ok(Self { mds, client, grant, record, reachable, silent, refreshed, tasks: Mutex::new(tasks) })
    }

    /// What another process needs to take it over.
    pub fn held(&self) -> Held {
        Held { key: self.grant.key, writer: self.grant.writer }
    }

    /// Renews the lease no more, or again: another process does it from now on, or has failed to.
    pub fn set_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::Release);
    }

    /// The metadata, for `vfs`.
    pub fn metadata(&self) -> Arc<Client> {
        self.client.clone()
    }

    /// What it was given.
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// How it is, and how it becomes.
    pub fn state(&self) -> watch::Receiver<MountState> {
        self.client.state()
    }

    /// The record as it is now, and what becomes of it: keys are rotated there.
    pub fn record(&self) -> watch::Receiver<FileSystem> {
        self.record.clone()
    }

    /// Whether the MDS answered when it was asked last.
    pub fn reaches_mds(&self) -> bool {
        *self.reachable.borrow()
    }

    /// When the MDS last said that the mount goes on.
    pub(crate) fn refreshed(&self) -> Instant {
        *self.refreshed.borrow()
    }

    pub(crate) fn mds(&self) -> &MdsApi {
        &self.mds
    }

    /// Calls `follow` with each new record, as long as the mount lives; also with one that has come since the grant.
    pub fn follow_record(&self, follow: impl Fn(&FileSystem) + Send + 'static) {
        let mut record = self.record.clone();
        let mut seen = self.grant.file_system.version;
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(async move {
            loop {
                {
                    let now = record.borrow_and_update();
                    if now.version > seen {
                        seen = now.version;
                        follow(&now);
                    }
                }
                if record.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    /// Ends the mount, after everything was published: later calls fail. A mount that is over is no error.
    pub async fn close(&self) -> Result<(), MdsError> {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
        if self.client.end(MountState::Closed) != MountState::Active {
            return Ok(());
        }
        match self.mds.fs(Op::Unmount(self.grant.key.into())).await {
            // What is in progress ends by itself.
            Ok(_) | Err(MdsError::NotHeld { .. } | MdsError::Fenced { .. } | MdsError::InProgress { .. }) => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// Asks until the mount is granted.
async fn ask(mds: &MdsApi, request: &MountRequest) -> Result<Grant, MountError> {
    let op = Op::Mount(pb::FsMount {
        name: request.name.clone(),
        nonce: request.nonce,
        host: request.host.clone(),
        process: request.process,
        directory: request.directory.clone(),
        options: request.options.clone(),
        read_only: request.read_only,
    });
    let until = Instant::now() + OPEN_MAX;
    loop {
        match mds.fs(op.clone()).await {
            Ok(Answer::Grant(grant)) => return Ok(grant.try_into()?),
            Ok(_) => return Err(BadReply("answer to the question asked").into()),
            Err(MdsError::InProgress { retry_after, .. }) if Instant::now() + retry_after < until => {
                sleep(retry_after).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Renews a lease, and asks for what is newer than these versions.
async fn refresh(
    mds: &MdsApi,
    key: MountKey,
    record_version: u64,
    map_version: u64,
) -> Result<Refreshed, MdsError> {
    match mds.fs(Op::Refresh(pb::FsRefresh { mount: Some(key.into()), record_version, map_version })).await? {
        Answer::Refreshed(refreshed) => Ok(refreshed.try_into()?),
        _ => Err(BadReply("answer to the question asked").into()),
    }
}

/// Keeps the lease.
struct Keeper {
    mds: Arc<MdsApi>,
    client: Arc<Client>,
    news: watch::Sender<FileSystem>,
    reached: watch::Sender<bool>,
    silent: Arc<AtomicBool>,
    refreshing: watch::Sender<Instant>,
}

impl Keeper {
    async fn keep_lease(self, mut lease: Duration) {
        let mut pause = lease / REFRESHES_PER_LEASE;
        loop {
            sleep(pause).await;
            if self.silent.load(Ordering::Acquire) {
                continue;
            }
            match self.refresh().await {
                Ok(refreshed) => {
                    self.refreshing.send_replace(Instant::now());
                    lease = refreshed.lease;
                    pause = lease / REFRESHES_PER_LEASE;
                    self.take_over(refreshed);
                    self.reaches(None);
                }
                Err(MdsError::NotHeld { .. } | MdsError::Fenced { .. }) => {
                    self.client.end(MountState::Fenced);
                    return;
                }
                Err(error) => {
                    pause = REFRESH_AGAIN.min(lease / REFRESHES_PER_LEASE);
                    self.reaches(Some(&error));
                }
            }
        }
    }

    async fn refresh(&self) -> Result<Refreshed, MdsError> {
        let record_version = self.news.borrow().version;
        refresh(&self.mds, self.client.key(), record_version, self.client.map_version()).await
    }

    fn take_over(&self, refreshed: Refreshed) {
        if let Some(partitions) = refreshed.partitions {
            learn(&self.client, partitions);
        }
        if let Some(record) = refreshed.file_system.filter(|new| new.version > self.news.borrow().version) {
            tracing::info!(fs = %record.id, version = record.version, "the file system's record has changed");
            self.news.send_replace(record);
        }
    }

    /// Tells the log of changes only: an outage may be long, and harms nobody.
    fn reaches(&self, error: Option<&MdsError>) {
        let mount = self.client.key().mount;
        match (self.reached.send_replace(error.is_none()), error) {
            (true, Some(error)) => {
                tracing::warn!(%mount, %error, "the mount's lease cannot be refreshed; the mount goes on");
            }
            (false, None) => tracing::info!(%mount, "the mount's lease is refreshed again"),
            _ => {}
        }
    }
}

/// Asks for the partitions whenever a call has found them out of date.
async fn keep_map(mds: Arc<MdsApi>, client: Arc<Client>) {
    loop {
        client.stale().await;
        match mds.fs(Op::Partitions(pb::FsGetPartitions { fs: client.key().fs.get() })).await {
            Ok(Answer::Partitions(partitions)) => learn(&client, partitions.into()),
            Ok(_) => tracing::error!("the MDS answers something else than was asked"),
            Err(error) => tracing::debug!(%error, "partitions not refreshed"),
        }
        sleep(MAP_INTERVAL).await;
    }
}

fn learn(client: &Client, partitions: Partitions) {
    if let Err(error) = client.learn(partitions) {
        tracing::error!(%error, "the MDS's partitions cannot be used; the old ones stay");
    }
}

impl std::fmt::Debug for Mount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mount").field("key", &self.grant.key).finish_non_exhaustive()
    }
}
