//! A name in a directory.

use crate::attr::{Attr, Kind};
use crate::ids::InodeId;
use crate::name::Name;
use crate::wire_struct;

/// What a directory says of a name. The row's key has directory and name; this is its value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dentry {
    /// The inode it names; in another partition than the dentry after a cross-partition mkdir, link or rename.
    pub inode: InodeId,
    /// Its kind, which never changes.
    pub kind: Kind,
}

wire_struct!(Dentry { inode, kind });

/// A line of a directory page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntry {
    /// The name.
    pub name: Name,
    /// What it names.
    pub dentry: Dentry,
    /// With `plus`: the attributes, when the inode is in the directory's partition. The others are asked for by the
    /// client, all of one partition together.
    pub attr: Option<Attr>,
}

wire_struct!(DirEntry { name, dentry, attr });
