//! A device that lets nothing pass until it is told to.

use std::sync::Arc;

use bytes::Bytes;
use curve_blockdev::{BlockDevice, BlockFuture, Compared, DeviceShape, Extent, ZeroMode};
use tokio::sync::watch;

/// Writes wait until the gate is open; everything else passes.
pub struct Gated {
    inner: Arc<dyn BlockDevice>,
    open: watch::Sender<bool>,
    /// Writes that have arrived.
    arrived: watch::Sender<u32>,
}

impl Gated {
    /// A closed gate before `inner`.
    pub fn new(inner: Arc<dyn BlockDevice>) -> Arc<Self> {
        Arc::new(Self { inner, open: watch::channel(false).0, arrived: watch::channel(0).0 })
    }

    /// Lets everything pass, now and later.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Waits until so many writes have arrived.
    pub async fn arrived(&self, count: u32) {
        self.arrived.subscribe().wait_for(|arrived| *arrived >= count).await.expect("the gate is there");
    }
}

impl BlockDevice for Gated {
    fn shape(&self) -> DeviceShape {
        self.inner.shape()
    }

    fn read(&self, offset: u64, len: u32) -> BlockFuture<'_, Vec<Bytes>> {
        self.inner.read(offset, len)
    }

    fn write(&self, offset: u64, data: Vec<Bytes>) -> BlockFuture<'_, ()> {
        Box::pin(async move {
            self.arrived.send_modify(|arrived| *arrived += 1);
            self.open.subscribe().wait_for(|open| *open).await.expect("the gate is there");
            self.inner.write(offset, data).await
        })
    }

    fn flush(&self) -> BlockFuture<'_, ()> {
        self.inner.flush()
    }

    fn discard(&self, offset: u64, len: u64) -> BlockFuture<'_, ()> {
        self.inner.discard(offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, mode: ZeroMode) -> BlockFuture<'_, ()> {
        self.inner.write_zeroes(offset, len, mode)
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
        self.inner.compare_and_write(offset, expected, data)
    }

    fn close(&self) -> BlockFuture<'_, ()> {
        self.inner.close()
    }
}
