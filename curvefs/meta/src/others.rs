//! What a change of names needs of other partitions.
//!
//! The same code that changes names in one partition runs for those that need several. Where it meets an inode of
//! another partition it names the [`Part`] that must be done there. While *planning* (a dry run of the coordinator's
//! leader) the part is noted and goes on as if it will succeed; while *deciding* it must be among those that were
//! voted, and at the end none may be left over. So what is prepared and what is decided cannot be different things.

use curvefs_types::{Attr, Dentry, FsError, InodeId, Part, PartitionId, Vote};

use crate::fail::Step;

/// What other partitions do for a change.
#[derive(Clone, Debug)]
pub(crate) enum Others {
    /// Notes what is needed.
    Planning(Planning),
    /// Has what was voted.
    Voted(Voted),
}

/// A dry run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Planning {
    /// What a rename's source names, when that directory is elsewhere.
    pub source: Option<Dentry>,
    /// The parts, in the order they were needed.
    pub parts: Vec<Part>,
    /// Where a directory is to be made.
    pub place: Option<PartitionId>,
    /// Walks that the leader has to make once it has the lock on moves of directories: from one directory up to the root
    /// without meeting another.
    pub walks: Vec<Walk>,
}

/// A way up that must not meet an inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Walk {
    /// The first directory.
    pub from: InodeId,
    /// What must not be met, the first directory included.
    pub avoid: InodeId,
}

/// Votes and which of them were used.
#[derive(Clone, Debug, Default)]
pub(crate) struct Voted {
    parts: Vec<(Part, Option<Attr>, bool)>,
}

impl Others {
    /// Nothing may be needed.
    pub fn none() -> Self {
        Self::Voted(Voted::default())
    }

    /// What was voted; `Invalid` if votes do not fit their parts.
    pub fn voted(votes: &[Vote]) -> Result<Self, FsError> {
        let mut parts = Vec::new();
        for vote in votes {
            let mut attrs = vote.attrs.iter();
            for part in &vote.parts {
                let attr = if has_attr(part) { Some(*attrs.next().ok_or(FsError::Invalid)?) } else { None };
                parts.push((part.clone(), attr, false));
            }
        }
        Ok(Self::Voted(Voted { parts }))
    }

    /// Whether this is a dry run.
    pub fn is_planning(&self) -> bool {
        matches!(self, Self::Planning(_))
    }

    /// Another partition has to do a part. Its inode afterwards; `None` in a dry run, and of parts without one.
    /// `Busy` when what was prepared is not what is needed now: plan again.
    pub fn need(&mut self, part: Part) -> Step<Option<Attr>> {
        match self {
            Self::Planning(planning) => {
                if !planning.parts.contains(&part) {
                    planning.parts.push(part);
                }
                Ok(None)
            }
            Self::Voted(voted) => {
                let found = voted.parts.iter_mut().find(|(voted, _, used)| *voted == part && !used);
                let (_, attr, used) = found.ok_or(FsError::Busy)?;
                *used = true;
                Ok(*attr)
            }
        }
    }

    /// What a rename's source names, when that directory is elsewhere.
    pub fn source(&self) -> Step<Dentry> {
        let found = match self {
            Self::Planning(planning) => planning.source,
            Self::Voted(voted) => voted.parts.iter().find_map(|(part, _, _)| match part {
                Part::RemoveName { was, .. } | Part::ReplaceName { was, .. } => Some(*was),
                _ => None,
            }),
        };
        Ok(found.ok_or(FsError::Busy)?)
    }

    /// Whether the lock on moves of directories was voted.
    pub fn has_tree_lock(&self) -> bool {
        matches!(self, Self::Voted(voted) if voted.parts.iter().any(|(part, _, _)| *part == Part::LockTree))
    }

    /// `Busy` if something was prepared that is not needed.
    pub fn check_all_used(&self) -> Step<()> {
        match self {
            Self::Voted(voted) if voted.parts.iter().any(|(_, _, used)| !used) => Err(FsError::Busy.into()),
            _ => Ok(()),
        }
    }
}

/// Whether a vote has an inode for a part.
pub(crate) fn has_attr(part: &Part) -> bool {
    !matches!(part, Part::RemoveName { .. } | Part::ReplaceName { .. } | Part::LockTree)
}
