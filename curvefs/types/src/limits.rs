//! What names, attributes and requests may be at most.

/// Bytes of a file name.
pub const NAME_BYTES_MAX: usize = 255;
/// Bytes of a symbolic link's target.
pub const TARGET_BYTES_MAX: usize = 4095;
/// Bytes of an extended attribute's name, its namespace included.
pub const XATTR_NAME_BYTES_MAX: usize = 255;
/// Bytes of an extended attribute's value.
pub const XATTR_VALUE_BYTES_MAX: usize = 64 << 10;
/// Bytes of all names of one inode's extended attributes with a NUL each, which is what `listxattr` can return.
pub const XATTR_LIST_BYTES_MAX: usize = 64 << 10;
/// Hard links of a file, and sub-directories of a directory plus 2.
pub const LINKS_MAX: u32 = 1 << 20;
/// Length of a file: what a signed 64-bit offset can name.
pub const FILE_BYTES_MAX: u64 = i64::MAX as u64;
/// Bytes of a chunk: no stored extent crosses a border of one.
pub const CHUNK_BYTES: u64 = 64 << 20;
/// Bytes of a slice at most: one write of a file to the store.
pub const SLICE_BYTES_MAX: u32 = CHUNK_BYTES as u32;
/// Extents in one request.
pub const EXTENTS_PER_REQUEST_MAX: usize = 1024;
/// Bytes of a slice that can wait in a partition for the store.
pub const STAGED_SLICE_BYTES_MAX: u32 = 128 << 10;
/// Bytes of slices that one request can bring.
pub const STAGED_PER_REQUEST_MAX: usize = 256 << 10;
/// Bytes that may wait in a partition for the store, all together.
pub const STAGED_BYTES_MAX: u64 = 64 << 20;
/// Bytes of one `Allocate`.
pub const ALLOCATE_BYTES_MAX: u64 = EXTENTS_PER_REQUEST_MAX as u64 * CHUNK_BYTES;
/// Locks of one inode.
pub const LOCKS_PER_INODE_MAX: usize = 4096;
/// Entries of one page of a directory.
pub const ENTRIES_PER_PAGE_MAX: u32 = 4096;
/// Ancestors of a directory. The walk that looks for a cycle gives up there.
pub const DEPTH_MAX: usize = 4096;
/// Bytes of an encoded request: a frame's payload.
pub const REQUEST_BYTES_MAX: usize = 1 << 20;
/// Inodes in one `Close`.
pub const CLOSES_PER_REQUEST_MAX: usize = 4096;
/// New files in one `Publish`, and directories in it.
pub const BORN_PER_REQUEST_MAX: usize = 512;
/// Published names that one `Publish` moves or removes.
pub const MOVED_PER_REQUEST_MAX: usize = 512;
/// Directories of one partition that one mount has.
pub const DELEGATIONS_PER_MOUNT_MAX: usize = 256;
/// Names of a directory that a mount may say it knows when it asks for it.
pub const KNOWN_NAMES_MAX: usize = 64;
/// Inode numbers that a mount gets at once.
pub const RESERVED_AT_ONCE_MAX: u32 = 4096;
/// Ranges of numbers that a partition keeps for one mount.
pub const RESERVED_RANGES_MAX: usize = 32;

const _: () =
    assert!(XATTR_VALUE_BYTES_MAX * 4 < REQUEST_BYTES_MAX, "a new file's attributes fit its request");
const _: () =
    assert!(EXTENTS_PER_REQUEST_MAX * 128 + STAGED_PER_REQUEST_MAX < REQUEST_BYTES_MAX, "all extents fit");
const _: () = assert!(
    MOVED_PER_REQUEST_MAX * (2 * NAME_BYTES_MAX + 64) < REQUEST_BYTES_MAX / 3,
    "moved names leave room for new files"
);
