//! Operations that must not be interleaved with any other writer's.
//!
//! COMPARE AND WRITE is the device's own: a volume decides it in its copyset, so it holds whichever gateways the others
//! come through. ORWRITE is made of it, a piece at a time: read, add the bits, write if it is still what was read.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use curve_blockdev::{
    BlockDevice, BlockError, BlockFuture, COMPARE_BYTES_MAX, Compared, DeviceShape, Extent, ZeroMode,
    total_bytes,
};
use tokio::sync::Notify;

/// A block device with more operations that no other writer's interleave.
pub trait AtomicBlocks: BlockDevice {
    /// Writes what the range holds, with every bit set that is set in `data`.
    ///
    /// A piece of 64 KiB (`COMPARE_BYTES_MAX`) is atomic against every writer of the device; of a longer range, others
    /// may come between the pieces, as they may between the pieces of a long write.
    fn or_write(&self, offset: u64, data: Vec<Bytes>) -> BlockFuture<'_, ()>;
    /// Writes all of `data` or nothing, also when power fails. A range that crosses a multiple of [`ATOMIC_BORDER_BYTES`]
    /// is refused as [`BlockError::Unsupported`].
    fn write_atomic(&self, offset: u64, data: Vec<Bytes>) -> BlockFuture<'_, ()>;
    /// The longest [`write_atomic`](AtomicBlocks::write_atomic) in bytes; 0 if there is none.
    fn atomic_write_max(&self) -> u32;
}

/// No atomic write crosses a multiple of this: a border that the device itself may have, as a volume has at each chunk. One
/// that is aligned to its own length never does.
pub const ATOMIC_BORDER_BYTES: u64 = 1 << 20;

/// The longest WRITE ATOMIC of a unit with such blocks on a volume, whose log takes a write of up to 512 KiB within a chunk
/// as one operation, whatever its alignment.
///
/// With blocks of 4096 bytes there is none: libiscsi's conformance suite insists on 256 blocks whatever the unit reports,
/// which would be twice what is one operation.
pub const fn volume_atomic_max(block_bytes: u32) -> u32 {
    if block_bytes == 512 { 256 * 512 } else { 0 }
}

/// Makes of a device what [`AtomicBlocks`] asks for.
///
/// Across gateways it is the device that holds: its `compare_and_write`, of which ORWRITE is made, and that it never keeps
/// or shows a part of a write that is not longer than `atomic_write_max`. Within this one, every operation also takes its
/// range in a `RangeLock`: shared for what the device orders itself, exclusive for ORWRITE, which then seldom has to try
/// again, and for WRITE ATOMIC. The price for a plain operation is two short locks.
pub struct LocalAtomics<D: ?Sized> {
    ranges: RangeLock,
    atomic_write_max: u32,
    inner: Arc<D>,
}

impl<D: BlockDevice + ?Sized> LocalAtomics<D> {
    /// Wraps `inner`. `atomic_write_max` is the longest write, in bytes, of which the device never keeps a part.
    pub fn new(inner: Arc<D>, atomic_write_max: u32) -> Self {
        Self { ranges: RangeLock::default(), atomic_write_max, inner }
    }

    /// Runs something under an exclusive lock. `run` must do nothing before it is polled: a device may complete an
    /// operation as soon as it is called.
    fn exclusive<'a, T: Send + 'a>(
        &'a self,
        range: Range<u64>,
        run: impl Future<Output = Result<T, BlockError>> + Send + 'a,
    ) -> BlockFuture<'a, T> {
        Box::pin(async move {
            let _held = self.ranges.lock(range, Mode::Exclusive).await;
            run.await
        })
    }

    fn shared<'a, T: Send + 'a>(
        &'a self,
        offset: u64,
        len: u64,
        run: impl Future<Output = Result<T, BlockError>> + Send + 'a,
    ) -> BlockFuture<'a, T> {
        Box::pin(async move {
            // A range that wraps around is refused by the device.
            let _held = self.ranges.lock(offset..offset.saturating_add(len), Mode::Shared).await;
            run.await
        })
    }
}

/// The widest ORWRITE piece: what the device compares and writes as one. Pieces lie on multiples of it, so that none
/// crosses a border of the device.
const OR_BYTES_MAX: u64 = COMPARE_BYTES_MAX as u64;
/// Tries of one piece of an ORWRITE. Each that fails is a change that another one got through.
const OR_TRIES_MAX: u32 = 1000;

/// Cuts `offset..offset+len` at multiples of [`OR_BYTES_MAX`].
fn or_pieces(offset: u64, len: u64) -> impl Iterator<Item = (u64, usize)> {
    let end = offset.saturating_add(len);
    let mut at = offset;
    std::iter::from_fn(move || {
        let len = (OR_BYTES_MAX - at % OR_BYTES_MAX).min(end - at);
        let piece = (at, len as usize);
        at += len;
        (len > 0).then_some(piece)
    })
}

