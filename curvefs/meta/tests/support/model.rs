//! A file system as a plain tree in memory. Knows nothing of partitions, rows or versions; its ids are given to it.

use std::collections::{BTreeMap, BTreeSet};

use curvefs_types::{
    Attr, DIRECTORY_BYTES, DataRef, Extent, FsError, InodeId, Kind, MODE_SETGID, MODE_SETUID, NameOp,
    NewInode, Op, Place, RenameMode, SetAttr, SetTime, SliceId, TimeNs,
};

/// Files are cut into cells of this size; operations of the tests are whole cells. Four are a chunk.
pub const CELL: u64 = 16 << 20;

/// A cell's content: `None` is a hole, and of a slice which cell it is.
pub type Cell = Option<(Option<SliceId>, u32)>;

#[derive(Clone, Debug)]
pub struct Node {
    pub attr: Attr,
    pub entries: BTreeMap<String, InodeId>,
    pub cells: Vec<Cell>,
    pub xattrs: BTreeMap<String, Vec<u8>>,
    pub held: bool,
    pub names: Vec<InodeId>,
}

/// What the model says to an operation.
#[derive(Clone, PartialEq, Debug)]
pub enum Said {
    Done,
    Inode { inode: InodeId, created: bool },
    Written { inode: InodeId, base: u64 },
    Renamed { moved: InodeId, other: Option<InodeId> },
}

#[derive(Clone, Debug)]
pub struct Model {
    pub nodes: BTreeMap<InodeId, Node>,
    now: TimeNs,
}

fn blank(kind: Kind, inode: InodeId, now: TimeNs) -> Node {
    let is_dir = kind == Kind::Directory;
    let attr = Attr {
        inode,
        kind,
        mode: 0o755,
        uid: 0,
        gid: 0,
        nlink: if is_dir { 2 } else { 0 },
        rdev: 0,
        flags: 0,
        length: if is_dir { DIRECTORY_BYTES } else { 0 },
        allocated: 0,
        atime: now,
        mtime: now,
        ctime: now,
        parent: inode,
        version: 0,
        generation: 0,
    };
    Node {
        attr,
        entries: BTreeMap::new(),
        cells: Vec::new(),
        xattrs: BTreeMap::new(),
        held: false,
        names: Vec::new(),
    }
}

fn strip(mode: u32) -> u32 {
    let group = if mode & 0o010 != 0 { MODE_SETGID } else { 0 };
    mode & !MODE_SETUID & !group
}

impl Model {
    pub fn new() -> Self {
        let root = blank(Kind::Directory, InodeId::ROOT, 0);
        Self { nodes: [(InodeId::ROOT, root)].into(), now: 0 }
    }

    /// Attributes without what the model does not know: which of several directories a file is charged to, and versions.
    pub fn attr(&self, inode: InodeId) -> Attr {
        normal(self.nodes[&inode].attr)
    }

    fn node(&mut self, inode: InodeId) -> Result<&mut Node, FsError> {
        self.nodes.get_mut(&inode).ok_or(FsError::NotFound)
    }

    fn dir(&mut self, inode: InodeId) -> Result<&mut Node, FsError> {
        let node = self.node(inode)?;
        match node.attr.kind {
            Kind::Directory if node.attr.nlink == 0 => Err(FsError::NotFound),
            Kind::Directory => Ok(node),
            _ => Err(FsError::NotDir),
        }
    }

    fn file(&mut self, inode: InodeId) -> Result<&mut Node, FsError> {
        let node = self.node(inode)?;
        match node.attr.kind {
            Kind::File => Ok(node),
            Kind::Directory => Err(FsError::IsDir),
            _ => Err(FsError::Invalid),
        }
    }

    fn entry(&mut self, dir: InodeId, name: &str) -> Result<Option<InodeId>, FsError> {
        Ok(self.dir(dir)?.entries.get(name).copied())
    }

    fn is_dir(&self, inode: InodeId) -> bool {
        self.nodes[&inode].attr.is_dir()
    }

    fn set_attrs(&mut self, inode: InodeId, set: &SetAttr) -> Result<(), FsError> {
        let node = self.node(inode)?;
        if set.mode.is_some() && node.attr.kind == Kind::Symlink {
            return Err(FsError::NotSupported);
        }
        node.attr.mode = set.mode.unwrap_or(node.attr.mode);
        node.attr.uid = set.uid.unwrap_or(node.attr.uid);
        node.attr.gid = set.gid.unwrap_or(node.attr.gid);
        if let Some(SetTime::To { ns }) = set.mtime {
            node.attr.mtime = ns;
        }
        self.changed(inode, false);
        Ok(())
    }

