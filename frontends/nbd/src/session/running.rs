//! A request that a device is working on.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use curve_blockdev::{BlockDevice, BlockError, BlockFuture, Extent};
use tracing::debug;

use crate::core::{Command, Errno, Outbox, ReplyEncoder, ReplyHead, Request};

/// A request in flight. It holds the device's own future and nothing else on the heap.
pub(super) struct Running<'a> {
    head: ReplyHead,
    bytes: u64,
    work: Work<'a>,
}

enum Work<'a> {
    Read { len: u32, may_fragment: bool, future: BlockFuture<'a, Vec<Bytes>> },
    Change { future: BlockFuture<'a, ()> },
    Status { one: bool, future: BlockFuture<'a, Vec<Extent>> },
    Nothing,
}

/// A request that a device is done with.
pub(super) struct Finished {
    head: ReplyHead,
    /// Payload bytes that the request held in flight.
    pub(super) bytes: u64,
    result: Result<Outcome, BlockError>,
}

enum Outcome {
    Read { parts: Vec<Bytes>, len: u32, may_fragment: bool },
    Status { extents: Vec<Extent>, one: bool },
    Done,
}

impl<'a> Running<'a> {
    /// Hands a request to the device.
    pub(super) fn start(device: &'a dyn BlockDevice, request: Request) -> Self {
        let mut bytes = 0;
        let work = match request.command {
            Command::Read { offset, len, may_fragment } => {
                bytes = u64::from(len);
                Work::Read { len, may_fragment, future: device.read(offset, len) }
            }
            Command::Write { offset, data } => {
                bytes = data.len() as u64;
                Work::Change { future: device.write(offset, vec![data]) }
            }
            Command::Flush => Work::Change { future: device.flush() },
            Command::Trim { offset, len, fua } => {
                Work::Change { future: then_flush(device, device.discard(offset, len), fua) }
            }
            Command::WriteZeroes { offset, len, mode, fua } => {
                Work::Change { future: then_flush(device, device.write_zeroes(offset, len, mode), fua) }
            }
            Command::BlockStatus { offset, len, one } => {
                Work::Status { one, future: device.block_status(offset, len) }
            }
            Command::Nothing => Work::Nothing,
        };
        Self { head: request.head, bytes, work }
    }

    /// Payload bytes that this holds.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

fn then_flush<'a>(
    device: &'a dyn BlockDevice,
    change: BlockFuture<'a, ()>,
    fua: bool,
) -> BlockFuture<'a, ()> {
    if !fua {
        return change;
    }
    Box::pin(async move {
        change.await?;
        device.flush().await
    })
}

impl Future for Running<'_> {
    type Output = Finished;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Finished> {
        let this = &mut *self;
        let result = match &mut this.work {
            Work::Read { len, may_fragment, future } => {
                let (len, may_fragment) = (*len, *may_fragment);
                ready!(future.as_mut().poll(cx)).map(|parts| Outcome::Read { parts, len, may_fragment })
            }
            Work::Change { future } => ready!(future.as_mut().poll(cx)).map(|()| Outcome::Done),
            Work::Status { one, future } => {
                let one = *one;
                ready!(future.as_mut().poll(cx)).map(|extents| Outcome::Status { extents, one })
            }
            Work::Nothing => Ok(Outcome::Done),
        };
        Poll::Ready(Finished { head: this.head, bytes: this.bytes, result })
    }
}

impl Finished {
    /// Encodes the reply.
    pub(super) fn reply(self, encoder: ReplyEncoder, out: &mut Outbox) {
        let head = self.head;
        match self.result {
            Ok(Outcome::Done) => encoder.done(out, head),
            Ok(Outcome::Read { parts, len, may_fragment }) if total(&parts) == u64::from(len) => {
                encoder.read(out, head, parts, may_fragment);
            }
            Ok(Outcome::Status { extents, one }) if !extents.is_empty() => {
                encoder.status(out, head, &extents, one)
            }
            // Sending this on would break the framing for every later reply.
            Ok(Outcome::Read { .. } | Outcome::Status { .. }) => {
                debug_assert!(false, "the device gave too little or too much");
                encoder.error(out, head, Errno::Io, "the device gave too little or too much");
            }
            Err(error) => {
                debug!(cookie = head.cookie, offset = head.offset, %error, "a request failed");
                encoder.error(out, head, Errno::from(&error), &error.to_string());
            }
        }
    }
}

fn total(parts: &[Bytes]) -> u64 {
    parts.iter().map(|part| part.len() as u64).sum()
}
