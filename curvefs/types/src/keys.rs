//! Keys of a partition's rows. Each partition has a store of its own, so a key begins with its kind. Numbers are
//! big-endian and what has no fixed length is last: keys sort as [`Key`]s do, and the rows of an inode are together.
//!
//! | byte 0 | then | value |
//! |--------|------|-------|
//! | 01 header | | the partition: file system, id, slot, next serial, totals |
//! | 02 inode | inode 8 | [`crate::Attr`] |
//! | 03 dentry | directory 8, name | [`crate::Dentry`] |
//! | 04 extent | inode 8, end 8 | length, [`crate::DataRef`]; by its end, so that a scan from an offset begins with what covers it |
//! | 05 xattr | inode 8, name | the value |
//! | 06 target | inode 8 | a symbolic link's target |
//! | 07 link | inode 8, directory 8 | names of the inode in the directory; only of inodes that had several |
//! | 08 holder | inode 8, mount 8 | nothing: the mount holds it open |
//! | 09 held | mount 8, inode 8 | nothing: the mount holds it open, or locks in it |
//! | 0a locks | inode 8 | its [`crate::FileLock`]s |
//! | 0b usage | directory 8 | [`crate::DirUsage`] |
//! | 0c told | directory 8, child 8 | version, total, names |
//! | 0d dirty | inode 8 | nothing: its total is not what it told |
//! | 0e slice | writer 8, serial 8 | how many extents are in it, and since when it is staged (0: it is not) |
//! | 0f garbage | freed at 8, writer 8, serial 8 | the slice's bytes |
//! | 10 doomed | inode 8 | nothing: it has no name |
//! | 11 session | mount 8 | lowest epoch, lowest sequence remembered |
//! | 12 answer | mount 8, sequence 8 | the answer |
//! | 13 prepared | coordinator 4, term 8, number 8 | [`crate::Prepared`] |
//! | 14 name lock | directory 8, name | the transaction |
//! | 15 inode lock | inode 8 | the transaction |
//! | 16 tree lock | | the transaction |
//! | 17 decided | term 8, number 8 | [`crate::Decision`] |
//! | 18 floor | coordinator 4 | its lowest unfinished number |
//! | 19 finished | coordinator 4, term 8, number 8 | nothing |
//! | 1a delegation | directory 8 | the mount that has it |
//! | 1b delegated | mount 8, directory 8 | nothing |
//! | 1c reserved | mount 8, inode 8 | how many numbers from there are the mount's, and a bit for each that was used |
//! | 1d staged | staged at 8, writer 8, serial 8 | the slice's bytes, which the store has not got yet |

use curve_types::{Sequence, Term};

use crate::ids::{InodeId, MountId, PartitionId, SliceId, WriterId};
use crate::name::{Name, XattrName};
use crate::tx::{TxId, TxNumber};
use crate::wire::{Input, Seeds, Wire, WireError};
use bytes::Bytes;

/// Byte 0 of the keys that are scanned.
pub mod tag {
    /// Inodes.
    pub const INODE: u8 = 0x02;
    /// Names.
    pub const DENTRY: u8 = 0x03;
    /// Ranges of files.
    pub const EXTENT: u8 = 0x04;
    /// Extended attributes.
    pub const XATTR: u8 = 0x05;
    /// Names of an inode by directory.
    pub const LINK: u8 = 0x07;
    /// Mounts that hold an inode.
    pub const HOLDER: u8 = 0x08;
    /// Inodes that a mount holds.
    pub const HELD: u8 = 0x09;
    /// Inodes with something to tell.
    pub const DIRTY: u8 = 0x0d;
    /// Slices to delete.
    pub const GARBAGE: u8 = 0x0f;
    /// Inodes without a name.
    pub const DOOMED: u8 = 0x10;
    /// Answers.
    pub const ANSWER: u8 = 0x12;
    /// Prepared transactions.
    pub const PREPARED: u8 = 0x13;
    /// Locked names.
    pub const NAME_LOCK: u8 = 0x14;
    /// Locked inodes.
    pub const INODE_LOCK: u8 = 0x15;
    /// Decided transactions.
    pub const DECIDED: u8 = 0x17;
    /// Finished transactions.
    pub const FINISHED: u8 = 0x19;
    /// Directories that a mount has.
    pub const DELEGATED: u8 = 0x1b;
    /// Numbers that are reserved for a mount.
    pub const RESERVED: u8 = 0x1c;
    /// Slices that wait for the store.
    pub const STAGED: u8 = 0x1d;
}

