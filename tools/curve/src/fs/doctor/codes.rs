//! Codes of findings about mounts and file systems. Stable: scripts match on them.

/// Each with its meaning, for `curve explain`. A code that ends in `_OK` says that nothing is wrong there.
pub(crate) const CODES: [(&str, &str); 28] = [
    ("MOUNT_DEAD", "The mount's process is gone; programs get ENOTCONN. Unmount it, and mount again."),
    (
        "MOUNT_HUNG",
        "The mount's process does not answer at all: it is stopped, or its machine has nothing left for it.",
    ),
    (
        "MOUNT_FENCED",
        "The mount was shut out: every access is an I/O error. Stop its programs, unmount, mount again.",
    ),
    ("MOUNT_ENDING", "The mount is being unmounted."),
    (
        "MOUNT_LAPSED",
        "The lease of a mount has run out: its host does not reach the MDSs. It will be shut out.",
    ),
    (
        "LEASE_OLD",
        "The mount's lease was not refreshed for more than half of it. It goes on; an MDS may end it later.",
    ),
    ("MDS_UNREACHABLE", "No MDS answers. Mounts go on; new ones, and changes of file systems, fail."),
    ("MDS_SLOW", "The MDSs answer late: an election, or too much load."),
    ("PARTITION_UNREACHABLE", "A partition's leader does not answer: what needs the partition waits."),
    ("PARTITION_SLOW", "A partition's leader answers late: every change there takes as long."),
    ("PARTITION_DEGRADED", "A partition lacks a replica. It works; one more failure may stop it."),
    ("BUCKET_MISSING", "The bucket does not exist any more, or the endpoint is another store's."),
    ("STORE_CREDENTIALS", "The store refuses the keys: `curve fs set-keys` gives others."),
    ("STORE_UNREACHABLE", "The store does not answer: reads of what is not cached and `fsync` wait."),
    ("STORE_SLOW", "The store answers, too late for a file system."),
    ("STORE_BUSY", "The store answers that it is busy, or has failed."),
    ("STORE_TIMED_OUT", "The store did not do what it was asked in the time that was given."),
    ("STORE_FULL", "The store has no room left."),
    ("STORE_REFUSED", "The store does something else than S3 asks for."),
    ("OBJECT_MISSING", "An object that was just put is not there."),
    ("OBJECT_DAMAGED", "The store gives other bytes than were put."),
    (
        "CLOCK_SKEW",
        "The clocks of two machines differ: times of files are odd, and stores refuse requests beyond 15 minutes.",
    ),
    ("FUSE_FEATURES", "The kernel's FUSE lacks something that is wanted: it is old."),
    ("MEMORY_LIMIT", "The caches may grow beyond the memory that the mount's process may have."),
    ("UPDATES_PENDING", "Written data waits for the store or for a partition longer than it should."),
    ("UPDATES_FAILED", "Written data could not be stored, is kept, and is tried again."),
    (
        "UPDATES_LOST",
        "Written data could never be stored and was given up; `fsync` and `close` said so to the programs.",
    ),
    ("VERSION_MISMATCH", "The mount runs another version than what is installed."),
];

/// What a code means.
pub(crate) fn meaning(code: &str) -> Option<&'static str> {
    CODES.iter().find(|(name, _)| name.eq_ignore_ascii_case(code)).map(|(_, meaning)| *meaning)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_unique_and_in_the_documentation() {
        let names: BTreeSet<_> = CODES.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), CODES.len());
        let text =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/curvefs.md")).unwrap();
        for name in names {
            assert!(text.contains(&format!("`{name}`")), "{name} is not in docs/curvefs.md");
        }
        assert!(
            meaning("mount_dead").is_some() && meaning("UPDATES_LOST").is_some() && meaning("X").is_none()
        );
    }
}
