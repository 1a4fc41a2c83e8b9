//! One open volume, and what is in flight on it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use curve_blockdev::{BlockDevice, BlockError};
use curve_client::mds::OpenMode;
use curve_client::{Cluster, OpenOptions, Volume};
use tokio::sync::OnceCell;

use crate::code::Code;

/// One I/O.
#[derive(Debug)]
pub enum Request {
    /// Reads.
    Read {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u32,
    },
    /// Writes.
    Write {
        /// First byte.
        offset: u64,
        /// What.
        data: Bytes,
    },
    /// Gives a range back.
    Discard {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
}

/// How an I/O ended: the bytes that were read, nothing for others.
pub type Outcome = Result<Vec<Bytes>, Code>;

#[derive(Default)]
struct Flights {
    /// I/Os that the volume has not answered.
    unanswered: usize,
    /// Answered ones whose callback has not returned.
    undelivered: usize,
}

/// How a file goes on reading once somebody has shut it out.
///
/// Programs written for the original open a shared volume in the same way on the node that writes and on those that only
/// read (PolarFS does), and the original's fence refuses writes only. So a file that was opened beside other writers
/// opens the volume anew when a read meets the fence, as a reader, whom nobody shuts out. It still cannot write.
struct AfterFence {
    cluster: Arc<Cluster>,
    options: OpenOptions,
    reader: OnceCell<Arc<Volume>>,
}

/// An open volume. It is given up once nothing of it is in flight.
pub struct File {
    /// Whose it is.
    pub client: i32,
    /// The path that it was opened by.
    pub path: String,
    /// The volume.
    pub volume: Arc<Volume>,
    after_fence: Option<AfterFence>,
    flights: Mutex<Flights>,
    landed: Condvar,
}

impl File {
    /// Wraps a volume of `cluster` that was opened with `options`.
    pub fn new(
        client: i32,
        path: String,
        volume: Arc<Volume>,
        cluster: Arc<Cluster>,
        options: OpenOptions,
    ) -> Self {
        let after_fence = (options.mode == OpenMode::Shared).then(|| AfterFence {
            cluster,
            options: OpenOptions { mode: OpenMode::ReadOnly, takeover: false, ..options },
            reader: OnceCell::new(),
        });
        Self { client, path, volume, after_fence, flights: Mutex::default(), landed: Condvar::new() }
    }

    /// Gives the volume up.
    pub async fn close(&self) -> Result<(), Code> {
        let closed = self.volume.close().await;
        if let Some(reader) = self.after_fence.as_ref().and_then(|after| after.reader.get()) {
            reader.close().await?;
        }
        Ok(closed?)
    }

    async fn read(&self, offset: u64, len: u32) -> Result<Vec<Bytes>, Code> {
        match (self.volume.read(offset, len).await, &self.after_fence) {
            (Err(BlockError::Fenced), Some(after)) => Ok(self.reader(after).await?.read(offset, len).await?),
            (read, _) => Ok(read?),
        }
    }

    /// The same volume, to read from.
    async fn reader<'a>(&'a self, after: &'a AfterFence) -> Result<&'a Arc<Volume>, Code> {
        let open = async || {
            let reader = after.cluster.open(&self.path, after.options).await?;
            if reader.id() == self.volume.id() {
                return Ok(reader);
            }
            // Another volume has the name now.
            reader.close().await?;
            Err(Code::EpochTooOld)
        };
        after.reader.get_or_try_init(open).await
    }

    fn flights(&self) -> MutexGuard<'_, Flights> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an I/O as in flight until the returned value is dropped.
    pub fn begin(self: &Arc<Self>) -> Flight {
        self.flights().unanswered += 1;
        Flight { file: Arc::clone(self), answered: false }
    }

    /// Waits until nothing is in flight. A callback that asks does not wait for callbacks, itself among them.
    pub fn wait(&self, in_callback: bool) {
        let busy = |flights: &mut Flights| flights.unanswered > 0 || !in_callback && flights.undelivered > 0;
        let waited = self.landed.wait_while(self.flights(), busy);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether a range could be one of this file's; the volume itself knows its size.
    pub fn check(&self, request: &Request) -> Result<(), Code> {
        let (offset, len) = match request {
            Request::Read { offset, len } => (*offset, u64::from(*len)),
            Request::Write { offset, data } => (*offset, data.len() as u64),
            Request::Discard { offset, len } => (*offset, *len),
        };
        let block = u64::from(self.volume.shape().block_min);
        if offset % block != 0 || len % block != 0 { Err(Code::NotAligned) } else { Ok(()) }
    }

    /// Does an I/O, in parts that the volume takes.
    pub async fn run(&self, request: Request) -> Outcome {
        let part = self.volume.shape().request_max;
        let mut parts = Vec::new();
        match request {
            Request::Read { mut offset, mut len } => {
                while len > 0 {
                    let now = len.min(part);
                    parts.extend(self.read(offset, now).await?);
                    offset += u64::from(now);
                    len -= now;
                }
            }
            Request::Write { mut offset, mut data } => {
                while !data.is_empty() {
                    let now = data.split_to(data.len().min(part as usize));
                    let len = now.len() as u64;
                    self.volume.write(offset, vec![now]).await?;
                    offset += len;
                }
            }
            Request::Discard { offset, len } => self.volume.discard(offset, len).await?,
        }
        Ok(parts)
    }
}

/// An I/O in flight.
pub struct Flight {
    file: Arc<File>,
    answered: bool,
}

impl Flight {
    /// The volume has answered; its callback is still to be called.
    pub fn answered(&mut self) {
        if !self.answered {
            self.answered = true;
            let mut flights = self.file.flights();
            flights.unanswered -= 1;
            flights.undelivered += 1;
            drop(flights);
            self.file.landed.notify_all();
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut flights = self.file.flights();
        if self.answered {
            flights.undelivered -= 1;
        } else {
            flights.unanswered -= 1;
        }
        drop(flights);
        self.file.landed.notify_all();
    }
}
