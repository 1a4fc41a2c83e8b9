//! Where a process knocks that wants to go on with this mount: a socket beside the mount's record.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use super::format::{Kind, version_for};
use super::link::Link;

/// How long who knocks may take to say what it wants.
const HELLO_MAX: Duration = Duration::from_secs(5);
/// After a failure to take a connection.
const AGAIN: Duration = Duration::from_secs(1);

/// Somebody who may go on with the mount. Until this is dropped everybody else is refused.
#[derive(Debug)]
pub struct Offer {
    /// The other process.
    pub link: Link,
    /// Its number, for people.
    pub process: i32,
    /// The version that both speak.
    pub version: u16,
    _turn: Turn,
}

/// One at a time.
#[derive(Debug)]
struct Turn(Arc<AtomicBool>);

impl Turn {
    fn take(taken: &Arc<AtomicBool>) -> Option<Self> {
        (!taken.swap(true, Ordering::AcqRel)).then(|| Self(taken.clone()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// The door. Its socket is removed when this is dropped.
#[derive(Debug)]
pub struct Door {
    path: PathBuf,
    listener: Arc<UnixListener>,
    offers: mpsc::Receiver<Offer>,
    task: JoinHandle<()>,
}

impl Door {
    /// Opens it.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = StdListener::bind(&path)?;
        // Who comes before this is asked for its user all the same.
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        Self::of(path, listener)
    }

    /// One that another process has opened.
    pub fn inherit(path: PathBuf, listener: OwnedFd) -> io::Result<Self> {
        Self::of(path, listener.into())
    }

    fn of(path: PathBuf, listener: StdListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = Arc::new(UnixListener::from_std(listener)?);
        let (sender, offers) = mpsc::channel(1);
        let task = tokio::spawn(answer(listener.clone(), path.clone(), sender));
        Ok(Self { path, listener, offers, task })
    }

    /// The next who knocks.
    pub async fn next(&mut self) -> Option<Offer> {
        self.offers.recv().await
    }

    /// The socket, for the process that goes on.
    pub fn listener(&self) -> io::Result<OwnedFd> {
        self.listener.as_fd().try_clone_to_owned()
    }

    /// It is another process's: the socket stays.
    pub fn leave(self) {
        self.task.abort();
        std::mem::forget(self);
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
        // What stays refuses connections, which says the same.
        let _ = fs::remove_file(&self.path);
    }
}

/// Takes connections as long as the mount lives.
async fn answer(listener: Arc<UnixListener>, path: PathBuf, offers: mpsc::Sender<Offer>) {
    let taken = Arc::new(AtomicBool::new(false));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if let Some(offer) = greet(Link::new(stream), &taken, &path).await
                    && offers.send(offer).await.is_err()
                {
                    return;
                }
            }
            Err(error) => {
                warn!(%error, "nobody can knock for a moment");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

/// Who may not is refused, and why.
async fn greet(mut link: Link, taken: &Arc<AtomicBool>, path: &Path) -> Option<Offer> {
    let (user, process) = match link.peer() {
        Ok(peer) => peer,
        Err(error) => {
            debug!(%error, "who knocks cannot be told");
            return None;
        }
    };
    let own = rustix::process::geteuid().as_raw();
    if user != own {
        info!(user, process, "another user wants to take the mount over, and is refused");
        link.refuse(&format!("the mount is of user {own}; run it as that user"), HELLO_MAX).await;
        return None;
    }
    let hello = match link.expect(Kind::Hello, HELLO_MAX).await {
        Ok(hello) => hello,
        Err(error) => {
            info!(process, %error, path = %path.display(), "somebody knocks and is not understood");
            link.refuse(&error.to_string(), HELLO_MAX).await;
            return None;
        }
    };
    let version = match version_for(&hello.body) {
        Ok(version) => version,
        Err(error) => {
            info!(process, %error, "a process that wants to take the mount over is refused");
            link.refuse(&error.to_string(), HELLO_MAX).await;
            return None;
        }
    };
    let Some(turn) = Turn::take(taken) else {
        link.refuse(
            "another process is taking it over right now; look at the mount, and try again",
            HELLO_MAX,
        )
        .await;
        return None;
    };
    Some(Offer { link, process, version, _turn: turn })
}

#[cfg(test)]
mod tests {
    use super::super::format::hello;
    use super::super::link::LinkError;
    use super::*;

    const WITHIN: Duration = Duration::from_secs(20);

    async fn knock(path: &Path, hello: &[u8]) -> Link {
        let mut link = Link::connect(path).await.unwrap();
        link.send(Kind::Hello, hello, &[], WITHIN).await.unwrap();
        link
    }

    #[tokio::test]
    async fn one_is_let_in_at_a_time_and_the_socket_ends_with_the_door() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0:1.sock");
        fs::write(&path, "of before").unwrap();
        let mut door = Door::open(path.clone()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let first = knock(&path, &hello()).await;
        let offer = door.next().await.unwrap();
        assert_eq!((offer.version, offer.process as u32), (1, std::process::id()));
        let mut second = knock(&path, &hello()).await;
        let refused = second.expect(Kind::Terms, WITHIN).await.unwrap_err();
        assert!(matches!(&refused, LinkError::Refused(why) if why.contains("right now")), "{refused}");
        drop((offer, first));
        let mut old = knock(&path, b"CURVEHND\0\0").await;
        let refused = old.expect(Kind::Terms, WITHIN).await.unwrap_err();
        assert!(matches!(&refused, LinkError::Refused(why) if why.contains("version 0")), "{refused}");
        let _third = knock(&path, &hello()).await;
        assert!(door.next().await.is_some());

        let inherited = door.listener().unwrap();
        door.leave();
        let mut door = Door::inherit(path.clone(), inherited).unwrap();
        let _fourth = knock(&path, &hello()).await;
        assert!(door.next().await.is_some());
        drop(door);
        assert!(!path.exists());
    }
}
