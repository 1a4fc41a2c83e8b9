//! What changes a partition.
//!
//! A [`Request`] is applied by one partition in one step: everything or, with an error, nothing but the remembered answer.
//! Apply is a function of the partition's rows, the entry (its index and term) and the request; clocks and random
//! numbers travel in it.
//!
//! **Repetition.** `(mount, sequence)` is applied once; a repeated one gets the first answer, errors included, but for
//! transient errors ([`FsError::is_transient`](crate::FsError::is_transient)), which leave no trace. Answers below `ack_below` are forgotten, and a
//! request below is `Forgotten`. Requests of [`MountId::SERVERS`] have no sequence and are idempotent by themselves.
//!
//! **Fencing.** Each request has the mount's epoch; a partition refuses those below the epoch of a `Fence` it
//! applied. The MDS calls a mount gone only when every partition of the file system has applied its fence.
//!
//! **Permissions** are checked by the kernel (`default_permissions`, ACLs included) against attributes the mount holds.
//! Partitions check what must hold whoever asks: types, emptiness, limits, names, links, cycles. Of the sticky bit and of ownership they
//! know nothing. What depends on the parent at the moment of creation (set-group-id) is done at apply.

use bytes::Bytes;
use curve_types::{Epoch, Sequence};

use crate::attr::{Attr, Kind, SetAttr, TimeNs};
use crate::delegation::{NameAt, Published, Reserved};
use crate::extent::{Extent, Freed, SliceRef, Staged};
use crate::ids::{InodeId, LockOwner, MountId, PartitionId};
use crate::lock::{LockFamily, LockKind, LockRange};
use crate::name::{Name, XattrName};
use crate::tx::{Decision, Part, TxId, TxNumber};
use crate::usage::Usage;
use crate::{wire_enum, wire_struct};

/// One change asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// Who asks.
    pub mount: MountId,
    /// The epoch of its lease.
    pub epoch: Epoch,
    /// Its number for the change, per partition.
    pub sequence: Sequence,
    /// It knows the answers of all smaller numbers.
    pub ack_below: Sequence,
    /// The time, set by the leader when it proposes, so that one clock at a time rules a partition.
    pub now_ns: TimeNs,
    /// What.
    pub op: Op,
}

wire_struct!(Request { mount, epoch, sequence, ack_below, now_ns, op });

/// An extended attribute.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Xattr {
    /// Name with namespace.
    pub name: XattrName,
    /// Value.
    pub value: Bytes,
}

wire_struct!(Xattr { name, value });

/// What a new inode is to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewInode {
    /// Kind.
    pub kind: Kind,
    /// Mode bits, the umask already taken off.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group, unless the parent's set-group-id bit gives its own.
    pub gid: u32,
    /// Device number of a device.
    pub rdev: u32,
    /// A symbolic link's target, else empty.
    pub target: Bytes,
    /// Attributes it is born with (inherited ACLs).
    pub xattrs: Vec<Xattr>,
}

wire_struct!(NewInode { kind, mode, uid, gid, rdev, target, xattrs });

impl NewInode {
    /// Root's, with nothing but these.
    pub fn plain(kind: Kind, mode: u32) -> Self {
        Self { kind, mode, uid: 0, gid: 0, rdev: 0, target: Bytes::new(), xattrs: Vec::new() }
    }
}

/// How a rename treats the target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RenameMode {
    /// It is replaced.
    Replace,
    /// It must not be there.
    NoReplace,
    /// It must be there, and takes the source's name.
    Exchange,
}

wire_enum!(RenameMode { 1 => Replace {}, 2 => NoReplace {}, 3 => Exchange {} });

/// Changes of names: those that may need several partitions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NameOp {
    /// Make an inode beside its parent. An existing name is `Exists`, unless `or_open`: then an existing file of the same
    /// partition is the answer (of another partition: still `Exists`; look it up and open it).
    Create {
        /// The directory.
        parent: InodeId,
        /// The name.
        name: Name,
        /// Anything but a directory.
        new: NewInode,
        /// Hold it open for the mount in the same step.
        open: bool,
        /// Without `O_EXCL`.
        or_open: bool,
    },
    /// Make a directory.
    Mkdir {
        /// The directory it is in.
        parent: InodeId,
        /// The name.
        name: Name,
        /// A directory.
        new: NewInode,
        /// Where its inode lives; `None` beside its parent.
        place: Option<PartitionId>,
    },
    /// Remove a name of what is no directory.
    Unlink {
        /// The directory.
        parent: InodeId,
        /// The name.
        name: Name,
    },
    /// Remove an empty directory.
    Rmdir {
        /// The directory it is in.
        parent: InodeId,
        /// The name.
        name: Name,
    },
    /// Give what is no directory another name.
    Link {
        /// What.
        inode: InodeId,
        /// The directory of the new name.
        parent: InodeId,
        /// The new name.
        name: Name,
    },
    /// Move a name.
    Rename {
        /// From this directory.
        parent: InodeId,
        /// The old name.
        name: Name,
        /// To this directory.
        new_parent: InodeId,
        /// The new name.
        new_name: Name,
        /// What becomes of the target.
        mode: RenameMode,
    },
}

