//! Which directories a mount asks for that it did not make: those in which it changes names again and again, while nobody else wants them. Pure.
//!
//! What is in them it does not know: a name is asked for before it is changed the first time, as the kernel does anyway, until all names are listed,
//! if they are not too many. Whoever had to give one back
//! does not ask for it again soon, and ever later if that goes on, so two mounts that work in one directory do so as if it was nobody's, but for a moment now and then. The
//! root is never asked for: everybody comes through it, and would wait for a mount that died.

use std::time::Duration;

use curvefs_types::{InodeId, Kind, NameOp, RenameMode};
use tokio::time::Instant;

use super::table::Table;

/// A directory is asked for with this change.
const CHANGES: u32 = 3;
/// As long as the changes are within so long.
const WITHIN: Duration = Duration::from_secs(5);
/// For so long it is not asked for after somebody else wanted it, and for twice as long each time again.
const SHUNNED_MIN: Duration = Duration::from_secs(1);
const SHUNNED_MAX: Duration = Duration::from_secs(60);
/// Whom nobody else wanted for so long is asked for as if nobody ever had.
const FORGIVEN: Duration = Duration::from_secs(120);
/// Directories that are remembered.
const WISHES_MAX: usize = 1024;

/// What a mount does in a directory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    changes: u32,
    since: Instant,
    /// When somebody else wanted it last, and how long it is not asked for then.
    shunned: Option<(Instant, Duration)>,
}

impl Wish {
    fn is_shunned(&self, now: Instant) -> bool {
        self.shunned.is_some_and(|(at, long)| now - at < long)
    }
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
        if !self.adopts {
            return false;
        }
        let now = Instant::now();
        let is_wanted =
            |wish: &Wish| !wish.is_shunned(now) && wish.changes + 1 >= CHANGES && now - wish.since <= WITHIN;
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
        let now = Instant::now();
        let wish = self.wish(dir);
        let before = wish.shunned.filter(|(at, _)| now - *at < FORGIVEN);
        let long = before.map_or(SHUNNED_MIN, |(_, long)| (2 * long).min(SHUNNED_MAX));
        wish.shunned = Some((now, long));
    }

    fn wish(&mut self, dir: InodeId) -> &mut Wish {
        let now = Instant::now();
        if self.wishes.len() >= WISHES_MAX && !self.wishes.contains_key(&dir) {
            self.wishes.retain(|_, wish| wish.is_shunned(now) || now - wish.since <= WITHIN);
            if self.wishes.len() >= WISHES_MAX {
                self.wishes.clear();
            }
        }
        self.wishes.entry(dir).or_insert(Wish { changes: 0, since: now, shunned: None })
    }
}

#[cfg(test)]
mod tests {
    use curvefs_types::Name;

    use super::*;

    const DIR: InodeId = InodeId(7);

    fn change(table: &mut Table, dir: InodeId) -> bool {
        let op = NameOp::Unlink { parent: dir, name: Name::try_from("f").unwrap() };
        let wished = table.wished(&op).is_some();
        table.changes(&op);
        wished
    }

    #[tokio::test(start_paused = true)]
    async fn a_directory_is_asked_for_with_the_third_change_and_ever_later_after_a_recall() {
        let mut table = Table::new(true);
        assert_eq!([0; 4].map(|_| change(&mut table, DIR)), [false, false, true, true]);
        assert_eq!([0; 4].map(|_| change(&mut table, InodeId::ROOT)), [false; 4]);
        tokio::time::advance(WITHIN + Duration::from_millis(1)).await;
        assert_eq!([0; 3].map(|_| change(&mut table, DIR)), [false, false, true]);
        let mut waits = Vec::new();
        for _ in 0..9 {
            table.shun(DIR);
            let begun = Instant::now();
            while !change(&mut table, DIR) {
                tokio::time::advance(Duration::from_millis(500)).await;
            }
            waits.push(begun.elapsed().as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        tokio::time::advance(FORGIVEN).await;
        table.shun(DIR);
        tokio::time::advance(SHUNNED_MIN).await;
        assert_eq!([0; 3].map(|_| change(&mut table, DIR)), [false, false, true]);
    }

    #[test]
    fn few_are_remembered() {
        let mut table = Table::new(true);
        for n in 0..3 * WISHES_MAX as u64 {
            change(&mut table, InodeId(n + 9));
        }
        assert!(table.wishes.len() <= WISHES_MAX);
    }
}
