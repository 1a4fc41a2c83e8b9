//! Which directories a mount asks for that it did not make: those in which it changes names again and again, while nobody else wants them. Pure.
//!
//! What is in them it does not know: a name is asked for before it is changed the first time, as the kernel does anyway, until all names are listed,
//! if they are not too many. Whoever had to give one back
//! does not ask for it again soon, so two mounts that work in one directory do so as if it was nobody's, but for a moment now and then. The
//! root is never asked for: everybody comes through it, and would wait for a mount that died.

use std::time::Duration;

use curvefs_types::{InodeId, Kind, NameOp, RenameMode};
use tokio::time::Instant;

use super::table::Table;

/// A directory is asked for with this change.
const CHANGES: u32 = 3;
/// As long as the changes are within so long.
const WITHIN: Duration = Duration::from_secs(5);
/// For so long it is not asked for, after somebody else wanted it.
const SHUNNED: Duration = Duration::from_secs(10);
/// Directories that are remembered.
const WISHES_MAX: usize = 1024;

/// What a mount does in a directory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    changes: u32,
    since: Instant,
    not_before: Option<Instant>,
}

/// Directories in which a change would be made here if they were delegated.
fn of(op: &NameOp) -> [Option<InodeId>; 2] {
    match op {
        NameOp::Create { parent, new, .. } if new.kind != Kind::Directory => [Some(*parent), None],
        NameOp::Unlink { parent, .. } => [Some(*parent), None],
        NameOp::Rename { parent, new_parent, mode, .. }
            if *mode != RenameMode::Exchange && parent.slot() == new_parent.slot() =>
        {
            [Some(*parent), Some(*new_parent)]
        }
        _ => [None; 2],
    }
}

impl Table {
    /// Whether a directory is to be asked for with the next change.
    pub fn wishes(&self, dir: InodeId) -> bool {
        let now = Instant::now();
        let is_wanted = |wish: &Wish| {
            let may = wish.not_before.is_none_or(|at| at <= now);
            may && wish.changes + 1 >= CHANGES && now - wish.since <= WITHIN
        };
        self.wishes.get(&dir).is_some_and(is_wanted)
            && !self.fresh.contains_key(&dir)
            && !self.dirs.contains_key(&dir)
            && !self.flying.contains_key(&dir)
    }

    /// A directory that is to be asked for before a change.
    pub fn wished(&self, op: &NameOp) -> Option<InodeId> {
        of(op).into_iter().flatten().find(|dir| self.wishes(*dir))
    }

    /// A change goes to the partition.
    pub fn changes(&mut self, op: &NameOp) {
        for dir in of(op).into_iter().flatten() {
            if dir == InodeId::ROOT || self.dirs.contains_key(&dir) || self.fresh.contains_key(&dir) {
                continue;
            }
            let wish = self.wish(dir);
            if wish.since.elapsed() > WITHIN {
                (wish.changes, wish.since) = (0, Instant::now());
            }
            wish.changes = wish.changes.saturating_add(1);
        }
    }

    /// Somebody else wants a directory, or it cannot be had.
    pub fn shun(&mut self, dir: InodeId) {
        self.wish(dir).not_before = Some(Instant::now() + SHUNNED);
    }

    fn wish(&mut self, dir: InodeId) -> &mut Wish {
        let now = Instant::now();
        if self.wishes.len() >= WISHES_MAX && !self.wishes.contains_key(&dir) {
            let not_now = |wish: &Wish| wish.not_before.is_some_and(|at| at > now);
            self.wishes.retain(|_, wish| not_now(wish) || now - wish.since <= WITHIN);
            if self.wishes.len() >= WISHES_MAX {
                self.wishes.clear();
            }
        }
        self.wishes.entry(dir).or_insert(Wish { changes: 0, since: now, not_before: None })
    }
}