wire_enum!(NameOp {
    1 => Create { parent, name, new, open, or_open },
    2 => Mkdir { parent, name, new, place },
    3 => Unlink { parent, name },
    4 => Rmdir { parent, name },
    5 => Link { inode, parent, name },
    6 => Rename { parent, name, new_parent, new_name, mode },
});

impl NameOp {
    /// The directory whose partition does it, or coordinates it.
    pub fn home(&self) -> InodeId {
        match self {
            Self::Create { parent, .. }
            | Self::Mkdir { parent, .. }
            | Self::Unlink { parent, .. }
            | Self::Rmdir { parent, .. }
            | Self::Link { parent, .. } => *parent,
            Self::Rename { new_parent, .. } => *new_parent,
        }
    }
}

/// Where written data goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// To the extents' own offsets.
    AtOffsets,
    /// `O_APPEND`: the offsets count from the end of the file as it is at apply; the answer has the base.
    AtEnd,
}

wire_enum!(Place { 1 => AtOffsets {}, 2 => AtEnd {} });

/// What a partition voted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vote {
    /// Who.
    pub partition: PartitionId,
    /// What it prepared.
    pub parts: Vec<Part>,
    /// The inode of each part as it will be; `RemoveName`, `ReplaceName` and `LockTree` have none.
    pub attrs: Vec<Attr>,
}

wire_struct!(Vote { partition, parts, attrs });

/// A total that a child tells its parent (see `usage`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Told {
    /// The directory that is told.
    pub parent: InodeId,
    /// Who tells.
    pub child: InodeId,
    /// The child's version: equal versions have equal totals.
    pub version: u64,
    /// Everything in it, itself included.
    pub total: Usage,
}

wire_struct!(Told { parent, child, version, total });

