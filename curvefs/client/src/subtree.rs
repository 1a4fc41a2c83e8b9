//! A directory of a file system as the root of a mount.

use std::sync::Arc;

use curvefs_types::{
    Answer, Attr, FsError, FsFuture, FsId, InodeId, Kind, Metadata, Name, NameOp, Op, Query, Reply, Usage,
};

/// Shows a directory as [`InodeId::ROOT`], and everything below it as it is.
///
/// The directory's own number is never told, and the real root's number never comes back, since no name leads up there. It
/// narrows what programs see; it is no wall: who sends requests of his own is not held by it.
pub struct Subtree {
    inner: Arc<dyn Metadata>,
    top: InodeId,
}

impl Subtree {
    /// Looks the path up (names with `/` between them). Symbolic links are not followed.
    pub async fn open(inner: Arc<dyn Metadata>, path: &str) -> Result<Self, FsError> {
        let mut top = InodeId::ROOT;
        for step in path.split('/').filter(|step| !step.is_empty()) {
            let answer = inner.query(Query::Lookup { parent: top, name: Name::try_from(step)? }).await?;
            let Answer::Entry { dentry, .. } = answer else { return Err(FsError::Corrupt) };
            if dentry.kind != Kind::Directory {
                return Err(FsError::NotDir);
            }
            top = dentry.inode;
        }
        Ok(Self { inner, top })
    }

    /// Shows a directory that was looked up before: its path may lead elsewhere by now.
    pub fn at(inner: Arc<dyn Metadata>, top: InodeId) -> Self {
        Self { inner, top }
    }

    /// The directory's own number.
    pub fn top(&self) -> InodeId {
        self.top
    }

    fn inward(&self, inode: InodeId) -> InodeId {
        if inode == InodeId::ROOT { self.top } else { inode }
    }

    fn outward(&self, inode: InodeId) -> InodeId {
        if inode == self.top { InodeId::ROOT } else { inode }
    }

    fn attr(&self, attr: Attr) -> Attr {
        let parent = if attr.inode == self.top { InodeId::ROOT } else { self.outward(attr.parent) };
        Attr { inode: self.outward(attr.inode), parent, ..attr }
    }

    fn name_op(&self, mut op: NameOp) -> NameOp {
        let inward = |inode: &mut InodeId| *inode = self.inward(*inode);
        match &mut op {
            NameOp::Create { parent, .. }
            | NameOp::Mkdir { parent, .. }
            | NameOp::Unlink { parent, .. }
            | NameOp::Rmdir { parent, .. } => inward(parent),
            NameOp::Link { inode: one, parent: other, .. }
            | NameOp::Rename { parent: one, new_parent: other, .. } => {
                inward(one);
                inward(other);
            }
        }
        op
    }

    fn op(&self, mut op: Op) -> Op {
        let inward = |inode: &mut InodeId| *inode = self.inward(*inode);
        match &mut op {
            Op::Name { op: names } => {
                let op = self.name_op(names.clone());
                return Op::Name { op };
            }
            Op::SetAttr { inode, .. }
            | Op::Truncate { inode, .. }
            | Op::Write { inode, .. }
            | Op::Punch { inode, .. }
            | Op::Allocate { inode, .. }
            | Op::SetXattr { inode, .. }
            | Op::RemoveXattr { inode, .. }
            | Op::Open { inode, .. }
            | Op::Delegate { dir: inode, .. }
            | Op::Lock { inode, .. }
            | Op::Unlock { inode, .. } => inward(inode),
            Op::CopyRange { from, to, .. } => {
                inward(from);
                inward(to);
            }
            Op::Close { inodes } => inodes.iter_mut().for_each(inward),
            Op::Publish { dirs, .. } => dirs.iter_mut().for_each(|published| {
                inward(&mut published.dir);
                published.born.iter_mut().for_each(|born| inward(&mut born.attr.parent));
                let targets = published.moved.iter_mut().filter_map(|moved| moved.to.as_mut());
                targets.for_each(|to| inward(&mut to.dir));
            }),
            // Servers ask for these; they do not come from a mount.
            Op::Prepare { .. }
            | Op::Decide { .. }
            | Op::Finish { .. }
            | Op::Resolve { .. }
            | Op::Forget { .. }
            | Op::Tell { .. }
            | Op::ToldDone { .. }
            | Op::Settle { .. }
            | Op::Drain { .. }
            | Op::Reclaimed { .. }
            | Op::Stored { .. }
            | Op::Fence { .. }
            | Op::ReleaseMount { .. }
            | Op::Revoke { .. } => {}
        }
        op
    }

