//! The process that serves hands its mount over.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use curvefs_client::MountState;
use curvefs_fuse::{Control, Paused};
use curvefs_types::{FsError, Wire};
use curvefs_vfs::{Vfs, VfsState};
use rustix::fs::{Mode, OFlags};
use thiserror::Error;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::door::Offer;
use super::format::{Kind, Number, Raw, State, Terms, Text, put_terms};
use super::link::{Link, LinkError};
use crate::checks::Plan;
use crate::daemon::Opened;
use crate::mounts;
use crate::record::Post;
use crate::session::Served;

/// How long the next process may take to get ready, while this one serves.
const PREPARE_MAX: Duration = Duration::from_secs(60);
/// How long it may take to publish what was written, while this process serves.
const PUBLISH_MAX: Duration = Duration::from_secs(20);
/// Seconds that requests under way may take to be answered, try after try: nobody else is served meanwhile.
const PAUSES: [u64; 4] = [2, 2, 4, 8];
/// Between two tries.
const BETWEEN: Duration = Duration::from_millis(200);
/// How long the next process may take to put the state in place.
const READY_MAX: Duration = Duration::from_secs(15);
/// How long it may take to begin.
const TAKEN_MAX: Duration = Duration::from_secs(5);
/// How long it may take to receive a message.
const SEND_MAX: Duration = Duration::from_secs(10);

