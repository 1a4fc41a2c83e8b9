//! Slices whose bytes wait in the partition until the store has them.
//!
//! A mount that must make few bytes durable at once sends them with the extents ([`curvefs_types::Op::Write`]): one replicated change, and no
//! request to the store before it. The leader moves them there later and says so ([`curvefs_types::Op::Stored`]). What was
//! overwritten or deleted meanwhile never goes there.
//!
//! - A staged slice is in at least one extent; with the last its bytes go.
//! - Extents name a staged slice as any other: nothing about a file changes when the store has it.
//! - What is freed is garbage although the store may never have had it: the leader of a term before may be writing it
//!   just now. A leader that has written a slice too late makes it garbage again.
//! - The header knows how many bytes wait.

use curvefs_types::keys::Key;
use curvefs_types::limits::{STAGED_BYTES_MAX, STAGED_PER_REQUEST_MAX, STAGED_SLICE_BYTES_MAX};
use curvefs_types::{FsError, Reply, SliceRef, Staged};

use crate::fail::Step;
use crate::rows::SliceRow;
use crate::step::Change;
use crate::view::View;

impl Change<'_, '_> {
    /// Refuses what a write may not bring.
    pub fn check_staged(&self, staged: &[Staged]) -> Step<()> {
        let sound = |staged: &Staged| {
            staged.slice.bytes <= STAGED_SLICE_BYTES_MAX
                && staged.content.len() == staged.slice.bytes as usize
        };
        let bytes: usize = staged.iter().map(|staged| staged.content.len()).sum();
        if bytes > STAGED_PER_REQUEST_MAX || !staged.iter().all(sound) {
            return Err(FsError::Invalid.into());
        }
        if !staged.is_empty() && self.header.staged + bytes as u64 > STAGED_BYTES_MAX {
            return Err(FsError::StageFull.into());
        }
        Ok(())
    }

    /// Keeps the bytes of slices that were checked, and that are in extents now.
    pub fn stage(&mut self, staged: &[Staged]) -> Step<()> {
        let staged_at = u64::try_from(self.now).unwrap_or(0).max(1);
        for Staged { slice, content } in staged {
            let key = Key::Slice { slice: slice.slice };
            let row = self.row::<SliceRow>(&key)?.filter(|row| row.staged_at == 0).ok_or(FsError::Invalid)?;
            self.put(&key, &SliceRow { staged_at, ..row });
            self.put_bytes(&Key::Staged { staged_at, slice: slice.slice }, content.clone());
            self.header.staged += u64::from(slice.bytes);
        }
        Ok(())
    }

    /// Lets go of a slice's bytes, if they are here.
    pub fn unstage(&mut self, slice: SliceRef, row: SliceRow) {
        if row.staged_at > 0 {
            self.delete(&Key::Staged { staged_at: row.staged_at, slice: slice.slice });
            self.header.staged = self.header.staged.saturating_sub(u64::from(slice.bytes));
        }
    }

    /// The store has slices.
    pub fn stored(&mut self, slices: &[SliceRef]) -> Step<Reply> {
        for slice in slices {
            let key = Key::Slice { slice: slice.slice };
            match self.row::<SliceRow>(&key)? {
                Some(row) => {
                    self.unstage(*slice, row);
                    self.put(&key, &SliceRow { staged_at: 0, ..row });
                }
                None => self.discard(*slice),
            }
        }
        Ok(Reply::Done)
    }
}