impl<D: BlockDevice + ?Sized> LocalAtomics<D> {
    /// Adds bits to one piece: reads it, and writes the outcome if it is still what was read.
    async fn or_piece(&self, offset: u64, bits: &[u8]) -> Result<(), BlockError> {
        for _ in 0..OR_TRIES_MAX {
            let found = self.inner.read(offset, bits.len() as u32).await?;
            let mut merged = BytesMut::with_capacity(bits.len());
            found.iter().for_each(|part| merged.extend_from_slice(part));
            merged.iter_mut().zip(bits).for_each(|(byte, bits)| *byte |= bits);
            let written = self.inner.compare_and_write(offset, found, vec![merged.freeze()]).await?;
            if written == Compared::Written {
                return Ok(());
            }
        }
        Err(BlockError::Io("others keep changing the range".to_owned()))
    }
}

impl<D: BlockDevice + ?Sized> AtomicBlocks for LocalAtomics<D> {
    fn or_write(&self, offset: u64, data: Vec<Bytes>) -> BlockFuture<'_, ()> {
        let len = total_bytes(&data);
        self.exclusive(offset..offset.saturating_add(len), async move {
            let bits = data.concat();
            for (at, len) in or_pieces(offset, len) {
                let from = (at - offset) as usize;
                self.or_piece(at, &bits[from..from + len]).await?;
            }
            Ok(())
        })
    }

    fn write_atomic(&self, offset: u64, data: Vec<Bytes>) -> BlockFuture<'_, ()> {
        let end = offset.saturating_add(total_bytes(&data));
        self.exclusive(offset..end, async move {
            if end > offset && offset / ATOMIC_BORDER_BYTES != (end - 1) / ATOMIC_BORDER_BYTES {
                return Err(BlockError::Unsupported("an atomic write across a multiple of 1 MiB"));
            }
            self.inner.write(offset, data).await
        })
    }

    fn atomic_write_max(&self) -> u32 {
        self.atomic_write_max
    }
}

impl<D: BlockDevice + ?Sized> BlockDevice for LocalAtomics<D> {
    fn shape(&self) -> DeviceShape {
        self.inner.shape()
    }

    fn read(&self, offset: u64, len: u32) -> BlockFuture<'_, Vec<Bytes>> {
        self.shared(offset, u64::from(len), async move { self.inner.read(offset, len).await })
    }

    fn write(&self, offset: u64, data: Vec<Bytes>) -> BlockFuture<'_, ()> {
        self.shared(offset, total_bytes(&data), async move { self.inner.write(offset, data).await })
    }

    fn flush(&self) -> BlockFuture<'_, ()> {
        self.inner.flush()
    }

    fn discard(&self, offset: u64, len: u64) -> BlockFuture<'_, ()> {
        self.shared(offset, len, async move { self.inner.discard(offset, len).await })
    }

    fn write_zeroes(&self, offset: u64, len: u64, mode: ZeroMode) -> BlockFuture<'_, ()> {
        self.shared(offset, len, async move { self.inner.write_zeroes(offset, len, mode).await })
    }

    fn block_status(&self, offset: u64, len: u64) -> BlockFuture<'_, Vec<Extent>> {
        self.inner.block_status(offset, len)
    }

    fn compare_and_write(
        &self,
        offset: u64,
        expected: Vec<Bytes>,
        data: Vec<Bytes>,
    ) -> BlockFuture<'_, Compared> {
        self.shared(offset, total_bytes(&data), async move {
            self.inner.compare_and_write(offset, expected, data).await
        })
    }

    fn close(&self) -> BlockFuture<'_, ()> {
        self.inner.close()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Shared,
    Exclusive,
}

/// Locks of byte ranges, first come, first served: each waits for those before it that overlap and of which one is
/// exclusive. So nobody starves and nobody waits in a circle. The table is as long as there are operations in flight.
#[derive(Default)]
struct RangeLock {
    table: Mutex<Table>,
    released: Notify,
}

#[derive(Default)]
struct Table {
    next: u64,
    exclusive: usize,
    held: Vec<Held>,
}

struct Held {
    id: u64,
    range: Range<u64>,
    mode: Mode,
}

impl Table {
    fn must_wait(&self, id: u64, range: &Range<u64>, mode: Mode) -> bool {
        self.exclusive > 0
            && self.held.iter().any(|other| {
                let conflict = mode == Mode::Exclusive || other.mode == Mode::Exclusive;
                other.id < id && conflict && other.range.start < range.end && range.start < other.range.end
            })
    }
}

