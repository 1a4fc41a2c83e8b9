//! Reading: published bytes out of the store, covered by what is not published yet.

use std::sync::Arc;

use bytes::Bytes;
use curvefs_types::limits::{EXTENTS_PER_REQUEST_MAX, FILE_BYTES_MAX};
use curvefs_types::{Answer, Attr, Extent, FsError, Query};
use futures::{StreamExt, TryStreamExt};

use crate::dirty::overlay_one;
use crate::extents::Window;
use crate::handle::FileHandle;
use crate::inode::{Inode, Look};
use crate::shared::{Core, locked};
use crate::vfs::Vfs;

/// Extents of one read that are fetched at once.
const READS_AT_ONCE: usize = 32;
/// How often changes of this mount may come between asking for extents and using them, before they are kept out.
const LOOKS_MAX: usize = 4;
/// The same for changes of others, which come between pages of extents only.
const QUIET_LOOKS_MAX: usize = 64;

impl Vfs {
    /// Reads at most `len` bytes; fewer at the end of the file.
    pub async fn read(&self, handle: u64, offset: u64, len: u32) -> Result<Bytes, FsError> {
        Ok(joined(self.read_pieces(handle, offset, len).await?))
    }

    /// [`read`](Self::read) in the pieces that the bytes are in, in their order.
    pub async fn read_pieces(&self, handle: u64, offset: u64, len: u32) -> Result<Vec<Bytes>, FsError> {
        let file = self.file(handle)?;
        if !file.mode.read {
            return Err(FsError::Access);
        }
        let metering = self.core.counters.reads.begin();
        let pieces = self.core.read_pieces(&file.inode, offset, u64::from(len)).await?;
        let read = pieces.iter().map(|piece| piece.len() as u64).sum();
        metering.done(read);
        self.read_ahead(&file, offset, read);
        Ok(pieces)
    }

    fn read_ahead(&self, file: &FileHandle, offset: u64, len: u64) {
        if len == 0 {
            return;
        }
        let range = locked(&file.ahead).read(offset, len, self.core.options.read_cache_bytes);
        let Some((from, to)) = range.filter(|(from, _)| *from < file.inode.state().length()) else { return };
        let (core, inode) = (self.core.clone(), file.inode.clone());
        self.core.spawn(async move {
            // Only a hint: the read itself reports what is wrong.
            if let Ok(look) = core.look(&inode, from, to - from).await {
                let warm = |extent| core.cache.warm(&core.data, extent);
                futures::stream::iter(look.extents).for_each_concurrent(READS_AT_ONCE, warm).await;
            }
        });
    }
}

impl Core {
    /// Bytes of a file as they are now.
    pub async fn read_bytes(&self, inode: &Arc<Inode>, offset: u64, len: u64) -> Result<Bytes, FsError> {
        Ok(joined(self.read_pieces(inode, offset, len).await?))
    }

    async fn read_pieces(&self, inode: &Arc<Inode>, offset: u64, len: u64) -> Result<Vec<Bytes>, FsError> {
        let look = self.look(inode, offset, len).await?;
        match self.in_time(self.assemble(&look, offset, len)).await {
            Err(FsError::DataLost) => {
                // Perhaps the slice went with an older state of the file.
                inode.state().forget_extents();
                self.fetch_attr(inode).await?;
                let look = self.look(inode, offset, len).await?;
                self.in_time(self.assemble(&look, offset, len)).await
            }
            other => other,
        }
    }

    /// A consistent look at a range.
    async fn look(&self, inode: &Inode, from: u64, len: u64) -> Result<Look, FsError> {
        for _ in 0..LOOKS_MAX {
            if let Some(look) = inode.state().look(from, len) {
                return Ok(look);
            }
            self.fetch_extents(inode, from, len).await?;
        }
        let _quiet = inode.publishing().await;
        for _ in 0..QUIET_LOOKS_MAX {
            if let Some(look) = inode.state().look(from, len) {
                return Ok(look);
            }
            // With nothing of our own under way an answer is as new as what is known.
            self.fetch_extents(inode, from, len).await?;
        }
        Err(FsError::Changed)
    }

    /// Asks for extents so that a range is known: of the whole file if one answer holds them, else from the range on.
    async fn fetch_extents(&self, inode: &Inode, from: u64, len: u64) -> Result<(), FsError> {
        let (attr, extents, end) = self.ask_extents(inode, 0, FILE_BYTES_MAX).await?;
        if end {
            inode.state().learn(attr, Window::new(attr.generation, 0, FILE_BYTES_MAX, extents));
            self.tell_kernel(inode);
            return Ok(());
        }
        let (mut at, mut all) = (from, Vec::new());
        loop {
            let (now, extents, end) = self.ask_extents(inode, at, FILE_BYTES_MAX).await?;
            if now.generation != attr.generation {
                // Pages of two states of the file do not fit together.
                self.heard(inode, now);
                return Ok(());
            }
            all.extend(extents);
            let known_to = if end { FILE_BYTES_MAX } else { all.last().map_or(FILE_BYTES_MAX, Extent::end) };
            if known_to >= from.saturating_add(len) {
                inode.state().learn(attr, Window::new(attr.generation, from, known_to, all));
                self.tell_kernel(inode);
                return Ok(());
            }
            at = known_to;
        }
    }

    async fn ask_extents(
        &self,
        inode: &Inode,
        at: u64,
        to: u64,
    ) -> Result<(Attr, Vec<Extent>, bool), FsError> {
        let limit = EXTENTS_PER_REQUEST_MAX as u32;
        let query = Query::Extents { inode: inode.id, offset: at, len: to - at, limit };
        match self.query(query).await? {
            Answer::Extents { attr, extents, end, staged } => {
                self.data.told(inode.id, staged);
                Ok((attr, extents, end))
            }
            _ => Err(FsError::Corrupt),
        }
    }

    async fn assemble(&self, look: &Look, offset: u64, len: u64) -> Result<Vec<Bytes>, FsError> {
        let end = offset.saturating_add(len).min(look.length);
        let wanted = end.saturating_sub(offset) as usize;
        let read = |extent: Extent| async move {
            Ok::<(Extent, Vec<Bytes>), FsError>((extent, self.cache.read(&self.data, extent).await?))
        };
        let parts: Vec<(Extent, Vec<Bytes>)> = futures::stream::iter(look.extents.clone())
            .map(read)
            .buffered(READS_AT_ONCE)
            .try_collect()
            .await?;
        let mut at = offset;
        let adjoin =
            parts.iter().all(|(extent, _)| std::mem::replace(&mut at, extent.end()) == extent.offset);
        if adjoin && at == offset + wanted as u64 && look.over.is_empty() {
            return Ok(parts.into_iter().flat_map(|(_, pieces)| pieces).collect());
        }
        // In order, within the range, and never overlapping: only what is between them is zeros.
        let mut out = Vec::with_capacity(wanted);
        for (extent, pieces) in parts {
            out.resize((extent.offset - offset) as usize, 0);
            pieces.iter().for_each(|piece| out.extend_from_slice(piece));
        }
        out.resize(wanted, 0);
        for (at, bytes) in &look.over {
            overlay_one(*at, bytes, offset, &mut out);
        }
        Ok(vec![out.into()])
    }
}

fn joined(pieces: Vec<Bytes>) -> Bytes {
    match &pieces[..] {
        [only] => only.clone(),
        pieces => pieces.concat().into(),
    }
}
