//! File systems as they are applied.

use std::collections::BTreeSet;
use std::time::Duration;

use curve_kv::Txn;
use curve_proto::MdsError;
use curve_proto::pb::fs::fs_response::Result as Answer;
use curve_proto::pb::fs::{FsCreate, FsName, S3Backend};
use curve_proto::pb::mds_state::{
    FsCountersRow, FsDoom, FsForget, FsIdRow, FsMake, FsMountRow, FsSealKeys, FsSystemRow,
};
use curve_rows::{Rows, get, put, scan};

use crate::apply::{Ids, done};
use crate::query::{by_name, file_system, mounts_of};
use crate::refusal::Refusal;
use crate::{keys, mounts, partitions};

const NAME_BYTES_MAX: usize = 63;
const BUCKETS_MAX: usize = 16;
const TEXT_BYTES_MAX: usize = 1024;
/// Objects are whole blocks of checksums, and fit into one.
const OBJECT_BLOCK: u32 = 64 << 10;
const OBJECT_BYTES_MAX: u32 = 4 << 20;
/// When to ask again after another file system got the id.
const RETRY: Duration = Duration::from_millis(10);
/// Mounts that a refusal names.
const NAMED_MAX: usize = 4;

/// Checks what a file system is to be made of, and fills in what was left to us.
pub fn check_create(mut op: FsCreate) -> Result<FsCreate, MdsError> {
    check_name(&op.name)?;
    let bad = |why: &str| Err(MdsError::BadRequest { why: why.to_owned() });
    let Some(s3) = &mut op.s3 else { return bad("a file system needs a data store") };
    if !s3.endpoint.starts_with("http://") && !s3.endpoint.starts_with("https://")
        || s3.endpoint.len() > TEXT_BYTES_MAX
    {
        return bad("the endpoint of a store is http://HOST:PORT or https://HOST");
    }
    let distinct: BTreeSet<&String> = s3.buckets.iter().collect();
    if !(1..=BUCKETS_MAX).contains(&s3.buckets.len())
        || distinct.len() != s3.buckets.len()
        || s3.buckets.iter().any(|bucket| bucket.is_empty() || bucket.len() > TEXT_BYTES_MAX)
    {
        return bad("a file system has 1 to 16 different buckets");
    }
    check_keys(&s3.access_key, &s3.secret_key)?;
    if s3.object_bytes == 0 {
        s3.object_bytes = OBJECT_BYTES_MAX;
    }
    if s3.object_bytes % OBJECT_BLOCK != 0 || s3.object_bytes > OBJECT_BYTES_MAX {
        return bad("objects have a multiple of 64KiB, up to 4MiB");
    }
    if s3.region.is_empty() {
        s3.region = "us-east-1".to_owned();
    }
    if op.root_mode == 0 {
        op.root_mode = 0o755;
    }
    if op.root_mode > 0o7777 {
        return bad("permission bits are at most 7777");
    }
    Ok(op)
}

/// Checks an access key and its secret.
pub fn check_keys(access_key: &str, secret_key: &[u8]) -> Result<(), MdsError> {
    let fits = |len: usize| (1..=TEXT_BYTES_MAX).contains(&len);
    if fits(access_key.len()) && fits(secret_key.len()) && std::str::from_utf8(secret_key).is_ok() {
        Ok(())
    } else {
        Err(MdsError::BadRequest { why: "an access key and a secret key are needed".into() })
    }
}

fn check_name(name: &str) -> Result<(), MdsError> {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let valid = name.len() <= NAME_BYTES_MAX
        && name.bytes().next().is_some_and(letter)
        && name.bytes().all(|byte| letter(byte) || byte == b'-' || byte == b'_');
    let why =
        "the name of a file system has 1 to 63 of a-z, 0-9, - and _, and begins with a letter or a digit";
    let said: String = name.chars().take(80).collect();
    if valid { Ok(()) } else { Err(MdsError::BadName { name: said, why: why.into() }) }
}

