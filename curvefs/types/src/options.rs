//! What a mount is told that changes what programs see.

use std::time::Duration;

/// Mount options with a meaning for `vfs`; those of the kernel adaptor (uid/gid map, subdirectory) are its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountOptions {
    /// Close-to-open: `open` compares the generation with the partition, `close` publishes what was written.
    pub close_to_open: bool,
    /// Nothing may be changed.
    pub read_only: bool,
    /// Access times are not kept.
    pub no_atime: bool,
    /// How long attributes of files may be believed.
    pub attr_timeout: Duration,
    /// How long attributes of directories may be believed.
    pub dir_attr_timeout: Duration,
    /// How long names may be believed.
    pub entry_timeout: Duration,
    /// How long it may be believed that a name is not there.
    pub negative_timeout: Duration,
    /// `soft`: I/O fails with EIO after this; `None` waits.
    pub soft_timeout: Option<Duration>,
    /// Files are made in directories of its own without asking (see `delegation`).
    pub delegate: bool,
    /// Directories that others made are asked for, too, if this mount works in them.
    pub adopt: bool,
    /// Bytes of written data that wait for the store.
    pub write_cache_bytes: u64,
    /// Bytes of data that was read.
    pub read_cache_bytes: u64,
    /// What has to be durable at once and is no more than this waits in the metadata for the store; 0 never.
    pub stage_bytes: u64,
}

impl Default for MountOptions {
    fn default() -> Self {
        let second = Duration::from_secs(1);
        Self {
            close_to_open: true,
            read_only: false,
            no_atime: false,
            attr_timeout: second,
            dir_attr_timeout: second,
            entry_timeout: second,
            negative_timeout: Duration::ZERO,
            soft_timeout: None,
            delegate: true,
            adopt: true,
            write_cache_bytes: 64 << 20,
            read_cache_bytes: 256 << 20,
            stage_bytes: 32 << 10,
        }
    }
}
