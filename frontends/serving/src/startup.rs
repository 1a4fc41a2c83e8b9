//! How a daemon starts and how it is told to end.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use curve_blockdev::{BlockDevice, MemoryDevice};
use curve_types::ByteSize;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::warn;

use crate::BlockSize;

/// How long what is in flight may take once a daemon is told to stop.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// File descriptors for everything but clients: listeners, a small cluster, logs.
const DESCRIPTORS_OWN: u64 = 128;
/// File descriptors below which a daemon is not worth starting.
const DESCRIPTORS_MIN: u64 = DESCRIPTORS_OWN + 64;

/// Why a daemon cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The log filter or its like.
    #[error(transparent)]
    Logging(#[from] curve_telemetry::LoggingError),
    /// The system refuses something basic.
    #[error("{what}: {cause}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        cause: io::Error,
    },
    /// The limit on open files is too low.
    #[error(
        "only {0} files may be open, {DESCRIPTORS_MIN} are needed; raise the limit with `ulimit -n 65536`"
    )]
    Descriptors(u64),
    /// The size of a memory device is odd.
    #[error("a memory device of {size} is empty or no multiple of {block} bytes; change --memory")]
    MemorySize {
        /// What was asked for.
        size: ByteSize,
        /// What it should be a multiple of.
        block: u32,
    },
}

impl StartError {
    /// Names what was tried.
    pub fn system(what: &'static str) -> impl Fn(io::Error) -> Self + Copy {
        move |cause| Self::System { what, cause }
    }
}

/// A runtime for a daemon: one thread runs everything without waking another.
pub fn runtime(threads: NonZeroUsize) -> Result<Runtime, StartError> {
    let mut builder = match threads.get() {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    let runtime = builder.worker_threads(threads.get()).enable_all().build();
    runtime.map_err(StartError::system("cannot start the runtime"))
}

/// Every connection, to clients and to servers, takes a descriptor: takes as many as the system lets us have, and gives
/// the number of clients that leaves room for; `None` if there is no limit.
pub fn raise_descriptor_limit() -> Result<Option<usize>, StartError> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let Some(maximum) = maximum else { return Ok(None) };
    if maximum < DESCRIPTORS_MIN {
        return Err(StartError::Descriptors(maximum));
    }
    let raised = Rlimit { current: Some(maximum), maximum: Some(maximum) };
    let limit = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(error) => {
            warn!(%error, "the limit on open files stays as it is");
            current.unwrap_or(maximum).max(DESCRIPTORS_MIN)
        }
    };
    Ok(Some(usize::try_from(limit - DESCRIPTORS_OWN).unwrap_or(usize::MAX)))
}

/// The signals that end a daemon. What comes before anybody waits is not lost.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Handles them from now on.
    pub fn new() -> Result<Self, StartError> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())
                .map_err(StartError::system("cannot handle SIGTERM"))?,
            interrupt: signal(SignalKind::interrupt()).map_err(StartError::system("cannot handle SIGINT"))?,
        })
    }

    /// Waits for one and gives its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// An empty device in memory, to measure a frontend alone.
pub fn memory_device(size: ByteSize, block: BlockSize) -> Result<Arc<dyn BlockDevice>, StartError> {
    let block = block.bytes();
    if size.0 == 0 || !size.0.is_multiple_of(u64::from(block)) {
        return Err(StartError::MemorySize { size, block });
    }
    Ok(Arc::new(MemoryDevice::new(size.0, block)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_device_is_whole_blocks() {
        for (size, block, good) in [
            (8 << 20, BlockSize::Block, true),
            (0, BlockSize::Block, false),
            (4096 + 512, BlockSize::Block, false),
            (4096 + 512, BlockSize::Sector, true),
        ] {
            assert_eq!(memory_device(ByteSize(size), block).is_ok(), good, "{size}");
        }
    }
}
