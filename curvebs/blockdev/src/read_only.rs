//! A device that may only be read.

use std::sync::Arc;

use bytes::Bytes;

use crate::device::{BlockDevice, BlockError, BlockFuture, Compared, DeviceShape, Extent, ZeroMode};

/// Passes reads on and refuses whatever would change the device with [`BlockError::ReadOnly`].
pub struct ReadOnly<D: ?Sized> {
    inner: Arc<D>,
}

impl<D: BlockDevice + ?Sized> ReadOnly<D> {
    /// Wraps `inner`.
    pub fn new(inner: Arc<D>) -> Self {
        Self { inner }
    }
}

fn refused<'a, T: Send + 'a>() -> BlockFuture<'a, T> {
    Box::pin(std::future::ready(Err(BlockError::ReadOnly)))
}

impl<D: BlockDevice + ?Sized> BlockDevice for ReadOnly<D> {
    fn shape(&self) -> DeviceShape {
        DeviceShape { read_only: true, ..self.inner.shape() }
    }

    fn read(&self, offset: u64, len: u32) -> BlockFuture<'_, Vec<Bytes>> {
        self.inner.read(offset, len)
    }

    fn write(&self, _offset: u64, _data: Vec<Bytes>) -> BlockFuture<'_, ()> {
        refused()
    }

    fn flush(&self) -> BlockFuture<'_, ()> {
        self.inner.flush()
    }

    fn discard(&self, _offset: u64, _len: u64) -> BlockFuture<'_, ()> {
        refused()
    }

    fn write_zeroes(&self, _offset: u64, _len: u64, _mode: ZeroMode) -> BlockFuture<'_, ()> {
        refused()
    }

    fn compare_and_write(
        &self,
        _offset: u64,
        _expected: Vec<Bytes>,
        _data: Vec<Bytes>,
    ) -> BlockFuture<'_, Compared> {
        refused()
    }

    fn block_status(&self, offset: u64, len: u64) -> BlockFuture<'_, Vec<Extent>> {
        self.inner.block_status(offset, len)
    }

    fn close(&self) -> BlockFuture<'_, ()> {
        self.inner.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryDevice;

    #[tokio::test]
    async fn reads_pass_and_changes_are_refused() {
        let inner = Arc::new(MemoryDevice::new(1 << 20, 4096));
        inner.write(0, vec![Bytes::from(vec![9; 4096])]).await.expect("writable");
        let device = ReadOnly::new(inner.clone());
        assert!(device.shape().read_only);
        assert_eq!(device.read(0, 4096).await.expect("readable").concat(), vec![9; 4096]);
        assert_eq!(device.write(0, vec![Bytes::from(vec![1; 4096])]).await, Err(BlockError::ReadOnly));
        assert_eq!(device.discard(0, 4096).await, Err(BlockError::ReadOnly));
        assert_eq!(device.write_zeroes(0, 4096, ZeroMode::default()).await, Err(BlockError::ReadOnly));
        assert_eq!(device.flush().await, Ok(()));
        assert_eq!(inner.read(0, 4096).await.expect("readable").concat(), vec![9; 4096]);
    }
}