/// The next ids. Those of file systems do not begin with 1: objects are named by them, and two clusters may use one bucket,
/// so each cluster has a range of its own.
pub(crate) fn counters(rows: &(impl Rows + ?Sized), cluster: u64) -> Result<FsCountersRow, Refusal> {
    let first = || {
        let mixed = (cluster ^ cluster >> 32).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
        FsCountersRow { next_fs: (mixed as u32).max(1), next_partition: 1, next_mount: 1, next_writer: 1 }
    };
    Ok(get(rows, &keys::counters())?.unwrap_or_else(first))
}

/// The id that the next file system gets.
pub fn next_id(rows: &(impl Rows + ?Sized), cluster: u64) -> Result<u32, Refusal> {
    Ok(counters(rows, cluster)?.next_fs)
}

fn next<T>(counter: &mut T, plus_one: impl FnOnce(T) -> Option<T>) -> Result<T, Refusal>
where
    T: Copy,
{
    let id = *counter;
    let over = || MdsError::Conflict { why: "the ids of this cluster are used up".into() };
    *counter = plus_one(id).ok_or_else(over)?;
    Ok(id)
}

/// A number that is given out once.
pub(crate) fn next_u64(counter: &mut u64) -> Result<u64, Refusal> {
    next(counter, |id| id.checked_add(1))
}

/// A number that is given out once.
pub(crate) fn next_u32(counter: &mut u32) -> Result<u32, Refusal> {
    next(counter, |id| id.checked_add(1))
}

/// Makes a file system and its partitions; metaservers are told by the answers to their heartbeats. The same caller may ask
/// again.
pub(crate) fn make(txn: &mut Txn<'_>, now_ms: u64, ids: &Ids, op: &FsMake) -> Result<Answer, Refusal> {
    if let Some(row) = by_name(txn, &op.name)? {
        return match row {
            row if row.deleting => {
                let why = format!(
                    "file system {} is being deleted; its name is free after that, and `curve fs rm {}` goes on with it",
                    op.name, op.name
                );
                Err(MdsError::Conflict { why }.into())
            }
            row if row.creator == op.creator && op.creator != 0 => Ok(done()),
            _ => Err(MdsError::Exists { path: format!("file system {}", op.name) }.into()),
        };
    }
    let mut counters = counters(txn, ids.cluster)?;
    let id = next_u32(&mut counters.next_fs)?;
    if op.id != id {
        // The secret is sealed for another id.
        let why = "another file system was made at the same moment".to_owned();
        return Err(MdsError::InProgress { why, retry_after: RETRY }.into());
    }
    let s3 = op.s3.clone().map(|s3| S3Backend { secret_key: Default::default(), ..s3 });
    let row = FsSystemRow {
        id,
        name: op.name.clone(),
        s3,
        sealed: op.sealed.clone(),
        created_at_ms: now_ms,
        version: 1,
        map_version: 1,
        deleting: false,
        root_uid: op.root_uid,
        root_gid: op.root_gid,
        root_mode: op.root_mode,
        creator: op.creator,
        until_purged: false,
    };
    partitions::make(txn, now_ms, &row, &mut counters, &op.partitions)?;
    put(txn, keys::system(id), &row);
    put(txn, keys::name(&op.name), &FsIdRow { id: id.into() });
    put(txn, keys::counters(), &counters);
    Ok(done())
}

/// Begins to delete a file system that nobody has mounted.
pub(crate) fn doom(txn: &mut Txn<'_>, op: &FsDoom) -> Result<Answer, Refusal> {
    let mut row = file_system(txn, &FsName { name: op.name.clone(), ..FsName::default() })?;
    if row.deleting {
        // Whoever deleted its objects may have died: another says what is to become of them.
        row.until_purged = op.until_purged;
        put(txn, keys::system(row.id), &row);
        return Ok(done());
    }
    let mut active = Vec::new();
    for mut mount in mounts_of(txn, row.id)? {
        if !mount.ending && op.lapsed.contains(&mount.id) {
            mounts::end(txn, &mut mount);
        }
        if !mount.ending {
            active.push(mount);
        }
    }
    if !active.is_empty() {
        return Err(MdsError::StillMounted { name: row.name, by: named(&active) }.into());
    }
    row.deleting = true;
    row.until_purged = op.until_purged;
    row.version += 1;
    put(txn, keys::system(row.id), &row);
    Ok(done())
}

