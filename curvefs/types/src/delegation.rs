//! Delegated directories: a mount makes files in them without asking, and tells later, many at a time.
//!
//! **Who gets one.** A mount asks ([`crate::Op::Delegate`]) for a directory that it made itself, when it is about to make a second
//! name there, and says which names it knows of. The partition grants it if no other name is in the directory, none is locked by a
//! transaction, and nobody else has it. It also asks for one in which it changes names again and again, without knowing which are there, and
//! not for some time after it had to give that back. The row `delegation: directory -> mount` is replicated. With it come inode numbers
//! that nobody else will use, reserved for the mount and not for the directory, of the partition's own slot, so that a new file lives
//! beside its parent as always.
//!
//! **What it means.** As long as the row is there, names in the directory are changed by this mount only. So the mount knows
//! which names are not there, and the attributes that new files are born with, and can make anything but directories by itself: number from the
//! reserve, times of its own clock. Files that are not published yet it can rename, and forget when their name goes.
//! Names that are published it can move and remove, if they name what is no directory and lives in the same partition. Everything else
//! goes the way it always did; what it meets that is not published yet is published before.
//!
//! **Publishing.** [`crate::Op::Publish`] is one change with the final state of many new files of many directories: whatever was done to a
//! file since it was made is in its attributes and extents, and costs nothing more. Extents come out of [`crate::Durable`] as always:
//! metadata never names data that is not durable.
//!
//! **In what order.** Names that were moved or removed are one set, over all directories of the change: first all of them are taken away, then
//! those that have a new place are put there, and then new files are made. So names can be exchanged, and anything can follow at a place
//! that became free. A mount sends all that it has moved at once, so that others and a crash find each rename done or not: never a
//! file under neither name, or a name without the old and the new file. What cannot be (the name is not what the mount says, or its new
//! place is taken) stays as it was, with what it was to replace, and the answer says so: as nobody else changes such names, that is a
//! mistake.
//!
//! **Recall.** Whoever else touches a delegated directory's names, or asks for its attributes, gets [`crate::FsError::Delegated`], which leaves
//! no trace and is waited for as `Busy` is. The partition's leader notes the directory and answers the holder's
//! long poll ([`crate::Query::Recalls`]) with it; the holder publishes and gives it back in one change; who waits goes on. A holder that
//! does not even poll is dead or cut off: [`crate::Op::Revoke`] takes the directory away, and what it sends later is refused. Fencing a mount
//! does the same to all it has. What the leader notes is in memory: who waits asks its successor again.
//!
//! **What always holds.**
//! 1. Only directories that are there, with a name, are delegated, each to one mount. None is removed before it is given back.
//! 2. A reserved number is below the partition's next one, in one range only, and no other mount's inode has it.
//! 3. No other mount ever sees or changes a name of a delegated directory.
//! 4. What was synced is in a change that was answered. Revocation loses what was not, as a crash of the mount does.
//!
//! Rejected: a grant with each `Mkdir` (most directories never get a second file soon, and a directory elsewhere is made by a
//! transaction, whose parts would have to carry it); a log of the single operations instead of final states (each row would be written
//! several times); leases by time (clocks, and a wait after each crash, even with nobody interested).

use bytes::Bytes;

use crate::attr::{Attr, SetAttr, TimeNs};
use crate::dentry::Dentry;
use crate::extent::Extent;
use crate::ids::InodeId;
use crate::name::Name;
use crate::op::Xattr;
use crate::wire_struct;

/// Anything but a directory that was made at a mount, as it is now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Born {
    /// Its name in the directory.
    pub name: Name,
    /// Its attributes. The number is a reserved one; `allocated` is what the extents say.
    pub attr: Attr,
    /// A symbolic link's target, else empty.
    pub target: Bytes,
    /// Attributes it was born with.
    pub xattrs: Vec<Xattr>,
    /// Where its bytes are, in order, without overlaps.
    pub extents: Vec<Extent>,
    /// The mount holds it open.
    pub open: bool,
}

wire_struct!(Born { name, attr, target, xattrs, extents, open });

/// A name in a directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NameAt {
    /// The directory.
    pub dir: InodeId,
    /// The name.
    pub name: Name,
}

wire_struct!(NameAt { dir, name });

/// A published name of what is no directory that a mount has moved or removed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Moved {
    /// The name, in the directory that it is published with.
    pub name: Name,
    /// What it names: an inode of the same partition.
    pub dentry: Dentry,
    /// Where it is now, in a directory of the mount's in the same partition; `None`: it was removed.
    pub to: Option<NameAt>,
    /// When.
    pub at: TimeNs,
}

wire_struct!(Moved { name, dentry, to, at });

/// What is published of one directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Published {
    /// Which.
    pub dir: InodeId,
    /// Published names that are not what they were.
    pub moved: Vec<Moved>,
    /// New files.
    pub born: Vec<Born>,
    /// When a name was changed last. The directory's time does not go back to it.
    pub mtime: TimeNs,
    /// Attributes of the directory that were set after that.
    pub set: SetAttr,
    /// The mount has it no longer.
    pub give_back: bool,
}

wire_struct!(Published { dir, moved, born, mtime, set, give_back });

/// Inode numbers for one mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reserved {
    /// The first.
    pub first: InodeId,
    /// How many follow each other from there; none is possible.
    pub count: u32,
}

wire_struct!(Reserved { first, count });

impl Reserved {
    /// No number.
    pub const NONE: Self = Self { first: InodeId(0), count: 0 };

    /// The last number, if there is one.
    pub fn last(&self) -> Option<InodeId> {
        let beyond = u64::from(self.count.checked_sub(1)?);
        self.first.0.checked_add(beyond).map(InodeId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, Wire};

    #[test]
    fn golden_bytes() {
        let set = SetAttr { mode: Some(0o700), ..SetAttr::default() };
        let name = |of| Name::try_from(of).unwrap();
        let dentry = Dentry { inode: InodeId(6), kind: Kind::File };
        let to = Some(NameAt { dir: InodeId(8), name: name("b") });
        let moved = vec![Moved { name: name("a"), dentry, to, at: 3 }];
        let published =
            Published { dir: InodeId(5), moved, born: Vec::new(), mtime: 7, set, give_back: true };
        let mut expected = 5u64.to_le_bytes().to_vec();
        expected.extend([1, 0, 0, 0, 1, 0, 0, 0, b'a']);
        expected.extend(dentry.to_row());
        expected.extend([1, 8, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, b'b']);
        expected.extend(3i64.to_le_bytes());
        expected.extend([0; 4]);
        expected.extend(7i64.to_le_bytes());
        expected.extend([1, 0o700u32.to_le_bytes()[0], 1, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(published.to_row(), expected);
        let reserved = Reserved { first: InodeId(9), count: 2 };
        assert_eq!(reserved.to_row(), [&9u64.to_le_bytes()[..], &2u32.to_le_bytes()[..]].concat());
    }

    #[test]
    fn a_range_has_a_last_number_if_it_has_any() {
        for (first, count, last) in [
            (9, 2, Some(10)),
            (9, 1, Some(9)),
            (9, 0, None),
            (u64::MAX, 1, Some(u64::MAX)),
            (u64::MAX, 2, None),
        ] {
            assert_eq!(Reserved { first: InodeId(first), count }.last(), last.map(InodeId));
        }
    }
}
