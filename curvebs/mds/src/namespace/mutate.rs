//! Changes of the namespace, as they are applied.

use curve_kv::Txn;
use curve_proto::MdsError;
use curve_proto::pb::mds as pb;
use curve_proto::pb::mds::mds_response::Result as Answer;
use curve_proto::pb::mds_state as state;
use curve_proto::pb::mds_state::entry_row::Names;
use curve_proto::pb::mds_state::{EntryRow, VolumeRow};
use curve_types::{ByteSize, VOLUME_BYTES_MAX, VOLUME_BYTES_UNIT};

use crate::iscsi;
use crate::keys;
use crate::lease;
use crate::namespace::path::NamePath;
use crate::namespace::tree::{Named, directories, directory, lookup, resolve, volume_at, volume_message};
use crate::placement;
use crate::rows::{Refusal, cluster, put, scan};

fn check_size(size: u64) -> Result<(), MdsError> {
    let refuse = |why: String| Err(MdsError::BadSize { why });
    if size == 0 || !size.is_multiple_of(VOLUME_BYTES_UNIT) {
        return refuse(format!("{} is not a multiple of {}", ByteSize(size), ByteSize(VOLUME_BYTES_UNIT)));
    }
    if size > VOLUME_BYTES_MAX {
        return refuse(format!("{} is more than {}", ByteSize(size), ByteSize(VOLUME_BYTES_MAX)));
    }
    Ok(())
}

fn put_entry(txn: &mut Txn<'_>, parent: u64, name: &str, names: Names) {
    put(txn, keys::entry(parent, name.as_bytes()), &EntryRow { names: Some(names) });
}

/// The parent's id and the last name of a path whose name is free.
fn free_name<'a>(txn: &Txn<'_>, path: &NamePath<'a>) -> Result<(u64, &'a str), Refusal> {
    let Some((above, name)) = path.split() else {
        return Err(MdsError::Exists { path: path.text() }.into());
    };
    let parent = directory(txn, &above)?;
    if lookup(txn, parent, name)?.is_some() {
        return Err(MdsError::Exists { path: path.text() }.into());
    }
    Ok((parent, name))
}

/// Creates a volume.
pub(crate) fn create_volume(
    txn: &mut Txn<'_>,
    now_ms: u64,
    op: &pb::CreateVolume,
) -> Result<Answer, Refusal> {
    let path = NamePath::parse(&op.path)?;
    check_size(op.size)?;
    let (parent, name) = free_name(txn, &path)?;
    let mut cluster = cluster(txn)?;
    let volume = VolumeRow {
        id: cluster.next_volume,
        size: op.size,
        epoch: 1,
        fenced_epoch: 1,
        created_at_ms: now_ms,
        segments_allocated: 0,
        stray_writer: false,
        parent,
        name: name.as_bytes().to_vec().into(),
    };
    cluster.next_volume += 1;
    put(txn, keys::cluster(), &cluster);
    put(txn, keys::volume(volume.id), &volume);
    put_entry(txn, parent, name, Names::Volume(volume.id));
    let volume = Some(volume_message(&cluster, &volume));
    Ok(Answer::Created(pb::Created { volume, warning: String::new() }))
}

/// Makes a directory, and those above it when asked to.
pub(crate) fn make_directory(txn: &mut Txn<'_>, op: &pb::MakeDirectory) -> Result<Answer, Refusal> {
    let path = NamePath::parse(&op.path)?;
    if !op.parents {
        let (parent, name) = free_name(txn, &path)?;
        add_directory(txn, parent, name)?;
        return Ok(Answer::Done(pb::Empty {}));
    }
    let mut parent = keys::ROOT;
    for (i, name) in path.names().iter().enumerate() {
        parent = match lookup(txn, parent, name)? {
            Some(Names::Directory(id)) => id,
            Some(Names::Volume(_)) => return Err(MdsError::NotDirectory { path: path.prefix(i + 1) }.into()),
            None => add_directory(txn, parent, name)?,
        };
    }
    Ok(Answer::Done(pb::Empty {}))
}

