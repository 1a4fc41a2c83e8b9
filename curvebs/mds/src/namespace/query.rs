//! Questions about the namespace.

use curve_proto::mds::Holder;
use curve_proto::pb::mds as pb;
use curve_proto::pb::mds_state::EntryRow;
use curve_proto::pb::mds_state::entry_row::Names;

use crate::keys;
use crate::namespace::path::NamePath;
use crate::namespace::tree::{Named, resolve, volume, volume_message};
use crate::rows::{Refusal, Rows, cluster, scan};

const PAGE_MAX: u32 = 10_000;

/// Tells who has a volume open.
pub(crate) type Holders<'a> = &'a dyn Fn(u64) -> Result<Vec<Holder>, Refusal>;

/// What a path names.
pub(crate) fn stat(
    rows: &(impl Rows + ?Sized),
    path: &str,
    holders: Holders<'_>,
) -> Result<pb::Entry, Refusal> {
    let path = NamePath::parse(path)?;
    let name = path.names().last().map(|&name| name.to_owned()).unwrap_or_default();
    match resolve(rows, &path)? {
        Named::Directory(_) => Ok(pb::Entry { name, ..pb::Entry::default() }),
        Named::Volume(volume) => {
            let holders = holders(volume.id)?.into_iter().map(Into::into).collect();
            Ok(pb::Entry { name, volume: Some(volume_message(&cluster(rows)?, &volume)), holders })
        }
    }
}

/// A page of a directory; a volume lists itself.
pub(crate) fn list(
    rows: &(impl Rows + ?Sized),
    op: &pb::List,
    holders: Holders<'_>,
) -> Result<pb::Entries, Refusal> {
    let path = NamePath::parse(&op.path)?;
    let Named::Directory(id) = resolve(rows, &path)? else {
        let entries = if op.after.is_empty() { vec![stat(rows, &op.path, holders)?] } else { Vec::new() };
        return Ok(pb::Entries { entries, more: false });
    };
    let cluster = cluster(rows)?;
    let limit = op.limit.clamp(1, PAGE_MAX) as usize;
    let mut range = keys::entries(id);
    if !op.after.is_empty() {
        range = range.after(&keys::entry(id, op.after.as_bytes()));
    }
    let mut found = scan::<EntryRow>(rows, &range, limit + 1)?;
    let more = found.len() > limit;
    found.truncate(limit);
    let mut entries = Vec::with_capacity(found.len());
    for (key, row) in found {
        let mut entry = pb::Entry {
            name: String::from_utf8_lossy(&keys::entry_name(&key)).into(),
            ..pb::Entry::default()
        };
        if let Some(Names::Volume(id)) = row.names {
            entry.volume = Some(volume_message(&cluster, &volume(rows, id)?));
            entry.holders = holders(id)?.into_iter().map(Into::into).collect();
        }
        entries.push(entry);
    }
    Ok(pb::Entries { entries, more })
}

/// Sums over a tree.
pub(crate) fn disk_usage(rows: &(impl Rows + ?Sized), path: &str) -> Result<pb::DiskUsage, Refusal> {
    let path = NamePath::parse(path)?;
    let segment_bytes = cluster(rows)?.segment_bytes;
    let mut sums = pb::DiskUsage::default();
    let mut pending = vec![resolve(rows, &path)?];
    while let Some(named) = pending.pop() {
        match named {
            Named::Volume(volume) => {
                sums.volumes += 1;
                sums.size += volume.size;
                sums.allocated += u64::from(volume.segments_allocated) * segment_bytes;
            }
            Named::Directory(id) => {
                sums.directories += 1;
                for (_, row) in scan::<EntryRow>(rows, &keys::entries(id), usize::MAX)? {
                    match row.names {
                        Some(Names::Directory(id)) => pending.push(Named::Directory(id)),
                        Some(Names::Volume(id)) => pending.push(Named::Volume(volume(rows, id)?)),
                        None => {}
                    }
                }
            }
        }
    }
    Ok(sums)
}
