//! Operations from a few random bytes, which proptest makes smaller.

use curvefs_types::limits::SLICE_BYTES_MAX;
use curvefs_types::{
    DataRef, Extent, InodeId, Kind, Name, NameOp, NewInode, Op, PartitionId, Place, RenameMode, SetAttr,
    SetTime, SliceId, WriterId, Xattr, XattrName,
};

use super::model::CELL;

/// Random bytes of one operation.
pub type Seed = [u8; 8];

/// What operations are made from.
pub struct Maker {
    /// Inodes that were ever there.
    pub known: Vec<InodeId>,
    /// Partitions that directories may be placed in.
    pub places: Vec<PartitionId>,
    /// Whether files may be opened by `Create`.
    pub or_open: bool,
    slices: u64,
}

impl Maker {
    pub fn new(places: Vec<PartitionId>) -> Self {
        Self { known: vec![InodeId::ROOT], places, or_open: true, slices: 0 }
    }

    /// The root most often, then the younger ones.
    fn inode(&self, byte: u8) -> InodeId {
        if byte < 64 {
            return InodeId::ROOT;
        }
        let recent = self.known.len().min(12);
        self.known[self.known.len() - 1 - usize::from(byte) % recent]
    }

    fn extent(&mut self, seed: Seed) -> Extent {
        self.slices += 1;
        let cells = 1 + u32::from(seed[4]) % 3;
        let at = u32::from(seed[5]) % (5 - cells);
        let slice = SliceId { writer: WriterId(7), serial: self.slices };
        let data = DataRef::Slice { slice, bytes: SLICE_BYTES_MAX, at: at * CELL as u32 };
        Extent::checked(u64::from(seed[3]) % 10 * CELL, cells * CELL as u32, data).unwrap()
    }

    pub fn op(&mut self, seed: Seed) -> Op {
        match seed[0] % 32 {
            0..20 => self.name_op(seed).into(),
            20 => Op::SetAttr { inode: self.inode(seed[1]), set: set_attr(seed) },
            21..30 => self.data_op(seed),
            30 => {
                let inode = self.inode(seed[1]);
                let name = XattrName::try_from(["user.a", "user.b"][usize::from(seed[2]) % 2]).unwrap();
                if seed[3].is_multiple_of(3) {
                    return Op::RemoveXattr { inode, name };
                }
                let xattr = Xattr { name, value: vec![seed[4]; 3].into() };
                Op::SetXattr { inode, xattr, create: seed[3] % 4 == 1, replace: seed[3] % 4 == 2 }
            }
            _ if seed[2].is_multiple_of(2) => {
                Op::Open { inode: self.inode(seed[1]), truncate: seed[3].is_multiple_of(4) }
            }
            _ => Op::Close { inodes: vec![self.inode(seed[1])] },
        }
    }

    fn name_op(&mut self, seed: Seed) -> NameOp {
        let (parent, name) = (self.inode(seed[1]), name(seed[2]));
        match seed[0] % 32 {
            0..5 => {
                let kind =
                    [Kind::File, Kind::File, Kind::File, Kind::Symlink, Kind::Fifo][usize::from(seed[3]) % 5];
                let or_open = self.or_open && seed[5].is_multiple_of(4);
                NameOp::Create {
                    parent,
                    name,
                    new: new_inode(kind, seed),
                    open: seed[5].is_multiple_of(3),
                    or_open,
                }
            }
            5..9 => {
                let place = self.places.get(usize::from(seed[5]) % (self.places.len() + 1)).copied();
                NameOp::Mkdir { parent, name, new: new_inode(Kind::Directory, seed), place }
            }
            9..11 => NameOp::Unlink { parent, name },
            11..13 => NameOp::Rmdir { parent, name },
            13 | 14 => NameOp::Link { inode: self.inode(seed[4]), parent, name },
            _ => NameOp::Rename {
                parent,
                name,
                new_parent: self.inode(seed[3]),
                new_name: self::name(seed[4]),
                mode: [RenameMode::Replace, RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange]
                    [usize::from(seed[5]) % 4],
            },
        }
    }

    fn data_op(&mut self, seed: Seed) -> Op {
        let inode = self.inode(seed[1] | 64);
        let offset = u64::from(seed[3]) % 10 * CELL;
        let len = (1 + u64::from(seed[4]) % 6) * CELL;
        match seed[0] % 32 {
            21..25 => Op::Write {
                inode,
                place: if seed[2].is_multiple_of(3) { Place::AtEnd } else { Place::AtOffsets },
                extents: vec![self.extent(seed)],
                length: 0,
                mtime: i64::from(seed[6]),
                expect: None,
                kill_priv: seed[7].is_multiple_of(2),
                set: match seed[5] % 4 {
                    0 => set_attr(seed),
                    _ => SetAttr::default(),
                },
                staged: Vec::new(),
            },
            25 => Op::Truncate { inode, length: offset, kill_priv: seed[7].is_multiple_of(2) },
            26 => Op::Punch { inode, offset, len },
            27 => Op::Allocate { inode, offset, len, keep_size: seed[5].is_multiple_of(2) },
            _ => {
                let from = if seed[2].is_multiple_of(4) { inode } else { self.inode(seed[2] | 64) };
                let to_offset = u64::from(seed[5]) % 12 * CELL;
                Op::CopyRange { from, from_offset: offset, to: inode, to_offset, len }
            }
        }
    }
}

fn name(byte: u8) -> Name {
    Name::try_from(["a", "b", "c", "d"][usize::from(byte) % 4]).unwrap()
}

fn new_inode(kind: Kind, seed: Seed) -> NewInode {
    NewInode {
        kind,
        mode: [0o644, 0o755, 0o2755, 0o6755][usize::from(seed[6]) % 4],
        uid: 1,
        gid: u32::from(seed[7]),
        rdev: 0,
        target: if kind == Kind::Symlink { "target".into() } else { Default::default() },
        xattrs: Vec::new(),
    }
}

fn set_attr(seed: Seed) -> SetAttr {
    SetAttr {
        mode: seed[2].is_multiple_of(2).then_some([0o600, 0o2711, 0o1777][usize::from(seed[3]) % 3]),
        uid: seed[4].is_multiple_of(2).then_some(u32::from(seed[5])),
        mtime: seed[6].is_multiple_of(2).then_some(SetTime::To { ns: i64::from(seed[7]) }),
        ..SetAttr::default()
    }
}
