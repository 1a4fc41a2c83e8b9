//! The end of inodes and of slices.

use curve_kv::KeyRange;
use curvefs_types::keys::{Key, tag};
use curvefs_types::{Attr, Freed, InodeId, Reply, SliceRef};

use crate::fail::Step;
use crate::rows::SliceRow;
use crate::step::Change;
use crate::view::{PAGE, View};

/// Extents that are freed in the step that takes the last name; a larger file is drained by servers in several.
pub(crate) const REAPED_AT_ONCE: usize = 64;

impl Change<'_, '_> {
    /// Frees at most `budget` extents of a doomed inode that nobody holds, and removes it when none is left. What is left of
    /// the budget; `None` when the inode is still there.
    pub fn reap(&mut self, inode: InodeId, budget: usize) -> Step<Option<usize>> {
        let Some(mut attr) = self.row::<Attr>(&Key::Inode { inode })? else {
            self.delete(&Key::Doomed { inode });
            return Ok(Some(budget));
        };
        let mut left = budget;
        while left > 0 {
            let extents = self.extents(inode, 0, u64::MAX, left.min(PAGE))?;
            if extents.is_empty() {
                self.remove_inode(&attr)?;
                return Ok(Some(left));
            }
            left -= extents.len();
            for extent in &extents {
                self.remove_extent(&mut attr, extent)?;
            }
            self.put(&Key::Inode { inode }, &attr);
        }
        Ok(None)
    }

    fn remove_inode(&mut self, attr: &Attr) -> Step<()> {
        let inode = attr.inode;
        self.count(Some(attr), None);
        for key in [
            Key::Inode { inode },
            Key::Target { inode },
            Key::Locks { inode },
            Key::Usage { dir: inode },
            Key::Dirty { inode },
            Key::Doomed { inode },
        ] {
            self.delete(&key);
        }
        for kind in [tag::XATTR, tag::LINK] {
            self.delete_prefix(Key::prefix(kind, inode.0))?;
        }
        Ok(())
    }

    fn delete_prefix(&mut self, prefix: Vec<u8>) -> Step<()> {
        let range = KeyRange::prefix(prefix);
        loop {
            let page = self.page(&range, PAGE)?;
            if page.is_empty() {
                return Ok(());
            }
            page.iter().for_each(|(key, _)| self.delete(key));
        }
    }

    /// Goes on with doomed inodes.
    pub fn drain(&mut self, limit: u32) -> Step<Reply> {
        let mut left = limit as usize;
        let mut range = KeyRange::prefix(Key::kind(tag::DOOMED));
        loop {
            let page = self.page(&range, PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(Reply::Progress { more: false }) };
            range = range.after(&last.encode());
            for (key, _) in page {
                let Key::Doomed { inode } = key else { continue };
                if self.is_held(inode)? {
                    continue;
                }
                // An inode without extents costs too.
                match self.reap(inode, left)? {
                    Some(rest) if rest > 1 => left = rest - 1,
                    _ => return Ok(Reply::Progress { more: true }),
                }
            }
        }
    }

    /// One extent more is in a slice.
    pub fn add_reference(&mut self, slice: SliceRef) -> Step<()> {
        let key = Key::Slice { slice: slice.slice };
        let mut row = self.row::<SliceRow>(&key)?.unwrap_or_default();
        row.references = row.references.saturating_add(1);
        self.put(&key, &row);
        Ok(())
    }

    /// One extent less is in a slice. Without any it is garbage.
    pub fn drop_reference(&mut self, slice: SliceRef) -> Step<()> {
        let key = Key::Slice { slice: slice.slice };
        let row = self.row::<SliceRow>(&key)?.unwrap_or_default();
        if row.references > 1 {
            self.put(&key, &SliceRow { references: row.references - 1, ..row });
            return Ok(());
        }
        self.unstage(slice, row);
        self.delete(&key);
        self.discard(slice);
        Ok(())
    }

    /// A slice is to be deleted from the store.
    pub fn discard(&mut self, slice: SliceRef) {
        let freed_at = u64::try_from(self.now).unwrap_or(0);
        self.put(&Key::Garbage { freed_at, slice: slice.slice }, &slice.bytes);
    }

    /// Slices that the store has deleted.
    pub fn reclaimed(&mut self, slices: &[Freed]) -> Reply {
        for freed in slices {
            self.delete(&Key::Garbage { freed_at: freed.at_ns, slice: freed.slice.slice });
        }
        Reply::Done
    }
}
