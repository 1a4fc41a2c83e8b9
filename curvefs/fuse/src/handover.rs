//! A session that another process goes on with: stopped between two requests, told, taken over.
//!
//! # Bytes of [`SessionState`]
//!
//! As in `curvefs_types::wire`: fields in the order of their `wire_struct!` line, little-endian. Version 1.
//!
//! | field | bytes | |
//! |---|---|---|
//! | `agreed` | 4 + 4 + 8 + 8 + 4 + 4 + 4 + 2 | what kernel and first process agreed on in `FUSE_INIT` |
//! | `waits` | 4, then 50 each | requests that wait for a lock |

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use curvefs_types::{InodeId, LockFamily, LockKind, LockOwner, LockRange, wire_struct};
use curvefs_vfs::LockWish;
use fuser::{Config, Session};
use rustix::io::DupFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::filesystem::CurveFuse;
use crate::gate::Gate;
use crate::mount::{Notices, readers};

/// What the kernel and the process that mounted agreed on: it holds as long as the mount, whoever serves it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Agreed {
    /// The kernel's protocol.
    pub major: u32,
    /// Its minor version.
    pub minor: u32,
    /// Capabilities that the kernel offered.
    pub offered: u64,
    /// Those that were taken.
    pub taken: u64,
    /// Read-ahead that the kernel offered.
    pub readahead_offered: u32,
    /// What was taken.
    pub readahead: u32,
    /// Bytes of a write request.
    pub max_write: u32,
    /// Requests in the background.
    pub background: u16,
}

wire_struct!(Agreed { major, minor, offered, taken, readahead_offered, readahead, max_write, background });

/// A request that waits for a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockWait {
    /// The request's number: what the answer has to carry.
    pub unique: u64,
    /// In which inode.
    pub inode: InodeId,
    /// Who wants it.
    pub owner: LockOwner,
    /// Its process.
    pub pid: u32,
    /// The thread that waits.
    pub thread: u32,
    /// Family.
    pub family: LockFamily,
    /// Kind.
    pub kind: LockKind,
    /// Range.
    pub range: LockRange,
}

wire_struct!(LockWait { unique, inode, owner, pid, thread, family, kind, range });

impl LockWait {
    pub(crate) fn wish(&self) -> LockWish {
        let Self { owner, pid, family, kind, range, .. } = *self;
        LockWish { owner, pid, family, kind, range }
    }
}

/// What the next process has to know of a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionState {
    /// What was agreed with the kernel.
    pub agreed: Agreed,
    /// Requests that are not answered: they wait for locks.
    pub waits: Vec<LockWait>,
}

wire_struct!(SessionState { agreed, waits });

/// A session, to be stopped. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Control {
    pub(crate) gate: Arc<Gate>,
    pub(crate) device: Arc<OwnedFd>,
    pub(crate) agreed: Arc<OnceLock<Agreed>>,
    pub(crate) notices: Notices,
}

impl Control {
    /// Stops reading requests and waits until all that were read are answered. `root`: the mount's root, opened with `O_PATH`.
    /// May be dropped: the session goes on.
    pub async fn pause(&self, root: &OwnedFd) -> io::Result<Paused> {
        // Most of them before: one may wait for a page of a request that is not read any more.
        self.notices.done().await;
        let paused = Paused { control: self.clone(), is_left: false };
        self.gate.close();
        for _ in 0..readers() {
            wake(root.try_clone()?, self.gate.clone())?;
        }
        self.gate.quiet(readers()).await;
        // What others have changed must not be forgotten between two processes.
        self.notices.done().await;
        Ok(paused)
    }
}

/// Makes a request: one reader comes by with it. If all have done so already it waits in the kernel like any other.
fn wake(root: OwnedFd, gate: Arc<Gate>) -> io::Result<()> {
    // Of its own, since nobody may be there to answer for a while.
    let waker = gate.waker();
    let made = std::thread::Builder::new().name("fuse-wake".into()).spawn(move || {
        let thread = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        gate.set_waker(thread, true);
        if let Err(error) = rustix::fs::fstatfs(&root) {
            tracing::debug!(%error, "a reader was not woken");
        }
        gate.set_waker(thread, false);
        drop(root);
        drop(waker);
    });
    made.map(drop)
}

