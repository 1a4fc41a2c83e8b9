//! The error numbers, and which failure is which.

use curve_blockdev::BlockError;
use curve_client::ClientError;
use curve_client::mds::MdsError;
use thiserror::Error;

/// Defines the numbers and their names once.
macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)*) => {
        /// Why a call failed. Calls return the negated number.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
        #[error("{}", self.name())]
        #[repr(i32)]
        pub enum Code {
            $($(#[$doc])* $variant = $number,)*
        }

        impl Code {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name in the header.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The same for C, with a zero at the end.
            pub(crate) const fn c_name(self) -> &'static std::ffi::CStr {
                let text = match self { $(Self::$variant => concat!($name, "\0"),)* };
                match std::ffi::CStr::from_bytes_with_nul(text.as_bytes()) {
                    Ok(name) => name,
                    Err(_) => c"",
                }
            }
        }
    };
}

codes! {
    /// No failure.
    Ok = 0, "OK";
    /// The name is taken.
    Exists = 1, "EXISTS";
    /// No answer, or not initialised.
    Failed = 2, "FAILED";
    /// This process may do no I/O: it was forked from one that uses the library.
    DisableIo = 3, "DISABLEIO";
    /// Never returned: there are no users.
    AuthFail = 4, "AUTHFAIL";
    /// Never returned.
    Deleting = 5, "DELETING";
    /// No such volume or directory.
    NotExist = 6, "NOTEXIST";
    /// Never returned.
    UnderSnapshot = 7, "UNDER_SNAPSHOT";
    /// Never returned.
    NotUnderSnapshot = 8, "NOT_UNDERSNAPSHOT";
    /// Never returned.
    DeleteError = 9, "DELETE_ERROR";
    /// Never returned.
    NotAllocate = 10, "NOT_ALLOCATE";
    /// Our MDS has no such operation.
    NotSupport = 11, "NOT_SUPPORT";
    /// The directory is not empty.
    NotEmpty = 12, "NOT_EMPTY";
    /// A volume only grows.
    NoShrink = 13, "NO_SHRINK_BIGGER_FILE";
    /// The session is gone.
    SessionNotExists = 14, "SESSION_NOTEXISTS";
    /// Somebody else has it open.
    Occupied = 15, "FILE_OCCUPIED";
    /// An argument makes no sense.
    Param = 16, "PARAM_ERROR";
    /// A fault of ours or of the cluster.
    Internal = 17, "INTERNAL_ERROR";
    /// No replica has good bytes.
    Crc = 18, "CRC_ERROR";
    /// The server does not understand the request.
    Invalid = 19, "INVALID_REQUEST";
    /// Never returned.
    DiskFail = 20, "DISK_FAIL";
    /// The disks are full.
    NoSpace = 21, "NO_SPACE";
    /// Offset or length is no multiple of the block size.
    NotAligned = 22, "NOT_ALIGNED";
    /// Not an open file.
    BadFd = 23, "BAD_FD";
    /// A size that no volume has.
    Length = 24, "LENGTH_NOT_SUPPORT";
    /// Never returned.
    SessionNotExist = 25, "SESSION_NOT_EXIST";
    /// The state of the cluster does not allow it.
    StatusNotMatch = 26, "STATUS_NOT_MATCH";
    /// Never returned.
    DeleteBeingCloned = 27, "DELETE_BEING_CLONED";
    /// Never returned.
    ClientNotSupportSnapshot = 28, "CLIENT_NOT_SUPPORT_SNAPSHOT";
    /// Never returned. The original's header has it misspelt; ours has both.
    SnapshotFrozen = 29, "SNAPSHOT_FROZEN";
    /// Begun, not finished: call again.
    RetryUntilSuccess = 30, "RETRY_UNTIL_SUCCESS";
    /// Another holder has taken the volume over.
    EpochTooOld = 31, "EPOCH_TOO_OLD";
    /// It was opened for reading only.
    PermissionDeny = 32, "PERMISSION_DENY";
    /// Never returned.
    Unknown = 100, "UNKNOWN";
}

impl Code {
    /// What a call returns for it.
    pub const fn negated(self) -> i32 {
        -(self as i32)
    }

    /// The code of a number, negated or not.
    pub fn of(number: i32) -> Option<Self> {
        let number = number.unsigned_abs();
        Self::ALL.iter().copied().find(|code| *code as u32 == number)
    }
}

