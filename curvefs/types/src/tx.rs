//! Operations that need several partitions.
//!
//! **Who.** A client sends every request to one partition, [`crate::Op::home`]: of a name operation the one with the
//! directory whose entry comes or goes (of a rename the *target* directory). If all inodes are there, the operation is
//! one apply and nothing here is used. Otherwise that partition's leader is the *coordinator*. Clients take no part.
//!
//! **Phases.**
//! 1. The leader reads what it needs, takes a [`TxId`] and sends each other partition one `Prepare` with its [`Part`]s.
//!    A participant's apply checks them, locks their rows, keeps them in a *prepared* row and votes with the
//!    attributes as they will be. If one part fails, nothing is kept.
//! 2. When all have voted yes, the leader proposes `Decide` in its own partition. Its apply does all local checks
//!    again, and either makes the local changes, the answer to the client and the row *decided(tx) = committed, participants*, or
//!    only the answer with the error. **This one apply is the decision.** The coordinator itself never holds a lock.
//! 3. `Finish { commit }` goes to the participants: changes made, locks gone; until then whoever touches their locked rows
//!    waits. So the client is answered at once, unless a participant changes a directory, whose attributes are not locked:
//!    then after all have finished. At the end `Forget` removes the decided row.
//!
//! **Recovery.** A new leader of the coordinator finds its committed rows and goes on with 3. What has no such row is
//! aborted (presumed abort). A participant that has a prepared row for long asks the coordinator with
//! `Resolve`, whose apply answers *committed* if there is the row; otherwise it writes *decided(tx) = aborted*, so that
//! a `Decide` still under way finds that and fails. `Decide` and `Prepare` carry the term in the [`TxId`], and `Decide` is
//! refused when its entry is of another term: no decision can come from a leader that is gone, and aborted rows of
//! older terms are dropped.
//!
//! **Repeated and late messages.** The coordinator's numbers grow, and each message has its `floor`: all smaller are
//! finished and will never be heard of again. A participant remembers finished numbers from the floor on and the floor:
//! a late `Prepare` is refused, a repeated `Finish` does nothing, and a prepared row below the floor is aborted.
//!
//! **Deadlock.** Nobody waits while holding a lock. A locked row gives `Busy`; the coordinator aborts everything, waits a
//! random time and begins again; the request left no trace, so its sequence is still free. Queries that touch a locked row wait
//! in the server until it is free (it may be about to change and the change may have been seen elsewhere): with
//! this every operation is one step for all observers.
//!
//! **Locks.** A name (directory, name) or an inode, exclusively. A participant's directory that loses or changes an entry
//! needs no lock of its own: the locked name keeps it from being empty and so from being removed, and what else is done to it
//! are sums and maxima.
//!
//! **No cycles.** A directory that moves to another directory changes the ancestors of others. All such renames of a file
//! system exclude each other by a lock in the root's partition (`Part::LockTree`, taken first, also when the coordinator
//! is that partition; only what the root's partition can decide from its own rows merely checks that the lock is free). With it the coordinator walks from the target directory up to the
//! root; meeting the moved directory is `Invalid`. Everything else, files included, moves without it.
//!
//! **What this costs.** Two log rounds, one after the other, before the answer (three for a rename whose source directory is
//! elsewhere), and one more on each participant after it. Rejected: a `Begin` row at the coordinator before phase 1 (a round more, for locks that presumed abort makes
//! unnecessary); locks with waiting and a deadlock detector; a central lock or transaction server (`curvefs.md` 1.11: 150
//! renames a second).

use std::fmt;

use crate::attr::{Attr, TimeNs};
use crate::dentry::Dentry;
use crate::ids::{InodeId, PartitionId};
use crate::name::Name;
use crate::op::NewInode;
use crate::{wire_enum, wire_struct};
use curve_types::Term;

/// A coordinator's number for a transaction; grows through terms.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct TxNumber {
    /// The leader's term.
    pub term: Term,
    /// The leader's number, from 1.
    pub number: u64,
}

wire_struct!(TxNumber { term, number });

/// Names a transaction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct TxId {
    /// Who decides.
    pub coordinator: PartitionId,
    /// Its number.
    pub number: TxNumber,
}

wire_struct!(TxId { coordinator, number });

/// Where a part is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PartTarget {
    /// Wherever this inode is.
    Inode(InodeId),
    /// At the place that the request names.
    Place,
}

impl Part {
    /// Where it is to be done.
    pub fn target(&self) -> PartTarget {
        match self {
            Self::MakeDir { .. } => PartTarget::Place,
            Self::RemoveDir { inode }
            | Self::AddLink { inode, .. }
            | Self::DropLink { inode, .. }
            | Self::Move { inode, .. }
            | Self::RemoveName { dir: inode, .. }
            | Self::ReplaceName { dir: inode, .. } => PartTarget::Inode(*inode),
            Self::LockTree => PartTarget::Inode(InodeId::ROOT),
        }
    }
}

impl fmt::Display for TxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tx-{}.{}.{}", self.coordinator.0, self.number.term.0, self.number.number)
    }
}

/// What one participant has to do. All are checked and locked at prepare, done at commit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Part {
    /// Make a directory's inode; the vote has its number.
    MakeDir {
        /// Its parent, elsewhere.
        parent: InodeId,
        /// What it is to be.
        new: NewInode,
    },
    /// Remove an empty directory.
    RemoveDir {
        /// Which.
        inode: InodeId,
    },
    /// Count one more name of what is no directory.
    AddLink {
        /// Which.
        inode: InodeId,
        /// The directory of the name.
        dir: InodeId,
    },
    /// Count one name less; the last one dooms the inode.
    DropLink {
        /// Which.
        inode: InodeId,
        /// The directory of the name.
        dir: InodeId,
    },
    /// Remove a name that was moved away.
    RemoveName {
        /// Its directory.
        dir: InodeId,
        /// The name.
        name: Name,
        /// What it must name.
        was: Dentry,
    },
    /// Let a name name something else (`EXCHANGE`).
    ReplaceName {
        /// Its directory.
        dir: InodeId,
        /// The name.
        name: Name,
        /// What it must name.
        was: Dentry,
        /// What it will name.
        becomes: Dentry,
    },
    /// The inode's name moves from one directory to another.
    Move {
        /// Which.
        inode: InodeId,
        /// From here.
        from: InodeId,
        /// To here.
        to: InodeId,
    },
    /// Keep every other directory of the file system from being moved. In the root's partition.
    LockTree,
}

wire_enum!(Part {
    1 => MakeDir { parent, new },
    2 => RemoveDir { inode },
    3 => AddLink { inode, dir },
    4 => DropLink { inode, dir },
    5 => RemoveName { dir, name, was },
    6 => ReplaceName { dir, name, was, becomes },
    7 => Move { inode, from, to },
    8 => LockTree {},
});

/// A participant's prepared row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prepared {
    /// The time of the operation.
    pub now_ns: TimeNs,
    /// What is to be done.
    pub parts: Vec<Part>,
    /// Inodes that were given numbers, by `MakeDir` in order.
    pub made: Vec<InodeId>,
    /// What was voted, for a repeated `Prepare`.
    pub attrs: Vec<Attr>,
}

wire_struct!(Prepared { now_ns, parts, made, attrs });

/// A coordinator's row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// To be finished at these.
    Committed {
        /// Who prepared.
        participants: Vec<PartitionId>,
    },
    /// Will never be committed.
    Aborted,
}

wire_enum!(Decision { 1 => Committed { participants }, 2 => Aborted {} });
