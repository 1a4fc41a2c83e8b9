//! `curve-fuse upgrade`: this process goes on with a mount that another one serves.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use curve_client::ClientConfig;
use curve_serving::startup::Signals;
use curve_telemetry::install_metrics;
use curve_types::HumanDuration;
use curvefs_client::{CountedMetadata, Mount, RetryLimits, S3Data, Subtree};
use curvefs_fuse::{Mounted, Successor};
use curvefs_types::{Answer, FsError, InodeId, Metadata, Query};
use curvefs_vfs::Vfs;
use rand::Rng;
use tokio::time::timeout;
use tracing::{info, warn};

use super::format::{Kind, State, Terms, hello, parse_state, parse_terms};
use super::link::{Link, LinkError};
use crate::checks::Plan;
use crate::cli;
use crate::daemon::{Opened, USABLE_MAX, connect, finish};
use crate::error::FuseError;
use crate::inspect::{Inspector, Meters};
use crate::record::{self, Post};
use crate::session::Served;
use crate::{background, mounts};

/// How long the other process may take to receive or to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long it may take to come to rest.
const STATE_MAX: Duration = Duration::from_secs(60);
/// How long it may take to give its last word.
const GO_MAX: Duration = Duration::from_secs(30);

/// Serves the mount at a directory, named in full, until somebody unmounts or a signal comes. `usable` is called once programs are served.
pub async fn serve(dir: &Path, usable: impl FnOnce() -> io::Result<()>) -> Result<(), FuseError> {
    let mut signals = Signals::new()?;
    let taking = async {
        let (mut knocked, terms, version) = knock(dir).await?;
        let taken = take(&mut knocked.link, terms, version, dir).await;
        if let Err(error) = &taken {
            knocked.link.refuse(&error.to_string(), ANSWER_MAX).await;
        }
        Ok::<_, FuseError>((knocked, taken?))
    };
    // Until the last word this process may end: the other goes on.
    let (mut knocked, ready) = tokio::select! {
        ready = taking => ready?,
        name = signals.next() => return Err(FuseError::Interrupted(name)),
    };
    let Ready { plan, opened, door, successor } = ready;
    let mounted = begin(&mut knocked.link, successor, dir).await?;
    if let Some(path) = plan.log.as_deref()
        && let Err(error) = background::log_to(path)
    {
        warn!(%error, "the log goes on where it went");
    }
    let post = Post::inherit(&knocked.device, door);
    let mut served = Served::new(&plan, &opened, mounted, post);
    info!(dir = %dir.display(), from = ?knocked.process, mount = %opened.mount.grant().key.mount, "took the mount over");
    if let Err(error) = usable() {
        warn!(%error, "whoever started this is gone; the mount is served all the same");
    }
    if plan.http.is_some() {
        served.serve_http_again().await;
    }
    let ended = served.attend(&mut signals, true).await;
    finish(&opened, ended).await
}

/// The process that serves, and what is known of its mount.
struct Knocked {
    link: Link,
    device: String,
    /// As it has recorded itself: the socket's own word is of who opened it, maybe long ago.
    process: Option<u32>,
}

