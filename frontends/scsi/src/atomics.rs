//! Operations that must not be interleaved with any other writer's.
//!
//! [`AtomicBlocks`] is the seam: a device that decides COMPARE AND WRITE where its writes are applied implements it itself,
//! and it then holds across gateways. [`LocalAtomics`] does it for one process with a lock over ranges.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use curve_blockdev::{BlockDevice, BlockError, BlockFuture, DeviceShape, Extent, ZeroMode};
use tokio::sync::Notify;

/// How a comparison went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compared {
    /// Equal; the new data are written.
    Written,
    /// Different; nothing was changed.
    Differs {
        /// The first byte that differs, counted from the begin of the range.
        at: u64,
    },
}

/// A block device with operations that are atomic against every other writer of it.
pub trait AtomicBlocks: BlockDevice {
    /// Writes `data` if the range holds `expected`, which is as long.
    fn compare_and_write(
        &self,
        offset: u64,
        expected: Vec<Bytes>,
        data: Vec<Bytes>,
    ) -> BlockFuture<'_, Compared>;
    /// Writes what the range holds, with every bit set that is set in `data`.
    fn or_write(&self, offset: u64, data: Vec<Bytes>) -> BlockFuture<'_, ()>;
    /// Writes all of `data` or nothing, also when power fails.
    fn write_atomic(&self, offset: u64, data: Vec<Bytes>) -> BlockFuture<'_, ()>;
    /// The longest [`write_atomic`](AtomicBlocks::write_atomic) in bytes; 0 if there is none.
    fn atomic_write_max(&self) -> u32;
}

/// Makes operations atomic among those that go through this value: one gateway's.
///
/// Every operation takes its range in a [`RangeLock`]: shared for plain reads and writes, which the device orders itself,
/// exclusive for those that read, decide and write. The price for a plain operation is two short locks.
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

fn total(parts: &[Bytes]) -> u64 {
    parts.iter().map(|part| part.len() as u64).sum()
}

/// The first byte in which two runs of parts differ.
pub(crate) fn first_difference(left: &[Bytes], right: &[Bytes]) -> Option<u64> {
    let (mut at, mut skip_left, mut skip_right) = (0, 0, 0);
    let (mut left, mut right) = (left.iter(), right.iter());
    let (mut a, mut b) = (left.next(), right.next());
    while let (Some(one), Some(other)) = (a, b) {
        let (rest_one, rest_other) = (&one[skip_left..], &other[skip_right..]);
        let len = rest_one.len().min(rest_other.len());
        if rest_one[..len] != rest_other[..len] {
            let equal = rest_one.iter().zip(rest_other).take_while(|(x, y)| x == y).count();
            return Some(at + equal as u64);
        }
        at += len as u64;
        skip_left += len;
        skip_right += len;
        if skip_left == one.len() {
            (a, skip_left) = (left.next(), 0);
        }
        if skip_right == other.len() {
            (b, skip_right) = (right.next(), 0);
        }
    }
    None
}

impl<D: BlockDevice + ?Sized> AtomicBlocks for LocalAtomics<D> {
    fn compare_and_write(
        &self,
        offset: u64,
        expected: Vec<Bytes>,
        data: Vec<Bytes>,
    ) -> BlockFuture<'_, Compared> {
        let len = total(&data);
        self.exclusive(offset..offset.saturating_add(len), async move {
            let found = self.inner.read(offset, len as u32).await?;
            if let Some(at) = first_difference(&found, &expected) {
                return Ok(Compared::Differs { at });
            }
            self.inner.write(offset, data).await?;
            Ok(Compared::Written)
        })
    }

    fn or_write(&self, offset: u64, data: Vec<Bytes>) -> BlockFuture<'_, ()> {
        let len = total(&data);
        self.exclusive(offset..offset.saturating_add(len), async move {
            let found = self.inner.read(offset, len as u32).await?;
            let mut merged = BytesMut::with_capacity(len as usize);
            found.iter().for_each(|part| merged.extend_from_slice(part));
            let bits = data.iter().flatten();
            merged.iter_mut().zip(bits).for_each(|(byte, bits)| *byte |= bits);
            self.inner.write(offset, vec![merged.freeze()]).await
        })
    }

    fn write_atomic(&self, offset: u64, data: Vec<Bytes>) -> BlockFuture<'_, ()> {
        let range = offset..offset.saturating_add(total(&data));
        self.exclusive(range, async move { self.inner.write(offset, data).await })
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
        self.shared(offset, total(&data), async move { self.inner.write(offset, data).await })
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

    #[test]
    fn differences_are_found_across_parts() {
        let parts = |texts: &[&'static str]| texts.iter().map(|text| Bytes::from(*text)).collect::<Vec<_>>();
        for (left, right, at) in [
            (parts(&["abc", "def"]), parts(&["a", "bcde", "f"]), None),
            (parts(&["abc", "def"]), parts(&["a", "bcdX", "f"]), Some(4)),
            (parts(&["", "Xb"]), parts(&["ab"]), Some(0)),
            (parts(&[]), parts(&[]), None),
        ] {
            assert_eq!(first_difference(&left, &right), at);
        }
    }

    #[tokio::test]
    async fn of_many_that_compare_with_the_same_one_writes() {
        let device = Arc::new(MemoryDevice::new(1 << 20, 4096));
        let faulty = Arc::new(Faulty::new(device, 1, FaultRates::default()));
        for _ in 0..8 {
            faulty.fail_next(Operation::Read, Fault::Delay(std::time::Duration::from_millis(2)));
        }
        let blocks = LocalAtomics::new(faulty, 0);
        let tries = (1..=8).map(|byte| blocks.compare_and_write(0, page(0), page(byte)));
        let results = join_all(tries).await;
        let written = results.iter().filter(|result| **result == Ok(Compared::Written)).count();
        assert_eq!(written, 1, "{results:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_plain_write_waits_for_a_comparison_and_not_for_its_neighbours() {
        let device = Arc::new(MemoryDevice::new(1 << 20, 4096));
        let faulty = Arc::new(Faulty::new(device, 1, FaultRates::default()));
        faulty.fail_next(Operation::Read, Fault::Delay(std::time::Duration::from_secs(1)));
        let blocks = LocalAtomics::new(faulty, 0);
        let begin = tokio::time::Instant::now();
        let elapsed = |op: BlockFuture<'static, ()>| async move {
            op.await.expect("in range");
            begin.elapsed().as_secs()
        };
        let blocks: &'static LocalAtomics<_> = Box::leak(Box::new(blocks));
        let (compared, same, next) = tokio::join!(
            blocks.compare_and_write(0, page(0), page(1)),
            elapsed(blocks.write(0, page(2))),
            elapsed(blocks.write(4096, page(3))),
        );
        assert_eq!((compared, same, next), (Ok(Compared::Written), 1, 0));
        assert_eq!(blocks.read(0, 4096).await.expect("in range").concat(), page(2).concat());
    }

    #[tokio::test]
    async fn bits_are_added() {
        let blocks = LocalAtomics::new(Arc::new(MemoryDevice::new(1 << 20, 4096)), 0);
        blocks.write(0, page(0x0f)).await.expect("in range");
        blocks.or_write(0, page(0xa0)).await.expect("in range");
        assert_eq!(blocks.read(0, 4096).await.expect("in range").concat(), page(0xaf).concat());
    }
}