/// A change of one partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// A change of names that this partition can do alone; `NotHere` otherwise, and the leader coordinates.
    Name {
        /// Which.
        op: NameOp,
    },
    /// Attributes.
    SetAttr {
        /// Of this inode.
        inode: InodeId,
        /// These.
        set: SetAttr,
    },
    /// Set a file's length. What is cut off is gone for good: growing again reads zeros.
    Truncate {
        /// The file.
        inode: InodeId,
        /// Its new length.
        length: u64,
        /// Clear set-user-id and set-group-id as a write does.
        kill_priv: bool,
    },
    /// Publish what was written. **The data is durable**: it comes out of [`crate::Durable`].
    Write {
        /// The file.
        inode: InodeId,
        /// Whether offsets are absolute.
        place: Place,
        /// Where the bytes are; later ones cover earlier ones.
        extents: Vec<Extent>,
        /// The file is at least this long afterwards (with `AtEnd`: beyond the old end); 0 leaves it.
        length: u64,
        /// When it was written: the file's new `mtime`. A mount publishes before it sets times.
        mtime: TimeNs,
        /// `Changed` unless the file's generation is this.
        expect: Option<u64>,
        /// Clear set-user-id and set-group-id.
        kill_priv: bool,
        /// Attributes that were set after the bytes were written.
        set: SetAttr,
        /// Slices of the extents that the store has not got: their bytes wait in the partition, as durable as it is. At
        /// most [`crate::limits::STAGED_PER_REQUEST_MAX`] bytes. `FsError::StageFull` when too many wait already.
        staged: Vec<Staged>,
    },
    /// Let a range read as zeros and give its data back. Changes no length.
    Punch {
        /// The file.
        inode: InodeId,
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// `fallocate`: mark what has no extent in the range as unwritten, and grow the file unless told not to.
    Allocate {
        /// The file.
        inode: InodeId,
        /// First byte.
        offset: u64,
        /// Bytes; at most [`crate::limits::ALLOCATE_BYTES_MAX`].
        len: u64,
        /// Leave the length.
        keep_size: bool,
    },
    /// `copy_file_range` by reference, both files in this partition (`CrossDevice` otherwise: copy the bytes). Answers
    /// `Written` with the number of bytes done as `base`: fewer at the source's end, or when that was enough for one step.
    CopyRange {
        /// From this file.
        from: InodeId,
        /// Its first byte.
        from_offset: u64,
        /// To this file.
        to: InodeId,
        /// Its first byte.
        to_offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Set an extended attribute.
    SetXattr {
        /// Of this inode.
        inode: InodeId,
        /// Name and value.
        xattr: Xattr,
        /// `XATTR_CREATE`: it must not be there; `XATTR_REPLACE`: it must; neither: either. Both is `Invalid`.
        create: bool,
        /// See `create`.
        replace: bool,
    },
    /// Remove an extended attribute.
    RemoveXattr {
        /// Of this inode.
        inode: InodeId,
        /// Which.
        name: XattrName,
    },
    /// The mount holds the inode open from now on: it lives without names until `Close`, or the mount's fence. Held once
    /// however often it is opened: mounts count, and may keep it a while after the last close.
    Open {
        /// Which.
        inode: InodeId,
        /// `O_TRUNC`.
        truncate: bool,
    },
    /// The mount holds these no longer; unknown ones are no error. All of one partition.
    Close {
        /// Which.
        inodes: Vec<InodeId>,
    },
    /// Take or change a lock, or say `WouldBlock`.
    Lock {
        /// Of this file.
        inode: InodeId,
        /// Who.
        owner: LockOwner,
        /// Its process.
        pid: u32,
        /// Family.
        family: LockFamily,
        /// Kind.
        kind: LockKind,
        /// Range.
        range: LockRange,
    },
    /// Give up a range of an owner's locks.
    Unlock {
        /// Of this file.
        inode: InodeId,
        /// Who.
        owner: LockOwner,
        /// Family.
        family: LockFamily,
        /// Range.
        range: LockRange,
    },
    /// Have a directory delegated to the mount (see `delegation`). `NotEmpty` if there is a name that the mount does not know,
    /// `NoLocks` if it has too many.
    Delegate {
        /// Which.
        dir: InodeId,
        /// Names that may be there; `None`: any.
        knows: Option<Vec<Name>>,
        /// Inode numbers that are wanted with it.
        reserve: u32,
    },
    /// Publish what was made in delegated directories, all of one partition. The data is durable, as that of `Write`.
    Publish {
        /// Of each directory what is new.
        dirs: Vec<Published>,
        /// Of the reserved numbers the mount has no use any more for smaller ones.
        lowest: InodeId,
        /// Inode numbers that are wanted.
        reserve: u32,
    },
    /// Servers: a coordinator asks for parts.
    Prepare {
        /// Transaction.
        tx: TxId,
        /// See `tx`.
        floor: TxNumber,
        /// What is to be done.
        parts: Vec<Part>,
    },
    /// The coordinator's own apply of a client's request, which decides.
    Decide {
        /// Transaction.
        tx: TxId,
        /// What the client asked for.
        op: NameOp,
        /// What the others voted.
        votes: Vec<Vote>,
    },
    /// Servers: the coordinator tells the decision.
    Finish {
        /// Transaction.
        tx: TxId,
        /// See `tx`.
        floor: TxNumber,
        /// Whether it was committed.
        commit: bool,
    },
    /// Servers: a participant asks for the decision.
    Resolve {
        /// Transaction.
        tx: TxId,
    },
    /// Servers, at the coordinator: all participants have finished these.
    Forget {
        /// Numbers.
        numbers: Vec<TxNumber>,
    },
    /// Servers: totals of children elsewhere.
    Tell {
        /// Totals; parents that are gone are skipped.
        told: Vec<Told>,
    },
    /// Servers: totals that were told; a child that has changed since stays dirty.
    ToldDone {
        /// What was told.
        told: Vec<Told>,
    },
    /// Servers: carry totals of dirty inodes to parents in this partition.
    Settle {
        /// At most so many.
        limit: u32,
    },
    /// Servers: turn the extents of doomed inodes that nobody holds into garbage, and remove what is empty.
    Drain {
        /// At most so many extents.
        limit: u32,
    },
    /// Servers: these slices were deleted from the store.
    Reclaimed {
        /// Which.
        slices: Vec<Freed>,
    },
    /// Servers: the store has these slices now; what nobody needs any more is to be deleted.
    Stored {
        /// Which.
        slices: Vec<SliceRef>,
    },
    /// The MDS: refuse the mount below this epoch from now on.
    Fence {
        /// Which.
        mount: MountId,
        /// The lowest epoch that is still accepted.
        epoch: Epoch,
    },
    /// Servers, after a fence: release what a mount holds.
    ReleaseMount {
        /// Which.
        mount: MountId,
        /// At most so many inodes.
        limit: u32,
    },
    /// Servers: take a directory away from a mount that does not give it back.
    Revoke {
        /// Which.
        dir: InodeId,
        /// From whom.
        mount: MountId,
    },
}

wire_enum!(Op {
    1 => Name { op },
    2 => SetAttr { inode, set },
    3 => Truncate { inode, length, kill_priv },
    4 => Write { inode, place, extents, length, mtime, expect, kill_priv, set, staged },
    5 => Punch { inode, offset, len },
    6 => Allocate { inode, offset, len, keep_size },
    7 => CopyRange { from, from_offset, to, to_offset, len },
    8 => SetXattr { inode, xattr, create, replace },
    9 => RemoveXattr { inode, name },
    10 => Open { inode, truncate },
    11 => Close { inodes },
    12 => Lock { inode, owner, pid, family, kind, range },
    13 => Unlock { inode, owner, family, range },
    14 => Delegate { dir, knows, reserve },
    15 => Publish { dirs, lowest, reserve },
    32 => Prepare { tx, floor, parts },
    33 => Decide { tx, op, votes },
    34 => Finish { tx, floor, commit },
    35 => Resolve { tx },
    36 => Forget { numbers },
    37 => Tell { told },
    38 => ToldDone { told },
    39 => Settle { limit },
    40 => Drain { limit },
    41 => Reclaimed { slices },
    42 => Fence { mount, epoch },
    43 => ReleaseMount { mount, limit },
    44 => Revoke { dir, mount },
    45 => Stored { slices },
});

impl Op {
    /// Whether only servers may ask for it; a server refuses it from a mount. `Decide` carries a mount's number but is made
    /// by the coordinator.
    pub fn is_internal(&self) -> bool {
        matches!(
            self,
            Self::Prepare { .. }
                | Self::Decide { .. }
                | Self::Finish { .. }
                | Self::Resolve { .. }
                | Self::Forget { .. }
                | Self::Tell { .. }
                | Self::ToldDone { .. }
                | Self::Settle { .. }
                | Self::Drain { .. }
                | Self::Reclaimed { .. }
                | Self::Stored { .. }
                | Self::Fence { .. }
                | Self::ReleaseMount { .. }
                | Self::Revoke { .. }
        )
    }

    /// The inode whose partition gets it; `None` for what servers send to a partition they name.
    pub fn home(&self) -> Option<InodeId> {
        match self {
            Self::Name { op } | Self::Decide { op, .. } => Some(op.home()),
            Self::SetAttr { inode, .. }
            | Self::Truncate { inode, .. }
            | Self::Write { inode, .. }
            | Self::Punch { inode, .. }
            | Self::Allocate { inode, .. }
            | Self::CopyRange { to: inode, .. }
            | Self::SetXattr { inode, .. }
            | Self::RemoveXattr { inode, .. }
            | Self::Open { inode, .. }
            | Self::Delegate { dir: inode, .. }
            | Self::Lock { inode, .. }
            | Self::Unlock { inode, .. } => Some(*inode),
            Self::Publish { dirs, .. } => dirs.first().map(|published| published.dir),
            Self::Close { inodes } => inodes.first().copied(),
            _ => None,
        }
    }
}

impl From<NameOp> for Op {
    fn from(op: NameOp) -> Self {
        Self::Name { op }
    }
}

/// What a change answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// Done, and there is nothing to say.
    Done,
    /// The inode afterwards: of `Create`, `Mkdir`, `Link`, `SetAttr`, `Truncate`, `Open` and the like. `Unlink` gives what lost the name.
    Attr {
        /// As it is now.
        attr: Attr,
        /// `Create`: it was made, not found.
        created: bool,
    },
    /// Of `Write`.
    Written {
        /// As it is now.
        attr: Attr,
        /// Where the data went, with `AtEnd`.
        base: u64,
    },
    /// Of `Rename`; `Done` if both names are the same file's and nothing was changed.
    Renamed {
        /// What was moved.
        moved: Attr,
        /// What had the name before: replaced or exchanged.
        other: Option<Attr>,
    },
    /// Of `Prepare`.
    Prepared {
        /// As in [`Vote`].
        attrs: Vec<Attr>,
    },
    /// Of `Resolve`.
    Resolved {
        /// What was decided.
        decision: Decision,
    },
    /// Of the bounded ones: whether there is more to do.
    Progress {
        /// There is.
        more: bool,
    },
    /// Of `Delegate`.
    Delegated {
        /// The directory as it is now.
        attr: Attr,
        /// Numbers for new files.
        reserved: Reserved,
    },
    /// Of `Publish`: everything but what is refused is done.
    Published {
        /// Directories that are not this mount's any more, and new files that could not be.
        refused: Vec<InodeId>,
        /// Names that are what they were.
        unmoved: Vec<NameAt>,
        /// Numbers for new files.
        reserved: Reserved,
    },
}

wire_enum!(Reply {
    1 => Done {},
    2 => Attr { attr, created },
    3 => Written { attr, base },
    4 => Renamed { moved, other },
    5 => Prepared { attrs },
    6 => Resolved { decision },
    7 => Progress { more },
    8 => Delegated { attr, reserved },
    9 => Published { refused, unmoved, reserved },
});
