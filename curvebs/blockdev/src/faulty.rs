//! A device that fails on purpose, for tests of what stands above it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::device::{BlockDevice, BlockError, BlockFuture, Compared, DeviceShape, Extent, ZeroMode};

/// The kinds of operation that can be made to fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// `read`
    Read,
    /// `write`
    Write,
    /// `flush`
    Flush,
    /// `discard` and `write_zeroes`
    Clear,
    /// `block_status`
    Status,
    /// `compare_and_write`
    Compare,
}

/// What goes wrong with one operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It is refused and has no effect.
    Refuse(BlockError),
    /// It takes effect, and its answer is lost: what a caller sees when a reply times out.
    LoseAnswer,
    /// It takes this much longer.
    Delay(Duration),
}

/// How often faults strike, each in operations per million.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FaultRates {
    /// Operations refused with [`BlockError::Io`].
    pub refuse_ppm: u32,
    /// Operations done, but answered with [`BlockError::TimedOut`].
    pub lose_answer_ppm: u32,
    /// Operations delayed.
    pub delay_ppm: u32,
    /// The longest delay.
    pub delay_max: Duration,
}

/// Injects faults: those queued with [`Faulty::fail_next`], then random ones at the given rates. The same seed and the
/// same order of calls give the same faults.
pub struct Faulty<D: ?Sized> {
    inner: Arc<D>,
    state: Mutex<State>,
}

struct State {
    rng: StdRng,
    rates: FaultRates,
    queued: Vec<(Operation, Fault)>,
}

impl State {
    fn next(&mut self, operation: Operation) -> Option<Fault> {
        if let Some(at) = self.queued.iter().position(|(wanted, _)| *wanted == operation) {
            return Some(self.queued.remove(at).1);
        }
        let FaultRates { refuse_ppm, lose_answer_ppm, delay_ppm, delay_max } = self.rates;
        let drawn = self.rng.random_range(0..1_000_000u32);
        if drawn < refuse_ppm {
            return Some(Fault::Refuse(BlockError::Io("injected".to_owned())));
        }
        if drawn - refuse_ppm < lose_answer_ppm {
            return Some(Fault::LoseAnswer);
        }
        if drawn - refuse_ppm - lose_answer_ppm < delay_ppm {
            return Some(Fault::Delay(delay_max.mul_f64(self.rng.random::<f64>())));
        }
        None
    }
}

impl<D: BlockDevice + ?Sized> Faulty<D> {
    /// Wraps `inner`. The rates must not add up to more than a million.
    pub fn new(inner: Arc<D>, seed: u64, rates: FaultRates) -> Self {
        let sum = u64::from(rates.refuse_ppm) + u64::from(rates.lose_answer_ppm) + u64::from(rates.delay_ppm);
        assert!(sum <= 1_000_000, "{rates:?} is more than every operation");
        let state = State { rng: StdRng::seed_from_u64(seed), rates, queued: Vec::new() };
        Self { inner, state: Mutex::new(state) }
    }

    /// Makes the next operation of a kind fail, after those queued before.
    pub fn fail_next(&self, operation: Operation, fault: Fault) {
        self.state.lock().expect("no panic under the lock").queued.push((operation, fault));
    }

    /// Changes the rates, for example to none once the faults of a test stop.
    pub fn set_rates(&self, rates: FaultRates) {
        self.state.lock().expect("no panic under the lock").rates = rates;
    }

    fn strike<'a, T: Send + 'a>(
        &'a self,
        operation: Operation,
        start: impl FnOnce(&'a D) -> BlockFuture<'a, T> + Send + 'a,
    ) -> BlockFuture<'a, T> {
        let fault = self.state.lock().expect("no panic under the lock").next(operation);
        Box::pin(async move {
            match fault {
                None => start(&self.inner).await,
                Some(Fault::Refuse(error)) => Err(error),
                Some(Fault::LoseAnswer) => {
                    start(&self.inner).await?;
                    Err(BlockError::TimedOut { seconds: 0 })
                }
                Some(Fault::Delay(delay)) => {
                    tokio::time::sleep(delay).await;
                    start(&self.inner).await
                }
            }
        })
    }
}