    fn query_in(&self, mut query: Query) -> Query {
        let inward = |inode: &mut InodeId| *inode = self.inward(*inode);
        match &mut query {
            Query::Lookup { parent: inode, .. }
            | Query::GetAttr { inode }
            | Query::ReadDir { inode, .. }
            | Query::ReadLink { inode }
            | Query::GetXattr { inode, .. }
            | Query::ListXattr { inode }
            | Query::Extents { inode, .. }
            | Query::Staged { inode, .. }
            | Query::DirUsage { inode }
            | Query::StatFs { inode }
            | Query::GetLock { inode, .. } => inward(inode),
            Query::Recalls { inode, known } => {
                inward(inode);
                known.iter_mut().for_each(inward);
            }
            Query::GetAttrs { inodes } => inodes.iter_mut().for_each(inward),
            Query::Garbage { .. }
            | Query::StagedSlices { .. }
            | Query::Untold { .. }
            | Query::PreparedTxs { .. }
            | Query::CommittedTxs { .. } => {}
        }
        query
    }

    fn reply(&self, reply: Reply) -> Reply {
        match reply {
            Reply::Attr { attr, created } => Reply::Attr { attr: self.attr(attr), created },
            Reply::Written { attr, base } => Reply::Written { attr: self.attr(attr), base },
            Reply::Renamed { moved, other } => {
                Reply::Renamed { moved: self.attr(moved), other: other.map(|attr| self.attr(attr)) }
            }
            Reply::Delegated { attr, reserved } => Reply::Delegated { attr: self.attr(attr), reserved },
            Reply::Published { mut refused, mut unmoved, reserved } => {
                refused.iter_mut().for_each(|inode| *inode = self.outward(*inode));
                unmoved.iter_mut().for_each(|at| at.dir = self.outward(at.dir));
                Reply::Published { refused, unmoved, reserved }
            }
            other => other,
        }
    }

    fn answer(&self, mut answer: Answer) -> Answer {
        match &mut answer {
            Answer::Entry { attr, .. } => *attr = attr.map(|attr| self.attr(attr)),
            Answer::Attrs { attrs } => attrs.iter_mut().for_each(|attr| *attr = self.attr(*attr)),
            Answer::Extents { attr, .. } => *attr = self.attr(*attr),
            Answer::Recalls { dirs } => dirs.iter_mut().for_each(|dir| *dir = self.outward(*dir)),
            Answer::Page { entries, .. } => {
                entries.iter_mut().for_each(|entry| entry.attr = entry.attr.map(|attr| self.attr(attr)));
            }
            _ => {}
        }
        answer
    }
}

impl Metadata for Subtree {
    fn fs(&self) -> FsId {
        self.inner.fs()
    }

    fn change(&self, op: Op) -> FsFuture<'_, Reply> {
        let op = self.op(op);
        Box::pin(async move { self.inner.change(op).await.map(|reply| self.reply(reply)) })
    }

    fn query(&self, query: Query) -> FsFuture<'_, Answer> {
        let query = self.query_in(query);
        Box::pin(async move { self.inner.query(query).await.map(|answer| self.answer(answer)) })
    }

    /// What is below the directory, as far as it was told.
    fn stat_fs(&self) -> FsFuture<'_, Usage> {
        Box::pin(async move {
            match self.inner.query(Query::DirUsage { inode: self.top }).await? {
                Answer::DirUsage { usage } => Ok(usage.recursive.plus(Usage::DIRECTORY)),
                _ => Err(FsError::Corrupt),
            }
        })
    }
}
