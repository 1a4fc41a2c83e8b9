//! A device slowed down to a rate.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::device::{BlockDevice, BlockFuture, Compared, DeviceShape, Extent, ZeroMode};

/// What a device may do per second. `None` means no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rate {
    /// Operations of any kind but flush.
    pub ops_per_second: Option<NonZeroU64>,
    /// Bytes read and written. Discards and zeroing move no bytes.
    pub bytes_per_second: Option<NonZeroU64>,
    /// How much unused time may be saved up and spent at once.
    pub burst: Duration,
}

/// Delays operations so that a [`Rate`] holds.
///
/// Each limit is a virtual clock (the generic cell rate algorithm): an operation moves the clock on by what it costs and
/// starts when the clock says; an idle clock falls at most `burst` behind. So waiting operations start in the order of
/// their arrival, a large one delays those behind it and not itself, and the state is one instant per limit.
pub struct Throttled<D: ?Sized> {
    inner: Arc<D>,
    rate: Rate,
    clocks: Mutex<Clocks>,
}

struct Clocks {
    ops: Instant,
    bytes: Instant,
}

impl<D: BlockDevice + ?Sized> Throttled<D> {
    /// Wraps `inner`. Must be called on a tokio runtime.
    pub fn new(inner: Arc<D>, rate: Rate) -> Self {
        let now = Instant::now();
        Self { inner, rate, clocks: Mutex::new(Clocks { ops: now, bytes: now }) }
    }

    /// Completes when an operation of `bytes` may start.
    async fn admit(&self, bytes: u64) {
        let start = self.reserve(bytes, Instant::now());
        tokio::time::sleep_until(start).await;
    }

    fn reserve(&self, bytes: u64, now: Instant) -> Instant {
        let mut clocks = self.clocks.lock().expect("no panic under the lock");
        let Rate { ops_per_second, bytes_per_second, burst } = self.rate;
        let ops = advance(&mut clocks.ops, ops_per_second, 1, burst, now);
        let bytes = advance(&mut clocks.bytes, bytes_per_second, bytes, burst, now);
        ops.max(bytes)
    }
}

fn advance(
    clock: &mut Instant,
    per_second: Option<NonZeroU64>,
    cost: u64,
    burst: Duration,
    now: Instant,
) -> Instant {
    let Some(per_second) = per_second else { return now };
    let start = (*clock).max(now.checked_sub(burst).unwrap_or(now));
    *clock = start + Duration::from_secs_f64(cost as f64 / per_second.get() as f64);
    start
}

impl<D: BlockDevice + ?Sized> BlockDevice for Throttled<D> {
    fn shape(&self) -> DeviceShape {
        self.inner.shape()
    }

    fn read(&self, offset: u64, len: u32) -> BlockFuture<'_, Vec<Bytes>> {
        Box::pin(async move {
            self.admit(u64::from(len)).await;
            self.inner.read(offset, len).await
        })
    }

    fn write(&self, offset: u64, data: Vec<Bytes>) -> BlockFuture<'_, ()> {
        Box::pin(async move {
            self.admit(data.iter().map(|part| part.len() as u64).sum()).await;
            self.inner.write(offset, data).await
        })
    }

    fn flush(&self) -> BlockFuture<'_, ()> {
        self.inner.flush()
    }

    fn discard(&self, offset: u64, len: u64) -> BlockFuture<'_, ()> {
        Box::pin(async move {
            self.admit(0).await;
            self.inner.discard(offset, len).await
        })
    }

    fn write_zeroes(&self, offset: u64, len: u64, mode: ZeroMode) -> BlockFuture<'_, ()> {
        Box::pin(async move {
            self.admit(0).await;
            self.inner.write_zeroes(offset, len, mode).await
        })
    }

    fn block_status(&self, offset: u64, len: u64) -> BlockFuture<'_, Vec<Extent>> {
        Box::pin(async move {
            self.admit(0).await;
            self.inner.block_status(offset, len).await
        })
    }

    fn compare_and_write(
        &self,
        offset: u64,
        expected: Vec<Bytes>,
        data: Vec<Bytes>,
    ) -> BlockFuture<'_, Compared> {
        Box::pin(async move {
            self.admit(expected.iter().chain(&data).map(|part| part.len() as u64).sum()).await;
            self.inner.compare_and_write(offset, expected, data).await
        })
    }

    fn close(&self) -> BlockFuture<'_, ()> {
        self.inner.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryDevice;

    fn device(rate: Rate) -> Throttled<MemoryDevice> {
        Throttled::new(Arc::new(MemoryDevice::new(1 << 20, 4096)), rate)
    }

    #[tokio::test(start_paused = true)]
    async fn operations_are_spread_over_time() {
        let device = device(Rate { ops_per_second: NonZeroU64::new(100), ..Rate::default() });
        let begin = Instant::now();
        for _ in 0..11 {
            device.read(0, 4096).await.expect("in range");
        }
        // The first starts at once, each other 10 ms after the one before.
        let took = begin.elapsed();
        assert!((Duration::from_millis(100)..Duration::from_millis(112)).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_count_in_both_directions_and_a_burst_is_free() {
        let rate = Rate {
            bytes_per_second: NonZeroU64::new(40960),
            burst: Duration::from_secs(1),
            ..Rate::default()
        };
        let device = device(rate);
        tokio::time::advance(Duration::from_secs(60)).await;
        let begin = Instant::now();
        for _ in 0..5 {
            device.read(0, 4096).await.expect("in range");
            device.write(0, vec![Bytes::from(vec![1; 4096])]).await.expect("in range");
        }
        assert!(
            begin.elapsed() < Duration::from_millis(5),
            "one second of budget was saved: {:?}",
            begin.elapsed()
        );
        device.read(0, 40960).await.expect("in range");
        device.read(0, 4096).await.expect("in range");
        assert!(begin.elapsed() >= Duration::from_millis(990), "{:?}", begin.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn flushes_and_an_empty_rate_are_free() {
        let device = device(Rate::default());
        let begin = Instant::now();
        for _ in 0..1000 {
            device.read(0, 4096).await.expect("in range");
            device.flush().await.expect("open");
        }
        assert!(begin.elapsed() < Duration::from_millis(5));
    }
}