fn named(mounts: &[FsMountRow]) -> String {
    let each = |row: &FsMountRow| {
        format!("mount-{:x} at {} on {} (process {})", row.id, row.directory, row.host, row.process)
    };
    let mut text = mounts.iter().take(NAMED_MAX).map(each).collect::<Vec<_>>().join(", ");
    if mounts.len() > NAMED_MAX {
        text.push_str(&format!(" and {} more", mounts.len() - NAMED_MAX));
    }
    text
}

/// Removes the rows of a file system of which no metaserver has anything any more.
pub(crate) fn forget(txn: &mut Txn<'_>, op: &FsForget) -> Result<Answer, Refusal> {
    let Some(row) = get::<FsSystemRow>(txn, &keys::system(op.fs))? else { return Ok(done()) };
    if !row.deleting {
        return Err(
            MdsError::Conflict { why: format!("file system {} is not being deleted", row.name) }.into()
        );
    }
    for mount in mounts_of(txn, row.id)? {
        mounts::remove(txn, &mount);
    }
    for (key, _) in
        scan::<curve_proto::pb::mds_state::FsPartitionRow>(txn, &keys::partitions_of(row.id), usize::MAX)?
    {
        txn.delete(key);
    }
    txn.delete(keys::name(&row.name));
    txn.delete(keys::system(row.id));
    Ok(done())
}

/// Replaces the store's keys.
pub(crate) fn seal_keys(txn: &mut Txn<'_>, op: &FsSealKeys) -> Result<Answer, Refusal> {
    let mut row = file_system(txn, &FsName { id: op.fs, ..FsName::default() })?;
    let mut s3 = row.s3.take().unwrap_or_default();
    s3.access_key.clone_from(&op.access_key);
    row.s3 = Some(s3);
    row.sealed.clone_from(&op.sealed);
    row.version += 1;
    put(txn, keys::system(row.id), &row);
    Ok(done())
}

/// The partitions of a file system, or where they are, have changed.
pub(crate) fn map_changed(txn: &mut Txn<'_>, fs: u32) -> Result<(), Refusal> {
    if let Some(mut row) = get::<FsSystemRow>(txn, &keys::system(fs))? {
        row.map_version += 1;
        put(txn, keys::system(fs), &row);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(name: &str, change: impl FnOnce(&mut S3Backend)) -> Result<FsCreate, MdsError> {
        let mut s3 = S3Backend {
            endpoint: "http://h:1".into(),
            buckets: vec!["a".into(), "b".into()],
            access_key: "k".into(),
            secret_key: "s".into(),
            ..S3Backend::default()
        };
        change(&mut s3);
        check_create(FsCreate { name: name.into(), s3: Some(s3), ..FsCreate::default() })
    }

    #[test]
    fn what_cannot_be_a_file_system_is_refused() {
        let made = create("demo-1_x", |_| ()).unwrap();
        let s3 = made.s3.unwrap();
        assert_eq!((s3.object_bytes, s3.region.as_str(), made.root_mode), (4 << 20, "us-east-1", 0o755));
        for name in ["", "-a", "A", "a/b", "ä", "a b", &"x".repeat(64)] {
            assert!(matches!(create(name, |_| ()), Err(MdsError::BadName { .. })), "{name}");
        }
        let changes: [fn(&mut S3Backend); 8] = [
            |s3| s3.endpoint = "h:1".into(),
            |s3| s3.buckets.clear(),
            |s3| s3.buckets.push("a".into()),
            |s3| s3.buckets.push(String::new()),
            |s3| s3.access_key.clear(),
            |s3| s3.secret_key = Default::default(),
            |s3| s3.object_bytes = 1000,
            |s3| s3.object_bytes = 8 << 20,
        ];
        for (at, change) in changes.into_iter().enumerate() {
            assert!(matches!(create("a", change), Err(MdsError::BadRequest { .. })), "change {at}");
        }
    }
}
