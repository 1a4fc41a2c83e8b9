//! The protocol's error numbers, and what each failure of a device is in them.

use curve_blockdev::BlockError;

/// An error as a client sees it. The values are those of the protocol, not those of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Errno {
    /// `NBD_EPERM`: the export is read-only, or another holder has taken it over.
    NotPermitted = 1,
    /// `NBD_EIO`
    Io = 5,
    /// `NBD_EINVAL`: the request itself is wrong.
    Invalid = 22,
    /// `NBD_ENOSPC`: a write after the end, or no room on the disks.
    NoSpace = 28,
    /// `NBD_ENOTSUP`: also what a client that asked for fast zeroing gets when it would be slow.
    NotSupported = 95,
    /// `NBD_ESHUTDOWN`: the server is about to stop; the client should disconnect.
    Shutdown = 108,
}

impl From<&BlockError> for Errno {
    fn from(error: &BlockError) -> Self {
        match error {
            BlockError::BadRange { .. } => Self::Invalid,
            BlockError::ReadOnly | BlockError::Fenced => Self::NotPermitted,
            BlockError::NoSpace => Self::NoSpace,
            BlockError::TimedOut { .. } | BlockError::Corrupt { .. } | BlockError::Io(_) => Self::Io,
            BlockError::Unsupported(_) => Self::NotSupported,
            BlockError::Closed => Self::Shutdown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_of_a_device_has_its_number() {
        let table = [
            (BlockError::BadRange { offset: 1, len: 1, size: 0 }, 22),
            (BlockError::ReadOnly, 1),
            (BlockError::NoSpace, 28),
            (BlockError::Fenced, 1),
            (BlockError::TimedOut { seconds: 3 }, 5),
            (BlockError::Corrupt { offset: 0, len: 4096 }, 5),
            (BlockError::Unsupported("fast zeroing"), 95),
            (BlockError::Closed, 108),
            (BlockError::Io("x".to_owned()), 5),
        ];
        for (error, number) in table {
            assert_eq!(Errno::from(&error) as u32, number, "{error}");
        }
    }
}
