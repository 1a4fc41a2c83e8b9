//! A unit's volume, which is opened anew when this gateway was shut out of it.

use std::sync::{Arc, RwLock};

use bytes::Bytes;
use curve_blockdev::{BlockDevice, BlockFuture, Compared, DeviceShape, Extent, ZeroMode};
use curve_client::Volume;

/// The volume as it was last opened. An operation stays with the opening that it began with.
pub struct Reopened(RwLock<Arc<Volume>>);

impl Reopened {
    /// Begins with an open volume.
    pub fn new(volume: Arc<Volume>) -> Self {
        Self(RwLock::new(volume))
    }

    /// Goes on with another opening of the same volume. What the former one had let in must be over.
    pub fn replace(&self, volume: Arc<Volume>) {
        *self.0.write().expect("no panic under the lock") = volume;
    }

    /// The present opening.
    pub fn volume(&self) -> Arc<Volume> {
        self.0.read().expect("no panic under the lock").clone()
    }
}

impl BlockDevice for Reopened {
    fn shape(&self) -> DeviceShape {
        self.volume().shape()
    }

    fn read(&self, offset: u64, len: u32) -> BlockFuture<'_, Vec<Bytes>> {
        let volume = self.volume();
        Box::pin(async move { volume.read(offset, len).await })
    }

    fn write(&self, offset: u64, data: Vec<Bytes>) -> BlockFuture<'_, ()> {
        let volume = self.volume();
        Box::pin(async move { volume.write(offset, data).await })
    }

    fn flush(&self) -> BlockFuture<'_, ()> {
        let volume = self.volume();
        Box::pin(async move { volume.flush().await })
    }

    fn discard(&self, offset: u64, len: u64) -> BlockFuture<'_, ()> {
        let volume = self.volume();
        Box::pin(async move { volume.discard(offset, len).await })
    }

    fn write_zeroes(&self, offset: u64, len: u64, mode: ZeroMode) -> BlockFuture<'_, ()> {
        let volume = self.volume();
        Box::pin(async move { volume.write_zeroes(offset, len, mode).await })
    }

    fn block_status(&self, offset: u64, len: u64) -> BlockFuture<'_, Vec<Extent>> {
        let volume = self.volume();
        Box::pin(async move { volume.block_status(offset, len).await })
    }

    fn compare_and_write(
        &self,
        offset: u64,
        expected: Vec<Bytes>,
        data: Vec<Bytes>,
    ) -> BlockFuture<'_, Compared> {
        let volume = self.volume();
        Box::pin(async move { volume.compare_and_write(offset, expected, data).await })
    }

    fn close(&self) -> BlockFuture<'_, ()> {
        let volume = self.volume();
        Box::pin(async move { volume.close().await })
    }
}