impl<D: BlockDevice + ?Sized> BlockDevice for Faulty<D> {
    fn shape(&self) -> DeviceShape {
        self.inner.shape()
    }

    fn read(&self, offset: u64, len: u32) -> BlockFuture<'_, Vec<Bytes>> {
        self.strike(Operation::Read, move |inner| inner.read(offset, len))
    }

    fn write(&self, offset: u64, data: Vec<Bytes>) -> BlockFuture<'_, ()> {
        self.strike(Operation::Write, move |inner| inner.write(offset, data))
    }

    fn flush(&self) -> BlockFuture<'_, ()> {
        self.strike(Operation::Flush, |inner| inner.flush())
    }

    fn discard(&self, offset: u64, len: u64) -> BlockFuture<'_, ()> {
        self.strike(Operation::Clear, move |inner| inner.discard(offset, len))
    }

    fn write_zeroes(&self, offset: u64, len: u64, mode: ZeroMode) -> BlockFuture<'_, ()> {
        self.strike(Operation::Clear, move |inner| inner.write_zeroes(offset, len, mode))
    }

    fn block_status(&self, offset: u64, len: u64) -> BlockFuture<'_, Vec<Extent>> {
        self.strike(Operation::Status, move |inner| inner.block_status(offset, len))
    }

    fn compare_and_write(
        &self,
        offset: u64,
        expected: Vec<Bytes>,
        data: Vec<Bytes>,
    ) -> BlockFuture<'_, Compared> {
        self.strike(Operation::Compare, move |inner| inner.compare_and_write(offset, expected, data))
    }

    fn close(&self) -> BlockFuture<'_, ()> {
        self.inner.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryDevice;

    fn device(seed: u64, rates: FaultRates) -> Faulty<MemoryDevice> {
        Faulty::new(Arc::new(MemoryDevice::new(1 << 20, 4096)), seed, rates)
    }

    #[tokio::test]
    async fn a_refused_write_has_no_effect_and_a_lost_answer_has() {
        let device = device(1, FaultRates::default());
        device.fail_next(Operation::Write, Fault::Refuse(BlockError::NoSpace));
        device.fail_next(Operation::Write, Fault::LoseAnswer);
        let page = |byte| vec![Bytes::from(vec![byte; 4096])];
        assert_eq!(device.write(0, page(1)).await, Err(BlockError::NoSpace));
        assert_eq!(device.read(0, 4096).await.expect("no fault").concat(), vec![0; 4096]);
        assert_eq!(device.write(0, page(2)).await, Err(BlockError::TimedOut { seconds: 0 }));
        assert_eq!(device.read(0, 4096).await.expect("no fault").concat(), vec![2; 4096]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_seed_gives_the_same_faults() {
        let rates = FaultRates {
            refuse_ppm: 200_000,
            lose_answer_ppm: 100_000,
            delay_ppm: 300_000,
            delay_max: Duration::from_millis(10),
        };
        let mut runs = Vec::new();
        for seed in [7, 7, 8] {
            let device = device(seed, rates);
            let mut answers = Vec::new();
            for _ in 0..200 {
                answers.push(device.read(0, 4096).await.is_ok());
            }
            runs.push(answers);
        }
        assert_eq!(runs[0], runs[1]);
        assert_ne!(runs[0], runs[2]);
        let failed = runs[0].iter().filter(|ok| !**ok).count();
        assert!((30..90).contains(&failed), "{failed} of 200 failed, 60 were to be expected");
    }

    #[tokio::test]
    async fn faults_stop_when_told() {
        let device = device(3, FaultRates { refuse_ppm: 1_000_000, ..FaultRates::default() });
        assert!(matches!(device.flush().await, Err(BlockError::Io(_))));
        device.set_rates(FaultRates::default());
        assert_eq!(device.flush().await, Ok(()));
    }
}