    fn changed(&mut self, inode: InodeId, data: bool) {
        let now = self.now;
        let attr = &mut self.nodes.get_mut(&inode).unwrap().attr;
        attr.ctime = now;
        if data {
            attr.mtime = now;
        }
    }

    fn add(&mut self, dir: InodeId, name: &str, inode: InodeId) {
        let is_dir = self.is_dir(inode);
        let node = self.nodes.get_mut(&dir).unwrap();
        node.entries.insert(name.into(), inode);
        node.attr.nlink += u32::from(is_dir);
        let child = self.nodes.get_mut(&inode).unwrap();
        child.names.push(dir);
        if is_dir {
            child.attr.parent = dir;
        } else {
            child.attr.nlink += 1;
        }
        self.changed(dir, true);
    }

    /// Takes a name; the inode keeps its links.
    fn take(&mut self, dir: InodeId, name: &str) {
        let inode = self.nodes.get_mut(&dir).unwrap().entries.remove(name).unwrap();
        let is_dir = self.is_dir(inode);
        self.nodes.get_mut(&dir).unwrap().attr.nlink -= u32::from(is_dir);
        let child = self.nodes.get_mut(&inode).unwrap();
        let at = child.names.iter().position(|name| *name == dir).unwrap();
        child.names.remove(at);
        if !is_dir {
            child.attr.nlink -= 1;
        }
        self.changed(dir, true);
    }

    fn drop_name(&mut self, dir: InodeId, name: &str) -> InodeId {
        let inode = self.nodes[&dir].entries[name];
        self.take(dir, name);
        self.changed(inode, false);
        let node = self.nodes.get_mut(&inode).unwrap();
        if node.attr.is_dir() {
            node.attr.nlink = 0;
        }
        inode
    }

    /// Forgets inodes without names that nobody holds.
    pub fn sweep(&mut self) {
        self.nodes.retain(|_, node| node.attr.nlink > 0 || node.held);
    }

    fn make(&mut self, parent: InodeId, new: &NewInode, inode: InodeId) {
        let mut node = blank(new.kind, inode, self.now);
        let dir = &self.nodes[&parent].attr;
        node.attr.mode = new.mode;
        node.attr.uid = new.uid;
        node.attr.gid = new.gid;
        if dir.mode & MODE_SETGID != 0 {
            node.attr.gid = dir.gid;
            node.attr.mode |= if node.attr.is_dir() { MODE_SETGID } else { 0 };
        }
        if new.kind == Kind::Symlink {
            node.attr.length = new.target.len() as u64;
        }
        self.nodes.insert(inode, node);
    }

    fn is_below(&self, dir: InodeId, above: InodeId) -> bool {
        let mut at = dir;
        loop {
            if at == above {
                return true;
            }
            if at == InodeId::ROOT {
                return false;
            }
            at = self.nodes[&at].attr.parent;
        }
    }

    /// Does an operation at a time; `made` is the number of an inode that it makes.
    pub fn apply(&mut self, op: &Op, now: TimeNs, made: Option<InodeId>) -> Result<Said, FsError> {
        self.now = now;
        match op {
            Op::Name { op } => self.name_op(op, made),
            Op::SetAttr { inode, set } => {
                self.set_attrs(*inode, set)?;
                Ok(Said::Inode { inode: *inode, created: false })
            }
            Op::SetXattr { inode, xattr, create, replace } => {
                let node = self.node(*inode)?;
                let name = xattr.name.to_string();
                match node.xattrs.contains_key(&name) {
                    true if *create => return Err(FsError::Exists),
                    false if *replace => return Err(FsError::NoAttribute),
                    _ => node.xattrs.insert(name, xattr.value.to_vec()),
                };
                self.changed(*inode, false);
                Ok(Said::Inode { inode: *inode, created: false })
            }
            Op::RemoveXattr { inode, name } => {
                self.node(*inode)?.xattrs.remove(&name.to_string()).ok_or(FsError::NoAttribute)?;
                self.changed(*inode, false);
                Ok(Said::Inode { inode: *inode, created: false })
            }
            Op::Open { inode, truncate } => {
                self.node(*inode)?;
                if *truncate {
                    let node = self.file(*inode)?;
                    node.attr.mode = strip(node.attr.mode);
                    self.truncate(*inode, 0);
                }
                self.node(*inode)?.held = true;
                Ok(Said::Inode { inode: *inode, created: false })
            }
            Op::Close { inodes } => {
                for inode in inodes {
                    if let Ok(node) = self.node(*inode) {
                        node.held = false;
                    }
                }
                Ok(Said::Done)
            }
            _ => self.data_op(op),
        }
    }

