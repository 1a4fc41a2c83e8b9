//! Memory of large writes, which is used again: the kernel clears fresh memory page by page, which costs more than to copy the bytes.

use std::sync::Mutex;

use bytes::Bytes;

use crate::shared::locked;

/// The largest write of the kernel, which is what a stream of bytes is made of. Smaller ones the allocator keeps well.
const BUFFER_BYTES: usize = 1 << 20;
/// Buffers that wait to be used again.
const WAITING_MAX: usize = 64;

static WAITING: Mutex<Waiting> = Mutex::new(Waiting { buffers: Vec::new(), fewest: 0 });

struct Waiting {
    buffers: Vec<Vec<u8>>,
    /// How many there were at least since it was looked last.
    fewest: usize,
}

/// A copy of what is written.
pub fn copy(data: &[u8]) -> Vec<u8> {
    if data.len() != BUFFER_BYTES {
        return data.to_vec();
    }
    let mut waiting = locked(&WAITING);
    let reused = waiting.buffers.pop();
    waiting.fewest = waiting.fewest.min(waiting.buffers.len());
    drop(waiting);
    let mut buffer = reused.unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES));
    buffer.extend_from_slice(data);
    buffer
}

/// Bytes that change no more. With the last reference to them the memory waits to be used again.
pub(crate) fn freeze(buffer: Vec<u8>) -> Bytes {
    if buffer.capacity() == BUFFER_BYTES { Bytes::from_owner(Frozen(buffer)) } else { buffer.into() }
}

/// Gives memory back that nobody has used since the last call.
pub(crate) fn trim() {
    let unused = {
        let mut waiting = locked(&WAITING);
        let used = waiting.buffers.len() - waiting.fewest;
        let unused = waiting.buffers.split_off(used);
        waiting.fewest = used;
        unused
    };
    drop(unused);
}

struct Frozen(Vec<u8>);

impl AsRef<[u8]> for Frozen {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.0);
        buffer.clear();
        let mut waiting = locked(&WAITING);
        if waiting.buffers.len() < WAITING_MAX {
            waiting.buffers.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_and_given_back() {
        let written: Vec<u8> = (0..BUFFER_BYTES).map(|at| (at % 251) as u8).collect();
        let frozen = freeze(copy(&written));
        let place = frozen.as_ptr();
        assert!(frozen == written);
        drop((frozen.slice(5..), frozen));
        let again = copy(&written[..BUFFER_BYTES]);
        assert!(again == written && again.as_ptr() == place);
        drop(freeze(again));
        assert_eq!(copy(b"few"), b"few");
        trim();
        assert_eq!(locked(&WAITING).buffers.len(), 1, "it was used since");
        trim();
        assert!(locked(&WAITING).buffers.is_empty());
    }
}