impl RangeLock {
    async fn lock(&self, range: Range<u64>, mode: Mode) -> RangeGuard<'_> {
        let id = self.enter(range.clone(), mode);
        let guard = RangeGuard { lock: self, id };
        loop {
            let mut released = std::pin::pin!(self.released.notified());
            if !self.table.lock().expect("no panic under the lock").must_wait(id, &range, mode) {
                return guard;
            }
            released.as_mut().enable();
            if !self.table.lock().expect("no panic under the lock").must_wait(id, &range, mode) {
                return guard;
            }
            released.await;
        }
    }

    fn enter(&self, range: Range<u64>, mode: Mode) -> u64 {
        let mut table = self.table.lock().expect("no panic under the lock");
        let id = table.next;
        table.next += 1;
        table.exclusive += usize::from(mode == Mode::Exclusive);
        table.held.push(Held { id, range, mode });
        id
    }
}

struct RangeGuard<'a> {
    lock: &'a RangeLock,
    id: u64,
}

impl Drop for RangeGuard<'_> {
    fn drop(&mut self) {
        let mut table = self.lock.table.lock().expect("no panic under the lock");
        let contended = table.exclusive > 0;
        let at = table.held.iter().position(|held| held.id == self.id).expect("it is held until here");
        if table.held.swap_remove(at).mode == Mode::Exclusive {
            table.exclusive -= 1;
        }
        drop(table);
        if contended {
            self.lock.released.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use curve_blockdev::{Fault, FaultRates, Faulty, MemoryDevice, Operation};
    use futures::future::join_all;

    use super::*;

    fn page(byte: u8) -> Vec<Bytes> {
        vec![Bytes::from(vec![byte; 4096])]
    }

    /// Two gateways on one device: two values, each with locks of its own.
    fn two_gateways() -> [LocalAtomics<Faulty<MemoryDevice>>; 2] {
        let memory = Arc::new(MemoryDevice::new(1 << 20, 4096));
        [1, 2].map(|seed| {
            LocalAtomics::new(Arc::new(Faulty::new(memory.clone(), seed, FaultRates::default())), 0)
        })
    }

    #[tokio::test]
    async fn of_many_that_compare_with_the_same_one_writes() {
        let gateways = two_gateways();
        let tries = (1..=8).map(|byte| gateways[byte % 2].compare_and_write(0, page(0), page(byte as u8)));
        let results = join_all(tries).await;
        let written = results.iter().filter(|result| **result == Ok(Compared::Written)).count();
        assert_eq!(written, 1, "{results:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn bits_that_another_gateway_adds_meanwhile_are_kept() {
        let [one, other] = two_gateways();
        let delay = Fault::Delay(std::time::Duration::from_secs(1));
        // The first has read and not yet written when the second adds its bits.
        one.inner.fail_next(Operation::Compare, delay);
        let (first, second) = tokio::join!(one.or_write(0, page(0x0f)), other.or_write(0, page(0x30)));
        assert_eq!((first, second), (Ok(()), Ok(())));
        assert_eq!(one.read(0, 4096).await.expect("in range").concat(), page(0x3f).concat());
    }

    #[tokio::test]
    async fn an_atomic_write_crosses_no_border() {
        let blocks = LocalAtomics::new(Arc::new(MemoryDevice::new(2 << 20, 512)), 256 * 512);
        let border = ATOMIC_BORDER_BYTES;
        let sectors = |count: usize| vec![Bytes::from(vec![7; count * 512])];
        for (offset, count) in [(0, 256), (border - 512, 1), (border, 256), (2 * border - 512, 1)] {
            assert_eq!(blocks.write_atomic(offset, sectors(count)).await, Ok(()), "{offset}");
        }
        let crossing = blocks.write_atomic(border - 512, sectors(2)).await;
        assert!(matches!(crossing, Err(BlockError::Unsupported(_))), "{crossing:?}");
    }

    #[test]
    fn an_orwrite_is_cut_at_borders() {
        let unit = OR_BYTES_MAX;
        let pieces: Vec<_> = or_pieces(unit - 512, unit + 1024).collect();
        assert_eq!(pieces, [(unit - 512, 512), (unit, unit as usize), (2 * unit, 512)]);
        assert_eq!(or_pieces(4096, 0).count(), 0);
    }

    #[tokio::test]
    async fn bits_are_added() {
        let blocks = LocalAtomics::new(Arc::new(MemoryDevice::new(1 << 20, 4096)), 0);
        blocks.write(0, page(0x0f)).await.expect("in range");
        blocks.or_write(0, page(0xa0)).await.expect("in range");
        assert_eq!(blocks.read(0, 4096).await.expect("in range").concat(), page(0xaf).concat());
    }
}