/// A part of a key.
trait KeyPart: Sized {
    fn write(&self, out: &mut Vec<u8>);
    fn read(input: &mut Input<'_>) -> Result<Self, WireError>;
}

impl KeyPart for u64 {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_be_bytes());
    }

    fn read(input: &mut Input<'_>) -> Result<Self, WireError> {
        Ok(Self::from_be_bytes(input.take(8)?.try_into().expect("8 bytes")))
    }
}

macro_rules! number_part {
    ($($type:ident),*) => {$(
        impl KeyPart for $type {
            fn write(&self, out: &mut Vec<u8>) {
                self.0.write(out);
            }
            fn read(input: &mut Input<'_>) -> Result<Self, WireError> {
                Ok(Self(KeyPart::read(input)?))
            }
        }
    )*};
}
number_part!(InodeId, MountId, WriterId, Sequence, Term);

impl KeyPart for PartitionId {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_be_bytes());
    }

    fn read(input: &mut Input<'_>) -> Result<Self, WireError> {
        Ok(Self(u32::from_be_bytes(input.take(4)?.try_into().expect("4 bytes"))))
    }
}

macro_rules! struct_part {
    ($type:ident { $($field:ident),* }) => {
        impl KeyPart for $type {
            fn write(&self, out: &mut Vec<u8>) {
                $(self.$field.write(out);)*
            }
            fn read(input: &mut Input<'_>) -> Result<Self, WireError> {
                Ok(Self { $($field: KeyPart::read(input)?),* })
            }
        }
    };
}
struct_part!(SliceId { writer, serial });
struct_part!(TxNumber { term, number });
struct_part!(TxId { coordinator, number });

macro_rules! name_part {
    ($type:ident, $what:literal) => {
        impl KeyPart for $type {
            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(self.as_bytes());
            }
            fn read(input: &mut Input<'_>) -> Result<Self, WireError> {
                Self::new(Bytes::copy_from_slice(input.take_rest())).map_err(|_| WireError::Value($what))
            }
        }
    };
}
name_part!(Name, "name");
name_part!(XattrName, "attribute name");