/// Finds who serves the mount, and asks for its terms.
async fn knock(dir: &Path) -> Result<(Knocked, Terms, u16), FuseError> {
    let lines = mounts::all().map_err(FuseError::system(mounts::TABLE))?;
    let device = mounts::ours_at(&lines, dir)
        .map(|line| line.device)
        .ok_or_else(|| FuseError::NotMounted { dir: dir.to_owned(), mounts: mounts::ours(&lines) })?;
    let no_door = |cause| FuseError::NoDoor { dir: dir.to_owned(), cause };
    let mut tried = io::Error::from(io::ErrorKind::NotFound);
    for path in record::doors(&device) {
        match Link::connect(&path).await {
            Ok(mut link) => {
                let (user, _) = link.peer().map_err(no_door)?;
                let own = rustix::process::geteuid().as_raw();
                if user != own {
                    return Err(FuseError::NotYours { dir: dir.to_owned(), user });
                }
                let stays = |error: LinkError| FuseError::stays(dir, error);
                link.send(Kind::Hello, &hello(), &[], ANSWER_MAX).await.map_err(stays)?;
                let said = link.expect(Kind::Terms, ANSWER_MAX).await.map_err(stays)?;
                let (version, terms) = parse_terms(&said.body).map_err(|error| stays(error.into()))?;
                let process = record::process(&device);
                return Ok((Knocked { link, device, process }, terms, version));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tried = error,
        }
    }
    Err(no_door(tried))
}

/// Everything in place.
struct Ready {
    plan: Plan,
    opened: Opened,
    door: OwnedFd,
    successor: Successor,
}

/// Gets everything in place, and says so. Changes nothing anywhere.
async fn take(link: &mut Link, terms: Terms, version: u16, dir: &Path) -> Result<Ready, FuseError> {
    let plan = plan(&terms)?;
    if plan.dir != dir {
        // Seen from another place of the tree (a bind mount, another namespace) it is the same mount.
        info!(there = %plan.dir.display(), here = %dir.display(), "the mount has another name where it is served");
    }
    // Before the first counter is made: what is counted without a registry is lost.
    if plan.http.is_some() {
        install_metrics();
    }
    let stays = |error: LinkError| FuseError::stays(dir, error);
    let adopted = adopt(&plan, &terms).await?;
    link.say(Kind::Prepared, ANSWER_MAX).await.map_err(stays)?;
    let said = link.expect(Kind::State, STATE_MAX).await.map_err(stays)?;
    let state = parse_state(version, &said.body).map_err(|error| stays(error.into()))?;
    let missing = || stays(LinkError::System(io::Error::other("the descriptors are missing")));
    let [device, door] = <[OwnedFd; 2]>::try_from(said.descriptors).map_err(|_| missing())?;
    let (opened, successor) = put_in_place(&plan, adopted, state, device)?;
    link.say(Kind::Ready, ANSWER_MAX).await.map_err(stays)?;
    Ok(Ready { plan, opened, door, successor })
}

/// Waits for the last word, gives its own, and serves.
async fn begin(link: &mut Link, successor: Successor, dir: &Path) -> Result<Mounted, FuseError> {
    let stays = |error: LinkError| FuseError::stays(dir, error);
    link.expect(Kind::Go, GO_MAX).await.map_err(stays)?;
    // If it cannot be sent the other process goes on, so this one must not.
    link.say(Kind::Taken, ANSWER_MAX).await.map_err(stays)?;
    successor.serve().map_err(FuseError::system("the mount was taken over and cannot be served"))
}

fn plan(terms: &Terms) -> Result<Plan, FuseError> {
    let path = |raw: &super::format::Raw| PathBuf::from(OsString::from_vec(raw.0.clone()));
    let mount = cli::Mount {
        name: terms.source.0.clone(),
        dir: path(&terms.dir),
        options: vec![terms.options.0.clone()],
        mds: terms.mds.iter().map(|address| address.0.clone()).collect(),
        log: terms.log.as_ref().map(path),
        http: terms.http.as_ref().map(|http| http.0.clone()),
        // They were checked by the process that mounted.
        sloppy: true,
        ..cli::Mount::default()
    };
    Plan::of_words(&mount)
}

/// A mount that renews its lease here too, and has asked for the root.
struct Adopted {
    mount: Arc<Mount>,
    metadata: Arc<dyn Metadata>,
    data: S3Data,
    mds: ClientConfig,
    top: Option<InodeId>,
}

async fn adopt(plan: &Plan, terms: &Terms) -> Result<Adopted, FuseError> {
    let mds = ClientConfig {
        mds_addresses: terms.mds.iter().map(|address| address.0.clone()).collect(),
        mds_timeout: HumanDuration(Duration::from_millis(terms.mds_timeout_ms)),
        ..ClientConfig::default()
    };
    let (api, network) = connect(&mds);
    let mount = Mount::take_over(api, network, terms.held, RetryLimits::default(), rand::rng().random());
    let mount = Arc::new(mount.await.map_err(|error| FuseError::of_grant(&plan.name, error))?);
    let grant = mount.grant();
    let data = S3Data::new(&grant.file_system, grant.writer, plan.options.fs.soft_timeout);
    let data = data.map_err(|error| FuseError::of_store(&plan.name, error))?;
    mount.follow_record(data.rotation());
    let metadata: Arc<dyn Metadata> = match terms.top {
        Some(top) => Arc::new(Subtree::at(mount.metadata(), top)),
        None => mount.metadata(),
    };
    let asked = timeout(USABLE_MAX, metadata.query(Query::GetAttr { inode: InodeId::ROOT })).await;
    let why = match asked {
        Ok(Ok(Answer::Attrs { .. })) => {
            return Ok(Adopted { mount, metadata, data, mds, top: terms.top });
        }
        Ok(Ok(_)) => FsError::Corrupt.to_string(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("within {} s", USABLE_MAX.as_secs()),
    };
    Err(FuseError::Unusable { name: plan.name.clone(), why })
}

fn put_in_place(
    plan: &Plan,
    adopted: Adopted,
    state: State,
    device: OwnedFd,
) -> Result<(Opened, Successor), FuseError> {
    let Adopted { mount, metadata, data, mds, top } = adopted;
    let State { serial, numbers, session, vfs } = state;
    mount.metadata().set_numbers(numbers.into_iter().map(|number| (number.partition, number.next)).collect());
    data.backend().set_next_serial(serial);
    let meters = Meters { store: data.meters(), ..Meters::default() };
    let metadata = Arc::new(CountedMetadata::new(metadata, meters.meta.clone()));
    let vfs = Vfs::take_over(metadata, data.backend(), plan.options.fs.clone(), vfs);
    let inspector = Inspector::begin(plan, &mount, &data, meters, (top, None), &vfs);
    let kernel = plan.kernel(rustix::process::geteuid().is_root());
    let successor = curvefs_fuse::take_over(vfs.clone(), &plan.dir, device.as_fd(), session, &kernel);
    let successor = successor.map_err(FuseError::system("the kernel's session cannot be taken over"))?;
    Ok((Opened { mount, vfs, data, mds, top, inspector }, successor))
}