fn add_directory(txn: &mut Txn<'_>, parent: u64, name: &str) -> Result<u64, Refusal> {
    let mut cluster = cluster(txn)?;
    let id = cluster.next_directory;
    cluster.next_directory += 1;
    put(txn, keys::cluster(), &cluster);
    put_entry(txn, parent, name, Names::Directory(id));
    Ok(id)
}

/// Deletes an empty directory, or a volume that nobody has open. The volume's name goes at once; its data is removed
/// from the copysets in the background.
pub(crate) fn delete(txn: &mut Txn<'_>, now_ms: u64, op: &state::Delete) -> Result<Answer, Refusal> {
    let path = NamePath::parse(&op.path)?;
    let Some((above, name)) = path.split() else {
        return Err(MdsError::Conflict { why: "the root directory cannot be deleted".into() }.into());
    };
    let parent = directory(txn, &above)?;
    match resolve(txn, &path)? {
        Named::Directory(id) => {
            if !scan::<EntryRow>(txn, &keys::entries(id), 1)?.is_empty() {
                return Err(MdsError::NotEmpty { path: path.text() }.into());
            }
        }
        Named::Volume(volume) => {
            iscsi::discard_volume(txn, volume.id, &path.text())?;
            lease::end_for_delete(txn, &volume, &path.text(), &op.lapsed)?;
            placement::discard_volume(txn, &volume, now_ms)?;
            txn.delete(keys::volume(volume.id));
        }
    }
    txn.delete(keys::entry(parent, name.as_bytes()));
    Ok(Answer::Done(pb::Empty {}))
}

/// Gives a volume or a directory another name, which must be free.
pub(crate) fn rename(txn: &mut Txn<'_>, op: &pb::Rename) -> Result<Answer, Refusal> {
    let from = NamePath::parse(&op.from)?;
    let to = NamePath::parse(&op.to)?;
    let Some((from_above, from_name)) = from.split() else {
        return Err(MdsError::Conflict { why: "the root directory cannot be renamed".into() }.into());
    };
    let from_parent = directory(txn, &from_above)?;
    let named = resolve(txn, &from)?;
    if let (Named::Directory(id), Some((to_above, _))) = (&named, to.split())
        && directories(txn, &to_above)?.contains(id)
    {
        let why = format!("{} cannot be moved into itself", from.text());
        return Err(MdsError::Conflict { why }.into());
    }
    let (to_parent, to_name) = free_name(txn, &to)?;
    let names = match named {
        Named::Directory(id) => Names::Directory(id),
        Named::Volume(mut volume) => {
            volume.parent = to_parent;
            volume.name = to_name.as_bytes().to_vec().into();
            put(txn, keys::volume(volume.id), &volume);
            iscsi::rename_volume(txn, volume.id, &to.text())?;
            Names::Volume(volume.id)
        }
    };
    txn.delete(keys::entry(from_parent, from_name.as_bytes()));
    put_entry(txn, to_parent, to_name, names);
    Ok(Answer::Done(pb::Empty {}))
}

/// Grows a volume. Asking for the size that it has is no error.
pub(crate) fn resize(txn: &mut Txn<'_>, op: &pb::Resize) -> Result<Answer, Refusal> {
    let path = NamePath::parse(&op.path)?;
    check_size(op.size)?;
    let mut volume = volume_at(txn, &path)?;
    if op.size < volume.size {
        let why = format!(
            "{} has {} and cannot shrink to {}: what is stored above would be lost",
            path.text(),
            ByteSize(volume.size),
            ByteSize(op.size)
        );
        return Err(MdsError::BadSize { why }.into());
    }
    volume.size = op.size;
    put(txn, keys::volume(volume.id), &volume);
    Ok(Answer::Volume(volume_message(&cluster(txn)?, &volume)))
}