impl From<MdsError> for Code {
    fn from(error: MdsError) -> Self {
        match error {
            MdsError::NotFound { .. } => Self::NotExist,
            MdsError::Exists { .. } => Self::Exists,
            MdsError::NotEmpty { .. } => Self::NotEmpty,
            MdsError::NotDirectory { .. } | MdsError::IsDirectory { .. } | MdsError::BadPath { .. } => {
                Self::Param
            }
            MdsError::BadSize { .. } => Self::Length,
            MdsError::HeldBy { .. } | MdsError::StillMounted { .. } => Self::Occupied,
            MdsError::NotHeld { .. } => Self::SessionNotExists,
            MdsError::Fenced { .. } => Self::EpochTooOld,
            MdsError::NoSpace { .. } => Self::NoSpace,
            MdsError::NotEnoughChunkservers { .. }
            | MdsError::NotEnoughMetaservers { .. }
            | MdsError::NotLeader { .. }
            | MdsError::InProgress { .. } => Self::RetryUntilSuccess,
            MdsError::BadRequest { .. } | MdsError::BadName { .. } => Self::Invalid,
            MdsError::Conflict { .. } | MdsError::NoSealingKey { .. } => Self::StatusNotMatch,
            MdsError::Unavailable { .. } => Self::Failed,
        }
    }
}

impl From<ClientError> for Code {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Mds(error) => error.into(),
            ClientError::Fenced { .. } | ClientError::Stalled => Self::EpochTooOld,
            ClientError::NoSpace => Self::NoSpace,
            ClientError::Corrupt { .. } => Self::Crc,
            ClientError::Refused { .. } => Self::Invalid,
            ClientError::Config(_) => Self::Failed,
        }
    }
}

impl From<BlockError> for Code {
    fn from(error: BlockError) -> Self {
        match error {
            BlockError::BadRange { .. } => Self::Param,
            BlockError::ReadOnly => Self::PermissionDeny,
            BlockError::NoSpace => Self::NoSpace,
            BlockError::Fenced => Self::EpochTooOld,
            BlockError::TimedOut { .. } => Self::Failed,
            BlockError::Corrupt { .. } => Self::Crc,
            BlockError::Unsupported(_) => Self::NotSupport,
            BlockError::Closed => Self::BadFd,
            BlockError::Io(_) => Self::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chapter 1.3 of the reference: the numbers that programs were compiled with.
    const NUMBERS: [(i32, &str); 34] = [
        (0, "OK"),
        (1, "EXISTS"),
        (2, "FAILED"),
        (3, "DISABLEIO"),
        (4, "AUTHFAIL"),
        (5, "DELETING"),
        (6, "NOTEXIST"),
        (7, "UNDER_SNAPSHOT"),
        (8, "NOT_UNDERSNAPSHOT"),
        (9, "DELETE_ERROR"),
        (10, "NOT_ALLOCATE"),
        (11, "NOT_SUPPORT"),
        (12, "NOT_EMPTY"),
        (13, "NO_SHRINK_BIGGER_FILE"),
        (14, "SESSION_NOTEXISTS"),
        (15, "FILE_OCCUPIED"),
        (16, "PARAM_ERROR"),
        (17, "INTERNAL_ERROR"),
        (18, "CRC_ERROR"),
        (19, "INVALID_REQUEST"),
        (20, "DISK_FAIL"),
        (21, "NO_SPACE"),
        (22, "NOT_ALIGNED"),
        (23, "BAD_FD"),
        (24, "LENGTH_NOT_SUPPORT"),
        (25, "SESSION_NOT_EXIST"),
        (26, "STATUS_NOT_MATCH"),
        (27, "DELETE_BEING_CLONED"),
        (28, "CLIENT_NOT_SUPPORT_SNAPSHOT"),
        (29, "SNAPSHOT_FROZEN"),
        (30, "RETRY_UNTIL_SUCCESS"),
        (31, "EPOCH_TOO_OLD"),
        (32, "PERMISSION_DENY"),
        (100, "UNKNOWN"),
    ];

    #[test]
    fn numbers_and_names_are_those_of_the_reference_and_of_the_header() {
        let ours: Vec<_> = Code::ALL.iter().map(|code| (*code as i32, code.name())).collect();
        assert_eq!(ours, NUMBERS);
        let header = include_str!("../include/libcurve_define.h");
        for (number, name) in NUMBERS {
            assert!(header.contains(&format!("    {name} = {number},\n")), "{name} = {number} in the header");
            assert_eq!(Code::of(-number).map(Code::name), Some(name));
        }
        assert_eq!(Code::of(33), None);
        assert_eq!(Code::of(i32::MIN), None);
    }

    #[test]
    fn failures_get_the_number_that_says_what_to_do() {
        let path = || "/x".to_owned();
        assert_eq!(Code::from(MdsError::NotFound { what: path() }), Code::NotExist);
        assert_eq!(Code::from(MdsError::Exists { path: path() }), Code::Exists);
        assert_eq!(Code::from(MdsError::NotEmpty { path: path() }), Code::NotEmpty);
        assert_eq!(Code::from(MdsError::BadSize { why: path() }), Code::Length);
        assert_eq!(Code::from(ClientError::NoSpace), Code::NoSpace);
        assert_eq!(Code::from(BlockError::Fenced), Code::EpochTooOld);
        assert_eq!(Code::from(BlockError::ReadOnly), Code::PermissionDeny);
        assert_eq!(Code::from(BlockError::BadRange { offset: 0, len: 1, size: 0 }), Code::Param);
    }
}