/// A session at rest. It goes on when this is dropped.
#[derive(Debug)]
pub struct Paused {
    control: Control,
    is_left: bool,
}

impl Paused {
    /// The descriptor of `/dev/fuse` that is the session: whoever has it can go on.
    pub fn device(&self) -> BorrowedFd<'_> {
        self.control.device.as_fd()
    }

    /// What whoever goes on has to know.
    pub fn state(&self) -> SessionState {
        SessionState {
            agreed: self.control.agreed.get().copied().unwrap_or_default(),
            waits: self.control.gate.waits(),
        }
    }

    /// The session is another process's: this one never reads again, and answers nothing. It has only to end.
    pub fn leave(mut self) {
        self.is_left = true;
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        if !self.is_left {
            self.control.gate.open();
        }
    }
}

/// A session over a descriptor that another process has served. fuser begins each session by answering `FUSE_INIT`, which
/// the kernel sends once in the life of a mount: so it gets the same request again from a socket, and then the descriptor in
/// the socket's place.
pub(crate) fn session_over(
    filesystem: CurveFuse,
    device: BorrowedFd<'_>,
    agreed: &Agreed,
    config: Config,
) -> io::Result<Session<CurveFuse>> {
    let flags = SocketFlags::CLOEXEC;
    let (kernel, socket) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::io::write(&kernel, &init_request(agreed))?;
    let acl = config.acl;
    let session = Session::from_fd(filesystem, socket, acl, config)?;
    // SAFETY: the descriptor is open as long as the session, which outlives this. It stays the session's: never dropped here.
    let mut place = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(session.as_fd().as_raw_fd()) });
    rustix::io::dup3(device, &mut place, DupFlags::CLOEXEC)?;
    Ok(session)
}

/// `FUSE_INIT` as the kernel sent it (`linux/fuse.h`: `fuse_in_header`, `fuse_init_in`).
fn init_request(agreed: &Agreed) -> Vec<u8> {
    const FUSE_INIT: u32 = 26;
    const BYTES: u32 = 40 + 64;
    let mut request = Vec::with_capacity(BYTES as usize);
    let (flags, flags2) = (agreed.offered as u32, (agreed.offered >> 32) as u32);
    request.extend([BYTES, FUSE_INIT].map(u32::to_ne_bytes).concat());
    request.extend([1, 0].map(u64::to_ne_bytes).concat());
    // User, group, process, and nothing more.
    request.extend([0; 16]);
    let init = [agreed.major, agreed.minor, agreed.readahead_offered, flags, flags2];
    request.extend(init.map(u32::to_ne_bytes).concat());
    request.resize(BYTES as usize, 0);
    request
}

#[cfg(test)]
mod tests {
    use curvefs_types::wire::{Seeds, Wire};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn states_round_trip_and_any_bytes_are_taken(seed: u64, bytes: Vec<u8>, cut: u16) {
            let state = SessionState::sample(&mut Seeds::new(seed));
            let told = state.to_row();
            prop_assert_eq!(&SessionState::from_row(&told).unwrap(), &state);
            let _ = SessionState::from_row(&bytes);
            let _ = SessionState::from_row(&told[..usize::from(cut) % (told.len() + 1)]);
        }
    }

    #[test]
    fn the_kernels_first_request_is_made_again() {
        let agreed = Agreed {
            major: 7,
            minor: 45,
            offered: 0x0000_0003_4000_0021,
            readahead_offered: 131_072,
            ..Agreed::default()
        };
        let request = init_request(&agreed);
        assert_eq!(request.len(), 104);
        let word = |at: usize| u32::from_ne_bytes(request[at * 4..][..4].try_into().unwrap());
        assert_eq!((word(0), word(1), word(2)), (104, 26, 1));
        assert_eq!([10, 11, 12, 13, 14].map(word), [7, 45, 131_072, 0x4000_0021, 3]);
        let bytes = agreed.to_row();
        assert_eq!((bytes.len(), &bytes[..8]), (38, &[7, 0, 0, 0, 45, 0, 0, 0][..]));
    }
}
