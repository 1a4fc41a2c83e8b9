//! A mount that is served: until somebody unmounts it, a signal comes, or another process goes on with it.

use std::io;
use std::path::Path;
use std::time::Duration;

use curve_serving::startup::{DRAIN_TIMEOUT, Signals};
use curve_telemetry::HttpHandle;
use curvefs_client::{Mount, MountState};
use curvefs_fuse::{Control, Mounted};
use curvefs_types::FsError;
use curvefs_vfs::Vfs;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use crate::checks::Plan;
use crate::daemon::{Ended, Opened, start_http};
use crate::error::FuseError;
use crate::handover::door::Offer;
use crate::handover::giving;
use crate::record::Post;
use crate::unmount::{UnmountError, take_away};

/// After a failure to store what was written.
const STORE_AGAIN: Duration = Duration::from_secs(1);
/// How often the port of metrics is asked for that another process has just left, and how long after each other.
const PORT_TRIES: u32 = 50;
const PORT_AGAIN: Duration = Duration::from_millis(100);
/// How long who is refused may take to hear it.
const REFUSE_MAX: Duration = Duration::from_secs(1);

/// A mount with its session.
pub struct Served<'a> {
    /// What is mounted where.
    pub plan: &'a Plan,
    /// What it is made of.
    pub opened: &'a Opened,
    /// For stopping the session.
    pub kernel: Control,
    /// What others find it by.
    pub post: Option<Post>,
    /// Metrics.
    pub http: Option<HttpHandle>,
    session: JoinHandle<io::Result<()>>,
    watching: JoinHandle<()>,
}

/// Why it is not served any more.
enum Until {
    Unmounted,
    Told,
    HandedOver,
}

impl<'a> Served<'a> {
    /// Of a session that runs.
    pub fn new(plan: &'a Plan, opened: &'a Opened, mounted: Mounted, post: Option<Post>) -> Self {
        let kernel = mounted.control();
        opened.inspector.set_features(mounted.features());
        // Waits on a thread: the kernel's side of the session is threads.
        let session = tokio::task::spawn_blocking(move || mounted.wait());
        let watching = watch_fence(&opened.mount, &plan.dir);
        Self { plan, opened, kernel, post, http: None, session, watching }
    }

    /// With metrics that are served already.
    pub fn with_http(mut self, http: Option<HttpHandle>) -> Self {
        self.http = http;
        self
    }

    /// Serves metrics on the port that another process leaves at this moment. The mount goes on without.
    pub async fn serve_http_again(&mut self) {
        for _ in 0..PORT_TRIES {
            match start_http(self.plan, self.opened).await {
                Ok(http) => {
                    self.http = http;
                    return;
                }
                Err(error) => tracing::debug!(%error, "the port is not free yet"),
            }
            sleep(PORT_AGAIN).await;
        }
        error!(address = self.plan.http, "metrics are not served: another process has the port");
    }

    /// To its end. `wanted`: not to be ended at once.
    pub async fn attend(mut self, signals: &mut Signals, wanted: bool) -> Result<Ended, FuseError> {
        let until = if wanted { self.until(signals).await } else { Until::Told };
        self.watching.abort();
        let told = match until {
            Until::HandedOver => {
                self.post.into_iter().for_each(Post::leave);
                return Ok(Ended::HandedOver);
            }
            Until::Told => true,
            Until::Unmounted => false,
        };
        if told {
            end_session(self.plan, &self.opened.vfs, &mut self.session).await;
        }
        store_all(&self.opened.vfs, signals, told).await.map(|()| Ended::Over)
    }

    async fn until(&mut self, signals: &mut Signals) -> Until {
        loop {
            let offer = tokio::select! {
                ended = &mut self.session => {
                    say_end(ended);
                    return Until::Unmounted;
                }
                name = signals.next() => {
                    self.say_signal(name);
                    return Until::Told;
                }
                offer = next_offer(&mut self.post) => offer,
            };
            if let Some(until) = self.answer(offer, signals).await {
                return until;
            }
        }
    }

    /// Hands over, if nothing is in the way. `None`: this process serves on.
    async fn answer(&mut self, mut offer: Offer, signals: &mut Signals) -> Option<Until> {
        let prepared = {
            let preparing =
                giving::prepare(self.plan, self.opened, &self.kernel, self.post.as_ref(), &mut offer);
            tokio::select! {
                biased;
                ended = &mut self.session => {
                    say_end(ended);
                    return Some(Until::Unmounted);
                }
                // Whoever says so means the mount: it ends here, not in the next process.
                name = signals.next() => {
                    self.say_signal(name);
                    return Some(Until::Told);
                }
                prepared = preparing => prepared,
            }
        };
        let given = match prepared {
            Ok(rest) => giving::commit(self, rest, &mut offer).await,
            Err(error) => Err(error),
        };
        match given {
            Ok(()) => Some(Until::HandedOver),
            Err(error) => {
                warn!(process = offer.process, %error, dir = %self.plan.dir.display(), "not handed over; serving on");
                offer.link.refuse(&error.to_string(), REFUSE_MAX).await;
                None
            }
        }
    }

