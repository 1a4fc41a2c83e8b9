//! A device whose operations are counted and timed.

use std::sync::Arc;

use bytes::Bytes;
use metrics::{Counter, Gauge, Histogram, Label, counter, gauge, histogram};
use tokio::time::Instant;

use crate::device::{BlockDevice, BlockError, BlockFuture, Compared, DeviceShape, Extent, ZeroMode};

/// Counts and times every operation, under a label that names the device.
///
/// | metric | type | labels |
/// |---|---|---|
/// | `curve_block_seconds` | histogram, seconds | `device`, `op` |
/// | `curve_block_bytes_total` | counter, bytes | `device`, `op` (`read`, `write`) |
/// | `curve_block_errors_total` | counter | `device`, `op`, `error` |
/// | `curve_block_inflight` | gauge | `device` |
///
/// The handles are looked up once, so an operation costs two readings of the clock and a few atomic additions.
pub struct Traced<D: ?Sized> {
    inner: Arc<D>,
    device: String,
    inflight: Gauge,
    read: Meter,
    write: Meter,
    flush: Meter,
    discard: Meter,
    write_zeroes: Meter,
    block_status: Meter,
    compare_and_write: Meter,
}

struct Meter {
    op: &'static str,
    seconds: Histogram,
    bytes: Counter,
}

/// Takes an operation out of the gauge when it ends, also when it is dropped halfway.
struct Inflight<'a>(&'a Gauge);

impl Drop for Inflight<'_> {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

impl<D: BlockDevice + ?Sized> Traced<D> {
    /// Wraps `inner`; `device` becomes the label.
    pub fn new(inner: Arc<D>, device: &str) -> Self {
        let meter = |op: &'static str| {
            let labels = vec![Label::new("device", device.to_owned()), Label::new("op", op)];
            let seconds = histogram!("curve_block_seconds", labels.clone());
            // Only reads and writes move bytes; the others need no series that stays 0.
            let moves = matches!(op, "read" | "write");
            let bytes = if moves { counter!("curve_block_bytes_total", labels) } else { Counter::noop() };
            Meter { op, seconds, bytes }
        };
        Self {
            inner,
            device: device.to_owned(),
            inflight: gauge!("curve_block_inflight", "device" => device.to_owned()),
            read: meter("read"),
            write: meter("write"),
            flush: meter("flush"),
            discard: meter("discard"),
            write_zeroes: meter("write_zeroes"),
            block_status: meter("block_status"),
            compare_and_write: meter("compare_and_write"),
        }
    }

    fn timed<'a, T: Send + 'a>(
        &'a self,
        meter: &'a Meter,
        len: u64,
        op: BlockFuture<'a, T>,
    ) -> BlockFuture<'a, T> {
        Box::pin(async move {
            self.inflight.increment(1.0);
            let _inflight = Inflight(&self.inflight);
            let begin = Instant::now();
            let result = op.await;
            meter.seconds.record(begin.elapsed().as_secs_f64());
            match &result {
                Ok(_) => meter.bytes.increment(len),
                Err(error) => self.count_error(meter.op, error),
            }
            result
        })
    }

    fn count_error(&self, op: &'static str, error: &BlockError) {
        let labels = vec![
            Label::new("device", self.device.clone()),
            Label::new("op", op),
            Label::new("error", error_name(error)),
        ];
        counter!("curve_block_errors_total", labels).increment(1);
    }
}

fn error_name(error: &BlockError) -> &'static str {
    match error {
        BlockError::BadRange { .. } => "bad_range",
        BlockError::ReadOnly => "read_only",
        BlockError::NoSpace => "no_space",
        BlockError::Fenced => "fenced",
        BlockError::TimedOut { .. } => "timed_out",
        BlockError::Corrupt { .. } => "corrupt",
        BlockError::Unsupported(_) => "unsupported",
        BlockError::Closed => "closed",
        BlockError::Io(_) => "io",
    }
}

impl<D: BlockDevice + ?Sized> BlockDevice for Traced<D> {
    fn shape(&self) -> DeviceShape {
        self.inner.shape()
    }

    fn read(&self, offset: u64, len: u32) -> BlockFuture<'_, Vec<Bytes>> {
        self.timed(&self.read, u64::from(len), self.inner.read(offset, len))
    }

    fn write(&self, offset: u64, data: Vec<Bytes>) -> BlockFuture<'_, ()> {
        let len = data.iter().map(|part| part.len() as u64).sum();
        self.timed(&self.write, len, self.inner.write(offset, data))
    }

    fn flush(&self) -> BlockFuture<'_, ()> {
        self.timed(&self.flush, 0, self.inner.flush())
    }

    fn discard(&self, offset: u64, len: u64) -> BlockFuture<'_, ()> {
        self.timed(&self.discard, 0, self.inner.discard(offset, len))
    }

    fn write_zeroes(&self, offset: u64, len: u64, mode: ZeroMode) -> BlockFuture<'_, ()> {
        self.timed(&self.write_zeroes, 0, self.inner.write_zeroes(offset, len, mode))
    }

    fn block_status(&self, offset: u64, len: u64) -> BlockFuture<'_, Vec<Extent>> {
        self.timed(&self.block_status, 0, self.inner.block_status(offset, len))
    }

    fn compare_and_write(
        &self,
        offset: u64,
        expected: Vec<Bytes>,
        data: Vec<Bytes>,
    ) -> BlockFuture<'_, Compared> {
        self.timed(&self.compare_and_write, 0, self.inner.compare_and_write(offset, expected, data))
    }

    fn close(&self) -> BlockFuture<'_, ()> {
        self.inner.close()
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use crate::MemoryDevice;

    #[test]
    fn operations_bytes_and_errors_are_counted_by_name() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            let device = Traced::new(Arc::new(MemoryDevice::new(1 << 20, 4096)), "/demo");
            let ops = async {
                device.write(0, vec![Bytes::from(vec![1; 8192])]).await.expect("in range");
                device.read(0, 4096).await.expect("in range");
                drop(device.read(0, 4096));
                device.read(1, 1).await.expect_err("unaligned");
            };
            tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(ops);
        });
        let text = handle.render();
        for line in [
            r#"curve_block_bytes_total{device="/demo",op="write"} 8192"#,
            r#"curve_block_bytes_total{device="/demo",op="read"} 4096"#,
            r#"curve_block_errors_total{device="/demo",op="read",error="bad_range"} 1"#,
            r#"curve_block_inflight{device="/demo"} 0"#,
            r#"curve_block_seconds_count{device="/demo",op="read"} 2"#,
        ] {
            assert!(text.contains(line), "no `{line}` in\n{text}");
        }
    }
}
