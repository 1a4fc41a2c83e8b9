//! Why an operation was not done: one variant for each thing a program or a mount does about it.

use crate::ids::{InodeId, PartitionId};
use crate::wire_enum;

macro_rules! errors {
    ($($(#[$doc:meta])* $tag:literal $name:ident $errno:literal $text:literal),* $(,)?) => {
        /// Why an operation was not done. Codes are stable: they are on the wire, in logs and in `curve fs doctor`.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
        pub enum FsError {
            $($(#[$doc])* #[error($text)] $name,)*
            /// The partition that was asked does not hold the inode, or none does yet: fetch the map again. It left no
            /// trace; the same sequence may be sent to another partition.
            #[error("{partition} does not hold the inode")]
            NotHere {
                /// Who was asked.
                partition: PartitionId,
            },
            /// Another mount has the directory, and is asked for it. It left no trace: send the same sequence again.
            #[error("{dir} is delegated to another mount")]
            Delegated {
                /// Which.
                dir: InodeId,
            },
        }

        impl FsError {
            /// Linux's number for it, as a program sees it.
            pub const fn errno(self) -> i32 {
                match self {
                    $(Self::$name => $errno,)*
                    Self::NotHere { .. } => 5,
                    Self::Delegated { .. } => 16,
                }
            }

            /// Its stable number.
            pub const fn code(self) -> u8 {
                match self {
                    $(Self::$name => $tag,)*
                    Self::NotHere { .. } => 64,
                    Self::Delegated { .. } => 65,
                }
            }
        }

        wire_enum!(FsError { $($tag => $name {},)* 64 => NotHere { partition }, 65 => Delegated { dir } });
    };
}

errors! {
    /// No such name or inode.
    1 NotFound 2 "no such file or directory",
    /// The name is taken.
    2 Exists 17 "exists",
    /// A directory is needed.
    3 NotDir 20 "not a directory",
    /// Anything but a directory is needed.
    4 IsDir 21 "is a directory",
    /// The directory has entries.
    5 NotEmpty 39 "directory not empty",
    /// The name has more than 255 bytes, or a link's target more than 4095.
    6 NameTooLong 36 "name too long",
    /// No further link fits.
    7 TooManyLinks 31 "too many links",
    /// A malformed or meaningless request; a directory moved under itself.
    8 Invalid 22 "invalid argument",
    /// Never allowed, whoever asks.
    9 NotPermitted 1 "operation not permitted",
    /// Not allowed to this user.
    10 Access 13 "permission denied",
    /// Both sides must be in one file system, or for a reference to data in one partition.
    11 CrossDevice 18 "cross-device link",
    /// Longer than a file can be.
    12 TooBig 27 "file too large",
    /// The caller's buffer is too small, or an attribute's name too long.
    13 Range 34 "result too large",
    /// No such extended attribute.
    14 NoAttribute 61 "no such attribute",
    /// An extended attribute's value, or all names together, are too large.
    15 AttributeTooBig 7 "attribute too large",
    /// No room for more data or inodes.
    16 NoSpace 28 "no space left",
    /// A quota is used up.
    17 Quota 122 "quota exceeded",
    /// Mounted read-only.
    18 ReadOnly 30 "read-only file system",
    /// Another holds a lock that excludes this one.
    19 WouldBlock 11 "would block",
    /// Waiting for the lock would never end.
    20 Deadlock 35 "deadlock",
    /// Too many locks.
    21 NoLocks 37 "no locks available",
    /// Not supported here.
    22 NotSupported 95 "not supported",
    /// The inode is gone though the caller knew it.
    23 Stale 116 "stale file handle",
    /// No such offset (SEEK_DATA, SEEK_HOLE).
    24 NoData 6 "no such data",
    /// The caller was interrupted.
    25 Interrupted 4 "interrupted",
    /// The mount's lease has ended and others may have gone on: nothing it sends is accepted any more.
    40 Fenced 5 "the mount was fenced",
    /// The inode is not what the caller expected: read it again, decide again.
    41 Changed 5 "the inode has changed",
    /// A two-phase operation holds the row. It left no trace: send the same sequence again.
    42 Busy 16 "another operation is under way",
    /// `soft`: no answer in time.
    43 TimedOut 5 "timed out",
    /// The store has not what the metadata names.
    44 DataLost 5 "data is lost",
    /// The store's bytes are not what was written.
    45 DataDamaged 5 "data is damaged",
    /// The store refuses us: credentials, bucket.
    46 StoreRefused 5 "the data store refused",
    /// The sequence was forgotten: the caller had said that it knows the answer.
    47 Forgotten 5 "the request is too old",
    /// The server is going away.
    48 Stopped 5 "stopped",
    /// A row or message that cannot be understood.
    49 Corrupt 5 "metadata is damaged",
    /// The directory in which it was made was taken away from this mount before it was published: it is lost.
    50 Revoked 5 "lost with a directory that was taken away",
    /// So many bytes wait for the store already that the partition takes no more: put them into the store first.
    51 StageFull 5 "too much waits for the data store",
}

impl FsError {
    /// Whether the request left no trace and the same sequence is to be sent again, here or elsewhere. The answer is not
    /// remembered.
    pub const fn is_transient(self) -> bool {
        matches!(self, Self::Busy | Self::NotHere { .. } | Self::Delegated { .. } | Self::Stopped)
    }
}
