//! POSIX ACLs of new inodes: what they inherit from their directory (`acl(5)`, "Object creation and default ACLs").
//!
//! An ACL's value (Linux, `posix_acl_xattr.h`) is little-endian: version 4 bytes (2), then entries of tag 2, permissions 2
//! and id 4 bytes. Checking permissions is the kernel's, keeping mode and ACL in step the partition's.

use bytes::{BufMut, Bytes};
use curvefs_types::{FsError, Xattr, XattrName};

/// A directory's ACL for what is made in it.
pub(crate) const DEFAULT: &[u8] = b"system.posix_acl_default";
/// An inode's own ACL.
pub(crate) const ACCESS: &[u8] = b"system.posix_acl_access";

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// What an inode is born with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Born {
    pub mode: u32,
    pub xattrs: Vec<Xattr>,
}

pub(crate) fn default_name() -> XattrName {
    XattrName::new(DEFAULT).expect("a valid name")
}

/// An inode made with `mode` in a directory with a default ACL: the umask has no say.
pub(crate) fn inherit(default: &Bytes, mode: u32, is_dir: bool) -> Result<Born, FsError> {
    let entries = parse(default).ok_or(FsError::Corrupt)?;
    let has_mask = entries.iter().any(|(tag, ..)| *tag == MASK);
    let mut born = mode & !0o777;
    let mut access = VERSION.to_le_bytes().to_vec();
    for (tag, permissions, id) in &entries {
        // The class that an entry stands for is limited by what the creator asked for.
        let shift = match *tag {
            USER_OBJ => Some(6),
            MASK => Some(3),
            GROUP_OBJ if !has_mask => Some(3),
            OTHER => Some(0),
            _ => None,
        };
        let mut granted = *permissions;
        if let Some(shift) = shift {
            granted &= (mode >> shift & 7) as u16;
            born |= u32::from(granted) << shift;
        }
        access.put_u16_le(*tag);
        access.put_u16_le(granted);
        access.put_slice(id);
    }
    let xattr = |name: &'static [u8], value: Bytes| XattrName::new(name).map(|name| Xattr { name, value });
    let mut xattrs = Vec::new();
    if entries.len() > 3 {
        xattrs.push(xattr(ACCESS, access.into())?);
    }
    if is_dir {
        xattrs.push(xattr(DEFAULT, default.clone())?);
    }
    Ok(Born { mode: born, xattrs })
}

fn parse(value: &[u8]) -> Option<Vec<(u16, u16, [u8; 4])>> {
    let (version, rest) = value.split_first_chunk::<4>()?;
    let (entries, tail) = rest.as_chunks::<8>();
    let entry = |[a, b, c, d, id @ ..]: [u8; 8]| {
        let permissions = u16::from_le_bytes([c, d]);
        (permissions <= 7).then_some((u16::from_le_bytes([a, b]), permissions, id))
    };
    let is_acl = u32::from_le_bytes(*version) == VERSION && tail.is_empty();
    if is_acl { entries.iter().map(|bytes| entry(*bytes)).collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16)]) -> Bytes {
        let mut out = VERSION.to_le_bytes().to_vec();
        for (tag, permissions) in entries {
            out.put_u16_le(*tag);
            out.put_u16_le(*permissions);
            out.put_u32_le(u32::MAX);
        }
        out.into()
    }

    #[test]
    fn new_inodes_get_the_default_acl_limited_by_the_mode() {
        let plain = acl(&[(USER_OBJ, 7), (GROUP_OBJ, 5), (OTHER, 4)]);
        assert_eq!(inherit(&plain, 0o666, false), Ok(Born { mode: 0o644, xattrs: Vec::new() }));
        let named = acl(&[(USER_OBJ, 7), (0x02, 7), (GROUP_OBJ, 5), (MASK, 7), (OTHER, 1)]);
        let file = inherit(&named, 0o4640, false).unwrap();
        assert_eq!(file.mode, 0o4640);
        let access = acl(&[(USER_OBJ, 6), (0x02, 7), (GROUP_OBJ, 5), (MASK, 4), (OTHER, 0)]);
        assert_eq!(file.xattrs, [Xattr { name: XattrName::new(ACCESS).unwrap(), value: access }]);
        let dir = inherit(&named, 0o777, true).unwrap();
        assert_eq!(dir.mode, 0o771);
        assert_eq!(dir.xattrs[1], Xattr { name: default_name(), value: named });
        for bad in [&b""[..], b"\x02\0\0\0x", b"\x01\0\0\0", b"\x02\0\0\0\x01\0\xff\0\0\0\0\0"] {
            assert_eq!(inherit(&Bytes::from_static(bad), 0o644, false), Err(FsError::Corrupt));
        }
    }
}