macro_rules! keys {
    ($($tag:literal $(#[$doc:meta])* $variant:ident { $($field:ident: $type:ty),* }),* $(,)?) => {
        /// The key of a row. Sorts as its bytes do.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
        #[allow(missing_docs, reason = "the fields are in the module's table")]
        pub enum Key {
            $($(#[$doc])* $variant { $($field: $type),* }),*
        }

        impl Key {
            /// The bytes.
            pub fn encode(&self) -> Vec<u8> {
                let mut out = Vec::with_capacity(32);
                match self {$(
                    Self::$variant { $($field),* } => {
                        out.push($tag);
                        $($field.write(&mut out);)*
                    }
                )*}
                out
            }

            /// The key of a row that was found.
            pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
                let (tag, rest) = bytes.split_first().ok_or(WireError::Short)?;
                let mut input = Input::new(rest);
                let key = match tag {
                    $($tag => Self::$variant { $($field: <$type as KeyPart>::read(&mut input)?),* },)*
                    other => return Err(WireError::Tag(*other, "key")),
                };
                input.finish()?;
                Ok(key)
            }

            /// Some key, for tests and fuzzing.
            #[doc(hidden)]
            pub fn sample(seeds: &mut Seeds) -> Self {
                const TAGS: &[u8] = &[$($tag),*];
                match TAGS[seeds.below(TAGS.len() as u64) as usize] {
                    $($tag => Self::$variant { $($field: <$type as Wire>::sample(seeds)),* },)*
                    _ => unreachable!("every tag is listed"),
                }
            }
        }
    };
}

keys! {
    0x01 /// The partition itself.
    Header {},
    0x02 /// An inode.
    Inode { inode: InodeId },
    0x03 /// A name.
    Dentry { dir: InodeId, name: Name },
    0x04 /// A range of a file.
    Extent { inode: InodeId, end: u64 },
    0x05 /// An extended attribute.
    Xattr { inode: InodeId, name: XattrName },
    0x06 /// A symbolic link's target.
    Target { inode: InodeId },
    0x07 /// Names of an inode in a directory.
    Link { inode: InodeId, dir: InodeId },
    0x08 /// Who holds an inode.
    Holder { inode: InodeId, mount: MountId },
    0x09 /// What a mount holds.
    Held { mount: MountId, inode: InodeId },
    0x0a /// File locks.
    Locks { inode: InodeId },
    0x0b /// Counters.
    Usage { dir: InodeId },
    0x0c /// What a child told.
    Told { dir: InodeId, child: InodeId },
    0x0d /// Has something to tell.
    Dirty { inode: InodeId },
    0x0e /// References to a slice.
    Slice { slice: SliceId },
    0x0f /// A slice to delete.
    Garbage { freed_at: u64, slice: SliceId },
    0x10 /// An inode without a name.
    Doomed { inode: InodeId },
    0x11 /// A mount.
    Session { mount: MountId },
    0x12 /// A remembered answer.
    Answer { mount: MountId, sequence: Sequence },
    0x13 /// A prepared transaction.
    Prepared { tx: TxId },
    0x14 /// A locked name.
    NameLock { dir: InodeId, name: Name },
    0x15 /// A locked inode.
    InodeLock { inode: InodeId },
    0x16 /// The lock on moves of directories.
    TreeLock {},
    0x17 /// A decided transaction.
    Decided { number: TxNumber },
    0x18 /// A coordinator's floor.
    Floor { coordinator: PartitionId },
    0x19 /// A finished transaction.
    Finished { tx: TxId },
    0x1a /// Who has a directory.
    Delegation { dir: InodeId },
    0x1b /// What a mount has.
    Delegated { mount: MountId, dir: InodeId },
    0x1c /// Numbers for a mount.
    Reserved { mount: MountId, first: InodeId },
    0x1d /// A slice that waits for the store.
    Staged { staged_at: u64, slice: SliceId },
}

impl Key {
    /// What all keys of one kind have in front.
    pub fn kind(tag: u8) -> Vec<u8> {
        vec![tag]
    }

    /// What all keys of a kind have in front that begin with a number: the rows of one inode, directory or mount.
    pub fn prefix(tag: u8, number: u64) -> Vec<u8> {
        let mut out = vec![tag];
        number.write(&mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_round_trip_and_sort_as_their_bytes(a: u64, b: u64) {
            let (a, b) = (Key::sample(&mut Seeds::new(a)), Key::sample(&mut Seeds::new(b)));
            prop_assert_eq!(Key::decode(&a.encode()), Ok(a.clone()));
            prop_assert_eq!(a.cmp(&b), a.encode().cmp(&b.encode()));
        }

        #[test]
        fn names_sort_as_bytes(a in "[a-z]{1,4}", b in "[a-z]{1,4}", dir: u64) {
            let key = |name: &str| Key::Dentry { dir: InodeId(dir), name: Name::try_from(name).unwrap() };
            prop_assert_eq!(key(&a).cmp(&key(&b)), key(&a).encode().cmp(&key(&b).encode()));
        }
    }

    #[test]
    fn golden_bytes() {
        let key = Key::Dentry { dir: InodeId(0x0102), name: Name::try_from("ab").unwrap() };
        assert_eq!(key.encode(), b"\x03\0\0\0\0\0\0\x01\x02ab");
        assert!(key.encode().starts_with(&Key::prefix(3, 0x0102)));
    }
}
