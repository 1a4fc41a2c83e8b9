//! Answers that fuser has no call for, written to the device as they are (`linux/fuse.h`: `fuse_out_header`).

use std::io::{self, IoSlice};
use std::mem::ManuallyDrop;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use curvefs_types::FsError;
use fuser::ReplyData;

const HEADER_BYTES: usize = 16;
/// More pieces than that are joined first: the kernel pins the memory of each.
const PIECES_MAX: usize = 128;

/// The descriptor that requests are read from, once the session has begun.
pub(crate) type Device = Arc<OnceLock<Arc<OwnedFd>>>;

/// Answers a request that another process has read.
pub(crate) fn answer(device: BorrowedFd<'_>, unique: u64, done: Result<(), FsError>) {
    let error = done.map_or_else(|error| -error.errno(), |()| 0);
    if let Err(error) = rustix::io::write(device, &header(0, error, unique)) {
        tracing::debug!(unique, %error, "a request of the process before is not waited for any more");
    }
}

/// Answers a read with bytes in pieces, none of which is copied.
pub(crate) fn answer_read(device: Option<BorrowedFd<'_>>, unique: u64, reply: ReplyData, pieces: &[Bytes]) {
    match (device, pieces) {
        (_, [only]) => reply.data(only),
        (Some(device), pieces) if pieces.len() <= PIECES_MAX => {
            // Dropped it would answer, too. All it leaves behind is that fuser's descriptor stays open as long as this process.
            let _ = ManuallyDrop::new(reply);
            if let Err(error) = write_pieces(device, unique, pieces) {
                // Who asked was interrupted, or everything is unmounted.
                tracing::debug!(unique, %error, "a read is not waited for any more");
            }
        }
        (_, pieces) => reply.data(&pieces.concat()),
    }
}

fn write_pieces(device: BorrowedFd<'_>, unique: u64, pieces: &[Bytes]) -> io::Result<()> {
    let header = header(pieces.iter().map(Bytes::len).sum(), 0, unique);
    let mut parts = Vec::with_capacity(1 + pieces.len());
    parts.push(IoSlice::new(&header));
    parts.extend(pieces.iter().map(|piece| IoSlice::new(piece)));
    // The kernel takes an answer whole or not at all.
    rustix::io::writev(device, &parts)?;
    Ok(())
}

fn header(body: usize, error: i32, unique: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&((HEADER_BYTES + body) as u32).to_ne_bytes());
    header[4..8].copy_from_slice(&error.to_ne_bytes());
    header[8..].copy_from_slice(&unique.to_ne_bytes());
    header
}
