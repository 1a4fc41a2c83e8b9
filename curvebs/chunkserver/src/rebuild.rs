//! Giving up what is on a disk, so that it is filled again from the other replicas.

use std::io;
use std::path::{Path, PathBuf};

use curve_io::Disk;

/// The subdirectory of the shared log.
pub const LOG_DIR: &str = "log";
/// The subdirectory of the chunk store.
pub const STORE_DIR: &str = "store";

/// Moves identity, log and chunks into a new subdirectory of `dir` and returns it. The chunkserver must not run.
pub async fn set_aside(disk: &dyn Disk, dir: &Path) -> io::Result<PathBuf> {
    curve_node::set_aside(disk, dir, &[LOG_DIR, STORE_DIR]).await
}