    fn name_op(&mut self, op: &NameOp, made: Option<InodeId>) -> Result<Said, FsError> {
        match op {
            NameOp::Create { parent, name, new, open, or_open } => {
                let made_or_found = match self.entry(*parent, &name.to_string())? {
                    Some(found) if *or_open && self.nodes[&found].attr.kind == Kind::File => (found, false),
                    Some(_) => return Err(FsError::Exists),
                    None => {
                        let inode = made.expect("it is made");
                        self.make(*parent, new, inode);
                        self.add(*parent, &name.to_string(), inode);
                        (inode, true)
                    }
                };
                let (inode, created) = made_or_found;
                self.node(inode)?.held |= *open;
                Ok(Said::Inode { inode, created })
            }
            NameOp::Mkdir { parent, name, new, .. } => {
                if self.entry(*parent, &name.to_string())?.is_some() {
                    return Err(FsError::Exists);
                }
                let inode = made.expect("it is made");
                self.make(*parent, new, inode);
                self.add(*parent, &name.to_string(), inode);
                Ok(Said::Inode { inode, created: true })
            }
            NameOp::Unlink { parent, name } => {
                let found = self.entry(*parent, &name.to_string())?.ok_or(FsError::NotFound)?;
                if self.is_dir(found) {
                    return Err(FsError::IsDir);
                }
                let inode = self.drop_name(*parent, &name.to_string());
                Ok(Said::Inode { inode, created: false })
            }
            NameOp::Rmdir { parent, name } => {
                let found = self.entry(*parent, &name.to_string())?.ok_or(FsError::NotFound)?;
                self.check_empty_dir(found)?;
                let inode = self.drop_name(*parent, &name.to_string());
                Ok(Said::Inode { inode, created: false })
            }
            NameOp::Link { inode, parent, name } => {
                if self.entry(*parent, &name.to_string())?.is_some() {
                    return Err(FsError::Exists);
                }
                let node = self.node(*inode)?;
                if node.attr.is_dir() {
                    return Err(FsError::NotPermitted);
                }
                if node.attr.nlink == 0 {
                    return Err(FsError::NotFound);
                }
                self.add(*parent, &name.to_string(), *inode);
                self.changed(*inode, false);
                Ok(Said::Inode { inode: *inode, created: false })
            }
            NameOp::Rename { parent, name, new_parent, new_name, mode } => {
                self.rename((*parent, &name.to_string()), (*new_parent, &new_name.to_string()), *mode)
            }
        }
    }

    fn check_empty_dir(&self, inode: InodeId) -> Result<(), FsError> {
        let node = &self.nodes[&inode];
        if !node.attr.is_dir() {
            Err(FsError::NotDir)
        } else if node.entries.is_empty() {
            Ok(())
        } else {
            Err(FsError::NotEmpty)
        }
    }

