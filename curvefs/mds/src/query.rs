//! Rows that requests ask for.

use curve_kv::KvError;
use curve_proto::MdsError;
use curve_proto::pb::fs::{FsMountKey, FsName};
use curve_proto::pb::mds_state::{FsIdRow, FsMetaserverRow, FsMountRow, FsPartitionRow, FsSystemRow};
use curve_rows::{Rows, all, get};

use crate::keys;
use crate::refusal::Refusal;

/// The refusal for a file system that is not there.
pub fn no_file_system(name: &str) -> MdsError {
    MdsError::NotFound { what: format!("file system {name}") }
}

/// The file system that a request names.
pub fn file_system(rows: &(impl Rows + ?Sized), name: &FsName) -> Result<FsSystemRow, Refusal> {
    let row = match name.id {
        0 => by_name(rows, &name.name)?,
        id => get(rows, &keys::system(id))?,
    };
    let said = || if name.id == 0 { name.name.clone() } else { name.id.to_string() };
    row.ok_or_else(|| no_file_system(&said()).into())
}

/// The file system of a name.
pub fn by_name(rows: &(impl Rows + ?Sized), name: &str) -> Result<Option<FsSystemRow>, KvError> {
    match get::<FsIdRow>(rows, &keys::name(name))? {
        Some(row) => get(rows, &keys::system(row.id as u32)),
        None => Ok(None),
    }
}

/// The partitions of a file system, in order of id.
pub fn partitions_of(rows: &(impl Rows + ?Sized), fs: u32) -> Result<Vec<FsPartitionRow>, KvError> {
    all(rows, &keys::partitions_of(fs))
}

/// The mounts of a file system.
pub fn mounts_of(rows: &(impl Rows + ?Sized), fs: u32) -> Result<Vec<FsMountRow>, KvError> {
    all(rows, &keys::mounts_of(fs))
}

/// A metaserver.
pub fn metaserver(rows: &(impl Rows + ?Sized), node: u64) -> Result<Option<FsMetaserverRow>, KvError> {
    get(rows, &keys::metaserver(node))
}

/// The refusal for a mount that is over.
pub fn mount_over(id: u64) -> MdsError {
    MdsError::NotHeld { what: format!("mount-{id:x}") }
}

/// The mount of a key, if it goes on.
pub fn active_mount(rows: &(impl Rows + ?Sized), key: &FsMountKey) -> Result<FsMountRow, Refusal> {
    let row: Option<FsMountRow> = get(rows, &keys::mount(key.fs, key.mount))?;
    row.filter(|row| !row.ending && row.epoch == key.epoch).ok_or_else(|| mount_over(key.mount).into())
}

/// A mount by its id alone.
pub fn mount_by_id(rows: &(impl Rows + ?Sized), id: u64) -> Result<FsMountRow, Refusal> {
    let found = all::<FsMountRow>(rows, &keys::mounts())?.into_iter().find(|row| row.id == id);
    found.ok_or_else(|| MdsError::NotFound { what: format!("mount-{id:x}") }.into())
}

/// The key of a mount as it is now.
pub fn key_of(row: &FsMountRow) -> FsMountKey {
    FsMountKey { fs: row.fs, mount: row.id, epoch: row.epoch }
}
