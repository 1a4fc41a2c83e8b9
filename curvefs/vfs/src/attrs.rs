//! Attributes: `stat`, `chmod`, `chown`, `utimens`, `truncate`.

use std::time::Duration;

use curvefs_types::{Attr, FsError, InodeId, Kind, Op, SetAttr};

use crate::shared::now_ns;
use crate::vfs::Vfs;

impl Vfs {
    /// Attributes, with what was written here and is not published yet; and how long they may be believed.
    pub async fn get_attr(&self, id: InodeId) -> Result<(Attr, Duration), FsError> {
        let inode = self.core.inode(id);
        let (files, dirs) = (self.core.options.attr_timeout, self.core.options.dir_attr_timeout);
        if let Some(fresh) = inode.state().fresh(files, dirs) {
            return Ok(fresh);
        }
        let fetched = self.core.fetch_attr(&inode).await;
        drop(inode);
        if fetched.is_err() {
            self.core.release_inode(id);
        }
        fetched.map(|attr| (attr, self.core.timeout_of(&attr)))
    }

    /// Changes attributes: those that are named, no others. A new owner takes set-user-id and set-group-id away.
    pub async fn set_attr(&self, id: InodeId, mut set: SetAttr) -> Result<(Attr, Duration), FsError> {
        self.core.writable()?;
        let inode = self.core.inode(id);
        if (set.uid.is_some() || set.gid.is_some()) && set.mode.is_none() {
            let known = inode.state().attr();
            let kind = match known {
                Some((attr, _)) => attr.kind,
                None => self.core.fetch_attr(&inode).await?.kind,
            };
            set.kill_priv |= kind != Kind::Directory;
        }
        {
            // In order with writes, and with changes of the whole file, which may drop the bytes.
            let _order = inode.order.read().await;
            let mut state = inode.state();
            if state.defer(set, now_ns())
                && let Some((attr, _)) = state.attr()
            {
                return Ok((attr, self.core.timeout_of(&attr)));
            }
        }
        // Publishing sets the time of the last write, and attributes that are set with it: it has to come first.
        self.core.flush(&inode).await?;
        let attr = self.core.change_attr(Op::SetAttr { inode: id, set }).await?;
        let attr = self.core.heard(&inode, attr);
        Ok((attr, self.core.timeout_of(&attr)))
    }

    /// Sets a file's length. What is cut off is gone; what is added reads as zeros.
    pub async fn truncate(
        &self,
        id: InodeId,
        length: u64,
        kill_priv: bool,
    ) -> Result<(Attr, Duration), FsError> {
        self.core.writable()?;
        let inode = self.core.inode(id);
        if inode.state().meets_tail(u64::MAX) || self.core.meta.is_unpublished(id) {
            // What is not cut off is stored before the file may be published.
            self.core.flush(&inode).await?;
        }
        let _order = self.core.alone(&inode).await?;
        let _one = inode.publishing().await;
        if inode.state().attr().is_none() {
            self.core.fetch_attr(&inode).await?;
        }
        inode.state().change();
        let guard = crate::space::Changing::new(&inode);
        let changed = self.core.change_attr(Op::Truncate { inode: id, length, kill_priv }).await;
        let attr = guard.end(changed, None)?;
        let freed = inode.state().cut(length, u64::MAX, now_ns());
        self.core.budget.free(freed);
        self.core.tell_kernel(&inode);
        let attr = inode.state().attr().map_or(attr, |(attr, _)| attr);
        Ok((attr, self.core.timeout_of(&attr)))
    }
}
