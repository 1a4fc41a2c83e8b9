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

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    /// What the kernel would get: like the device, a datagram socket takes an answer whole or not at all.
    fn received(send: impl FnOnce(BorrowedFd<'_>)) -> Vec<u8> {
        let (ours, kernels) = UnixDatagram::pair().unwrap();
        send(ours.as_fd());
        let mut bytes = vec![0; 4096];
        let len = kernels.recv(&mut bytes).unwrap();
        bytes.truncate(len);
        bytes
    }

    /// Length, error, unique number, body.
    fn parsed(bytes: &[u8]) -> (u32, i32, u64, &[u8]) {
        let (len, rest) = bytes.split_first_chunk().unwrap();
        let (error, rest) = rest.split_first_chunk().unwrap();
        let (unique, body) = rest.split_first_chunk().unwrap();
        (u32::from_ne_bytes(*len), i32::from_ne_bytes(*error), u64::from_ne_bytes(*unique), body)
    }

    #[test]
    fn pieces_leave_as_one_answer() {
        let pieces = [Bytes::from_static(b"abc"), Bytes::new(), Bytes::from_static(b"defg")];
        let bytes = received(|device| write_pieces(device, 77, &pieces).unwrap());
        assert_eq!(parsed(&bytes), (23, 0, 77, &b"abcdefg"[..]));
        let bytes = received(|device| write_pieces(device, 1, &[]).unwrap());
        assert_eq!(parsed(&bytes), (16, 0, 1, &b""[..]));
    }

    #[test]
    fn an_answer_without_a_body_has_the_error() {
        let bytes = received(|device| answer(device, 5, Ok(())));
        assert_eq!(parsed(&bytes), (16, 0, 5, &b""[..]));
        let bytes = received(|device| answer(device, u64::MAX, Err(FsError::NotFound)));
        assert_eq!(parsed(&bytes), (16, -libc::ENOENT, u64::MAX, &b""[..]));
    }
}
