//! The shared per-disk log: format, segments, group commit, recovery.
