//! The directory tree of a simulated disk: what is seen, what would survive a crash, and what lies between.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use rand::Rng;
use rand::rngs::StdRng;

/// Number of a file's content.
pub(super) type InodeId = u64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Node {
    Dir,
    File(InodeId),
}

#[derive(Clone)]
enum NameChange {
    Put(PathBuf, Node),
    Remove(PathBuf),
    Rename { from: PathBuf, to: PathBuf, node: Node },
}

impl NameChange {
    fn touches(&self, dir: &Path) -> bool {
        match self {
            NameChange::Put(path, _) | NameChange::Remove(path) => path.parent() == Some(dir),
            NameChange::Rename { from, to, .. } => from.parent() == Some(dir) || to.parent() == Some(dir),
        }
    }

    fn apply(&self, tree: &mut BTreeMap<PathBuf, Node>) {
        match self {
            NameChange::Put(path, node) => {
                tree.insert(path.clone(), *node);
            }
            NameChange::Remove(path) => {
                tree.remove(path);
            }
            NameChange::Rename { from, to, node } => {
                tree.remove(from);
                tree.insert(to.clone(), *node);
            }
        }
    }
}

/// The names of a disk. The root is the empty path and always there.
#[derive(Default)]
pub(super) struct Names {
    current: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    pending: Vec<NameChange>,
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no such file or directory: {}", path.display()))
}

impl Names {
    pub(super) fn get(&self, path: &Path) -> Option<Node> {
        if path.as_os_str().is_empty() { Some(Node::Dir) } else { self.current.get(path).copied() }
    }

    pub(super) fn file(&self, path: &Path) -> io::Result<InodeId> {
        match self.get(path) {
            Some(Node::File(inode)) => Ok(inode),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(not_found(path)),
        }
    }

    pub(super) fn create_file(&mut self, path: &Path, inode: InodeId) -> io::Result<()> {
        self.require_dir(path.parent().unwrap_or(Path::new("")))?;
        self.change(NameChange::Put(path.to_path_buf(), Node::File(inode)));
        Ok(())
    }

    pub(super) fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let mut ancestors: Vec<&Path> = path.ancestors().filter(|p| !p.as_os_str().is_empty()).collect();
        ancestors.reverse();
        for dir in ancestors {
            match self.get(dir) {
                Some(Node::Dir) => {}
                Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None => self.change(NameChange::Put(dir.to_path_buf(), Node::Dir)),
            }
        }
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = Node::File(self.file(from)?);
        self.require_dir(to.parent().unwrap_or(Path::new("")))?;
        if self.get(to) == Some(Node::Dir) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if from != to {
            self.change(NameChange::Rename { from: from.to_path_buf(), to: to.to_path_buf(), node });
        }
        Ok(())
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        self.file(path)?;
        self.change(NameChange::Remove(path.to_path_buf()));
        Ok(())
    }

    pub(super) fn remove_dir_all(&mut self, path: &Path) -> io::Result<()> {
        self.require_dir(path)?;
        let below: Vec<PathBuf> = self.current.keys().filter(|p| p.starts_with(path)).cloned().collect();
        for path in below.into_iter().rev() {
            self.change(NameChange::Remove(path));
        }
        Ok(())
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<(String, Node)>> {
        self.require_dir(path)?;
        let mut found: Vec<(String, Node)> = self
            .current
            .iter()
            .filter(|(p, _)| p.parent() == Some(path))
            .map(|(p, node)| (p.file_name().unwrap_or_default().to_string_lossy().into_owned(), *node))
            .collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }

    pub(super) fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        self.require_dir(path)?;
        let (now, later) =
            std::mem::take(&mut self.pending).into_iter().partition(|change| change.touches(path));
        self.pending = later;
        let now: Vec<NameChange> = now;
        for change in now {
            change.apply(&mut self.durable);
        }
        Ok(())
    }

    /// Keeps what a power loss leaves: everything synced, and any of the other changes.
    pub(super) fn crash(&mut self, rng: &mut StdRng) {
        for change in std::mem::take(&mut self.pending) {
            if rng.random() {
                change.apply(&mut self.durable);
            }
        }
        // A name below a directory that did not survive is gone with it.
        let orphans: Vec<PathBuf> =
            self.durable.keys().filter(|path| !ancestors_exist(&self.durable, path)).cloned().collect();
        for path in orphans {
            self.durable.remove(&path);
        }
        self.current = self.durable.clone();
    }

    /// All files by path, as seen now.
    pub(super) fn files(&self) -> impl Iterator<Item = (&PathBuf, InodeId)> {
        self.current.iter().filter_map(|(path, node)| match node {
            Node::File(inode) => Some((path, *inode)),
            Node::Dir => None,
        })
    }

    /// Inodes that a name leads to now.
    pub(super) fn linked(&self) -> BTreeSet<InodeId> {
        self.files().map(|(_, inode)| inode).collect()
    }

    /// Inodes that a name leads to now or might lead to after a crash.
    pub(super) fn reachable(&self) -> BTreeSet<InodeId> {
        let mut inodes = self.linked();
        inodes.extend(self.durable.values().filter_map(|node| match node {
            Node::File(inode) => Some(*inode),
            Node::Dir => None,
        }));
        for change in &self.pending {
            if let NameChange::Put(_, Node::File(inode))
            | NameChange::Rename { node: Node::File(inode), .. } = change
            {
                inodes.insert(*inode);
            }
        }
        inodes
    }

    fn require_dir(&self, path: &Path) -> io::Result<()> {
        match self.get(path) {
            Some(Node::Dir) => Ok(()),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(not_found(path)),
        }
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.current);
        self.pending.push(change);
    }
}

fn ancestors_exist(tree: &BTreeMap<PathBuf, Node>, path: &Path) -> bool {
    path.ancestors().skip(1).all(|dir| dir.as_os_str().is_empty() || tree.get(dir) == Some(&Node::Dir))
}