    fn rename(
        &mut self,
        from: (InodeId, &str),
        to: (InodeId, &str),
        mode: RenameMode,
    ) -> Result<Said, FsError> {
        self.dir(to.0)?;
        let source = self.entry(from.0, from.1)?.ok_or(FsError::NotFound)?;
        let target = self.entry(to.0, to.1)?;
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(FsError::Exists),
            (RenameMode::Exchange, None) => return Err(FsError::NotFound),
            (_, Some(target)) if target == source => return Ok(Said::Done),
            _ => {}
        }
        let exchange = mode == RenameMode::Exchange;
        if let (Some(target), false) = (target, exchange) {
            match (self.is_dir(source), self.is_dir(target)) {
                (true, false) => return Err(FsError::NotDir),
                (false, true) => return Err(FsError::IsDir),
                _ => {}
            }
        }
        let other_into = exchange && target.is_some_and(|t| self.is_dir(t) && self.is_below(from.0, t));
        if (self.is_dir(source) && self.is_below(to.0, source)) || other_into {
            return Err(FsError::Invalid);
        }
        if let (Some(target), false) = (target, exchange) {
            if self.is_dir(target) {
                self.check_empty_dir(target)?;
            }
            self.drop_name(to.0, to.1);
        }
        self.take(from.0, from.1);
        if let (Some(target), true) = (target, exchange) {
            self.take(to.0, to.1);
            self.add(from.0, from.1, target);
            self.changed(target, false);
        }
        self.add(to.0, to.1, source);
        self.changed(source, false);
        Ok(Said::Renamed { moved: source, other: target })
    }

    fn data_op(&mut self, op: &Op) -> Result<Said, FsError> {
        let now = self.now;
        match op {
            Op::Truncate { inode, length, kill_priv } => {
                let node = self.file(*inode)?;
                if *kill_priv {
                    node.attr.mode = strip(node.attr.mode);
                }
                self.truncate(*inode, *length);
                Ok(Said::Inode { inode: *inode, created: false })
            }
            Op::Write { inode, place, extents, mtime, kill_priv, set, .. } => {
                let node = self.file(*inode)?;
                let base = if *place == Place::AtEnd { node.attr.length } else { 0 };
                for extent in extents {
                    node.put(base, extent);
                    node.attr.length = node.attr.length.max(base + extent.end());
                }
                node.attr.mtime = *mtime;
                node.attr.ctime = now;
                if *kill_priv {
                    node.attr.mode = strip(node.attr.mode);
                }
                node.count();
                self.set_attrs(*inode, set)?;
                Ok(Said::Written { inode: *inode, base })
            }
            Op::Punch { inode, offset, len } => {
                let node = self.file(*inode)?;
                for at in offset / CELL..(offset + len) / CELL {
                    if let Some(cell) = node.cells.get_mut(at as usize) {
                        *cell = None;
                    }
                }
                node.count();
                self.changed(*inode, true);
                Ok(Said::Inode { inode: *inode, created: false })
            }
            Op::Allocate { inode, offset, len, keep_size } => {
                let node = self.file(*inode)?;
                let end = offset + len;
                node.grow(end);
                for cell in &mut node.cells[(offset / CELL) as usize..(end / CELL) as usize] {
                    *cell = cell.or(Some((None, 0)));
                }
                if !keep_size {
                    node.attr.length = node.attr.length.max(end);
                }
                node.count();
                self.changed(*inode, true);
                Ok(Said::Inode { inode: *inode, created: false })
            }
            Op::CopyRange { .. } => self.copy_range(op),
            other => panic!("the model does not know {other:?}"),
        }
    }

    fn copy_range(&mut self, op: &Op) -> Result<Said, FsError> {
        let Op::CopyRange { from, from_offset, to, to_offset, len } = op else { unreachable!() };
        let source = self.file(*from)?.clone();
        let wanted = (*len).min(source.attr.length.saturating_sub(*from_offset));
        let node = self.file(*to)?;
        if wanted == 0 {
            return Ok(Said::Written { inode: *to, base: 0 });
        }
        if from == to && *from_offset < to_offset + wanted && *to_offset < from_offset + wanted {
            return Err(FsError::Invalid);
        }
        node.grow(to_offset + wanted);
        for n in 0..wanted / CELL {
            let cell = source.cells.get((from_offset / CELL + n) as usize).copied().flatten();
            node.cells[(to_offset / CELL + n) as usize] = cell;
        }
        node.attr.length = node.attr.length.max(to_offset + wanted);
        node.attr.mode = strip(node.attr.mode);
        node.count();
        self.changed(*to, true);
        Ok(Said::Written { inode: *to, base: wanted })
    }

    fn truncate(&mut self, inode: InodeId, length: u64) {
        let node = self.nodes.get_mut(&inode).unwrap();
        if length <= node.attr.length {
            node.cells.truncate((length / CELL) as usize);
        }
        if length == 0 {
            node.cells.clear();
        }
        node.attr.length = length;
        node.count();
        self.changed(inode, true);
    }

    /// Inodes that are there.
    pub fn alive(&self) -> BTreeSet<InodeId> {
        self.nodes.keys().copied().collect()
    }
}

impl Node {
    fn grow(&mut self, end: u64) {
        let cells = end.div_ceil(CELL) as usize;
        if self.cells.len() < cells {
            self.cells.resize(cells, None);
        }
    }

    fn put(&mut self, base: u64, extent: &Extent) {
        self.grow(base + extent.end());
        for n in 0..u64::from(extent.len) / CELL {
            let DataRef::Slice { slice, at, .. } = extent.data else { continue };
            let cell = u64::from(at) / CELL + n;
            self.cells[((base + extent.offset) / CELL + n) as usize] = Some((Some(slice), cell as u32));
        }
    }

    fn count(&mut self) {
        self.attr.allocated = self.cells.iter().flatten().count() as u64 * CELL;
    }
}

/// Without what the model does not know.
pub fn normal(attr: Attr) -> Attr {
    let parent = if attr.is_dir() { attr.parent } else { InodeId(0) };
    Attr { parent, version: 0, generation: 0, ..attr }
}

/// The cells of extents.
pub fn cells(extents: &[Extent]) -> Vec<Cell> {
    let mut cells = Vec::new();
    for extent in extents {
        for n in 0..u64::from(extent.len) / CELL {
            let at = (extent.offset / CELL + n) as usize;
            if cells.len() <= at {
                cells.resize(at + 1, None);
            }
            cells[at] = Some(match extent.data {
                DataRef::Slice { slice, at, .. } => (Some(slice), at / CELL as u32 + n as u32),
                _ => (None, 0),
            });
        }
    }
    cells
}
