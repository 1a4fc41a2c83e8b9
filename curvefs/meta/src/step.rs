//! One request being applied: reads see its own changes, and nothing is kept until it is done.

use bytes::Bytes;
use curve_kv::Txn;
use curve_types::Term;
use curvefs_types::keys::Key;
use curvefs_types::{Attr, FsError, InodeId, MountId, TimeNs, Wire};

use crate::fail::Step;
use crate::others::Others;
use crate::rows::Header;
use crate::view::{Rows, View};

/// One request being applied. Its methods are in the files of their families; each either returns an answer or an
/// error, upon which everything is dropped.
pub(crate) struct Change<'t, 'base> {
    pub txn: &'t mut Txn<'base>,
    pub header: Header,
    header_before: Header,
    pub now: TimeNs,
    pub mount: MountId,
    /// The term of the log entry.
    pub term: Term,
    /// Whether this does what was prepared earlier: other changes came between.
    pub is_late: bool,
    /// What other partitions do for it.
    pub others: Others,
}

impl View for Change<'_, '_> {
    fn rows(&self) -> &dyn Rows {
        &*self.txn
    }

    fn asker(&self) -> MountId {
        self.mount
    }
}

/// A view of a transaction before there is a [`Change`].
pub(crate) struct TxnView<'t, 'base>(pub &'t Txn<'base>);

impl View for TxnView<'_, '_> {
    fn rows(&self) -> &dyn Rows {
        self.0
    }
}

impl<'t, 'base> Change<'t, 'base> {
    /// Begins.
    pub fn begin(
        txn: &'t mut Txn<'base>,
        now: TimeNs,
        mount: MountId,
        term: Term,
        others: Others,
    ) -> Step<Self> {
        let header = TxnView(txn).header()?;
        Ok(Self { txn, header_before: header.clone(), header, now, mount, term, is_late: false, others })
    }

    /// Writes what was kept aside.
    pub fn finish(&mut self) {
        if self.header != self.header_before {
            let header = self.header.clone();
            self.put(&Key::Header {}, &header);
            self.header_before = header;
        }
    }

    /// Forgets everything it has done so far.
    pub fn rewind(&mut self) {
        self.txn.discard();
        self.header = self.header_before.clone();
    }

    /// Sets a row.
    pub fn put<T: Wire>(&mut self, key: &Key, value: &T) {
        self.txn.put(key.encode(), value.to_row());
    }

    /// Sets a row that says nothing but that it is there, or whose value is bytes.
    pub fn put_bytes(&mut self, key: &Key, value: Bytes) {
        self.txn.put(key.encode(), value);
    }

    /// Marks.
    pub fn mark(&mut self, key: &Key) {
        self.put_bytes(key, Bytes::new());
    }

    /// Removes a row.
    pub fn delete(&mut self, key: &Key) {
        self.txn.delete(key.encode());
    }

    /// Whether an inode is this partition's.
    pub fn is_here(&self, inode: InodeId) -> bool {
        self.header.holds(inode)
    }

    /// `NotHere` unless an inode is this partition's.
    pub fn check_here(&self, inode: InodeId) -> Step<()> {
        if self.is_here(inode) {
            Ok(())
        } else {
            Err(FsError::NotHere { partition: self.header.partition }.into())
        }
    }

    /// Stores a changed inode: its version grows, and its change time is the request's, but never goes back: a part that was
    /// prepared earlier, or another leader's clock, may be behind.
    pub fn touch(&mut self, attr: &mut Attr) {
        attr.ctime = attr.ctime.max(self.now);
        attr.version += 1;
        let key = Key::Inode { inode: attr.inode };
        self.put(&key, attr);
    }

    /// Stores a directory whose entries have changed. What was prepared earlier does not undo a later change.
    pub fn touch_dir(&mut self, attr: &mut Attr) {
        attr.mtime = if self.is_late { attr.mtime.max(self.now) } else { self.now };
        self.touch(attr);
    }
}
