//! What a POSIX access ACL has to do with the mode.
//!
//! The kernel checks permissions and makes the value; a file system keeps ACL and mode in step, as `posix_acl(5)`
//! says. The value of `system.posix_acl_access` (Linux, `posix_acl_xattr.h`), little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | version, 2 |
//! | 8 × n | tag 2, permissions 2, id 4 |

use curvefs_types::XattrName;

/// Name of the access ACL.
pub(crate) const ACCESS_ACL: &[u8] = b"system.posix_acl_access";

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
const NAMED: [u16; 2] = [0x02, 0x08];

/// What an ACL says in terms of a mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct AclMode {
    /// Nine permission bits.
    pub mode: u32,
    /// It says more than these.
    pub says_more: bool,
}

pub(crate) fn access_name() -> XattrName {
    XattrName::new(ACCESS_ACL).expect("a valid name")
}

#[derive(Clone, Copy)]
struct Entry {
    tag: u16,
    permissions: u16,
    id: [u8; 4],
}

fn parse(value: &[u8]) -> Option<Vec<Entry>> {
    let (version, rest) = value.split_first_chunk::<4>()?;
    let (entries, tail) = rest.as_chunks::<8>();
    if u32::from_le_bytes(*version) != VERSION || !tail.is_empty() {
        return None;
    }
    let entry = |bytes: &[u8; 8]| {
        let [a, b, c, d, id @ ..] = *bytes;
        let entry = Entry { tag: u16::from_le_bytes([a, b]), permissions: u16::from_le_bytes([c, d]), id };
        let known = [USER_OBJ, GROUP_OBJ, MASK, OTHER].contains(&entry.tag) || NAMED.contains(&entry.tag);
        (known && entry.permissions <= 7).then_some(entry)
    };
    entries.iter().map(entry).collect()
}

/// The mode that an ACL means; `None` if it is not one.
pub(crate) fn mode_of(value: &[u8]) -> Option<AclMode> {
    let entries = parse(value)?;
    let of = |tag| entries.iter().find(|entry| entry.tag == tag).map(|entry| u32::from(entry.permissions));
    let (user, group, other) = (of(USER_OBJ)?, of(GROUP_OBJ)?, of(OTHER)?);
    let mask = of(MASK);
    if mask.is_none() && entries.iter().any(|entry| NAMED.contains(&entry.tag)) {
        return None;
    }
    let mode = user << 6 | mask.unwrap_or(group) << 3 | other;
    Some(AclMode { mode, says_more: entries.len() > 3 })
}

/// The ACL after `chmod`; `None` if it is not one.
pub(crate) fn with_mode(value: &[u8], mode: u32) -> Option<Vec<u8>> {
    let mut entries = parse(value)?;
    let has_mask = entries.iter().any(|entry| entry.tag == MASK);
    for entry in &mut entries {
        let bits = match entry.tag {
            USER_OBJ => mode >> 6,
            MASK => mode >> 3,
            GROUP_OBJ if !has_mask => mode >> 3,
            OTHER => mode,
            _ => continue,
        };
        entry.permissions = (bits & 7) as u16;
    }
    let mut out = VERSION.to_le_bytes().to_vec();
    for entry in entries {
        out.extend(entry.tag.to_le_bytes());
        out.extend(entry.permissions.to_le_bytes());
        out.extend(entry.id);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16)]) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        for (tag, permissions) in entries {
            out.extend(tag.to_le_bytes());
            out.extend(permissions.to_le_bytes());
            out.extend(u32::MAX.to_le_bytes());
        }
        out
    }

    #[test]
    fn mode_and_acl_follow_each_other() {
        let plain = acl(&[(USER_OBJ, 6), (GROUP_OBJ, 4), (OTHER, 0)]);
        assert_eq!(mode_of(&plain), Some(AclMode { mode: 0o640, says_more: false }));
        let named = acl(&[(USER_OBJ, 7), (NAMED[0], 7), (GROUP_OBJ, 5), (MASK, 6), (OTHER, 1)]);
        assert_eq!(mode_of(&named), Some(AclMode { mode: 0o761, says_more: true }));
        let changed = with_mode(&named, 0o604).unwrap();
        assert_eq!(changed, acl(&[(USER_OBJ, 6), (NAMED[0], 7), (GROUP_OBJ, 5), (MASK, 0), (OTHER, 4)]));
    }

    #[test]
    fn what_is_no_acl_is_refused() {
        let no_mask = acl(&[(USER_OBJ, 7), (NAMED[1], 7), (GROUP_OBJ, 5), (OTHER, 1)]);
        for bad in [&no_mask[..], &no_mask[..5], b"", &acl(&[(USER_OBJ, 7)])[..], &acl(&[(USER_OBJ, 8)])[..]]
        {
            assert_eq!(mode_of(bad), None);
        }
    }
}