    fn say_signal(&self, name: &str) {
        info!("{name}: unmounting {}", self.plan.dir.display());
    }
}

/// Who knocks next. Never, if there is no door.
async fn next_offer(post: &mut Option<Post>) -> Offer {
    if let Some(post) = post
        && let Some(offer) = post.door.next().await
    {
        return offer;
    }
    std::future::pending().await
}

/// Tells the log when the mount is shut out. Its programs get errors until somebody unmounts; the process stays until then, since
/// without it they would get stranger ones.
fn watch_fence(mount: &Mount, dir: &Path) -> JoinHandle<()> {
    let (mut state, dir) = (mount.state(), dir.display().to_string());
    let id = mount.grant().key.mount;
    tokio::spawn(async move {
        if matches!(
            state.wait_for(|state| *state != MountState::Active).await.as_deref(),
            Ok(MountState::Fenced)
        ) {
            error!(
                code = "MOUNT_FENCED", mount = %id, %dir,
                "the mount was shut out: it did not reach the MDS for longer than its lease, or an operator ended it. Every \
                 access fails with an I/O error, and what was not stored is lost. Stop the programs that use it, run \
                 `curve-fuse umount {dir}`, and mount it again"
            );
        }
    })
}

type SessionEnd = Result<io::Result<()>, tokio::task::JoinError>;

fn say_end(ended: SessionEnd) {
    match ended {
        Ok(Ok(())) => info!("unmounted"),
        Ok(Err(error)) => warn!(%error, "the kernel's session ended"),
        Err(error) => error!(%error, "the thread of the kernel's session failed"),
    }
}

/// Unmounts, after what was written is on its way. Where programs use the directory it is taken out of the tree, and they have
/// a while to end.
async fn end_session(plan: &Plan, vfs: &Vfs, session: &mut JoinHandle<io::Result<()>>) {
    if !matches!(timeout(DRAIN_TIMEOUT, vfs.sync()).await, Ok(Ok(()))) {
        warn!("what was written cannot be stored yet");
    }
    let dir = plan.dir.clone();
    let taken = tokio::task::spawn_blocking(move || match take_away(&dir, false) {
        Err(UnmountError::Busy(dir)) => {
            warn!(dir = %dir.display(), "in use; taken out of the tree, and ended when nobody uses it, or in {DRAIN_TIMEOUT:?}");
            take_away(&dir, true)
        }
        done => done,
    });
    match taken.await {
        Ok(Ok(())) => {}
        // Somebody else has unmounted it meanwhile; if not, the kernel sees the end of this process.
        Ok(Err(error)) => warn!(%error, "not unmounted"),
        Err(error) => error!(%error, "unmounting failed"),
    }
    match timeout(DRAIN_TIMEOUT, session).await {
        Ok(ended) => say_end(ended),
        Err(_) => warn!("programs still use the mount; they get errors from now on"),
    }
}

/// Publishes everything. Without a signal as long as it takes; after one at most [`DRAIN_TIMEOUT`] more.
async fn store_all(vfs: &Vfs, signals: &mut Signals, told: bool) -> Result<(), FuseError> {
    let mut last = None;
    let storing = async {
        loop {
            match vfs.sync().await {
                Ok(()) => break,
                Err(_) if vfs.unpublished_bytes() == 0 => break,
                Err(FsError::Fenced) => break,
                Err(error) => {
                    if last.replace(error) != Some(error) {
                        warn!(%error, bytes = vfs.unpublished_bytes(), "what was written cannot be stored; trying on");
                    }
                    sleep(STORE_AGAIN).await;
                }
            }
        }
        vfs.shutdown().await
    };
    let ended = {
        tokio::pin!(storing);
        let patience = async {
            if !told {
                let name = signals.next().await;
                info!("{name}: what is not stored in {DRAIN_TIMEOUT:?} is lost");
            }
            sleep(DRAIN_TIMEOUT).await;
        };
        tokio::select! {
            ended = &mut storing => Some(ended),
            () = patience => None,
        }
    };
    let bytes = vfs.unpublished_bytes();
    match ended {
        Some(Err(FsError::Fenced)) => Ok(()),
        Some(Err(error)) if bytes == 0 => {
            warn!(%error, "not everything was given back; the MDS does it");
            Ok(())
        }
        Some(Ok(())) => Ok(()),
        None if bytes == 0 => Ok(()),
        Some(Err(error)) => Err(lost(bytes, error.to_string())),
        None => Err(lost(bytes, last.map_or("no answer".to_owned(), |error| error.to_string()))),
    }
}

fn lost(bytes: u64, why: String) -> FuseError {
    FuseError::Unpublished { bytes, within: DRAIN_TIMEOUT, why }
}

/// A mount can be waited for on a thread.
const _: () = {
    const fn sent<T: Send>() {}
    sent::<Mounted>();
};
