//! Reading rows: what `apply` and `query` have in common.

use bytes::Bytes;
use curve_kv::{KeyRange, KvError, Reader, Row, Txn};
use curvefs_types::keys::{Key, tag};
use curvefs_types::{Attr, Dentry, Extent, FsError, InodeId, Kind, Name, Wire};

use crate::fail::{Step, missing};
use crate::rows::{ExtentRow, Header, LocksRow, SessionRow, ToldRow, UsageRow};
use curvefs_types::MountId;
use curvefs_types::limits::CHUNK_BYTES;

/// Rows fetched by one scan.
pub(crate) const PAGE: usize = 128;
/// Rows that are read first where few are expected.
const FEW: usize = 4;

/// Something with rows.
pub(crate) trait Rows {
    fn get_row(&self, key: &[u8]) -> Result<Option<Bytes>, KvError>;
    fn scan_rows(&self, range: &KeyRange, limit: usize) -> Result<Vec<Row>, KvError>;
}

impl Rows for Txn<'_> {
    fn get_row(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.get(key)
    }

    fn scan_rows(&self, range: &KeyRange, limit: usize) -> Result<Vec<Row>, KvError> {
        self.scan(range, limit)
    }
}

impl Rows for &dyn Reader {
    fn get_row(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.get(key)
    }

    fn scan_rows(&self, range: &KeyRange, limit: usize) -> Result<Vec<Row>, KvError> {
        self.scan(range, limit)
    }
}

/// All keys between two, the first included.
pub(crate) fn between(from: &Key, to: &Key) -> KeyRange {
    KeyRange { from: from.encode().into(), to: Some(to.encode().into()) }
}

/// Typed reads of rows.
pub(crate) trait View {
    /// Where the rows are.
    fn rows(&self) -> &dyn Rows;

    /// Who wants to know, where names of directories are concerned that others may have.
    fn asker(&self) -> MountId {
        MountId::SERVERS
    }

    /// A row's value.
    fn row<T: Wire>(&self, key: &Key) -> Step<Option<T>> {
        Ok(match self.rows().get_row(&key.encode())? {
            Some(bytes) => Some(T::from_row(&bytes)?),
            None => None,
        })
    }

    /// Whether there is a row.
    fn has(&self, key: &Key) -> Step<bool> {
        Ok(self.rows().get_row(&key.encode())?.is_some())
    }

    /// At most `limit` rows.
    fn page(&self, range: &KeyRange, limit: usize) -> Step<Vec<(Key, Bytes)>> {
        let rows = self.rows().scan_rows(range, limit)?;
        rows.into_iter().map(|(key, value)| Ok((Key::decode(&key)?, value))).collect()
    }

    /// Whether a range has a row.
    fn any(&self, range: &KeyRange) -> Step<bool> {
        Ok(!self.rows().scan_rows(range, 1)?.is_empty())
    }

    /// The partition itself.
    fn header(&self) -> Step<Header> {
        self.row(&Key::Header {})?.ok_or_else(|| missing("header"))
    }

    /// An inode that is there.
    fn inode(&self, inode: InodeId) -> Step<Attr> {
        Ok(self.row(&Key::Inode { inode })?.ok_or(FsError::NotFound)?)
    }

    /// An inode that is there and that no transaction holds.
    fn free_inode(&self, inode: InodeId) -> Step<Attr> {
        self.check_inode_free(inode)?;
        self.inode(inode)
    }

    /// A directory that is there, with a name, and that neither a transaction nor another mount holds.
    fn free_dir(&self, inode: InodeId) -> Step<Attr> {
        let attr = self.free_inode(inode)?;
        if attr.kind != Kind::Directory {
            return Err(FsError::NotDir.into());
        }
        self.check_holder(inode)?;
        if attr.nlink == 0 { Err(FsError::NotFound.into()) } else { Ok(attr) }
    }

    /// The mount that a directory is delegated to.
    fn holder_of(&self, dir: InodeId) -> Step<Option<MountId>> {
        self.row(&Key::Delegation { dir })
    }

    /// `Delegated` if another mount than the one that asks has a directory.
    fn check_holder(&self, dir: InodeId) -> Step<()> {
        match self.holder_of(dir)? {
            Some(holder) if holder != self.asker() => Err(FsError::Delegated { dir }.into()),
            _ => Ok(()),
        }
    }

    /// `Busy` if a transaction holds the inode.
    fn check_inode_free(&self, inode: InodeId) -> Step<()> {
        if self.has(&Key::InodeLock { inode })? { Err(FsError::Busy.into()) } else { Ok(()) }
    }

    /// What a name says, if no transaction holds it.
    fn free_dentry(&self, dir: InodeId, name: &Name) -> Step<Option<Dentry>> {
        if self.has(&Key::NameLock { dir, name: name.clone() })? {
            return Err(FsError::Busy.into());
        }
        self.row(&Key::Dentry { dir, name: name.clone() })
    }

    /// Whether a directory has entries.
    fn has_entries(&self, dir: InodeId) -> Step<bool> {
        self.any(&KeyRange::prefix(Key::prefix(tag::DENTRY, dir.0)))
    }

    /// Whether any mount holds an inode open.
    fn is_held(&self, inode: InodeId) -> Step<bool> {
        self.any(&KeyRange::prefix(Key::prefix(tag::HOLDER, inode.0)))
    }

    /// A directory's counters.
    fn usage(&self, dir: InodeId) -> Step<UsageRow> {
        Ok(self.row(&Key::Usage { dir })?.unwrap_or_default())
    }

    /// What a directory was told by a child that it names.
    fn told(&self, dir: InodeId, child: InodeId) -> Step<Option<ToldRow>> {
        self.row(&Key::Told { dir, child })
    }

    /// A mount.
    fn session(&self, mount: MountId) -> Step<SessionRow> {
        Ok(self.row(&Key::Session { mount })?.unwrap_or_default())
    }

    /// File locks.
    fn locks(&self, inode: InodeId) -> Step<LocksRow> {
        Ok(self.row(&Key::Locks { inode })?.unwrap_or_default())
    }

    /// At most `limit` extents with a byte in `from..to`, in order.
    fn extents(&self, inode: InodeId, from: u64, to: u64, limit: usize) -> Step<Vec<Extent>> {
        if from >= to {
            return Ok(Vec::new());
        }
        // Keys have the end. An extent is no longer than a chunk.
        let first = Key::Extent { inode, end: from.saturating_add(1) };
        let range = match to.checked_add(CHUNK_BYTES) {
            Some(end) => between(&first, &Key::Extent { inode, end }),
            None => {
                let all = KeyRange::prefix(Key::prefix(tag::EXTENT, inode.0));
                KeyRange { from: first.encode().into(), to: all.to }
            }
        };
        // Most ranges meet one extent or two: a few rows first, more if those are not all.
        let (mut extents, mut range, mut rows) = (Vec::new(), range, FEW.min(limit));
        loop {
            let page = self.page(&range, rows)?;
            let is_last = page.len() < rows;
            for (key, value) in page {
                let Key::Extent { end, .. } = key else { return Err(missing("extent")) };
                let extent =
                    ExtentRow::from_row(&value)?.extent(end).ok_or_else(|| missing("a possible extent"))?;
                if extent.offset >= to {
                    return Ok(extents);
                }
                extents.push(extent);
            }
            rows = (rows * FEW).min(limit - extents.len());
            let Some(last) = extents.last().filter(|_| !is_last && rows > 0) else { return Ok(extents) };
            range.from = Key::Extent { inode, end: last.end().saturating_add(1) }.encode().into();
        }
    }
}
