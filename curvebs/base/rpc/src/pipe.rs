//! A connection's socket with its decoder and outbox: what client and server connections have in common.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::ready;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::decoder::{Decoder, Frame};
use crate::format::FrameError;
use crate::outbox::{Outbox, SLICES_MAX};
use crate::stats::{Counters, count};
use crate::stream::Stream;

/// Blocks of small frames that are read before their replies are written.
const READS_MAX: u64 = 4;

/// Why a connection cannot go on.
#[derive(Debug, Error)]
pub(crate) enum PipeError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Rule(&'static str),
    #[error("closed by the other side")]
    Closed,
    #[error("nothing heard from it for {0} ms")]
    Silent(u128),
}

/// Reads frames from a socket and writes frames to it; decides nothing.
#[derive(Debug)]
pub(crate) struct Pipe {
    stream: Stream,
    decoder: Decoder,
    pub(crate) outbox: Outbox,
    /// Written bytes may still be inside the TLS layer.
    unflushed: bool,
    counters: Arc<Counters>,
}

impl Pipe {
    pub(crate) fn new(stream: Stream, counters: Arc<Counters>) -> Self {
        Self { stream, decoder: Decoder::new(), outbox: Outbox::default(), unflushed: false, counters }
    }

    /// Reads and appends the frames that are complete now. Ready when something was read, be it part of a frame.
    ///
    /// Goes on while small frames fill block after block, so that their replies leave in one write too.
    pub(crate) fn poll_frames(
        &mut self,
        cx: &mut Context<'_>,
        frames: &mut Vec<Frame>,
    ) -> Poll<Result<(), PipeError>> {
        let mut reads = 0;
        while reads < READS_MAX {
            let stream = &mut self.stream;
            let filled = match self.decoder.fill(|buf| Pin::new(stream).poll_read(cx, buf)) {
                Poll::Ready(filled) => filled?,
                Poll::Pending if reads == 0 => return Poll::Pending,
                Poll::Pending => break,
            };
            if filled.bytes == 0 {
                return Poll::Ready(Err(PipeError::Closed));
            }
            reads += 1;
            count(&self.counters.bytes_received, filled.bytes as u64);
            while let Some(frame) = self.decoder.next_frame()? {
                frames.push(frame);
            }
            if !filled.is_block_full {
                break;
            }
        }
        count(&self.counters.socket_reads, reads);
        Poll::Ready(Ok(()))
    }

    /// Writes the outbox; ready when all of it is in the kernel.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PipeError>> {
        while !self.outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let used = self.outbox.slices(&mut slices);
            let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..used]))?;
            if written == 0 {
                return Poll::Ready(Err(PipeError::Closed));
            }
            self.outbox.advance(written);
            self.unflushed = true;
            count(&self.counters.socket_writes, 1);
            count(&self.counters.bytes_sent, written as u64);
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Tells the other side that nothing more will be sent.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
