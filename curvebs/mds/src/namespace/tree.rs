//! Finding what a path names.

use curve_proto::MdsError;
use curve_proto::pb::mds as pb;
use curve_proto::pb::mds_state::entry_row::Names;
use curve_proto::pb::mds_state::{ClusterRow, EntryRow, VolumeRow};

use crate::keys;
use crate::namespace::path::NamePath;
use crate::rows::{Refusal, Rows, get};

/// What a path names.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Named {
    /// A directory and its id.
    Directory(u64),
    /// A volume.
    Volume(VolumeRow),
}

/// What a name in a directory stands for.
pub(crate) fn lookup(rows: &(impl Rows + ?Sized), parent: u64, name: &str) -> Result<Option<Names>, Refusal> {
    Ok(get::<EntryRow>(rows, &keys::entry(parent, name.as_bytes()))?.and_then(|row| row.names))
}

/// The ids of the directories along a path, from the root to the path itself, which must be a directory.
pub(crate) fn directories(rows: &(impl Rows + ?Sized), path: &NamePath<'_>) -> Result<Vec<u64>, Refusal> {
    let mut ids = vec![keys::ROOT];
    for (i, name) in path.names().iter().enumerate() {
        match lookup(rows, ids[i], name)? {
            Some(Names::Directory(id)) => ids.push(id),
            Some(Names::Volume(_)) => return Err(MdsError::NotDirectory { path: path.prefix(i + 1) }.into()),
            None => return Err(MdsError::NotFound { what: path.prefix(i + 1) }.into()),
        }
    }
    Ok(ids)
}

/// The id of a directory.
pub(crate) fn directory(rows: &(impl Rows + ?Sized), path: &NamePath<'_>) -> Result<u64, Refusal> {
    Ok(*directories(rows, path)?.last().expect("the root is always there"))
}

/// What a path names.
pub(crate) fn resolve(rows: &(impl Rows + ?Sized), path: &NamePath<'_>) -> Result<Named, Refusal> {
    let Some((above, name)) = path.split() else {
        return Ok(Named::Directory(keys::ROOT));
    };
    match lookup(rows, directory(rows, &above)?, name)? {
        Some(Names::Directory(id)) => Ok(Named::Directory(id)),
        Some(Names::Volume(id)) => Ok(Named::Volume(volume(rows, id)?)),
        None => Err(MdsError::NotFound { what: path.text() }.into()),
    }
}

/// The volume at a path.
pub(crate) fn volume_at(rows: &(impl Rows + ?Sized), path: &NamePath<'_>) -> Result<VolumeRow, Refusal> {
    match resolve(rows, path)? {
        Named::Volume(volume) => Ok(volume),
        Named::Directory(_) => Err(MdsError::IsDirectory { path: path.text() }.into()),
    }
}

/// A volume by its id.
pub(crate) fn volume(rows: &(impl Rows + ?Sized), id: u64) -> Result<VolumeRow, Refusal> {
    get(rows, &keys::volume(id))?.ok_or_else(|| MdsError::NotFound { what: format!("volume {id}") }.into())
}

/// The last name of a volume, for messages that have only its id.
pub(crate) fn path_of(volume: &VolumeRow) -> String {
    format!("volume {} (…/{})", volume.id, String::from_utf8_lossy(&volume.name))
}

/// A volume as clients see it.
pub(crate) fn volume_message(cluster: &ClusterRow, volume: &VolumeRow) -> pb::Volume {
    pb::Volume {
        id: volume.id,
        size: volume.size,
        epoch: volume.epoch,
        created_at_ms: volume.created_at_ms,
        block_bytes: cluster.block_bytes,
        chunk_bytes: cluster.chunk_bytes,
        segment_bytes: cluster.segment_bytes,
        segments_allocated: volume.segments_allocated,
    }
}