/// Why the mount stays with this process.
#[derive(Debug, Error)]
pub enum Stays {
    /// The next process does not go on.
    #[error("the process that wanted to take it over does not: {0}")]
    Link(#[from] LinkError),
    /// It was shut out.
    #[error("the mount was shut out; run `curve-fuse umount`, and mount again")]
    Fenced,
    /// Data cannot be published.
    #[error("what was written cannot be stored now ({0})")]
    Unpublished(String),
    /// Requests do not end.
    #[error("requests are under way that wait for the servers; see `curve cluster status`, and try again")]
    Busy,
    /// The mount is not where it was mounted.
    #[error("the mount is not seen where it was mounted: it is covered or taken out of the tree")]
    NotThere,
    /// The system refuses.
    #[error("{0}")]
    System(#[from] io::Error),
}

/// A mount at rest. It goes on when this is dropped.
pub struct AtRest {
    vfs: Rested,
    /// Second, so that requests come when everything else runs.
    session: Paused,
    stopped: Instant,
    /// After how long nothing was under way, and after how long nothing was unpublished.
    quiet: Duration,
    published: Duration,
}

struct Rested {
    vfs: Vfs,
    is_left: bool,
}

impl Drop for Rested {
    fn drop(&mut self) {
        if !self.is_left {
            self.vfs.go_on();
        }
    }
}

/// Hands over until only the last word is missing. May be dropped: the mount stays.
pub async fn prepare(
    plan: &Plan,
    opened: &Opened,
    kernel: &Control,
    post: Option<&Post>,
    offer: &mut Offer,
) -> Result<AtRest, Stays> {
    let post = post.ok_or(Stays::NotThere)?;
    if *opened.mount.state().borrow() != MountState::Active {
        return Err(Stays::Fenced);
    }
    info!(process = offer.process, version = offer.version, "another process wants to take the mount over");
    let terms = put_terms(offer.version, &terms(plan, opened));
    offer.link.send(Kind::Terms, &terms, &[], SEND_MAX).await?;
    offer.link.expect(Kind::Prepared, PREPARE_MAX).await?;
    // Most of it while programs go on.
    let vfs = opened.vfs.clone();
    let published = tokio::spawn(async move { vfs.sync().await });
    match timeout(PUBLISH_MAX, published).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => return Err(Stays::Unpublished(error.to_string())),
        Ok(Err(error)) => return Err(Stays::Unpublished(error.to_string())),
        Err(_) => return Err(Stays::Unpublished(format!("not within {PUBLISH_MAX:?}"))),
    }
    let root = open_root(plan, post)?;
    let (rest, state) = stop(opened, kernel, &root).await?;
    drop(root);
    let numbers = opened.mount.metadata().next_numbers().ok_or(Stays::Busy)?;
    let numbers = numbers.into_iter().map(|(partition, next)| Number { partition, next }).collect();
    let session = rest.session.state();
    let state = State { serial: opened.data.backend().next_serial(), numbers, session, vfs: state };
    let door = post.door.listener()?;
    let descriptors = [rest.session.device(), door.as_fd()];
    let body = state.to_row();
    debug!(
        bytes = body.len(),
        inodes = state.vfs.inodes.len(),
        files = state.vfs.files.len(),
        "handing over"
    );
    offer.link.send(Kind::State, &body, &descriptors, SEND_MAX).await?;
    offer.link.expect(Kind::Ready, READY_MAX).await?;
    Ok(rest)
}

/// The last word. Not to be dropped half-way. `Ok`: this process has only to end.
pub async fn commit(served: &mut Served<'_>, rest: AtRest, offer: &mut Offer) -> Result<(), Stays> {
    let mount = &served.opened.mount;
    mount.set_silent(true);
    // The port is wanted by the next process.
    let http = served.http.take();
    let had_http = http.is_some();
    drop(http);
    let taken = match offer.link.say(Kind::Go, SEND_MAX).await {
        Ok(()) => taken(&mut offer.link).await,
        Err(error) => Err(error),
    };
    let AtRest { mut vfs, session, stopped, quiet, published } = rest;
    if let Err(error) = taken {
        mount.set_silent(false);
        // Programs first, metrics later.
        drop(vfs);
        drop(session);
        if had_http {
            served.serve_http_again().await;
        }
        return Err(error.into());
    }
    vfs.is_left = true;
    session.leave();
    let (dir, stalled) = (served.plan.dir.display(), stopped.elapsed());
    info!(process = offer.process, %dir, ?stalled, ?quiet, ?published, "handed over");
    Ok(())
}

/// Whether the next process serves. It is one or the other: what it has sent before the end is received.
async fn taken(link: &mut Link) -> Result<(), LinkError> {
    match link.expect(Kind::Taken, TAKEN_MAX).await {
        Ok(_) => Ok(()),
        Err(error) => {
            link.close();
            link.expect(Kind::Taken, TAKEN_MAX).await.map(drop).map_err(|_| error)
        }
    }
}

fn terms(plan: &Plan, opened: &Opened) -> Terms {
    let Opened { mount, mds, top, .. } = opened;
    let text = |text: &String| Text(text.clone());
    Terms {
        source: Text(plan.source()),
        top: *top,
        dir: Raw(plan.dir.as_os_str().as_bytes().to_vec()),
        options: text(&plan.options_text),
        mds: mds.mds_addresses.iter().map(text).collect(),
        mds_timeout_ms: u64::try_from(mds.mds_timeout.0.as_millis()).unwrap_or(u64::MAX),
        log: plan.log.as_ref().map(|log| Raw(log.as_os_str().as_bytes().to_vec())),
        http: plan.http.as_ref().map(text),
        held: mount.held(),
    }
}

/// The mount's root, without asking for it.
fn open_root(plan: &Plan, post: &Post) -> Result<OwnedFd, Stays> {
    let lines = mounts::all()?;
    if mounts::ours_at(&lines, &plan.dir).is_none_or(|seen| seen.device != post.device) {
        return Err(Stays::NotThere);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(&plan.dir, flags, Mode::empty()).map_err(io::Error::from)?)
}

/// Stops between two requests, with everything published.
async fn stop(opened: &Opened, kernel: &Control, root: &OwnedFd) -> Result<(AtRest, VfsState), Stays> {
    let mut why = Stays::Busy;
    for (try_, limit) in PAUSES.map(Duration::from_secs).into_iter().enumerate() {
        if try_ > 0 {
            sleep(BETWEEN).await;
        }
        match timeout(limit, stop_once(opened, kernel, root)).await {
            Ok(Ok(rest)) => return Ok(rest),
            Ok(Err(error)) => why = error,
            Err(_) => warn!(try_, ?limit, "requests under way do not end; serving on"),
        }
    }
    Err(why)
}

async fn stop_once(opened: &Opened, kernel: &Control, root: &OwnedFd) -> Result<(AtRest, VfsState), Stays> {
    let stopped = Instant::now();
    let session = kernel.pause(root).await?;
    let quiet = stopped.elapsed();
    let vfs = Rested { vfs: opened.vfs.clone(), is_left: false };
    let state = vfs.vfs.rest().await.map_err(|error: FsError| Stays::Unpublished(error.to_string()))?;
    let published = stopped.elapsed();
    Ok((AtRest { vfs, session, stopped, quiet, published }, state))
}
