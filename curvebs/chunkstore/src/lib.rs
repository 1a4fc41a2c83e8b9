//! Chunk files on one disk: format, pool, checksums, recovery.
