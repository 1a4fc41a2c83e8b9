//! Names that were checked where they came in.

use std::fmt;

use bytes::Bytes;

use crate::error::FsError;
use crate::limits::{NAME_BYTES_MAX, XATTR_NAME_BYTES_MAX};
use crate::wire::{Input, Seeds, Wire, WireError};

/// A name in a directory: 1 to 255 bytes, no `/`, no NUL, neither `.` nor `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Bytes);

impl Name {
    /// Checks a name.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, FsError> {
        let bytes = bytes.into();
        if bytes.len() > NAME_BYTES_MAX {
            return Err(FsError::NameTooLong);
        }
        let bad = bytes.is_empty()
            || matches!(&bytes[..], b"." | b"..")
            || bytes.iter().any(|b| matches!(b, 0 | b'/'));
        if bad { Err(FsError::Invalid) } else { Ok(Self(bytes)) }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The name of an extended attribute with its namespace: 1 to 255 bytes, no NUL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct XattrName(Bytes);

impl XattrName {
    /// Checks a name. Which namespaces there are is for the frontend to say.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, FsError> {
        let bytes = bytes.into();
        if bytes.len() > XATTR_NAME_BYTES_MAX {
            return Err(FsError::Range);
        }
        if bytes.is_empty() || bytes.contains(&0) { Err(FsError::Invalid) } else { Ok(Self(bytes)) }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

macro_rules! checked_name {
    ($type:ident, $what:literal) => {
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&String::from_utf8_lossy(&self.0), f)
            }
        }

        impl TryFrom<&str> for $type {
            type Error = FsError;

            fn try_from(name: &str) -> Result<Self, FsError> {
                Self::new(Bytes::copy_from_slice(name.as_bytes()))
            }
        }

        impl Wire for $type {
            fn put(&self, out: &mut Vec<u8>) {
                self.0.put(out);
            }
            fn get(input: &mut Input<'_>) -> Result<Self, WireError> {
                Self::new(Bytes::get(input)?).map_err(|_| WireError::Value($what))
            }
            fn sample(seeds: &mut Seeds) -> Self {
                let len = 1 + seeds.below(20);
                let bytes: Vec<u8> = (0..len).map(|_| b'a' + seeds.below(26) as u8).collect();
                Self(bytes.into())
            }
        }
    };
}
checked_name!(Name, "name");
checked_name!(XattrName, "attribute name");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        let long = "x".repeat(256);
        for (name, expected) in [
            ("a", None),
            (".a", None),
            ("...", None),
            (&long[..255], None),
            (&long[..], Some(FsError::NameTooLong)),
            ("", Some(FsError::Invalid)),
            (".", Some(FsError::Invalid)),
            ("..", Some(FsError::Invalid)),
            ("a/b", Some(FsError::Invalid)),
            ("a\0", Some(FsError::Invalid)),
        ] {
            assert_eq!(Name::try_from(name).err(), expected, "{name:?}");
        }
        assert_eq!(XattrName::try_from("user.a/b").map(|name| name.to_string()), Ok("user.a/b".into()));
        assert_eq!(XattrName::try_from(&long[..]), Err(FsError::Range));
    }
}
